"""The planner: what it plans fits, what it refuses does not, and nothing in a grid is much faster."""

import itertools
import random
from dataclasses import replace

import pytest
from header_models import ORACLE_MODELS, ModelShape, kimi_types, random_shape
from planning_machines import gpu, machine
from recorded_profiles import H200_FULL, h200, h200_profile

from kimi_nb.errors import UsageError
from kimi_nb.machine import Disk, load_profile, profiles
from kimi_nb.model.candidates import Candidate
from kimi_nb.plan import Settings, forecast, memory_report
from kimi_nb.plan.limits import Limits, left_mib
from kimi_nb.plan.planner import OBJECTIVES, make_plan

LIMITS = Limits()


@pytest.fixture(scope="module")
def kimi(tmp_path_factory):
    folder = tmp_path_factory.mktemp("planner")
    models = {name: shape.read(folder / f"{name}.gguf") for name, shape in ORACLE_MODELS.items()}
    # Only headers are read here, so the files are short; give them the size they would have.
    return {
        name: replace(model, shards=tuple(replace(one, size_bytes=model.data_bytes) for one in model.shards))
        for name, model in models.items()
    }


def grid(here, n_layer, ctx_size, kinds=("f16",)):
    """Settings that a person might try by hand; some fit, others do not."""
    base = {
        "ctx_size": ctx_size,
        "flash_attn": "on",
        "cache_ram": 0,
        "load_mode": "mmap",
        "repack": False,
        "parallel": 1,
    }
    if not here.gpus:
        for kind, ubatch in itertools.product(kinds, (128, 512, 2048)):
            yield Settings(**base, cache_type_k=kind, cache_type_v=kind, ubatch_size=ubatch)
        return
    steps = sorted({*range(0, n_layer + 1, max(1, n_layer // 6)), n_layer})
    layers = [n_layer + 1, n_layer // 2, 0]
    for kind, ubatch, offload, ngl in itertools.product(kinds, (128, 512, 2048), (True, False), layers):
        for n_cpu_moe in steps if ngl else [0]:
            yield Settings(
                **base, cache_type_k=kind, cache_type_v=kind, ubatch_size=ubatch, op_offload=offload,
                n_gpu_layers=ngl, n_cpu_moe=n_cpu_moe,
            )  # fmt: skip


def fits(model, settings, here):
    report = memory_report(model, settings, here, extras=LIMITS.extras)
    return report if min(left_mib(report, Limits.usual(here)).values()) >= 0 else None


def random_machine(chance, model):
    """A machine whose memory is of the model's order, so that it sometimes fits and often just does not."""
    gib = model.data_bytes / 2**30
    cards = [
        gpu(int(1024 * chance.uniform(0.9, 1.2 * gib + 3)), chance.choice((300, 1000, 3000)))
        for _ in range(chance.choice((0, 1, 1, 1, 2, 3)))
    ]
    return machine(
        *cards,
        cores=chance.choice((2, 8, 32)),
        ram_gib=chance.choice((1.2, 2, 0.5 * gib + 1.5, gib + 3, 4 * gib + 16)),
    )


@pytest.mark.parametrize("seed", [*range(20), 150])  # 150: only without pipelining does it fit
def test_random_plans_fit_and_refusals_are_right(seed, tmp_path):
    chance = random.Random(seed)
    model = random_shape(chance).read(tmp_path / "m.gguf")
    here = random_machine(chance, model)
    ctx_size = chance.choice((512, 4096, 32768, 131072))
    result = make_plan(model, here, objective=chance.choice(OBJECTIVES), ctx_size=ctx_size)
    if result.plan is None:
        n_layer = model.block_count
        kinds = ("f16", "q8_0", "q4_0")
        assert [one for one in grid(here, n_layer, ctx_size, kinds) if fits(model, one, here)] == []
        assert result.reasons
        assert result.what_would_fit
        return
    for plan in (result.plan, *result.alternatives):
        report = fits(model, plan.settings, here)
        assert report is not None, plan.settings
        assert report == plan.memory
        assert report.fits
        assert plan.settings.ctx_size == ctx_size
        assert plan.settings.fit == "off"
        assert plan.forecast == forecast(model, plan.settings, here, report=report)


@pytest.mark.parametrize("seed", [*range(6), 104])  # 104: one layer more than a sum of buffers allows
def test_nothing_in_a_grid_writes_much_faster(seed, tmp_path):
    chance = random.Random(1000 + seed)
    layers = chance.choice((5, 9, 13))
    experts = chance.choice((64, 128, 384))
    types = kimi_types(
        "Q8_0", *chance.choice([("IQ2_XXS", "IQ1_S"), ("Q3_K", "Q2_K"), ("Q5_K", "Q4_K")]), "Q8_0"
    )
    model = ModelShape(n_layer=layers, n_expert=experts, types=types).read(tmp_path / "m.gguf")
    gib = model.data_bytes / 2**30
    here = machine(
        *[gpu(int(1024 * chance.uniform(4, gib)), 1000)] * chance.choice((0, 1, 1)),
        cores=chance.choice((4, 16)),
        ram_gib=2 * gib + 16,
    )
    found = make_plan(model, here, ctx_size=8192).plan
    speeds = []
    for settings in grid(here, layers, 8192):
        report = fits(model, settings, here)
        if report is not None:
            speeds.append((forecast(model, settings, here, report=report).decode_tok_s.expected, settings))
    best, settings = max(speeds, key=lambda pair: pair[0])
    assert found.forecast.decode_tok_s.expected >= 0.98 * best, settings


def test_every_objective_is_best_at_what_it_is_for(kimi):
    here = machine(gpu(81559, 3352, generation=5), cores=16, ram_gib=400)
    plans = {
        objective: make_plan(list(kimi.values()), here, objective=objective).plan for objective in OBJECTIVES
    }
    assert plans["prefill"].forecast.prefill_tok_s.expected >= 0.98 * max(
        plan.forecast.prefill_tok_s.expected for plan in plans.values()
    )
    assert plans["decode"].forecast.decode_tok_s.expected >= 0.98 * max(
        plan.forecast.decode_tok_s.expected for plan in plans.values()
    )
    assert plans["context"].settings.ctx_size == 262144
    assert plans["quality"].model.name == "Q2K"  # Q4K would be read from disk
    assert plans["quality"].model.file_bytes > plans["prefill"].model.file_bytes
    assert not plans["quality"].memory.host.paged_mib


def test_the_words_of_a_plan_are_its_figures(kimi):
    here = load_profile("h100-80gb")
    plan = make_plan(kimi["TQ1"], here, ctx_size=16384).plan
    text = " ".join(plan.reasons)
    layers = 60 - (plan.settings.n_cpu_moe - 1)
    assert f"the experts of {layers} of 60 layers" in text or plan.settings.override_tensor
    assert "One more layer's experts would need" in text
    assert "16,384 tokens of context take 1.1 GiB in f16" in text
    assert plan.settings.threads == here.cpu.usable_cores
    one_more = plan.settings.replace(n_cpu_moe=plan.settings.n_cpu_moe - 1, override_tensor=None)
    assert fits(kimi["TQ1"], one_more, here) is None


def test_a_context_is_longer_where_it_costs_nothing(kimi):
    assert make_plan(kimi["TQ1"], load_profile("h200x8")).plan.settings.ctx_size == 262144
    assert make_plan(kimi["TQ1"], load_profile("rtx4090-256gb")).plan.settings.ctx_size == 32768
    assert make_plan(kimi["TQ1"], load_profile("h200x8"), ctx_size=4096).plan.settings.ctx_size == 4096


def test_few_gpus_are_used_where_few_do(kimi):
    plan = make_plan(kimi["TQ1"], load_profile("h200x8")).plan
    assert plan.settings.device == "CUDA0,CUDA1"
    assert sum(plan.settings.tensor_split) == 62
    assert plan.settings.n_cpu_moe == 0


def test_a_small_gpu_still_helps(kimi):
    """Where not even attention and cache fit, fewer layers go to the GPU instead of none."""
    here = machine(gpu(8192, 400), ram_gib=300)
    plan = make_plan(kimi["TQ1"], here, ctx_size=8192).plan
    assert 0 < plan.settings.n_gpu_layers < 62
    assert any("layers find room on the GPU" in text for text in plan.warnings)
    alone = make_plan(kimi["TQ1"], machine(ram_gib=300), ctx_size=8192).plan
    assert plan.forecast.decode_tok_s.expected > alone.forecast.decode_tok_s.expected


def test_a_long_context_gets_a_smaller_cache_before_layers_leave_the_gpu(kimi):
    here = machine(gpu(24564, 1000), ram_gib=300)
    plan = make_plan(kimi["TQ1"], here, ctx_size=262144).plan
    assert plan.settings.cache_type_k == plan.settings.cache_type_v == "q8_0"
    assert plan.settings.n_gpu_layers == 62
    assert any("q8_0" in text for text in plan.warnings)


def test_weights_that_page_are_said_and_what_would_help(kimi):
    here = machine(gpu(24564, 1000), ram_gib=128)
    result = make_plan(kimi["Q2K"], here, ctx_size=16384, others=[Candidate(kimi["TQ1"], quant="TQ1")])
    assert result.plan.memory.host.paged_mib > 0
    assert result.plan.settings.load_mode == "mmap"
    assert result.plan.settings.cache_ram == 0
    assert any("read from disk" in text for text in result.plan.warnings)
    (more,) = [text for text in result.what_would_fit if "more main memory" in text]
    gib = int(more.split()[0])
    helped = make_plan(kimi["Q2K"], machine(gpu(24564, 1000), ram_gib=128 + gib), ctx_size=16384).plan
    assert not helped.memory.host.paged_mib
    less = make_plan(kimi["Q2K"], machine(gpu(24564, 1000), ram_gib=128 + gib - 8), ctx_size=16384).plan
    assert less.memory.host.paged_mib


def test_what_would_fit_does(kimi):
    """Cache and buffers alone are too much for this machine: a shorter context is offered, and runs."""
    here = machine(ram_gib=12)
    result = make_plan(kimi["TQ1"], here, ctx_size=262144)
    assert result.plan is not None  # from disk, with fewer bits in the cache
    assert result.plan.settings.cache_type_k == "q8_0"
    assert make_plan(kimi["TQ1"], machine(ram_gib=9), ctx_size=262144).plan.settings.cache_type_k == "q4_0"
    smaller = machine(ram_gib=5)
    refused = make_plan(kimi["TQ1"], smaller, ctx_size=262144)
    assert refused.plan is None
    assert "does not run with 262,144 tokens" in refused.reasons[0]
    assert make_plan(kimi["TQ1"], smaller, ctx_size=8192).plan is not None


def test_a_full_disk_is_named(kimi):
    disk = Disk(path="/models", filesystem="ext4", total_mib=200_000, free_mib=100_000, network=False, sparse=True, max_file_mib=None, rotational=False, writable=True)  # fmt: skip
    here = replace(machine(gpu(24564), ram_gib=300), disk=disk)
    offers = [Candidate(model, key="kimi-k2.5", quant=name) for name, model in kimi.items()]
    result = make_plan(offers, here)
    assert result.plan is None
    assert result.reasons[0].startswith("TQ1 is too large for the disk")
    assert "so are 2 larger ones" in result.reasons[0]
    assert result.what_would_fit[0].endswith("more on the disk that models are downloaded to, for TQ1.")
    assert make_plan(kimi["TQ1"], here).plan is not None  # lies there already


def test_nothing_fits_two_ways_is_told_with_machines(kimi):
    here = machine(ram_gib=5)
    result = make_plan([Candidate(kimi["TQ1"], key="kimi-k2.5", quant="UD-TQ1_0")], here, ctx_size=262144)
    text = "\n".join(result.what_would_fit)
    assert "GiB more main memory" in text
    named = [name for name in profiles() if name in text]
    assert named
    for name in named:
        assert not make_plan(kimi["TQ1"], load_profile(name), ctx_size=262144).plan.memory.host.paged_mib
    assert "Moonshot" in text
    assert "nano" in text


@pytest.mark.parametrize(
    "wrong",
    [
        {"ctx_size": 0},
        {"ctx_size": 10**9},
        {"parallel": 0},
        {"parallel": 999},
        {"objective": "best"},
        {"limits": Limits(gpu_keep_free_mib=-1)},
        {"limits": Limits(host_keep_free_mib=float("nan"))},
    ],
)
def test_wrong_calls_are_told(kimi, wrong):
    with pytest.raises(UsageError) as error:
        make_plan(kimi["TQ1"], machine(), **wrong)
    assert error.value.id == "KNB378"


def test_no_model_at_all():
    with pytest.raises(UsageError, match="KNB378"):
        make_plan([], machine())


def test_measured_costs_are_planned_with(tmp_path):
    """From a slice measured on an H200: nothing in a grid is faster by the same measurements."""
    model, profile = h200_profile(tmp_path)
    here = h200()
    result = make_plan(model, here, ctx_size=4096, profile=profile)
    plan = result.plan
    assert plan.forecast.source == "measured"
    assert not plan.memory.host.paged_mib
    assert plan.forecast == forecast(model, plan.settings, here, profile, report=plan.memory)
    # The runs that were made left GPU memory free; the plan fills it, and so should be a little faster.
    assert 20 <= plan.settings.n_cpu_moe < 26
    assert H200_FULL[26][0] < plan.forecast.decode_tok_s.expected < 1.3 * H200_FULL[26][0]
    speeds = [
        forecast(model, settings, here, profile, report=report).decode_tok_s.expected
        for settings in grid(here, 61, 4096)
        if (report := fits(model, settings.replace(threads=16), here)) is not None
    ]
    assert plan.forecast.decode_tok_s.expected >= 0.98 * max(speeds)


def test_a_profile_of_another_model_does_not_count(kimi, tmp_path):
    _, profile = h200_profile(tmp_path)
    found = make_plan([kimi["TQ1"], kimi["Q4K"]], h200(), ctx_size=4096, profile=profile)
    assert found.plan.forecast.source == "measured"
    other = make_plan(kimi["Q4K"], h200(), ctx_size=4096, profile=profile).plan
    assert other.forecast.source == "estimated"
    asked = []
    make_plan([kimi["TQ1"], kimi["Q4K"]], h200(), ctx_size=4096, profile=asked.append)
    assert {model.name for model in asked} == {"TQ1", "Q4K"}


def test_threads_are_those_that_measured_best(tmp_path):
    """More threads than memory can feed are slower; the profile knows."""
    model, profile = h200_profile(tmp_path)
    best = tuple(replace(cost, threads=8, ms=cost.ms * 0.5) for cost in profile.costs if cost.threads == 16)
    profile = replace(profile, costs=profile.costs + best)
    plan = make_plan(model, h200(), ctx_size=4096, profile=profile).plan
    assert plan.settings.threads == 8


def test_margins_are_kept_as_asked(kimi):
    here = load_profile("h100-80gb")
    usual, wide = (
        make_plan(kimi["TQ1"], here, ctx_size=16384, limits=limits).plan
        for limits in (Limits(), Limits(gpu_keep_free_mib=20_000, host_keep_free_mib=50_000))
    )
    assert wide.settings.n_cpu_moe > usual.settings.n_cpu_moe
    for plan in (usual, wide):
        (gpu_here,) = plan.memory.gpus
        assert gpu_here.free_mib - gpu_here.needed_mib >= plan.limits.gpu_keep_free_mib
        host = plan.memory.host
        assert host.available_mib - host.needed_mib >= plan.limits.host_keep_free_mib
    assert any("19.5 GiB of each GPU" in text for text in wide.reasons)


def test_margins_grow_with_main_memory(kimi):
    assert Limits.usual(machine(ram_gib=24)).host_keep_free_mib == 1024
    here = load_profile("rtx4090-256gb")
    usual = Limits.usual(here)
    assert usual.host_keep_free_mib == pytest.approx(0.02 * 251 * 1024)
    chosen = Limits.usual(here, host_keep_free_mib=10.0, gpu_keep_free_mib=None)
    assert chosen == Limits(host_keep_free_mib=10.0)
    plan = make_plan(kimi["TQ1"], here).plan
    assert plan.limits == usual
    assert plan.memory.host.available_mib - plan.memory.host.needed_mib >= usual.host_keep_free_mib
    assert any("5.0 GiB of main memory stay free" in text for text in plan.reasons)


def test_what_kernels_borrow_is_planned_for(tmp_path):
    """IQ1_M has no kernel for packed long steps: reading borrows a gigabyte that a start does not show."""
    model = ModelShape(n_layer=20, types=kimi_types("Q8_0", "IQ1_M", "IQ1_M", "Q8_0")).read(
        tmp_path / "m.gguf"
    )
    plan = make_plan(model, machine(gpu(40_000), ram_gib=512), objective="prefill", ctx_size=8192).plan
    (card,) = plan.memory.gpus
    assert plan.settings.ubatch_size >= 2048
    assert card.extra_mib - 700 > 600
    assert card.free_mib - card.needed_mib >= LIMITS.gpu_keep_free_mib
    assert any("that its kernels borrow" in text for text in plan.reasons)


@pytest.mark.soak
@pytest.mark.parametrize("seed", range(100, 350))
def test_many_random_plans(seed, tmp_path):
    test_random_plans_fit_and_refusals_are_right(seed, tmp_path)


@pytest.mark.soak
@pytest.mark.parametrize("seed", range(100, 140))
def test_many_grids(seed, tmp_path):
    test_nothing_in_a_grid_writes_much_faster(seed, tmp_path)
