"""`kimi-nb run`: one JSON document on standard output, everything for people beside it, honest exit codes."""

import json
from pathlib import Path

import pytest

from kimi_nb.cli import main

NOTEBOOKS = Path(__file__).parent / "notebooks"


@pytest.mark.notebooks
def test_json_is_the_record_and_the_exit_code_is_1_when_a_notebook_failed(tmp_path, capsys):
    names = [str(NOTEBOOKS / f"{name}.ipynb") for name in ("takes_parameters", "raises")]
    assert (
        main(["run", *names, "-p", "text", "007", "-p", "ctx", "512", "--out", str(tmp_path), "--json"]) == 1
    )
    out, err = capsys.readouterr()
    printed = json.loads(out)
    record = json.loads((tmp_path / "run.json").read_text(encoding="utf-8"))
    assert {key: printed[key] for key in record} == record
    assert printed["status"] == "failed"
    assert [set(notebook) >= {"name", "status", "seconds", "error"} for notebook in printed["notebooks"]] == [
        True
    ] * 2
    assert [notebook["status"] for notebook in printed["notebooks"]] == ["succeeded", "failed"]
    assert printed["notebooks"][0]["parameters"] == {"text": "007", "ctx": 512}
    assert printed["notebooks"][1]["parameters"] == {}
    assert Path(printed["report"]).exists()
    assert "[2/2] raises failed" in err
    assert "KNB711: ZeroDivisionError" in err


@pytest.mark.notebooks
def test_without_json_people_are_told_where_to_look(tmp_path, capsys):
    assert main(["run", str(NOTEBOOKS / "succeeds.ipynb"), "--out", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert "succeeded: 1 of 1 notebooks" in out
    assert f"Report: {tmp_path / 'index.html'}" in out


@pytest.mark.parametrize(
    ("arguments", "id_"),
    [
        (["none.ipynb"], "KNB701"),
        ([str(NOTEBOOKS / "succeeds.ipynb"), "-p", "ctx", "1"], "KNB703"),
        ([str(NOTEBOOKS / "takes_parameters.ipynb"), "-p", "ctx", "many"], "KNB704"),
        ([str(NOTEBOOKS / "succeeds.ipynb"), "--cell-timeout", "0"], "KNB709"),
        ([str(NOTEBOOKS / "succeeds.ipynb"), "--wall", "nan"], "KNB709"),
        ([str(NOTEBOOKS / "succeeds.ipynb"), "--wall", "inf"], "KNB709"),
    ],
)
def test_wrong_use_is_exit_code_2_one_line_and_no_folder(tmp_path, monkeypatch, capsys, arguments, id_):
    monkeypatch.chdir(tmp_path)
    assert main(["run", *arguments, "--json"]) == 2
    out, err = capsys.readouterr()
    assert json.loads(out)["error"]["id"] == id_
    assert err.startswith(f"kimi-nb: {id_}: ")
    assert err.count("\n") == 1
    assert not list(tmp_path.iterdir())
