"""The pictures of a plan: the same figures as the plan's, in words, as SVG and for plotly."""

from xml.etree import ElementTree as ET

import pytest
from header_models import ORACLE_MODELS

from kimi_nb.machine import load_profile
from kimi_nb.plan.drawing import Curve
from kimi_nb.plan.figures import decode_figure, memory_figure, prefill_figure
from kimi_nb.plan.planner import make_plan


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return ORACLE_MODELS["TQ1"].read(tmp_path_factory.mktemp("figures") / "kimi.gguf")


@pytest.fixture(scope="module", params=["rtx4090-256gb", "rtx3090x2-256gb", "cpu-512gb", "m2-ultra-192gb"])
def case(request, model):
    machine = load_profile(request.param)
    return make_plan(model, machine, ctx_size=8192).plan, machine


@pytest.fixture(params=["memory", "decode", "prefill"])
def picture(request, case, model):
    plan, machine = case
    if request.param == "memory":
        return memory_figure(plan)
    return {"decode": decode_figure, "prefill": prefill_figure}[request.param](plan, model, machine)


def test_every_form_is_there(picture):
    bundle = picture._repr_mimebundle_()
    assert set(bundle) == {"text/plain", "image/svg+xml", "application/vnd.plotly.v1+json"}
    svg = ET.fromstring(bundle["image/svg+xml"])
    assert svg.get("role") == "img"
    assert svg.get("aria-label") == repr(picture) == bundle["text/plain"]
    assert bundle["application/vnd.plotly.v1+json"]["data"]
    assert "://" not in bundle["image/svg+xml"].replace("http://www.w3.org/2000/svg", "")


def test_nothing_is_drawn_outside(picture):
    svg = ET.fromstring(picture.svg())
    _, _, width, height = map(float, svg.get("viewBox").split())
    for element in svg.iter():
        for x, y in [("x", "y"), ("cx", "cy"), ("x2", "y2")]:
            if element.get(x) and element.get(y):
                assert 0 <= float(element.get(x)) <= width
                assert 0 <= float(element.get(y)) <= height
        if element.tag.endswith("rect") and element.get("x"):
            assert float(element.get("x")) + float(element.get("width")) <= width


def test_memory_says_what_the_plan_says(case):
    plan, _ = case
    picture = memory_figure(plan)
    assert len(picture.rows) == len(plan.memory.gpus) + 1
    for row, gpu in enumerate(plan.memory.gpus):
        share = sum(part.percent[row] for part in picture.parts)
        assert share == pytest.approx(100 * gpu.needed_mib / gpu.free_mib, abs=0.1)
        assert share <= 100
    assert len({part.pattern for part in picture.parts}) == len(picture.parts)  # readable without colour
    if plan.memory.host.paged_mib:
        assert "read from disk" in picture.words[-1]


def test_curves_pass_through_the_plan(case, model):
    plan, machine = case
    for picture, band in [
        (decode_figure(plan, model, machine), plan.forecast.decode_tok_s),
        (prefill_figure(plan, model, machine), plan.forecast.prefill_tok_s),
    ]:
        assert picture.chosen in picture.x
        at = picture.x.index(picture.chosen)
        assert picture.expected[at] == pytest.approx(band.expected, rel=0.02)
        assert all(
            low <= y <= high for low, y, high in zip(picture.low, picture.expected, picture.high, strict=True)
        )


def test_more_experts_on_the_gpu_write_faster(model):
    machine = load_profile("h100-80gb")
    picture = decode_figure(make_plan(model, machine, ctx_size=8192).plan, model, machine)
    assert picture.x == tuple(range(61))
    assert list(picture.expected) == sorted(picture.expected)
    assert 10 < picture.room < 30
    assert picture.chosen == picture.room
    assert f"{picture.room + 1:.0f} lacks" in picture.note
    whole = decode_figure(make_plan(model, load_profile("h200x8")).plan, model, load_profile("h200x8"))
    assert whole.room is None
    assert whole.chosen == 60


def test_one_point_and_hostile_names_are_drawn():
    picture = Curve("<b>&\"'", "x", "y", (1.0,), (0.0,), (0.0,), (0.0,), chosen=1.0)
    assert ET.fromstring(picture.svg()).get("aria-label").startswith("<b>&\"'")
    picture.plotly()
