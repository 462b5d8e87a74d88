"""Which Python notebooks run: real kernel specifications in folders of their own."""

import dataclasses
import json
import os
import sys
from pathlib import Path

import pytest

from kimi_nb.machine.jupyter import _notes, read_jupyter


@pytest.fixture
def kernels(tmp_path, monkeypatch):
    """Let Jupyter look for kernels in a folder of ours before any other."""
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path))
    monkeypatch.setenv("JUPYTER_PREFER_ENV_PATH", "0")

    def install(content: str) -> None:
        folder = tmp_path / "kernels/python3"
        folder.mkdir(parents=True)
        (folder / "kernel.json").write_text(content)

    return install


def spec(program: str) -> str:
    argv = [program, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    return json.dumps({"argv": argv, "display_name": "Python 3", "language": "python"})


def test_this_environments_own_kernel_is_silent(monkeypatch, tmp_path):
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path))
    facts, notes = read_jupyter()
    assert facts.same_environment is True
    assert facts.python == sys.executable
    assert facts.jupyterlab
    assert facts.ipykernel
    assert facts.in_kernel is False
    assert notes == []


def test_a_kernel_that_names_only_python_runs_this_one(kernels):
    kernels(spec("python3"))
    facts, notes = read_jupyter()
    assert facts.kernel_python == sys.executable
    assert notes == []


def test_a_kernel_through_a_link_to_this_environment(kernels, tmp_path):
    (tmp_path / "here").symlink_to(Path(sys.executable).parent)
    kernels(spec(str(tmp_path / "here/python")))
    assert read_jupyter()[1] == []


def test_a_kernel_of_another_environment_is_a_warning(kernels):
    kernels(spec("/opt/other/bin/python"))
    facts, notes = read_jupyter()
    assert facts.same_environment is False
    assert [note.id for note in notes] == ["KNB117"]
    assert "/opt/other/bin/python" in notes[0].what
    assert "-m ipykernel install --sys-prefix" in notes[0].fix


@pytest.mark.parametrize("content", ["", "{", "[]", '{"argv": "python"}', "null", '{"argv": []}'])
def test_a_kernel_file_that_is_none_never_raises(kernels, content):
    kernels(content)
    facts, notes = read_jupyter()
    assert {note.id for note in notes} <= {"KNB117"}
    assert (facts.kernel_python is None) == (facts.same_environment is None)


@pytest.mark.parametrize(
    ("ipywidgets", "frontend", "told"),
    [
        ("8.1.5", "3.0.13", False),
        ("8.1.5", "1.1.9", True),
        ("8.1.5", None, True),
        ("7.8.1", "1.1.9", False),
        ("7.8.1", "3.0.13", True),
        (None, None, False),
        ("9.0.0", "4.0.0", False),  # newer than this was written for: nothing is claimed
    ],
)
def test_the_two_halves_of_widgets_must_fit(ipywidgets, frontend, told):
    facts = dataclasses.replace(read_jupyter()[0], ipywidgets=ipywidgets, jupyterlab_widgets=frontend)
    assert [note.id for note in _notes(facts)] == (["KNB118"] if told else [])


def test_inside_a_kernel(tmp_path):
    """A real kernel is asked, as a notebook would."""
    from jupyter_client.manager import start_new_kernel

    code = "from kimi_nb.machine.jupyter import read_jupyter\nprint(read_jupyter()[0].in_kernel)"
    manager, client = start_new_kernel(env={**os.environ, "IPYTHONDIR": str(tmp_path)})
    said = []

    def hear(message):
        if message["msg_type"] == "stream":
            said.append(message["content"]["text"])

    try:
        client.execute_interactive(code, output_hook=hear, timeout=60)
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)
        manager.cleanup_resources()
    assert "".join(said).strip() == "True"
