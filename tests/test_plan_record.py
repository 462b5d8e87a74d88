"""A plan as a file: it comes back as it was, and what is not one is told clearly."""

import json
from dataclasses import replace

import pytest
from header_models import ORACLE_MODELS

from kimi_nb.errors import UsageError
from kimi_nb.machine import load_profile
from kimi_nb.model.candidates import Candidate
from kimi_nb.plan.planner import make_plan
from kimi_nb.plan.record import Plan

MACHINE = load_profile("rtx3090x2-256gb")


@pytest.fixture(scope="module")
def result(tmp_path_factory):
    model = ORACLE_MODELS["TQ1"].read(tmp_path_factory.mktemp("record") / "kimi.gguf")
    return make_plan(Candidate(model, key="kimi-k2.5", quant="UD-TQ1_0", repo="who/what"), MACHINE)


@pytest.fixture
def plan(result):
    return result.plan


def test_a_plan_comes_back_as_it_was(plan, tmp_path):
    file = tmp_path / "plan.json"
    plan.save(file)
    again = Plan.load(file)
    assert again.settings == plan.settings
    assert again.model == plan.model
    assert again.reasons == plan.reasons
    assert again.warnings == plan.warnings
    assert again.limits == plan.limits
    assert again.argv == plan.argv
    assert again.to_dict() == plan.to_dict()
    assert again.memory.fits
    assert again.forecast.decode_tok_s.expected == pytest.approx(
        plan.forecast.decode_tok_s.expected, abs=0.01
    )
    assert file.stat().st_size < 20_000


def test_a_whole_document_is_read_as_well(result, tmp_path):
    file = tmp_path / "document.json"
    file.write_text(json.dumps(result.as_dict()))
    assert Plan.load(file).to_dict() == result.plan.to_dict()


def test_the_document_is_the_contract(result):
    said = json.loads(json.dumps(result.as_dict()))
    assert set(said) == {"plan", "alternatives", "reasons", "what_would_fit"}
    for plan in [said["plan"], *said["alternatives"]]:
        assert plan["argv"][:2] == ["llama-server", "--model"]
        assert "--fit off" in " ".join(plan["argv"])
        assert plan["fits"] is True
        assert plan["short_mib"] == {}
        assert {"settings", "devices", "host", "forecast", "verified", "reasons", "warnings"} <= set(plan)
        for device in plan["devices"]:
            assert {"name", "total_mib", "model_mib", "context_mib", "compute_mib"} <= set(device)
        assert {"low", "expected", "high", "bound"} == set(plan["forecast"]["decode_tok_s"])
    assert said["plan"]["model"]["key"] == "kimi-k2.5"


def test_what_a_file_derives_is_not_believed(plan):
    value = plan.to_dict()
    value["argv"] = ["rm", "-rf", "/"]
    value["fits"] = False
    again = Plan.from_dict(value)
    assert again.argv == plan.argv
    assert again.memory.fits


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"format": 2}, "format"),
        ({"format": True}, "format"),
        ({"machine": 3}, "machine"),
        ({"objective": "speed"}, "objective"),
        ({"devices": {}}, "devices"),
        ({"devices": [{"name": "GPU0"}]}, "devices[0]"),
        ({"host": None}, "host"),
        ({"forecast": {"decode_tok_s": 4}}, "forecast.decode_tok_s"),
        ({"reasons": "many"}, "reasons"),
        ({"surprise": 1}, "surprise"),
        ({"limits": {"gpu_keep_free_mib": -1}}, "limits.gpu_keep_free_mib"),
        ({"model": {}}, "model"),
    ],
)
def test_a_wrong_key_is_named(plan, change, named):
    with pytest.raises(UsageError) as error:
        Plan.from_dict({**plan.to_dict(), **change})
    assert error.value.id == "KNB376"
    assert error.value.why.startswith(named)


@pytest.mark.parametrize("value", [None, [], "plan", 3, {}, {"plan": None}, {"plan": {"plan": {}}}])
def test_what_is_no_plan_is_told(value):
    with pytest.raises(UsageError, match="KNB376"):
        Plan.from_dict(value)


def test_a_wrong_setting_is_told_as_such(plan):
    with pytest.raises(UsageError, match="KNB502"):
        Plan.from_dict({**plan.to_dict(), "settings": {"n_gpu_layer": 3}})
    with pytest.raises(UsageError, match="KNB501"):
        Plan.from_dict({**plan.to_dict(), "settings": {"ctx_size": "lots"}})


@pytest.mark.parametrize("content", [b"", b"\xff\xfe", b"{", b"[" * 100_000, b" " * (2 << 20)])
def test_a_hostile_file_is_told(content, tmp_path):
    file = tmp_path / "plan.json"
    file.write_bytes(content)
    with pytest.raises(UsageError) as error:
        Plan.load(file)
    assert error.value.id in {"KNB375", "KNB376"}
    assert str(file) in str(error.value)


def test_numbers_that_are_none_are_told(plan, tmp_path):
    file = tmp_path / "plan.json"
    value = plan.to_dict()
    value["host"]["total_mib"] = float("nan")
    file.write_text(json.dumps(value))
    with pytest.raises(UsageError, match="KNB376"):
        Plan.load(file)


def test_places_that_cannot_be_read_or_written(plan, tmp_path):
    for missing in (tmp_path / "none.json", tmp_path):
        with pytest.raises(UsageError, match="KNB375"):
            Plan.load(missing)
    for place in (tmp_path, tmp_path / "plan.json" / "x.json"):
        (tmp_path / "plan.json").write_text("a file")
        with pytest.raises(UsageError, match="KNB377"):
            plan.save(place)


def test_random_damage_never_escapes(plan):
    """Every key in turn is dropped, or replaced by something else: our error, or a plan."""
    value = plan.to_dict()
    seen = set()
    for key in value:
        for other in (None, -1, "x", [], {}, [None], {"a": 1}, 1e400):
            seen.add(outcome({**value, key: other}))
        without = {name: item for name, item in value.items() if name != key}
        assert (outcome(without) == "plan") == (key in {"fits", "short_mib", "verified", "argv"}), key
    assert seen <= {"plan", "KNB376", "KNB501", "KNB502", "KNB503"}


def outcome(value):
    """The error's id, or that there is a plan."""
    try:
        Plan.from_dict(value)
    except UsageError as error:
        return error.id
    return "plan"


def test_a_stand_in_says_so(plan):
    near = replace(plan, model=replace(plan.model, approximate=True, header_sha256=""))
    assert near.to_dict()["exact"] is False
    assert plan.to_dict()["exact"] is True
