"""The plan panel without a browser: its figures are the estimate's, and no message can break it."""

import json
import re

import nbformat
import pytest
from header_models import ModelShape, kimi_types
from hypothesis import given, settings
from hypothesis import strategies as some

from kimi_nb import panel as panels
from kimi_nb.cli import main
from kimi_nb.engine.planned import planned
from kimi_nb.errors import UsageError
from kimi_nb.panel import nodes as n
from kimi_nb.panel import still
from kimi_nb.panel.plan_panel import PlanPanel
from kimi_nb.plan import Plan
from kimi_nb.run import run_notebooks

MACHINES = ["rtx4090-256gb", "rtx3090x2-256gb", "cpu-512gb", "h100-80gb", "typed in"]
SHAPE = ModelShape(n_layer=8, types=kimi_types("Q8_0", "Q4_K", "Q4_K", "Q4_0"))


@pytest.fixture(scope="module")
def kimi(tmp_path_factory):
    path = tmp_path_factory.mktemp("panel") / "kimi.gguf"
    SHAPE.write(path)
    return path


@pytest.fixture(scope="module")
def panel(kimi):
    return PlanPanel(kimi, machine="cpu-512gb")


def said(panel):
    return panel.view["nodes"]


@settings(max_examples=30)
@given(
    machine=some.sampled_from(MACHINES),
    ctx_size=some.integers(256, 262144),
    experts_on_gpu=some.integers(0, 7),
    gpu_layers=some.integers(0, 9),
    kv_type=some.sampled_from(["f16", "q8_0", "q4_0"]),
    ubatch=some.sampled_from([64, 512, 1024, 4096]),
    threads=some.integers(1, 64),
    gpus_gib=some.sampled_from(["", "6", "24,24", "7.5"]),
    ram_gib=some.integers(1, 128),
    parallel=some.integers(1, 4),
    prompt_cache=some.sampled_from([0, 1024, 8192]),
)
def test_the_numbers_on_the_screen_are_those_of_the_estimate(panel, kimi, capsys, tmp_path, **chosen):
    """Through the state of the widget: what the browser draws is parsed, not what the kernel holds."""
    panel._hear(panel, {"set": chosen, "from": "a tab", "number": 1}, [])
    panel._machine.save(tmp_path / "machine.json")
    machine = str(tmp_path / "machine.json") if chosen["machine"] == "typed in" else chosen["machine"]
    words = ["estimate", "--gguf", str(kimi), "--machine", machine, "--json", *panel.settings.argv()]
    capsys.readouterr()
    code = main(words)
    told = json.loads(capsys.readouterr().out)
    assert code == (0 if told["fits"] else 1)

    def drawn(name, *kinds):
        parts = n.find(said(panel), "bar", label=name)["parts"]
        return sum(size for kind, _, size in parts if kind in kinds)

    for device in told["devices"]:
        assert drawn(device["name"], "weights") == device["model_mib"]
        assert drawn(device["name"], "context") == device["context_mib"]
        assert drawn(device["name"], "compute", "staging") == device["compute_mib"]
    host = told["host"]
    assert drawn("RAM", "context") == host["context_mib"]
    assert drawn("RAM", "compute") == host["compute_mib"]
    assert drawn("RAM", "weights") == host["model_mib"] - host["evictable_mib"]
    for verb, key in (("Writes", "decode_tok_s"), ("Reads a prompt", "prefill_tok_s")):
        if told["forecast"] is not None:
            fact, speed = n.find(said(panel), "fact", label=verb), told["forecast"][key]
            shown = [
                float(word.replace(",", ""))
                for word in re.findall(r"[\d.,]*\d", fact["value"] + fact["said"])
            ]
            told_band = [speed["expected"], speed["low"], speed["high"]]
            assert shown == pytest.approx(told_band, rel=0.06, abs=0.006)
    verdict = n.find(said(panel), "text", key="verdict")["text"]
    assert verdict.startswith("Does not fit") == (not told["fits"])
    for name in told["short_mib"]:
        assert ("RAM" if name == "Host" else name) in verdict
    command = n.find(said(panel), "code", label="The command")["text"]
    assert command.replace(" \\\n ", "").split()[-len(panel.settings.argv()) :] == panel.settings.argv()


@settings(max_examples=60)
@given(
    name=some.sampled_from(
        ["ctx_size", "parallel", "kv_type", "machine", "source", "file", "ram_gib", "gpus_gib", "x"]
    ),
    value=some.one_of(
        some.none(),
        some.integers(),
        some.floats(),
        some.text(max_size=20),
        some.lists(some.integers(), max_size=2),
    ),
)
def test_whatever_is_sent_the_panel_shows_figures_or_says_what_is_wrong(kimi, name, value):
    panel = PlanPanel(kimi, machine="cpu-512gb")
    panel._hear(panel, {"set": {name: value}, "from": "a tab", "number": 7}, [])
    assert panel.view["seen"] == {"a tab": 7}
    assert n.find(said(panel), "text", key="verdict")["text"]
    json.dumps(panel.view)


def test_messages_that_are_none_are_ignored(panel):
    before = said(panel)
    for content in (None, [], "x", {"press": "draw"}, {"press": "__init__"}, {"set": 3}, {"fields": 3}):
        panel._hear(panel, content, [])
    assert said(panel) == before


def test_what_cannot_fit_says_by_how_much(kimi):
    panel = PlanPanel(kimi, machine="rtx4090-256gb")
    panel.choose(machine="typed in", gpus_gib="4", ram_gib=2, cores=4)
    verdict = n.find(said(panel), "text", key="verdict")
    assert verdict["tone"] == "bad"
    report = panel.computed.report
    assert f"{report.short_mib['Host'] / 1024:,.1f} GiB of RAM short" in verdict["text"]
    assert "GPU0's memory short" in verdict["text"]
    panel.choose(gpus_gib="a lot")
    assert n.find(said(panel), "text", key="verdict")["text"].startswith("KNB951")
    with pytest.raises(UsageError, match="KNB951"):
        _ = panel.settings
    panel.choose(gpus_gib="", ram_gib=900)
    assert n.find(said(panel), "text", key="verdict")["tone"] == "good"


def test_a_file_that_is_not_there(kimi):
    panel = PlanPanel("/no/such.gguf", machine="cpu-512gb")
    assert n.find(said(panel), "text", key="verdict")["text"].startswith("KNB330")
    panel.choose(file=str(kimi))
    assert n.find(said(panel), "text", key="verdict")["tone"] == "good"


def test_the_planner_chooses_and_what_was_clicked_can_be_saved(kimi, tmp_path):
    panel = PlanPanel(kimi, machine="rtx4090-256gb")
    panel.press("choose")
    panel.wait(60)
    assert n.find(said(panel), "fold", key="reasons")["items"]
    assert panel.computed.report.fits
    chosen = panel.settings
    panel.choose(plan_file=str(tmp_path / "plan.json"))
    panel.press("save")
    assert Plan.load(tmp_path / "plan.json").settings == chosen
    panel.choose(ctx_size=4096)
    with pytest.raises(LookupError):
        n.find(said(panel), "fold", key="reasons")
    panel.press("save")
    assert Plan.load(tmp_path / "plan.json").settings == panel.settings
    assert panel.settings.ctx_size == 4096


def test_what_the_planner_chose_stays_where_no_control_is_for_it(kimi):
    panel = PlanPanel(kimi, machine="rtx4090-256gb")
    panel.press("choose")
    panel.wait(60)
    chosen = panel.settings
    panel.choose(ctx_size=4096)
    assert panel.settings == chosen.replace(ctx_size=4096)
    panel.choose(machine="h100-80gb")  # it was chosen for the other
    assert panel.settings.load_mode is None


def test_figures_come_before_the_header_and_it_may_stay_unread():
    panel = PlanPanel("kimi-k2.5", machine="rtx4090-256gb", offline=True)
    assert n.find(said(panel), "text", key="verdict")["text"].startswith(("Fits", "Runs"))
    assert n.find(said(panel), "group", key="memory")["label"].endswith("near but not exact")
    for name in ("verify", "rehearse"):
        assert n.find(said(panel), "button", name=name)["disabled"]
    panel.press("choose")
    panel.wait(60)
    assert panel.computed.report.fits
    assert panel.trouble is None


def test_a_plan_that_was_saved_is_opened_where_it_was(tmp_path):
    first = PlanPanel("kimi-k2.5", "UD-Q2_K_XL", machine="h100-80gb", offline=True)
    first.press("choose")
    first.wait(60)
    first.choose(plan_file=str(tmp_path / "plan.json"))
    first.press("save")
    again = panels.plan(saved=tmp_path / "plan.json", offline=True)
    assert again.chosen == first.chosen
    assert again.settings == first.settings
    assert n.find(said(again), "fold", key="reasons") == n.find(said(first), "fold", key="reasons")


def test_what_is_no_plan_is_neither_opened_nor_overwritten(kimi, tmp_path):
    file = tmp_path / "precious.txt"
    file.write_text("my thesis")
    panel = PlanPanel(kimi, machine="cpu-512gb")
    panel.choose(plan_file=str(file))
    for button in ("open", "save"):
        panel.press(button)
        assert n.find(said(panel), "text", key="trouble")["text"].startswith("KNB375")
    assert file.read_text() == "my thesis"
    panel.choose(machine="typed in", gpus_gib="", ram_gib=1, plan_file=str(tmp_path / "new.json"))
    panel.press("save")
    assert not panel.computed.report.fits
    assert n.find(said(panel), "text", key="trouble")["text"].startswith("KNB952")
    assert not (tmp_path / "new.json").exists()


def test_what_nobody_foresaw_is_said_and_the_panel_goes_on(kimi, monkeypatch, caplog):
    panel = PlanPanel(kimi, machine="rtx4090-256gb")
    monkeypatch.setattr("kimi_nb.panel.plan_panel.make_plan", lambda *_, **__: 1 / 0)
    panel.press("choose")
    panel.wait(60)
    assert n.find(said(panel), "text", key="trouble")["text"].startswith("KNB953")
    assert "ZeroDivisionError" in caplog.text
    monkeypatch.undo()
    panel.press("choose")
    panel.wait(60)
    assert n.find(said(panel), "fold", key="reasons")


@pytest.fixture
def clicked(tmp_path):
    """A plan for nano that was made in the panel, and its file."""
    panel = PlanPanel("nano")
    panel.choose(ctx_size=1536, threads=1, prompt_cache=0, plan_file=str(tmp_path / "clicked.json"))
    panel.press("save")
    return panel, tmp_path / "clicked.json"


def test_what_was_clicked_is_read_by_plan_and_serve(clicked, capsys):
    panel, file = clicked
    assert main(["plan", "--plan", str(file), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["plan"]["settings"] == panel.settings.to_dict()
    assert main(["plan", "--plan", str(file)]) == 0
    assert "kimi-nb serve --plan" in capsys.readouterr().out
    assert main(["plan", "--plan", str(file), "--ctx", "99"]) == 2
    assert "KNB379" in capsys.readouterr().err
    assert planned(file) == ("nano", panel.settings)


@pytest.mark.engine
def test_what_was_clicked_runs_headless(clicked, build, tmp_path):
    """papermill gets the plan's file as a parameter: the panel is a summary there, and the server is the plan's."""
    _, file = clicked
    book = nbformat.v4.new_notebook()
    book.cells = [
        nbformat.v4.new_code_cell('plan_file: str = ""  # a saved plan', metadata={"tags": ["parameters"]}),
        nbformat.v4.new_code_cell("import kimi_nb.panel\nkimi_nb.panel.plan(saved=plan_file)"),
        nbformat.v4.new_code_cell(
            "from pathlib import Path\nfrom kimi_nb.engine import LlamaServer\n"
            "from kimi_nb.engine.planned import planned\nfrom kimi_nb.nano import nano_path\n"
            "_, settings = planned(Path(plan_file))\n"
            "with LlamaServer(nano_path(), settings=settings) as server:\n    print(server.slots()[0]['n_ctx'])"
        ),
    ]
    nbformat.write(book, tmp_path / "headless.ipynb")
    run = run_notebooks(
        [tmp_path / "headless.ipynb"], parameters={"plan_file": str(file)}, out=tmp_path / "out"
    )
    assert run.status == "succeeded"
    done = nbformat.read(next((tmp_path / "out").rglob("headless.ipynb")), as_version=4)
    cells = {cell.source.partition("\n")[0]: cell for cell in done.cells}
    summary = cells["import kimi_nb.panel"].outputs[0]["data"]
    assert set(summary) == {"text/plain", "text/html"}
    assert "1,536 tokens" in summary["text/plain"]
    assert "Fits. To spare" in summary["text/html"]
    assert cells["from pathlib import Path"].outputs[0]["text"] == "1536\n"


def test_headless_it_is_a_static_page(panel, monkeypatch):
    monkeypatch.setenv("KIMI_NB_HEADLESS", "1")
    quiet = panels.plan("nano", machine="cpu-512gb")
    shown, _ = quiet._repr_mimebundle_()
    assert set(shown) == {"text/plain", "text/html"}
    assert "Fits. To spare" in shown["text/plain"]
    assert "llama-server" in shown["text/html"]
    assert "<script" not in shown["text/html"]
    assert "<button" not in shown["text/html"]
    monkeypatch.setenv("KIMI_NB_HEADLESS", "0")
    live, _ = panels.plan("nano", machine="cpu-512gb")._repr_mimebundle_()
    assert "application/vnd.jupyter.widget-view+json" in live


def test_a_sentence_on_the_plan_panel_holds_no_marks_of_markdown():
    """A panel shows what it is given: "`kimi-nb rehearse` measures instead" stood there with its backquotes."""
    said = panels.plan("kimi-k2.5", machine="rtx4090-256gb", offline=True)._repr_mimebundle_()[0][
        "text/plain"
    ]
    assert '"kimi-nb rehearse" measures instead' in said
    assert "`" not in said


def test_what_is_shown_still_is_escaped():
    page = still.as_html([n.text("<b>&"), n.table("a<", ["<"], [["<"]]), n.code("c", "<script>")])
    assert "<b>&" not in page
    assert "<script>" not in page
    assert "&lt;b&gt;&amp;" in page
