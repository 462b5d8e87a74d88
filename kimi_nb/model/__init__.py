"""What a model is: its header, the catalog of known ones, and Kimi's tool declarations."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kimi_nb.lazy import lazy_exports

if TYPE_CHECKING:
    from kimi_nb.model.catalog import CatalogModel, Quant, catalog
    from kimi_nb.model.gguf_header import read_header
    from kimi_nb.model.gguf_hub import read_remote_header
    from kimi_nb.model.gguf_model import Model, Shard
    from kimi_nb.model.gguf_tensors import TensorInfo
    from kimi_nb.model.named import named_model
    from kimi_nb.model.tools_ts import encode_tools, in_kimis_order

__all__ = [
    "CatalogModel",
    "Model",
    "Quant",
    "Shard",
    "TensorInfo",
    "catalog",
    "encode_tools",
    "in_kimis_order",
    "named_model",
    "read_header",
    "read_remote_header",
]

__getattr__, __dir__ = lazy_exports(
    __name__,
    {
        "CatalogModel": "catalog",
        "Model": "gguf_model",
        "Quant": "catalog",
        "Shard": "gguf_model",
        "TensorInfo": "gguf_tensors",
        "encode_tools": "tools_ts",
        "in_kimis_order": "tools_ts",
        "named_model": "named",
        "read_header": "gguf_header",
        "read_remote_header": "gguf_hub",
    },
)
