"""Where llama.cpp puts each layer, each weight and each layer's cache.

Written after ``llama_model_base::load_tensors`` (``src/llama-model.cpp``) and ``create_tensor``
(``src/llama-model-loader.cpp``). Devices are numbered: the GPUs in use first, host memory last.
"""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

from kimi_nb.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from kimi_nb.plan.memory_weights import Entry, ModelWeights
    from kimi_nb.plan.settings import Settings

__all__ = ["Placement", "place"]


@dataclass(frozen=True)
class Placement:
    """Where everything is.

    Attributes:
        names: The GPUs that llama.cpp uses, in order; host memory is the device after the last.
        layers: The device of each layer.
        output: The device of the output.
        experts_on_host: For each layer, whether its experts are kept in host memory.
        overrides: Weights put elsewhere by ``-ot`` or by their type: full name to device.
        overridden: Whether any weight was placed by a pattern (which rules out pipelining).
        all_offloaded: Whether every layer and the output are meant to be on GPUs.
    """

    names: tuple[str, ...]
    layers: tuple[int, ...]
    output: int
    experts_on_host: tuple[bool, ...]
    overrides: dict[str, int]
    overridden: bool
    all_offloaded: bool

    @property
    def n_gpus(self) -> int:
        """Number of GPUs in use, which is also the number of the host."""
        return len(self.names)

    def device_of(self, entry: Entry, layer: int) -> int:
        """Return the device of one of a layer's weights."""
        device = self.overrides.get(entry.name)
        if device is not None:
            return device
        if entry.is_expert and self.experts_on_host[layer]:
            return self.n_gpus
        return self.layers[layer]


def place(weights: ModelWeights, settings: Settings, gpus: Sequence[tuple[str, float]]) -> Placement:
    """Place a model.

    Args:
        weights: The model's weights.
        settings: ``n_gpu_layers``, ``n_cpu_moe``, ``cpu_moe``, ``override_tensor``, ``split_mode``,
            ``tensor_split``, ``main_gpu`` and ``device`` are heeded.
        gpus: llama.cpp's name (``CUDA0``) and free MiB of each GPU.

    Raises:
        UsageError: KNB370, an override cannot be understood; KNB372, a setting that is not covered.
    """
    names = _used_gpus(settings, [name for name, _ in gpus])
    n_layer, n_gpus = len(weights.layers), len(names)
    wanted = settings.n_gpu_layers
    n_gpu_layers = wanted if isinstance(wanted, int) else weights.n_layer_all + 1
    free_mib = dict(gpus)
    free = [free_mib[name] for name in names]
    devices = _layer_devices(weights.n_layer_all, n_gpu_layers, _shares(settings, free), n_gpus)
    n_cpu_moe = n_layer if settings.cpu_moe else settings.n_cpu_moe or 0
    patterns = settings.override_tensor or ()
    named = _matches(weights, tuple(patterns), tuple(names)) if patterns else {}
    overrides = {
        name: device
        for name, (layer, device) in named.items()
        if not (layer is not None and layer < n_cpu_moe)
    }
    if not weights.plain and n_gpus:
        _keep_odd_types_on_host(weights, n_gpus, n_cpu_moe, overrides)
    return Placement(
        names=tuple(names),
        layers=devices[:n_layer],
        output=devices[-1],
        experts_on_host=tuple(layer < n_cpu_moe for layer in range(n_layer)),
        overrides=overrides,
        overridden=bool(patterns or n_cpu_moe),
        all_offloaded=n_gpu_layers > weights.n_layer_all,
    )


def _used_gpus(settings: Settings, names: list[str]) -> list[str]:
    if settings.device is not None:
        asked = [name.strip() for name in settings.device.split(",")]
        if asked == ["none"]:
            return []
        unknown = [name for name in asked if name not in names]
        if unknown:
            raise _refuse(f"device {unknown[0][:40]!r}", f"there are: {', '.join(names) or 'no GPUs'}")
        names = asked
    mode = settings.split_mode or "layer"
    if mode not in {"none", "layer"}:
        what = f"split_mode {mode} cannot be worked out"
        fix = "Use layer or none; with MoE models on several GPUs layer is the usual choice."
        raise UsageError("KNB372", what, why="no formula covers it", fix=fix)
    if mode == "none" and names:
        main = settings.main_gpu or 0
        if main >= len(names):
            raise _refuse(f"main_gpu {main}", f"there are {len(names)} GPUs, counted from 0")
        return [names[main]]
    return names


def _refuse(what: str, why: str) -> UsageError:
    return UsageError("KNB370", f"{what} cannot be used", why=why, fix="Correct the setting.")


def _float32(x: float) -> float:
    return float(struct.unpack("<f", struct.pack("<f", x))[0])


def _shares(settings: Settings, free_mib: list[float]) -> tuple[float, ...]:
    """Return where each GPU's share of the layers ends, as llama.cpp computes it in single precision."""
    shares = [float(x) for x in (settings.tensor_split or ())][: len(free_mib)]
    shares += [0.0] * (len(free_mib) - len(shares))
    if settings.split_mode == "none" or not any(shares):
        shares = [mib * 2**20 for mib in free_mib]
    return _ends(tuple(shares) if any(shares) else (1.0,) * len(shares))


@lru_cache(maxsize=1024)
def _ends(shares: tuple[float, ...]) -> tuple[float, ...]:
    ends, total = [], 0.0
    for share in shares:
        total = _float32(total + _float32(share))
        ends.append(total)
    return tuple(_float32(end / total) for end in ends)


@lru_cache(maxsize=1024)
def _layer_devices(n_layer: int, n_gpu_layers: int, ends: tuple[float, ...], n_gpus: int) -> tuple[int, ...]:
    """Return the device of each layer and of the output: the last ones go to the GPUs, in order."""
    first = max(n_layer + 1 - n_gpu_layers, 0)
    count = min(n_gpu_layers, n_layer + 1) if n_gpus else 0
    devices = []
    for layer in range(n_layer + 1):
        if layer < first or layer - first >= count:
            devices.append(n_gpus)
            continue
        at = _float32((layer - first) / count)
        devices.append(next((gpu for gpu, end in enumerate(ends) if end > at), n_gpus - 1))
    return tuple(devices)


@lru_cache(maxsize=64)
def _matches(
    weights: ModelWeights, patterns: tuple[str, ...], names: tuple[str, ...]
) -> dict[str, tuple[int | None, int]]:
    """Return the weights that ``-ot`` places: name to layer (of experts) and device; the first match wins."""
    places = {"CPU": len(names), **{name: number for number, name in enumerate(names)}}
    rules = []
    for pattern, _, buffer in (rule.partition("=") for rule in patterns):
        if buffer not in places:
            raise _refuse(f"override_tensor {pattern[:40]}={buffer[:40]}", f"there are: {', '.join(places)}")
        try:
            rules.append((re.compile(pattern), places[buffer]))
        except re.error as error:
            raise _refuse(
                f"override_tensor {pattern[:60]!r}", f"it is no regular expression: {error}"
            ) from None
    found: dict[str, tuple[int | None, int]] = {}
    listed = [(entry, layer) for layer, entries in enumerate(weights.layers) for entry in entries]
    for entry, layer in [*listed, *((entry, None) for entry in weights.ends.values())]:
        for rule, device in rules:
            if rule.search(entry.name):
                found[entry.name] = (layer if entry.is_expert else None, device)
                break
    return found


def _keep_odd_types_on_host(
    weights: ModelWeights, host: int, n_cpu_moe: int, overrides: dict[str, int]
) -> None:
    """Weights of types that CUDA does not multiply stay in host memory."""
    if not weights.ends["output"].gpu_can:
        overrides.setdefault(weights.ends["output"].name, host)
    for layer, entries in enumerate(weights.layers):
        for entry in entries:
            if not entry.gpu_can and not (entry.is_expert and layer < n_cpu_moe):
                overrides.setdefault(entry.name, host)
