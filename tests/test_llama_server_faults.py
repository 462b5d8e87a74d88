"""What can happen to a llama-server: the right state, the right words, no process left, the port free again."""

import contextlib
import http.client
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import time
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
from system import alive, free, gone, wait_until

from kimi_nb.chat import Chat
from kimi_nb.engine import LlamaServer, server_liveness
from kimi_nb.engine import llama_server as supervisor
from kimi_nb.engine.server_watch import RestartPolicy
from kimi_nb.errors import KimiNbError, ModelFileError, ServerError, UsageError, troubles
from kimi_nb.plan import Settings

pytestmark = pytest.mark.engine

SMALL = Settings(ctx_size=8192, parallel=1, threads=1, cache_ram=0)


@pytest.fixture
def make(build, nano, tmp_path):
    """Make servers on nano, and see that each can be stopped in whatever state a test leaves it."""
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
        assert server.state == "stopped"
        assert pid is None or not alive(pid)


@pytest.fixture
def wrapped(build, tmp_path):
    """A build whose llama-server runs a line of shell first and then becomes the real one."""

    def new(line):
        folder = tmp_path / f"bin-{random.randrange(10**9)}"
        folder.mkdir()
        script = folder / "llama-server"
        script.write_text(f'#!/bin/bash\n{line}\nexec "{build.program("llama-server")}" "$@"\n')
        script.chmod(0o755)
        return replace(build, bin=folder)

    return new


@contextlib.contextmanager
def streaming(server):
    """A client in the middle of a long answer."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
    body = {"prompt": "a", "n_predict": 8000, "ignore_eos": True, "stream": True}
    try:
        connection.request(
            "POST", "/completion", json.dumps(body), {"Authorization": f"Bearer {server.api_key}"}
        )
        response = connection.getresponse()
        assert response.status == 200
        assert response.readline().startswith(b"data: ")
        yield response
    finally:
        connection.close()


def failing(server) -> KimiNbError:
    """Start a server that cannot start."""
    with pytest.raises(KimiNbError) as caught:
        server.start()
    error = caught.value
    assert error.id in troubles()
    assert "\n" not in str(error)
    assert server.state == "failed"
    assert server.error is error
    assert server.pid is None
    assert server.api_key not in str(error)
    return error


def start_in_thread(server):
    errors = []

    def run():
        try:
            server.start()
        except KimiNbError as error:
            errors.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    return thread, errors


# Killed


def test_killed_while_loading(make, wrapped):
    server = make(build=wrapped("kill -STOP $$"))
    thread, errors = start_in_thread(server)
    wait_until(lambda: server.pid is not None)
    assert server.state == "starting"
    pid = server.pid
    os.kill(pid, signal.SIGKILL)
    thread.join(20)
    assert errors[0].id in {"KNB513", "KNB519"}
    assert "while starting" in str(errors[0])
    assert server.state == "failed"
    assert not alive(pid)


def test_killed_at_any_moment_of_its_start(make):
    for _ in range(8):
        server = make()
        thread, errors = start_in_thread(server)
        wait_until(lambda server=server: server.pid is not None)
        pid = server.pid
        time.sleep(random.random() * 0.4)
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        thread.join(60)
        wait_until(lambda server=server: server.state == "failed")
        error = errors[0] if errors else server.error
        assert error.id in {"KNB513", "KNB519"}
        assert not alive(pid)


def test_killed_while_streaming(make):
    with make() as server:
        pid, port = server.pid, server.port
        with streaming(server) as response:
            os.kill(pid, signal.SIGKILL)
            with contextlib.suppress(OSError, http.client.HTTPException):
                while response.readline():  # the client's connection ends; it does not hang
                    pass
        assert server.wait(10) == "failed"
        assert server.error.id in {"KNB513", "KNB519"}
        with pytest.raises(ServerError, match=r"KNB533.*killed"):
            server.slots()
        assert free(port)


def test_the_guardian_killed(make):
    with make() as server:
        pid = server.pid
        psutil.Process(pid).parent().kill()
        assert server.wait(10) == "failed"
        assert gone(pid)


def test_told_to_end_from_outside(make):
    with make() as server:
        os.kill(server.pid, signal.SIGTERM)
        assert server.wait(10) == "failed"
        assert server.error.id == "KNB519"
        assert "told it to end" in str(server.error)


def test_after_a_failure_it_starts_again(make):
    server = make().start()
    os.kill(server.pid, signal.SIGKILL)
    server.wait(10)
    server.start()
    assert server.state == "ready"
    assert server.error is None


# Stopped in bad moments


def test_stop_while_a_client_streams(make):
    """On SIGTERM alone llama-server would wait for as long as the client stays connected."""
    server = make().start()
    pid, port = server.pid, server.port
    with streaming(server):
        server.stop(grace_s=0.5)
        assert not alive(pid)
        assert free(port)
    assert server.state == "stopped"
    assert "Received second interrupt" in server.log_path.read_text()  # told twice, not killed


def test_stop_while_it_loads(make, wrapped):
    server = make(build=wrapped("kill -STOP $$"))
    thread, errors = start_in_thread(server)
    wait_until(lambda: server.pid is not None)
    pid = server.pid
    server.stop()
    thread.join(20)
    assert errors[0].id == "KNB521"
    assert server.state == "stopped"
    assert not alive(pid)


def test_stop_a_server_that_does_not_react_at_all(make):
    server = make().start()
    pid = server.pid
    os.kill(pid, signal.SIGSTOP)
    server.stop(grace_s=0.2)
    assert not alive(pid)
    assert server.state == "stopped"


# Not started


def test_the_port_is_taken(make):
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        error = failing(make(port=port))
    assert error.id == "KNB510"
    assert str(port) in str(error)


def test_the_port_is_taken_by_another_llama_server(make):
    """The other one answers on that port, and must not be taken for ours."""
    with make() as first:
        assert failing(make(port=first.port)).id == "KNB510"
        assert first.state == "ready"


@pytest.mark.parametrize("size", [0, 3, 20, 1000, 100_000, -1_000_000, -1])
def test_a_truncated_model(make, nano, tmp_path, size):
    data = nano.read_bytes()
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(data[:size])
    assert isinstance(failing(make(model=broken)), ModelFileError)


@pytest.mark.parametrize(
    "content",
    [
        b"<!DOCTYPE html><html>404</html>",
        b"version https://git-lfs.github.com/spec/v1\noid sha256:1\n",
        b"x" * 4096,
    ],
    ids=["page", "pointer", "noise"],
)
def test_what_is_no_model_at_all(make, tmp_path, content):
    wrong = tmp_path / "wrong.gguf"
    wrong.write_bytes(content)
    assert isinstance(failing(make(model=wrong)), ModelFileError)


def test_a_model_that_is_not_there(make, tmp_path):
    assert isinstance(failing(make(model=tmp_path / "none.gguf")), UsageError)
    failing(make(model=tmp_path))


def test_a_model_that_vanishes_is_told_by_llama_server_itself(make, nano, tmp_path, monkeypatch):
    """Between our look at the header and the start, as when a network disk goes away."""
    import kimi_nb.model

    header = kimi_nb.model.read_header(nano)
    monkeypatch.setattr(kimi_nb.model, "read_header", lambda _path, **_options: header)
    shard = replace(header.shards[0], source=str(tmp_path / "gone.gguf"))
    monkeypatch.setattr(
        kimi_nb.model, "read_header", lambda _path, **_options: replace(header, shards=(shard,))
    )
    error = failing(make())
    assert error.id == "KNB512"
    assert "No such file" in str(error)


def test_an_architecture_that_this_llama_cpp_does_not_know(make, nano, tmp_path, monkeypatch):
    import kimi_nb.model

    header = kimi_nb.model.read_header(nano)
    other = tmp_path / "other.gguf"
    other.write_bytes(nano.read_bytes().replace(b"deepseek2", b"deepseek\xff", 1))
    shard = replace(header.shards[0], source=str(other))
    monkeypatch.setattr(
        kimi_nb.model, "read_header", lambda _path, **_options: replace(header, shards=(shard,))
    )
    error = failing(make())
    assert error.id == "KNB528"  # and its name is no UTF-8, which llama.cpp prints as it is
    assert "deepseek\ufffd" in str(error)


@pytest.mark.parametrize(
    ("options", "id_", "words"),
    [
        ({"extra_args": ["--print-token-count", "0"]}, "KNB515", "--print-token-count"),
        ({"settings": SMALL.replace(override_tensor=["exps=NOPE"])}, "KNB515", "unknown buffer type"),
        ({"settings": SMALL.replace(device="NOPE0")}, "KNB515", "invalid device: NOPE0"),
        ({"settings": SMALL.replace(mmproj="/nothing/mmproj.gguf")}, "KNB5", "mmproj"),
        ({"settings": SMALL.replace(chat_template="{% if %}")}, "KNB516", "template"),
        ({"extra_args": ["--cache-type-k", "q8_0"]}, "KNB503", "q8_0"),
    ],
    ids=["argument", "buffer", "device", "mmproj", "template", "cache types"],
)
def test_what_llama_server_refuses(make, options, id_, words):
    error = failing(make(**options))
    assert error.id.startswith(id_)
    assert words in str(error)


def test_no_memory_for_the_cache(make, wrapped):
    error = failing(make(build=wrapped("ulimit -v 2000000"), settings=SMALL.replace(ctx_size=20_000_000)))
    assert error.id == "KNB514"
    assert "allocate" in str(error)


def test_a_llama_server_that_cannot_be_run(make, build, tmp_path):
    (tmp_path / "bin").mkdir()
    shutil.copy(build.program("llama-server"), tmp_path / "bin" / "llama-server")
    (tmp_path / "bin" / "llama-server").write_bytes(b"\x7fELF this is no program")
    (tmp_path / "bin" / "llama-server").chmod(0o755)
    error = failing(make(build=replace(build, bin=tmp_path / "bin")))
    assert error.id == "KNB527"


def test_a_crash_while_loading(make, wrapped):
    error = failing(make(build=wrapped("echo 'x.cpp:1: GGML_ASSERT(false) failed' >&2; kill -ABRT $$")))
    assert error.id == "KNB530"
    assert "GGML_ASSERT(false)" in str(error)


def test_loading_that_stops(make, wrapped):
    error = failing(make(build=wrapped("kill -STOP $$"), stall_s=1.0))
    assert error.id == "KNB520"


def test_a_slow_start_is_no_failure(make, wrapped):
    """There is no time limit as long as something happens: here, a line a second."""
    server = make(build=wrapped("for i in 1 2 3; do sleep 1; echo loading $i; done"), stall_s=2.5)
    with server:
        assert server.state == "ready"


# Floods and full disks


def test_a_flood_of_noise_does_not_block_it(make, wrapped):
    server = make(build=wrapped("head -c 20000000 /dev/urandom >&2; yes | head -c 200000"))
    with server:
        assert server.state == "ready"
        assert len(server.log_tail(10**6)) <= 4000


def test_a_log_that_cannot_be_written(make):
    with make(log_path=Path("/dev/full")) as server:
        assert server.state == "ready"
        assert any("listening on" in line for line in server.log_tail())


# Degraded, and started again


@pytest.fixture
def quick_probe(monkeypatch):
    monkeypatch.setattr(supervisor, "_PROBE_EVERY_S", 0.2)
    monkeypatch.setattr(supervisor, "_PROBE_TIMEOUT_S", 0.5)


def test_a_server_that_stops_answering_is_degraded_and_comes_back(make, quick_probe):
    with make() as server:
        os.kill(server.pid, signal.SIGSTOP)
        wait_until(lambda: server.state == "degraded")
        with pytest.raises(ServerError, match="KNB522"):
            server.metrics()
        assert server.base_url  # it is not given up
        os.kill(server.pid, signal.SIGCONT)
        wait_until(lambda: server.state == "ready")


def test_a_server_hard_at_work_is_not_degraded(make, quick_probe):
    with make() as server, streaming(server) as response:
        until = time.monotonic() + 2
        while time.monotonic() < until and response.readline():
            assert server.state == "ready"


# The sign of life that the supervisor asks for


@pytest.fixture
def signs(monkeypatch, quick_probe):
    """Each look at a server, as it comes: whether the model was made to generate for it."""
    seen = []
    ask = server_liveness.Liveness.ask

    def noted(self, http, timeout_s):
        self._every_s = 0.0
        seen.append(ask(self, http, timeout_s))
        return seen[-1]

    monkeypatch.setattr(server_liveness.Liveness, "ask", noted)
    return seen


@pytest.fixture
def signs_apart(monkeypatch, signs):
    """The same, where a look so soon after the one before does not find its token still being made."""
    ask = server_liveness.Liveness.ask

    def calm(http, timeout_s):
        return not any(slot["is_processing"] for slot in http.ask("/slots", timeout_s=timeout_s).json())

    def waited(self, http, timeout_s):
        wait_until(lambda: calm(http, timeout_s))
        return ask(self, http, timeout_s)

    monkeypatch.setattr(server_liveness.Liveness, "ask", waited)
    return signs


def looked(signs, times=3):
    signs.clear()
    wait_until(lambda: len(signs) >= times)
    return set(signs[:times])


LONG = "How many experts does Kimi K2.5 have? " * 20


def cached(chat):
    return chat.ask(LONG, mode="instant", max_tokens=4).usage.cached_tokens


@pytest.mark.parametrize(("slots", "generates"), [(1, False), (2, True)])
def test_a_sign_of_life_is_a_real_token_where_it_costs_no_conversation(make, signs_apart, slots, generates):
    """cache_ram 0, so that a conversation pushed out of its slot is lost for good."""
    settings = SMALL.replace(parallel=slots, ctx_size=4096 * slots)
    with make(settings=settings) as server, Chat(server.engine) as chat:
        assert looked(signs_apart) == {True}  # all slots are empty
        cached(chat)
        assert looked(signs_apart) == {generates}  # one slot holds a conversation now, and is left in peace
        assert cached(chat) > 300
        assert server.state == "ready"


def test_no_token_is_asked_for_while_real_traffic_flows(make, signs):
    with make() as server, streaming(server) as response:
        signs.clear()
        until = time.monotonic() + 2
        while time.monotonic() < until and response.readline():
            pass
        assert signs
        assert not any(signs)


@pytest.mark.parametrize("tokens", [0, 1])
def test_why_not_simply_a_token_each_time(make, tokens):
    """The reason for all this, held here: should llama.cpp learn to spare the slot, this tells."""
    with make() as server, Chat(server.engine) as chat:
        cached(chat)
        assert cached(chat) > 300
        body = {"prompt": ".", "n_predict": tokens, "cache_prompt": False}
        assert server._running().http.ask("/completion", body).status == 200
        assert cached(chat) == 0


QUICK = RestartPolicy(most=2, within_s=600, first_delay_s=0.1, longest_delay_s=0.2)


def test_it_is_started_again_at_the_same_address(make):
    with make(restart=QUICK) as server:
        pid, url, key = server.pid, server.base_url, server.api_key
        os.kill(pid, signal.SIGKILL)
        wait_until(lambda: server.state == "ready" and server.pid not in {pid, None})
        assert (server.base_url, server.api_key) == (url, key)
        assert server.slots()
        assert server.error is None


def test_one_that_keeps_dying_is_left_alone(make):
    with make(restart=QUICK) as server:
        for _ in range(3):
            wait_until(lambda: server.state == "ready")
            os.kill(server.pid, signal.SIGKILL)
            wait_until(lambda: server.state != "ready")
        assert server.wait(30) == "failed"
        assert server.error.id == "KNB534"
        assert "3 times" in str(server.error)


def test_one_that_was_never_ready_is_not_started_again(make, wrapped, tmp_path):
    counted = tmp_path / "starts"
    server = make(build=wrapped(f"echo >> '{counted}'; exit 3"), restart=QUICK)
    assert failing(server).id == "KNB518"
    time.sleep(0.5)
    assert counted.read_text() == "\n"


def test_stop_during_the_pause_before_a_restart(make):
    server = make(restart=RestartPolicy(first_delay_s=60)).start()
    os.kill(server.pid, signal.SIGKILL)
    wait_until(lambda: server.state == "failed")
    server.stop()
    assert server.wait(1) == "stopped"


def test_stop_in_the_middle_of_a_restart(make, wrapped, tmp_path):
    flag = tmp_path / "second"
    server = make(build=wrapped(f"[ -e '{flag}' ] && kill -STOP $$; touch '{flag}'"), restart=QUICK).start()
    os.kill(server.pid, signal.SIGKILL)
    wait_until(lambda: server.state == "starting" and server.pid is not None)
    pid = server.pid
    server.stop()
    assert server.wait(5) == "stopped"
    assert not alive(pid)


def test_start_during_the_pause_before_a_restart(make):
    server = make(restart=RestartPolicy(first_delay_s=60)).start()
    os.kill(server.pid, signal.SIGKILL)
    wait_until(lambda: server.state == "failed")
    server.start()
    assert server.state == "ready"


# Owners that die


OWNER = """
import sys, time
from pathlib import Path
from kimi_nb.engine import LlamaServer
from kimi_nb.plan import Settings
server = LlamaServer({model!r}, settings=Settings(ctx_size=8192, parallel=1, threads=1, cache_ram=0), alias="nano",
                     log_path=Path({log!r}))
server.start()
print(server.pid, server.port, server.api_key, flush=True)
"""


@pytest.fixture
def owned(nano, tmp_path):
    """A Python process that owns a server: ``(process, pid, port, key)``."""
    started = []

    def new(then="time.sleep(300)"):
        code = OWNER.format(model=str(nano), log=str(tmp_path / "owned.log")) + textwrap.dedent(then)
        process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
        started.append(process)
        pid, port, key = process.stdout.readline().split()
        return process, int(pid), int(port), key

    yield new
    for process in started:
        process.kill()
        process.communicate()


def test_kill_9_of_the_owning_process(owned):
    process, pid, port, _ = owned()
    process.kill()
    wait_until(lambda: not alive(pid) and free(port))


def test_kill_9_of_the_owning_process_while_a_client_streams(owned):
    process, pid, port, key = owned()

    class Server:
        api_key = key

    Server.port = port
    with streaming(Server):
        process.kill()
        wait_until(lambda: not alive(pid) and free(port))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_any_other_death_of_the_owner(owned, number):
    process, pid, port, _ = owned()
    process.send_signal(number)
    process.wait(20)
    wait_until(lambda: not alive(pid) and free(port))


@pytest.mark.parametrize("then", ["", "raise SystemExit(3)", "1 / 0", "import os; os._exit(0)"])
def test_an_owner_that_just_ends(owned, then):
    process, pid, port, _ = owned(then)
    process.wait(30)
    wait_until(lambda: not alive(pid) and free(port))


def test_kill_9_of_the_notebook_kernel(nano, tmp_path):
    from jupyter_client.manager import start_new_kernel

    manager, client = start_new_kernel(kernel_name="python3")
    try:
        told = []
        client.execute_interactive(
            OWNER.format(model=str(nano), log=str(tmp_path / "kernel.log")),
            timeout=120,
            output_hook=lambda message: told.append(message["content"].get("text", "")),
        )
        pid, port, _ = "".join(told).split()
        assert alive(int(pid))
        manager.interrupt_kernel()  # Ctrl-C in a cell does not reach the server
        time.sleep(0.5)
        assert alive(int(pid))
        os.kill(manager.provisioner.pid, signal.SIGKILL)
        wait_until(lambda: not alive(int(pid)) and free(int(port)))
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)
        manager.cleanup_resources()


def test_restarting_the_kernel_ends_the_server_too(nano, tmp_path):
    from jupyter_client.manager import start_new_kernel

    manager, client = start_new_kernel(kernel_name="python3")
    try:
        told = []
        client.execute_interactive(
            OWNER.format(model=str(nano), log=str(tmp_path / "kernel.log")),
            timeout=120,
            output_hook=lambda message: told.append(message["content"].get("text", "")),
        )
        pid = int("".join(told).split()[0])
        manager.restart_kernel(now=False)
        assert gone(pid)
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)
        manager.cleanup_resources()
