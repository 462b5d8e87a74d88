"""``kimi-nb chat`` from the outside."""

import json
import os
import subprocess
import sys
import time

import pytest
from scripted_engine import Act, ScriptedEngine, say


def kimi_nb(*words, env=None, **more):
    environment = {**os.environ, **(env or {})}
    command = [sys.executable, "-m", "kimi_nb.cli", "chat", *words]
    return subprocess.run(
        command, capture_output=True, text=True, env=environment, timeout=120, check=False, **more
    )


KEY = {"SCRIPTED_KEY": "scripted-key"}


def test_thinking_and_answer_are_labelled_and_the_meter_follows():
    with ScriptedEngine([say("four", "two and two")]) as scripted:
        done = kimi_nb("--base-url", scripted.base_url, "--api-key-env", "SCRIPTED_KEY", "2+2?", env=KEY)
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert lines[:4] == ["[thinking]", "two and two", "[answer]", "four"]
    assert lines[-1].startswith("5 tokens, first token after")
    assert "\x1b" not in done.stdout
    assert scripted.bodies[0]["messages"] == [{"role": "user", "content": "2+2?"}]


def test_json_is_one_document_and_options_arrive(tmp_path):
    file = tmp_path / "key"
    file.write_text("scripted-key\n")
    with ScriptedEngine([say("four")]) as scripted:
        done = kimi_nb(
            "--base-url", scripted.base_url, "--api-key-file", str(file), "--model", "kimi-k2.5", "--engine", "vllm", "--mode", "instant",
            "--system", "Be brief.", "--max-tokens", "9", "--temperature", "0.1", "--json", "-", input="from a pipe",
        )  # fmt: skip
    assert done.returncode == 0, done.stderr
    reply = json.loads(done.stdout)
    assert (reply["content"], reply["mode"], reply["usage"]["completion_tokens"]) == ("four", "instant", 5)
    assert reply["meter"]["ttft_s"] > 0
    body = scripted.bodies[0]
    assert body["messages"] == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "from a pipe"},
    ]
    assert (body["max_tokens"], body["temperature"], "min_p" in body) == (9, 0.1, False)


def test_what_a_terminal_would_obey_is_taken_out():
    with ScriptedEngine([say("a\x1b]0;owned\x07b\r\x9bc")]) as scripted:
        done = kimi_nb("--base-url", scripted.base_url, "--api-key-env", "SCRIPTED_KEY", "hi", env=KEY)
    assert not set("\x1b\x07\r\x9b") & set(done.stdout)
    assert "owned" in done.stdout


def test_an_empty_answer_is_no():
    with ScriptedEngine([say("", "hm", finish="length")]) as scripted:
        done = kimi_nb("--base-url", scripted.base_url, "--api-key-env", "SCRIPTED_KEY", "hi", env=KEY)
    assert done.returncode == 1
    assert "KNB610" in done.stderr


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["hi"], 2, "KNB640: no engine was named"),
        (["--model", "kimi-k2.5", "hi"], 2, "neither nano nor a GGUF file"),
        (["--base-url", "http://127.0.0.1:1/v1", "hi"], 1, "KNB601"),
        (["--base-url", "nonsense", "--model", "m", "--engine", "vllm", "hi"], 1, "KNB601"),
        (
            ["--base-url", "http://127.0.0.1:1/v1", "--api-key-env", "NOT_SET_AT_ALL", "hi"],
            2,
            "KNB640: there is no key in the environment",
        ),
        (
            ["--base-url", "http://127.0.0.1:1/v1", "--api-key-file", "/nowhere/key", "hi"],
            2,
            "cannot be read",
        ),
        (["--model", "nano", "--timeout", "0", "hi"], 2, "'0' is not a number of seconds above zero"),
        (["--model", "nano", "--deadline", "nan", "hi"], 2, "'nan' is not a number of seconds above zero"),
        (["--model", "nano", "--max-tokens", "0", "hi"], 2, "--max-tokens"),
        (["--model", "nano", "  "], 2, "KNB622: there is no question"),
        (["--base-url", "u", "--api-key", "secret", "hi"], 2, "unrecognized arguments"),
        (["--model", "nano"], 2, "PROMPT"),
    ],
)
def test_wrong_use_is_one_clear_line(words, code, said):
    done = kimi_nb(*words)
    assert done.returncode == code
    assert said in done.stderr
    assert "Traceback" not in done.stderr
    if done.stderr.startswith("kimi-nb: KNB"):
        assert len(done.stderr.splitlines()) == 1


def test_a_failure_in_json_is_a_document_too():
    with ScriptedEngine([Act(status=503, body={"error": {"message": "Loading model"}})]) as scripted:
        done = kimi_nb(
            "--base-url", scripted.base_url, "--api-key-env", "SCRIPTED_KEY", "--json", "hi", env=KEY
        )
    assert done.returncode == 1
    assert json.loads(done.stdout)["error"]["id"] == "KNB603"


def test_ctrl_c_ends_the_request_and_frees_the_engine():
    import signal

    with ScriptedEngine([Act([(0, {"content": "a"})], hang=True)]) as scripted:
        command = [
            sys.executable,
            "-m",
            "kimi_nb.cli",
            "chat",
            "--base-url",
            scripted.base_url,
            "--api-key-env",
            "SCRIPTED_KEY",
            "hi",
        ]
        with subprocess.Popen(
            command, env={**os.environ, **KEY}, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        ) as running:
            assert running.stdout.readline() == b"[answer]\n"
            running.send_signal(signal.SIGINT)
            _, err = running.communicate(timeout=60)
        assert running.returncode == 130
        assert b"Traceback" not in err
        for _ in range(200):
            if scripted.clients_gone:
                break
            time.sleep(0.02)
        assert scripted.clients_gone == 1


@pytest.mark.engine
def test_nano_answers_from_a_server_started_for_the_question(build, nano):
    done = kimi_nb("--model", "nano", "--mode", "instant", "--max-tokens", "8", "--json", "hi")
    assert done.returncode == 0, done.stderr
    reply = json.loads(done.stdout)
    assert reply["content"]
    assert reply["usage"]["completion_tokens"] <= 8
    assert reply["meter"]["server"]["predicted_n"] <= 8


@pytest.mark.engine
def test_the_kind_and_the_model_are_asked_of_the_engine(server):
    env = {"REAL_KEY": server.api_key}
    done = kimi_nb(
        "--base-url",
        server.base_url,
        "--api-key-env",
        "REAL_KEY",
        "--mode",
        "instant",
        "--max-tokens",
        "4",
        "--json",
        "hi",
        env=env,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["model"] == "nano"


@pytest.mark.engine
def test_a_server_that_runs_here_is_found_by_its_name(build, nano, tmp_path):
    env = {"KIMI_NB_RUNTIME": str(tmp_path / "run")}
    served = [sys.executable, "-m", "kimi_nb.cli", "serve"]
    assert "KNB538" in kimi_nb("--server", "nobody", "hi", env=env).stderr
    more = {"env": {**os.environ, **env}, "timeout": 120, "capture_output": True}
    subprocess.run([*served, "--model", "nano", "--name", "here", "--detach", "--json"], check=True, **more)
    try:
        done = kimi_nb("--server", "here", "--mode", "instant", "--max-tokens", "4", "--json", "hi", env=env)
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)["content"]
    finally:
        subprocess.run([*served, "stop", "--name", "here"], check=True, **more)
