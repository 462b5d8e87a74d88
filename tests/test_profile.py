"""Profiles: costs fitted from slices, forecasts from costs, and files that are no profile. Pure, without llama.cpp."""

import json
import random
from dataclasses import replace

import pytest
from header_models import ORACLE_MODELS
from recorded_profiles import H200_FULL, h200, h200_profile

from kimi_nb.errors import UsageError
from kimi_nb.machine import load_profile as load_machine
from kimi_nb.plan import Settings
from kimi_nb.plan.profile import Cost, Measurement, Profile, StepCost, forecast_from
from kimi_nb.plan.profile_fit import fit_costs, way_of
from kimi_nb.plan.profile_forecast import forecast_from as forecast_at
from kimi_nb.plan.profile_forecast import step_costs
from kimi_nb.plan.profile_lookup import CostTable
from kimi_nb.plan.profile_model import mismatch, profile_model

TRUE_MS = {"fixed": 2.0, "dense": 14.0, "moe": 26.0, "head": 35.0}
"""What parts of the made-up machine cost while it writes."""


@pytest.fixture(scope="module")
def kimi(tmp_path_factory):
    return ORACLE_MODELS["TQ1"].read(tmp_path_factory.mktemp("profile") / "kimi.gguf")


@pytest.fixture(scope="module")
def cpu():
    machine = load_machine("cpu-512gb")
    return replace(machine, cpu=replace(machine.cpu, allowed_physical=16, physical_cores=16, sockets=1))


def measured(
    kimi, n_dense, n_moe, ms, *, n_vocab=10240, n_expert=384, prompt=0, depth=0, threads=16, **settings
):
    facts = profile_model(kimi)
    return Measurement(
        n_dense=n_dense,
        n_moe=n_moe,
        n_expert=n_expert,
        n_vocab=n_vocab,
        moe_bytes=facts.rest_bytes + facts.used_bytes if n_moe else 0.0,
        settings={"n_gpu_layers": 0, "threads": threads, **settings},
        prompt_tokens=prompt,
        written_tokens=0 if prompt else 8,
        depth=depth,
        samples_ms=tuple(x * (1 if prompt else 8) for x in ms),
    )


def slices(kimi, *, noise=0.0, threads=16, slower=1.0):
    chance = random.Random(7)
    rows = []
    for n_dense, n_moe, n_vocab in ((1, 3, 10240), (1, 0, 10240), (1, 0, 65536), (3, 0, 10240)):
        ms = TRUE_MS["fixed"] + n_dense * TRUE_MS["dense"] + n_moe * TRUE_MS["moe"]
        ms = slower * (ms + TRUE_MS["head"] * n_vocab / 163840)
        samples = [ms * (1 + noise * chance.uniform(-1, 1)) for _ in range(5)]
        rows.append(measured(kimi, n_dense, n_moe, samples, n_vocab=n_vocab, threads=threads))
    return rows


def profile_of(kimi, rows, **changes):
    facts = profile_model(kimi)
    profile = Profile(
        machine="made up", machine_key="0", build="b", backend="cpu", made="2026-01-01T00:00:00+00:00",
        model=facts, costs=fit_costs(rows, facts), measurements=tuple(rows),
    )  # fmt: skip
    return replace(profile, **changes)


def expected(profile, part, *, tokens=1, way="cpu"):
    (found,) = (c.ms for c in profile.costs if (c.part, c.tokens, c.way) == (part, tokens, way))
    return found


def test_costs_are_found_again(kimi):
    profile = profile_of(kimi, slices(kimi))
    for part, ms in TRUE_MS.items():
        assert expected(profile, part).expected == pytest.approx(ms, rel=0.02)


def test_spread_becomes_a_band_around_the_truth(kimi, cpu):
    profile = profile_of(kimi, slices(kimi, noise=0.06))
    moe = expected(profile, "moe")
    assert moe.low < moe.expected < moe.high
    true = 1000 / (2 + 14 + 60 * 26 + 35)
    band = forecast_from(profile, kimi, Settings(ctx_size=4096, threads=16), cpu).decode_tok_s
    assert band.low < true < band.high
    assert band.expected == pytest.approx(true, rel=0.05)


def test_one_slice_on_an_h200_predicts_the_whole(tmp_path):
    kimi, profile = h200_profile(tmp_path)
    for layers, rates in H200_FULL.items():
        settings = Settings(ctx_size=4096, n_gpu_layers=999, n_cpu_moe=layers, threads=16)
        found = forecast_from(profile, kimi, settings, h200())
        true = sum(rates) / len(rates)
        assert found.decode_tok_s.expected == pytest.approx(true, rel=0.05 if layers != 26 else 0.09)
        assert found.decode_bound == "cpu"
        assert found.source == "measured"
        assert any("estimated" in note for note in found.notes)  # no prompt was recorded


def test_what_is_more_on_the_gpu_is_faster(tmp_path):
    kimi, profile = h200_profile(tmp_path)
    rates = [
        forecast_from(profile, kimi, Settings(ctx_size=4096, n_cpu_moe=n), h200()).decode_tok_s.expected
        for n in (61, 45, 30, 26)
    ]
    assert rates == sorted(rates)
    # The same by a pattern: one expert matrix of three is a part of the cost.
    one = Settings(ctx_size=4096, override_tensor=("ffn_down_exps=CPU",))
    assert rates[0] < forecast_from(profile, kimi, one, h200()).decode_tok_s.expected


def test_fewer_experts_stand_for_longer_steps(kimi, cpu):
    """96 of 384 experts and 128 tokens: each expert has as many tokens as with all of them and 512 tokens."""
    rest, routed = 100.0, 400.0  # of 128 tokens and 96 experts
    rows = slices(kimi)
    head = TRUE_MS["head"] * 10240 / 163840
    for n_dense, n_moe, ms in (
        (1, 0, rest),
        (3, 0, rest + 2 * 300),
        (1, 3, rest + 300 + 2 * (rest + routed)),
    ):
        rows.append(measured(kimi, n_dense, n_moe, [ms + head] * 3, prompt=128, n_expert=96))
    profile = profile_of(kimi, rows)
    assert expected(profile, "fixed", tokens=128).expected == pytest.approx(rest, rel=0.02)
    facts = profile.model
    shared = 200 * (facts.rest_bytes - facts.attention_bytes) / (facts.dense_bytes - facts.attention_bytes)
    # What is not experts grows with the tokens alone, what is grows with tokens and experts.
    assert expected(profile, "moe", tokens=512).expected == pytest.approx(
        4 * (rest + shared) + 4 * (routed - shared), rel=0.03
    )
    found = forecast_at(profile, kimi, Settings(ctx_size=4096, ubatch_size=512), cpu, prompt_tokens=512)
    step = 512 / found.prefill_tok_s.expected
    assert step == pytest.approx((59 * 2000 + 4 * 300 + 4 * rest) / 1000, rel=0.05)


def test_cached_tokens_cost(kimi, cpu):
    rows = slices(kimi)
    flat = TRUE_MS["fixed"] + 3 * TRUE_MS["dense"] + TRUE_MS["head"] / 16
    rows.append(measured(kimi, 3, 0, [flat + 6.0] * 3, depth=1024))
    rows.append(measured(kimi, 3, 0, [flat + 9.0] * 3, depth=1024, cache_type_k="q8_0"))
    profile = profile_of(kimi, rows)
    depths = {c.kv_type: c.ms.expected for c in profile.costs if c.part == "depth"}
    assert depths == pytest.approx({"f16": 2.0, "q8_0": 3.0}, rel=0.01)
    for kind, each in (("f16", 2.0), ("q8_0", 3.0)):
        settings = Settings(ctx_size=16384, cache_type_k=kind, cache_type_v=kind)
        near = step_costs(profile, kimi, settings, cpu)["cpu"].expected
        far = step_costs(profile, kimi, settings, cpu, depth=8192)["cpu"].expected
        assert far - near == pytest.approx(61 * 8 * each, rel=0.01)


def test_tokens_of_one_step_cost_each_other(kimi, cpu):
    """A layer takes 0.5 ms for each token, and 1 ms for each token and 1024 tokens before it."""
    each, before = 0.5, 1.0
    head = TRUE_MS["head"] * 10240 / 163840

    def ms(n_layers, tokens, depth=0):
        return n_layers * tokens * (each + before * (depth + tokens / 2) / 1024) + head

    rows = slices(kimi)
    for prompt in (32, 512):
        rows += [
            measured(kimi, *n, [ms(sum(n), prompt)] * 3, prompt=prompt) for n in ((1, 0), (3, 0), (1, 3))
        ]
    rows.append(measured(kimi, 3, 0, [ms(3, 32, 1024)] * 3, prompt=32, depth=1024))
    lasts = {}
    for without_deep in (False, True):
        profile = profile_of(kimi, rows[:-1] if without_deep else rows)

        def told(tokens, depth=0, profile=profile):
            settings = Settings(ctx_size=8192, batch_size=tokens, ubatch_size=tokens, threads=16)
            found = forecast_at(profile, kimi, settings, cpu, prompt_tokens=tokens, depth=depth)
            return tokens / found.prefill_tok_s.expected * 1000

        # What was measured comes out again, whether the attention is known apart or not.
        assert told(512) == pytest.approx(ms(61, 512), rel=0.03)
        lasts[without_deep] = told(2048) / ms(61, 2048)
    assert lasts[True] < 0.7
    assert lasts[False] == pytest.approx(1, rel=0.03)


def gpu_slices(kimi, *, moved=4.0, kept=0.25, sent=25.0):
    """A GPU's slices: the last layer's experts of a prompt are computed for one token, where they lie."""
    rows = []
    for n_moe, more, ms in (
        (0, {}, 1.0),
        (3, {}, 1.0 + 3 * kept),
        (3, {"cpu_moe": True, "op_offload": False}, 1.0 + 3 * moved),
    ):
        rows.append(measured(kimi, 1, n_moe, [ms] * 5, n_gpu_layers=999, **more))
    for n_dense, n_moe, more, ms in (
        (1, 0, {}, 5.0),
        (3, 0, {}, 5.0 + 2 * 4.0),
        (1, 3, {}, 5.0 + 4.0 + 2 * 8.0),
        (1, 3, {"cpu_moe": True}, 5.0 + 4.0 + 2 * sent + moved - kept),
    ):
        rows.append(measured(kimi, n_dense, n_moe, [ms] * 5, prompt=512, n_gpu_layers=999, **more))
    return rows


def test_the_answers_token_is_computed_where_the_last_experts_are(kimi):
    """On an H200 prompts were forecast 17 % too slow.

    Of a prompt's last layer only one token is wanted. That is too few to send experts to a GPU for, so the
    processor computes it: 4 ms, which the forecast took for a part of the two layers that are sent.
    """
    profile = profile_of(kimi, gpu_slices(kimi), backend="cuda")
    assert expected(profile, "moe", tokens=512, way="experts_offload").expected == pytest.approx(25, rel=0.02)
    memory = replace(h200().memory, total_mib=1_000_000, available_mib=900_000, physical_mib=1_000_000)
    machine = replace(h200(), memory=memory)
    settings = Settings(ctx_size=4096, n_gpu_layers=999, ubatch_size=512)
    for on_host, sent, answer in ((61, 59, 4.0 - 0.25), (31, 30, 0.0)):
        at = settings.replace(n_cpu_moe=on_host)
        found = forecast_at(profile, kimi, at, machine, prompt_tokens=512)
        step = 5.0 + 4.0 + 25.0 * sent + 8.0 * (59 - sent) + answer
        assert 512_000 / found.prefill_tok_s.expected == pytest.approx(step, rel=0.01)
        # A long prompt has an answer at its end alone.
        long = forecast_at(profile, kimi, at, machine, prompt_tokens=2048)
        assert 2048_000 / long.prefill_tok_s.expected == pytest.approx(4 * step - 3 * answer, rel=0.01)


def test_one_tokens_attention_says_nothing_of_a_prompts(kimi):
    """A GPU reads its cache once for all tokens of a step: 512 times one token's cost was far too much."""
    rows = gpu_slices(kimi)
    rows.append(measured(kimi, 1, 0, [1.0 + 8 * 0.01] * 5, depth=8192, n_gpu_layers=999))
    settings = Settings(ctx_size=16384, n_gpu_layers=999, n_cpu_moe=61, ubatch_size=512)

    def step(rows, tokens, depth):
        found = step_costs(profile_of(kimi, rows), kimi, settings, h200(), tokens=tokens, depth=depth)
        return sum(cost.expected for cost in found.values())

    assert step(rows, 1, 8192) - step(rows, 1, 0) == pytest.approx(61 * 8 * 0.01, rel=0.02)
    assert step(rows, 512, 8192) == step(rows, 512, 0)
    rows.append(measured(kimi, 3, 0, [13.0 + 3 * 8 * 0.1] * 5, prompt=512, depth=8192, n_gpu_layers=999))
    assert step(rows, 512, 8192) - step(rows, 512, 0) == pytest.approx(61 * 8 * 0.1, rel=0.05)


def test_threads_between_and_beyond_what_was_measured(kimi):
    profile = profile_of(kimi, [*slices(kimi), *slices(kimi, threads=8, slower=1.9)])
    table = CostTable(profile.costs)

    def at(threads):
        return table.find("moe", "cpu", threads=threads, tokens=1)

    assert at(16).expected < at(12).expected < at(8).expected < at(4).expected
    assert at(4).expected == pytest.approx(2 * at(8).expected, rel=0.05)
    more = at(32)
    assert more.low <= at(16).low / 2 * 1.01
    assert more.high >= at(16).expected
    assert table.find("moe", "gpu", threads=1, tokens=1) is None


def test_longer_steps_than_measured_open_the_band(kimi):
    rows = [
        *slices(kimi),
        *(
            measured(kimi, *n, [ms] * 3, prompt=512)
            for n, ms in (((1, 0), 100.0), ((3, 0), 500.0), ((1, 3), 4300.0))
        ),
    ]
    table = CostTable(profile_of(kimi, rows).costs)
    known = table.find("moe", "cpu", threads=16, tokens=512)
    longer = table.find("moe", "cpu", threads=16, tokens=2048)
    assert known.expected < longer.expected <= 4 * known.expected
    assert longer.high - longer.low > 2 * (known.high - known.low)
    assert table.find("moe", "cpu", threads=16, tokens=100).expected < known.expected


def test_what_exceeds_main_memory_is_read_from_disk(kimi, cpu):
    small = replace(cpu, memory=replace(cpu.memory, total_mib=128_000, available_mib=120_000))
    settings = Settings(ctx_size=4096, cache_ram=0, repack=False)
    profile = profile_of(kimi, slices(kimi), disk_read_mib_s=Cost(low=1000, expected=2000, high=4000))
    slow = forecast_from(profile, kimi, settings, small)
    assert slow.decode_bound == "disk"
    assert slow.decode_tok_s.expected < forecast_from(profile, kimi, settings, cpu).decode_tok_s.expected / 2
    unknown = forecast_from(replace(profile, disk_read_mib_s=None), kimi, settings, small)
    assert any("disk" in note for note in unknown.notes)
    assert (
        unknown.decode_tok_s.high / unknown.decode_tok_s.low > slow.decode_tok_s.high / slow.decode_tok_s.low
    )


def test_waiting_for_memory_is_told_from_computing(kimi, cpu):
    settings = Settings(ctx_size=4096, threads=16)
    for slower, bound in ((1.9, "cpu"), (1.1, "ram")):
        profile = profile_of(kimi, [*slices(kimi), *slices(kimi, threads=8, slower=slower)])
        assert forecast_from(profile, kimi, settings, cpu).decode_bound == bound


def test_other_weights_than_measured_are_told(kimi, cpu):
    profile = profile_of(kimi, slices(kimi))
    for repack, told in ((None, False), (True, False), (False, True)):
        notes = forecast_from(profile, kimi, Settings(ctx_size=4096, repack=repack), cpu).notes
        assert any("--repack" in note for note in notes) == told


def test_a_profile_of_another_quant_is_refused(kimi, cpu, tmp_path):
    profile = profile_of(kimi, slices(kimi))
    other = ORACLE_MODELS["Q4K"].read(tmp_path / "q4.gguf")
    assert mismatch(profile, kimi) is None
    with pytest.raises(UsageError, match=r"KNB842.*Q4_K"):
        forecast_from(profile, other, Settings(ctx_size=4096), cpu)


def test_a_placement_of_which_nothing_is_known_is_refused(kimi, cpu):
    profile = profile_of(kimi, slices(kimi))
    bare = replace(profile, costs=tuple(cost for cost in profile.costs if cost.part != "moe"))
    with pytest.raises(UsageError, match=r"KNB842.*moe"):
        forecast_from(bare, kimi, Settings(ctx_size=4096), cpu)


def test_ways_by_settings(kimi):
    ways = [
        way_of(measured(kimi, 1, 2, [1.0], prompt=prompt, n_gpu_layers=layers, **more))
        for prompt, layers, more in (
            (0, 0, {}), (0, 999, {}), (0, 999, {"cpu_moe": True}),
            (64, 999, {"cpu_moe": True}), (64, 999, {"cpu_moe": True, "op_offload": False}), (16, 999, {"cpu_moe": True}),
        )
    ]  # fmt: skip
    assert ways == ["cpu", "gpu", "experts_cpu", "experts_offload", "experts_cpu", "experts_cpu"]


def test_round_trip(kimi):
    profile = profile_of(kimi, slices(kimi, noise=0.05), disk_read_mib_s=Cost(low=1, expected=2, high=3))
    assert Profile.from_dict(json.loads(json.dumps(profile.to_dict()))) == profile


def spoiled(profile):
    """Ways to spoil a profile's JSON, with what the message must name."""
    yield {"costs": []}, "costs"
    yield {"format": 2}, "format"
    yield {"format": "1"}, "format"
    yield {"made": 5}, "made"
    yield {"machine": None}, "machine"
    yield {"surprise": 1}, "surprise"
    yield {"costs": "none"}, "costs"
    for ms in (
        {"low": 2, "expected": 1, "high": 3},
        {"low": -1, "expected": 1, "high": 3},
        {"low": 1},
        [1, 2, 3],
    ):
        yield {"costs": [{**profile["costs"][0], "ms": ms}]}, "ms"
    for change in (
        {"tokens": 0},
        {"tokens": 1.5},
        {"way": "moon"},
        {"part": ""},
        {"threads": -1},
        {"kv_type": 1},
    ):
        yield {"costs": [{**profile["costs"][0], **change}]}, next(iter(change))
    for number in (float("nan"), float("inf"), 10**400, "1", None):
        yield {"model": {**profile["model"], "dense_bytes": number}}, "dense_bytes"
    yield {"measurements": [{**profile["measurements"][0], "samples_ms": []}]}, "measurements[0]"
    yield {"measurements": [{**profile["measurements"][0], "prompt_tokens": 5}]}, "measurements[0]"


def test_what_is_no_profile_is_named(kimi):
    good = profile_of(kimi, slices(kimi)).to_dict()
    for change, key in spoiled(good):
        with pytest.raises(UsageError) as error:
            Profile.from_dict({**good, **change})
        assert error.value.id == "KNB841"
        assert key in str(error.value)
    for value in (None, [], "x", 3, {}):
        with pytest.raises(UsageError, match="KNB841"):
            Profile.from_dict(value)


def test_a_cost_is_plain_arithmetic():
    cost = Cost(low=1, expected=2, high=4)
    assert cost + cost == cost * 2
    step = StepCost(part="moe", way="cpu", threads=1, tokens=1, kv_type="f16", ms=cost)
    assert step.ms.high == 4
