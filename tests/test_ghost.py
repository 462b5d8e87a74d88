"""Ghosts: real headers, holes for weights, one clear line where they cannot be, and never taken for a model."""

import math
import os
import signal
import stat
import struct
import subprocess
import sys
from pathlib import Path

import pytest
from gguf_bytes import gguf, key, tensor
from header_models import ORACLE_MODELS
from test_build_failures import own_disks
from test_gguf_header_splits import write_set

from kimi_nb.cli import main
from kimi_nb.engine import InProcess, LlamaServer
from kimi_nb.engine.fetch.adopt import recognise
from kimi_nb.errors import KimiNbError, ModelFileError, RehearsalError, troubles
from kimi_nb.model import Model, Shard, read_header
from kimi_nb.model.header_only import MARK, is_header_only
from kimi_nb.rehearse import ghost, ghost_of
from kimi_nb.rehearse.private_folder import rehearse_home

ROOT = Path(__file__).parents[1]


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("KIMI_NB_CACHE", str(tmp_path / "cache"))
    return rehearse_home()


@pytest.fixture
def kimi(tmp_path):
    return ORACLE_MODELS["TQ1"].read(tmp_path / "kimi.gguf")


def left(home):
    return list(home.glob("*.header-only")) if home.exists() else []


def test_a_ghost_is_as_long_as_the_model_and_takes_hardly_any_room(kimi, home):
    last = kimi.tensors[-1]
    with ghost_of(kimi) as made:
        assert made.folder.parent == home
        assert made.folder.name.endswith(".header-only")
        assert stat.S_IMODE(made.folder.stat().st_mode) == 0o700
        assert made.apparent_bytes == last.offset + last.n_bytes == 228_081_238_560
        assert made.disk_bytes < 200_000
        again = read_header(made.first, allow_header_only=True)
        assert again.header_sha256 == kimi.header_sha256
        assert again.tensors == kimi.tensors
    assert left(home) == []


def test_every_shard_has_its_ghost_under_a_name_that_leads_to_the_others(tmp_path):
    model = read_header(write_set(tmp_path)[1])
    with ghost_of(model) as made:
        assert [path.name for path in made.shards] == [one.name for one in model.shards]
        assert [path.stat().st_size for path in made.shards] == [one.size_bytes for one in model.shards]
        for path in made.shards:
            assert read_header(path, allow_header_only=True).header_sha256 == model.header_sha256


@pytest.mark.parametrize("name", ["../../../escape.gguf", "/etc/passwd", "..", "a b\n.gguf", "é" * 300, ""])
def test_a_name_from_the_network_stays_in_the_folder(kimi, name, home):
    one = kimi.shards[0]
    odd = Model(
        (Shard(name, one.source, one.size_bytes, one.data_offset, one.header),),
        kimi.metadata, kimi.types, kimi.tensors, kimi.alignment,
    )  # fmt: skip
    with ghost_of(odd) as made:
        assert made.first.parent == made.folder
        assert made.first.suffix == ".gguf"
        assert made.first.is_file()
    assert left(home) == []


# -- never taken for a model


def refusals(path):
    yield lambda: read_header(path)
    yield lambda: LlamaServer(path).start()
    yield lambda: InProcess(path)
    yield lambda: recognise(path)


def test_our_code_refuses_a_ghost_and_every_copy_of_it(kimi, tmp_path, capsys):
    with ghost_of(kimi) as made:
        copy, link, hard = tmp_path / "copy.gguf", tmp_path / "link.gguf", tmp_path / "hard.gguf"
        subprocess.run(["cp", "--sparse=always", made.first, copy], check=True)
        link.symlink_to(made.first)
        os.link(made.first, hard)
        for path in (made.first, copy, link, hard):
            assert is_header_only(path)
            for refuse in refusals(path):
                with pytest.raises(ModelFileError, match=r"KNB323: .*is a stand-in without weights"):
                    refuse()
        with pytest.raises(ModelFileError, match="KNB323"):
            recognise(made.folder)
        assert main(["estimate", "--gguf", str(copy), "--gpus", ""]) == 1
        assert "KNB323" in capsys.readouterr().err
        # shutil would fill the holes: 228 GB.
        subprocess.run(["cp", "-R", "--sparse=always", made.folder, tmp_path / "models"], check=True)
        assert main(["models", "--folder", str(tmp_path / "models"), "--json"]) == 0
        assert '"models": []' in capsys.readouterr().out
    assert is_header_only(copy)  # also when the ghost itself is gone


def test_a_set_with_one_ghost_among_its_shards_is_refused(tmp_path):
    paths = write_set(tmp_path, count=3)
    data = paths[1].read_bytes()
    paths[1].write_bytes(data[: -len(MARK)] + MARK)
    with pytest.raises(ModelFileError, match="KNB323: Kimi-UD-TQ1_0-00002"):
        read_header(paths[0])


def test_a_model_is_not_taken_for_a_ghost(nano, tmp_path):
    assert not is_header_only(nano)
    assert not is_header_only(tmp_path / "not there")
    assert not is_header_only(tmp_path)
    os.mkfifo(tmp_path / "pipe.gguf")
    assert not is_header_only(tmp_path / "pipe.gguf")


def test_the_mark_is_finite_numbers_whatever_type_reads_it():
    for size, name in ((2, "e"), (4, "f"), (8, "d")):
        assert all(math.isfinite(value) for value in struct.unpack(f"<{32 // size}{name}", MARK))
    assert max(MARK) < 0x7C  # the high byte of an f16 that is not finite


# -- gone afterwards

HOLD = """
import sys, time
from pathlib import Path
from kimi_nb.model import read_header
from kimi_nb.rehearse import ghost_of
with ghost_of(read_header(sys.argv[1], check_data=False)) as made:
    print(made.folder, flush=True)
    time.sleep(60)
"""


def test_kill_9_leaves_a_ghost_only_until_the_next_one(kimi, home):
    words = [sys.executable, "-c", HOLD, kimi.source]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as process:
        folder = Path(process.stdout.readline().strip())
        with ghost_of(kimi):
            assert folder.is_dir()  # its owner lives: nobody takes it away
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert left(home) == [folder]
    with ghost_of(kimi) as made:
        assert left(home) == [made.folder]
    assert left(home) == []


# -- where it cannot be made


def refused(model, parent=None) -> str:
    with pytest.raises(KimiNbError) as caught, ghost_of(model, parent):
        pass
    assert caught.value.id in troubles()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_filesystem_without_holes(kimi, home, monkeypatch):
    real = os.fsync

    def without_holes(handle):  # as exFAT does it: what is not written is allocated all the same
        os.posix_fallocate(handle, 0, os.fstat(handle).st_size)
        real(handle)

    monkeypatch.setattr(ghost.os, "fsync", without_holes)
    said = refused(kimi)
    assert "KNB861" in said
    assert "exFAT" in said
    assert "KIMI_NB_CACHE" in said
    assert left(home) == []


def test_a_limit_on_the_length_of_files(kimi, home):
    code = f"""
import resource, signal
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 30, resource.RLIM_INFINITY))
from kimi_nb.model import read_header
from kimi_nb.rehearse import ghost_of
from kimi_nb.errors import RehearsalError
try:
    with ghost_of(read_header({kimi.source!r}, check_data=False)):
        pass
except RehearsalError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("KNB863: ")
    assert "a file of 212.4 GiB is longer than the filesystem, or ulimit -f, allows" in done.stdout
    assert left(home) == []


@pytest.mark.parametrize("size", [1 << 62, 1 << 63, 1 << 70])
def test_lengths_beyond_any_filesystem(kimi, size, home):
    one = kimi.shards[0]
    odd = Model((Shard(one.name, one.source, size, one.data_offset, one.header),), {}, {}, ())
    assert "KNB863" in refused(odd)
    assert left(home) == []


SMALL_DISK = """
import sys
from kimi_nb.model import read_header
from kimi_nb.rehearse import ghost_of
from kimi_nb.errors import RehearsalError
try:
    with ghost_of(read_header(sys.argv[1], check_data=False)):
        print("made")
except RehearsalError as error:
    print(error)
"""


def test_a_full_disk(tmp_path):
    words = [f"token{number}" for number in range(200_000)]
    head = gguf(
        [key("general.architecture", "str", "deepseek2"), key("tokenizer.ggml.tokens", "arr[str]", words)],
        [tensor("a", (256,), 0, 0)],
    )
    path, disk = tmp_path / "long.gguf", tmp_path / "disk"
    path.write_bytes(head)
    assert len(head) > 3 << 20
    if own_disks():
        disk.mkdir()
        inside = ["sh", "-c", f"mount -t tmpfs -o size=1m tmpfs '{disk}' && exec \"$@\"", "sh"]
        done = subprocess.run(
            ["unshare", "--user", "--map-root-user", "--mount", *inside, sys.executable, "-c", SMALL_DISK, path],
            capture_output=True, text=True, check=True, cwd=ROOT, env=os.environ | {"KIMI_NB_CACHE": str(disk)},
        )  # fmt: skip
        assert done.stdout.startswith("KNB862: "), done.stdout + done.stderr
    # What every system has: a limit of the session that is below the header itself.
    done = subprocess.run(
        ["sh", "-c", 'ulimit -f 1024 && exec "$@"', "sh", sys.executable, "-c", SMALL_DISK, path],
        capture_output=True, text=True, check=True, cwd=ROOT,
    )  # fmt: skip
    assert done.stdout.startswith("KNB863: "), done.stdout + done.stderr


def test_no_place_at_all(kimi, tmp_path):
    (tmp_path / "file").write_text("")
    assert "KNB840" in refused(kimi, tmp_path / "file" / "below")


def test_an_error_in_the_block_is_the_callers(kimi, home):
    class MineError(OSError):
        pass

    with pytest.raises(MineError), ghost_of(kimi):
        raise MineError(28, "not the ghost's disk")
    assert left(home) == []
    with pytest.raises(RehearsalError, match="KNB862"), ghost._disk_errors(home, 1):
        raise OSError(28, "No space left on device")
