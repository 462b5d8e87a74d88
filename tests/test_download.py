"""The straight road: what a download brings, remembers and says."""

from __future__ import annotations

import pytest
from faulty_hub import REPO, FaultyHub, make_repo, same_files

from kimi_nb.engine.download import Options, download


@pytest.fixture
def repo(tmp_path):
    return make_repo(tmp_path / "repos" / REPO, mib=2)


@pytest.fixture
def hub(repo):
    with FaultyHub(repo.parent.parent) as hub:
        yield hub


def fetch(hub, folder, quant="Q4", **given):
    return download(
        REPO, quant, endpoint=hub.endpoint, token="", folder=folder, options=Options(backoff_s=0.02), **given
    )


def test_brings_every_byte_and_remembers_it(hub, repo, tmp_path):
    folder = tmp_path / "models"
    seen = []
    first = fetch(hub, folder, progress=seen.append)
    same_files(repo, folder / REPO)
    assert first.fetched_bytes == first.manifest.size == sum(p.stat().st_size for p in repo.glob("Q4/*"))
    assert first.first_shard.name == "tiny-Q4-00001-of-00005.gguf"
    assert seen[-1].done_bytes == seen[-1].total_bytes
    asked = len(hub.seen)
    again = fetch(hub, folder)
    assert again.fetched_bytes == 0
    assert again.files == first.files
    assert len(hub.seen) == asked, "a set that is whole needs no network"
