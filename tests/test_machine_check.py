"""``kimi-nb check`` as a person or a program runs it."""

import json
import os
import subprocess
import sys

import pytest

from kimi_nb.cli import main
from kimi_nb.machine import Machine, load_profile, profiles


def test_this_machine(capsys):
    assert main(["check"]) == 0
    said = capsys.readouterr()
    assert "processor" in said.out
    assert "A rough first look at Kimi K2.5, by file size alone" in said.out
    assert said.err == ""
    assert max(map(len, said.out.splitlines())) <= 130


def test_json_is_one_document_and_nothing_else(capsys):
    assert main(["check", "--json"]) == 0
    said = capsys.readouterr()
    document = json.loads(said.out)
    assert set(document) == {"machine", "first_look"}
    machine = Machine.from_json(document["machine"])
    look = document["first_look"]
    assert look["model"] == "kimi-k2.5"
    assert look["memory_mib"] == machine.capacity_mib
    assert "rough" in look["method"]
    assert {"quant", "bytes", "bytes_exact", "fits_memory", "memory_spare_mib", "fits_disk"} <= set(
        look["quants"][0]
    )


def test_saving_and_showing_again(tmp_path, capsys):
    path = tmp_path / "mine.json"
    assert main(["check", "--save", str(path)]) == 0
    assert str(path) in capsys.readouterr().err
    first = Machine.load(path)
    assert main(["check", "--machine", str(path), "--json"]) == 0
    assert Machine.from_json(json.loads(capsys.readouterr().out)["machine"]) == first


def test_a_profile_can_be_saved_to_start_a_file_of_ones_own(tmp_path):
    assert main(["check", "--machine", "h100x8", "--save", str(tmp_path / "m.json")]) == 0
    assert Machine.load(tmp_path / "m.json") == load_profile("h100x8")


@pytest.mark.parametrize("name", list(profiles()))
def test_every_profile_shows(name, capsys):
    assert main(["check", "--machine", name]) == 0
    said = capsys.readouterr().out
    assert load_profile(name).name in said
    assert "Typical values" in said
    assert "on disk" not in said, "a profile knows no disk"


def test_the_help_names_the_profiles(capsys):
    with pytest.raises(SystemExit) as ended:
        main(["check", "--help"])
    assert ended.value.code == 0
    said = " ".join(capsys.readouterr().out.split())
    assert ", ".join(profiles()) in said


def test_like_gpus_share_a_line(capsys):
    main(["check", "--machine", "h200x8"])
    said = capsys.readouterr().out
    assert "GPU 0-7    8 x NVIDIA H200, each 140.4 GiB" in said
    assert said.count("NVIDIA H200") == 1


def test_on_a_small_machine_only_the_smallest_quant_and_nano_are_told(capsys):
    main(["check", "--machine", "m2-ultra-192gb"])
    said = capsys.readouterr().out
    assert "UD-TQ1_0" in said
    assert "UD-Q4_K_XL" not in said
    assert "kimi-nb demo" in said
    assert "about 144.0 GiB" in said, "a guess is told as one"


@pytest.mark.parametrize(
    ("arguments", "id_"),
    [
        (["--machine", "h2000x8"], "KNB133"),
        (["--machine", ""], "KNB133"),
        (["--machine", "/"], "KNB131"),
        (["--machine", "cpu-512gb", "--save", "/proc/no/such.json"], "KNB134"),
    ],
)
def test_wrong_use_is_one_line_and_exit_code_2(arguments, id_, capsys):
    assert main(["check", *arguments]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith(f"kimi-nb: {id_}: ")
    assert said.err.count("\n") == 1


def test_wrong_use_with_json_is_json_too(capsys):
    assert main(["check", "--json", "--machine", "nothing-like-it"]) == 2
    assert json.loads(capsys.readouterr().out)["error"]["id"] == "KNB133"


def test_a_hand_edited_file_with_a_mistake(tmp_path, capsys):
    value = load_profile("cpu-512gb").to_json()
    value["memory"]["total_mib"] = "515072"
    (tmp_path / "mine.json").write_text(json.dumps(value))
    assert main(["check", "--machine", str(tmp_path / "mine.json")]) == 2
    assert "memory.total_mib must be a whole number" in capsys.readouterr().err


def test_as_a_program_without_a_home_or_a_terminal(tmp_path):
    """As a container with a bare environment would run it."""
    done = subprocess.run(
        [sys.executable, "-m", "kimi_nb.cli", "check", "--json"],
        env={"PATH": os.defpath, "HOME": str(tmp_path / "none")},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["machine"]["memory"]["total_mib"] > 0
    assert done.stderr == ""
    assert list(tmp_path.iterdir()) == []


def test_looking_is_cheap_to_import():
    code = "import sys, kimi_nb.machine, kimi_nb.commands.check\nprint([m for m in sys.modules if m in {'pynvml', 'psutil', 'jupyter_client', 'kimi_nb.machine.machine'}])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
