"""What was measured on machines we do not have at hand, as llama-bench printed it, and what followed from it."""

from __future__ import annotations

from dataclasses import replace

from header_models import ORACLE_MODELS

from kimi_nb.machine import load_profile
from kimi_nb.plan.profile import Measurement, Profile
from kimi_nb.plan.profile_fit import fit_costs
from kimi_nb.plan.profile_model import profile_model

#: One NVIDIA H200, 16 cores of an Intel Xeon, 125 GiB; Kimi with experts of IQ1_S and IQ2_XXS.
H200_SLICE = {"n_dense": 1, "n_moe": 4, "n_expert": 384, "n_vocab": 163840}
H200_DECODE_TOK_S = {"gpu": (561.0,), "experts_cpu": (71.0, 72.0, 73.0)}
"""A slice of five layers with random blocks, 16 threads, tg64."""

H200_FULL = {26: (10.18, 10.31), 30: (9.56,), 32: (8.78,)}
"""All 61 layers: layers whose experts the processor computes, and tg32 in tokens per second (spread up to 10 %)."""


def h200():
    """The machine."""
    machine = load_profile("h200x8")
    cpu = replace(
        machine.cpu, physical_cores=16, logical_cores=16, allowed_physical=16, allowed_logical=16, sockets=1
    )
    gpu = replace(machine.gpus[0], total_mib=143771, free_mib=143156)
    memory = replace(machine.memory, total_mib=128000, available_mib=124000, physical_mib=128000)
    return replace(machine, name="one H200", gpus=(gpu,), cpu=cpu, memory=memory, numa=())


def h200_profile(folder):
    """The model, and the profile that follows from the slice alone."""
    model = ORACLE_MODELS["TQ1"].read(folder / "kimi.gguf")
    facts = profile_model(model)
    measured = [
        Measurement(
            **H200_SLICE,
            moe_bytes=facts.rest_bytes + facts.used_bytes,
            settings={"n_gpu_layers": 999, "threads": 16} | ({"cpu_moe": True} if way != "gpu" else {}),
            prompt_tokens=0,
            written_tokens=64,
            depth=0,
            samples_ms=tuple(64 * 1000 / rate for rate in rates),
        )
        for way, rates in H200_DECODE_TOK_S.items()
    ]
    profile = Profile(
        machine="one H200",
        machine_key="recorded",
        build="0.5.0-dev",
        backend="cuda",
        made="2026-11-22T00:00:00+00:00",
        model=facts,
        costs=fit_costs(measured, facts),
        measurements=tuple(measured),
    )
    return model, profile
