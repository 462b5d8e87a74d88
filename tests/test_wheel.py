"""An installation without a clone: what the sdist and the wheel hold, and that the installed wheel works.

The wheel is built by the real backend, from the unpacked sdist, and installed into an environment of its own, which
sees the packages of this one: so nothing is fetched.
"""

import hashlib
import json
import os
import re
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from pathlib import Path

import pytest

from kimi_nb import __version__

ROOT = Path(__file__).parents[1]
NAME = f"kimi_nb-{__version__}"
LIMIT_S = 240


def call(*words, **more):
    done = subprocess.run(
        words, capture_output=True, text=True, check=False, timeout=LIMIT_S, stdin=subprocess.DEVNULL, **more
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def sources(folder):
    """The files of a folder of this clone, without what Python and Jupyter leave there."""
    made = {"__pycache__", ".ipynb_checkpoints"}
    return {path for path in folder.rglob("*") if path.is_file() and not made & set(path.parts)}


def hashes(folder):
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sources(folder)
    }


@pytest.fixture(scope="module")
def sdist(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sdist")
    call(sys.executable, "-m", "hatchling", "build", "-t", "sdist", "-d", str(folder), cwd=ROOT)
    return folder / f"{NAME}.tar.gz"


@pytest.fixture(scope="module")
def wheel(sdist):
    with tarfile.open(sdist) as archive:
        archive.extraction_filter = getattr(tarfile, "data_filter", None)  # unknown before Python 3.11.4
        archive.extractall(sdist.parent)
    call(sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", "..", cwd=sdist.parent / NAME)
    return sdist.parent / f"{NAME}-py3-none-any.whl"


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    """The folder of an environment with the wheel in it."""
    folder = tmp_path_factory.mktemp("environment") / "venv"
    call(sys.executable, "-m", "venv", "--without-pip", str(folder))
    python = str(folder / "bin/python")
    # Before it sees this environment, so that pip takes nothing here for an older installation of it.
    pip = [sys.executable, "-m", "pip", "--python", python, "--disable-pip-version-check"]
    call(*pip, "install", "--quiet", "--no-index", "--no-deps", str(wheel), env=environment(folder))
    site = Path(call(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))").strip())
    ours = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}
    # Python reads no .pth files in folders that a .pth file names, so the editable kimi-nb there is not seen.
    (site / "packages.pth").write_text("\n".join(sorted(ours)) + "\n")
    (folder / "share").symlink_to(Path(sys.prefix) / "share")  # JupyterLab's and nbconvert's own files
    return folder


def environment(home):
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("PYTHON", "KIMI_NB_", "JUPYTER", "PIP_", "XDG_"))
    }
    return kept | {"HOME": str(home), "IPYTHONDIR": str(home / "ipython"), "PIP_NO_INDEX": "1"}


@pytest.fixture
def inside(installed, tmp_path):
    """Run a program of the environment in an empty folder with a space in its name."""
    here = tmp_path / "my work"
    here.mkdir()
    (tmp_path / "home").mkdir()

    def run(program, *words):
        return call(str(installed / "bin" / program), *words, cwd=here, env=environment(tmp_path / "home"))

    run.here = here
    return run


def test_the_sdist_holds_what_the_wheel_is_made_from(sdist):
    with tarfile.open(sdist) as archive:
        names = {name.removeprefix(f"{NAME}/") for name in archive.getnames()}
    wanted = {
        str(path.relative_to(ROOT)) for part in ("kimi_nb", "notebooks") for path in sources(ROOT / part)
    }
    about = {"CHANGELOG.md", "LICENSE", "README.md", "pyproject.toml", ".gitignore", "PKG-INFO"}
    assert names == wanted | about


def test_the_wheel_holds_the_package_its_notebooks_and_nothing_else(wheel):
    with zipfile.ZipFile(wheel) as archive:
        held = {name: hashlib.sha256(archive.read(name)).hexdigest() for name in archive.namelist()}
        metadata = archive.read(f"{NAME}.dist-info/METADATA").decode()
    about = {name for name in held if name.startswith(f"{NAME}.dist-info/")}
    assert {Path(name).name for name in about} == {
        "METADATA",
        "WHEEL",
        "RECORD",
        "entry_points.txt",
        "LICENSE",
    }
    wanted = {f"kimi_nb/{name}": sha for name, sha in hashes(ROOT / "kimi_nb").items()}
    notebooks = {name: sha for name, sha in hashes(ROOT / "notebooks").items() if name.endswith(".ipynb")}
    assert len(notebooks) >= 7
    wanted |= {f"kimi_nb/notebooks/{name}": sha for name, sha in notebooks.items()}
    assert {name: sha for name, sha in held.items() if name not in about} == wanted
    for needed in (
        "nano/data/nano.gguf",
        "troubles/7_run.toml",
        "panel/panel.js",
        "panel/panel.css",
        "py.typed",
    ):
        assert f"kimi_nb/{needed}" in wanted
    # pip would compile it for minutes.
    binding = re.findall(r"^Requires-Dist: llama-cpp-python.*", metadata, re.MULTILINE)
    assert binding
    assert all("extra == 'in-process'" in line for line in binding)


def test_pip_is_content(installed):
    pip = [
        sys.executable,
        "-m",
        "pip",
        "--python",
        str(installed / "bin/python"),
        "--disable-pip-version-check",
    ]
    assert "No broken requirements" in call(*pip, "check", env=environment(installed))


@pytest.mark.notebooks
def test_a_notebook_runs_by_its_number_and_nothing_is_written_into_the_package(inside, installed):
    where = inside("python", "-c", "import kimi_nb; print(kimi_nb.__file__)").strip()
    assert where.startswith(str(installed)), "it is the wheel that is tried, not the clone"
    package = Path(where).parent
    before = hashes(package)
    told = json.loads(inside("kimi-nb", "run", "1", "--out", "of run 1", "--json"))
    assert told["status"] == "succeeded"
    assert [one["name"] for one in told["notebooks"]] == ["01_setup"]
    assert [path.name for path in inside.here.iterdir()] == ["of run 1"]
    executed = json.loads((inside.here / "of run 1/01_setup.ipynb").read_text())
    shown = json.dumps([cell.get("outputs") for cell in executed["cells"]])
    assert f"{installed}/bin/python" in shown, "the kernel is of the environment that kimi-nb is installed in"
    assert "llama.cpp" in shown
    assert "MISSING" not in shown
    assert hashes(package) == before


@pytest.mark.notebooks
def test_lab_opens_copies_that_a_person_can_edit(inside, installed):
    assert "--no-browser" in inside("kimi-nb", "lab", "--help")
    assert list(inside.here.iterdir()) == []
    said = inside("kimi-nb", "lab", "--", "--version").splitlines()  # JupyterLab says its version and ends
    folder = inside.here / "kimi-nb-notebooks"
    assert said[0] == f"The notebooks are in {folder}, and yours to edit."
    assert re.match(r"\d+\.\d+\.\d+", said[-1])
    package = next((installed / "lib").rglob("kimi_nb"))
    assert {path.name: path.read_bytes() for path in folder.glob("*.ipynb")} == {
        path.name: path.read_bytes() for path in (package / "notebooks").glob("*.ipynb")
    }
    assert os.access(folder / "01_setup.ipynb", os.W_OK)
