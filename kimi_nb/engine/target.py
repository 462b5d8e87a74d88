"""What is to be built, decided before anything is done: source, backend, compiler, processor; and its key."""

from __future__ import annotations

import hashlib
import json
import platform
import re
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from kimi_nb.engine.backend import choose_backend
from kimi_nb.engine.compile import FLAGS
from kimi_nb.engine.source import fetch_ref, fetched_ref, folder_source, pinned_source
from kimi_nb.engine.storage import engine_home
from kimi_nb.engine.toolchain import find_compiler, says
from kimi_nb.errors import UsageError

if TYPE_CHECKING:
    from kimi_nb.engine.backend import Backend
    from kimi_nb.engine.source import Source
    from kimi_nb.engine.toolchain import Compiler

__all__ = ["Target", "choose_target"]

# The flags of /proc/cpuinfo that a compiler's -march=native can act on. Others, such as the kernel's
# mitigations, come and go with updates and change no program.
_INSTRUCTIONS = re.compile(
    r"sse|ssse|avx|fma|f16c|bmi|abm|popcnt|movbe|adx|aes|vaes|pclmul|vpclmul|gfni|sha|amx|xsave|cx16|rdrnd|rdrand"
    r"|rdseed|clflushopt|clwb|movdir|fsgsbase|serialize|pni|lahf|lzcnt|prefetch|3dnow|xop|tbm|rdpid"
)


@dataclass(frozen=True)
class Target:
    """One build of llama.cpp, made or to be made.

    Attributes:
        source: The tree.
        backend: The backend and its flags.
        compiler: The C++ compiler; None where the machine has none.
        cpu: Hash of what the processor can do, since the programs are compiled for this very one.
    """

    source: Source
    backend: Backend
    compiler: Compiler | None
    cpu: str

    @property
    def flags(self) -> tuple[str, ...]:
        """CMake's definitions."""
        if self.source.folder is not None and (self.source.folder / ".git").exists():
            return (*FLAGS, *self.backend.flags)
        # Without a repository of its own llama.cpp would ask the one around it, such as a person's dotfiles.
        commit = (self.source.commit or "unknown")[:9]
        return (*FLAGS, *self.backend.flags, f"-DLLAMA_BUILD_COMMIT={commit}", "-DLLAMA_BUILD_NUMBER=0")

    def parts(self) -> dict[str, object]:
        """Return everything that, if it differs, makes another build."""
        return {
            "source": self.source.identity,
            "backend": self.backend.name,
            "flags": list(self.flags),
            "toolkit": self.backend.toolkit,
            "compiler": self.compiler.version if self.compiler else None,
            "cpu": self.cpu,
        }

    @property
    def key(self) -> str:
        """The name of the build's folder."""
        return f"{self.backend.name}-{_digest(self.parts())}"

    @property
    def may_be_edited(self) -> bool:
        """Whether the source is a person's checkout."""
        return self.source.identity.startswith("tree:")

    @property
    def folder(self) -> Path:
        """Where the finished build is."""
        return engine_home() / "builds" / self.key

    @property
    def work(self) -> Path:
        """Where it is made; for an edited checkout the same folder, so that only the edits are compiled."""
        place = str(self.source.folder) if self.may_be_edited else self.source.identity
        return engine_home() / "work" / f"{self.backend.name}-{_digest(self.parts() | {'source': place})}"

    @property
    def log(self) -> Path:
        """The file with everything that pip, CMake and Ninja said."""
        return engine_home() / "logs" / f"{self.key}.log"

    def as_it_is_now(self) -> Target:
        """Return the same with the source's present content."""
        if self.source.folder is None or not self.may_be_edited:
            return self
        return replace(self, source=folder_source(self.source.folder))


def _digest(parts: dict[str, object]) -> str:
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:12]


def choose_target(
    *,
    backend: str | None = None,
    source: Path | None = None,
    ref: str | None = None,
    cuda_arch: str | None = None,
    fetch: bool = True,
) -> Target | None:
    """Decide what is to be built.

    Args:
        backend: ``cpu``, ``cuda``, ``metal`` or ``vulkan``; by default what is there decides.
        source: A checkout of llama.cpp to build instead of the pinned source.
        ref: A branch, tag or commit of upstream's repository to build instead.
        cuda_arch: CUDA architectures; by default those of the GPUs present.
        fetch: Whether a ``ref`` may be fetched. If not, and it never was, the answer is None.

    Raises:
        UsageError: Both ``source`` and ``ref`` are given, or one of the values is wrong.
        BuildError: The backend asked for cannot be built here, or the ref cannot be fetched.
    """
    if source is not None and ref is not None:
        raise UsageError(
            "KNB204", "both a source folder and a ref", why="there can be one source", fix="Drop one."
        )
    chosen = choose_backend(backend, cuda_arch)
    if source is not None:
        tree: Source | None = folder_source(source)
    elif ref is not None:
        tree = fetch_ref(ref) if fetch else fetched_ref(ref)
    else:
        tree = pinned_source()
    return None if tree is None else Target(tree, chosen, find_compiler(), _cpu())


@cache
def _cpu() -> str:
    facts = [platform.machine(), *platform.libc_ver()]
    if platform.system() == "Darwin":
        facts.append(says("sysctl", "-n", "machdep.cpu.brand_string") or "")
    else:
        first = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").partition("\n\n")[0]
        entries = {
            key.strip(): value for key, _, value in (line.partition(":") for line in first.splitlines())
        }
        facts += sorted(name for name in entries.get("flags", "").split() if _INSTRUCTIONS.match(name))
        facts += [*sorted(entries.get("Features", "").split()), entries.get("CPU part", "")]  # ARM
    return hashlib.sha256("\n".join(facts).encode()).hexdigest()[:12]
