"""What a model is: its header, the catalogue of known ones, and Kimi's tool declarations."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kimi_nb.model.catalog import CatalogModel, Quant, catalog
    from kimi_nb.model.gguf_header import read_header
    from kimi_nb.model.gguf_hub import read_remote_header
    from kimi_nb.model.gguf_model import Model, Shard
    from kimi_nb.model.gguf_tensors import TensorInfo
    from kimi_nb.model.tools_ts import encode_tools

__all__ = [
    "CatalogModel",
    "Model",
    "Quant",
    "Shard",
    "TensorInfo",
    "catalog",
    "encode_tools",
    "read_header",
    "read_remote_header",
]

_HOMES = {
    "CatalogModel": "kimi_nb.model.catalog",
    "Model": "kimi_nb.model.gguf_model",
    "Quant": "kimi_nb.model.catalog",
    "Shard": "kimi_nb.model.gguf_model",
    "TensorInfo": "kimi_nb.model.gguf_tensors",
    "encode_tools": "kimi_nb.model.tools_ts",
    "read_header": "kimi_nb.model.gguf_header",
    "read_remote_header": "kimi_nb.model.gguf_hub",
}


def __getattr__(name: str) -> Any:
    # Nothing is imported before it is used, so that `import kimi_nb.model` costs nothing.
    home = _HOMES.get(name)
    if home is None:
        msg = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(msg)
    return getattr(import_module(home), name)
