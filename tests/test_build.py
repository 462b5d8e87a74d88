"""What a build is: made once, complete under its final name, movable, recorded, found again, verified."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from build_tree import VERSION, log_of, make_tree, search_paths, set_launcher, start_build

from kimi_nb.cli import main
from kimi_nb.engine import Build, ensure_build, find_build
from kimi_nb.engine.build import verify_build
from kimi_nb.engine.compile import PROGRAMS
from kimi_nb.errors import BuildError, UsageError
from kimi_nb.files import sha256_file


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    folder = tmp_path / "the cache"  # with a space: such names are common on macOS
    monkeypatch.setenv("KIMI_NB_CACHE", str(folder))
    monkeypatch.delenv("KIMI_NB_LLAMA_CPP", raising=False)
    return folder


@pytest.fixture
def tree(tmp_path):
    return make_tree(tmp_path / "a tree")


def build_tree(tree, **choices) -> tuple[Build, list[tuple[str, float | None]]]:
    said: list[tuple[str, float | None]] = []
    build = ensure_build(backend="cpu", source=tree, progress=lambda *line: said.append(line), **choices)
    return build, said


def test_a_build_has_every_program_and_a_record_of_each_file(tree, cache):
    build, said = build_tree(tree, jobs=2)
    assert build.version == VERSION
    assert build.backend == "cpu"
    assert [build.program(name).is_file() for name in PROGRAMS] == [True] * len(PROGRAMS)
    record = json.loads((build.bin.parent / "manifest.json").read_text())
    assert record == build.manifest
    assert {name for name in record["files"] if name.startswith("llama-")} == set(PROGRAMS)
    for name, entry in record["files"].items():
        path = build.bin / name
        if "link" in entry:
            assert str(path.readlink()) == entry["link"]
        else:
            assert (path.stat().st_size, sha256_file(path)) == (entry["bytes"], entry["sha256"])
    assert {"compiler", "flags", "cpu", "source", "backend"} <= set(record["parts"])
    assert record["seconds"] > 0
    assert record["jobs"] == 2
    fractions = [fraction for _, fraction in said if fraction is not None]
    assert fractions == sorted(fractions)
    assert fractions[-1] == 1.0
    assert "for cpu: as asked" in said[0][0]


def test_the_programs_run_wherever_the_folder_is_moved(tree, tmp_path):
    build, _ = build_tree(tree)
    moved = tmp_path / "elsewhere/deeper"
    shutil.copytree(build.bin, moved, symlinks=True)
    shutil.rmtree(build.bin.parent)
    bare = {"PATH": "/nowhere"}
    done = subprocess.run([moved / "llama-quantize"], env=bare, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == f"version: {VERSION}"


def test_libraries_come_from_beside_the_program_and_never_from_the_current_folder(tree, tmp_path):
    """An empty entry in the search path would mean the current folder; CMake's default puts one there."""
    build, _ = build_tree(tree)
    if sys.platform == "linux":
        assert search_paths(build.program("llama-server")) == ["$ORIGIN"]
    trap = tmp_path / "downloads"
    trap.mkdir()
    for name in ("libstdc++.so.6", "libm.so.6", "libc.so.6"):
        (trap / name).write_bytes(b"a trap")
    done = subprocess.run(
        [build.program("llama-server")], cwd=trap, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (0, f"version: {VERSION}\n"), done.stderr


def test_a_finished_build_is_found_without_any_work(tree, cache):
    assert find_build(backend="cpu", source=tree) is None
    build, _ = build_tree(tree)
    before = log_of(cache)
    again, said = build_tree(tree)
    assert again == build
    assert said == []
    assert find_build(backend="cpu", source=tree) == build
    assert log_of(cache) == before


def test_a_build_serves_on_after_the_compiler_is_gone(tree, monkeypatch):
    build, _ = build_tree(tree)
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.delenv("CXX", raising=False)
    assert find_build(backend="cpu", source=tree) == build


def test_another_compiler_makes_another_build(tree, tmp_path, monkeypatch):
    build, _ = build_tree(tree)
    other = tmp_path / "other-c++"
    other.write_text('#!/bin/sh\n[ "$1" = --version ] && echo "other 1.0" || exec c++ "$@"\n')
    other.chmod(0o755)
    monkeypatch.setenv("CXX", str(other))
    assert find_build(backend="cpu", source=tree) is None
    second, _ = build_tree(tree)
    assert second.bin != build.bin
    assert second.manifest["parts"]["compiler"] == "other 1.0"


def test_an_edit_makes_another_build_and_compiles_only_the_edit(tree, cache):
    first, _ = build_tree(tree)
    file = tree / "tools/llama-bench.cpp"
    file.write_text("this is not C++\n")
    with pytest.raises(BuildError):
        build_tree(tree)
    file.write_text("int main() { return 3; }\n")
    second, _ = build_tree(tree)
    assert second.bin != first.bin
    assert subprocess.run([second.program("llama-bench")], check=False).returncode == 3
    log = (cache / f"engine/logs/{second.bin.parent.name}.log").read_text()
    assert "Building CXX object CMakeFiles/llama-bench.dir" in log
    assert "Building CXX object CMakeFiles/llama.dir" not in log  # compiled before the edit, and kept
    assert find_build(backend="cpu", source=tree) == second

    file.write_text("int main() { return 4; }\n")  # and after a build that went well
    third, _ = build_tree(tree)
    log = (cache / f"engine/logs/{third.bin.parent.name}.log").read_text()
    assert log.count("Building CXX object") == 1
    assert verify_build(first) == verify_build(second) == verify_build(third) == []


def test_a_checkout_that_changes_during_the_build_is_refused_and_then_continues(tree):
    set_launcher(tree, f"echo '// more' >> '{tree}/include/llama.h'")
    with pytest.raises(BuildError, match=r"KNB204.*changed while it was being built"):
        build_tree(tree)
    set_launcher(tree, "")
    build, _ = build_tree(tree)
    assert build.version == VERSION
    assert build.manifest["continued"]


def test_users_builds_inside_a_checkout_do_not_count_as_source(tree):
    build, _ = build_tree(tree)
    (tree / "build").mkdir()
    (tree / "build/CMakeCache.txt").write_text("theirs")
    (tree / ".git").mkdir()
    (tree / "docs").mkdir()
    (tree / "docs/page.md").write_text("words")
    assert (
        find_build(backend="cpu", source=tree) is None
    )  # the flags differ: a repository says its own commit
    (tree / ".git").rmdir()
    assert find_build(backend="cpu", source=tree) == build


def test_a_damaged_build_is_noticed_verified_and_made_again(tree, capsys):
    build, _ = build_tree(tree)
    options = ["build", "--backend", "cpu", "--source", str(tree)]
    assert main([*options, "--verify"]) == 0
    assert "are what was built" in capsys.readouterr().out

    server = build.program("llama-server")
    good = server.read_bytes()
    server.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))  # same size: only the hash tells
    assert verify_build(build) == ["llama-server has other content than what was built"]
    assert main([*options, "--verify", "--json"]) == 1
    answer = json.loads(capsys.readouterr().out)
    assert answer["error"]["id"] == "KNB219"
    assert str(build.bin.parent) in answer["error"]["fix"]

    server.write_bytes(good[:100])
    assert find_build(backend="cpu", source=tree) is None
    assert "has 100 bytes" in verify_build(build)[0]
    again, _ = build_tree(tree)
    assert again.bin == build.bin
    assert verify_build(again) == []

    again.program("llama-bench").unlink()
    assert find_build(backend="cpu", source=tree) is None
    (again.bin.parent / "manifest.json").write_text("{ half")
    assert find_build(backend="cpu", source=tree, whole=False) is None


def test_the_command_line_prints_one_document(tree, capsys):
    assert main(["build", "--backend", "cpu", "--source", str(tree), "--json"]) == 0
    printed = capsys.readouterr()
    answer = json.loads(printed.out)
    assert answer["version"] == VERSION
    assert Path(answer["bin"], "llama-server").is_file()
    assert answer["seconds"] > 0
    assert "for cpu: as asked" in printed.err
    assert main(["build", "--backend", "cpu", "--source", str(tree), "--verify", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["ok"] is True


def test_the_command_line_says_what_it_chose_and_where_the_result_is(tree, cache):
    process = start_build(tree, cache)
    text, _ = process.communicate(timeout=120)
    assert process.returncode == 0, text
    assert "for cpu: as asked" in text
    assert f"llama.cpp {VERSION} is ready" in text
    assert f"programs {cache}/engine/builds/cpu-" in text


@pytest.mark.parametrize(
    "options",
    [["--backend", "rocm"], ["--jobs", "0"], ["--jobs", "many"], ["--source", "a", "--ref", "b"], ["--frob"]],
)
def test_wrong_options_are_refused_by_the_parser(options, capsys):
    with pytest.raises(SystemExit) as ended:
        main(["build", *options])
    assert ended.value.code == 2
    assert len(capsys.readouterr().err.strip().splitlines()) <= 8


@pytest.mark.parametrize(
    ("choices", "says"),
    [
        ({"source": Path("/nowhere/at/all")}, "KNB204: .*there is no such folder"),
        ({"source": Path("/")}, "KNB204: .*it has no CMakeLists.txt"),
        ({"backend": "abacus"}, "KNB207: there is no backend 'abacus'"),
        ({"jobs": 0}, "KNB207: cannot build with 0 jobs"),
        ({"source": Path(__file__)}, "KNB204: .*it is a file"),
        ({"backend": "cpu", "cuda_arch": "90"}, "KNB207: --cuda-arch does not go with the cpu backend"),
        ({"cuda_arch": "sm_90"}, "KNB207: 'sm_90' is not a CUDA architecture"),
        ({"ref": "--upload-pack=x"}, "KNB205: .*is not a git ref"),
        ({"ref": "master", "source": Path("/")}, "KNB204: both a source folder and a ref"),
    ],
)
def test_wrong_choices_are_wrong_use(choices, says, cache):
    with pytest.raises(UsageError, match=says):
        ensure_build(**choices)
    assert not cache.exists()


def test_verifying_what_was_never_built_says_so(capsys):
    assert main(["build", "--backend", "cpu", "--verify"]) == 1
    assert "KNB200: there is no finished build to verify" in capsys.readouterr().err


def test_a_persons_own_build_is_used_as_it_is(tree, tmp_path, monkeypatch, capsys):
    build, _ = build_tree(tree)
    (build.bin / "llama-bench").unlink()
    checkout = tmp_path / "theirs"
    checkout.mkdir()
    build.bin.rename(checkout / "bin")
    for named in (checkout, checkout / "bin"):
        monkeypatch.setenv("KIMI_NB_LLAMA_CPP", str(named))
        own = ensure_build()
        assert (own.bin, own.backend, own.version) == (checkout / "bin", "cpu", VERSION)
        assert find_build() == own
    assert own.program("llama-server").is_file()
    with pytest.raises(BuildError, match=r"KNB201: there is no program llama-bench .*your own build"):
        own.program("llama-bench")
    with pytest.raises(UsageError, match=r"KNB216: .*for cpu, and cuda is asked for"):
        find_build(backend="cuda")
    assert main(["build", "--verify"]) == 1
    assert "KNB200: a build of your own cannot be verified" in capsys.readouterr().err

    (checkout / "bin/libllama.so.0.0.1").unlink(missing_ok=True)
    (checkout / "bin/libllama.0.0.1.dylib").unlink(missing_ok=True)
    (checkout / "bin/llama-server").touch()
    with pytest.raises(BuildError, match=r"KNB221: .*llama-server does not run: .*llama"):
        ensure_build()
    monkeypatch.setenv("KIMI_NB_LLAMA_CPP", str(tmp_path))
    with pytest.raises(BuildError, match=r"KNB216: .*no llama-server"):
        ensure_build()


def test_a_program_that_we_do_not_build_is_named(tree):
    build, _ = build_tree(tree)
    with pytest.raises(BuildError, match=r"KNB201: there is no program llama-run .*There are: llama-server"):
        build.program("llama-run")
