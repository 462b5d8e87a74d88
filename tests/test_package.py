"""Rules that the whole package keeps: cheap imports, explained errors, short documented modules, a true README."""

import ast
import importlib
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from kimi_nb.cli import VERBS, main
from kimi_nb.errors import KimiNbError, UsageError, troubles

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "kimi_nb"
SOURCES = sorted(PACKAGE.rglob("*.py"))
PARTS = ["kimi_nb", *(f"kimi_nb.{folder.parent.name}" for folder in sorted(PACKAGE.glob("*/__init__.py")))]
HEAVY = {
    "llama_cpp",
    "plotly",
    "papermill",
    "openai",
    "huggingface_hub",
    "numpy",
    "gguf",
    "torch",
    "pydantic",
    "pynvml",
}
ID = re.compile(r"KNB\d{3}")
#: Data flows from left to right, so a package imports what stands in its own place or left of it.
LAYERS = [
    {"model", "machine"},
    {"plan"},
    {"engine"},
    {"nano", "rehearse", "chat"},
    {"run", "doctor", "recipe"},
    {"panel"},
    {"commands"},
]
PLACE = {package: place for place, packages in enumerate(LAYERS) for package in packages}


@pytest.mark.parametrize("part", [*PARTS, "kimi_nb.cli"])
def test_importing_loads_nothing_heavy(part):
    code = f"import sys, {part}; print(*sorted({HEAVY!r} & set(sys.modules)))"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert said.stdout.strip() == ""


def imports_of(path):
    """Yield what a module imports when it runs, inside functions too, and not for its types alone."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    checks = [
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and getattr(node.test, "id", "") == "TYPE_CHECKING"
    ]
    for_types = {id(inner) for check in checks for inner in ast.walk(check)}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and id(node) not in for_types:
            yield node.module or "", {name.name for name in node.names}


def test_data_flows_one_way():
    assert {path.parent.name for path in PACKAGE.glob("*/__init__.py")} <= set(PLACE), (
        "give it a place in LAYERS"
    )
    back = []
    for path in SOURCES:
        own = PLACE.get(path.relative_to(PACKAGE).parts[0], len(LAYERS))
        for module, names in imports_of(path):
            words = module.split(".")
            shipped = words[-1] == "nano" and names <= {
                "nano_path",
                "nano_facts",
            }  # data that anyone may open
            if words[0] == "kimi_nb" and PLACE.get(words[1] if words[1:] else "", 0) > own and not shipped:
                back.append(f"{path.relative_to(PACKAGE)} imports {module}")
    assert back == []


@pytest.mark.parametrize("part", PARTS)
def test_every_exported_name_is_there_once(part):
    module = importlib.import_module(part)
    names = getattr(module, "__all__", [])
    assert len(names) == len(set(names))
    for name in names:
        assert getattr(module, name) is not None


def test_every_error_id_used_is_explained_and_every_explained_one_is_used():
    used = {id_ for path in SOURCES for id_ in ID.findall(path.read_text(encoding="utf-8"))}
    assert used - set(troubles()) == set()
    assert set(troubles()) - used == set()


def test_the_troubleshooting_notebook_names_every_range_of_ids():
    table = (ROOT / "notebooks/07_troubleshooting.py").read_text(encoding="utf-8")
    assert sorted(re.findall(r"^# \| KNB(\d)… \|", table, re.MULTILINE)) == sorted(
        {id_[3] for id_ in troubles()}
    )


def test_an_explanation_is_written_for_a_person():
    for trouble in troubles().values():
        assert trouble.title
        assert trouble.explanation.rstrip().endswith((".", "`", ")"))
        assert len(trouble.explanation) > 60, trouble.id


def test_an_error_is_one_line_with_its_id():
    error = UsageError("KNB703", "it broke", why="a\nlong\n  reason", fix="Mend it.")
    assert str(error) == "KNB703: it broke: a long reason. Mend it."
    assert isinstance(error, KimiNbError)
    assert error.exit_code == 2


def test_no_module_is_longer_than_five_hundred_lines():
    assert [p.name for p in SOURCES if len(p.read_text(encoding="utf-8").splitlines()) > 500] == []


def test_every_public_function_and_class_is_documented():
    bare = []
    for path in SOURCES:
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for node in tree.body:
            public = isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_")
            # An overload's document is that of the function it belongs to.
            overload = public and any(getattr(mark, "id", "") == "overload" for mark in node.decorator_list)
            if public and not overload and not ast.get_docstring(node):
                bare.append(f"{path.name}:{node.name}")
    assert bare == []


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_explains_itself(verb, capsys):
    with pytest.raises(SystemExit) as ended:
        main([verb, "--help"])
    assert ended.value.code == 0
    assert verb in capsys.readouterr().out


def test_every_module_of_a_verb_is_a_verb():
    modules = {path.stem for path in (PACKAGE / "commands").glob("*.py") if not path.stem.startswith("_")}
    assert modules == set(VERBS)


def test_wrong_use_ends_with_two(capsys):
    with pytest.raises(SystemExit) as ended:
        main(["no-such-verb"])
    assert ended.value.code == 2
    assert "no-such-verb" in capsys.readouterr().err


def test_the_readme_names_every_verb_and_every_dependency():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    for verb in VERBS:
        assert f"| `{verb}` |" in readme
    for needed in tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]:
        name = re.match(r"[\w-]+", needed)[0]
        assert name in readme or name.replace("_", "-") in readme
    assert [word for word in re.findall(r"^\| `(\w+)` \|", readme, re.MULTILINE) if word not in VERBS] == []


def test_the_locks_hold_hashes_and_no_address():
    for lock in sorted((ROOT / "environments").glob("requirements*.txt")):
        text = lock.read_text(encoding="utf-8")
        assert "://" not in text
        packages = re.findall(r"^[\w.-]+==", text, re.MULTILINE)
        assert len(packages) > 50
        assert text.count("--hash=sha256:") >= len(packages)
