"""The real llama-fit-params beside our figures: on a ghost, llama.cpp's allocator says what a model takes."""

from __future__ import annotations

import os
import re
import subprocess
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from kimi_nb.engine.secrets_out import without_secrets
from kimi_nb.errors import RehearsalError, UsageError
from kimi_nb.plan import demands
from kimi_nb.plan.memory_verdict import rooms
from kimi_nb.processes import spawn
from kimi_nb.rehearse.ghost import ghost_of

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from kimi_nb.engine import Build
    from kimi_nb.machine import Machine
    from kimi_nb.model import Model
    from kimi_nb.plan import Demand, Settings

__all__ = ["LLAMA_CPP_KNOWS", "Compared", "Verified", "ask_llama_cpp", "llama_cpp_devices", "verify"]

#: The settings that llama-fit-params knows and memory depends on. ``repack`` is always off: with it the tool
#: leaves out what it repacks.
LLAMA_CPP_KNOWS = (
    "ctx_size",
    "parallel",
    "n_gpu_layers",
    "n_cpu_moe",
    "cpu_moe",
    "override_tensor",
    "cache_type_k",
    "cache_type_v",
    "flash_attn",
    "batch_size",
    "ubatch_size",
    "split_mode",
    "tensor_split",
    "main_gpu",
    "device",
    "kv_offload",
    "op_offload",
    "no_host",
    "threads",
    "threads_batch",
)
_LEFT_OUT = ("kv_unified",)
_PATIENCE_S = 120.0
_NEAR = 0.05  # CUDA leaves out what the driver keeps for itself: 2.6 % of a card of 8 GB
_TOLERANCE_MIB = (1, 1, 2)  # model, context, compute: what the closed form promises
_MOST_CTX = 1 << 24  # the tool keeps a record of each token of context, in real memory
_TELLING = re.compile(r"^[\d.]+ E (.+)|^(error .+)|^(.*GGML_ASSERT.+)", re.MULTILINE)
_LINE = re.compile(r"^(\S+) (\d+) (\d+) (\d+) ?$", re.MULTILINE)
_DEVICE = re.compile(r"^  (\S+): .*\((\d+) MiB, (\d+) MiB free\)$", re.MULTILINE)


@dataclass(frozen=True, kw_only=True)
class Compared:
    """One device's MiB of model, context and compute: llama.cpp's, ours, and ours less llama.cpp's.

    Attributes:
        name: ``GPU0`` and so on, or ``Host``.
        llama_cpp_name: llama.cpp's name for it.
        llama_cpp: As ``llama-fit-params -nr -fitp on`` prints them.
        ours: From the closed form.
    """

    name: str
    llama_cpp_name: str
    llama_cpp: tuple[int, int, int]
    ours: tuple[int, int, int]

    @property
    def difference(self) -> tuple[int, int, int]:
        """Ours less llama.cpp's."""
        model, context, compute = (a - b for a, b in zip(self.ours, self.llama_cpp, strict=True))
        return model, context, compute

    @property
    def agrees(self) -> bool:
        """Whether model and context are within 1 MiB, and compute within 2."""
        return all(abs(d) <= most for d, most in zip(self.difference, _TOLERANCE_MIB, strict=True))

    def as_dict(self) -> dict[str, Any]:
        """Return what ``--json`` prints."""
        parts = ("model_mib", "context_mib", "compute_mib")
        return {
            "name": self.name,
            "llama_cpp_name": self.llama_cpp_name,
            **dict(zip(parts, self.llama_cpp, strict=True)),
            "ours": dict(zip(parts, self.ours, strict=True)),
            "difference": dict(zip(parts, self.difference, strict=True)),
        }


@dataclass(frozen=True, kw_only=True)
class Verified:
    """llama.cpp's own answer beside ours.

    Attributes:
        devices: The GPUs in use.
        host: The host.
        seconds: What llama-fit-params took.
        llama_cpp: The build's version and commit.
        left_out: Settings that were set and that the tool does not know; both answers are without them.
    """

    devices: tuple[Compared, ...]
    host: Compared
    seconds: float
    llama_cpp: str
    left_out: tuple[str, ...]

    @property
    def agrees(self) -> bool:
        """Whether all figures are within what the closed form promises."""
        return all(one.agrees for one in (*self.devices, self.host))

    def as_dict(self) -> dict[str, Any]:
        """Return what ``--json`` prints; the plain figures are llama.cpp's."""
        return {
            "agrees": self.agrees,
            "devices": [one.as_dict() for one in self.devices],
            "host": self.host.as_dict(),
            "seconds": round(self.seconds, 3),
            "llama_cpp": self.llama_cpp,
            "left_out": list(self.left_out),
        }


def verify(model: Model, settings: Settings, machine: Machine, build: Build) -> Verified:
    """Ask the real llama-fit-params what a model takes, and set its answer beside ours.

    Args:
        model: The model, from its headers; its weights need not be here.
        settings: How it is run.
        machine: Where: it must be this machine, as far as GPUs go.
        build: The llama.cpp to ask.

    Raises:
        UsageError: The machine is another one (KNB865), the context absurd (KNB869), or a setting wrong.
        RehearsalError: The build sees no GPU (KNB866), llama-fit-params fails (KNB867) or does not end
            (KNB868), or the ghost cannot be made (KNB861 to KNB864).
        BuildError: There is no place for the ghost (KNB840), or the build lacks llama-fit-params (KNB201).
        ModelFileError: The model is not covered by the closed form (KNB371).
    """
    left_out = tuple(name for name in _LEFT_OUT if getattr(settings, name) is not None)
    known = settings.replace(**dict.fromkeys(left_out))
    gpus = rooms(machine)
    ours = demands(model, known, gpus)
    if (known.ctx_size or 0) > _MOST_CTX:
        raise UsageError(
            "KNB869",
            f"a context of {known.ctx_size:,} tokens cannot be verified",
            why="llama-fit-params keeps a record of each token, and could fill this machine's memory",
            fix=f"Verify with at most {_MOST_CTX:,} tokens.",
        )
    _require_this_machine(machine, build)
    if not gpus:
        known = known.replace(device="none")
    with ghost_of(model) as ghost:
        started = time.monotonic()
        theirs = ask_llama_cpp(build, ghost.first, known)
        seconds = time.monotonic() - started
    numbers = {gpu.name: f"GPU{number}" for number, gpu in enumerate(gpus)} | {"Host": "Host"}
    if set(theirs) != {demand.name for demand in ours}:
        raise RehearsalError(
            "KNB867",
            "the two answers cannot be set side by side",
            why=f"llama.cpp uses {', '.join(theirs)}, and we expected {', '.join(one.name for one in ours)}",
            fix="Name the GPUs to use with --device; `kimi-nb check` lists them.",
        )
    rows = [
        Compared(
            name=numbers[demand.name],
            llama_cpp_name=demand.name,
            llama_cpp=theirs[demand.name],
            ours=_mib(demand),
        )
        for demand in ours
    ]
    return Verified(
        devices=tuple(rows[:-1]),
        host=rows[-1],
        seconds=seconds,
        llama_cpp=build.version,
        left_out=left_out,
    )


def _mib(demand: Demand) -> tuple[int, int, int]:
    return demand.model_mib, demand.context_mib, demand.compute_mib


def _require_this_machine(machine: Machine, build: Build) -> None:
    """See that llama.cpp finds the GPUs that are asked about; without GPUs any machine gives the answer."""
    asked = machine.usable_gpus
    if not asked:
        return
    here = llama_cpp_devices(build)
    same = len(here) >= len(asked) and all(
        abs(total - gpu.total_mib) <= _NEAR * gpu.total_mib
        for gpu, (_, total) in zip(asked, here, strict=False)
    )
    if same:
        return
    if machine.origin == "probe" and not here and not any(gpu.guess for gpu in asked):
        raise RehearsalError(
            "KNB866",
            "llama.cpp cannot be asked about this machine's GPUs",
            why=f"the build for {build.backend} in {build.bin} sees none",
            fix="Run `kimi-nb build` on this machine with its GPUs and their driver there.",
        )
    wanted = ", ".join(f"{gpu.total_mib} MiB" for gpu in asked)
    have = ", ".join(f"{total} MiB" for _, total in here) or "none"
    raise UsageError(
        "KNB865",
        "these figures cannot be verified here",
        why=f"they are for GPUs of {wanted}, llama.cpp asks those that are there, and here it finds {have}",
        fix="Leave out --verify, or run the same command on that machine.",
    )


def llama_cpp_devices(build: Build) -> list[tuple[str, int]]:
    """Return name and MiB of each device that a build finds here.

    Raises:
        RehearsalError: KNB867 or KNB868.
    """
    said, _ = _run(build, ["--list-devices"])
    return [(name, int(total)) for name, total, _ in _DEVICE.findall(said)]


def ask_llama_cpp(
    build: Build, path: Path, settings: Settings, extra: Sequence[str] = ()
) -> dict[str, tuple[int, int, int]]:
    """Return MiB of model, context and compute, by device and for ``Host``, as llama-fit-params prints them.

    Args:
        build: The llama.cpp to ask.
        path: The first file of a model or of its ghost.
        settings: How it is run; only what :data:`LLAMA_CPP_KNOWS` is passed on.
        extra: More arguments, such as ``--rpc``.

    Raises:
        RehearsalError: It fails (KNB867), or does not end (KNB868).
    """
    chosen = {name: getattr(settings, name) for name in LLAMA_CPP_KNOWS}
    words = ["--model", str(path), *type(settings)(**chosen).argv(), "-nr", "-fitp", "on", *extra]
    printed, complaints = _run(build, words)
    found = {name: (int(a), int(b), int(c)) for name, a, b, c in _LINE.findall(printed)}
    if "Host" not in found:
        raise _failed("it printed no figures", complaints)
    return found


def _run(build: Build, words: Sequence[str]) -> tuple[str, str]:
    """Return what llama-fit-params prints and what it complains about."""
    # llama.cpp would obey LLAMA_ARG_CTX_SIZE and its like, which the settings do not show.
    kept = {n: v for n, v in without_secrets(os.environ).items() if not n.startswith("LLAMA_")}
    command = [str(build.program("llama-fit-params")), *words]
    try:
        process = spawn(command, env=kept, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    except OSError as error:
        raise _failed(error.strerror or str(error), "") from error
    with process:
        try:
            out, err = process.communicate(timeout=_PATIENCE_S)
        except subprocess.TimeoutExpired as error:
            raise RehearsalError(
                "KNB868",
                "llama-fit-params does not end",
                why=f"it has run for {_PATIENCE_S:.0f} s, and seconds are usual",
                fix="Try again when the machine is less busy; `nvidia-smi` shows whether the driver answers.",
            ) from error
        finally:
            if process.poll() is None:
                process.kill()
    printed, complaints = out.decode(errors="replace"), err.decode(errors="replace")
    if process.returncode:
        raise _failed(f"exit code {process.returncode}", complaints or printed)
    return printed, complaints


def _failed(why: str, complaints: str) -> RehearsalError:
    # Its log is written by a thread of its own and is cut off where the program aborts.
    found = _TELLING.search(complaints)
    told = next(filter(None, found.groups())) if found else "".join(complaints.strip().splitlines()[-1:])
    return RehearsalError(
        "KNB867",
        "llama-fit-params gives no answer",
        why=f"{why}; {told[:300]}" if told else why,
        fix="Change the setting that it names; if it names none, report this line.",
    )
