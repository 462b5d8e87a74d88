"""``kimi-nb models``: what is here, in what state, and removing it without taking anything else along."""

from __future__ import annotations

import argparse
import json
import mmap
import os
import subprocess
import sys
import time

import pytest
from faulty_hub import REPO, Fault, FaultyHub, make_repo, same_files
from system import wait_until

from kimi_nb.commands import models
from kimi_nb.engine.download import Options, download, trust, verify
from kimi_nb.engine.fetch.shelf import Shelf
from kimi_nb.engine.fetch.stock import find, plan_removal, remove, stock
from kimi_nb.errors import DownloadError, KimiNbError, UsageError


@pytest.fixture
def repo(tmp_path):
    return make_repo(tmp_path / "repos" / REPO, quants=("Q4", "Q2"), shards=2, mib=1)


@pytest.fixture
def hub(repo):
    with FaultyHub(repo.parent.parent) as hub:
        yield hub


@pytest.fixture
def shelf(tmp_path):
    return Shelf(tmp_path / "models")


def get(hub, shelf, quant="Q4", repo=REPO, **options):
    given = {"backoff_s": 0.02} | options
    return download(
        repo, quant, endpoint=hub.endpoint, token="", folder=shelf.folder, options=Options(**given)
    )


def command(shelf, *words) -> int:
    parser = argparse.ArgumentParser()
    models.configure(parser)
    return models.main(parser.parse_args([*words, "--folder", str(shelf.folder)]))


def states(shelf) -> dict[str, str]:
    return {each.entry.manifest.quant: each.state for each in stock(shelf)}


def test_every_state_is_told(hub, shelf):
    assert states(shelf) == {}
    hub.faults = [Fault("reset", times=100_000, where="00002-of")]
    with pytest.raises(DownloadError):
        get(hub, shelf, patience_s=0.3)
    assert states(shelf) == {"Q4": "incomplete"}
    hub.faults = []
    result = get(hub, shelf)
    get(hub, shelf, "Q2")
    assert states(shelf) == {"Q4": "verified", "Q2": "verified"}
    os.utime(result.files[1])
    assert states(shelf)["Q4"] == "changed"
    result.files[1].unlink()
    assert states(shelf)["Q4"] == "incomplete"
    result.files[0].unlink()
    assert states(shelf)["Q4"] == "missing"


def test_what_was_verified_is_trusted_without_reading_it(hub, shelf, tmp_path, monkeypatch):
    import builtins
    import io

    result = get(hub, shelf)
    opened = []
    real = io.open

    def noted(file, *rest, **more):
        opened.append(str(file))
        return real(file, *rest, **more)

    monkeypatch.setattr(io, "open", noted)
    monkeypatch.setattr(builtins, "open", noted)
    known = trust(result.first_shard)
    assert known.verified
    assert (known.name, known.files) == (f"{REPO}:Q4", 2)
    assert opened, "the records are read"
    assert not [name for name in opened if name.endswith(".gguf")], "the model is not"
    os.utime(result.files[1])
    known = trust(result.first_shard)
    assert known.changed == (result.files[1],)
    assert "kimi-nb download --verify" in str(known)
    assert trust(tmp_path / "another.gguf") is None


def test_an_adopted_file_is_trusted_where_it_lies(hub, repo, shelf, monkeypatch):
    monkeypatch.setenv("KIMI_NB_MODELS", str(shelf.folder))
    result = verify(repo, model=REPO, quant="Q4", endpoint=hub.endpoint, token="", folder=shelf.folder)
    assert trust(result.files[1]).verified
    next((shelf.state / "sets").glob("*.json")).write_text("{")
    assert trust(result.files[1]) is None, "a damaged record does not keep a server from starting"


def test_the_command_lists(hub, shelf, capsys):
    assert command(shelf) == 0
    assert "no models in" in capsys.readouterr().out
    result = get(hub, shelf)
    assert command(shelf) == 0
    assert f"verified  {REPO}:Q4" in capsys.readouterr().out
    assert command(shelf, "list", "--json") == 0
    (found,) = json.loads(capsys.readouterr().out)["models"]
    assert found["state"] == "verified"
    assert found["total_bytes"] == result.manifest.size
    assert found["files_whole"] == found["files"] == 2
    assert command(shelf, "path", "q4") == 0
    assert capsys.readouterr().out.strip() == str(result.first_shard)


def test_a_file_in_place_of_the_folder_is_told(tmp_path):
    file = tmp_path / "models"
    file.write_text("not a folder")
    with pytest.raises(UsageError, match=r"KNB418: .* is no folder"):
        command(Shelf(file))


def test_removing_takes_one_set_and_nothing_else(hub, repo, shelf, capsys):
    get(hub, shelf)
    get(hub, shelf, "Q2")
    mine = shelf.root_of(REPO) / "Q4" / "notes.txt"
    mine.write_text("mine")
    assert command(shelf, "remove", f"{REPO}:Q4", "--yes", "--json") == 0
    value = json.loads(capsys.readouterr().out)
    assert len(value["files"]) == 2
    assert value["freed_bytes"] > 2**20
    assert mine.read_text() == "mine"
    assert states(shelf) == {"Q2": "verified"}
    same_files(repo, shelf.root_of(REPO), "Q2/*.gguf")
    assert command(shelf, "remove", "Q2", "--yes") == 0
    assert not (shelf.root_of(REPO) / "Q2").exists()


def test_removing_takes_unfinished_parts_along(hub, shelf):
    hub.faults = [Fault("drop", at=300_000, times=1), Fault("reset", times=100_000)]
    with pytest.raises(DownloadError):
        get(hub, shelf, patience_s=0.3)
    assert list(shelf.folder.rglob(".*.part"))
    remove(shelf, plan_removal(shelf, find(shelf, "Q4")))
    assert not list(shelf.folder.rglob("*.part*"))


def test_a_file_that_two_sets_share_stays(hub, repo, shelf):
    readme = {"patterns": ["README.md"], "endpoint": hub.endpoint, "token": "", "folder": shelf.folder}
    download(REPO, "Q4", **readme)
    download(REPO, "Q2", **readme)
    removal = plan_removal(shelf, find(shelf, "Q4"))
    assert [path.name for path in removal.kept] == ["README.md"]
    remove(shelf, removal)
    assert (shelf.root_of(REPO) / "README.md").exists()
    assert states(shelf) == {"Q2": "verified"}


def test_an_adopted_set_is_only_forgotten_unless_asked(hub, repo, shelf, tmp_path):
    import shutil

    where = tmp_path / "mine"
    shutil.copytree(repo, where)
    verify(where, model=REPO, quant="Q4", endpoint=hub.endpoint, token="", folder=shelf.folder)
    assert command(shelf, "remove", "Q4", "--yes") == 0
    same_files(repo, where)
    verify(where, model=REPO, quant="Q4", endpoint=hub.endpoint, token="", folder=shelf.folder)
    assert command(shelf, "remove", "Q4", "--yes", "--adopted-too") == 0
    assert not list(where.glob("Q4/*.gguf"))
    assert list(where.glob("Q2/*.gguf"))


def test_a_file_in_use_is_not_removed(hub, repo, shelf):
    result = get(hub, shelf)
    holding = "import mmap,sys\nf=open(sys.argv[1],'rb')\nm=mmap.mmap(f.fileno(),0,access=mmap.ACCESS_READ)\nf.close()\nprint('held',flush=True)\nsys.stdin.read()"
    holder = subprocess.Popen(
        [sys.executable, "-c", holding, str(result.files[1])],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert holder.stdout.readline() == "held\n"
    with pytest.raises(DownloadError, match=rf"KNB418.*process {holder.pid}.*00002-of"):
        remove(shelf, plan_removal(shelf, find(shelf, "Q4")))
    same_files(repo, shelf.root_of(REPO))
    holder.communicate()
    remove(shelf, plan_removal(shelf, find(shelf, "Q4")))
    assert states(shelf) == {}


def test_a_file_of_ours_in_use_is_not_removed_either(hub, shelf):
    result = get(hub, shelf)
    removal = plan_removal(shelf, find(shelf, "Q4"))
    with (
        result.files[0].open("rb") as file,
        mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ),
        pytest.raises(DownloadError, match=r"KNB418.*this process"),
    ):
        remove(shelf, removal)


@pytest.mark.parametrize(
    "words", [("remove",), ("remove", "none"), ("path", "none"), ("remove", "Q"), ("remove", "Q4")]
)
def test_unclear_or_unconfirmed_calls_remove_nothing(hub, shelf, words, monkeypatch):
    get(hub, shelf)
    get(hub, shelf, "Q2")
    monkeypatch.setattr(sys, "stdin", open(os.devnull))  # noqa: PTH123, SIM115 - nobody to be asked
    with sys.stdin, pytest.raises(UsageError, match="KNB418"):
        command(shelf, *words)
    assert states(shelf) == {"Q4": "verified", "Q2": "verified"}


def test_a_part_that_is_being_fetched_is_not_taken_for_rubbish(hub, repo, shelf):
    from faulty_hub import start_download

    process = start_download(hub, shelf.folder, extra=", limit_bytes_s=500_000")
    wait_until(lambda: list(shelf.folder.rglob(".*.part")))
    time.sleep(0.3)
    with pytest.raises(KimiNbError, match="KNB418"):
        remove(shelf, plan_removal(shelf, find(shelf, "Q4")))
    out, error = process.communicate(timeout=60)
    assert process.returncode == 0, (out, error)
    same_files(repo, shelf.root_of(REPO))
