"""llama.cpp's knobs under llama.cpp's names, checked before a server is started."""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any

from kimi_nb.errors import UsageError
from kimi_nb.plan.knobs import Choice, Flag, JsonObject, Knob, Number, Numbers, Switch, Text, Texts

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["CACHE_TYPES", "Settings"]

#: Types that llama-server accepts for the cache of keys and values.
CACHE_TYPES = ("f32", "f16", "bf16", "q8_0", "q4_0", "q4_1", "iq4_nl", "q5_0", "q5_1")
_UNQUANTIZED = ("f32", "f16", "bf16")
_LOAD_MODES = ("auto", "none", "mmap", "mlock", "mmap+mlock", "dio")
_ON_OFF_AUTO = ("on", "off", "auto")


def _knob(knob: Knob, *, hashed: bool = True) -> Any:
    return field(default=None, hash=hashed, metadata={"knob": knob})


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How llama.cpp is to run a model.

    Every field is one of llama-server's long options with underscores for dashes; None leaves it to
    llama.cpp. What llama.cpp would refuse after loading, or silently misread, is refused here.

    Raises:
        UsageError: A value has the wrong type or range, or two settings exclude each other.
    """

    ctx_size: int | None = _knob(
        Number("--ctx-size", "context in tokens, for all slots together; 0: the model's own")
    )
    parallel: int | None = _knob(
        Number("--parallel", "slots: how many requests are answered at once", low=1, high=256)
    )
    n_gpu_layers: int | str | None = _knob(
        Number("--n-gpu-layers", "layers kept in GPU memory", words=("auto", "all"))
    )
    n_cpu_moe: int | None = _knob(
        Number("--n-cpu-moe", "keep the experts of the first N layers in host memory")
    )
    cpu_moe: bool | None = _knob(Flag("--cpu-moe", "keep all experts in host memory"))
    override_tensor: tuple[str, ...] | None = _knob(
        Texts("--override-tensor", "where tensors go whose name fits a regular expression, such as exps=CPU")
    )
    cache_type_k: str | None = _knob(Choice("--cache-type-k", "type of the key cache", words=CACHE_TYPES))
    cache_type_v: str | None = _knob(Choice("--cache-type-v", "type of the value cache", words=CACHE_TYPES))
    flash_attn: str | None = _knob(Choice("--flash-attn", "flash attention", words=_ON_OFF_AUTO))
    batch_size: int | None = _knob(Number("--batch-size", "tokens handed to one call of the model", low=1))
    ubatch_size: int | None = _knob(Number("--ubatch-size", "tokens computed in one step", low=1))
    threads: int | None = _knob(Number("--threads", "processor threads while generating", low=1, high=512))
    threads_batch: int | None = _knob(
        Number("--threads-batch", "processor threads while reading a prompt", low=1, high=512)
    )
    split_mode: str | None = _knob(
        Choice("--split-mode", "how the model is split over GPUs", words=("none", "layer", "row", "tensor"))
    )
    tensor_split: tuple[float, ...] | None = _knob(Numbers("--tensor-split", "the share of each GPU"))
    main_gpu: int | None = _knob(Number("--main-gpu", "the one GPU to use with split-mode none", high=255))
    device: str | None = _knob(Text("--device", "devices to use, such as CUDA0,CUDA1, or none"))
    fit: str | None = _knob(Choice("--fit", "let llama.cpp adjust what is not set", words=("on", "off")))
    fit_target: tuple[float, ...] | None = _knob(
        Numbers("--fit-target", "MiB that fit leaves free on each device", whole=True)
    )
    fit_ctx: int | None = _knob(Number("--fit-ctx", "the least context that fit may choose", low=1))
    kv_offload: bool | None = _knob(Switch("--kv-offload", "keep the cache of keys and values on the GPU"))
    op_offload: bool | None = _knob(Switch("--op-offload", "let the GPU help with weights in host memory"))
    kv_unified: bool | None = _knob(Switch("--kv-unified", "one cache that all slots share"))
    load_mode: str | None = _knob(Choice("--load-mode", "how weights are read", words=_LOAD_MODES))
    lazy_mode: str | None = _knob(
        Choice("--lazy-mode", "read the rows of huge tables from disk on demand", words=_ON_OFF_AUTO)
    )
    repack: bool | None = _knob(
        Switch("--repack", "rearrange weights for the processor; costs a copy in memory")
    )
    no_host: bool | None = _knob(
        Flag("--no-host", "bypass the host buffer, so that extra buffers can be used")
    )
    numa: str | None = _knob(
        Choice(
            "--numa", "help on machines with several memory nodes", words=("distribute", "isolate", "numactl")
        )
    )
    prio: int | None = _knob(Number("--prio", "thread priority, -1 low to 3 realtime", low=-1, high=3))
    poll: int | None = _knob(Number("--poll", "how eagerly threads wait for work", high=100))
    warmup: bool | None = _knob(Switch("--warmup", "run the model once, empty, before answering"))
    check_tensors: bool | None = _knob(Flag("--check-tensors", "look for invalid values in the weights"))
    mmproj: str | None = _knob(Text("--mmproj", "the vision part: an mmproj GGUF file"))
    mmproj_offload: bool | None = _knob(Switch("--mmproj-offload", "keep the vision part on the GPU"))
    cache_ram: int | None = _knob(
        Number("--cache-ram", "MiB of host memory for finished prompts; 0 none, -1 no limit", low=-1)
    )
    cache_prompt: bool | None = _knob(Switch("--cache-prompt", "reuse what a slot has read before"))
    cache_reuse: int | None = _knob(
        Number("--cache-reuse", "least piece of a prompt worth reusing, in tokens")
    )
    ctx_checkpoints: int | None = _knob(
        Number("--ctx-checkpoints", "checkpoints of the context for each slot")
    )
    slot_save_path: str | None = _knob(Text("--slot-save-path", "folder where slots may be saved"))
    chat_template: str | None = _knob(
        Text("--chat-template", "a chat template, or the name of a built-in one")
    )
    chat_template_file: str | None = _knob(Text("--chat-template-file", "a file with a chat template"))
    chat_template_kwargs: Mapping[str, Any] | None = _knob(
        JsonObject("--chat-template-kwargs", 'arguments for the chat template, such as {"thinking": false}'),
        hashed=False,
    )
    jinja: bool | None = _knob(Switch("--jinja", "use the model's own chat template"))
    reasoning_format: str | None = _knob(
        Choice(
            "--reasoning-format",
            "where thoughts appear",
            words=("auto", "none", "deepseek", "deepseek-legacy"),
        )
    )
    reasoning_budget: int | None = _knob(
        Number("--reasoning-budget", "tokens for thinking; -1 no limit, 0 none", low=-1)
    )
    threads_http: int | None = _knob(
        Number("--threads-http", "threads that answer requests", low=1, high=1024)
    )
    timeout: int | None = _knob(Number("--timeout", "seconds that a read or write may take", low=1))
    sleep_idle_seconds: int | None = _knob(
        Number("--sleep-idle-seconds", "unload the model after so many idle seconds; -1 never", low=-1)
    )

    def __post_init__(self) -> None:
        for name, knob in self.knobs().items():
            value = getattr(self, name)
            if value is not None:
                object.__setattr__(self, name, _checked(name, knob, value))
        for message, fix in self._contradictions():
            raise UsageError("KNB503", "these settings exclude each other", why=message, fix=fix)

    def _contradictions(self) -> list[tuple[str, str]]:
        """Return why these settings cannot go together, and what to change."""
        found = []
        keys, values = self.cache_type_k or "f16", self.cache_type_v or "f16"
        if keys != values:
            why = (
                f"cache_type_k is {keys} and cache_type_v is {values}, and Kimi's attention keeps both in one"
            )
            found.append((why, "Set cache_type_k and cache_type_v to the same type."))
        if values not in _UNQUANTIZED and self.flash_attn == "off":
            why = f"cache_type_v is {values}, and a quantised cache is read only with flash attention"
            found.append((why, "Set flash_attn to on or auto, or both cache types to f16."))
        if self.batch_size and self.ubatch_size and self.ubatch_size > self.batch_size:
            why = (
                f"ubatch_size {self.ubatch_size} is above batch_size {self.batch_size}, and would be lowered"
            )
            found.append((why, "Raise batch_size to ubatch_size or more."))
        if self.cpu_moe and self.n_cpu_moe is not None:
            found.append(
                ("cpu_moe keeps all experts in host memory, n_cpu_moe only some", "Set one of them.")
            )
        if self.chat_template and self.chat_template_file:
            found.append(("chat_template and chat_template_file both name a template", "Set one of them."))
        if self.split_mode == "tensor" and self.flash_attn == "off":
            found.append(("split_mode tensor needs flash attention", "Set flash_attn to on."))
        return found

    @classmethod
    def knobs(cls) -> dict[str, Knob]:
        """Return what each setting takes, by its name, in the order in which they are written."""
        return {item.name: item.metadata["knob"] for item in fields(cls)}

    def argv(self) -> list[str]:
        """Return the settings as llama-server's arguments, without the program and the model."""
        return [
            word
            for name, knob in self.knobs().items()
            if (value := getattr(self, name)) is not None
            for word in knob.argv(value)
        ]

    def to_dict(self) -> dict[str, Any]:
        """Return the settings that are set, as JSON can hold them; :meth:`from_dict` reads them back."""
        pairs = {name: getattr(self, name) for name in self.knobs()}
        return {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in pairs.items()
            if value is not None
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Settings:
        """Make settings from names and values.

        Raises:
            UsageError: A name is none of ours (the message gives the nearest), or a value cannot be used.
        """
        known = cls.knobs()
        for name in values:
            if name not in known:
                near = get_close_matches(str(name).strip("-").replace("-", "_"), known, n=1)
                fix = f"Did you mean {near[0]}?" if near else f"The names are: {', '.join(known)}."
                raise UsageError(
                    "KNB502", f"no setting {name!r}", why="llama.cpp has no such option here", fix=fix
                )
        return cls(**values)

    def replace(self, **changes: Any) -> Settings:
        """Return a copy with some settings changed; None unsets one.

        Raises:
            UsageError: As from :meth:`from_dict`.
        """
        type(self).from_dict(changes)
        return replace(self, **changes)


def _checked(name: str, knob: Knob, value: Any) -> Any:
    try:
        return knob.check(value)
    except ValueError as error:
        raise UsageError(
            "KNB501",
            f"{name} cannot be {value!r}",
            why=str(error),
            fix=f"Change {name} ({knob.about}), or leave it out.",
        ) from None
