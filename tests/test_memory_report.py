"""The verdict: what a model needs on a machine, and by how much it misses."""

import json

import pytest
from header_models import ModelShape, kimi_types

from kimi_nb.machine import load_profile, profiles
from kimi_nb.plan import Settings
from kimi_nb.plan.memory_verdict import Extras, memory_report, rooms

Q4 = ModelShape(n_layer=10, types=kimi_types("Q8_0", "Q4_K", "Q4_K", "Q4_0"))
PROFILES = {name: load_profile(name) for name in profiles()}
GPU = next(machine for machine in PROFILES.values() if len(machine.usable_gpus) == 1 and not machine.unified)
CPU = next(machine for machine in PROFILES.values() if not machine.gpus)
APPLE = next(machine for machine in PROFILES.values() if machine.unified)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return Q4.read(tmp_path_factory.mktemp("report") / "m.gguf")


def test_experts_on_the_host_fit(model):
    report = memory_report(model, Settings(ctx_size=32768, cpu_moe=True), GPU)
    (gpu,) = report.gpus
    assert report.fits
    assert report.short_mib == {}
    assert report.exact
    assert (gpu.name, gpu.llama_cpp_name) == ("GPU0", "CUDA0")
    assert gpu.extra_mib == 700 + 32  # CUDA itself, and what its kernels borrow
    assert gpu.needed_mib == pytest.approx(
        gpu.model_mib + gpu.context_mib + gpu.compute_mib + gpu.extra_mib, abs=3
    )
    assert report.host.evictable_mib == report.host.model_mib
    assert report.host.prompt_cache_mib == 8192
    assert report.host.needed_mib == pytest.approx(8192 + report.host.compute_mib, abs=2)


def test_how_much_is_missing(model):
    report = memory_report(model, Settings(ctx_size=32768), GPU)
    assert not report.fits
    gpu = report.gpus[0]
    assert report.short_mib["GPU0"] == pytest.approx(gpu.needed_mib - gpu.free_mib, abs=1)
    bigger = memory_report(model, Settings(ctx_size=32768), GPU, extras=Extras(cuda_context_mib=1700))
    assert bigger.short_mib["GPU0"] - report.short_mib["GPU0"] == 1000


def test_what_is_evictable(model):
    mapped = memory_report(model, Settings(ctx_size=4096, repack=False), CPU).host
    assert mapped.evictable_mib == mapped.model_mib
    read = memory_report(model, Settings(ctx_size=4096, load_mode="none"), CPU).host
    assert read.evictable_mib == 0
    repacked = memory_report(model, Settings(ctx_size=4096), CPU).host
    # Experts (Q4_K) and shared experts (Q4_0) are rearranged; attention (Q8_0) and embeddings stay mapped.
    assert 0 < repacked.evictable_mib < 0.1 * repacked.model_mib
    assert mapped.needed_mib < repacked.needed_mib < read.needed_mib
    assert mapped.model_mib == read.model_mib == repacked.model_mib


def test_prompt_cache_and_vision(model):
    base = memory_report(model, Settings(ctx_size=4096, cpu_moe=True, cache_ram=0), GPU)
    assert base.host.prompt_cache_mib == 0
    assert (
        memory_report(model, Settings(ctx_size=4096, cpu_moe=True, cache_ram=-1), GPU).host.prompt_cache_mib
        is None
    )
    extras = Extras(mmproj_mib=900)
    on_gpu = memory_report(model, Settings(ctx_size=4096, cpu_moe=True, cache_ram=0), GPU, extras=extras)
    assert on_gpu.gpus[0].needed_mib - base.gpus[0].needed_mib == 900
    on_host = memory_report(
        model, Settings(ctx_size=4096, cpu_moe=True, cache_ram=0, mmproj_offload=False), GPU, extras=extras
    )
    assert on_host.gpus == base.gpus
    assert on_host.host.needed_mib - base.host.needed_mib == 900


def test_weights_larger_than_memory_are_paged(tmp_path):
    types = kimi_types("Q8_0", "IQ2_XXS", "IQ1_S", "Q5_K")
    model = ModelShape(types=types).read(tmp_path / "m.gguf")
    for machine in PROFILES.values():
        if machine.unified:
            continue
        report = memory_report(
            model, Settings(ctx_size=16384, cpu_moe=True, cache_ram=0, repack=False), machine
        )
        room = machine.memory.available_mib - report.host.needed_mib
        assert report.host.paged_mib == pytest.approx(max(report.host.model_mib - room, 0), abs=1)


def test_one_memory_is_not_counted_twice(model):
    report = memory_report(model, Settings(ctx_size=4096), APPLE)
    assert not report.exact
    assert report.gpus[0].llama_cpp_name == "MTL0"
    assert report.host.needed_mib > report.gpus[0].needed_mib


@pytest.mark.parametrize("name", sorted(PROFILES))
def test_every_profile_gives_json(model, name):
    report = memory_report(model, Settings(ctx_size=8192, cpu_moe=True), PROFILES[name])
    value = json.loads(json.dumps(report.as_dict()))
    assert len(value["devices"]) == len(rooms(PROFILES[name])) == len(PROFILES[name].usable_gpus)
    assert [device["name"] for device in value["devices"]] == [
        f"GPU{n}" for n in range(len(value["devices"]))
    ]
    assert value["fits"] == (value["short_mib"] == {})
    assert set(value["short_mib"]) <= {"Host", *(device["name"] for device in value["devices"])}
    assert value["host"]["model_mib"] == report.host.model_mib
