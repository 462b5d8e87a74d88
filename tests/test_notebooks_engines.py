"""Notebooks 4, 5 and 6 on another engine by changing one parameter: the address. No cell fails, and no request is refused
that should not be."""

from pathlib import Path

import nbformat
import pytest
from scripted_engine import ScriptedEngine
from strict_engines import strict

from kimi_nb.run import run_notebooks

NOTEBOOKS = Path(__file__).parents[1] / "notebooks"

pytestmark = [pytest.mark.engine, pytest.mark.notebooks]


def outputs(path):
    book = nbformat.read(path, as_version=4)
    found = []
    for cell in book.cells:
        for output in cell.get("outputs", ()):
            data = output.get("data", {})
            found.append(output.get("text", "") or data.get("text/html", "") or data.get("text/plain", ""))
    return "\n".join(found)


@pytest.fixture
def ran(tmp_path, monkeypatch):
    def run(name, kind):
        monkeypatch.delenv("ENGINE_API_KEY", raising=False)
        with ScriptedEngine(strict(kind), kind=kind, api_key="none") as scripted:
            made = run_notebooks(
                [NOTEBOOKS / f"{name}.ipynb"],
                out=tmp_path / "out",
                parameters={"engine_url": scripted.base_url},
            )
        [notebook] = made.notebooks
        assert notebook.status == "succeeded", notebook.error
        return scripted, outputs(tmp_path / "out" / f"{name}.ipynb")

    return run


def refused(scripted):
    return [(status, body) for status, body in scripted.refusals if status == 400]


def one_now_and_one_later(now, later):
    """Both engines in the soak, one of them in every test run: a notebook takes ten seconds."""
    return pytest.mark.parametrize("kind", [now, pytest.param(later, marks=pytest.mark.soak)])


@one_now_and_one_later("vllm", "moonshot")
def test_inference(ran, kind):
    scripted, shown = ran("04_inference", kind)
    assert f"Chat({kind} at" in shown
    assert "response_format" in shown
    assert "That is all" in shown
    assert "KNB601" in shown
    assert "KNB602" in shown
    assert "KNB609" in shown or "no error" in shown
    assert "is not ours, and goes on running" in shown
    if kind == "vllm":
        assert "KNB604: the prompt has 4196 tokens, and the engine holds 3000" in shown
    else:  # the table of switches tries all names on purpose, and one engine says so
        assert "unknown field chat_template_kwargs" in shown
    assert not any("grammar" in body or "return_progress" in body for body in scripted.bodies)


@pytest.mark.soak
@pytest.mark.parametrize("kind", ["vllm", "moonshot"])
def test_serving(ran, kind):
    scripted, shown = ran("05_serving", kind)
    assert "models: ['kimi-k2.5']" in shown
    assert "That is all: What is llama.cpp?" in shown
    assert len(scripted.bodies) == 1
    assert refused(scripted) == []


@one_now_and_one_later("moonshot", "vllm")
def test_tool_calls(ran, kind):
    scripted, shown = ran("06_tool_calls", kind)
    assert f"Chat({kind} at" in shown
    assert refused(scripted) == []
    for said in ("functions.get_weather:0", "functions.get_weather:1", "read_file", "refused", "timeout", "('budget review', 'high')", "asks first"):  # fmt: skip
        assert said in shown, said
    # The reasoning went back, and every id was mended to Kimi's own form.
    called = [
        call["id"] for body in scripted.bodies for m in body["messages"] for call in m.get("tool_calls") or ()
    ]
    assert called
    by_hand = {"call_0"}  # one call of the notebook is carried by hand, as the engine sent it
    assert all(each.startswith("functions.") for each in set(called) - by_hand)
