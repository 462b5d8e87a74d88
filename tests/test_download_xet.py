"""Xet storage through the real hf_xet, whose own local storage stands in for the service."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from faulty_hub import MIB, REPO, FaultyHub, make_repo, same_files, start_download
from system import wait_until

from kimi_nb.engine.download import Options, download, plan_download
from kimi_nb.engine.fetch.part import WINDOW


@pytest.fixture
def repo(tmp_path):
    return make_repo(tmp_path / "repo", shards=3, mib=12)


UPLOAD = """
import sys
from hf_xet import XetSession
with XetSession().new_upload_commit(endpoint=sys.argv[1]) as commit:
    uploads = [commit.start_upload_file(path) for path in sys.argv[2:]]
print(*[upload.result().xet_info.hash for upload in uploads])
"""


@pytest.fixture
def hub(repo, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    storage = f"local://{tmp_path / 'cas'}"
    paths = sorted(repo.glob("Q4/*.gguf"))
    # In a process of its own: this storage serves one process at a time.
    command = [sys.executable, "-c", UPLOAD, storage, *map(str, paths)]
    hashes = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
    with FaultyHub() as hub:
        names = [path.relative_to(repo).as_posix() for path in paths]
        hub.publish(REPO, repo, xet=dict(zip(names, hashes, strict=True)))
        hub.xet_endpoint = storage
        yield hub


def get(hub, folder, **options):
    return download(REPO, "Q4", endpoint=hub.endpoint, token="", folder=folder, options=Options(**options))


def by_http(hub):
    return sum(hub.sent().values())


def test_a_repository_with_xet_comes_by_xet(hub, repo, tmp_path):
    result = get(hub, tmp_path / "models")
    same_files(repo, tmp_path / "models" / REPO)
    assert result.transfer.startswith("Xet: the repository offers it and hf_xet ")
    assert result.fetched_bytes == result.manifest.size
    assert by_http(hub) == 0


@pytest.mark.parametrize("how", ["asked", "HF_HUB_DISABLE_XET", "not offered", "not installed"])
def test_ranged_http_is_chosen_with_its_reason(hub, repo, tmp_path, monkeypatch, how):
    given = {}
    if how == "asked":
        given["transfer"] = "http"
    elif how == "HF_HUB_DISABLE_XET":
        monkeypatch.setenv("HF_HUB_DISABLE_XET", "1")
    elif how == "not offered":
        hub.publish(REPO, repo)
    else:
        from importlib.metadata import PackageNotFoundError

        def missing(_name):
            raise PackageNotFoundError

        monkeypatch.setattr("kimi_nb.engine.fetch.xet.version", missing)
    plan = plan_download(
        REPO, "Q4", endpoint=hub.endpoint, token="", folder=tmp_path / "m", options=Options(**given)
    )
    result = get(hub, tmp_path / "models", **given)
    assert result.transfer == plan.transfer
    assert result.transfer.startswith("ranged HTTP")
    reason = {"asked": "asked", "not offered": "offers no Xet", "not installed": "hf_xet is not installed"}
    assert reason.get(how, how) in result.transfer
    assert by_http(hub) == result.manifest.size


def test_xet_that_fails_is_replaced_by_http(hub, repo, tmp_path):
    hub.xet_endpoint = f"local://{tmp_path / 'nothing here'}"
    result = get(hub, tmp_path / "models", backoff_s=0.02)
    same_files(repo, tmp_path / "models" / REPO)
    assert by_http(hub) == result.manifest.size
    assert result.transfer.endswith("then ranged HTTP, because Xet kept failing")


def test_a_killed_xet_download_continues(hub, repo, tmp_path):
    folder = tmp_path / "models"
    process = start_download(hub, folder, extra=", limit_bytes_s=12e6")
    wait_until(lambda: sum(path.stat().st_blocks * 512 for path in folder.rglob(".*.part")) > 20 * MIB)
    time.sleep(0.2)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    here = sum(path.stat().st_blocks * 512 for path in folder.rglob(".*.part"))
    assert here > 20 * MIB
    result = get(hub, folder)
    same_files(repo, folder / REPO)
    assert result.fetched_bytes <= result.manifest.size - here + 3 * WINDOW
    assert result.fetched_bytes < result.manifest.size - 8 * MIB
    assert result.transfer.startswith("Xet")
    assert by_http(hub) == 0


def test_huggingface_hub_itself_takes_xet_from_this_hub(hub, repo, tmp_path):
    from huggingface_hub import hf_hub_download

    name = "Q4/tiny-Q4-00001-of-00003.gguf"
    found = hf_hub_download(REPO, name, endpoint=hub.endpoint, token=False, local_dir=tmp_path / "hf-local")
    assert Path(found).read_bytes() == (repo / name).read_bytes()
    assert by_http(hub) == 0
