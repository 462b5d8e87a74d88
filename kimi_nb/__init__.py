"""kimi-nb: from "can my machine run Kimi K2.5?" to a served model with tool calls.

The package is a set of small subpackages that data flows through one way: ``model`` and ``machine`` describe,
``plan`` decides, ``engine`` builds, fetches and serves, ``chat`` talks, ``run`` executes notebooks and
records what happened. Importing this module loads none of them, so that ``import kimi_nb`` stays cheap.
"""

from kimi_nb.errors import KimiNbError, UsageError

__all__ = ["KimiNbError", "UsageError", "__version__"]

__version__ = "0.1.0"
