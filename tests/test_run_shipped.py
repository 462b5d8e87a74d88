"""The notebooks that come with kimi-nb: a clone's own, and an installation's originals and copies."""

import json
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import pytest

import kimi_nb.run.shipped
from kimi_nb.errors import RunError, UsageError
from kimi_nb.run.notebook import find_notebooks
from kimi_nb.run.shipped import COPIES, named_notebook, notebooks_folder, working_folder

NAMES = ["01_setup.ipynb", "02_hardware_check.ipynb", "10_tool_calls.ipynb"]


@pytest.fixture
def clone(tmp_path):
    (tmp_path / "clone/notebooks").mkdir(parents=True)
    (tmp_path / "clone/notebooks/01_setup.ipynb").write_text("{}")
    (tmp_path / "clone/kimi_nb/run").mkdir(parents=True)
    return tmp_path / "clone"


@pytest.fixture
def shipped(tmp_path, monkeypatch):
    """The notebooks as a wheel puts them into the package, here of version 1."""
    folder = tmp_path / "site-packages/kimi_nb/notebooks"
    folder.mkdir(parents=True)
    monkeypatch.setattr(kimi_nb.run.shipped, "_PACKAGE", folder.parent)
    release(folder, "1")
    return folder


@pytest.fixture
def here(tmp_path, monkeypatch):
    """An empty folder that a person works in."""
    folder = tmp_path / "my work"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


def release(shipped, version):
    for name in NAMES:
        (shipped / name).write_text(f"{name} of version {version}")


def texts(folder):
    return {path.name: path.read_text() for path in folder.glob("*.ipynb")}


def as_shipped(version):
    return {name: f"{name} of version {version}" for name in NAMES}


def test_the_folder_is_found_from_within_a_clone(clone):
    assert notebooks_folder(clone) == clone / "notebooks"
    assert notebooks_folder(clone / "kimi_nb/run") == clone / "notebooks"
    assert notebooks_folder(clone / "notebooks") == clone / "notebooks"


def test_a_clones_notebooks_are_edited_where_they_lie(clone, shipped):
    before = sorted(clone.rglob("*"))
    assert working_folder(clone).folder == clone / "notebooks"
    assert working_folder(clone).told == ()
    assert sorted(clone.rglob("*")) == before


def test_without_notebooks_it_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setattr(kimi_nb.run.shipped, "_PACKAGE", tmp_path / "site-packages/kimi_nb")
    with pytest.raises(UsageError, match="KNB721"):
        notebooks_folder(tmp_path)
    with pytest.raises(UsageError, match="KNB721"):
        working_folder(tmp_path)
    assert named_notebook("1", tmp_path) is None


@pytest.mark.parametrize(
    "word", ["2", "02", "hardware_check", "02_hardware_check", "02_hardware_check.ipynb"]
)
def test_a_number_or_a_name_is_the_notebook(shipped, here, word):
    assert find_notebooks([word]) == [shipped / "02_hardware_check.ipynb"]
    assert list(here.iterdir()) == [], "a run reads the originals"


def test_numbers_of_a_clone_are_its_own(clone, shipped, monkeypatch):
    monkeypatch.chdir(clone / "kimi_nb")
    assert find_notebooks(["1", "setup"]) == [clone / "notebooks/01_setup.ipynb"] * 2


@pytest.mark.parametrize("word", ["0", "7", "tool", "", "-1", "9" * 200, "nowhere/1", "../1", "٢2"])
def test_what_names_nothing_is_one_line(shipped, here, word):
    with pytest.raises(UsageError, match="KNB701"):
        find_notebooks([word])


def test_what_lies_here_goes_before_a_number(shipped, here):
    (here / "1").mkdir()
    (here / "1/mine.ipynb").write_text("{}")
    assert find_notebooks(["1"]) == [Path("1/mine.ipynb")]


def test_copies_are_made_where_a_person_sees_them(shipped, here):
    made = working_folder()
    assert made.folder == here / COPIES
    assert texts(made.folder) == as_shipped("1")
    assert made.told == (f"The notebooks are in {here / COPIES}, and yours to edit.",)
    assert working_folder() == made
    assert working_folder(made.folder) == made, "called from among the copies, it means these"
    (made.folder / "of mine").mkdir()
    assert working_folder(made.folder / "of mine") == made


def test_copies_that_were_moved_are_known_and_a_record_somewhere_above_is_not(shipped, here):
    moved = working_folder().folder.rename(here / "renamed")
    assert working_folder(moved).folder == moved
    (moved / "of mine").mkdir()
    assert working_folder(moved / "of mine").folder == moved / "of mine" / COPIES


def test_what_was_changed_stays_and_what_was_lost_comes_back(shipped, here):
    folder = working_folder().folder
    (folder / NAMES[0]).write_text("mine")
    (folder / NAMES[1]).unlink()
    (folder / "notes.ipynb").write_text("notes")
    assert len(working_folder().told) == 1, "nothing to say of a change to this version's notebook"
    assert texts(folder) == as_shipped("1") | {NAMES[0]: "mine", "notes.ipynb": "notes"}


def test_a_run_by_number_takes_the_copy_that_was_changed(shipped, here):
    folder = working_folder().folder
    assert find_notebooks(["1"]) == [shipped / NAMES[0]]
    (folder / NAMES[0]).write_text("mine")
    assert find_notebooks(["1", "2"]) == [folder / NAMES[0], shipped / NAMES[1]]
    release(shipped, "2")
    assert find_notebooks(["1", "2"]) == [folder / NAMES[0], shipped / NAMES[1]]


def test_a_folder_of_an_older_version(shipped, here, monkeypatch):
    folder = working_folder().folder
    (folder / NAMES[0]).write_text("mine")
    release(shipped, "2")
    monkeypatch.setattr(kimi_nb.run.shipped, "__version__", "2.0")
    said = working_folder().told[1:]
    beside = {"01_setup-2.0.ipynb": f"{NAMES[0]} of version 2"}
    assert texts(folder) == as_shipped("2") | {NAMES[0]: "mine"} | beside
    assert said == (
        "01_setup.ipynb stays as you changed it; this version's is 01_setup-2.0.ipynb, beside it.",
        "02_hardware_check.ipynb is now this version's: you had not changed it.",
        "10_tool_calls.ipynb is now this version's: you had not changed it.",
    )
    assert len(working_folder().told) == 1, "it is said once"
    (folder / "01_setup-2.0.ipynb").write_text("mine too")
    (folder / ".kimi-nb.json").unlink()
    working_folder()
    assert texts(folder)["01_setup-2.0.ipynb"] == "mine too"


@pytest.mark.parametrize("record", [None, "", "[]", '{"01_setup.ipynb": 7}', "\x00"])
def test_files_that_nobody_remembers_are_the_persons(shipped, here, record):
    folder = here / COPIES
    folder.mkdir()
    (folder / NAMES[0]).write_text("mine")
    (folder / NAMES[1]).mkdir()
    (folder / NAMES[2]).symlink_to(here / "nowhere")
    if record is not None:
        (folder / ".kimi-nb.json").write_text(record)
    told = working_folder().told
    assert len([line for line in told if "stays as you changed it" in line]) == 3
    assert (folder / NAMES[0]).read_text() == "mine"
    assert list((folder / NAMES[1]).iterdir()) == []
    assert (folder / NAMES[2]).is_symlink()
    assert not (here / "nowhere").exists()
    assert len([path for path in folder.iterdir() if path.stem.endswith(kimi_nb.__version__)]) == 3


def test_an_interrupted_copy_is_finished(shipped, here, monkeypatch):
    real = kimi_nb.run.shipped.write_json
    monkeypatch.setattr(
        kimi_nb.run.shipped, "write_json", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt)
    )
    with pytest.raises(KeyboardInterrupt):
        working_folder()
    monkeypatch.setattr(kimi_nb.run.shipped, "write_json", real)
    assert len(working_folder().told) == 1
    assert texts(here / COPIES) == as_shipped("1")
    assert set(json.loads((here / COPIES / ".kimi-nb.json").read_text())) == set(NAMES)


def test_two_labs_at_once(shipped, here):
    began, got = threading.Barrier(4), []

    def call():
        began.wait(30)
        got.append(working_folder(here))

    callers = [threading.Thread(target=call) for _ in range(4)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join(60)
    assert len(got) == 4
    assert {made.folder for made in got} == {here / COPIES}
    assert all(len(made.told) == 1 for made in got), "none took another's copies for changed ones"
    assert texts(here / COPIES) == as_shipped("1")


def test_a_file_in_the_way_is_one_line(shipped, here):
    (here / COPIES).write_text("a file")
    with pytest.raises(UsageError) as raised:
        working_folder()
    assert str(raised.value) == (
        f"KNB723: the notebooks cannot be copied into {here / COPIES}: "
        f"{here / COPIES} is a file, not a folder. "
        "Go to a folder that you may write to and call kimi-nb lab there."
    )
    assert (here / COPIES).read_text() == "a file"


def test_a_lock_that_is_never_free_is_one_line(shipped, here, monkeypatch):
    from filelock import FileLock

    monkeypatch.setattr(kimi_nb.run.shipped, "_WAIT_S", 0.2)
    (here / COPIES).mkdir()
    with (
        FileLock(here / COPIES / ".kimi-nb.lock"),
        pytest.raises(RunError, match=r"KNB723: .*another kimi-nb"),
    ):
        working_folder()


def test_a_folder_that_may_only_be_read():
    """Asked as nobody where we are root, who may write anywhere. Copies that are complete can still be opened."""
    code = (
        "import os, sys\nfrom pathlib import Path\nimport kimi_nb.run.shipped as shipped\nimport filelock\n"
        "if os.geteuid() == 0: os.setgid(65534); os.setuid(65534)\n"
        "shipped._PACKAGE = Path(sys.argv[1], 'kimi_nb')\n"
        "try: print(shipped.working_folder(Path(sys.argv[1], sys.argv[2])).folder)\n"
        "except shipped.UsageError as error: print(error)\n"
    )
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        for place in ("kimi_nb/notebooks", "empty", "full", f"full/{COPIES}"):
            (root / place).mkdir(parents=True)
        release(root / "kimi_nb/notebooks", "1")
        release(root / "full" / COPIES, "1")
        origins = {
            path.name: kimi_nb.run.shipped.sha256_file(path) for path in (root / "full" / COPIES).iterdir()
        }
        (root / "full" / COPIES / ".kimi-nb.json").write_text(json.dumps(origins))
        root.chmod(0o755)
        locked = [root / "empty", root / "full", root / "full" / COPIES]
        for place in locked:
            place.chmod(0o555)
        said = [
            subprocess.run(
                [sys.executable, "-c", code, root, place], capture_output=True, text=True, check=False
            )
            for place in ("empty", "full")
        ]
        for place in locked:
            place.chmod(0o755)
    assert said[0].stdout.startswith(
        f"KNB723: the notebooks cannot be copied into {root / 'empty' / COPIES}: "
    )
    assert "Permission denied" in said[0].stdout, said[0].stderr
    assert said[1].stdout == f"{root / 'full' / COPIES}\n", said[1].stderr
