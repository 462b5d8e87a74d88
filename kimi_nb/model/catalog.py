"""The known models: what each is, how it is switched and sampled, and which quants of it can be had.

The facts are data, in ``catalog_data/*.toml``; each figure there says where it comes from and whether it is
exact. What is not known is ``None``. Sizes are bytes, and GB are 10^9 of them, as download pages count.
"""

from __future__ import annotations

import sys
import tomllib
from functools import cache
from importlib.resources import files
from types import ModuleType
from typing import Any

from kimi_nb.model.catalog_records import (
    Architecture,
    Catalog,
    CatalogModel,
    Hub,
    Licence,
    Mmproj,
    Mode,
    NativeWeights,
    Parameters,
    Publisher,
    Quant,
    Sampling,
    Switch,
    Vllm,
)
from kimi_nb.records import RecordError, from_plain

__all__ = [
    "Architecture",
    "Catalog",
    "CatalogModel",
    "Hub",
    "Licence",
    "Mmproj",
    "Mode",
    "NativeWeights",
    "Parameters",
    "Publisher",
    "Quant",
    "Sampling",
    "Switch",
    "Vllm",
    "catalog",
]


@cache
def catalog() -> Catalog:
    """Return the catalog, read once."""
    read = {}
    for source in files("kimi_nb.model").joinpath("catalog_data").iterdir():
        if source.name.endswith(".toml"):
            entry = tomllib.loads(source.read_text(encoding="utf-8"))
            read[entry["key"]] = entry
    order = sorted(read, key=lambda key: (key == "nano", read[key]["released"]))
    return Catalog({key: _model(read[key], read) for key in order})


def _model(entry: dict[str, Any], others: dict[str, Any]) -> CatalogModel:
    """Make a model of what its file says, filling in what the file says once for many."""
    value = {key: item for key, item in entry.items() if key != "sources"}
    sources = entry.get("sources", {})
    if "architecture" in entry:
        own = dict(entry["architecture"])
        unknown = own.pop("unknown", [])
        base = others[own.pop("same_as")]["architecture"] if "same_as" in own else {}
        value["architecture"] = {key: item for key, item in {**base, **own}.items() if key not in unknown}
    value["publishers"] = [_publisher(publisher, sources) for publisher in entry.get("publishers", [])]
    try:
        return from_plain(CatalogModel, value)
    except RecordError as error:
        raise RecordError(f"{entry['key']}: {error.key}", error.problem) from None


def _publisher(publisher: dict[str, Any], sources: dict[str, str]) -> dict[str, Any]:
    value = {key: item for key, item in publisher.items() if key not in {"folder", "stem"}}
    value["quants"] = [
        {
            **quant,
            "publisher": publisher["name"],
            "repo": publisher["repo"],
            "folder": publisher["folder"].format(quant=quant["name"]),
            "stem": publisher["stem"].format(quant=quant["name"]),
            "source": sources[quant["source"]],
        }
        for quant in publisher["quants"]
    ]
    return value


class _Callable(ModuleType):
    """Makes this module callable, because the package exports a function of the module's own name.

    Whoever imports the submodule first would otherwise leave ``kimi_nb.model.catalog`` naming the module.
    """

    def __call__(self) -> Catalog:
        return catalog()


sys.modules[__name__].__class__ = _Callable
