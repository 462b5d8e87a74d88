"""What the catalog says of a model: plain records, each with its sources. What is not known is ``None``."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any, Literal

from kimi_nb.errors import UsageError

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
]


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """A model's hyperparameters, under llama.cpp's names, and where they were read."""

    gguf_architecture: str
    tokenizer_pre: str
    n_vocab: int
    n_ctx_train: int
    n_embd: int
    n_layer: int
    n_layer_dense_lead: int
    n_head: int
    n_lora_q: int
    n_lora_kv: int
    n_embd_head_nope: int
    n_rot: int
    n_embd_head_v: int
    n_ff: int
    n_ff_exp: int
    n_expert: int
    n_expert_used: int
    n_expert_shared: int
    n_layer_nextn: int
    expert_gating: str
    expert_weights_scale: float
    expert_weights_norm: bool
    rms_eps: float
    rope_freq_base: float
    rope_scaling_factor: float
    n_ctx_orig_yarn: int
    yarn_beta_fast: float
    yarn_beta_slow: float
    yarn_log_mul: float
    bos_token_id: int
    pad_token_id: int
    source: str
    eos_token_id: int | None = None

    @property
    def cache_bytes_per_token(self) -> int:
        """What a token takes in an f16 KV cache: with MLA, each layer's compressed keys and no more."""
        return self.n_layer * (self.n_lora_kv + self.n_rot) * 2


@dataclass(frozen=True, kw_only=True)
class Parameters:
    """How many weights there are, and how many of them one token passes through."""

    total: int
    active: int
    exact: bool
    source: str


@dataclass(frozen=True, kw_only=True)
class Hub:
    """The repository of the original weights, pinned to a revision where one is known."""

    repo: str
    source: str
    revision: str | None = None


@dataclass(frozen=True, kw_only=True)
class Licence:
    """The licence; ``verified`` says whether its text itself was read for this catalog."""

    name: str
    file: str
    note: str
    verified: bool
    source: str


@dataclass(frozen=True, kw_only=True)
class NativeWeights:
    """The weights as released, for engines that load them whole."""

    format: str
    bytes: int
    exact: bool
    source: str
    files: int | None = None


@dataclass(frozen=True, kw_only=True)
class Vllm:
    """What vLLM needs: the least version and why, its parsers' names, and the least GPU memory in GB."""

    reason: str
    source: str
    min_version: str | None = None
    tool_call_parser: str | None = None
    reasoning_parser: str | None = None
    min_vram_gb: int | None = None


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How to draw tokens in one mode; ``min_p`` has a source of its own, for others advise it."""

    temperature: float
    source: str
    top_p: float | None = None
    min_p: float | None = None
    min_p_source: str | None = None


@dataclass(frozen=True, kw_only=True)
class Switch:
    """How one engine is put into a mode: fields to add to a request, sampling fields to leave out."""

    fields: dict[str, Any]
    omit: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Mode:
    """One way to ask a model: with thinking, or instantly."""

    name: Literal["thinking", "instant"]
    sampling: Sampling
    switches: dict[str, Switch]

    def request_fields(self, engine: str) -> dict[str, Any]:
        """Return the fields that put ``engine`` into this mode with its sampling.

        Args:
            engine: ``llama-server``, ``vllm`` or ``moonshot``.

        Raises:
            UsageError: The model is not to be had on that engine (KNB394).
        """
        if engine not in self.switches:
            raise UsageError(
                "KNB394",
                f"this model has no {self.name} mode on {engine!r}",
                why=f"the catalog knows it for {', '.join(self.switches)}",
                fix="Use one of those engines.",
            )
        switch = self.switches[engine]
        names = ("temperature", "top_p", "min_p")
        sampling = {name: getattr(self.sampling, name) for name in names if name not in switch.omit}
        given = {name: value for name, value in sampling.items() if value is not None}
        return given | copy.deepcopy(switch.fields)


@dataclass(frozen=True, kw_only=True)
class Quant:
    """One quantised version of a model.

    Args:
        name: Such as ``UD-Q2_K_XL``.
        publisher: Who made it.
        repo: The Hub repository it is in.
        folder: Its folder there.
        stem: How its files' names begin.
        source: Where the figures come from.
        bytes: Size of all its files together.
        exact: Whether ``bytes`` is exact rather than rounded.
        shards: Number of files.
        lossless: Whether it keeps the released weights as they are.
        revision: A revision that is known to hold it.
    """

    name: str
    publisher: str
    repo: str
    folder: str
    stem: str
    source: str
    bytes: int | None = None
    exact: bool = False
    shards: int | None = None
    lossless: bool | None = None
    revision: str | None = None

    @property
    def size(self) -> str:
        """The size as a person reads it: ``375 GB``, ``~240 GB`` if rounded, or ``size unknown``."""
        if self.bytes is None:
            return "size unknown"
        return f"{'' if self.exact else '~'}{self.bytes / 1e9:.0f} GB"

    @property
    def first_file(self) -> str:
        """The path in the repository of the file that llama.cpp is given; it finds the others by itself."""
        return self.file_names()[0]

    def file_names(self) -> list[str]:
        """Return the paths of its files in the repository, in order.

        Raises:
            UsageError: It is not known how many files it has (KNB393).
        """
        if self.shards is None:
            raise UsageError(
                "KNB393",
                f"the names of {self.name}'s files are not known",
                why=f"the catalog does not know how many files {self.publisher} cut it into",
                fix=f"See the folder {self.folder} of {self.repo} on the Hub.",
            )
        if self.shards == 1:
            return [f"{self.folder}/{self.stem}.gguf"]
        return [
            f"{self.folder}/{self.stem}-{i:05}-of-{self.shards:05}.gguf" for i in range(1, self.shards + 1)
        ]


@dataclass(frozen=True, kw_only=True)
class Mmproj:
    """The vision encoder's files, any one of which llama.cpp takes with ``--mmproj``."""

    files: tuple[str, ...]
    source: str
    bytes: int | None = None
    exact: bool = False


@dataclass(frozen=True, kw_only=True)
class Publisher:
    """Who publishes quants of a model, and where."""

    name: str
    repo: str
    quants: tuple[Quant, ...]
    note: str = ""
    mmproj: Mmproj | None = None


@dataclass(frozen=True, kw_only=True)
class CatalogModel:
    """One known model.

    Args:
        key: How it is named on the command line.
        name: How it is named in prose.
        released: When, as exactly as known.
        about: One sentence.
        context_limit: Tokens it was trained for at most.
        vision: Whether it reads images.
        licence: What one may do with it.
        modes: The ways to ask it, the one it is meant for first.
        think_prefilled: Whether the chat template opens ``<think>``; if not, the model writes it itself.
        moonshot_id: Its name on Moonshot's API, where it is still served.
        parameters: How many.
        hub: The original weights' repository.
        native: The original weights.
        vllm: What vLLM needs.
        architecture: Its hyperparameters; ``None`` for nano, whose file says them.
        publishers: Who publishes quants, the one to use by default first.
    """

    key: str
    name: str
    released: str
    about: str
    context_limit: int
    vision: bool
    licence: Licence
    modes: tuple[Mode, ...]
    think_prefilled: bool | None = None
    moonshot_id: str | None = None
    parameters: Parameters | None = None
    hub: Hub | None = None
    native: NativeWeights | None = None
    vllm: Vllm | None = None
    architecture: Architecture | None = None
    publishers: tuple[Publisher, ...] = ()

    @property
    def quants(self) -> tuple[Quant, ...]:
        """Every quant of every publisher."""
        return tuple(quant for publisher in self.publishers for quant in publisher.quants)

    def quant(self, name: str) -> Quant:
        """Return a quant by name; of two publishers' the first one's, unless named as ``publisher/NAME``.

        Raises:
            UsageError: There is none of that name (KNB391).
        """
        wanted = name.lower()
        for quant in self.quants:
            if wanted in {quant.name.lower(), f"{quant.publisher}/{quant.name}".lower()}:
                return quant
        raise _unknown(
            "KNB391", f"{self.name} has no quant {name!r}", name, [quant.name for quant in self.quants]
        )

    def mode(self, name: str) -> Mode:
        """Return a mode by name.

        Raises:
            UsageError: The model does not have it (KNB392).
        """
        for mode in self.modes:
            if mode.name == name:
                return mode
        raise _unknown(
            "KNB392", f"{self.name} has no mode {name!r}", name, [mode.name for mode in self.modes]
        )


@dataclass(frozen=True)
class Catalog:
    """Every known model, by key."""

    models: dict[str, CatalogModel]

    def model(self, key: str) -> CatalogModel:
        """Return a model by key.

        Raises:
            UsageError: There is none of that key (KNB390).
        """
        found = self.models.get(key.lower())
        if found is None:
            raise _unknown("KNB390", f"there is no model {key!r} in the catalog", key, list(self.models))
        return found


def _unknown(id_: str, what: str, name: str, known: list[str]) -> UsageError:
    near = get_close_matches(name.lower(), [one.lower() for one in known], n=3, cutoff=0.5)
    spelt = [next(one for one in known if one.lower() == match) for match in near]
    listed = ", ".join(dict.fromkeys(known)) or "none"
    return UsageError(id_, what, why=f"known are {listed}", fix=_did_you_mean(spelt))


def _did_you_mean(names: list[str]) -> str:
    return f"Did you mean {' or '.join(names)}?" if names else "Name one of those."
