"""Speed without a measurement: a wide band, labelled so, that holds what was measured."""

import json
import math

import pytest
from planning_machines import gpu, machine
from speed_rows import MODELS, OURS, THEIRS

from kimi_nb.plan import Settings
from kimi_nb.plan.speed import Band, Forecast, forecast


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("speed")
    return {
        name: shape.read(folder / f"{number}.gguf") for number, (name, shape) in enumerate(MODELS.items())
    }


def inside(band, seen):
    """Whether a range that was seen and a band have anything in common."""
    return seen is None or (band.low <= seen[1] and seen[0] <= band.high)


def told(row, models):
    found = forecast(models[row.model], Settings(**row.settings), row.machine)
    assert found is not None, f"{row.name} does not fit"
    return found


@pytest.mark.parametrize("row", OURS, ids=lambda row: row.name)
def test_the_band_holds_what_we_measured(row, models):
    found = told(row, models)
    assert inside(found.decode_tok_s, row.decode), found
    assert inside(found.prefill_tok_s, row.prefill), found
    # Not by being endless, either.
    assert found.decode_tok_s.high < 6 * found.decode_tok_s.low


def test_the_band_holds_most_of_what_others_report(models):
    missed = []
    for row in THEIRS:
        found = told(row, models)
        missed += [
            f"{row.name}: {kind} {seen} is not in {band}"
            for kind, band, seen in [
                ("decode", found.decode_tok_s, row.decode),
                ("prefill", found.prefill_tok_s, row.prefill),
            ]
            if not inside(band, seen)
        ]
    seen = sum((row.decode is not None) + (row.prefill is not None) for row in THEIRS)
    print("\n".join(missed))
    assert seen >= 20
    assert len(missed) <= 0.15 * seen, missed


def test_a_guess_says_that_it_is_one(models):
    found = told(OURS[0], models)
    assert found.source == "estimated"
    assert "rehearse" in found.notes[0]
    said = json.loads(json.dumps(found.as_dict()))
    assert set(said) == {"decode_tok_s", "prefill_tok_s", "source", "notes"}
    assert said["decode_tok_s"] == {**found.decode_tok_s.as_dict(), "bound": "cpu"}
    assert list(said["prefill_tok_s"]) == ["low", "expected", "high", "bound"]


def test_what_does_not_fit_has_no_speed(models):
    small = machine(gpu(8192), ram_gib=512)
    assert forecast(models["TQ1"], Settings(ctx_size=4096), small) is None


def test_more_of_anything_is_not_slower(models):
    """Experts on the GPU, threads, cores, bandwidth: each alone helps or changes nothing."""
    base = {"ctx_size": 4096, "cache_ram": 0}

    def expected(here, **settings):
        return forecast(models["TQ1"], Settings(**base, **settings), here).decode_tok_s

    card = machine(gpu(143771, 4814.3), cores=32, ram_gib=256)
    on_host = [expected(card, n_cpu_moe=n) for n in range(26, 62, 5)]
    assert on_host == sorted(on_host, key=lambda band: -band.expected)
    assert on_host[0].expected > 1.5 * on_host[-1].expected
    by_threads = [expected(card, n_cpu_moe=61, threads=n).expected for n in (1, 2, 8, 32, 64)]
    assert by_threads == sorted(by_threads)
    assert by_threads[-1] == by_threads[-2]
    slow, fast = (expected(machine(gpu(143771, s), cores=32), n_cpu_moe=30).expected for s in (400, 4000))
    assert slow < fast


def test_a_disk_in_the_way_is_said_and_felt(models):
    there, short = (
        forecast(
            models["Q2K"],
            Settings(ctx_size=4096, cpu_moe=True, cache_ram=0),
            machine(gpu(24576), ram_gib=gib),
        )
        for gib in (512, 128)
    )
    assert there.decode_bound != "disk"
    assert short.decode_bound == "disk"
    assert short.decode_tok_s.expected < 0.3 * there.decode_tok_s.expected
    assert any("read from disk" in note for note in short.notes)
    assert not any("read from disk" in note for note in there.notes)


def test_bands_are_in_order_and_finite(models):
    for row in [*OURS, *THEIRS]:
        found = told(row, models)
        for band in (found.decode_tok_s, found.prefill_tok_s):
            assert 0 < band.low <= band.expected <= band.high < math.inf


def test_a_band_reads_well():
    assert str(Band(0.123, 4.56, 78.9)) == "4.6 (0.12 to 79)"
    assert Band(1 / 3, 2 / 3, 1).as_dict() == {"low": 0.33, "expected": 0.67, "high": 1}
    assert Forecast(Band(1, 2, 3), Band(4, 5, 6), "cpu", "pcie", "measured").as_dict()["source"] == "measured"
