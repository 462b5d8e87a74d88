"""Every way in which a notebook can end, with real papermill and real kernels, told as what it was.

Papermill's own record is wrong for most of them: it marks all cells as completed when the kernel dies or a cell times
out, and takes ``sys.exit(0)`` for success.
"""

import json
import sys
from pathlib import Path

import pytest
from system import alive

from kimi_nb.errors import RunError, UsageError, troubles
from kimi_nb.run import run_notebooks

pytestmark = pytest.mark.notebooks

NOTEBOOKS = Path(__file__).parent / "notebooks"
SECRET = "s3cr3t-'\"value-0123456789"
NAMES = [
    "succeeds",
    "raises",
    "raises_as_allowed",
    "exits_with_0",
    "exits_with_3",
    "exits_by_ipython",
    "ends_its_kernel",
    "kills_its_kernel",
    "crashes_its_kernel",
    "prints_secrets",
    "prints_too_much",
    "uses_memory",
    "starts_a_process",
    "names_an_unknown_kernel",
    "names_a_flaky_kernel",
    "names_a_broken_kernel",
]


def paths(*names):
    return [NOTEBOOKS / f"{name}.ipynb" for name in names]


def kernel(folder, name, program):
    spec = folder / "kernels" / name
    spec.mkdir(parents=True)
    argv = [sys.executable, "-c", program, "{connection_file}"]
    (spec / "kernel.json").write_text(json.dumps({"argv": argv, "display_name": name, "language": "python"}))


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """One run of them all; each test looks at one notebook's part of it."""
    folder = tmp_path_factory.mktemp("run with {braces}")
    jupyter = tmp_path_factory.mktemp("jupyter")
    flag = jupyter / "started"
    kernel(
        jupyter,
        "knb-flaky",
        "import os, pathlib, sys\n"
        f"flag = pathlib.Path({str(flag)!r})\n"
        "if not flag.exists():\n    flag.touch()\n    sys.exit(1)\n"
        "os.execv(sys.executable, [sys.executable, '-m', 'ipykernel_launcher', '-f', sys.argv[1]])",
    )
    kernel(jupyter, "knb-broken", "raise SystemExit(1)")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JUPYTER_PATH", str(jupyter))
        patch.setenv("KNB_TEST_TOKEN", SECRET)
        return run_notebooks(paths(*NAMES), out=folder / "out", cell_timeout_s=60)


@pytest.fixture
def one(run):
    return {notebook.name: notebook for notebook in run.notebooks}.__getitem__


def executed(run, name):
    return json.loads((run.out / f"{name}.ipynb").read_text(encoding="utf-8"))


def printed(run, name):
    cells = executed(run, name)["cells"]
    return ["".join(output.get("text", "") for output in cell.get("outputs", [])) for cell in cells]


def test_run_json_is_what_run_notebooks_returns(run):
    record = json.loads((run.out / "run.json").read_text(encoding="utf-8"))
    assert record == run.to_json()
    assert record["status"] == "failed"
    assert record["interrupted_by"] is None
    assert [notebook["name"] for notebook in record["notebooks"]] == NAMES
    assert {"python", "kimi_nb", "papermill", "ipykernel"} <= record["versions"].keys()
    assert str(run.out.parent) not in json.dumps(record), "the record names no place outside its folder"


def test_a_notebook_that_runs_to_its_end_succeeded(run, one):
    assert one("succeeds").status == "succeeded"
    assert one("succeeds").error is None
    assert one("succeeds").cells == one("succeeds").cells_run == 2
    assert printed(run, "succeeds") == ["", "1\n"]
    assert "papermill" not in executed(run, "succeeds")["metadata"]


def test_an_error_is_a_failure_with_its_cell(run, one):
    error = one("raises").error
    assert one("raises").status == "failed"
    assert (error.id, error.kind, error.message) == ("KNB711", "ZeroDivisionError", "division by zero")
    assert (error.cell, error.line) == (1, "# divide")
    assert one("raises").cells_run == 1
    sources = ["".join(cell["source"]) for cell in executed(run, "raises")["cells"]]
    assert "This run failed" in sources[0]
    assert sources[1] == "x = 1"
    assert 'id="kimi-nb-error"' in sources[2]
    assert sources[3].startswith("# divide")
    assert executed(run, "raises")["cells"][-1]["execution_count"] is None


def test_an_error_that_its_cell_may_raise_is_none(run, one):
    """papermill fails a notebook for any error in its outputs, even one that a tag allows."""
    assert one("raises_as_allowed").status == "succeeded"
    assert printed(run, "raises_as_allowed") == ["", "on\n"]


@pytest.mark.parametrize(
    ("name", "how"),
    [("exits_with_0", "sys.exit(0)"), ("exits_with_3", "sys.exit(3)"), ("exits_by_ipython", "exit")],
)
def test_leaving_in_the_middle_is_a_failure(one, name, how):
    """papermill returns normally after sys.exit(0), and so did a nightly run that had skipped half its work."""
    assert one(name).status == "failed"
    assert (one(name).error.id, one(name).error.kind) == ("KNB712", "SystemExit")
    assert one(name).error.message.endswith(how)
    assert (one(name).error.cell, one(name).cells_run) == (0, 0)


def test_a_kernel_that_ends_itself_is_told_with_its_exit_code(one):
    assert one("ends_its_kernel").status == "failed"
    assert (one("ends_its_kernel").error.id, one("ends_its_kernel").error.kind) == (
        "KNB713",
        "DeadKernelError",
    )
    assert "exit code 0" in one("ends_its_kernel").error.message


def test_a_killed_kernel_is_told_with_its_signal_and_the_memory_counter(run, one):
    """papermill marks all three cells as completed here."""
    error = one("kills_its_kernel").error
    assert (one("kills_its_kernel").status, error.id, error.cell) == ("failed", "KNB713", 1)
    assert "SIGKILL" in error.message
    assert "memory" in error.message
    assert one("kills_its_kernel").cells_run == 1
    assert printed(run, "kills_its_kernel") == ["", "alive\n", "", "", ""]


def test_a_crashed_kernel_is_told_with_its_signal(one):
    assert "SIGSEGV" in one("crashes_its_kernel").error.message
    assert "memory" not in one("crashes_its_kernel").error.message


def test_secrets_of_the_environment_are_in_nothing_that_a_run_leaves(run, one):
    assert one("prints_secrets").masked >= 4
    for path in run.out.rglob("*"):
        if path.is_file() and "files" not in path.parts:
            assert SECRET not in path.read_text(encoding="utf-8"), path
            assert "0123456789" not in path.read_text(encoding="utf-8"), path
    cells = executed(run, "prints_secrets")["cells"]
    outputs = json.dumps([cell.get("outputs") for cell in cells])
    assert outputs.count("[masked: KNB_TEST_TOKEN]") >= 4
    assert one("prints_secrets").error.message == "[masked: KNB_TEST_TOKEN]"


def test_a_cell_that_prints_too_much_is_cut_and_goes_on(run, one):
    assert one("prints_too_much").status == "succeeded"
    first, second = printed(run, "prints_too_much")
    assert 8_000_000 < len(first) < 8_600_000
    assert first.endswith("the rest was dropped]\n")
    assert second == "on\n"


def test_peak_memory_is_the_kernels(one):
    assert 340 < one("uses_memory").kernel_peak_mib < 600
    assert one("uses_memory").peak_mib >= one("uses_memory").kernel_peak_mib
    assert one("succeeds").kernel_peak_mib < 200
    assert (one("uses_memory").oom_kills is not None) == (sys.platform == "linux")


@pytest.mark.skipif(
    sys.platform != "linux", reason="only there can a guardian find a process that left its group"
)
def test_nothing_that_a_notebook_started_outlives_it(run):
    pid = int(printed(run, "starts_a_process")[0])
    assert not alive(pid)


def test_a_kernel_that_is_not_installed_is_named(one):
    error = one("names_an_unknown_kernel").error
    assert (error.id, error.cell, error.line) == ("KNB716", None, None)
    assert "knb-no-such-kernel" in error.message
    assert one("names_an_unknown_kernel").cells_run == 0


def test_a_kernel_that_dies_at_its_start_is_started_once_more(run, one):
    """Two kernels that start at once may pick one port: 1 of 48 failed so on two cores."""
    assert one("names_a_flaky_kernel").status == "succeeded"
    assert one("names_a_flaky_kernel").attempts == 2
    assert printed(run, "names_a_flaky_kernel") == ["second try\n"]


def test_and_no_more_than_once(one):
    assert one("names_a_broken_kernel").status == "failed"
    assert one("names_a_broken_kernel").attempts == 2
    assert one("names_a_broken_kernel").error.id == "KNB716"


def test_every_failure_is_explained(run):
    for notebook in run.notebooks:
        if notebook.error is not None:
            assert notebook.error.id in troubles()
            assert "\n" not in str(notebook.error)


def test_a_run_leaves_only_what_it_says(run):
    """Nothing private stays behind, and each notebook has run in a folder of its own."""
    assert not list(run.out.glob(".partial-*"))
    assert sorted(path.name for path in (run.out / "files").iterdir()) == sorted(NAMES)
    assert not list(NOTEBOOKS.glob("*.json"))


def test_parameters_reach_the_notebook_as_their_types_and_secret_ones_stay_out_of_the_record(tmp_path):
    from kimi_nb.run import Text

    given = {
        "text": Text("5e12345"),
        "mode": "thinking",
        "ctx": Text("512"),
        "scale": 2,
        "fast": Text("yes"),
        "sizes": Text("3,4"),
        "api_key": "short",
    }
    run = run_notebooks(paths("takes_parameters"), out=tmp_path, parameters=given)
    assert run.status == "succeeded"
    seen = json.loads((tmp_path / "files/takes_parameters/seen.json").read_text(encoding="utf-8"))
    assert seen == ["5e12345", "thinking", 512, 2.0, True, [3, 4], None, "short"]
    assert run.notebooks[0].parameters["api_key"] == "[masked]"
    left = (tmp_path / "takes_parameters.ipynb").read_text(encoding="utf-8")
    assert "api_key = '[masked]'" in left
    assert "short" not in left + (tmp_path / "run.json").read_text(encoding="utf-8")


def test_a_value_out_of_range_is_one_line_in_the_notebook_and_keeps_its_id(tmp_path):
    run = run_notebooks(paths("takes_parameters"), out=tmp_path, parameters={"ctx": 12})
    error = run.notebooks[0].error
    assert (error.id, error.kind, error.cell) == ("KNB708", "ParameterError", 1)
    assert "ctx must be a whole number from 256 to 262144" in error.message
    cells = executed(run, "takes_parameters")["cells"]
    [output] = [
        output for cell in cells for output in cell.get("outputs", []) if output["output_type"] == "error"
    ]
    assert len(output["traceback"]) == 1
    assert output["traceback"][0].startswith("KNB708: ")


def test_a_cell_that_takes_too_long_is_a_failure_of_that_cell(tmp_path):
    """papermill marks every cell as completed here, and so does the notebook it saves."""
    run = run_notebooks(paths("sleeps"), out=tmp_path, cell_timeout_s=4)
    error = run.notebooks[0].error
    assert (run.status, error.id, error.kind, error.cell) == ("failed", "KNB714", "CellTimeoutError", 1)
    assert "4 s" in error.message
    assert printed(run, "sleeps")[1] == "began\n"
    assert run.notebooks[0].cells_run == 1


def test_a_notebook_that_takes_too_long_is_a_failure_of_the_notebook_and_the_next_one_runs(tmp_path):
    run = run_notebooks(paths("sleeps", "succeeds"), out=tmp_path, wall_s=15)
    error = run.notebooks[0].error
    assert (error.id, error.kind, error.cell, error.line) == ("KNB715", "WallClockTimeout", 1, "import time")
    assert printed(run, "sleeps")[1] == "began\n"
    assert [notebook.status for notebook in run.notebooks] == ["failed", "succeeded"]


def test_two_notebooks_of_one_name_do_not_overwrite_each_other(tmp_path):
    other = tmp_path / "succeeds.ipynb"
    other.write_bytes((NOTEBOOKS / "raises.ipynb").read_bytes())
    run = run_notebooks([NOTEBOOKS / "succeeds.ipynb", other], out=tmp_path / "out")
    assert [(notebook.name, notebook.status) for notebook in run.notebooks] == [
        ("succeeds", "succeeded"),
        ("succeeds-2", "failed"),
    ]


def test_without_out_each_run_has_a_folder_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("kimi_nb.run.headless.run_one", lambda *_, **__: pytest.fail("not reached"))
    from kimi_nb.run.headless import run_folder

    first, second = run_folder(None), run_folder(None)
    assert first != second
    assert first.parent == second.parent == tmp_path / "runs"


def test_nothing_is_started_when_something_is_wrong_beforehand(tmp_path):
    out = tmp_path / "out"
    with pytest.raises(UsageError, match=r"KNB703.*Did you mean ctx"):
        run_notebooks(paths("takes_parameters"), out=out, parameters={"ctxx": 1})
    with pytest.raises(UsageError, match="KNB701"):
        run_notebooks([tmp_path / "none.ipynb"], out=out)
    with pytest.raises(UsageError, match="KNB709"):
        run_notebooks(paths("succeeds"), out=out, cell_timeout_s=0)
    assert not out.exists()


def test_a_folder_that_cannot_be_used_is_one_line(tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(UsageError, match=r"KNB706: .*/file is a file, not a folder"):
        run_notebooks(paths("succeeds"), out=tmp_path / "file")
    assert (tmp_path / "file").read_text() == "mine"


def test_two_runs_do_not_share_a_folder(tmp_path):
    from filelock import FileLock

    with FileLock(tmp_path / ".lock"), pytest.raises(RunError, match="KNB707"):
        run_notebooks(paths("succeeds"), out=tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [".lock"]
