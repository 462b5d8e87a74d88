"""kimi-nb: from "can my machine run Kimi K2.5?" to a served model with tool calls.

The package is a set of small subpackages that data flows through one way: ``model`` and ``machine`` describe,
``plan`` decides, ``engine`` builds, fetches and serves, ``chat`` talks, ``run`` executes notebooks and
records what happened. Importing this module loads none of them, so that ``import kimi_nb`` stays cheap.
"""

TYPE_CHECKING = (
    False  # type checkers take it for true; loading typing would take longer than all that is here
)
if TYPE_CHECKING:
    from kimi_nb.errors import KimiNbError, UsageError

__all__ = ["KimiNbError", "UsageError", "__version__"]

__version__ = "0.1.0"


def __getattr__(name: str) -> object:
    if name in __all__:
        from kimi_nb import errors

        return getattr(errors, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
