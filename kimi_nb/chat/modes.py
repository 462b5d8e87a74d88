"""Kimi's two modes: what a request must carry for an engine to think, or not to, and to sample as it should.

The three engines differ quietly. llama-server and vLLM render the model's own chat template, which looks at
``thinking``; llama-server ignores ``enable_thinking``, ``--reasoning off`` and ``reasoning_effort`` for Kimi
without a word, and the model goes on thinking. Moonshot's API has a field of its own and refuses any
temperature but its own. The catalog holds all that as data; here it is only looked up.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from kimi_nb.engine import Engine
    from kimi_nb.model import CatalogModel

__all__ = ["Mode", "known_model", "mode_fields", "resolve_mode"]

Mode = Literal["thinking", "instant"]

_TYPICAL = "kimi-k2.5"


def known_model(name: str) -> CatalogModel:
    """Return the catalog's entry for a model name, which may also be a repository's, a file's or an alias.

    A name that says nothing is taken for Kimi K2.5's.
    """
    from kimi_nb.model import catalog

    plain = name.rpartition("/")[2].lower()
    models = catalog().models
    fitting = [key for key in models if plain.startswith(key)]
    return models[max(fitting, key=len, default=_TYPICAL)]


def resolve_mode(engine: Engine, mode: Mode | None) -> Mode:
    """Return ``mode``, or the mode the engine's model is meant for first when none is asked for.

    Raises:
        UsageError: The model does not have it (KNB392).
    """
    model = known_model(engine.model)
    return model.modes[0].name if mode is None else model.mode(mode).name


def mode_fields(
    engine: Engine, mode: Mode, *, temperature: float | None, top_p: float | None
) -> dict[str, Any]:
    """Return the request fields that put ``engine`` into ``mode``, with the sampling that belongs to it.

    Args:
        engine: Who is asked.
        mode: A mode the model has.
        temperature: Instead of the mode's own. Moonshot's API gets a temperature only when one is given here.
        top_p: Instead of the mode's own, likewise.

    Raises:
        UsageError: The model is not to be had on such an engine (KNB394).
    """
    given = {"temperature": temperature, "top_p": top_p}
    fields = known_model(engine.model).mode(mode).request_fields(engine.kind)
    return fields | {name: value for name, value in given.items() if value is not None}
