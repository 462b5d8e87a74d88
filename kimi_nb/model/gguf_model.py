"""A model as its header describes it: hyperparameters, tensors, shards."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, NoReturn

from kimi_nb.model.ggml_types import FILE_TYPES
from kimi_nb.model.gguf_faults import fault
from kimi_nb.model.gguf_values import StringArray

if TYPE_CHECKING:
    from collections.abc import Mapping

    from kimi_nb.model.gguf_tensors import TensorInfo
    from kimi_nb.model.gguf_values import Value

__all__ = ["Model", "Shard"]

_SPLIT_TAIL = re.compile(r"(-\d{5}-of-\d{5})?\.gguf$", re.IGNORECASE)
_QUANT = re.compile(
    r"(?:^|[-._])((?:UD-)?(?:I?Q\d\w*|TQ\d_\d\w*|MXFP\d\w*|NVFP\d\w*|BF16|F16|F32))$", re.IGNORECASE
)


@dataclass(frozen=True)
class Shard:
    """One file of a model.

    Attributes:
        name: The file's name, without its folder.
        source: Path or URL it was read from.
        size_bytes: Bytes of the whole file.
        data_offset: Where tensor data starts.
        header: Everything before that, byte for byte.
    """

    name: str
    source: str
    size_bytes: int
    data_offset: int
    header: bytes = field(repr=False)


@dataclass(frozen=True, eq=False)
class Model:
    """What the headers of a GGUF model say, over all its shards.

    Attributes:
        shards: The files, in order; most models on a laptop have one.
        metadata: Key to value, from the first shard; long arrays stay packed until looked at.
        types: Key to llama.cpp's short type name: ``u32``, ``str``, ``arr[str]``.
        tensors: Every tensor, in file order.
        alignment: Bytes that tensor data is aligned to.
    """

    shards: tuple[Shard, ...]
    metadata: Mapping[str, Value] = field(repr=False)
    types: Mapping[str, str] = field(repr=False)
    tensors: tuple[TensorInfo, ...] = field(repr=False)
    alignment: int = 32

    @property
    def source(self) -> str:
        """Path or URL of the first shard."""
        return self.shards[0].source

    @cached_property
    def by_name(self) -> dict[str, TensorInfo]:
        """The tensors by name."""
        return {tensor.name: tensor for tensor in self.tensors}

    @cached_property
    def data_bytes(self) -> int:
        """Bytes of all weights, without padding and headers."""
        return sum(tensor.n_bytes for tensor in self.tensors)

    @property
    def file_bytes(self) -> int:
        """Bytes of all files."""
        return sum(shard.size_bytes for shard in self.shards)

    @cached_property
    def parameters(self) -> int:
        """Number of weights."""
        return sum(tensor.n_elements for tensor in self.tensors)

    @cached_property
    def header_sha256(self) -> str:
        """A hash over every shard's header: the same model gives the same, wherever it lies."""
        digest = hashlib.sha256()
        for shard in self.shards:
            digest.update(hashlib.sha256(shard.header).digest())
        return digest.hexdigest()

    # -- what the file says of itself

    @property
    def architecture(self) -> str:
        """``general.architecture``, for Kimi K2 to K2.7 ``deepseek2``.

        Raises:
            ModelFileError: KNB331, the key is missing.
        """
        value = self.metadata.get("general.architecture")
        if not isinstance(value, str):
            self._lacks("general.architecture")
        return str(value)

    @property
    def name(self) -> str:
        """``general.name``, or the file's name without shard number and ending."""
        value = self.metadata.get("general.name")
        return value if isinstance(value, str) and value else _SPLIT_TAIL.sub("", self.shards[0].name)

    @property
    def quant(self) -> str:
        """The quant's label: from the file name (``UD-TQ1_0``), else ``general.file_type``, else empty."""
        found = _QUANT.search(_SPLIT_TAIL.sub("", self.shards[0].name))
        if found:
            return found[1].upper()
        value = self.metadata.get("general.file_type")
        return FILE_TYPES.get(value, "") if isinstance(value, int) else ""

    @property
    def chat_template(self) -> str | None:
        """The Jinja chat template. It is text from the file: show it, never run it outside a sandbox."""
        value = self.metadata.get("tokenizer.chat_template")
        return value if isinstance(value, str) else None

    @property
    def split_count(self) -> int:
        """Number of shards that the model says it has."""
        value = self.metadata.get("split.count")
        return value if isinstance(value, int) and value > 0 else 1

    # -- hyperparameters

    def integer(self, key: str, default: int | None = None) -> int:
        """Return ``{architecture}.{key}`` as a whole number; of a value for each layer, the largest.

        Raises:
            ModelFileError: KNB331, the key is missing or no number, and there is no default.
        """
        value = self.metadata.get(f"{self.architecture}.{key}")
        if isinstance(value, (int, float)):
            return int(value)
        if value is not None and not isinstance(value, (str, StringArray)) and len(value):
            return int(max(value))
        if default is None:
            self._lacks(f"{self.architecture}.{key}")
        return int(default)

    def per_layer(self, key: str, default: int | None = None) -> tuple[int, ...]:
        """Return ``{architecture}.{key}`` for each of the ``block_count`` layers.

        Raises:
            ModelFileError: KNB331, the key is missing and there is no default, or has too few values.
        """
        value = self.metadata.get(f"{self.architecture}.{key}")
        if value is None or isinstance(value, (int, float, str, StringArray)):
            return (self.integer(key, default),) * self.block_count
        if len(value) < self.block_count:
            self._lacks(f"{self.architecture}.{key}")
        return tuple(int(n) for n in value[: self.block_count])

    def _lacks(self, key: str) -> NoReturn:
        raise fault("KNB331", self.shards[0].name, f"{key} is missing or of the wrong type")

    @property
    def block_count(self) -> int:
        """Number of layers, the next-token-prediction ones included."""
        return self.integer("block_count")

    @property
    def nextn_predict_layers(self) -> int:
        """How many of the layers only predict further tokens (0 for Kimi)."""
        return self.integer("nextn_predict_layers", 0)

    @property
    def leading_dense_block_count(self) -> int:
        """Layers at the start that have no experts."""
        return self.integer("leading_dense_block_count", 0)

    @property
    def context_length(self) -> int:
        """Tokens of context that the model was trained for."""
        return self.integer("context_length")

    @property
    def embedding_length(self) -> int:
        """Width of the model."""
        return self.integer("embedding_length")

    @property
    def feed_forward_length(self) -> int:
        """Inner width of a dense feed-forward layer."""
        return self.integer("feed_forward_length")

    @property
    def expert_count(self) -> int:
        """Routed experts in a layer; 0 for a dense model."""
        return self.integer("expert_count", 0)

    @property
    def expert_used_count(self) -> int:
        """Routed experts used for one token."""
        return self.integer("expert_used_count", 0)

    @property
    def expert_shared_count(self) -> int:
        """Experts used for every token."""
        return self.integer("expert_shared_count", 0)

    @property
    def expert_feed_forward_length(self) -> int:
        """Inner width of one expert."""
        return self.integer("expert_feed_forward_length", 0)

    @property
    def head_count(self) -> int:
        """Attention heads."""
        return self.integer("attention.head_count")

    @property
    def head_count_kv(self) -> int:
        """Heads that the KV cache holds: 1 with multi-head latent attention."""
        return self.integer("attention.head_count_kv", self.head_count)

    @property
    def q_lora_rank(self) -> int:
        """Rank of the compressed query; 0 where queries are not compressed."""
        return self.integer("attention.q_lora_rank", 0)

    @property
    def kv_lora_rank(self) -> int:
        """Rank of the compressed keys and values; 0 without latent attention."""
        return self.integer("attention.kv_lora_rank", 0)

    @property
    def key_length(self) -> int:
        """Width of a cached key for one head."""
        return self.integer("attention.key_length", self.embedding_length // max(self.head_count, 1))

    @property
    def value_length(self) -> int:
        """Width of a cached value for one head."""
        return self.integer("attention.value_length", self.embedding_length // max(self.head_count, 1))

    @property
    def key_length_mla(self) -> int:
        """Width of a head's key once decompressed; 0 in files without it."""
        return self.integer("attention.key_length_mla", 0)

    @property
    def value_length_mla(self) -> int:
        """Width of a head's value once decompressed; 0 in files without it."""
        return self.integer("attention.value_length_mla", 0)

    @property
    def is_mla(self) -> bool:
        """Whether llama.cpp keeps the small latent KV cache (the whole one is some 35 times larger)."""
        return self.key_length_mla != 0 and self.value_length_mla != 0

    @property
    def rope_dimension_count(self) -> int:
        """Dimensions of a key that carry the position."""
        return self.integer("rope.dimension_count", self.key_length)

    @property
    def vocab_size(self) -> int:
        """Number of tokens, as llama.cpp finds it: ``vocab_size``, else the tokenizer's list."""
        tokens = self.metadata.get("tokenizer.ggml.tokens")
        return self.integer("vocab_size", len(tokens) if isinstance(tokens, StringArray) else None)
