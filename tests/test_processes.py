"""Programs that we start die with us: real processes, real kills."""

import json
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import psutil
import pytest
from system import alive, gone, wait_until

from kimi_nb.processes import spawn

#: The promise is five seconds; a loaded machine gets a little more before a test calls it a failure.


def python(code: str) -> list[str]:
    return [sys.executable, "-c", textwrap.dedent(code)]


@pytest.fixture
def pids(tmp_path):
    """Where a started program writes process ids; whatever is left of them is killed in the end."""

    class Pids:
        folder = tmp_path / "pids"

        def get(self, name: str) -> int:
            path = self.folder / name
            wait_until(path.exists, f"{name} did not start")
            return int(path.read_text())

    Pids.folder.mkdir()
    yield Pids()
    for path in Pids.folder.iterdir():
        try:
            os.kill(int(path.read_text()), signal.SIGKILL)
        except (ProcessLookupError, ValueError):
            continue


#: Writes its process id to the file NAME, whole or not at all.
NOTE = """
import os, signal, subprocess, sys, time
from pathlib import Path
def note(name):
    path = Path({folder!r}) / name
    path.with_suffix(".new").write_text(str(os.getpid()))
    path.with_suffix(".new").rename(path)
"""


def program(pids, body: str) -> list[str]:
    return [sys.executable, "-c", NOTE.format(folder=str(pids.folder)) + textwrap.dedent(body)]


SLEEPER = "note('command'); time.sleep(300)"
STUBBORN = "signal.signal(signal.SIGTERM, signal.SIG_IGN); note('command'); time.sleep(300)"
#: A command with a child in its own process group, one in a new session, and one orphaned in a new session.
FAMILY = """
def fork(name, then):
    if os.fork() == 0:
        then()
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        note(name)
        time.sleep(300)
        os._exit(0)
def orphan():
    os.setsid()
    if os.fork():
        os._exit(0)
fork('same-group', lambda: None)
fork('new-session', os.setsid)
fork('orphan', orphan)
note('command')
time.sleep(300)
"""


def owner(pids, body: str, command: list[str]) -> subprocess.Popen:
    """Start a Python process that spawns ``command`` the way ``body`` says."""
    text = f"""
    import threading
    from kimi_nb.processes import spawn
    command = {command!r}
    """
    return subprocess.Popen(program(pids, textwrap.dedent(text) + textwrap.dedent(body)))


@pytest.mark.parametrize("code", [0, 1, 3, 127, 255])
def test_the_exit_code_is_the_programs(code):
    with spawn(python(f"raise SystemExit({code})")) as process:
        assert process.wait(30) == code


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGABRT, signal.SIGTERM])
def test_a_death_by_signal_is_told_as_a_shell_tells_it(number):
    with spawn(python(f"import os; os.kill(os.getpid(), {int(number)})")) as process:
        assert process.wait(30) == 128 + number


def test_output_and_environment_reach_the_program(tmp_path):
    with spawn(
        python("import os; print(os.environ['WORD'], os.getcwd())"),
        env={"WORD": "yes"},
        cwd=tmp_path,
        stdout=subprocess.PIPE,
    ) as process:
        output, _ = process.communicate(timeout=30)
    assert output.decode().split() == ["yes", str(tmp_path)]


def test_the_program_inherits_nothing_but_its_standard_streams():
    code = (
        "import os; print(sorted(int(n) for n in os.listdir('/proc/self/fd')), os.getpid() == os.getsid(0))"
    )
    with spawn(python(code), stdout=subprocess.PIPE) as process:
        output, _ = process.communicate(timeout=30)
    assert output.decode() == "[0, 1, 2, 3] True\n"  # 3 is the listing itself


@pytest.mark.parametrize(
    ("make", "error"),
    [
        (lambda folder: folder / "nothing", FileNotFoundError),
        (lambda folder: folder, PermissionError),
        (lambda folder: (folder / "plain").write_text("text") and folder / "plain", PermissionError),
    ],
    ids=["missing", "a folder", "not executable"],
)
def test_what_cannot_be_started_raises_at_once(tmp_path, make, error):
    path = make(tmp_path)
    with pytest.raises(error, match=str(path)):
        spawn([path])


def test_a_missing_working_folder_raises_at_once(tmp_path):
    with pytest.raises(FileNotFoundError):
        spawn(python("pass"), cwd=tmp_path / "nothing")


def test_command_pid_is_the_program_itself(pids):
    with spawn(program(pids, SLEEPER)) as process:
        assert process.command_pid == pids.get("command")
        process.terminate()
        assert process.wait(10) == 128 + signal.SIGTERM


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_signals_are_passed_on_every_time(pids, number):
    """llama-server needs a second SIGTERM while a client is connected, so each one must arrive."""
    body = f"""
    def count(*_):
        global seen
        seen += 1
        note(f'seen-{{seen}}')
        if seen == 3:
            raise SystemExit(42)
    seen = 0
    signal.signal({int(number)}, count)
    note('command')
    while True:
        time.sleep(0.1)
    """
    with spawn(program(pids, body)) as process:
        pids.get("command")
        for time_ in (1, 2, 3):
            process.send_signal(number)
            pids.get(f"seen-{time_}")
        assert process.wait(10) == 42


def test_a_signal_reaches_the_whole_group_as_from_a_terminal(pids):
    """A build tool that is told to stop must not leave its compilers at work."""
    body = """
    child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(300)'])
    note('command')
    print(child.wait(), flush=True)
    """
    with spawn(
        program(pids, "signal.signal(signal.SIGTERM, lambda *_: None)\n" + textwrap.dedent(body)),
        stdout=subprocess.PIPE,
    ) as process:
        pids.get("command")
        process.terminate()
        output, _ = process.communicate(timeout=10)
    assert output == b"-15\n"


def test_kill_takes_everything_even_what_ignores_sigterm(pids):
    with spawn(program(pids, FAMILY)) as process:
        family = [pids.get(name) for name in ("command", "same-group", "new-session", "orphan")]
        process.kill()
        assert process.wait(10) == 128 + signal.SIGKILL
        assert gone(*family)


def test_nothing_that_the_command_left_outlives_it(pids):
    with spawn(program(pids, FAMILY.replace('time.sleep(300)\n"""', ""))) as process:
        family = [pids.get(name) for name in ("command", "same-group", "new-session", "orphan")]
        os.kill(family[0], signal.SIGKILL)
        assert process.wait(10) == 128 + signal.SIGKILL
        assert gone(*family)


def test_a_program_that_keeps_forking_is_brought_down(pids):
    """Each generation starts the next before it dies, which a single look at the process table would miss."""
    body = """
    note('command')
    while True:
        if os.fork():
            os._exit(0)
        os.setsid()
        time.sleep(0.01)
    """
    with spawn(program(pids, body)) as process:
        pids.get("command")
        assert process.wait(20) == 0

    def left() -> list[int]:
        mark = str(pids.folder)
        return [p.pid for p in psutil.process_iter(["cmdline"]) if mark in " ".join(p.info["cmdline"] or [])]

    assert left() == []


@pytest.mark.parametrize("command", [SLEEPER, STUBBORN], ids=["sleeper", "stubborn"])
def test_kill_9_of_the_owner_ends_the_program(pids, command):
    parent = owner(pids, "spawn(command); note('owner'); time.sleep(300)", program(pids, command))
    child = pids.get("command")
    pids.get("owner")
    parent.kill()
    parent.wait()
    assert gone(child)


def test_kill_9_of_the_owner_ends_grandchildren_too(pids):
    parent = owner(pids, "spawn(command); note('owner'); time.sleep(300)", program(pids, FAMILY))
    family = [pids.get(name) for name in ("command", "same-group", "new-session", "orphan")]
    parent.kill()
    parent.wait()
    assert gone(*family)


def test_the_owners_normal_end_ends_the_program(pids):
    parent = owner(pids, "spawn(command); time.sleep(1); os._exit(0)", program(pids, SLEEPER))
    child = pids.get("command")
    parent.wait(20)
    assert gone(child)


def test_a_program_started_by_a_thread_outlives_the_thread_and_dies_with_the_process(pids):
    body = """
    thread = threading.Thread(target=spawn, args=(command,))
    thread.start()
    thread.join()
    note('owner')
    time.sleep(300)
    """
    parent = owner(pids, body, program(pids, SLEEPER))
    child = pids.get("command")
    pids.get("owner")
    time.sleep(1)
    assert alive(child), "it died with the thread that started it"
    parent.kill()
    parent.wait()
    assert gone(child)


def test_a_copy_of_the_owner_made_by_fork_does_not_keep_the_program_alive(pids):
    """multiprocessing forks: the copy holds every descriptor of the owner, which must not count as the owner."""
    body = """
    spawn(command)
    if os.fork() == 0:
        note('copy')
        time.sleep(300)
        os._exit(0)
    note('owner')
    time.sleep(300)
    """
    parent = owner(pids, body, program(pids, SLEEPER))
    child = pids.get("command")
    pids.get("copy")
    pids.get("owner")
    parent.kill()
    parent.wait()
    assert gone(child)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has a parent-death signal")
def test_kill_9_of_the_guardian_ends_the_program_even_without_an_owner(pids):
    body = f"""
    guardian = spawn(command).pid
    (Path({str(pids.folder)!r}) / 'guardian').write_text(str(guardian))
    note('owner')
    time.sleep(300)
    """
    parent = owner(pids, body, program(pids, STUBBORN))
    child = pids.get("command")
    pids.get("owner")
    os.kill(parent.pid, signal.SIGSTOP)  # so that it cannot tidy up
    os.kill(pids.get("guardian"), signal.SIGKILL)
    try:
        assert gone(child)
    finally:
        parent.kill()
        parent.wait()


def test_when_the_guardian_is_killed_the_owner_ends_what_is_left_of_the_group(pids):
    body = """
    if os.fork() == 0:
        note('same-group')
        time.sleep(300)
    note('command')
    time.sleep(300)
    """
    with spawn(program(pids, body)) as process:
        family = [pids.get("command"), pids.get("same-group")]
        os.kill(process.pid, signal.SIGKILL)
        assert process.wait(10) == -signal.SIGKILL
        assert gone(*family)


def test_owner_guardian_and_program_stopped_and_killed_in_any_order(pids):
    """A stopped process cannot react, and yet its group must go."""
    parent = owner(pids, "spawn(command); note('owner'); time.sleep(300)", program(pids, SLEEPER))
    child = pids.get("command")
    pids.get("owner")
    os.kill(child, signal.SIGSTOP)
    parent.kill()
    parent.wait()
    assert gone(child)


def test_many_threads_at_once(pids):
    """A descriptor that leaks from one start into another would keep a report open and block here."""
    results = []

    def one():
        with spawn(python("raise SystemExit(7)")) as process:
            results.append(process.wait(60))

    threads = [threading.Thread(target=one) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(90)
    assert results == [7] * 16


def test_nested_guardians_all_go(pids):
    """papermill under a guardian runs a kernel that starts a server under a guardian of its own."""
    inner = program(pids, SLEEPER)
    middle = program(
        pids, f"from kimi_nb.processes import spawn\nspawn({inner!r})\nnote('middle')\ntime.sleep(300)"
    )
    with spawn(middle) as process:
        family = [pids.get("middle"), pids.get("command")]
        os.kill(family[0], signal.SIGKILL)
        assert process.wait(10) == 128 + signal.SIGKILL
        assert gone(*family)


def test_a_detached_program_is_spared_and_its_own_children_are_not(pids):
    """``kimi-nb serve --detach`` from a notebook must survive the notebook, and still own its llama-server."""
    inner = program(pids, SLEEPER)
    detached = program(
        pids, f"from kimi_nb.processes import spawn\nspawn({inner!r})\nnote('detached')\ntime.sleep(300)"
    )
    body = f"""
    subprocess.Popen({detached!r}, env=dict(os.environ, KIMI_NB_DETACHED='one'), start_new_session=True)
    note('starter')
    time.sleep(300)
    """
    with spawn(program(pids, body)) as process:
        server, below = pids.get("detached"), pids.get("command")
        process.kill()
        process.wait(10)
        time.sleep(0.5)
        assert alive(server)
        assert alive(below)
    os.kill(server, signal.SIGKILL)
    assert gone(server, below)


@pytest.mark.skipif(not Path("/proc/self/oom_score_adj").exists(), reason="Linux only")
def test_the_kernel_would_take_the_program_before_its_owner():
    with spawn(python("print(open('/proc/self/oom_score_adj').read())"), stdout=subprocess.PIPE) as process:
        output, _ = process.communicate(timeout=30)
    assert int(output) > int(Path("/proc/self/oom_score_adj").read_text())


def test_an_idle_guardian_costs_no_processor_time(pids):
    with spawn(program(pids, SLEEPER)) as process:
        pids.get("command")
        before = sum(psutil.Process(process.pid).cpu_times()[:2])
        time.sleep(2)
        used = sum(psutil.Process(process.pid).cpu_times()[:2]) - before
        process.kill()
        process.wait(10)
    assert used <= 0.1


def test_a_papermill_like_chain_with_a_real_kernel(pids):
    """kill -9 of a notebook kernel: its programs go, whatever thread or cell started them."""
    from jupyter_client.manager import start_new_kernel

    manager, client = start_new_kernel(kernel_name="python3")
    try:
        command = program(pids, SLEEPER)
        client.execute_interactive(
            f"from kimi_nb.processes import spawn; server = spawn({command!r})", timeout=60
        )
        child = pids.get("command")
        manager.interrupt_kernel()  # Ctrl-C in a notebook must not reach it
        time.sleep(0.5)
        assert alive(child)
        os.kill(manager.provisioner.pid, signal.SIGKILL)
        assert gone(child)
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)
        manager.cleanup_resources()


def test_the_guardian_imports_nothing_of_this_package():
    """It runs with -I -S: an import from here would fail only when it matters."""
    guardian = Path(spawn.__code__.co_filename).with_name("guardian.py")
    code = f"""
    import json, runpy, sys
    runpy.run_path({str(guardian)!r})
    print(json.dumps([name for name in sys.modules if name.startswith('kimi')]))
    """
    command = [sys.executable, "-I", "-S", "-c", textwrap.dedent(code)]
    check = subprocess.run(command, capture_output=True, check=True, timeout=30)
    assert json.loads(check.stdout) == []
