"""Memory runs out: the kernel's out-of-memory killer at work on a real llama-server in a control group with a limit.

Where no control group can be made (not root, a read-only mount), the kernel is played: its count is a file that goes
up, and its killing is a signal 9. The test then says so on the terminal, since that is less.
"""

import os
import signal
import subprocess
import sys
import textwrap
import time
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

import pytest

from kimi_nb.engine import LlamaServer, server_process
from kimi_nb.engine.out_of_memory import OutOfMemoryWatch
from kimi_nb.errors import ServerError
from kimi_nb.plan import Settings

pytestmark = pytest.mark.engine

LIMIT_MIB = 400
MOUNT = Path("/sys/fs/cgroup")

# The owner is in the group too, as a notebook in a container is. The context is what does not fit.
OWNER = """
    import json, os, sys
    from pathlib import Path
    Path(sys.argv[1], "cgroup.procs").write_text(str(os.getpid()))
    from kimi_nb.engine import LlamaServer
    from kimi_nb.errors import KimiNbError
    from kimi_nb.plan import Settings
    settings = Settings(ctx_size=int(sys.argv[3]), parallel=1, threads=1, cache_ram=0)
    server = LlamaServer(sys.argv[2], settings=settings, log_path=Path(sys.argv[4]))
    told = {}
    try:
        server.start()
    except KimiNbError as error:
        told = {"id": error.id, "text": str(error)}
    told |= {"state": server.state, "pid": server.pid}
    server.stop()
    print(json.dumps(told | {"after": server.state}), flush=True)
"""


def group_folder():
    """Where a group may be made, and the name of its limit: version 2, version 1, or the reason why not."""
    if not sys.platform.startswith("linux"):
        return None, "this system has no control groups"
    if "memory" in _words(MOUNT / "cgroup.controllers"):
        if "memory" not in _words(MOUNT / "cgroup.subtree_control"):
            with suppress(OSError):
                (MOUNT / "cgroup.subtree_control").write_text("+memory")
        return MOUNT, "memory.max"
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, kinds, path = line.split(":", 2)
        if "memory" in kinds.split(","):
            own = MOUNT / "memory" / path.lstrip("/")
            return own if own.is_dir() else MOUNT / "memory", "memory.limit_in_bytes"
    return None, "there is no memory controller"


def _words(path):
    try:
        return path.read_text().split()
    except OSError:
        return []


@contextmanager
def limited_group(mib):
    """A control group with a limit, or the reason why there is none."""
    parent, name = group_folder()
    if parent is None:
        yield None, name
        return
    group = parent / f"kimi-nb-test-{os.getpid()}"
    try:
        group.mkdir()
        (group / name).write_text(str(mib * 2**20))
        with suppress(OSError):
            (group / "memory.swap.max").write_text("0")
    except OSError as error:
        with suppress(OSError):
            group.rmdir()
        yield None, str(error)
        return
    try:
        yield group, ""
    finally:
        for _ in range(100):  # it is busy until its last process is gone for good
            with suppress(OSError):
                group.rmdir()
                break
            time.sleep(0.05)
        assert not group.exists()


def played_kernel(tmp_path, monkeypatch):
    """Files as the kernel's, for the supervisor to look at; returns what raises the count."""
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/self/cgroup").write_text("0::/box\n")
    events = tmp_path / "sys/fs/cgroup/box/memory.events"
    events.parent.mkdir(parents=True)
    events.write_text("low 0\noom 0\noom_kill 0\n")
    monkeypatch.setattr(server_process, "OutOfMemoryWatch", partial(OutOfMemoryWatch, root=tmp_path))
    return lambda: events.write_text("low 0\noom 1\noom_kill 1\n")


def says_out_of_memory(text):
    assert "KNB513: llama-server was killed while" in text
    assert "the kernel's out-of-memory killer ended it, because its memory limit was reached" in text
    assert "smaller ctx_size" in text


def test_a_model_that_does_not_fit_into_its_control_group(nano, tmp_path, capsys):
    import json

    with limited_group(LIMIT_MIB) as (group, why):
        if group is None:
            with capsys.disabled():
                print(
                    f"\nNO CONTROL GROUP CAN BE MADE HERE ({why}): THE KERNEL'S OWN KILLER IS NOT TRIED, ONLY PLAYED"
                )
            return  # the test below has played it

        def run(ctx):
            words = [sys.executable, "-c", textwrap.dedent(OWNER), group, nano, ctx, tmp_path / "server.log"]
            done = subprocess.run(
                list(map(str, words)), capture_output=True, text=True, check=False, timeout=120
            )
            assert done.returncode == 0, done.stderr
            return json.loads(done.stdout)

        fits = run(2048)
        assert fits == {"state": "ready", "pid": fits["pid"], "after": "stopped"}
        told = run(1_000_000)
        assert (told["state"], told["pid"], told["after"]) == ("failed", None, "stopped")
        says_out_of_memory(told["text"])


def test_the_killer_comes_while_it_runs(build, nano, tmp_path, monkeypatch):
    killed = played_kernel(tmp_path, monkeypatch)
    settings = Settings(ctx_size=2048, parallel=1, threads=1, cache_ram=0)
    server = LlamaServer(nano, build=build, settings=settings, log_path=tmp_path / "server.log").start()
    try:
        killed()
        os.kill(server.pid, signal.SIGKILL)
        assert server.wait(10) == "failed"
        says_out_of_memory(str(server.error))
        with pytest.raises(ServerError, match=r"KNB533.*out-of-memory killer"):
            server.slots()
    finally:
        server.stop()


def test_the_killer_comes_while_it_loads(build, nano, tmp_path, monkeypatch):
    from dataclasses import replace

    killed = played_kernel(tmp_path, monkeypatch)
    folder = tmp_path / "bin"
    folder.mkdir()
    program = folder / "llama-server"
    program.write_text("#!/bin/sh\necho loading\nsleep 1\nkill -9 $$\n")
    program.chmod(0o755)
    server = LlamaServer(
        nano,
        build=replace(build, bin=folder),
        log_path=tmp_path / "server.log",
        on_progress=lambda *_: killed(),
    )
    with pytest.raises(ServerError) as caught:
        server.start()
    says_out_of_memory(str(caught.value))
    assert server.state == "failed"
    server.stop()
