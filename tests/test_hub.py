"""The local Hub, spoken to by the real huggingface_hub: what works against it works against the Hub's protocol."""

from __future__ import annotations

import hashlib
import http.client
import os
import subprocess
import sys
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from faulty_hub import MIB, REPO, Fault, FaultyHub, make_repo, same_files

from kimi_nb.nano.hub import LocalHub

NAME = "Q4/tiny-Q4-00001-of-00003.gguf"


@pytest.fixture
def repo(tmp_path):
    return make_repo(tmp_path / "repos" / REPO, quants=("Q4", "Q2"), shards=3, mib=2)


@pytest.fixture
def hub(repo):
    with FaultyHub(repo.parent.parent) as hub:
        yield hub


@pytest.fixture
def api(hub):
    from huggingface_hub import HfApi

    return HfApi(endpoint=hub.endpoint, token=False)


def test_model_info_tells_sizes_and_hashes(api, repo, hub):
    hub.licenses[REPO] = "other"
    info = api.model_info(REPO, files_metadata=True)
    files = {sibling.rfilename: sibling for sibling in info.siblings}
    assert set(files) == {path.relative_to(repo).as_posix() for path in repo.rglob("*") if path.is_file()}
    for path in repo.glob("Q*/*.gguf"):
        found = files[path.relative_to(repo).as_posix()]
        assert (found.size, found.lfs.size) == (path.stat().st_size,) * 2
        assert found.lfs.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    readme = (repo / "README.md").read_bytes()
    assert files["README.md"].blob_id == hashlib.sha1(b"blob %d\0" % len(readme) + readme).hexdigest()
    assert info.card_data.license == "other"
    assert len(info.sha) == 40


def test_the_tree_is_listed_whole_by_folder_and_by_page(api, hub):
    from huggingface_hub.hf_api import RepoFile, RepoFolder

    top = list(api.list_repo_tree(REPO))
    assert [(type(entry), entry.path) for entry in top] == [
        (RepoFolder, "Q2"),
        (RepoFolder, "Q4"),
        (RepoFile, "README.md"),
    ] or {entry.path for entry in top} == {"Q2", "Q4", "README.md"}
    assert len([e for e in api.list_repo_tree(REPO, recursive=True) if isinstance(e, RepoFile)]) == 7
    assert len(list(api.list_repo_tree(REPO, "Q4"))) == 3
    path = f"/api/models/{REPO}/tree/main?recursive=true&limit=2"
    connection = http.client.HTTPConnection(urlsplit(hub.endpoint).netloc)
    connection.request("GET", path)
    answer = connection.getresponse()
    assert 'rel="next"' in answer.headers["Link"]
    connection.close()
    assert [info.path for info in api.get_paths_info(REPO, ["README.md", "none"])] == ["README.md"]


def test_files_come_through_cache_folder_and_snapshot(hub, repo, tmp_path):
    from huggingface_hub import hf_hub_download, snapshot_download

    given = {"endpoint": hub.endpoint, "token": False}
    for name in (NAME, "README.md"):
        cached = hf_hub_download(REPO, name, cache_dir=tmp_path / "cache", **given)
        assert Path(cached).read_bytes() == (repo / name).read_bytes()
        local = hf_hub_download(REPO, name, local_dir=tmp_path / "local", **given)
        assert Path(local).read_bytes() == (repo / name).read_bytes()
    snapshot_download(REPO, local_dir=tmp_path / "all", **given)
    same_files(repo, tmp_path / "all", "Q*/*.gguf")
    asked = len(hub.seen)
    commit = hub.find(REPO, "main")[0]
    hf_hub_download(REPO, NAME, revision=commit, cache_dir=tmp_path / "cache", **given)
    assert len(hub.seen) == asked, "a pinned file in the cache needs no network"


def test_the_hf_command_works_through_hf_endpoint(hub, repo, tmp_path):
    command = [
        str(Path(sys.executable).with_name("hf")),
        "download",
        REPO,
        "--include",
        "Q2/*",
        "--local-dir",
        str(tmp_path / "x"),
    ]
    environment = os.environ | {
        "HF_ENDPOINT": hub.endpoint,
        "HF_HOME": str(tmp_path / "home"),
        "HF_HUB_DISABLE_UPDATE_CHECK": "1",
    }
    subprocess.run(command, env=environment, check=True, capture_output=True, timeout=120)
    same_files(repo, tmp_path / "x", "Q2/*.gguf")


def test_the_errors_are_the_hubs(hub, api):
    from huggingface_hub import HfApi, hf_hub_download
    from huggingface_hub.errors import (
        GatedRepoError,
        RemoteEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    with pytest.raises(RepositoryNotFoundError):
        api.model_info("local/none")
    with pytest.raises(RevisionNotFoundError):
        api.model_info(REPO, revision="none")
    with pytest.raises(RemoteEntryNotFoundError):
        hf_hub_download(REPO, "none", endpoint=hub.endpoint, token=False)
    hub.gated.add(REPO)
    with pytest.raises(GatedRepoError):
        hf_hub_download(REPO, NAME, endpoint=hub.endpoint, token=False)
    hub.token = "hf_local"
    with pytest.raises(RepositoryNotFoundError):
        api.model_info(REPO)
    assert HfApi(endpoint=hub.endpoint, token="hf_local").whoami()["name"] == "local"


def test_the_second_host_refuses_the_token_and_expired_or_forged_addresses(hub):
    sha256 = hub.find(REPO, "main")[1][NAME].sha256
    url = hub.signed_url(sha256)

    def status(url, **headers):
        parts = urlsplit(url)
        connection = http.client.HTTPConnection(parts.netloc)
        connection.request("GET", f"{parts.path}?{parts.query}", headers={"Range": "bytes=0-9", **headers})
        answer = connection.getresponse()
        answer.read()
        connection.close()
        return answer.status

    assert status(url) == 206
    assert status(url, Authorization="Bearer hf_x") == 400
    assert status(url[:-1] + ("0" if url[-1] != "0" else "1")) == 403
    hub.redirect_s = -5
    assert status(hub.signed_url(sha256)) == 403


@pytest.mark.parametrize(
    ("asked", "status", "span"),
    [
        ({}, 200, (0, None)),
        ({"Range": "bytes=5-9"}, 206, (5, 10)),
        ({"Range": "bytes=2097000-99999999"}, 206, (2097000, None)),
        ({"Range": "bytes=2097000-"}, 206, (2097000, None)),
        ({"Range": "bytes=99999999-"}, 416, None),
        ({"Range": "bytes=5-9", "If-Range": '"no such tag"'}, 200, (0, None)),
        ({"Range": "lines=5-9"}, 200, (0, None)),
    ],
)
def test_ranges(hub, repo, asked, status, span):
    blob = hub.find(REPO, "main")[1][NAME]
    parts = urlsplit(hub.signed_url(blob.sha256))
    connection = http.client.HTTPConnection(parts.netloc)
    connection.request("GET", f"{parts.path}?{parts.query}", headers=asked)
    answer = connection.getresponse()
    body = answer.read()
    assert answer.status == status
    if span is not None:
        assert body == (repo / NAME).read_bytes()[span[0] : span[1]]
        assert answer.headers["ETag"] == f'"{blob.sha256}"'
    connection.close()


def test_two_revisions_are_served_side_by_side(hub, repo, tmp_path):
    from huggingface_hub import hf_hub_download

    first = hub.find(REPO, "main")[0]
    newer = make_repo(tmp_path / "newer", quants=("Q4",), shards=3, mib=2, seed=3)
    second = hub.publish(REPO, newer)
    assert first != second
    for revision, where in ((first, repo), (second, newer), ("main", newer)):
        found = hf_hub_download(
            REPO, NAME, revision=revision, endpoint=hub.endpoint, token=False, cache_dir=tmp_path / "cache"
        )
        assert Path(found).read_bytes() == (where / NAME).read_bytes()
    assert [commit.commit_id for commit in _commits(hub)] == [second, first]


def _commits(hub):
    from huggingface_hub import HfApi

    return HfApi(endpoint=hub.endpoint, token=False).list_repo_commits(REPO)


# ---- what huggingface_hub makes of the faults: the reasons why downloads here do not rest on it


def test_huggingface_hub_takes_wrong_bytes_of_the_right_length(hub, repo, tmp_path):
    from huggingface_hub import hf_hub_download

    hub.faults = [Fault("flip", at=MIB)]
    found = hf_hub_download(REPO, NAME, endpoint=hub.endpoint, token=False, local_dir=tmp_path / "x")
    assert Path(found).stat().st_size == (repo / NAME).stat().st_size
    assert Path(found).read_bytes() != (repo / NAME).read_bytes()


def test_huggingface_hub_survives_a_drop_within_a_process(hub, repo, tmp_path):
    from huggingface_hub import hf_hub_download

    hub.faults = [Fault("drop", at=MIB)]
    found = hf_hub_download(REPO, NAME, endpoint=hub.endpoint, token=False, local_dir=tmp_path / "x")
    assert Path(found).read_bytes() == (repo / NAME).read_bytes()
    # What had come since its last chunk of 10 MB is fetched again.
    assert hub.bytes_of("Q4") == (repo / NAME).stat().st_size + MIB


@pytest.mark.parametrize(
    ("fault", "outcome"),
    [
        (Fault("status", status=429, seconds=1), "whole"),
        (Fault("status", status=503), "HfHubHTTPError"),
        (Fault("status", status=500), "HfHubHTTPError"),
        (Fault("drip", at=MIB, rate=400_000), "whole"),
        (Fault("stall", at=MIB, seconds=0.5), "whole"),
        (Fault("norange"), "whole"),
        (Fault("expired"), "HfHubHTTPError"),
        (Fault("length", at=17), "whole"),
        (Fault("html"), "OSError"),
        (Fault("status", status=503, host="hub", where="/api/"), "LocalEntryNotFoundError"),
    ],
    ids=lambda value: f"{value.kind} {value.host} {value.status}" if isinstance(value, Fault) else value,
)
def test_huggingface_hub_meets_every_fault(hub, repo, tmp_path, fault, outcome):
    """What it makes of each is written down here; no bytes but the right ones may come of those that heal."""
    from huggingface_hub import snapshot_download

    hub.faults = [Fault(**{key: getattr(fault, key) for key in fault.__dataclass_fields__ if key != "met"})]
    given = {"endpoint": hub.endpoint, "token": False, "local_dir": tmp_path / "x", "allow_patterns": [NAME]}
    if outcome == "whole":
        found = snapshot_download(REPO, **given)
        assert (Path(found) / NAME).read_bytes() == (repo / NAME).read_bytes()
    else:
        with pytest.raises(OSError) as caught:  # noqa: PT011 - its classes are looked at next
            snapshot_download(REPO, **given)
        assert outcome in {kind.__name__ for kind in type(caught.value).__mro__}
    assert hub.faults[0].met == 1, "the fault was never met"


def test_huggingface_hub_starts_anew_after_a_kill(hub, repo, tmp_path):
    hub.faults = [Fault("stall", at=MIB, seconds=60)]
    command = [
        str(Path(sys.executable).with_name("hf")),
        "download",
        REPO,
        NAME,
        "--local-dir",
        str(tmp_path / "x"),
    ]
    environment = os.environ | {
        "HF_ENDPOINT": hub.endpoint,
        "HF_HOME": str(tmp_path / "home"),
        "HF_HUB_DISABLE_UPDATE_CHECK": "1",
    }
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    from system import wait_until

    wait_until(lambda: hub.bytes_of("Q4") >= MIB)
    process.kill()
    process.wait()
    before = hub.bytes_of("Q4")
    subprocess.run(command, env=environment, check=True, capture_output=True, timeout=120)
    assert hub.bytes_of("Q4") - before == (repo / NAME).stat().st_size


def test_a_hub_can_be_started_and_stopped_again_and_again(repo):
    hub = LocalHub(repo.parent.parent)
    for _ in range(3):
        with hub:
            connection = http.client.HTTPConnection(urlsplit(hub.endpoint).netloc)
            connection.request("GET", f"/api/models/{REPO}")
            assert connection.getresponse().status == 200
            connection.close()
