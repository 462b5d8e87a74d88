"""The real build of llama.cpp: complete, movable, and the very one that the Python binding runs on."""

import re
import shutil
import subprocess
import sys

import pytest
from build_tree import search_paths, start

from kimi_nb.engine import find_build
from kimi_nb.engine.build import verify_build
from kimi_nb.engine.compile import PROGRAMS
from kimi_nb.engine.sdist import COMMIT

pytestmark = pytest.mark.engine


def run(code: str, tmp_path, **env: str) -> str:
    """Run Python ``code`` in a fresh process, with the user's own cache; return all that it printed."""
    from kimi_nb.files import cache_home

    process = start(code, cache_home(), **env)
    text, _ = process.communicate(timeout=120)
    assert process.returncode == 0, text
    return text


def test_every_program_is_there_and_runs(build):
    for name in PROGRAMS:
        done = subprocess.run(
            [build.program(name), "--help"], capture_output=True, text=True, check=False, timeout=60
        )
        assert done.returncode in {0, 1}, (name, done.stderr)
        assert len(done.stdout + done.stderr) > 200, name
    assert f"commit {COMMIT[:7]}" in build.version
    assert find_build() == build


def test_what_is_on_the_disk_is_what_was_built(build):
    assert verify_build(build) == []


def test_a_copy_elsewhere_runs_on_its_own_libraries(build, tmp_path):
    copy = tmp_path / "moved here"
    shutil.copytree(build.bin, copy, symlinks=True)
    renamed = tmp_path / "and here"
    copy.rename(renamed)
    done = subprocess.run([renamed / "llama-server", "--version"], capture_output=True, text=True, check=True)
    assert build.version in done.stdout + done.stderr
    if sys.platform == "linux":
        files = [path for path in renamed.iterdir() if path.is_file() and not path.is_symlink()]
        paths = {path.name: search_paths(path) for path in files}
        assert all(entries[0] == "$ORIGIN" for entries in paths.values() if entries)
        assert not [name for name, entries in paths.items() if not all(entries)]  # empty: the current folder
        listed = subprocess.run(
            ["ldd", renamed / "llama-server"], capture_output=True, text=True, check=True
        ).stdout
        used = re.findall(r"(?:lib(?:llama|ggml|mtmd)\S*) => (.+) \(", listed)
        assert len(used) >= 4
        assert {path.rpartition("/")[0] for path in used} == {str(renamed)}


def test_the_binding_runs_on_the_build(build, tmp_path):
    text = run(
        """
        from kimi_nb.engine import ensure_build, load_llama_cpp
        build = ensure_build()
        module = load_llama_cpp(build)
        assert load_llama_cpp(build) is module
        print(module.llama_cpp._lib._name, module.llama_print_system_info().decode())
        """,
        tmp_path,
    )
    assert text.startswith(str(build.bin))
    assert "CPU" in text


def test_a_binding_that_is_already_on_another_library_is_refused(build, tmp_path):
    other = tmp_path / "other"
    shutil.copytree(build.bin, other, symlinks=True)
    text = run(
        """
        import llama_cpp
        from kimi_nb.engine import load_llama_cpp
        from kimi_nb.errors import BuildError
        try:
            load_llama_cpp()
        except BuildError as error:
            print(error)
        """,
        tmp_path,
        LLAMA_CPP_LIB_PATH=str(other),
    )
    assert text.startswith(
        "KNB217: llama_cpp was already imported in this process, on another library: it runs on "
    )
    assert str(other) in text
    assert "Restart the kernel" in text


def test_a_build_of_another_commit_is_refused(build, tmp_path):
    text = run(
        """
        import dataclasses, sys
        from kimi_nb.engine import ensure_build, load_llama_cpp
        from kimi_nb.errors import BuildError
        build = dataclasses.replace(ensure_build(), version="0.5.1 (build 3, commit abcdef012)")
        try:
            load_llama_cpp(build)
        except BuildError as error:
            print(error, "llama_cpp" in sys.modules)
        """,
        tmp_path,
    )
    assert text.startswith("KNB218: llama_cpp cannot be used on the libraries in")
    assert "commit abcdef012, llama-cpp-python is made for 0c1e57098" in text
    assert text.strip().endswith("False")


def test_libraries_that_do_not_load_are_one_line(build, tmp_path):
    broken = tmp_path / "broken"
    shutil.copytree(build.bin, broken, symlinks=True)
    for library in broken.glob("libllama.*"):
        library.unlink()
        library.write_bytes(b"not a library")
    text = run(
        f"""
        import dataclasses, pathlib
        from kimi_nb.engine import ensure_build, load_llama_cpp
        from kimi_nb.errors import BuildError
        build = dataclasses.replace(ensure_build(), bin=pathlib.Path({str(broken)!r}))
        try:
            load_llama_cpp(build)
        except BuildError as error:
            print(error)
        """,
        tmp_path,
    )
    assert re.match(r"KNB218: .*Failed to load shared library", text)


def test_importing_the_package_loads_nothing_heavy(tmp_path):
    text = run(
        """
        import sys
        import kimi_nb.engine
        before = set(sys.modules)
        assert {"Build", "ensure_build", "find_build", "load_llama_cpp", "InProcess"} <= set(dir(kimi_nb.engine))
        kimi_nb.engine.find_build
        print([name for name in ("llama_cpp", "numpy", "filelock", "pynvml", "psutil") if name in sys.modules])
        """,
        tmp_path,
    )
    assert text.strip() == "[]"
