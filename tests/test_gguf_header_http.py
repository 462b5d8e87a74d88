"""Headers over HTTP: few bytes, all shards at once, and a clear line for whatever a server does."""

import sys
import threading
import time
from pathlib import Path

import pytest
from gguf_bytes import gguf, key, small_model, tensor
from hypothesis import given
from hypothesis import strategies as st
from range_server import COMMIT, RangeServer, Remote
from system import free_port

from kimi_nb.errors import ModelFileError, UsageError, troubles
from kimi_nb.model import http_answers
from kimi_nb.model.gguf_http import read_url_headers
from kimi_nb.model.gguf_hub import quant_files, read_remote_header
from kimi_nb.model.gguf_scan import HeaderScan

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
import bench_header

TOKEN = "hf_THE_SECRET_TOKEN"


def shard(index: int, count: int, *, extra=(), tensors: int = 220, name_length: int = 10) -> bytes:
    keys = [key("general.architecture", "str", "deepseek2"), *extra] if index == 0 else []
    keys += [
        key("split.no", "u16", index),
        key("split.count", "u16", count),
        key("split.tensors.count", "i32", tensors * count),
    ]
    rows = [
        tensor(f"blk.{index * 10 + n // 22}.{'t' * name_length}_{n}.weight", (256, 4096), 24, n << 20)
        for n in range(tensors)
    ]
    return gguf(keys, rows)


def vocabulary(n: int, pre: str = "kimi-k2"):
    words = [f"token{number}" + "x" * (number % 7) for number in range(n)]
    return [
        key("tokenizer.ggml.model", "str", "gpt2"),
        key("tokenizer.ggml.pre", "str", pre),
        key("tokenizer.ggml.tokens", "arr[str]", words),
        key("tokenizer.ggml.token_type", "arr[i32]", [1] * n),
        key("tokenizer.ggml.merges", "arr[str]", [f"{word[:3]} {word[3:]}" for word in words]),
        key("tokenizer.chat_template", "str", "x" * 5000),
    ]


def make_set(count: int = 5, *, tokens: int = 3000, tensors: int = 220, **more) -> dict[str, Remote]:
    extra = vocabulary(tokens, **more)
    heads = [shard(index, count, extra=extra, tensors=tensors) for index in range(count)]
    names = [f"UD-TQ1_0/K-UD-TQ1_0-{index + 1:05d}-of-{count:05d}.gguf" for index in range(count)]
    return {name: Remote(head, len(head) + (tensors << 20)) for name, head in zip(names, heads, strict=True)}


@pytest.fixture(autouse=True)
def quiet_home(tmp_path, monkeypatch):
    monkeypatch.setenv("KIMI_NB_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("HF_TOKEN", raising=False)
    for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def hub(monkeypatch):
    with RangeServer(make_set()) as server:
        monkeypatch.setenv("HF_ENDPOINT", server.url + "/")
        yield server


def refused(hub: RangeServer, *arguments, **more) -> str:
    start = time.monotonic()
    with pytest.raises(ModelFileError) as caught:
        read_remote_header(hub.repo, *(arguments or ("UD-TQ1_0",)), **more)
    assert time.monotonic() - start < 15
    text = str(caught.value)
    assert "\n" not in text
    assert TOKEN not in text
    assert "SECRET" not in text
    assert caught.value.id in troubles()
    return text


def test_a_repository_by_its_quant(hub):
    model = read_remote_header(hub.repo, "UD-TQ1_0")
    assert [one.name for one in model.shards] == [name.rpartition("/")[2] for name in hub.files]
    assert model.file_bytes == sum(remote.size for remote in hub.files.values())
    assert len(model.tensors) == 1100
    assert model.vocab_size == 3000
    assert model.quant == "UD-TQ1_0"
    assert model.source == f"{hub.url}/{hub.repo}/resolve/{COMMIT}/{next(iter(hub.files))}"
    assert [one.header for one in model.shards] == [remote.head for remote in hub.files.values()]
    # The branch was resolved once, and all else was asked of that commit.
    asked = [path for _, path, _ in hub.seen if not path.startswith("/cdn/")]
    assert asked[0] == f"/api/models/{hub.repo}/revision/main"
    assert all(f"/resolve/{COMMIT}/" in path for path in asked[1:])


def test_kimis_size_costs_hardly_more_than_its_header(monkeypatch):
    files = make_set(5, tokens=163_840)
    own = sum(len(remote.head) for remote in files.values())
    assert own > 5e6
    with RangeServer(files) as server:
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        start = time.monotonic()
        model = read_remote_header(server.repo, files=list(files), revision=COMMIT)
        assert time.monotonic() - start < 30
        assert model.vocab_size == 163_840
        asked = [path for _, path, _ in server.seen if "/resolve/" in path]
        assert sorted(asked) == sorted(f"/{server.repo}/resolve/{COMMIT}/{name}" for name in files)
    assert server.sent < 1.05 * own


def test_a_repository_of_240_gigabytes():
    """The benchmark's own: written by gguf's writer, served by the local Hub with redirects to a second host."""
    remote = bench_header.read_remote(bench_header.vocabulary(None))
    assert remote.repository_bytes == pytest.approx(240e9, rel=0.01)
    assert len(remote.requests) == 5
    assert remote.tensors == 1096
    assert remote.sent_bytes < 1.05 * remote.header_bytes
    # One round, and then what is left of the one header that holds the vocabulary, by a guess that is corrected.
    assert remote.requests[1:] == [1, 1, 1, 1]
    assert remote.requests[0] <= 3


def test_shards_are_asked_for_at_once(hub, monkeypatch):
    together = threading.Barrier(5)
    real = RangeServer.content

    def content(self, request, name):
        if request.headers["Range"].startswith("bytes=0-"):
            together.wait(timeout=10)  # no answer before all five have asked
        real(self, request, name)

    monkeypatch.setattr(RangeServer, "content", content)
    assert len(read_remote_header(hub.repo, "UD-TQ1_0").shards) == 5


@pytest.mark.parametrize("tokens", [10, 20_000])
@pytest.mark.parametrize("redirect", [True, False])
def test_one_file_by_its_address(tokens, redirect):
    head = gguf(
        [key("general.architecture", "str", "deepseek2"), *vocabulary(tokens, "other")],
        [tensor("a", (256,), 24, 0)],
    )
    with RangeServer({"m.gguf": Remote(head, len(head) + 256)}, redirect=redirect) as server:
        model = read_url_headers([f"{server.url}/{server.repo}/resolve/{COMMIT}/m.gguf"])
    assert model.vocab_size == tokens
    assert model.shards[0].name == "m.gguf"


def test_one_shards_address_leads_to_the_others(hub):
    name = list(hub.files)[2]
    model = read_url_headers([f"{hub.url}/cdn/{name}"])
    assert [one.name for one in model.shards] == [one.rpartition("/")[2] for one in hub.files]
    assert len(model.tensors) == 1100


def test_a_small_file_ends_before_the_window():
    data = small_model()
    with RangeServer({"m.gguf": Remote(data, len(data))}) as server:
        assert read_url_headers([f"{server.url}/cdn/m.gguf"]).block_count == 3


# -- the cache


def test_second_time_nothing_is_fetched(hub):
    first = read_remote_header(hub.repo, "UD-TQ1_0")
    before = len(hub.seen)
    again = read_remote_header(hub.repo, files=list(hub.files), revision=COMMIT)
    assert len(hub.seen) == before
    assert again.tensors == first.tensors
    assert again.header_sha256 == first.header_sha256
    assert again.file_bytes == first.file_bytes
    read_remote_header(hub.repo, files=list(hub.files), revision=COMMIT, use_cache=False)
    assert len(hub.seen) > before


def test_a_damaged_cache_is_no_cache(hub, tmp_path):
    read_remote_header(hub.repo, "UD-TQ1_0")
    kept = sorted((tmp_path / "cache" / "headers").iterdir())
    assert len(kept) == 5
    for path, data in zip(
        kept, (b"", b"x" * 100, None, kept[3].read_bytes()[:-1], kept[4].read_bytes()), strict=True
    ):
        if data is None:
            path.unlink()
        else:
            path.write_bytes(data)
    before = len(hub.seen)
    assert len(read_remote_header(hub.repo, files=list(hub.files), revision=COMMIT).tensors) == 1100
    assert len(hub.seen) > before


def test_a_cache_that_cannot_be_written(hub, tmp_path):
    (tmp_path / "cache").write_text("a file where the folder should be")
    assert len(read_remote_header(hub.repo, "UD-TQ1_0").tensors) == 1100


# -- servers that misbehave


def test_ignored_range(hub):
    hub.ignore_range = True
    assert "KNB340" in refused(hub)
    assert hub.sent < 60e6


def test_a_cut_connection_is_taken_up_again(hub):
    # Two, since the shards are read side by side and one of them may meet all cuts: it has three attempts.
    hub.cut_after, hub.cuts = 9000, 2
    assert len(read_remote_header(hub.repo, "UD-TQ1_0").tensors) == 1100
    resumed = [
        headers
        for _, path, headers in hub.seen
        if path.startswith("/cdn/") and not headers["Range"].startswith("bytes=0-")
    ]
    assert len(resumed) >= 2
    assert all(headers["If-Range"] == '"v1"' for headers in resumed)


def test_a_connection_that_is_always_cut(hub):
    hub.cut_after, hub.cuts = 1000, 10_000
    assert "KNB341" in refused(hub)
    assert len(hub.seen) < 40


def test_another_file_after_the_cut(monkeypatch):
    with RangeServer(make_set(1), cut_after=9000, cuts=1, new_etag_after=1) as server:
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        assert "KNB342" in refused(server)


def test_another_etag_for_the_next_window(monkeypatch):
    with RangeServer(make_set(1, tokens=100_000), new_etag_after=1) as server:
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        assert "KNB342" in refused(server)


def test_another_commit_in_the_answer(hub):
    hub.answer_commit = "f" * 40
    assert "KNB342" in refused(hub)
    assert "commit ffffffffffff instead of 0123456789ab" in refused(hub)


@pytest.mark.parametrize(
    ("status", "id_", "words"),
    [
        (401, "KNB343", "HF_TOKEN"),
        (403, "KNB344", "terms"),
        (404, "KNB345", "revision"),
        (410, "KNB345", ""),
        (429, "KNB346", ""),
        (418, "KNB349", "418"),
        (500, "KNB347", ""),
        (503, "KNB347", "503"),
        (504, "KNB347", ""),
    ],
)
@pytest.mark.parametrize("by_commit", [True, False])
def test_refusals(hub, status, id_, words, by_commit):
    hub.status = status
    more = {"files": list(hub.files), "revision": COMMIT} if by_commit else {"quant": "UD-TQ1_0"}
    with pytest.raises(ModelFileError) as caught:
        read_remote_header(hub.repo, **more)
    assert caught.value.id == id_
    assert words in str(caught.value)
    assert "127.0.0.1 answers" in str(caught.value)


def test_patience_where_it_helps(hub):
    hub.status, hub.fail_first, hub.status_headers = 503, 2, {"Retry-After": "0"}
    assert len(read_remote_header(hub.repo, "UD-TQ1_0").shards) == 5


def test_no_patience_for_an_hour(hub):
    hub.status, hub.status_headers = 429, {"Retry-After": "3600"}
    assert "asks to wait 3600 s" in refused(hub)
    assert len(hub.seen) == 1


def test_the_token_travels_to_the_hub_only(hub, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    with RangeServer(hub.files) as elsewhere:
        real = RangeServer.reply

        def send_elsewhere(self, request, status, body, headers=None):
            headers = {
                key: f"{elsewhere.url}{value}" if key == "Location" else value
                for key, value in (headers or {}).items()
            }
            real(self, request, status, body, headers)

        monkeypatch.setattr(RangeServer, "reply", send_elsewhere)
        assert len(read_remote_header(hub.repo, "UD-TQ1_0").shards) == 5
    assert all(headers["Authorization"] == f"Bearer {TOKEN}" for _, _, headers in hub.seen)
    assert elsewhere.seen
    assert not any("Authorization" in headers for _, _, headers in elsewhere.seen)


def test_a_refused_token(hub, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    hub.status = 401
    assert "although a token was sent" in refused(hub)


def test_a_token_never_travels_in_the_clear(monkeypatch):
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    assert http_answers.token_headers("http://hub.example.org/x") == {}
    assert http_answers.token_headers("https://hub.example.org/x") == {"Authorization": f"Bearer {TOKEN}"}
    assert http_answers.token_headers("https://cdn.example.org/x", "https://hub.example.org/x") == {}


def test_expired_addresses_are_asked_for_anew(monkeypatch):
    files = make_set(1, tokens=100_000)
    real = RangeServer.content
    expired = []

    def content(self, request, name):
        if not request.headers["Range"].startswith("bytes=0-") and not expired:
            expired.append(name)
            self.reply(request, 403, b"expired")
        else:
            real(self, request, name)

    monkeypatch.setattr(RangeServer, "content", content)
    with RangeServer(files) as server:
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        assert read_remote_header(server.repo, "UD-TQ1_0").vocab_size == 100_000
        assert expired
        assert len([path for _, path, _ in server.seen if "/resolve/" in path]) == 2


def test_a_silent_server(hub, monkeypatch):
    monkeypatch.setattr(http_answers, "_QUIET_SECONDS", 0.2)
    hub.hang = True
    assert "KNB341" in refused(hub)


def test_wrong_bytes(hub):
    hub.wrong_start = True
    assert "KNB349" in refused(hub)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "<html>",
        '{"sha": 5, "siblings": []}',
        '{"sha": "abc", "siblings": []}',
        '{"sha": "x", "siblings": [5]}',
    ],
)
def test_strange_lists_of_files(hub, text):
    hub.api_text = text or " "
    assert "KNB349" in refused(hub)


def test_nobody_there(monkeypatch):
    port = free_port()
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{port}")
    with pytest.raises(ModelFileError, match=r"KNB348.*127\.0\.0\.1"):
        read_remote_header("a/b", "Q")
    monkeypatch.setenv("HF_ENDPOINT", "ftp://127.0.0.1")
    with pytest.raises(ModelFileError, match="KNB348"):
        read_remote_header("a/b", "Q")
    for url in ("no address", "http://127.0.0.1:99999/m.gguf?key=SECRET", "http://[::1/m.gguf"):
        with pytest.raises(ModelFileError, match="KNB348") as caught:
            read_url_headers([url])
        assert "SECRET" not in str(caught.value)


@pytest.mark.parametrize(
    ("head", "size", "id_"),
    [
        (b"<!DOCTYPE html>" + b" " * 600, 615, "KNB301"),
        (gguf([], n_keys=9)[:24], 24, "KNB305"),
        (gguf([], [tensor("a", (256,), 24, 0)]), 100, "KNB306"),
        (gguf([key("a", "str", "x" * 300), key("general.alignment", "u32", 3)]), 10**9, "KNB313"),
        (gguf([key("a", "u32", 1)], n_keys=2)[:-1] + b"\0" * 3 + b"\x05\0\0\0\0\0\0\0", 10**12, "KNB310"),
    ],
)
def test_damaged_files(monkeypatch, head, size, id_):
    with RangeServer({"m.gguf": Remote(head, size)}) as server, pytest.raises(ModelFileError) as caught:
        read_url_headers([f"{server.url}/cdn/m.gguf"])
    assert caught.value.id == id_


def test_a_header_over_the_cap(monkeypatch):
    head = gguf([key("tokenizer.ggml.tokens", "arr[str]", ["x" * 1000] * 17_000)])
    with (
        RangeServer({"m.gguf": Remote(head, 10**11)}) as server,
        pytest.raises(ModelFileError, match=r"KNB318.*16\.0 MiB"),
    ):
        read_url_headers([f"{server.url}/cdn/m.gguf"])


def test_shards_that_are_not_there(hub):
    gone = list(hub.files)[3]
    del hub.files[gone]
    assert "KNB320" in refused(hub)
    assert gone in refused(hub)


@pytest.mark.parametrize(
    "arguments", [("", "Q"), ("a b/c", "Q"), ("../etc", "Q"), ("a/b/c", "Q"), ("a/b", None), ("a/b", "")]
)
def test_calls_that_make_no_sense(arguments):
    with pytest.raises(UsageError, match="KNB351"):
        read_remote_header(*arguments)


def test_which_files_are_a_quant():
    listed = [
        "README.md",
        "mmproj-F16.gguf",
        "BF16/K-BF16-00001-of-00002.gguf",
        "BF16/K-BF16-00002-of-00002.gguf",
        "K-Q2_K.gguf",
        "UD-Q2_K/K-UD-Q2_K-00001-of-00001.gguf",
        "Q4_K_M/K-Q4_K_M-00001-of-00002.gguf",
    ]
    assert quant_files(listed, "bf16") == listed[2:4]
    assert quant_files(listed, "Q2_K") == ["K-Q2_K.gguf"]
    assert quant_files(listed, "UD-Q2_K") == [listed[5]]
    with pytest.raises(ModelFileError, match=r"KNB320.*K-Q4_K_M-00002-of-00002\.gguf"):
        quant_files(listed, "Q4_K_M")
    with pytest.raises(ModelFileError, match=r"KNB350.*BF16, K-Q2_K, Q4_K_M, UD-Q2_K"):
        quant_files(listed, "F16")
    with pytest.raises(ModelFileError, match="no GGUF files"):
        quant_files([], "Q8_0")


@given(st.integers(0, 4000), st.sampled_from(["gpt2", "llama"]), st.integers(0, 300), st.data())
def test_the_expected_length_is_sane_anywhere(tokens, model, tensors, data):
    extra = [key("general.architecture", "str", "x"), *vocabulary(tokens)]
    extra[1] = key("tokenizer.ggml.model", "str", model)
    head = gguf(extra, [tensor(f"t{n}", (1,), 24, 32 * n) for n in range(tensors)], data=32 * tensors)
    scan = HeaderScan("m", len(head))
    cut = data.draw(st.integers(1, len(head) - 1))
    if not scan.feed(head[:cut]):
        assert 0 < scan.expected <= len(head)
    scan.feed(head[cut:])
    assert scan.header.raw == head[: scan.header.data_offset]
