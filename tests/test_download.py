"""The straight road: what a download brings, remembers, says, and asks."""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from dataclasses import replace
from importlib.resources import files
from pathlib import Path

import pytest
from faulty_hub import MIB, REPO, SECRET, FaultyHub, make_repo, same_files
from hypothesis import given
from hypothesis import strategies as st

from kimi_nb import cli
from kimi_nb.engine.download import Options, download, plan_download
from kimi_nb.engine.fetch import preflight, remote
from kimi_nb.engine.fetch.job import FileProgress, Progress, State
from kimi_nb.engine.fetch.manifest import Manifest, safe_name
from kimi_nb.engine.fetch.outlook import outlook
from kimi_nb.engine.fetch.pace import Limiter, Meter, backoff_s
from kimi_nb.engine.fetch.quota import left_by_quota
from kimi_nb.engine.fetch.ranges import Ranges
from kimi_nb.engine.fetch.shelf import Shelf
from kimi_nb.engine.fetch.show import Show, in_words
from kimi_nb.errors import DownloadError, UsageError


@pytest.fixture
def repo(tmp_path):
    return make_repo(tmp_path / "repos" / REPO, quants=("Q4", "Q2"), mib=1)


@pytest.fixture
def hub(repo):
    with FaultyHub(repo.parent.parent) as hub:
        yield hub


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "models"


def get(hub, folder, quant="Q4", **given):
    return download(
        REPO, quant, endpoint=hub.endpoint, token="", folder=folder, options=Options(backoff_s=0.02), **given
    )


def command(hub, folder, *words, env=None):
    """Run the command line in this process, against ``hub``."""
    os.environ.update({"HF_ENDPOINT": hub.endpoint} | (env or {}))
    return cli.main(["download", "--folder", str(folder), *map(str, words)])


@pytest.fixture(autouse=True)
def _environment(monkeypatch, tmp_path):
    for name in ("HF_ENDPOINT", "HF_TOKEN", "HF_HUB_OFFLINE", "HF_HOME"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv(name, "") if name == "HF_ENDPOINT" else None
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))


# ---- what is brought


def test_brings_every_byte_and_remembers_it(hub, repo, folder):
    seen = []
    first = get(hub, folder, progress=seen.append)
    same_files(repo, folder / REPO)
    assert first.fetched_bytes == first.manifest.size == sum(p.stat().st_size for p in repo.glob("Q4/*"))
    assert first.first_shard.name == "tiny-Q4-00001-of-00005.gguf"
    assert first.transfer == "ranged HTTP: the repository offers no Xet storage"
    assert seen[-1].done_bytes == seen[-1].total_bytes
    assert {file.state for file in seen[-1].files} == {State.DONE}
    asked = len(hub.seen)
    again = get(hub, folder)
    assert again.fetched_bytes == 0
    assert again.files == first.files
    assert len(hub.seen) == asked, "a set that is whole needs no network"


def test_the_manifest_is_there_before_the_first_byte(hub, folder):
    names = []
    original = hub.send_body

    def looked(handler, *rest):
        names.extend(path.name for path in (folder / ".kimi-nb" / "sets").glob("*.json"))
        original(handler, *rest)

    hub.send_body = looked
    result = get(hub, folder)
    assert set(names) == {"local--tiny-GGUF--Q4.json"}
    entry = Shelf(folder).find(REPO, "Q4")
    assert entry.complete
    assert entry.manifest == result.manifest
    assert len(entry.manifest.commit) == 40
    assert all(file.sha256 and file.size for file in entry.manifest.files)


def test_patterns_bring_further_files(hub, repo, folder):
    result = get(hub, folder, patterns=["README*"])
    assert (folder / REPO / "README.md").read_bytes() == (repo / "README.md").read_bytes()
    assert result.first_shard.suffix == ".gguf"
    only = download(
        REPO, patterns=["Q2/*-00003-of-*"], endpoint=hub.endpoint, token="", folder=folder.with_name("m2")
    )
    assert [path.name for path in only.files] == ["tiny-Q2-00003-of-00005.gguf"]


def test_the_vision_part_beside_a_quant_is_not_taken_for_its_first_shard(hub, repo, folder):
    shutil.copyfile(next(repo.glob("Q2/*")), repo / "mmproj-F16.gguf")
    hub.publish(REPO, repo)
    download_ = lambda: get(hub, folder, patterns=["mmproj-F16.gguf"])  # noqa: E731
    with pytest.raises(Exception, match="KNB32"):  # this stand-in says it is a shard, and its name does not
        download_()
    from kimi_nb.engine.download import first_shard

    assert first_shard(Shelf(folder).find(REPO, "Q4")).name == "tiny-Q4-00001-of-00005.gguf"


def test_a_newer_commit_is_taken_only_when_asked(hub, repo, folder, tmp_path):
    first = get(hub, folder)
    newer = make_repo(tmp_path / "newer", mib=1, seed=4)
    hub.publish(REPO, newer)
    assert get(hub, folder).manifest.commit == first.manifest.commit
    updated = get(hub, folder, update=True)
    assert updated.manifest.commit != first.manifest.commit
    same_files(newer, folder / REPO)
    back = get(hub, folder, revision=first.manifest.commit)
    assert back.manifest.commit == first.manifest.commit
    same_files(repo, folder / REPO)


def test_a_new_commit_with_equal_files_costs_nothing(hub, repo, folder):
    get(hub, folder)
    (repo / "README.md").write_text("# new words\n")
    hub.publish(REPO, repo)
    assert get(hub, folder, update=True).fetched_bytes == 0


def test_quants_lie_side_by_side(hub, repo, folder):
    get(hub, folder, "Q4")
    get(hub, folder, "q2")
    same_files(repo, folder / REPO, "Q*/*.gguf")


def test_an_empty_file_is_a_file(hub, repo, folder):
    (repo / "empty.txt").touch()
    hub.publish(REPO, repo)
    get(hub, folder, patterns=["empty.txt"])
    assert (folder / REPO / "empty.txt").read_bytes() == b""


def test_a_catalog_key_stands_for_its_repository_and_pinned_revision(hub, repo, folder):
    from kimi_nb.model import catalog

    quant = catalog().model("kimi-k2.5").quant("UD-Q2_K_XL")
    with pytest.raises(DownloadError, match="KNB401") as caught:
        download("kimi-k2.5", "UD-Q2_K_XL", endpoint=hub.endpoint, token="", folder=folder)
    assert quant.repo in str(caught.value)
    assert hub.seen[-1].path == f"/api/models/{quant.repo}/revision/{quant.revision}"


# ---- what is asked before


@pytest.mark.parametrize(
    ("given", "id_"),
    [
        ({"model": "local/none", "quant": "Q4"}, "KNB401"),
        ({"model": "no name/at all", "quant": "Q4"}, "KNB401"),
        ({"model": "../..", "quant": "Q4"}, "KNB401"),
        ({"model": REPO, "quant": "Q9"}, "KNB405"),
        ({"model": REPO}, "KNB405"),
        ({"model": REPO, "patterns": ["*.none"]}, "KNB405"),
        ({"model": REPO, "quant": "Q4", "revision": "no-such-branch"}, "KNB404"),
        ({"model": "kimi-k2.5"}, "KNB405"),
        ({"model": "nano", "quant": "F16"}, "KNB405"),
        ({"model": "kimi-k9", "quant": "Q4"}, "KNB390"),
    ],
)
def test_what_is_not_there_is_said_in_one_line(hub, folder, given, id_):
    with pytest.raises((DownloadError, UsageError)) as caught:
        download(endpoint=hub.endpoint, token="", folder=folder, options=Options(backoff_s=0.01), **given)
    assert caught.value.id == id_
    assert "\n" not in str(caught.value)
    assert not (folder / ".kimi-nb").exists()


def test_the_quants_there_are_named(hub, folder):
    with pytest.raises(DownloadError, match="it has Q2, Q4"):
        get(hub, folder, "Q9")


def test_a_gated_repository_is_said_before_anything_is_fetched(hub, folder):
    hub.gated.add(REPO)
    with pytest.raises(DownloadError, match="KNB402"):
        get(hub, folder)
    assert sum(hub.sent().values()) == 0


def test_a_dry_run_changes_nothing(hub, folder):
    plan = plan_download(REPO, "Q4", endpoint=hub.endpoint, token="", folder=folder)
    assert plan.fetch_bytes == plan.manifest.size
    assert not folder.exists()
    get(hub, folder)
    assert plan_download(REPO, "Q4", endpoint=hub.endpoint, token="", folder=folder).fetch_bytes == 0


def test_offline_with_all_of_it_here_works_and_otherwise_says_so(hub, folder, monkeypatch):
    get(hub, folder)
    asked = len(hub.seen)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert get(hub, folder).fetched_bytes == 0
    with pytest.raises(DownloadError, match="KNB407"):
        get(hub, folder, "Q2")
    next((folder / REPO / "Q4").glob("*.gguf")).unlink()
    with pytest.raises(DownloadError, match="KNB407"):
        get(hub, folder)
    assert len(hub.seen) == asked


def test_the_licence_is_shown_once(hub, repo, folder):
    hub.licenses[REPO] = "modified-mit"
    said = []
    get(hub, folder, notice=said.append)
    assert [line for line in said if "licence" in line] == [f"licence of {REPO}: modified-mit"]
    said.clear()
    get(hub, folder, "Q2", notice=said.append)
    assert not [line for line in said if "licence" in line]


def test_a_damaged_record_is_said_and_costs_nothing(hub, repo, folder):
    get(hub, folder)
    (record,) = (folder / ".kimi-nb" / "sets").glob("*.json")
    for text in ("{", "[]", json.dumps({"manifest": {"format": 99}})):
        record.write_text(text)
        with pytest.raises(DownloadError, match=f"KNB420.*{record.name}"):
            get(hub, folder)
    record.unlink()
    before = sum(hub.sent().values())
    get(hub, folder)
    assert sum(hub.sent().values()) == before


@pytest.mark.parametrize(
    "name",
    ["../x", "/x", "a/../../x", "a//b", "C:\\x", "a\\..\\..\\x", "", ".", "a/./b", "a\nb", ".kimi-nb/x"],
)
def test_a_name_that_leads_out_of_the_folder_is_refused(name):
    with pytest.raises(DownloadError, match="KNB422"):
        safe_name(name)


@pytest.mark.parametrize(
    ("name", "changes", "id_"),
    [
        ("Q4/../../../evil.gguf", {}, "KNB422"),
        ("Q4/a.gguf", {"sha256": "../../../evil"}, "KNB413"),
        ("Q4/a.gguf", {"sha256": "A" * 64}, "KNB413"),
        ("Q4/a.gguf", {"git_oid": "../x"}, "KNB413"),
        ("Q4/a.gguf", {"size": -1}, "KNB413"),
        ("Q4/a.gguf", {"size": "5"}, "KNB413"),
        ("Q4/a.gguf", {"size": 1e30}, "KNB413"),
    ],
)
def test_a_hostile_listing_is_refused(hub, folder, name, changes, id_):
    commit, found = hub.find(REPO, "main")
    blob = replace(next(blob for blob in found.values() if blob.lfs), **changes)
    hub._repos[REPO].commits[commit] = {name: blob}
    with pytest.raises(DownloadError, match=id_):
        get(hub, folder)
    assert not folder.exists()


@pytest.mark.parametrize(
    "answer", [b"", b"null", b"[]", b"{}", b'{"sha": 5}', b'{"sha": "../x"}', b"\xff\xfe", b"[" * 100_000]
)
def test_nonsense_for_an_answer_is_refused(hub, folder, answer, monkeypatch):
    from kimi_nb.engine.fetch.wire import Answer

    monkeypatch.setattr(Answer, "read_all", lambda self, *, limit: (self.response.read(limit), answer)[1])
    with pytest.raises(DownloadError, match="KNB413"):
        get(hub, folder)


@pytest.mark.parametrize(
    "endpoint", ["localhost:8080", "ftp://x", "https://", "https://me:secret@mirror", "nonsense"]
)
def test_an_address_that_cannot_be_used_is_said(folder, endpoint):
    with pytest.raises(UsageError, match="KNB406") as caught:
        download(REPO, "Q4", endpoint=endpoint, folder=folder)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("token", ["hf_a\nInjected: yes", "hf_\u00e4", "hf_a b"])
def test_a_token_that_cannot_be_sent_is_said_and_not_shown(hub, folder, token):
    with pytest.raises(UsageError, match="KNB403") as caught:
        download(REPO, "Q4", endpoint=hub.endpoint, token=token, folder=folder)
    assert not SECRET.search(str(caught.value))
    assert not hub.seen


def test_options_that_cannot_work_are_said():
    for nonsense in ({"connections": 0}, {"window": 5}):
        with pytest.raises(UsageError, match="KNB423"):
            Options(**nonsense)


# ---- tokens and endpoints


def test_the_token_comes_from_where_huggingface_hub_has_it(monkeypatch, tmp_path):
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    assert remote.token_of(None) is None
    (tmp_path / "token").write_text("hf_fromfile")
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path / "token"))
    assert remote.token_of(None) == "hf_fromfile"
    monkeypatch.setenv("HF_TOKEN", " hf_fromenv ")
    assert remote.token_of(None) == "hf_fromenv"
    assert remote.token_of("hf_given") == "hf_given"
    assert remote.token_of("") is None
    monkeypatch.setenv("HF_HUB_DISABLE_IMPLICIT_TOKEN", "1")
    assert remote.token_of(None) is None


def test_an_empty_token_is_none_and_not_the_environments(repo, folder, monkeypatch):
    """The list of files was asked for with the token of the environment."""
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    with FaultyHub(repo.parent.parent, token="hf_secret") as hub:
        for ask in (download, plan_download):
            with pytest.raises(DownloadError, match="KNB401"):
                ask(REPO, "Q4", endpoint=hub.endpoint, token="", folder=folder)
        assert plan_download(REPO, "Q4", endpoint=hub.endpoint, folder=folder).fetch_bytes > 0


def test_without_an_endpoint_it_is_the_public_hub(monkeypatch):
    from huggingface_hub import constants

    monkeypatch.delenv("HF_ENDPOINT", raising=False)
    assert remote.endpoint_of(None) + "/" == constants.HUGGINGFACE_CO_URL_HOME
    assert remote.endpoint_of(None).startswith("https://")


def test_the_endpoint_may_change_while_we_run(hub, repo, folder, monkeypatch, tmp_path):
    monkeypatch.setenv("HF_ENDPOINT", hub.endpoint + "/")
    assert remote.endpoint_of(None) == hub.endpoint
    download(REPO, "Q4", token="", folder=folder)
    with FaultyHub(repo.parent.parent) as mirror:
        monkeypatch.setenv("HF_ENDPOINT", mirror.endpoint)
        next((folder / REPO / "Q4").glob("*.gguf")).unlink()
        download(REPO, "Q4", token="", folder=folder)
        assert sum(mirror.sent().values()) > 0, "a set that was begun on one mirror goes on from another"


# ---- the command


def test_the_command_prints_one_json_document(hub, repo, folder, capsys):
    assert command(hub, folder, "--repo", REPO, "--quant", "Q4", "--json") == 0
    out, error = capsys.readouterr()
    value = json.loads(out)
    assert value["first_shard"] == str(folder / REPO / "Q4" / "tiny-Q4-00001-of-00005.gguf")
    assert value["fetched_bytes"] == value["total_bytes"] == sum(p.stat().st_size for p in repo.glob("Q4/*"))
    assert value["verified"] is True
    assert "5 of 5 files verified" in error
    assert command(hub, folder, "--repo", REPO, "--quant", "Q4") == 0
    assert "every byte verified" in capsys.readouterr().out


def test_the_command_verifies_and_repairs(hub, folder, capsys):
    command(hub, folder, "--repo", REPO, "--quant", "Q4")
    path = folder / REPO / "Q4" / "tiny-Q4-00002-of-00005.gguf"
    os.truncate(path, 1000)
    capsys.readouterr()
    assert command(hub, folder, "--repo", REPO, "--quant", "Q4", "--verify", "--no-repair", "--json") == 1
    assert json.loads(capsys.readouterr().out)["error"]["id"] == "KNB416"
    assert command(hub, folder, "--verify", folder / REPO, "--repo", REPO, "--quant", "Q4", "--json") == 0
    value = json.loads(capsys.readouterr().out)
    assert [each["state"] for each in value["repaired"]] == ["cut short"]
    assert value["fetched_bytes"] == path.stat().st_size - 1000


def test_the_command_plans(hub, folder, capsys):
    assert command(hub, folder, "--repo", REPO, "--quant", "Q4", "--dry-run", "--json") == 0
    value = json.loads(capsys.readouterr().out)
    assert value["fetch_bytes"] == value["total_bytes"]
    assert {each["state"] for each in value["files"]} == {"missing"}
    assert command(hub, folder, "--repo", REPO, "--quant", "Q4", "--dry-run") == 0
    assert "to fetch into" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "code"),
    [
        ((), 2),
        (("--repo", REPO), 2),
        (("--repo", "nonsense", "--quant", "Q4"), 2),
        (("--repo", REPO, "--quant", "Q9"), 1),
        (("--repo", "local/none", "--quant", "Q4"), 1),
        (("--verify", "/no/such/folder"), 2),
    ],
)
def test_the_command_exits_as_promised(hub, folder, capsys, words, code):
    assert command(hub, folder, *words) == code
    assert len(capsys.readouterr().err.strip().splitlines()) == 1


@pytest.mark.parametrize(
    "words", [("--limit-rate", "fast"), ("--connections", "0"), ("--limit-rate", "0"), ("--transfer", "x")]
)
def test_the_command_refuses_nonsense(hub, folder, words):
    with pytest.raises(SystemExit) as caught:
        command(hub, folder, "--repo", REPO, "--quant", "Q4", *words)
    assert caught.value.code == 2


def test_the_command_leaves_no_secret_in_sight(repo, folder, tmp_path):
    with FaultyHub(repo.parent.parent, token="hf_secret") as hub:
        words = ["download", "--repo", REPO, "--quant", "Q4", "--folder", str(folder)]
        environment = os.environ | {"HF_ENDPOINT": hub.endpoint, "HF_TOKEN": "hf_secret"}
        run = subprocess.run(
            [sys.executable, "-m", "kimi_nb.cli", *words],
            env=environment,
            capture_output=True,
            text=True,
            check=True,
        )
        assert not SECRET.search(run.stdout + run.stderr)
        hub.token = "hf_other"
        shutil.rmtree(folder)
        run = subprocess.run(
            [sys.executable, "-m", "kimi_nb.cli", *words],
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert run.returncode == 1
        assert not SECRET.search(run.stdout + run.stderr)
        assert len(run.stderr.strip().splitlines()) == 1


# ---- words


def test_progress_in_words():
    files_ = (
        FileProgress("Q/a-00001-of-00002.gguf", 100, 100, State.DONE),
        FileProgress("Q/a-00002-of-00002.gguf", 100, 50, State.FETCHING),
    )
    line = in_words(Progress(150, 200, 25.0e6, 3700.0, files_, "waiting"))
    assert "75%" in line
    assert "25.0 MB/s" in line
    assert "1 h 01 min left" in line
    assert "1 of 2 files verified" in line
    assert "2:50%" in line
    assert line.endswith("waiting")


def test_progress_outside_of_a_terminal_is_plain_lines():
    stream = io.StringIO()
    with Show(stream) as show:
        for done in range(100):
            show.progress(Progress(done, 100, None, None, ()))
        show.notice("a note")
    text = stream.getvalue()
    assert "\r" not in text
    assert "\x1b" not in text
    assert len(text.splitlines()) == 3, "the first, the note, the last"


def test_progress_in_a_terminal_is_one_line_however_long(monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    monkeypatch.setenv("COLUMNS", "60")
    stream = Terminal()
    files_ = tuple(
        FileProgress(f"Q/a-0000{n}-of-00009.gguf", 100, 10 * n, State.FETCHING) for n in range(1, 9)
    )
    with Show(stream) as show:
        for done in range(5):
            show._shown_at = 0.0
            show.progress(Progress(done, 100, 1e6, 99.0, files_, "a note of some length"))
    *rewritten, last = stream.getvalue().split("\r\x1b[2K")[1:]
    assert len(rewritten) == 5
    assert all("\n" not in line and len(line) < 60 for line in rewritten)
    assert last.endswith("a note of some length\n"), "what stays is whole"


def test_every_id_has_an_explanation():
    source = "".join(path.read_text() for path in Path(remote.__file__).parent.glob("*.py"))
    source += Path(download.__code__.co_filename).read_text()
    source += "".join(
        Path(cli.__file__).parent.joinpath("commands", f"{name}.py").read_text()
        for name in ("download", "models")
    )
    raised = set(re.findall(r'"(KNB4\d\d)"', source))
    told = tomllib.loads(files("kimi_nb").joinpath("troubles/4_download.toml").read_text(encoding="utf-8"))
    assert raised == set(told)
    assert all(entry["title"] and entry["explanation"] for entry in told.values())


# ---- parts


SPANS = st.lists(st.tuples(st.integers(0, 60), st.integers(0, 60)), max_size=12)


@given(SPANS, SPANS, st.integers(0, 70), st.integers(0, 70))
def test_ranges_are_sets_of_numbers(added, removed, start, limit):
    ranges, truth = Ranges(added), set()
    for a, b in added:
        truth |= set(range(a, b))
    assert ranges.total() == len(truth)
    for a, b in removed:
        if a < b:
            ranges.remove(a, b)
            truth -= set(range(a, b))
    assert [n for a, b in ranges for n in range(a, b)] == sorted(truth)
    assert all(a < b for a, b in ranges)
    assert all(before[1] < after[0] for before, after in zip(list(ranges), list(ranges)[1:], strict=False))
    free = [n for n in range(start, limit) if n not in truth]
    gap = ranges.gap(start, limit)
    if not free:
        assert gap is None
    else:
        assert gap[0] == free[0]
        assert set(range(*gap)) <= set(free)
        assert gap[1] == limit or gap[1] in truth
    prefix = 0
    while prefix in truth:
        prefix += 1
    assert ranges.prefix() == prefix


def test_backoff_doubles_up_to_a_minute_with_jitter():
    assert all(0.25 <= backoff_s(0) <= 0.5 for _ in range(100))
    assert all(1.0 <= backoff_s(2) <= 2.0 for _ in range(100))
    assert all(30.0 <= backoff_s(50) <= 60.0 for _ in range(100))
    assert len({backoff_s(3) for _ in range(20)}) > 1


def test_the_meter_looks_back_a_minute():
    meter = Meter()
    assert meter.add(0, now=0.0) is None
    assert meter.add(100, now=10.0) == 10
    for second in range(11, 200):
        rate = meter.add(100 + 50 * (second - 10), now=float(second))
    assert rate == pytest.approx(50)


def test_a_limiter_without_a_limit_does_not_wait():
    import threading
    import time

    started = time.monotonic()
    for _ in range(1000):
        Limiter(None).take(10**9, threading.Event())
    assert time.monotonic() - started < 5


@pytest.mark.parametrize(
    ("path", "quant"),
    [
        ("UD-TQ1_0/Kimi-K2.5-UD-TQ1_0-00001-of-00005.gguf", "UD-TQ1_0"),
        ("Q4_K_M/Kimi-K2.5-Q4_K_M-00001-of-00013.gguf", "Q4_K_M"),
        ("moonshotai_Kimi-K2.5-IQ1_S/moonshotai_Kimi-K2.5-IQ1_S-00001-of-00006.gguf", "IQ1_S"),
        ("tiny.Q8_0.gguf", "Q8_0"),
        ("mmproj-F16.gguf", "mmproj-F16"),
    ],
)
def test_a_quant_is_read_from_a_name(path, quant):
    assert remote.quant_of(path) == quant


def test_a_quant_is_not_mistaken_for_a_longer_one():
    def file(path):
        return remote._file({"path": path, "size": 1, "oid": "0" * 40})

    listed = [file(f"{q}/K-{q}-00001-of-00001.gguf") for q in ("Q2_K", "Q2_K_L", "UD-Q2_K_XL")]
    listed += [file("K-Q2_K.gguf"), file("mmproj-F16.gguf")]
    assert [f.path for f in remote.choose("r", listed, "Q2_K", [])] == ["Q2_K/K-Q2_K-00001-of-00001.gguf"]
    flat = [file("K-Q2_K.gguf"), file("K-Q2_K_L.gguf"), file("K-UD-Q2_K.gguf")]
    assert [f.path for f in remote.choose("r", flat, "Q2_K", [])] == ["K-Q2_K.gguf"]


def room(kind: str, **given) -> preflight.Room:
    return preflight.Room("/x", kind, MIB, None, **given)


def test_disks_that_make_trouble_are_named(monkeypatch, tmp_path):
    file = remote._file({"path": "a.gguf", "size": 5 * 1024**3, "oid": "0" * 40})
    need = preflight.Need(file, tmp_path / "a.gguf", 0)
    fat = preflight.Room("/x", "vfat", 10**12, 4095 * MIB)
    for there, id_ in ((fat, "KNB411"), (room("ext4"), "KNB408")):
        monkeypatch.setattr(preflight, "room_of", lambda _folder, there=there: there)
        with pytest.raises(DownloadError, match=id_):
            preflight.check_room([need], tmp_path)
    part = preflight.Need(file, tmp_path / "a.gguf", 5 * 1024**3)
    assert preflight.check_room([part], tmp_path), "what is here already needs no space"
    for there, word in (
        (room("nfs4", notes=("a network one",)), "network"),
        (room("tmpfs"), "memory"),
        (room("exfat"), "exfat"),
        (room("vfat"), "vfat"),
    ):
        (said,) = preflight.warnings_of(there)
        assert word in said
    assert preflight.warnings_of(room("ext4")) == []


def manifest_of(repo_name: str, quant: str, size: int) -> Manifest:
    file = remote._file({"path": f"{quant}/a.gguf", "size": size, "oid": "0" * 40})
    return Manifest(repo_name, quant, "main", "c" * 40, (file,), "http://x")


@pytest.mark.parametrize(("gib", "suits"), [(16, False), (251, True)])
def test_a_model_that_does_not_suit_the_machine_is_said_with_the_planners_words(gib, suits):
    from kimi_nb.machine import load_profile
    from kimi_nb.model import catalog

    quant = catalog().model("kimi-k2.5").quant("UD-TQ1_0")
    machine = load_profile("rtx4090-256gb")
    memory = replace(machine.memory, total_mib=gib * 1024, available_mib=gib * 1024)
    said = outlook(
        manifest_of(quant.repo, quant.name, 240 * 10**9),
        replace(machine, memory=memory),
    )
    if suits:
        assert said == []
    else:
        (line,) = said
        assert re.search(
            r"2\d\d GB of its weights would be read from the disk again .* tokens/s \(a guess\)", line
        )
        assert "kimi-nb plan --model kimi-k2.5 --quant UD-TQ1_0" in line


def test_a_model_that_no_one_knows_is_compared_by_size():
    from kimi_nb.machine import load_profile

    (line,) = outlook(manifest_of("x/y", "Q4", 10**13), load_profile("h200x8"))
    assert "10000 GB of weights are more than this machine's" in line
    assert outlook(manifest_of("x/y", "Q4", 10**10), load_profile("h200x8")) == []


def test_what_does_not_suit_the_machine_is_fetched_all_the_same(hub, repo, folder, monkeypatch):
    monkeypatch.setattr("kimi_nb.engine.download.outlook", lambda _manifest: ["too large for this machine"])
    assert plan_download(REPO, "Q4", endpoint=hub.endpoint, token="", folder=folder).outlook == (
        "too large for this machine",
    )
    said = []
    get(hub, folder, notice=said.append)
    assert "too large for this machine" in said
    same_files(repo, folder / REPO)
    said.clear()
    get(hub, folder, "Q2", notice=said.append, check_fit=False)
    assert "too large for this machine" not in said


def test_the_room_of_a_folder_that_is_not_there_yet(tmp_path):
    found = preflight.room_of(tmp_path / "a" / "b")
    assert found.free_bytes == pytest.approx(shutil.disk_usage(tmp_path).free, rel=0.05)
    assert tmp_path.is_relative_to(found.mount)
    assert not (tmp_path / "a").exists()


@pytest.mark.parametrize(
    ("limits", "left"),
    [
        ({}, None),
        ({0: (100, 0, 20 * 1024)}, 80 * 1024),
        ({0: (0, 50, 0), 1: (10, 0, 99 * 1024)}, 0),
        ({0: (0, 0, 5)}, None),
    ],
)
def test_a_quota_bounds_the_room(limits, left, monkeypatch):
    def quotactl(command, device, _owner, quota):
        if device != b"/dev/x" or command & 0xFF not in limits:
            return -1
        quota.hard, quota.soft, quota.used = limits[command & 0xFF]
        quota.valid = 3
        return 0

    left_by_quota("/dev/vda")  # the real call, wherever that is
    monkeypatch.setattr(sys, "platform", "linux")  # the kernel's interface is Linux's own
    assert left_by_quota("/dev/x", quotactl) == left
    assert left_by_quota("server:/export", quotactl) is None


@given(st.text(), st.text(), st.integers(0, 10**13))
def test_manifests_survive_json(repo_name, quant, size):
    file = remote._file(
        {"path": "a/b.gguf", "size": size, "oid": "0" * 40, "lfs": {"oid": "5" * 64, "size": size}}
    )
    manifest = Manifest(
        repo_name, quant, "main", "c" * 40, (file,), "http://x", ("*.a",), (("p", 1, "s"),), None, "u"
    )
    assert Manifest.from_dict(json.loads(json.dumps(manifest.as_dict()))) == manifest
