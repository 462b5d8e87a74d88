"""A build that is interrupted leaves no process behind, and the next call continues; two at once do not clash."""

import os
import re
import signal
import threading
import time

import pytest
from build_tree import VERSION, at_work, log_of, make_tree, start, start_build
from system import wait_until

from kimi_nb.engine import ensure_build, find_build

FILES = 11


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    folder = tmp_path / "cache"
    monkeypatch.setenv("KIMI_NB_CACHE", str(folder))
    monkeypatch.delenv("KIMI_NB_LLAMA_CPP", raising=False)
    return folder


@pytest.fixture
def tree(tmp_path):
    return make_tree(tmp_path / "tree", seconds_each=0.4)


def compiled(cache) -> int:
    return log_of(cache).count("Building CXX object")


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_killed_while_compiling(number, tree, cache):
    process = start_build(tree, cache, "--jobs", "2")
    wait_until(lambda: compiled(cache) >= 4)
    assert at_work(cache)
    process.send_signal(number)
    text, _ = process.communicate(timeout=30)
    assert process.returncode != 0
    wait_until(lambda: not at_work(cache))
    if number == signal.SIGINT:
        assert process.returncode == 130
        assert text.strip().splitlines()[-1].startswith("kimi-nb: interrupted")
    assert find_build(backend="cpu", source=tree) is None
    assert list(cache.glob("engine/builds/*")) == []
    done_before = compiled(cache) - 2  # at most two were under way

    build = ensure_build(backend="cpu", source=tree)
    assert build.version == VERSION
    assert build.manifest["continued"]
    assert compiled(cache) <= FILES - done_before  # the log is that of the last run only


def test_killed_while_configuring(tree, cache):
    process = start_build(tree, cache)
    wait_until(lambda: list(cache.glob("engine/work/*/build/CMakeFiles")))
    process.kill()
    process.communicate(timeout=30)
    wait_until(lambda: not at_work(cache))
    assert ensure_build(backend="cpu", source=tree).version == VERSION


def test_killed_at_any_moment_and_continued_at_once(tree, cache):
    """Ten owners die one after the other without a pause; none leaves what confuses the next."""
    for turn in range(10):
        process = start_build(tree, cache)
        try:
            process.communicate(timeout=0.8 + 0.17 * turn)
        except TimeoutError:
            pytest.fail("communicate raises its own kind")
        except Exception:  # noqa: BLE001 - subprocess.TimeoutExpired: time to kill it
            process.kill()
            process.communicate(timeout=30)
    build = ensure_build(backend="cpu", source=tree)
    assert build.version == VERSION
    assert list(cache.glob("engine/builds/.*")) == []
    wait_until(lambda: not at_work(cache))


def test_two_at_once_make_one_build(tree, cache):
    first = start_build(tree, cache)
    wait_until(lambda: compiled(cache) >= 1)
    second = start_build(tree, cache)
    outputs = [process.communicate(timeout=120)[0] for process in (first, second)]
    assert [first.returncode, second.returncode] == [0, 0], outputs
    assert "another process is building llama.cpp; waiting" in outputs[1]
    assert "starting" not in outputs[1]
    assert compiled(cache) == FILES
    assert len(list(cache.glob("engine/builds/*"))) == 1


def test_the_waiting_one_takes_over_when_the_first_is_killed(tree, cache):
    first = start_build(tree, cache)
    wait_until(lambda: compiled(cache) >= 2)
    second = start_build(tree, cache)
    line = wait_until(second.stdout.readline)
    assert "waiting" in line
    first.kill()
    first.communicate(timeout=30)
    text, _ = second.communicate(timeout=120)
    assert second.returncode == 0, text
    assert "continuing" in text


def test_two_threads_of_one_process_make_one_build(tree, cache):
    made = []
    threads = [
        threading.Thread(target=lambda: made.append(ensure_build(backend="cpu", source=tree)))
        for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert [build.version for build in made] == [VERSION, VERSION]
    assert compiled(cache) == FILES


def test_an_error_in_the_progress_listener_stops_the_compilers(tree, cache):
    def listener(text, done):
        if done is not None and done > 0.2:
            raise RuntimeError("the widget is gone")

    with pytest.raises(RuntimeError, match="widget"):
        ensure_build(backend="cpu", source=tree, progress=listener)
    wait_until(lambda: not at_work(cache))
    assert ensure_build(backend="cpu", source=tree).version == VERSION


def test_a_stopped_kernel_takes_its_compilers_along(tree, cache):
    """A notebook's kernel is killed while a thread of it builds."""
    process = start(
        f"""
        import threading, time
        from pathlib import Path
        from kimi_nb.engine import ensure_build
        threading.Thread(target=ensure_build, kwargs=dict(backend="cpu", source=Path({str(tree)!r}))).start()
        time.sleep(60)
        """,
        cache,
    )
    wait_until(lambda: compiled(cache) >= 3)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate(timeout=30)
    wait_until(lambda: not at_work(cache))


def test_progress_tells_the_time_left(tree):
    said = []
    started = time.monotonic()
    ensure_build(backend="cpu", source=tree, jobs=1, progress=lambda text, done: said.append((text, done)))
    passed = time.monotonic() - started
    left = [re.search(r"about (\d+) s left", text) for text, _ in said]
    seconds = [int(match[1]) for match in left if match]
    assert seconds
    assert all(0 <= number <= passed for number in seconds)
