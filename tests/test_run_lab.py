"""`kimi-nb lab` opens the notebooks on 127.0.0.1, behind a token."""

import json
import os
import re
import subprocess
import sys
import time
import urllib.error
import urllib.request

import pytest

from kimi_nb.errors import RunError
from kimi_nb.run.lab import lab_command


@pytest.fixture
def clone(tmp_path):
    (tmp_path / "clone/notebooks").mkdir(parents=True)
    (tmp_path / "clone/notebooks/01_setup.ipynb").write_text("{}")
    (tmp_path / "clone/kimi_nb/run").mkdir(parents=True)
    return tmp_path / "clone"


def test_what_is_passed_on_comes_last_and_no_secret_is_on_the_command_line(clone):
    command, env = lab_command(clone / "notebooks", ["--ServerApp.ip=::1"])
    assert command[-1] == "--ServerApp.ip=::1"
    assert command.index("--ServerApp.ip=127.0.0.1") < len(command) - 1
    assert not any("token" in word for word in command)
    assert env["JUPYTER_PREFER_ENV_PATH"] == "1"


def test_a_home_that_cannot_be_written_is_one_line(clone, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("JUPYTER_RUNTIME_DIR", str(tmp_path / "file/runtime"))
    with pytest.raises(
        RunError, match=r"KNB722: .*file/runtime cannot be written: Not a directory\. Set HOME"
    ):
        lab_command(clone / "notebooks")


def status(url):
    try:
        with urllib.request.urlopen(url, timeout=30) as answer:
            return answer.status
    except urllib.error.HTTPError as error:
        error.close()
        return error.code


@pytest.mark.notebooks
def test_jupyterlab_answers_to_its_token_only(clone, tmp_path):
    env = {
        **os.environ,
        "HOME": str(tmp_path),
        "JUPYTER_CONFIG_DIR": str(tmp_path / "config"),
        "JUPYTER_DATA_DIR": str(tmp_path / "data"),
        "JUPYTER_RUNTIME_DIR": str(tmp_path / "runtime"),
        "IPYTHONDIR": str(tmp_path / "ipython"),
    }
    env.pop("JUPYTER_TOKEN", None)
    command = [
        sys.executable,
        "-m",
        "kimi_nb.cli",
        "lab",
        "--port",
        "0",
        "--no-browser",
        "--",
        "--log-level=INFO",
    ]
    log = tmp_path / "log"
    with log.open("wb") as file:
        process = subprocess.Popen(command, cwd=clone, env=env, stdout=file, stderr=file)
    try:
        end = time.monotonic() + 120
        while not (
            found := re.search(
                r"(http://127\.0\.0\.1:\d+)/lab/tree/01_setup\.ipynb\?token=(\w+)", log.read_text()
            )
        ):
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < end, log.read_text()
            time.sleep(0.2)
        base, token = found.groups()
        assert status(f"{base}/api/contents") == 403
        page = urllib.request.urlopen(f"{base}/lab?token={token}", timeout=30).read().decode()
        disabled = json.loads(re.search(r'"disabledExtensions": (\[[^]]*\])', page)[1])
        assert "@jupyterlab/apputils-extension:announcements" in disabled, "nobody asked for news or updates"
        assert status(f"{base}/api/contents/01_setup.ipynb?content=0&token={token}") == 200
    finally:
        process.terminate()
        process.wait(60)
    # It took the place of our own process, so there is nothing else to end.
    assert process.returncode in {0, -15}
