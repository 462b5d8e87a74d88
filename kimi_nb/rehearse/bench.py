"""llama-bench, run with our settings and watched: what it measures, row by row, as it comes."""

from __future__ import annotations

import json
import os
import queue
import subprocess
import tempfile
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from kimi_nb.errors import RehearsalError
from kimi_nb.processes import spawn

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator, Sequence
    from pathlib import Path
    from typing import IO

    from kimi_nb.engine import Build
    from kimi_nb.plan.settings import Settings

__all__ = ["BenchRow", "BenchTests", "bench_argv", "run_bench"]

_ALL_LAYERS = 999
_POLL_S = 0.1
_QUIET_S = 600.0
"""Longest silence before llama-bench counts as hung, where no deadline is given."""


@dataclass(frozen=True, kw_only=True)
class BenchTests:
    """What llama-bench is to measure: each prompt and each write, with each number of threads.

    Attributes:
        threads: Processor threads.
        prompts: Tests that read so many tokens, in steps of ``ubatch_size``.
        writes: Tests that write so many tokens, one by one.
        depth: Tokens in the cache before each test.
        repetitions: Samples of each test.
    """

    threads: tuple[int, ...]
    prompts: tuple[int, ...] = ()
    writes: tuple[int, ...] = ()
    depth: int = 0
    repetitions: int = 5


@dataclass(frozen=True)
class BenchRow:
    """One test of llama-bench.

    Attributes:
        threads: Processor threads.
        prompt_tokens: Tokens read in one sample; 0 where it wrote.
        written_tokens: Tokens written in one sample; 0 where it read.
        depth: Tokens in the cache before.
        samples_ms: Milliseconds of each sample.
    """

    threads: int
    prompt_tokens: int
    written_tokens: int
    depth: int
    samples_ms: tuple[float, ...]


def bench_argv(settings: Settings) -> list[str]:
    """Return the settings as llama-bench's arguments, whose options differ from llama-server's.

    What only a server has (slots, context size, templates) is left out; threads are given to each test.
    """
    s = settings
    layers = s.n_gpu_layers if isinstance(s.n_gpu_layers, int) else _ALL_LAYERS
    pairs: list[tuple[str, Any]] = [
        ("-ngl", layers),
        ("-ncmoe", _ALL_LAYERS if s.cpu_moe else s.n_cpu_moe),
        ("-ot", ";".join(s.override_tensor) if s.override_tensor else None),
        ("-ctk", s.cache_type_k),
        ("-ctv", s.cache_type_v),
        ("-fa", s.flash_attn),
        ("-b", s.batch_size),
        ("-ub", s.ubatch_size),
        ("-sm", s.split_mode),
        ("-ts", "/".join(f"{share:g}" for share in s.tensor_split) if s.tensor_split else None),
        ("-mg", s.main_gpu),
        ("-dev", s.device.replace(",", "/") if s.device else None),
        ("-nkvo", None if s.kv_offload is None else int(not s.kv_offload)),
        ("-nopo", None if s.op_offload is None else int(not s.op_offload)),
        ("-lm", s.load_mode),
        ("-lzm", s.lazy_mode),
        ("--repack", None if s.repack is None else int(s.repack)),
        ("--no-host", None if s.no_host is None else int(s.no_host)),
        ("--numa", s.numa),
        ("--prio", s.prio),
        ("--poll", s.poll),
    ]
    return [word for flag, value in pairs if value is not None for word in (flag, str(value))]


def run_bench(
    build: Build,
    path: Path,
    settings: Settings,
    tests: BenchTests,
    *,
    deadline: float | None = None,
    cancelled: Callable[[], bool] | None = None,
) -> Generator[BenchRow, None, None]:
    """Run llama-bench on a file and yield each test's row when it is done.

    The program ends with this generator, and with this process.

    Args:
        build: Whose llama-bench.
        path: The GGUF file.
        settings: How it is run; threads are those of the tests.
        tests: What is measured.
        deadline: Of :func:`time.monotonic`; what is not done by then is left out.
        cancelled: Asked now and then; once it says yes, llama-bench is ended.

    Raises:
        RehearsalError: It cannot be started, or fails (KNB844); it says nothing for ten minutes (KNB845).
    """
    argv: list[str | os.PathLike[str]] = [
        build.program("llama-bench"),
        *("-m", path, "-o", "jsonl", "-r", str(tests.repetitions), "-d", str(tests.depth)),
        *("-p", _listed(tests.prompts), "-n", _listed(tests.writes), "-t", _listed(tests.threads)),
        *bench_argv(settings),
    ]
    with tempfile.TemporaryFile() as complaints:
        try:
            process = spawn(argv, env=_environment(), stdout=subprocess.PIPE, stderr=complaints)
        except OSError as error:
            raise _failed(error.strerror or str(error)) from error
        try:
            yield from _rows(process, deadline, cancelled)
            if process.poll() is not None and process.returncode:
                raise _failed(_last_words(complaints, process.returncode))
        finally:
            process.kill()
            process.wait()
            if process.stdout is not None:
                process.stdout.close()


def _listed(numbers: Sequence[int]) -> str:
    return ",".join(str(number) for number in numbers) or "0"


def _environment() -> dict[str, str]:
    """Return our environment without the variables that would change llama.cpp's settings."""
    return {name: value for name, value in os.environ.items() if not name.startswith("LLAMA_ARG_")}


def _rows(
    process: subprocess.Popen[bytes], deadline: float | None, cancelled: Callable[[], bool] | None
) -> Iterator[BenchRow]:
    lines: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
    if process.stdout is None:
        raise AssertionError("it was started with a pipe")
    reader = threading.Thread(target=_read_lines, args=(process.stdout, lines), daemon=True)
    reader.start()
    heard = time.monotonic()
    while True:
        try:
            line = lines.get(timeout=_POLL_S)
        except queue.Empty:
            now = time.monotonic()
            if (deadline is not None and now > deadline) or (cancelled is not None and cancelled()):
                return
            if deadline is None and now - heard > _QUIET_S:
                raise RehearsalError(
                    "KNB845",
                    "llama-bench says nothing",
                    why=f"one measurement has taken more than {_QUIET_S:.0f} seconds",
                    fix="Give a time budget with --budget, or see what else keeps this machine busy.",
                ) from None
            continue
        if line is None:
            process.wait()
            return
        heard = time.monotonic()
        yield _row(line)


def _read_lines(stream: IO[bytes], lines: queue.SimpleQueue[bytes | None]) -> None:
    try:
        for line in stream:
            if line.strip():
                lines.put(line)
    except (OSError, ValueError):
        pass  # closed under us, when the program was ended
    lines.put(None)


def _row(line: bytes) -> BenchRow:
    try:
        told = json.loads(line)
        return BenchRow(
            threads=int(told["n_threads"]),
            prompt_tokens=int(told["n_prompt"]),
            written_tokens=int(told["n_gen"]),
            depth=int(told["n_depth"]),
            samples_ms=tuple(int(ns) / 1e6 for ns in told["samples_ns"]),
        )
    except (ValueError, KeyError, TypeError) as error:
        raise _failed(f"it printed {line[:80]!r}") from error


def _last_words(complaints: IO[bytes], code: int) -> str:
    complaints.seek(0, os.SEEK_END)
    complaints.seek(max(complaints.tell() - 4000, 0))
    lines = [line.strip() for line in complaints.read().decode("utf-8", "replace").splitlines()]
    telling = [line for line in lines if "error" in line.lower() or "failed" in line.lower()]
    said = (telling or [line for line in lines if line] or ["nothing"])[0]
    return f"it ended with code {code} and said: {said[:200]}"


def _failed(why: str) -> RehearsalError:
    return RehearsalError(
        "KNB844",
        "llama-bench could not measure",
        why=why,
        fix="Where memory is short, close other programs; else run `kimi-nb build` again.",
    )
