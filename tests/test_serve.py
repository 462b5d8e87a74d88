"""``kimi-nb serve``: one line when ready, a key that only its owner can read, and nothing left when it ends."""

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from system import alive, free, wait_until

from kimi_nb.cli import main

pytestmark = pytest.mark.engine

SMALL = ("--ctx-size", "2048", "--threads", "1", "--cache-ram", "0")


@pytest.fixture
def run(tmp_path, nano):
    """Start ``kimi-nb serve``; whatever still runs in the end is killed, and what it started goes with it."""
    started = []

    def new(*words, model="nano", env=(), **options):
        command = [
            sys.executable,
            "-m",
            "kimi_nb.cli",
            "serve",
            "--log",
            str(tmp_path / "server.log"),
            *words,
        ]
        if model is not None:
            command += ["--model", str(model)]
        environment = os.environ | {"KIMI_NB_RUNTIME": str(tmp_path / "run")} | dict(env)
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | options
        started.append(subprocess.Popen(command, env=environment, text=True, **pipes))
        return started[-1]

    yield new
    for process in started:
        process.kill()
        process.communicate()


@pytest.fixture
def ready(run):
    """Start it and read its line."""

    def new(*words, **options):
        process = run("--json", *SMALL, *words, **options)
        return process, json.loads(process.stdout.readline())

    return new


def models(told, key):
    port = int(told["base_url"].split(":")[2].split("/")[0])
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    try:
        connection.request("GET", "/v1/models", headers={"Authorization": f"Bearer {key}"})
        response = connection.getresponse()
        return response.status, json.loads(response.read())
    finally:
        connection.close()


def test_one_line_and_everything_in_it_is_true(ready):
    process, told = ready()
    assert set(told) >= {"base_url", "api_key_file", "pid", "model"}
    assert told["model"] == "nano"
    assert told["pid"] == process.pid
    key_file = Path(told["api_key_file"])
    assert key_file.stat().st_mode & 0o777 == 0o600
    assert key_file.parent.stat().st_mode & 0o777 == 0o700
    status, answer = models(told, key_file.read_text())
    assert (status, answer["data"][0]["id"]) == (200, "nano")
    assert models(told, "wrong")[0] == 401
    process.terminate()
    rest, errors = process.communicate(timeout=30)
    assert rest == ""  # the one line was all
    assert process.returncode == 0
    assert not key_file.exists()
    assert not alive(told["server_pid"])
    assert "Traceback" not in errors


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_every_signal_that_means_stop_stops_it_cleanly(ready, number):
    process, told = ready()
    process.send_signal(number)
    process.communicate(timeout=30)
    assert process.returncode == 0
    assert not Path(told["api_key_file"]).exists()
    assert not alive(told["server_pid"])


def test_signals_in_a_hurry_do_not_break_the_stopping(ready):
    process, told = ready()
    for _ in range(5):
        process.send_signal(signal.SIGINT)
        time.sleep(0.01)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 0
    assert "Traceback" not in errors
    assert not alive(told["server_pid"])


def test_kill_9_leaves_no_server(ready):
    process, told = ready()
    process.kill()
    process.wait()
    wait_until(lambda: not alive(told["server_pid"]))
    port = int(told["base_url"].split(":")[2].split("/")[0])
    assert free(port)


def test_a_key_left_by_kill_9_is_removed_by_the_next(ready):
    process, told = ready()
    process.kill()
    process.wait()
    left = Path(told["api_key_file"])
    assert left.exists()
    ready()
    assert not left.exists()


def test_its_parents_death_does_not_end_it(ready, tmp_path, nano):
    """It is a program of its own, as in `kimi-nb serve &`: plain unix rules."""
    code = """
import subprocess, sys
server = subprocess.Popen(sys.argv[1:], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, start_new_session=True)
print(server.stdout.readline().decode(), flush=True)
"""
    words = [sys.executable, "-m", "kimi_nb.cli", "serve", "--json", "--model", "nano", *SMALL]
    environment = os.environ | {"KIMI_NB_RUNTIME": str(tmp_path / "run")}
    done = subprocess.run(
        [sys.executable, "-c", code, *words, "--log", str(tmp_path / "x.log")],
        env=environment,
        capture_output=True,
        check=True,
        timeout=120,
    )
    told = json.loads(done.stdout)
    try:
        time.sleep(1)
        assert alive(told["pid"])
        assert models(told, Path(told["api_key_file"]).read_text().strip())[0] == 200
    finally:
        os.kill(told["pid"], signal.SIGTERM)
    wait_until(lambda: not alive(told["pid"]) and not alive(told["server_pid"]))


def test_the_key_is_not_printed_logged_or_on_a_command_line(run, ready, tmp_path):
    process, told = ready()
    key = Path(told["api_key_file"]).read_text().strip()
    lines = [" ".join(p.info["cmdline"] or []) for p in psutil.process_iter(["cmdline"])]
    assert not any(key in line for line in lines)
    process.terminate()
    output = "".join(process.communicate(timeout=30))
    assert key not in output + json.dumps(told) + (tmp_path / "server.log").read_text()


def test_a_key_of_ones_own_from_the_environment(ready):
    _, told = ready("--api-key-env", "MY_KEY", env={"MY_KEY": "my-own-key-123"})
    assert told["api_key_env"] == "MY_KEY"
    assert "api_key_file" not in told
    assert models(told, "my-own-key-123")[0] == 200


def test_words_for_people(run, tmp_path):
    process = run(*SMALL, env={"KIMI_NB_RUNTIME": str(tmp_path / "a folder's é")})
    shown = [process.stdout.readline() for _ in range(4)]
    assert "only you can read" in shown[0]
    assert "curl" in shown[2]
    command = shown[2].split("try", 1)[1].strip()
    assert "$(cat" in command.partition("|")[0]
    assert "$" not in command.partition("|")[2]  # what curl is given shows in the list of processes
    done = subprocess.run(["bash", "-c", command], capture_output=True, check=True, timeout=30)
    assert json.loads(done.stdout)["data"][0]["id"] == "nano"
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=30)
    assert "nano is ready at http://127.0.0.1:" in errors
    assert process.returncode == 0


@pytest.mark.parametrize("words", [[], ["--detach"]])
def test_a_model_of_the_catalog_is_no_file_and_the_way_to_one_is_told(words, capsys):
    assert main(["serve", "--model", "kimi-k2.5", *words]) == 2
    said = capsys.readouterr().err
    assert said.startswith("kimi-nb: KNB539: kimi-k2.5 is not one file")
    assert "kimi-nb plan --model kimi-k2.5 --save FILE" in said


def test_told_to_stop_before_it_is_ready(run, tmp_path):
    fifo = tmp_path / "model.gguf"
    os.mkfifo(fifo)  # reading it waits, as a dead network disk would
    process = run("--json", model=fifo)
    time.sleep(2)
    process.send_signal(signal.SIGINT)
    output, errors = process.communicate(timeout=30)
    assert process.returncode in {1, 2, 130}
    assert "Traceback" not in output + errors


def test_a_server_that_dies_is_told_and_ends_it(ready):
    process, told = ready()
    os.kill(told["server_pid"], signal.SIGKILL)
    output, errors = process.communicate(timeout=30)
    assert process.returncode == 1
    assert json.loads(output)["error"]["id"] in {"KNB513", "KNB519"}
    assert "KNB5" in errors
    assert not Path(told["api_key_file"]).exists()


def test_restart_brings_it_back_at_the_same_address(ready):
    process, told = ready("--restart")
    key = Path(told["api_key_file"]).read_text().strip()
    os.kill(told["server_pid"], signal.SIGKILL)

    def back():
        try:
            return models(told, key)[0] == 200
        except OSError:
            return False

    wait_until(lambda: not alive(told["server_pid"]))
    wait_until(back)
    assert process.poll() is None


@pytest.mark.parametrize(
    ("words", "options", "code", "id_"),
    [
        ([], {"model": "/nothing/model.gguf"}, 2, "KNB330"),
        (["--ctx-size", "8k"], {}, 2, "KNB501"),
        (["--cache-type-k", "q8_0"], {}, 2, "KNB503"),
        (["--log", "/nothing/server.log"], {}, 2, "KNB541"),
        (["--port", "99999"], {}, 2, "KNB524"),
        (["--alias", "a,b"], {}, 2, "KNB524"),
        (["--api-key-env", "NOT_SET_ANYWHERE"], {}, 2, "KNB535"),
        (["--api-key-env", "MY_KEY"], {"env": {"MY_KEY": "a b"}}, 2, "KNB526"),
        (["--override-tensor", "exps=NOPE"], {}, 1, "KNB515"),
        (["--chat-template", "{% if %}"], {}, 1, "KNB516"),
    ],
    ids=lambda value: str(value)[:24],
)
def test_wrong_use_is_one_line_and_an_exit_code(run, words, options, code, id_):
    process = run("--json", *words, **options)
    output, errors = process.communicate(timeout=60)
    assert process.returncode == code
    assert json.loads(output)["error"]["id"] == id_
    said = [line for line in errors.splitlines() if line.startswith("kimi-nb: ")]
    assert len(said) == 1
    assert said[0].startswith(f"kimi-nb: {id_}: ")
    assert "Traceback" not in errors


def test_words_that_argparse_refuses(run):
    process = run("--no-such-option")
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 2
    assert "unrecognized arguments" in errors


def test_the_port_is_taken(run):
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        process = run("--json", *SMALL, "--port", str(other.getsockname()[1]))
        output, _ = process.communicate(timeout=60)
    assert process.returncode == 1
    assert json.loads(output)["error"]["id"] == "KNB510"


def test_a_reader_that_goes_away_before_the_line(run):
    reading, writing = os.pipe()
    process = run("--json", *SMALL, stdout=writing)
    os.close(writing)
    os.close(reading)
    _, errors = process.communicate(timeout=60)
    assert process.returncode != 0
    assert "Traceback" not in errors


def test_help_lists_every_setting_under_llama_cpps_flag():
    from kimi_nb.plan import Settings

    done = subprocess.run(
        [sys.executable, "-m", "kimi_nb.cli", "serve", "--help"],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    for knob in Settings.knobs().values():
        assert knob.flag in done.stdout
