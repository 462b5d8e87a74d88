"""A Hub and a network that misbehave: every fault either heals, or ends in one clear line with everything kept."""

from __future__ import annotations

import threading
import time

import pytest
from faulty_hub import MIB, REPO, SECRET, Fault, FaultyHub, make_repo, same_files

from kimi_nb.engine.download import Options, download
from kimi_nb.errors import DownloadError

FAST = {"backoff_s": 0.02, "timeout_s": 1.0}


@pytest.fixture
def repo(tmp_path):
    return make_repo(tmp_path / "repos" / REPO, shards=2, mib=4)


@pytest.fixture
def hub(repo):
    with FaultyHub(repo.parent.parent) as hub:
        yield hub


def fetch(hub, folder, **options):
    return download(
        REPO, "Q4", endpoint=hub.endpoint, token="", folder=folder, options=Options(**{**FAST, **options})
    )


HEALING = {
    "drop at once": Fault("drop", at=0, times=4),
    "drop in the middle": Fault("drop", at=700_001, times=4),
    "drop after every 100 kB": Fault("drop", at=100_000, times=40),
    "stall": Fault("stall", at=300_000, seconds=20),
    "no answer": Fault("reset", times=3),
    "503": Fault("status", status=503, times=5),
    "500": Fault("status", status=500, times=5),
    "429 with Retry-After": Fault("status", status=429, seconds=1, times=2),
    "503 from the first host": Fault("status", status=503, times=2, host="hub", where="/resolve/"),
    "503 from the API": Fault("status", status=503, times=2, host="hub", where="/api/"),
    "expired address": Fault("expired", times=3),
    "wrong length": Fault("length", at=17, times=2),
    "another range than asked for": Fault("shifted", times=2),
    "login page instead of the file": Fault("html", times=2),
    "ranges ignored": Fault("norange", times=1000),
    "ranges ignored at times": Fault("norange", times=2),
    "wrong byte": Fault("flip", at=2_000_000),
}


@pytest.mark.parametrize("name", HEALING)
def test_heals(hub, repo, tmp_path, name):
    fault = HEALING[name]
    hub.faults = [Fault(**{key: getattr(fault, key) for key in fault.__dataclass_fields__ if key != "met"})]
    started = time.monotonic()
    result = fetch(hub, tmp_path / "models")
    same_files(repo, tmp_path / "models" / REPO)
    assert hub.faults[0].met >= 1, "the fault was never met"
    assert result.fetched_bytes >= result.manifest.size
    if name == "429 with Retry-After":
        assert time.monotonic() - started >= 1, "Retry-After was not honoured"


def test_a_drop_costs_nothing_that_had_come(hub, repo, tmp_path):
    hub.faults = [Fault("drop", at=100_000, times=60)]
    result = fetch(hub, tmp_path / "models", connections=1)
    assert result.fetched_bytes == result.manifest.size
    assert hub.faults[0].met == 60


def test_slow_drips_are_left_for_a_new_connection(hub, repo, tmp_path, monkeypatch):
    monkeypatch.setattr("kimi_nb.engine.fetch.source.SLOW_S", 0.5)
    hub.faults = [Fault("drip", at=50_000, rate=500, times=2)]
    fetch(hub, tmp_path / "models")
    same_files(repo, tmp_path / "models" / REPO)
    assert hub.faults[0].met == 2


def test_a_file_that_stays_wrong_is_named_and_not_kept(hub, repo, tmp_path):
    hub.faults = [Fault("flip", at=2_000_000, times=1000, where="00002-of")]
    with pytest.raises(DownloadError, match=r"KNB412.*00002-of-00002") as caught:
        fetch(hub, tmp_path / "models")
    assert "sha256" in str(caught.value)
    kept = sorted(path.name for path in (tmp_path / "models" / REPO).rglob("*") if path.is_file())
    assert kept == ["tiny-Q4-00001-of-00002.gguf"], "the good shard stays, the wrong one leaves nothing"


@pytest.mark.parametrize(
    ("fault", "id_"),
    [
        (Fault("status", status=503, times=10_000), "KNB415"),
        (Fault("expired", times=10_000), "KNB415"),
        (Fault("length", at=5, times=10_000), "KNB415"),
        (Fault("reset", times=10_000), "KNB415"),
        (Fault("status", status=401, times=10_000, host="hub", where="/resolve/"), "KNB403"),
        (Fault("html", times=10_000, host="hub", where="/resolve/"), "KNB413"),
        (Fault("html", times=10_000, host="hub", where="/api/"), "KNB413"),
        (Fault("status", status=500, times=10_000, host="hub", where="/api/"), "KNB406"),
    ],
)
def test_what_does_not_heal_ends_soon_in_one_line(hub, tmp_path, fault, id_):
    hub.faults = [Fault(**{key: getattr(fault, key) for key in fault.__dataclass_fields__ if key != "met"})]
    with pytest.raises(DownloadError) as caught:
        fetch(hub, tmp_path / "models", patience_s=1.0)
    assert caught.value.id == id_
    assert "\n" not in str(caught.value)
    assert not SECRET.search(str(caught.value))


def test_what_came_before_it_gave_up_is_kept(hub, repo, tmp_path):
    hub.faults = [Fault("drop", at=MIB, times=2), Fault("reset", times=100_000)]
    with pytest.raises(DownloadError, match="KNB415"):
        fetch(hub, tmp_path / "models", patience_s=0.5)
    came = hub.bytes_of("Q4")
    hub.faults = []
    result = fetch(hub, tmp_path / "models")
    assert came > 0
    assert result.fetched_bytes == result.manifest.size - came
    same_files(repo, tmp_path / "models" / REPO)


def test_a_network_that_goes_away_and_comes_back_costs_nothing_but_time(hub, tmp_path):
    # Larger than what may be on its way, so that the gap is felt.
    repo = make_repo(tmp_path / "larger", shards=2, mib=20)
    hub.publish(REPO, repo)
    notes, gone = [], threading.Event()

    def watch(progress):
        notes.append(progress.note)
        if progress.done_bytes > MIB and not gone.is_set():
            gone.set()
            hub.stop()
            threading.Timer(1.5, hub.start).start()

    result = download(
        REPO,
        "Q4",
        endpoint=hub.endpoint,
        token="",
        folder=tmp_path / "models",
        progress=watch,
        options=Options(**FAST, limit_bytes_s=20e6),
    )
    assert gone.is_set()
    assert [note for note in notes if "refused" in note and "next try in" in note], "a person is told"
    assert result.fetched_bytes == result.manifest.size
    same_files(repo, tmp_path / "models" / REPO)


def test_a_token_that_expires_on_the_way_is_replaced_and_the_rest_fetched(repo, tmp_path):
    with FaultyHub(repo.parent.parent, token="hf_first", redirect_s=3600) as hub:
        hub.faults = [Fault("drop", at=MIB, times=1), Fault("expired", times=10_000)]

        def expire(progress):
            if progress.done_bytes > 0:
                hub.token = "hf_second"

        given = {"endpoint": hub.endpoint, "folder": tmp_path / "models", "options": Options(**FAST)}
        with pytest.raises(DownloadError, match="KNB403") as caught:
            download(REPO, "Q4", token="hf_first", progress=expire, **given)
        assert not SECRET.search(str(caught.value))
        hub.faults = []
        came = hub.bytes_of("Q4")
        result = download(REPO, "Q4", token="hf_second", **given)
        assert result.fetched_bytes <= result.manifest.size - came + 4 * MIB
        same_files(repo, tmp_path / "models" / REPO)


def test_the_token_goes_to_the_first_host_only_and_is_written_nowhere(repo, tmp_path):
    with FaultyHub(repo.parent.parent, token="hf_secret") as hub:
        download(
            REPO,
            "Q4",
            endpoint=hub.endpoint,
            token="hf_secret",
            folder=tmp_path / "models",
            patterns=["README.md"],
        )
        assert {seen.host for seen in hub.seen} == {"hub", "storage"}
        assert {seen.host for seen in hub.seen if "authorization" in seen.headers} == {"hub"}
    for path in (tmp_path / "models").rglob("*"):
        if path.is_file() and path.suffix != ".gguf":
            assert not SECRET.search(path.read_text()), path


def test_a_branch_that_moves_does_not_mix_revisions(hub, repo, tmp_path):
    first = hub.find(REPO, "main")[0]
    hub.faults = [Fault("reset", times=100_000, where="00002-of")]
    with pytest.raises(DownloadError, match="KNB415"):
        fetch(hub, tmp_path / "models", patience_s=1.0)
    newer = make_repo(tmp_path / "newer", shards=2, mib=4, seed=1)
    second = hub.publish(REPO, newer)
    hub.faults = []
    result = fetch(hub, tmp_path / "models")
    assert result.manifest.commit == first
    same_files(repo, tmp_path / "models" / REPO)
    updated = download(
        REPO,
        "Q4",
        endpoint=hub.endpoint,
        token="",
        folder=tmp_path / "models",
        update=True,
        options=Options(**FAST),
    )
    assert updated.manifest.commit == second
    same_files(newer, tmp_path / "models" / REPO)


def test_history_that_was_rewritten_is_noticed(hub, repo, tmp_path):
    hub.faults = [Fault("reset", times=100_000)]
    with pytest.raises(DownloadError, match="KNB415"):
        fetch(hub, tmp_path / "models", patience_s=0.3)
    commit = hub.find(REPO, "main")[0]
    other = make_repo(tmp_path / "newer", shards=2, mib=4, seed=1)
    hub.publish(REPO, other)
    moved = hub.find(REPO, "main")[1]
    hub._repos[REPO].commits[commit] = moved
    hub.faults = []
    with pytest.raises(DownloadError, match="KNB414"):
        fetch(hub, tmp_path / "models")


def test_storage_hosts_whose_tags_differ_do_not_hold_it_up(hub, repo, tmp_path):
    import itertools

    numbers = itertools.count()
    original = type(hub).range_of

    def other_tag_each_time(handler, blob):
        # As several hosts behind one name may do: the condition is on a tag that this one does not know.
        condition = handler.headers.get("If-Range")
        if condition is not None and next(numbers) % 2:
            handler.headers.replace_header("If-Range", '"other"')
        return original(hub, handler, blob)

    hub.range_of = other_tag_each_time
    result = fetch(hub, tmp_path / "models")
    same_files(repo, tmp_path / "models" / REPO)
    assert result.fetched_bytes == result.manifest.size


def test_a_rate_limit_is_kept(hub, tmp_path):
    started = time.monotonic()
    result = fetch(hub, tmp_path / "models", limit_bytes_s=4e6)
    assert time.monotonic() - started >= result.manifest.size / 4e6 - 0.5


def test_no_network_at_all(tmp_path):
    with pytest.raises(DownloadError, match="KNB406") as caught:
        download(
            REPO,
            "Q4",
            endpoint="http://127.0.0.1:9",
            token="",
            folder=tmp_path,
            options=Options(backoff_s=0.01),
        )
    assert "refused" in str(caught.value)
