"""What running a model takes on each GPU and in host memory, to the mebibyte, without running anything.

``model``, ``context`` and ``compute`` are what ``llama-fit-params -nr -fitp on`` prints: weights, the
cache of keys and values, and the buffers of one step. llama.cpp's own placement, scheduling and
allocation are followed instead of fitting constants, so that other shapes of the same architecture come
out right as well. What llama.cpp does not count, and a person still pays, is in
:mod:`kimi_nb.plan.memory_verdict`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from kimi_nb.plan.memory_allocator import GPU_ALIGNMENT, HOST_ALIGNMENT, gpu_bytes
from kimi_nb.plan.memory_compute import Step, compute_bytes
from kimi_nb.plan.memory_placement import place
from kimi_nb.plan.memory_schedule import flash_attention_fits
from kimi_nb.plan.memory_symbols import Dimensions
from kimi_nb.plan.memory_tensors import row_bytes
from kimi_nb.plan.memory_weights import named_weights, weights_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from kimi_nb.model import Model
    from kimi_nb.plan.memory_placement import Placement
    from kimi_nb.plan.memory_weights import ModelWeights
    from kimi_nb.plan.settings import Settings

__all__ = ["Demand", "GpuRoom", "demands", "step_of"]

MIB = 1 << 20
_DEFAULT_BATCH = 2048
_DEFAULT_UBATCH = 512
_CONTEXT_STEP = 256


@dataclass(frozen=True)
class GpuRoom:
    """A GPU to plan for: llama.cpp's name for it and its memory in MiB."""

    name: str
    total_mib: float
    free_mib: float


@dataclass(frozen=True)
class Demand:
    """What one device must hold, in bytes."""

    name: str
    model: int
    context: int
    compute: int

    @property
    def model_mib(self) -> int:
        """Weights in MiB, rounded down as llama.cpp prints them."""
        return self.model // MIB

    @property
    def context_mib(self) -> int:
        """Cache of keys and values in MiB, rounded down."""
        return self.context // MIB

    @property
    def compute_mib(self) -> int:
        """Compute buffers in MiB, rounded down."""
        return self.compute // MIB

    @property
    def total(self) -> int:
        """All three, in bytes."""
        return self.model + self.context + self.compute


def demands(
    model: Model, settings: Settings, gpus: Sequence[GpuRoom] = (), *, outputs: int | None = None
) -> list[Demand]:
    """Return what each GPU in use and, last, the host must hold.

    Args:
        model: The model, from its header.
        settings: How it is run; what is not set is as llama.cpp sets it, with every layer on the GPUs.
        gpus: The GPUs there are, in llama.cpp's order.
        outputs: Tokens of a step for which logits are wanted: all of them as in ``llama-fit-params`` if not
            given; llama-server wants one for each slot.

    Raises:
        ModelFileError: KNB371, the model is not covered.
        UsageError: KNB370 or KNB372, a setting cannot be used or is not covered.
    """
    weights = weights_of(model)
    placement = place(weights, settings, [(gpu.name, gpu.free_mib) for gpu in gpus])
    step = step_of(weights, placement, settings, outputs)
    sizes = [
        [*values]
        for values in zip(
            _model_bytes(weights, placement),
            _context_bytes(weights, placement, step),
            compute_bytes(weights, placement, step),
            strict=True,
        )
    ]
    return [Demand(name, *values) for name, values in zip([*placement.names, "Host"], sizes, strict=True)]


def step_of(
    weights: ModelWeights, placement: Placement, settings: Settings, outputs: int | None = None
) -> Step:
    """Return the step for which llama.cpp reserves memory (``llama_context::sched_reserve``)."""
    slots = settings.parallel or 1
    streams = 1 if settings.kv_unified else slots
    asked = settings.ctx_size or weights.context_length
    batch = min(asked, settings.batch_size or _DEFAULT_BATCH)
    ubatch = min(batch, settings.ubatch_size or _DEFAULT_UBATCH)
    context = _padded(_padded(asked, _CONTEXT_STEP) // streams, _CONTEXT_STEP)
    tokens = min(context * streams, ubatch)
    wanted = min(tokens, batch if outputs is None else outputs)
    tokens = _padded(tokens, slots)
    kind = (settings.cache_type_k or "f16").upper()
    return Step(
        dimensions=Dimensions(tokens // streams, wanted, context),
        streams=streams,
        flash_attn=_flash_attn(weights, placement, settings, kind),
        cache_kind=kind,
        op_offload=settings.op_offload is not False,
        cache_on_host=settings.kv_offload is False,
    )


def _padded(n: int, step: int) -> int:
    return -(-n // step) * step


def _flash_attn(weights: ModelWeights, placement: Placement, settings: Settings, kind: str) -> bool:
    if settings.flash_attn in {"on", "off"}:
        return settings.flash_attn == "on"
    if all(device == placement.n_gpus for device in placement.layers):
        return True
    shape = weights.shape
    return flash_attention_fits(weights.cache_width, shape.n_lora_kv, shape.n_head, kind)


def _model_bytes(weights: ModelWeights, placement: Placement) -> list[int]:
    host = placement.n_gpus
    sizes = [0] * (host + 1)
    for layer, (experts_gpu, experts_host, rest_gpu, rest_host) in enumerate(weights.sums):
        device = placement.layers[layer]
        sizes[device] += rest_host if device == host else rest_gpu
        if device == host or placement.experts_on_host[layer]:
            sizes[host] += experts_host
        else:
            sizes[device] += experts_gpu
    for role, device in (
        ("token_embd", host),
        ("output_norm", placement.output),
        ("output", placement.output),
    ):
        entry = weights.ends[role]
        if role == "output" and entry.role == "token_embd" and device == host:
            continue  # tied, and already there
        sizes[device] += entry.on_host if device == host else entry.on_gpu
    if placement.overrides:
        _move(weights, placement, sizes)
    return sizes


def _move(weights: ModelWeights, placement: Placement, sizes: list[int]) -> None:
    """Move the weights that are elsewhere than their layer."""
    host = placement.n_gpus
    known = named_weights(weights)
    for name, device in placement.overrides.items():
        entry, layer = known[name]
        if layer is not None:
            at = host if entry.is_expert and placement.experts_on_host[layer] else placement.layers[layer]
        else:
            at = host if entry.role == "token_embd" else placement.output
        sizes[at] -= entry.on_host if at == host else entry.on_gpu
        sizes[device] += entry.on_host if device == host else entry.on_gpu


def _context_bytes(weights: ModelWeights, placement: Placement, step: Step) -> list[int]:
    """Return the cache: with latent attention one row of keys a token and layer, and no values."""
    host = placement.n_gpus
    width = weights.cache_width
    n_bytes = row_bytes(step.cache_kind, width) * step.dimensions.context * step.streams
    on_gpu = _padded(gpu_bytes(step.cache_kind, width, n_bytes), GPU_ALIGNMENT)
    on_host = _padded(n_bytes, HOST_ALIGNMENT)
    sizes = [0] * (host + 1)
    for device in placement.layers:
        if step.cache_on_host or device == host:
            sizes[host] += on_host
        else:
            sizes[device] += on_gpu
    return sizes
