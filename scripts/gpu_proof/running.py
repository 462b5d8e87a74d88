"""Running llama.cpp's programs for the proof: with part of the GPU taken, and with the settings of a plan."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

from ballast import ballast

from kimi_nb.errors import RehearsalError
from kimi_nb.machine import probe
from kimi_nb.plan import Settings
from kimi_nb.processes import spawn

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from stages import Proof

    from kimi_nb.machine import Machine

__all__ = ["Ran", "fitted", "less_free", "try_to_run"]

_LEAST_FREE_MIB = 1500
_PATIENCE_S = 300.0
_NO_MEMORY = re.compile(r"out of memory|(failed|unable) to allocate|cudaMalloc failed", re.IGNORECASE)


@contextmanager
def less_free(proof: Proof, free_mib: float) -> Iterator[Machine]:
    """Take memory of every GPU until about ``free_mib`` MiB are free, and give the machine as it then is."""
    if not proof.machine.usable_gpus:
        yield proof.machine
        return
    with ExitStack() as held:
        for number, gpu in enumerate(probe().usable_gpus):
            # The process that holds the memory has a CUDA context of its own, which takes some as well.
            held.enter_context(ballast(number, int(gpu.free_mib - max(free_mib, _LEAST_FREE_MIB)) - 500))
        yield probe()


def fitted(proof: Proof, path: Path, ctx_size: int) -> Settings:
    """Return what llama.cpp's own ``--fit`` chooses for a context."""
    out, err, code = _run(proof, "llama-fit-params", ["-m", str(path), "-c", str(ctx_size)])
    line = next((line for line in out.splitlines() if line.startswith("-c ")), None)
    if code or line is None:
        raise RehearsalError("KNB867", "--fit gives no answer", why=err.strip()[-200:], fix="See the log.")
    words = shlex.split(line)
    given = dict(zip(words[::2], words[1::2], strict=True))
    layers = int(given.get("-ngl", "-1"))
    return Settings(
        ctx_size=int(given["-c"]),
        n_gpu_layers=layers if layers >= 0 else 999,
        override_tensor=tuple(given["-ot"].split(",")) if "-ot" in given else None,
        tensor_split=tuple(float(part) for part in given["-ts"].split(",")) if "-ts" in given else None,
    )


class Ran(dict[str, Any]):
    """What became of a trial: ``ran``, ``no_memory``, and the program's last words where it failed."""


def try_to_run(proof: Proof, path: Path, settings: Settings) -> Ran:
    """Load a model, read a prompt of some steps and write a few tokens, with a plan's settings."""
    program = "llama-batched-bench"
    known = set(re.findall(r"(?<!\S)--?[a-z][\w-]*", _run(proof, program, ["--help"])[0]))
    words = ["-m", str(path)]
    for name, knob in Settings.knobs().items():
        value = getattr(settings, name)
        if value is not None and name not in {"parallel", "load_mode", "kv_unified"} and knob.flag in known:
            words += knob.argv(value)
    context, ubatch = settings.ctx_size or 4096, settings.ubatch_size or 512
    prompt = max(min(2 * ubatch, context - 16), 1)
    # The experts are holes: to be read as zeros into real memory, not mapped.
    words += ["--load-mode", "none", "-npp", str(prompt), "-ntg", "4", "-npl", "1"]
    out, err, code = _run(proof, program, words)
    told = out + err
    done = re.search(rf"^\|\s*{prompt} \|\s*4 \|", out, re.MULTILINE) is not None
    return Ran(
        ran=code == 0 and done,
        no_memory=bool(_NO_MEMORY.search(told)),
        code=code,
        last="" if done else " ".join(told.split())[-300:],
    )


def _run(proof: Proof, program: str, words: Sequence[str]) -> tuple[str, str, int]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("LLAMA_")}
    process = spawn(
        [str(proof.build.program(program)), *words],
        env=kept | {"GGML_NO_BACKTRACE": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    with process:
        try:
            out, err = process.communicate(timeout=min(_PATIENCE_S, proof.left_s()))
        except subprocess.TimeoutExpired as error:
            proof.left_s()
            raise RehearsalError(
                "KNB868", f"{program} does not end", why=f"{_PATIENCE_S:.0f} s have passed", fix="Try again."
            ) from error
        finally:
            if process.poll() is None:
                process.kill()
    return out.decode(errors="replace"), err.decode(errors="replace"), process.returncode
