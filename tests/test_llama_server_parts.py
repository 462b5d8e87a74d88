"""The parts of the supervisor, one by one."""

import errno
import http.server
import io
import json
import os
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kimi_nb.engine.out_of_memory import OutOfMemoryWatch
from kimi_nb.engine.runtime_folder import forget_key, keep_key, runtime_folder
from kimi_nb.engine.secrets_out import HIDDEN, environment_secrets, redactor, without_secrets
from kimi_nb.engine.server_command import check_log
from kimi_nb.engine.server_errors import explain
from kimi_nb.engine.server_http import Answer, ServerHttp
from kimi_nb.engine.server_liveness import Liveness
from kimi_nb.engine.server_load import Activity
from kimi_nb.engine.server_log import ServerLog, new_log_path
from kimi_nb.engine.server_state import ServerState, StateMachine
from kimi_nb.engine.server_watch import Probe, RestartPolicy
from kimi_nb.errors import ServerError, UsageError, troubles

S = ServerState

# Secrets


def test_known_secrets_and_what_looks_like_one_are_hidden():
    redact = redactor({"abc.def+ghi", "abc.def+ghi-longer"})
    assert redact("x abc.def+ghi-longer y abc.def+ghi z") == f"x {HIDDEN} y {HIDDEN} z"
    assert redact("Authorization: Bearer 12345 end") == f"Authorization: Bearer {HIDDEN} end"
    assert redact("token hf_abcdefghijklmnopqrst") == f"token {HIDDEN}"
    assert redact("srv init: api_keys: ****wxyz") == f"srv init: api_keys: ****{HIDDEN}"
    assert (
        redact("nothing to hide: skating, ask-me, 100 tokens")
        == "nothing to hide: skating, ask-me, 100 tokens"
    )


def test_secrets_of_the_environment_are_those_that_their_names_tell():
    environment = {
        "HF_TOKEN": "hf-value-1",
        "MOONSHOT_API_KEY": "moon-value",
        "AWS_SECRET_ACCESS_KEY": "aws-value-1",
        "DB_PASSWORD": "password-1",
        "TOKEN_SHORT": "none",
        "PATH": "/usr/bin:/bin",
        "KEYBOARD": "qwertzuiop",
        "GIT_AUTHOR_NAME": "Some Body",
    }
    assert environment_secrets(environment) == {"hf-value-1", "moon-value", "aws-value-1", "password-1"}
    assert set(without_secrets(environment)) == {"PATH", "KEYBOARD", "GIT_AUTHOR_NAME"}


# The log


def follow(log: ServerLog, data: bytes) -> list[str]:
    seen, ended = [], threading.Event()
    log.follow(io.BytesIO(data), on_line=seen.append, on_end=ended.set).join(60)
    assert ended.is_set()
    return seen


def test_the_log_survives_any_bytes_and_keeps_lines_in_order(tmp_path):
    log = ServerLog(tmp_path / "s.log", redactor({"the-key-1"}))
    seen = follow(log, b"one\ntwo \xff\xfe the-key-1\r\n\nlast without end")
    assert seen == ["one", f"two \ufffd\ufffd {HIDDEN}", "", "last without end"]
    assert log.tail(2) == ["", "last without end"]
    assert log.tail(99, since=1) == seen[1:]
    assert log.path.read_text().splitlines() == seen
    assert log.path.stat().st_mode & 0o777 == 0o600


def test_a_line_without_end_is_cut_and_no_half_secret_is_left(tmp_path):
    """The secret lies across the place where a line of 64 KiB is cut."""
    key = "a-rather-long-secret-key"
    for before in range(64 * 1024 - len(key), 64 * 1024 + 1, 5):
        log = ServerLog(tmp_path / f"{before}.log", redactor({key}))
        seen = follow(log, b"x" * before + key.encode() + b"y" * 200_000 + b"\nnext\n")
        assert seen[1:] == ["next"]
        assert "a-rather" not in seen[0]


def test_a_flood_is_read_and_held_within_bounds(tmp_path):
    log = ServerLog(tmp_path / "s.log", redactor(()))
    line = b"z" * 9_999 + b"\n"
    assert len(follow(log, line * 5_000)) == 5_000
    files = sorted(tmp_path.iterdir())
    assert [path.name for path in files] == ["s.log", "s.log.1"]
    assert all(path.stat().st_size <= 33 * 1024 * 1024 for path in files)
    assert len(log.tail(10**6)) == 4000


def test_a_log_that_cannot_be_written_does_not_stop_the_reading(tmp_path):
    log = ServerLog(tmp_path / "missing" / "s.log", redactor(()))
    assert follow(log, b"one\ntwo\n") == ["one", "two"]
    assert isinstance(log.trouble, FileNotFoundError)


def test_a_named_pipe_that_nobody_reads_does_not_stop_the_reading(tmp_path):
    """Opening one waits for a reader: a server whose log went there was never said to be ready."""
    os.mkfifo(tmp_path / "pipe")
    log = ServerLog(tmp_path / "pipe", redactor(()))
    assert follow(log, b"one\ntwo\n") == ["one", "two"]
    assert log.trouble.errno == errno.ENXIO


def test_a_log_without_a_folder_is_refused_at_once(tmp_path):
    with pytest.raises(UsageError, match=r"KNB541: the log cannot be .*: there is no folder"):
        check_log(tmp_path / "missing" / "s.log")
    assert check_log(tmp_path / "s.log") == tmp_path / "s.log"


def test_a_full_disk_does_not_stop_the_reading():
    log = ServerLog(Path("/dev/full"), redactor(()))
    assert follow(log, b"one\ntwo\n") == ["one", "two"]
    assert log.trouble.errno == 28


def test_old_logs_are_removed(tmp_path, monkeypatch):
    monkeypatch.setenv("KIMI_NB_CACHE", str(tmp_path))
    for number in range(30):
        path = new_log_path("llama-server")
        path.write_text("x")
        os.utime(path, (number, number))
    assert len(list((tmp_path / "logs").iterdir())) == 20


# States


def test_every_state_can_be_left_and_stopped_is_always_reachable():
    from kimi_nb.engine.server_state import _FOLLOWS

    assert set(_FOLLOWS) == set(S)
    for state in S:
        reached, look = {state}, [state]
        while look:
            for following in _FOLLOWS[look.pop()] - reached:
                reached.add(following)
                look.append(following)
        assert S.STOPPED in reached


@given(st.lists(st.sampled_from(list(S)), max_size=30))
def test_no_walk_breaks_the_rules(walk):
    from kimi_nb.engine.server_state import _FOLLOWS

    machine = StateMachine()
    for target in walk:
        before = machine.state
        if target in _FOLLOWS[before]:
            assert machine.go(target)
            assert machine.state == target
        else:
            with pytest.raises(RuntimeError, match=f"from {before} to {target}"):
                machine.go(target)
            assert machine.state == before


def test_only_one_of_many_threads_makes_a_change():
    machine = StateMachine()
    machine.go(S.STARTING)
    results = []
    threads = [
        threading.Thread(target=lambda: results.append(machine.go(S.READY, only_from={S.STARTING})))
        for _ in range(16)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(results) == [False] * 15 + [True]


def test_waiting_for_a_state():
    changes = []
    machine = StateMachine(changes.append)
    machine.go(S.STARTING)
    assert machine.wait_while({S.STARTING}, 0.05) == S.STARTING
    threading.Timer(0.1, machine.go, [S.READY]).start()
    assert machine.wait_while({S.STARTING}, 30) == S.READY
    assert changes == [S.STARTING, S.READY]


# Restarts


def test_delays_double_up_to_a_limit_and_then_it_is_enough():
    policy = RestartPolicy(most=5, within_s=100, first_delay_s=1, longest_delay_s=6)
    assert [policy.delay_s([0.0] * n, 10.0) for n in range(6)] == [1, 2, 4, 6, 6, None]
    assert policy.delay_s([0.0] * 50, 1000.0) == 1  # what is long past does not count


def test_a_probe_tells_work_from_a_hang():
    clock = {"cpu": 0.0, "answers": True}

    def ask():
        if not clock["answers"]:
            raise TimeoutError

    probe = Probe(ask, lambda: clock["cpu"], hung_s=1000)
    assert probe.well()
    clock["answers"] = False
    clock["cpu"] += 10  # it reads a long prompt
    assert probe.well()
    clock["cpu"] += 10
    assert probe.well()
    assert not probe.well()  # no answer and no work
    clock["answers"] = True
    assert probe.well()


def test_a_probe_does_not_believe_in_work_for_ever():
    clock = {"cpu": 0.0}

    def ask():
        clock["cpu"] += 5
        raise TimeoutError

    probe = Probe(ask, lambda: clock["cpu"], hung_s=0.2)
    assert probe.well()
    time.sleep(0.3)
    assert not probe.well()


class Http:
    """Answers as told: path to a status and a body."""

    def __init__(self, **answers):
        self.answers = {f"/{path}": answer for path, answer in answers.items()}
        self.asked = []

    def ask(self, path, body=None, *, timeout_s):  # noqa: ARG002 - as ServerHttp
        self.asked.append(path)
        status, value = self.answers[path]
        return Answer(status, json.dumps(value).encode())


IDLE = {"id": 3, "is_processing": False}
ONE = (200, {"tokens_predicted": 1})


@pytest.mark.parametrize(
    ("slots", "answer", "generates"),
    [
        ([IDLE], ONE, True),
        ([IDLE | {"n_prompt_tokens": 2}], ONE, True),
        ([IDLE | {"n_prompt_tokens": 400}], ONE, False),
        ([IDLE, {"id": 1, "is_processing": True}], ONE, False),
        ([IDLE], (500, {"error": {"message": "Compute error"}}), None),
        ([IDLE], (200, {"tokens_predicted": 0}), None),
        ([IDLE], (200, ["?"]), None),
        ({"error": "?"}, ONE, None),
    ],
)
def test_a_sign_of_life_is_a_token_and_nothing_less_where_one_can_be_had(slots, answer, generates):
    http = Http(slots=(200, slots), completion=answer)
    if generates is None:
        with pytest.raises(OSError, match="answered"):
            Liveness().ask(http, 1.0)
    else:
        liveness = Liveness()
        assert liveness.ask(http, 1.0) is generates
        assert liveness.ask(http, 1.0) is False, "not more than once a minute"
        assert http.asked.count("/completion") == int(generates)


# Loading


def test_activity_follows_a_process_that_reads(tmp_path):
    big = tmp_path / "big"
    big.write_bytes(bytes(40_000_000))
    code = """
import sys, time
sys.stdin.readline()
file = open(sys.argv[1], "rb", buffering=0)
for _ in range(2):
    file.read(20_000_000); print(flush=True); sys.stdin.readline()
"""
    with subprocess.Popen(
        [sys.executable, "-c", code, big], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as child:
        activity = Activity(child.pid, 100_000_000, lambda: 0)
        fractions = []
        for _ in range(2):
            child.stdin.write("\n")
            child.stdin.flush()
            child.stdout.readline()
            activity.look()
            fractions.append(activity.fraction)
            assert activity.idle_s < 0.2
        assert 0.2 <= fractions[0] < fractions[1] < 1
        assert str(activity) == "loading 40.0 of 100.0 MB"
        time.sleep(0.4)
        activity.look()
        activity.look()
        assert activity.idle_s >= 0.3  # it waits, and nothing moves
        child.stdin.write("\n")
    activity.look()  # of a process that is gone


# Memory


def fake_kernel(root: Path, *, own: int | None, whole: int | None, version: int) -> Path:
    group = root / "sys/fs/cgroup" / ("job" if version == 2 else "memory/job")
    (root / "proc/self").mkdir(parents=True, exist_ok=True)
    group.mkdir(parents=True, exist_ok=True)
    line = "0::/job" if version == 2 else "5:cpu,cpuacct:/x\n4:memory:/job"
    (root / "proc/self/cgroup").write_text(line + "\n")
    if own is not None:
        name = "memory.events" if version == 2 else "memory.oom_control"
        (group / name).write_text(f"low 0\noom 9\noom_kill {own}\noom_group_kill 7\n")
    if whole is not None:
        (root / "proc/vmstat").write_text(f"nr_free_pages 1\noom_kill {whole}\n")
    return root


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize(
    ("before", "after", "verdict"),
    [
        ((0, 5), (1, 6), "certain"),
        ((3, 5), (3, 6), "likely"),
        ((3, 5), (3, 5), "unlikely"),
        ((None, 5), (None, 6), "likely"),
        ((None, 5), (None, 5), "unlikely"),
        ((0, None), (1, None), "certain"),
        ((0, None), (0, None), "unlikely"),
        ((None, None), (None, None), "unknown"),
    ],
)
def test_the_kernels_counts_are_compared(tmp_path, version, before, after, verdict):
    root = fake_kernel(tmp_path, own=before[0], whole=before[1], version=version)
    watch = OutOfMemoryWatch(root=root)
    fake_kernel(root, own=after[0], whole=after[1], version=version)
    assert watch.verdict() == verdict


def test_this_machines_counts_can_be_read():
    assert OutOfMemoryWatch().verdict() in {"unlikely", "likely", "certain", "unknown"}
    assert OutOfMemoryWatch(999_999_999).verdict() in {"unlikely", "likely", "unknown"}


# Last words


def said(code: int, *lines: str, out_of_memory: str = "unknown") -> ServerError:
    error = explain(code, lines, when="while starting", log=Path("/logs/x.log"), out_of_memory=out_of_memory)
    assert error.id in troubles()
    assert "\n" not in str(error)
    return error


@pytest.mark.parametrize(
    ("id_", "lines", "words"),
    [
        (
            "KNB510",
            [
                "0.00.012.001 E srv         start: couldn't bind HTTP server socket, hostname: 127.0.0.1, port: 80"
            ],
            "port 80 is taken: another program listens there",
        ),
        ("KNB515", ["error: invalid argument: --print-token-count"], "--print-token-count"),
        (
            "KNB515",
            ['error while handling argument "-ot": unknown buffer type', "", "usage:"],
            "unknown buffer type",
        ),
        (
            "KNB528",
            [
                "0.00.1 x",
                "0.00.014.570 E llama_model_load: error loading model: unknown model architecture: 'kimi-k9'",
            ],
            "kimi-k9",
        ),
        (
            "KNB503",
            [
                "0.00.014.570 E llama_init_from_model: model does not support different K (q8_0) and V (f16) cache types"
            ],
            "q8_0",
        ),
        (
            "KNB514",
            [
                "0.00.014.570 E ggml_backend_cuda_buffer_type_alloc_buffer: allocating 48000.00 MiB on device 1: cudaMalloc failed: out of memory",
                "0.00.014.571 E alloc_tensor_range: failed to allocate CUDA1 buffer of size 50331648000",
            ],
            "device 1",
        ),
        (
            "KNB514",
            ["0.00.014.570 E llama_model_load: error loading model: unable to allocate CPU buffer"],
            "CPU buffer",
        ),
        ("KNB514", ["terminate called after throwing an instance of 'std::bad_alloc'"], "bad_alloc"),
        ("KNB529", ["CUDA error: an illegal memory access was encountered"], "illegal memory access"),
        (
            "KNB516",
            [
                "0.02.1 y",
                "0.00.014.570 E srv          init: chat template parsing error: unexpected end of input",
            ],
            "unexpected end",
        ),
        ("KNB516", ["error: the supplied chat template is not supported: {% if %}"], "{% if %}"),
        (
            "KNB517",
            ["0.00.014.570 E srv    load_model: failed to load multimodal model, '/x/mmproj.gguf'"],
            "mmproj.gguf",
        ),
        (
            "KNB512",
            [
                "0.00.014.570 E llama_model_load: error loading model: tensor 'a' data is not within the file bounds, model is corrupted or incomplete"
            ],
            "file bounds",
        ),
        ("KNB518", ["0.00.014.570 E srv  llama_server: exiting due to something new"], "something new"),
        ("KNB518", [], "it said nothing"),
    ],
)
def test_last_words_are_understood(id_, lines, words):
    error = said(1, *lines)
    assert error.id == id_
    assert words in str(error)


def test_information_and_warnings_are_not_taken_for_the_cause():
    error = said(
        1,
        "0.00.014.570 I load_tensors: tensor 'blk.1' was moved",
        "0.00.014.570 W x: failed to allocate 5 MiB of pinned memory",
        "0.00.014.571 E srv  llama_server: real cause",
    )
    assert error.id == "KNB518"
    assert "real cause" in str(error)


@pytest.mark.parametrize(
    ("code", "out_of_memory", "id_", "words"),
    [
        (137, "certain", "KNB513", "memory limit"),
        (137, "likely", "KNB513", "most likely"),
        (137, "unknown", "KNB513", "memory runs out"),
        (-9, "certain", "KNB513", "memory limit"),
        (137, "unlikely", "KNB519", "no want of memory"),
        (143, "unknown", "KNB519", "SIGTERM"),
        (132, "unknown", "KNB531", "processor"),
        (135, "unknown", "KNB532", "disk"),
        (139, "unknown", "KNB530", "SIGSEGV"),
        (134, "unknown", "KNB530", "SIGABRT"),
        (128 + 63, "unknown", "KNB530", ""),
    ],
)
def test_deaths_by_signal_are_told_apart(code, out_of_memory, id_, words):
    error = said(code, out_of_memory=out_of_memory)
    assert error.id == id_
    assert words in str(error)


def test_an_assertion_is_quoted():
    assert "GGML_ASSERT(n > 0)" in str(said(134, "/src/x.cpp:12: GGML_ASSERT(n > 0) failed"))


@given(st.integers(0, 255), st.lists(st.text(max_size=60), max_size=5))
def test_any_end_at_all_is_one_line_with_an_explained_id(code, lines):
    said(code, *lines)


# Requests


@pytest.fixture
def slow_http():
    """A server that waits before it answers, and one path that never does."""
    release = threading.Event()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            if self.path == "/never":
                release.wait(30)
            time.sleep(0.3)
            with suppress(BrokenPipeError):  # the client gave up, as it should
                self.send_response(200)
                self.end_headers()
                self.wfile.write(b'{"key": "%s"}' % (self.headers["Authorization"] or "").encode())

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        yield server.server_address[1]
        release.set()
        server.shutdown()
        thread.join()


def test_a_request_ignores_proxies_and_carries_the_key(slow_http, monkeypatch):
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    monkeypatch.setenv("ALL_PROXY", "http://127.0.0.1:9")
    assert ServerHttp(slow_http, "k").ask("/x").json() == {"key": "Bearer k"}


def test_a_wait_has_no_limit_but_can_be_ended(slow_http):
    calls = []
    assert (
        ServerHttp(slow_http, "k").ask("/x", timeout_s=5, while_waiting=lambda: calls.append(1)).status == 200
    )
    assert calls

    def enough():
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        ServerHttp(slow_http, "k").ask("/never", while_waiting=enough)


def test_a_request_times_out_and_a_closed_port_is_told(slow_http):
    with pytest.raises(TimeoutError):
        ServerHttp(slow_http, "k").ask("/never", timeout_s=0.2)
    with pytest.raises(OSError, match=r"[Rr]efused"):
        ServerHttp(9, "k").ask("/x")


# Keys


def test_a_key_is_kept_for_its_owner_only_and_old_ones_go(tmp_path, monkeypatch):
    monkeypatch.setenv("KIMI_NB_RUNTIME", str(tmp_path / "run"))
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    runtime_folder()
    (tmp_path / "run" / f"serve-{dead.pid}.key").write_text("old")
    (tmp_path / "run" / f"serve-{os.getppid()}.key").write_text("of a living one")
    path = keep_key("the-key")
    assert path.read_text() == "the-key"
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700
    assert {p.name for p in path.parent.iterdir()} == {path.name, f"serve-{os.getppid()}.key"}
    forget_key(path)
    forget_key(path)
    assert not path.exists()


def test_an_open_folder_is_closed_before_a_key_is_put_there(tmp_path, monkeypatch):
    folder = tmp_path / "run"
    folder.mkdir(mode=0o755)
    folder.chmod(0o755)
    monkeypatch.setenv("KIMI_NB_RUNTIME", str(folder))
    assert runtime_folder().stat().st_mode & 0o777 == 0o700


def test_a_place_that_is_no_folder_of_ours_is_refused(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("x")
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    for name in ("file", "link"):
        monkeypatch.setenv("KIMI_NB_RUNTIME", str(tmp_path / name))
        with pytest.raises(ServerError, match="KNB536"):
            keep_key("the-key")


def test_without_a_session_folder_keys_lie_in_the_cache_and_not_in_tmp(tmp_path, monkeypatch):
    monkeypatch.delenv("KIMI_NB_RUNTIME", raising=False)
    monkeypatch.setenv("KIMI_NB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "nothing"))
    assert runtime_folder() == tmp_path / "cache" / "run"
    (tmp_path / "session").mkdir()
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "session"))
    assert runtime_folder() == tmp_path / "session" / "kimi-nb"
