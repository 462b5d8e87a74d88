"""The private folder for files that look like a model: closed to others, removed afterwards, also after a kill."""

import signal
import stat
import subprocess
import sys

import pytest

from kimi_nb.errors import BuildError
from kimi_nb.model.header_only import is_header_only
from kimi_nb.rehearse.private_folder import private_folder, rehearse_home, sweep

HOLD = """
import time
from kimi_nb.rehearse.private_folder import private_folder
with private_folder("slice") as folder:
    (folder / "model.gguf").write_bytes(b"GGUF" + bytes(100))
    print(folder, flush=True)
    time.sleep(60)
"""


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("KIMI_NB_CACHE", str(tmp_path))
    return rehearse_home()


def left(home):
    return [path.name for path in home.glob("*.header-only")]


def test_it_is_private_and_gone_afterwards(home):
    with private_folder("ghost") as folder:
        assert folder.parent == home
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        (folder / "a").mkdir()
        (folder / "a" / "x.gguf").write_bytes(b"GGUF")
    assert left(home) == []
    with pytest.raises(KeyError), private_folder("ghost"):
        raise KeyError
    assert left(home) == []


def test_two_at_once_leave_each_other_alone(home):
    with private_folder("ghost") as one, private_folder("ghost") as two:
        assert one != two
        sweep()
        assert one.is_dir()
        assert two.is_dir()
    assert left(home) == []


def test_what_a_killed_process_left_is_swept(home):
    with subprocess.Popen([sys.executable, "-c", HOLD], stdout=subprocess.PIPE, text=True) as process:
        folder = process.stdout.readline().strip()
        sweep()  # it lives: nothing is taken from it
        assert left(home) == [folder.rsplit("/", 1)[1]]
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert len(left(home)) == 1
    with private_folder("ghost") as mine:
        assert left(home) == [mine.name]


def test_a_link_is_not_followed(home, tmp_path):
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "thesis.txt").write_text("years")
    home.mkdir()
    (home / "x.header-only").symlink_to(precious)
    sweep()
    assert (precious / "thesis.txt").read_text() == "years"


def test_paths_in_it_are_known(home, tmp_path):
    with private_folder("ghost") as folder:
        (folder / "m.gguf").write_bytes(b"GGUF")
        (tmp_path / "innocent.gguf").symlink_to(folder / "m.gguf")
        assert is_header_only(folder / "m.gguf")
        assert is_header_only(tmp_path / "innocent.gguf")
    assert not is_header_only(tmp_path / "other.gguf")


def test_no_place_for_it_is_one_clear_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(BuildError, match="KNB840"), private_folder("ghost", tmp_path / "file"):
        pass
