"""What goes wrong while building: each cause gets its own message, and putting it right continues the build."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from build_tree import REPOSITORY, VERSION, at_work, log_of, make_tree, set_launcher, start_build
from system import wait_until

from kimi_nb.engine import ensure_build
from kimi_nb.engine.compile_errors import explain_compile, explain_configure
from kimi_nb.engine.storage import check_space
from kimi_nb.errors import BuildError

HERE = Path(__file__).parent


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    folder = tmp_path / "cache"
    monkeypatch.setenv("KIMI_NB_CACHE", str(folder))
    monkeypatch.delenv("KIMI_NB_LLAMA_CPP", raising=False)
    for name in ("CC", "CXX"):
        monkeypatch.delenv(name, raising=False)
    return folder


@pytest.fixture
def tree(tmp_path):
    return make_tree(tmp_path / "tree")


def failure(tree, **choices) -> BuildError:
    with pytest.raises(BuildError) as failed:
        ensure_build(backend="cpu", source=tree, **choices)
    assert "\n" not in str(failed.value)
    return failed.value


def test_a_compile_error_shows_the_first_error_and_names_the_log(tree, cache):
    file = tree / "tools/llama-imatrix.cpp"
    good = file.read_text()
    file.write_text("int main() {\n    return undeclared_name;\n}\n")
    error = failure(tree, jobs=4)
    assert error.id == "KNB209"
    assert "llama-imatrix.cpp:2:" in error.why
    assert "undeclared_name" in error.why
    log = Path(error.fix.rpartition("The whole log: ")[2])
    assert "undeclared_name" in log.read_text()
    assert log.is_relative_to(cache)
    file.write_text(good)
    build = ensure_build(backend="cpu", source=tree)
    assert build.version == VERSION
    assert build.manifest["continued"]


def test_a_link_error_is_shown_too(tree):
    (tree / "src/llama.cpp").write_text("int other() { return 0; }\n")
    error = failure(tree)
    assert error.id == "KNB209"
    assert "version()" in error.why
    assert "undefined" in error.why.lower()


def test_no_compiler_at_all(tree, tmp_path, monkeypatch):
    only = tmp_path / "bin"
    only.mkdir()
    for name in ("cmake", "ninja"):
        (only / name).symlink_to(shutil.which(name))
    monkeypatch.setenv("PATH", str(only))
    error = failure(tree)
    assert error.id == "KNB206"
    assert "none of c++, g++ and clang++ runs" in error.why
    assert "install" in error.fix.lower()


def test_a_compiler_that_is_not_there(tree, monkeypatch):
    monkeypatch.setenv("CXX", "/opt/none/g++")
    error = failure(tree)
    assert (error.id, error.fix) == ("KNB206", "Correct or unset CXX.")
    assert "/opt/none/g++" in error.why


def test_a_compiler_that_cannot_compile(tree, tmp_path, monkeypatch):
    """As where the headers of the C library are missing: it says its version and nothing else works."""
    broken = tmp_path / "broken-c++"
    broken.write_text(
        '#!/bin/sh\n[ "$1" = --version ] && exec c++ --version\necho "fatal error: no headers" >&2\nexit 1\n'
    )
    broken.chmod(0o755)
    monkeypatch.setenv("CXX", str(broken))
    error = failure(tree)
    assert error.id == "KNB206"
    assert "cannot compile even a small program" in error.what
    assert "no headers" in error.why


def test_a_library_that_cmake_does_not_find(tree):
    lists = tree / "CMakeLists.txt"
    lists.write_text(lists.read_text() + "find_package(NoSuchLibrary REQUIRED)\n")
    error = failure(tree)
    assert error.id == "KNB210"
    assert "NoSuchLibrary" in error.why


def test_short_memory_leads_to_fewer_compilers(tree, cache):
    """The launcher ends a compiler as the kernel would, when another runs at the same time."""
    held = tree / "held"
    set_launcher(
        tree,
        f"""
        if ! mkdir '{held}' 2>/dev/null; then
            echo "c++: fatal error: Killed signal terminated program cc1plus" >&2
            exit 1
        fi
        trap "rmdir '{held}'" EXIT
        sleep 0.2
        "$@"
        exit $?
        """,
    )
    said = []
    build = ensure_build(backend="cpu", source=tree, jobs=4, progress=lambda text, _: said.append(text))
    assert build.version == VERSION
    shortages = [text for text in said if "memory ran out" in text]
    assert shortages[-1] == "memory ran out; continuing with 1 compiler(s) at once"


def test_ninja_itself_killed_for_memory(tree, cache):
    set_launcher(tree, f"kill -9 $(cat {cache}/engine/work/*/running); sleep 1")
    error = failure(tree, jobs=1)
    assert error.id == "KNB211", error


def test_memory_that_does_not_do_for_one_compiler(tree):
    """A real shortage: an address space of 40 MB is too small for the compiler, whatever it compiles."""
    set_launcher(tree, "ulimit -v 40000")
    error = failure(tree, jobs=2)
    assert error.id == "KNB211", error
    assert error.fix.startswith("Free some memory")
    set_launcher(tree, "")
    assert ensure_build(backend="cpu", source=tree).version == VERSION


def on_small_disk(folder: Path, mib: int, code: str) -> subprocess.CompletedProcess[str]:
    """Run Python ``code`` where ``folder`` is a real disk of ``mib`` MiB, which nobody else sees."""
    folder.mkdir()
    mount = f"mount -t tmpfs -o size={mib}m tmpfs '{folder}'"
    inside = ["sh", "-c", f'{mount} && exec "$@"', "sh", sys.executable, "-c", code]
    return subprocess.run(
        ["unshare", "--user", "--map-root-user", "--mount", *inside],
        cwd=REPOSITORY,
        env=os.environ | {"KIMI_NB_CACHE": str(folder / "cache"), "PYTHONPATH": str(HERE)},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


BUILD = """
import sys
from kimi_nb.cli import main
sys.exit(main(["build", "--backend", "cpu", "--source", sys.argv[1]]))
"""


def own_disks() -> bool:
    """Tell whether this system lets a user have disks of their own (not macOS, nor some hardened Linuxes)."""
    unshare = shutil.which("unshare")
    words = [unshare, "--user", "--map-root-user", "--mount", "mount", "-t", "tmpfs", "tmpfs", "/mnt"]
    return unshare is not None and subprocess.run(words, capture_output=True, check=False).returncode == 0


def test_too_small_a_disk_is_refused_before_anything_is_done(tree, tmp_path):
    if own_disks():
        done = on_small_disk(tmp_path / "disk", 50, BUILD.replace("sys.argv[1]", repr(str(tree))))
        assert done.returncode == 1
        assert "KNB208: not enough disk space to build llama.cpp in" in done.stderr
        assert "500 MiB are needed and 50 MiB are free" in done.stderr
        assert "KIMI_NB_CACHE" in done.stderr
        assert "Building" not in done.stdout
    with pytest.raises(BuildError, match=r"KNB208: .*999999999 MiB are needed.*KIMI_NB_CACHE"):
        check_space(tmp_path / "not" / "there" / "yet", 999_999_999)


def test_a_disk_that_fills_up_while_compiling(tree, tmp_path, cache):
    """Half-way the disk is full; nothing half-made has a final name, and with space again the build continues."""
    if own_disks():
        disk = tmp_path / "disk"
        set_launcher(
            tree,
            f"""
            case "$*" in *llama-quantize*) head -c 1G /dev/zero > '{disk}/filler' 2>/dev/null;; esac
            """,
        )
        code = f"""
import pathlib, subprocess, sys
from kimi_nb.cli import main
words = ["build", "--backend", "cpu", "--source", {str(tree)!r}, "--jobs", "1"]
first = main(words)
print("builds:", list(pathlib.Path({str(disk)!r}).glob("cache/engine/builds/*")))
pathlib.Path({str(disk)!r}, "filler").unlink()
pathlib.Path({str(tree)!r}, "launch.sh").write_text('#!/bin/sh\\nexec "$@"\\n')
sys.exit(10 * first + main(words))
"""
        done = on_small_disk(disk, 600, code)
        assert done.returncode == 10, done.stderr
        assert "KNB208: the disk filled up during the build" in done.stderr
        assert "run the same command, which continues" in done.stderr
        assert "builds: []" in done.stdout
        assert VERSION in done.stderr
    # The same where a limit on file sizes stands for the full disk, which works on every system.
    (tree / "src/llama.cpp").write_text(
        "const char big[3000000] = {1}; const char * version() { return big; }\n"
    )
    set_launcher(tree, "")
    limited = f"""
import resource, signal, sys
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (2_000_000, resource.RLIM_INFINITY))
from kimi_nb.cli import main
sys.exit(main(["build", "--backend", "cpu", "--source", {str(tree)!r}]))
"""
    done = subprocess.run(
        [sys.executable, "-c", limited], cwd=REPOSITORY, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert "KNB208: the disk filled up during the build" in done.stderr, log_of(cache)
    assert list(cache.glob("engine/builds/*")) == []


@pytest.mark.parametrize("place", ["a file", "below a file", "/proc/nowhere"])
def test_a_cache_that_cannot_be_written(place, tree, tmp_path, monkeypatch):
    file = tmp_path / "file"
    file.touch()
    folder = {"a file": file, "below a file": file / "deeper"}.get(place, Path(place))
    if folder == Path("/proc/nowhere") and not Path("/proc").is_dir():
        folder = Path("/System/nowhere")  # macOS
    monkeypatch.setenv("KIMI_NB_CACHE", str(folder))
    error = failure(tree)
    assert error.id in {"KNB220", "KNB208"}
    assert "KIMI_NB_CACHE" in error.fix


def test_a_program_that_does_not_run_is_no_build(tree, cache):
    (tree / "src/llama.cpp").write_text("const char * version() { __builtin_trap(); }\n")
    error = failure(tree)
    assert error.id == "KNB221"
    assert not any(path.name.startswith("cpu-") for path in cache.glob("engine/builds/*"))


def test_a_compiler_that_leaves_processes_behind(tree, cache):
    """Whatever a compiler starts ends with the build, even when it has a session of its own."""
    (tree / "tools/llama-tokenize.cpp").write_text("no C++\n")
    set_launcher(
        tree,
        f"setsid sleep 300 '{cache}' 2>/dev/null & : '{cache}'" if shutil.which("setsid") else "sleep 300 &",
    )
    process = start_build(tree, cache)
    process.communicate(timeout=60)
    assert process.returncode == 1
    wait_until(lambda: not at_work(cache))


PIECE = """[5/240] Building CUDA object ggml/src/ggml-cuda/CMakeFiles/ggml-cuda.dir/acc.cu.o
FAILED: [code=1] ggml/src/ggml-cuda/CMakeFiles/ggml-cuda.dir/acc.cu.o
/usr/local/cuda/bin/nvcc -DGGML_ERROR_THING=1 -c acc.cu -o acc.cu.o
{said}
[6/240] Building CXX object src/CMakeFiles/llama.dir/other.cpp.o
src/other.cpp:1:1: error: a later one
ninja: build stopped: subcommand failed.
"""


@pytest.mark.parametrize(
    ("said", "id_", "shows"),
    [
        # As nvcc, g++, clang and the kernel's out-of-memory killer write it.
        ("/usr/local/cuda/include/crt/host_config.h:143:2: error: #error -- unsupported GNU version! gcc versions later than 12 are not supported!", "KNB213", "gcc versions later than 12"),
        ("nvcc fatal   : Unsupported gpu architecture 'compute_120a'", "KNB214", "compute_120a"),
        ("c++: fatal error: Killed signal terminated program cc1plus\ncompilation terminated.", "KNB211", "--jobs 2"),
        ("cc1plus: out of memory allocating 65536 bytes after a total of 17 bytes", "KNB211", "--jobs 2"),
        ("clang++: error: unable to execute command: Killed", "KNB211", "--jobs 2"),
        ("virtual memory exhausted: Cannot allocate memory", "KNB211", "--jobs 2"),
        ("/tmp/cc1.s: Assembler messages:\n/tmp/cc1.s: Fatal error: can't write 12 bytes to section .text of acc.cu.o: 'No space left on device'", "KNB208", "KIMI_NB_CACHE"),
        ("src/a.cpp:3:9: error: 'x' was not declared in this scope\nnote: words\nsrc/a.cpp:9:1: error: second", "KNB209", "src/a.cpp:3:9: error: 'x' was not declared in this scope | src/a.cpp:9:1"),
        ("sh: 1: launcher: not found", "KNB209", "launcher: not found"),
    ],
)  # fmt: skip
def test_what_compilers_say_is_understood(said, id_, shows, tmp_path):
    error = explain_compile(
        PIECE.format(said=said), tmp_path / "log", tmp_path, compiler="c++ (Debian) 12.2.0", jobs=4
    )
    assert error.id == id_
    assert shows in str(error)
    assert "a later one" not in str(error)
    assert "GGML_ERROR_THING" not in str(error)


def test_an_old_compiler_is_named_when_it_fails(tmp_path):
    said = PIECE.format(said="a.cpp:1:10: fatal error: charconv: No such file or directory")
    old = explain_compile(said, tmp_path / "log", tmp_path, compiler="c++ (Ubuntu 7.5.0-3) 7.5.0", jobs=1)
    new = explain_compile(said, tmp_path / "log", tmp_path, compiler="c++ (Debian 12.2.0-14) 12.2.0", jobs=1)
    assert "This compiler is old (c++ (Ubuntu 7.5.0-3) 7.5.0): install g++ 11 or newer" in old.fix
    assert new.fix == f"The whole log: {tmp_path / 'log'}"


def test_what_cmake_says_is_understood(tmp_path):
    said = "-- Found it\nCMake Error at ggml/CMakeLists.txt:3 (find_package):\n  Could not find CUDAToolkit (missing:\n  CUDA_CUBLAS)\n\n-- Configuring incomplete, errors occurred!\n"
    error = explain_configure(said, tmp_path / "log", tmp_path)
    assert error.fix.startswith("Install the toolkit's libraries too (cuBLAS is missing)")
    assert (error.id, error.why) == ("KNB210", "Could not find CUDAToolkit (missing: CUDA_CUBLAS)")
    assert explain_configure("", tmp_path / "log", tmp_path).why == "it said nothing"
