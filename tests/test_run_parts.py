"""The parts of a run that need no kernel: what is secret, what memory was used, what an ending means."""

import os
import subprocess
import sys

import pytest

import kimi_nb.run
from kimi_nb.run.headless import _signals
from kimi_nb.run.memory import PeakMemory, oom_kills
from kimi_nb.run.one import Job, _Course, _judge
from kimi_nb.run.secrets import Secrets, looks_secret


@pytest.mark.parametrize(
    "name",
    [
        "HF_TOKEN",
        "OPENAI_API_KEY",
        "MOONSHOT_API_KEY",
        "AWS_SECRET_ACCESS_KEY",
        "apikey",
        "api_key",
        "DB_PASSWORD",
        "GITHUB_PAT",
        "secret",
        "token",
    ],
)
def test_names_of_secrets(name):
    assert looks_secret(name)


@pytest.mark.parametrize(
    "name",
    [
        "max_tokens",
        "PWD",
        "OLDPWD",
        "PATH",
        "SSH_AUTH_SOCK",
        "api_key_env",
        "key_file",
        "HF_TOKEN_PATH",
        "monkeys",
        "n_keys",
        "HOME",
        "tokenizer",
    ],
)
def test_names_that_only_sound_like_it(name):
    assert not looks_secret(name)


def test_secrets_are_masked_however_they_are_written():
    secrets = Secrets(environment={"A_TOKEN": "ab/cd+ef'gh\"12", "SHORT_KEY": "abc", "MODE": "ab/cd+ef"})
    for form in ("ab/cd+ef'gh\"12", "ab%2Fcd%2Bef%27gh%2212", "ab/cd+ef'gh\\\"12"):
        assert secrets.mask(f"x{form}y") == "x[masked: A_TOKEN]y"
    assert secrets.found == 3
    assert secrets.mask("abc ab/cd+ef") == "abc ab/cd+ef"
    assert secrets.mask_tree({"k": ["ab/cd+ef'gh\"12", 1, None]}) == {"k": ["[masked: A_TOKEN]", 1, None]}


def test_a_secret_that_contains_another_is_replaced_whole():
    secrets = Secrets(environment={"A_KEY": "12345678", "B_KEY": "1234567890"})
    assert secrets.mask("1234567890 12345678") == "[masked: B_KEY] [masked: A_KEY]"


def test_keys_of_a_known_shape_are_masked_without_knowing_them():
    secrets = Secrets(environment={})
    assert secrets.mask("hf_" + "a1" * 17) == "[masked: a key]"
    assert secrets.mask("sk-" + "a1" * 24) == "[masked: a key]"
    assert secrets.mask("sk-learn hf_hub_download") == "sk-learn hf_hub_download"


def test_the_stored_hub_token_is_a_secret(tmp_path, monkeypatch):
    (tmp_path / "token").write_text("abcdefgh-stored\n")
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    monkeypatch.delenv("HF_TOKEN_PATH", raising=False)
    assert Secrets().mask("abcdefgh-stored") == "[masked: Hugging Face token]"


def test_parameters_with_secret_names_lose_even_short_values():
    masked = Secrets(environment={}).mask_parameters({"api_key": "abc", "token": "", "ctx": 1, "text": "abc"})
    assert masked == {"api_key": "[masked]", "token": "", "ctx": 1, "text": "abc"}


def tree(root, files):
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    return root


def test_oom_kills_in_version_2_of_control_groups(tmp_path):
    root = tree(
        tmp_path,
        {
            "proc/self/cgroup": "0::/user.slice/a.scope\n",
            "sys/fs/cgroup/user.slice/a.scope/memory.events": "low 0\nhigh 0\nmax 9\noom 1\noom_kill 2\noom_group_kill 0\n",
        },
    )
    assert oom_kills(root) == 2


def test_oom_kills_inside_a_container_that_sees_its_group_as_the_top(tmp_path):
    root = tree(
        tmp_path, {"proc/self/cgroup": "0::/docker/x\n", "sys/fs/cgroup/memory.events": "oom_kill 3\n"}
    )
    assert oom_kills(root) == 3


def test_oom_kills_in_version_1_of_control_groups(tmp_path):
    root = tree(
        tmp_path,
        {
            "proc/self/cgroup": "8:pids:/\n4:memory:/a/b\n0::/\n",
            "sys/fs/cgroup/memory/a/b/memory.oom_control": "oom_kill_disable 0\nunder_oom 0\noom_kill 4\n",
            "proc/vmstat": "oom_kill 99\n",
        },
    )
    assert oom_kills(root) == 4


def test_oom_kills_without_a_group_are_the_machines(tmp_path):
    assert oom_kills(tree(tmp_path, {"proc/vmstat": "pgfault 1\noom_kill 5\n"})) == 5
    assert oom_kills(tmp_path / "nothing") is None


def test_peak_memory_of_a_process_and_of_what_it_started():
    program = (
        "import subprocess, sys\n"
        "x = b'x' * (100 << 20)\n"
        "child = subprocess.Popen([sys.executable, '-c', 'x = b\"x\" * (100 << 20); print(1, flush=True); input()'],"
        " stdin=subprocess.PIPE, stdout=subprocess.PIPE)\n"
        "child.stdout.readline()\nprint(1, flush=True)\ninput()\nchild.communicate(b'\\n')\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        process.stdout.readline()
        peak = PeakMemory(process.pid)
        peak.stop()
        process.communicate(b"\n")
    assert 100 <= peak.process_mib < 180
    assert 200 <= peak.tree_mib < 360


def test_peak_memory_of_a_process_that_is_gone_is_unknown():
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    peak = PeakMemory(process.pid)
    peak.stop()
    assert (peak.process_mib, peak.tree_mib) == (None, None)


def judged(course, *, killed=0, stop=()):
    return _judge(Job(None, "x", {}, "x", 1, 1.0, 1), course, killed, stop)


def test_a_kernel_killed_for_want_of_memory_is_told_so():
    dead = {
        "status": "failed",
        "id": "KNB713",
        "class": "DeadKernelError",
        "message": "killed",
        "kernel_signal": "SIGKILL",
    }
    _, error = judged(_Course(result=dead), killed=1)
    assert "memory ran out" in error.message
    assert "oom_kill) acted once" in error.message
    _, error = judged(_Course(result=dead), killed=0)
    assert "did not move" in error.message
    _, error = judged(_Course(result=dead), killed=None)
    assert error.message.endswith("most often that means memory ran out")


def test_a_worker_killed_for_want_of_memory_has_failed():
    status, error = judged(_Course(code=137), killed=2)
    assert (status, error.id, error.kind) == ("failed", "KNB718", "OutOfMemory")
    assert "acted 2 times" in error.message


def test_a_worker_that_ends_without_a_word_has_failed():
    status, error = judged(_Course(code=1))
    assert (status, error.id) == ("failed", "KNB718")
    assert "exit code 1" in error.message


def test_a_result_that_came_before_the_interrupt_stands():
    status, error = judged(_Course(result={"status": "succeeded"}), stop=["SIGINT"])
    assert (status, error) == ("succeeded", None)


def test_events_are_read_whole_however_they_arrive():
    course = _Course()
    data = b'{"event": "cell", "cell": 0, "line": "x = 1"}\n{"event": "result", "status": "succeeded"}\n'
    for at in range(len(data)):
        course.take(data[at : at + 1])
    assert (course.cell, course.line, course.cells_begun) == (0, "x = 1", 1)
    assert course.result == {"status": "succeeded"}


def test_signals_are_collected_and_given_back():
    import signal

    before = signal.getsignal(signal.SIGTERM)
    with _signals() as stop:
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGINT)
        assert stop == ["SIGTERM", "SIGINT"]
    assert signal.getsignal(signal.SIGTERM) is before


def test_the_packages_public_names_are_there_and_importing_it_loads_nothing_heavy():
    for name in kimi_nb.run.__all__:
        assert getattr(kimi_nb.run, name) is not None
    assert dir(kimi_nb.run) == sorted(kimi_nb.run.__all__)
    with pytest.raises(AttributeError, match="nonsense"):
        kimi_nb.run.nonsense  # noqa: B018 - the access is the test
    program = (
        "import sys, kimi_nb.run, kimi_nb.run.headless, kimi_nb.run.params, kimi_nb.commands.run, kimi_nb.commands.lab\n"
        "print([m for m in ('papermill', 'nbformat', 'nbconvert', 'psutil', 'plotly', 'jupyter_client') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
