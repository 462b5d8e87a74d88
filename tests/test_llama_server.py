"""The supervisor on the real llama-server and nano: what it promises when all goes well, and when it is misused."""

import asyncio
import http.client
import json
import os
import re
import threading
import time
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
from system import free, free_port

from kimi_nb.engine import Engine, LlamaServer
from kimi_nb.engine.server_state import ServerState
from kimi_nb.errors import ModelFileError, ServerError, UsageError, troubles
from kimi_nb.plan import Settings

pytestmark = pytest.mark.engine

SMALL = Settings(ctx_size=1024, parallel=1, threads=1, cache_ram=0)


@pytest.fixture
def make(build, nano, tmp_path):
    """Make servers on nano, and see that none is left at the end."""
    made = []

    def new(model=nano, **options):
        options = {
            "settings": SMALL,
            "build": build,
            "alias": "nano",
            "log_path": tmp_path / "server.log",
        } | options
        made.append(LlamaServer(model, **options))
        return made[-1]

    yield new
    for server in made:
        pid = server.pid
        server.stop()
        assert server.state == ServerState.STOPPED
        assert pid is None or not psutil.pid_exists(pid)


def ask(server, path, *, key=None, body=None):
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
    try:
        headers = {"Authorization": f"Bearer {server.api_key if key is None else key}"}
        connection.request("GET" if body is None else "POST", path, body and json.dumps(body), headers)
        response = connection.getresponse()
        return response.status, json.loads(response.read() or b"null")
    finally:
        connection.close()


def test_a_server_is_ready_answers_and_is_gone(make):
    server = make()
    assert server.state == "stopped"
    assert server.pid is None
    with server:
        assert server.state == "ready"
        assert server.base_url == f"http://127.0.0.1:{server.port}/v1"
        status, models = ask(server, "/v1/models")
        assert (status, models["data"][0]["id"]) == (200, "nano")
        status, answer = ask(
            server, "/v1/completions", body={"prompt": "a", "max_tokens": 3, "ignore_eos": True}
        )
        assert (status, answer["usage"]["completion_tokens"]) == (200, 3)
        pid, port = server.pid, server.port
        assert psutil.Process(pid).name() == "llama-server"
    assert server.state == "stopped"
    assert not psutil.pid_exists(pid)
    assert free(port)


def test_without_the_key_nothing_but_health_is_answered(make):
    with make() as server:
        assert ask(server, "/health", key="wrong")[0] == 200
        for path in ("/v1/models", "/slots", "/metrics", "/props"):
            assert ask(server, path, key="wrong")[0] == 401


def test_it_listens_on_loopback_only(make):
    with make() as server:
        listening = [
            c for c in psutil.Process(server.pid).net_connections() if c.status == psutil.CONN_LISTEN
        ]
        assert [(c.laddr.ip, c.laddr.port) for c in listening] == [("127.0.0.1", server.port)]


def test_the_key_is_nowhere_to_be_seen(make, tmp_path, monkeypatch):
    """Not on a command line, in no log even at llama-server's most talkative, not in repr, not in an error."""
    monkeypatch.setenv("SOME_TOKEN", "canary-in-the-environment")
    key = "canary-key-0123456789-last4"
    server = make(api_key=key, extra_args=["-v"])
    with server:
        ask(server, "/v1/completions", body={"prompt": "a", "max_tokens": 1})
        ask(server, "/v1/completions", body={"prompt": f"Bearer {key}", "max_tokens": 1})
        process = psutil.Process(server.pid)
        lines = [" ".join(p.info["cmdline"] or []) for p in psutil.process_iter(["cmdline"])]
        assert not any(key in line for line in lines)
        assert process.environ()["LLAMA_API_KEY"] == key  # the one place where it is, closed to other users
        assert "SOME_TOKEN" not in process.environ()
        shown = repr(server) + str(server) + repr(server.engine) + str(vars(server.engine).keys())
    log = server.log_path.read_text()
    assert "listening on" in log
    assert "api_keys: ****[secret]" in log  # where llama-server would show the last four letters
    for text in (log, "\n".join(server.log_tail(10_000)), shown):
        assert key not in text
        assert "last4" not in text
        assert "canary" not in text
    assert server.log_path.stat().st_mode & 0o777 == 0o600


def test_a_key_is_made_for_each_server(make):
    first, second = make(), make()
    assert first.api_key != second.api_key
    assert len(first.api_key) >= 32


def test_the_servers_environment_cannot_change_its_settings(make, monkeypatch):
    monkeypatch.setenv("LLAMA_ARG_CTX_SIZE", "512")
    monkeypatch.setenv("LLAMA_ARG_PORT", "9")
    monkeypatch.setenv("LLAMA_API_KEY", "someone-elses")
    with make(settings=SMALL.replace(ctx_size=2048)) as server:
        assert server.slots()[0]["n_ctx"] == 2048
        assert ask(server, "/v1/models", key="someone-elses")[0] == 401


def test_engine_is_what_a_client_needs(make):
    with make() as server:
        engine = server.engine
        assert engine == Engine("llama-server", server.base_url, server.api_key, "nano")
        assert server.api_key not in repr(engine)


def test_the_openai_package_streams_from_it(make):
    from openai import OpenAI

    with make() as server, OpenAI(base_url=server.engine.base_url, api_key=server.engine.api_key) as client:
        chunks = list(
            client.chat.completions.create(
                model="nano",
                messages=[{"role": "user", "content": "hi"}],
                max_tokens=8,
                stream=True,
                extra_body={"ignore_eos": True},
            )
        )
        assert len(chunks) > 1
        assert chunks[-1].choices[0].finish_reason == "length"


def test_slots_and_metrics_are_read(make):
    with make(settings=SMALL.replace(parallel=2, ctx_size=2048)) as server:
        before = server.metrics()["tokens_predicted_total"]
        ask(server, "/completion", body={"prompt": "a", "n_predict": 5, "ignore_eos": True})
        assert server.metrics()["tokens_predicted_total"] == before + 5
        assert [slot["n_ctx"] for slot in server.slots()] == [1024, 1024]


def test_a_question_that_it_refuses_is_an_error(make):
    with make(extra_args=["--no-slots"]) as server, pytest.raises(ServerError, match=r"KNB522.*501"):
        server.slots()


def test_context_and_slots_are_always_said_explicitly(make):
    """Left to itself, llama-server would take the model's whole context and four slots."""
    server = make(settings=None)
    assert (server.settings.ctx_size, server.settings.parallel) == (8192, 1)
    assert make(settings=Settings(parallel=3)).settings.ctx_size == 3 * 8192


def test_ten_starts_and_stops(make):
    others = threads_of_servers()  # the session's own server may be up, when other tests have used it
    server = make()
    ports = []
    for _ in range(10):
        with server:
            pid = server.pid
            ports.append(server.port)
        assert not psutil.pid_exists(pid)
    assert all(map(free, ports))
    assert "cleaning up before exit" in server.log_path.read_text()  # it was asked to end, not killed
    assert new_threads(others) == set()


@pytest.mark.soak
@pytest.mark.timeout(900)
def test_two_hundred_starts_and_stops(make):
    others = threads_of_servers()
    server = make()
    descriptors = []
    for _ in range(200):
        with server:
            pid = server.pid
        assert not psutil.pid_exists(pid)
        descriptors.append(psutil.Process().num_fds())
    assert descriptors[-1] <= descriptors[9]
    assert new_threads(others) == set()


def threads_of_servers() -> set[threading.Thread]:
    return {thread for thread in threading.enumerate() if "llama-server" in thread.name}


def new_threads(others: set[threading.Thread]) -> set[threading.Thread]:
    deadline = time.monotonic() + 5
    while (new := threads_of_servers() - others) and time.monotonic() < deadline:
        time.sleep(0.05)
    return new


def test_start_and_stop_twice_are_no_trouble(make):
    server = make().start()
    pid = server.pid
    assert server.start() is server
    assert server.pid == pid
    server.stop()
    server.stop()
    make().stop()


def test_an_error_inside_the_block_stops_it_and_passes(make):
    server = make()
    with pytest.raises(ZeroDivisionError), server:
        raise ZeroDivisionError
    assert server.state == "stopped"


def test_a_given_port_is_used_and_free_afterwards(make):
    port = free_port()
    server = make(port=port)
    for _ in range(2):
        with server:
            assert server.port == port
    assert free(port)


def test_two_servers_side_by_side(make, tmp_path):
    with (
        make(log_path=tmp_path / "1.log") as first,
        make(log_path=tmp_path / "2.log", alias="other") as second,
    ):
        assert first.port != second.port
        assert ask(first, "/v1/models", key=second.api_key)[0] == 401
        assert ask(second, "/v1/models")[1]["data"][0]["id"] == "other"


def test_many_threads_start_one_server(make):
    server = make()
    pids = []
    threads = [threading.Thread(target=lambda: pids.append(server.start().pid)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(pids) == 8
    assert len(set(pids)) == 1


def test_start_and_stop_from_many_threads_end_in_order(make):
    server = make()
    errors = []

    def churn(seed):
        for turn in range(4):
            try:
                server.start() if (seed + turn) % 2 else server.stop()
            except ServerError as error:
                errors.append(error)

    threads = [threading.Thread(target=churn, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert not any(thread.is_alive() for thread in threads)
    assert {error.id for error in errors} <= {"KNB521"}
    server.stop()
    assert server.state == "stopped"


def test_a_server_started_in_a_thread_that_ends_lives_on(make):
    server = make()
    thread = threading.Thread(target=server.start)
    thread.start()
    thread.join()
    time.sleep(0.5)
    assert ask(server, "/v1/models")[0] == 200


def test_async_with(make):
    async def use():
        async with make() as server:
            assert server.state == "ready"
            return server

    server = asyncio.run(use())
    assert server.state == "stopped"


def test_a_cancelled_async_start_leaves_nothing(make):
    server = make()

    async def use():
        task = asyncio.create_task(server.__aenter__())
        while server.pid is None:  # noqa: ASYNC110 - there is nothing to await
            await asyncio.sleep(0.001)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(use())
    deadline = time.monotonic() + 10
    while server.state != "stopped" and time.monotonic() < deadline:
        time.sleep(0.02)
    assert server.state == "stopped"


def test_progress_is_told(make):
    told = []
    with make(on_progress=lambda text, done: told.append((text, done))):
        pass
    assert re.fullmatch(r"loading [0-9.]+ of [0-9.]+ MB", told[0][0])
    assert 0 <= told[0][1] <= 1


def test_an_error_in_the_progress_callback_leaves_nothing_behind(make):
    def burst(_text, _done):
        raise ZeroDivisionError

    server = make(on_progress=burst)
    with pytest.raises(ZeroDivisionError):
        server.start()
    assert server.state == "stopped"
    assert server.pid is None


def test_stop_from_within_the_progress_callback(make):
    server = make(on_progress=lambda _text, _done: server.stop())
    with pytest.raises(ServerError, match="KNB521"):
        server.start()
    assert server.state == "stopped"


def test_a_model_in_shards_may_be_named_by_any_of_them(make, build, tmp_path):
    from kimi_nb.nano import make_nano

    first = make_nano(tmp_path / "nano", shards=3)
    shards = sorted(first.parent.glob("*-of-00003.gguf"))
    assert len(shards) == 3
    with make(model=shards[2], alias=None) as server:
        assert server.alias == shards[0].name.removesuffix("-00001-of-00003.gguf")
    shards[1].unlink()
    with pytest.raises(ModelFileError, match=f"KNB320.*{shards[1].name}"):
        make(model=shards[0]).start()


def test_odd_file_names_are_no_trouble(make, nano, tmp_path):
    odd = tmp_path / "nä no, [x] 'q' \"z\".gguf"
    odd.symlink_to(nano)
    with make(model=odd, alias=None) as server:
        assert ask(server, "/v1/models")[1]["data"][0]["id"] == server.alias


@pytest.mark.parametrize(
    ("options", "id_"),
    [
        ({"port": 70000}, "KNB524"),
        ({"port": "8080"}, "KNB524"),
        ({"port": True}, "KNB524"),
        ({"alias": ""}, "KNB524"),
        ({"alias": "a,b"}, "KNB524"),
        ({"alias": "a\nb"}, "KNB524"),
        ({"api_key": ""}, "KNB526"),
        ({"api_key": "short"}, "KNB526"),
        ({"api_key": "two,keys-in-one"}, "KNB526"),
        ({"api_key": "with a space"}, "KNB526"),
        ({"api_key": "schlüssel-ü"}, "KNB526"),
        ({"api_key": "line\nbreak-1"}, "KNB526"),
        ({"extra_args": ["--host", "anywhere"]}, "KNB525"),
        ({"extra_args": ["--api_key", "x"]}, "KNB525"),
        ({"extra_args": ["--special"]}, "KNB525"),
        ({"extra_args": ["--no-mmap"]}, "KNB525"),
        ({"extra_args": ["-lv", "0"]}, "KNB525"),
    ],
)
def test_wrong_options_are_refused_before_anything_starts(make, options, id_):
    with pytest.raises(UsageError, match=id_) as caught:
        make(**options)
    assert caught.value.id in troubles()
    assert "anywhere" not in str(caught.value)


def test_no_key_is_ever_quoted_back():
    with pytest.raises(UsageError) as caught:
        LlamaServer(Path("x.gguf"), api_key="my secret key")
    assert "my secret key" not in str(caught.value)


def test_a_stopped_server_says_so(make):
    server = make()
    for ask_it in (lambda: server.base_url, lambda: server.engine, server.slots, server.metrics):
        with pytest.raises(ServerError, match=r"KNB533.*stopped"):
            ask_it()


def test_a_copy_made_by_fork_does_not_stop_the_owners_server(make):
    with make() as server:
        child = os.fork()
        if child == 0:
            try:
                server.stop()
            finally:
                os._exit(0)
        os.waitpid(child, 0)
        assert ask(server, "/v1/models")[0] == 200


def test_every_error_id_used_in_the_code_is_explained():
    package = Path(LlamaServer.__init__.__code__.co_filename).parents[1]
    used = set()
    for path in package.rglob("*.py"):
        used |= set(re.findall(r'"(KNB5\d\d)"', path.read_text()))
    explained = {id_ for id_ in troubles() if id_.startswith("KNB5")}
    assert used == explained


def test_a_build_without_llama_server(make, build, tmp_path):
    with pytest.raises(Exception, match="llama-server") as caught:
        make(build=replace(build, bin=tmp_path)).start()
    assert caught.value.id in troubles()
