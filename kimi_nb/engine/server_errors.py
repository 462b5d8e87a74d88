"""What a dead llama-server's last words and exit code mean, and what to do about it."""

from __future__ import annotations

import re
import signal
from dataclasses import dataclass
from typing import TYPE_CHECKING

from kimi_nb.errors import ServerError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

__all__ = ["explain"]


@dataclass(frozen=True)
class _Sign:
    """A line of llama.cpp's log that tells why it ended; ``{}`` in the words is the pattern's first group."""

    id: str
    pattern: str
    what: str
    fix: str
    why: str = "llama.cpp says: {}"


_REFUSED = "llama-server refused an argument"
_SEE_HELP = "Change it in the settings; `llama-server --help` lists what this build takes."
_SMALLER = (
    "Put less on the device that is full: a smaller ctx_size, a larger n_cpu_moe, or a smaller quant. "
    "`kimi-nb estimate` tells what fits"
)

#: Such as ``0.00.574.542 E srv    load_model: ``.
_PREFIX = re.compile(
    r"(?:\d+\.\d\d\.\d{3}\.\d{3} )?(?P<level>[EWID]) (?:(?:srv|cmn|slot|spec|res|que)\s+)?(?:\s*[\w~]+: )?"
)

#: In order: a specific cause stands before the general complaint that follows it in the log.
_SIGNS = (
    _Sign(
        "KNB510",
        r"couldn't bind HTTP server socket, hostname: \S+, port: (\d+)",
        "port {} is taken",
        "Stop the program that uses it, or leave the port out: a free one is then chosen.",
        why="another program listens there",
    ),
    _Sign("KNB515", r"error: invalid argument: (\S+)", _REFUSED, _SEE_HELP),
    _Sign("KNB515", r"error while handling argument (.*)", _REFUSED, _SEE_HELP),
    _Sign(
        "KNB528",
        r"((?:unknown|unsupported) model architecture: .*)",
        "this build of llama.cpp does not know the model's architecture",
        "Build a newer llama.cpp with `kimi-nb build --ref`, or take a model that this one knows.",
    ),
    _Sign(
        "KNB503",
        r"(model does not support different K .*|quantized V cache .*|V cache quantization requires .*)",
        "these settings exclude each other",
        "Set cache_type_k and cache_type_v to one type, and flash_attn to on.",
    ),
    _Sign(
        "KNB514",
        r"(.*(?:cudaMalloc failed|out of memory|ErrorOutOfDeviceMemory).*)",
        "out of memory",
        _SMALLER,
    ),
    _Sign("KNB514", r"((?:unable|failed) to allocate .*)", "not enough memory", _SMALLER),
    _Sign("KNB514", r"(.*std::bad_alloc.*|.*[Cc]annot allocate memory.*)", "not enough memory", _SMALLER),
    _Sign(
        "KNB529",
        r"(CUDA error.*|.*CUDA driver version is insufficient.*|.*no CUDA-capable device.*|ROCm error.*)",
        "the GPU gave an error",
        "Run `kimi-nb check` to see what the driver says; device none uses the processor alone.",
    ),
    _Sign(
        "KNB516",
        # Which of these arrives varies: llama.cpp may exit before its log thread has written everything.
        r"(chat template parsing error: .*|the supplied chat template is not supported.*"
        r"|failed to initialize chat template.*)",
        "the chat template cannot be used",
        "Leave chat_template out to use the model's own, or mend the template at the place named.",
    ),
    _Sign(
        "KNB517",
        r"(failed to load multimodal model.*|.*failed to load (?:CLIP|vision|mmproj) model.*)",
        "the vision part cannot be loaded",
        "Use the mmproj file from the model's own repository, or leave mmproj out.",
    ),
    _Sign(
        "KNB512",
        r"(invalid magic characters.*|.*is not within the file bounds.*|bad GGUF version.*|corrupted model.*"
        r"|failed to open GGUF file.*|(?:illegal|invalid) split file.*|invalid split count.*"
        r"|failed to load GGUF split.*|missing tensor .*|wrong number of tensors.*|tensor '.*"
        r"|key .* not found.*|unexpectedly reached end of file.*|key not found in model.*"
        r"|found tensors with invalid data.*|failed to read .*|error loading model: .*)",
        "llama-server cannot read the model",
        "Download the file again, and compare its sha256 with the publisher's.",
    ),
)

_CAUSES = {
    "certain": "the kernel's out-of-memory killer ended it, because its memory limit was reached",
    "likely": "the kernel's out-of-memory killer ended a process at that moment, most likely this one",
    "unlikely": "someone killed it with signal 9: the kernel reports no want of memory",
    "unknown": "it was killed with signal 9, as the kernel does when memory runs out",
}
_LEAN = (
    "Free memory or raise the container's limit, or let it need less: a smaller ctx_size or quant, "
    "cache_ram 0, no repack."
)


def explain(
    code: int, lines: Sequence[str], *, when: str, log: Path, out_of_memory: str = "unknown"
) -> ServerError:
    """Return the error that tells why llama-server ended.

    Args:
        code: Its exit code as a shell would tell it, with 128 + N for signal N.
        lines: What it logged since it was started.
        when: What it was doing, such as "while loading the model".
        log: Where the whole log is.
        out_of_memory: What :meth:`OutOfMemoryWatch.verdict` says, taken after the death.
    """
    see = f"The log is {log}."
    if code in {128 + signal.SIGKILL, -signal.SIGKILL}:
        id_ = "KNB519" if out_of_memory == "unlikely" else "KNB513"
        fix = (
            f"Start it again; if it happens again, look for what kills it. {see}"
            if id_ == "KNB519"
            else _LEAN
        )
        return ServerError(id_, f"llama-server was killed {when}", why=_CAUSES[out_of_memory], fix=fix)
    if code == 0:
        why = "someone outside this program told it to end, and it did"
        return ServerError("KNB519", f"llama-server ended {when}", why=why, fix="Start it again.")
    texts = [text for line in lines if (text := _complaint(line))]
    for sign in _SIGNS:
        for text in texts:
            found = re.search(sign.pattern, text)
            if found:
                what, why = (words.replace("{}", found[1]) for words in (sign.what, sign.why))
                return ServerError(sign.id, what, why=why.rstrip(". "), fix=sign.fix)
    if code > 128:  # noqa: PLR2004 - the shell's convention
        return _by_signal(code - 128, texts, when, see)
    last = texts[-1] if texts else "it said nothing"
    return ServerError(
        "KNB518", f"llama-server ended {when} with code {code}", why=f"its last words: {last}", fix=see
    )


def _complaint(line: str) -> str:
    """Take llama.cpp's time, level and place off a line of its log; nothing is left of mere information."""
    found = _PREFIX.match(line)
    if found is None:
        return line.strip()  # written past llama.cpp's log: a wrong argument, an abort, a driver's message
    return line[found.end() :].strip() if found["level"] == "E" else ""


def _by_signal(number: int, texts: Sequence[str], when: str, see: str) -> ServerError:
    try:
        name = signal.Signals(number).name
    except ValueError:
        name = f"signal {number}"
    what = f"llama-server was ended by {name} {when}"
    if name == "SIGILL":
        why = "it was built for a processor that can do more than this one"
        return ServerError("KNB531", what, why=why, fix="Build it on this machine with `kimi-nb build`.")
    if name == "SIGBUS":
        why = (
            "a part of the model file could not be read: it was changed, or its disk failed or was taken away"
        )
        return ServerError(
            "KNB532", what, why=why, fix="Check the disk and the file's sha256, then start it again."
        )
    if name in {"SIGTERM", "SIGINT", "SIGHUP"}:
        why = "someone outside this program told it to end"
        return ServerError("KNB519", what, why=why, fix="Start it again.")
    clue = next((text for text in reversed(texts) if "GGML_ASSERT" in text or "terminate called" in text), "")
    why = f"llama.cpp says: {clue}" if clue else "a mistake in llama.cpp, or a broken build or machine"
    fix = f"Start it again; if it comes back, try other settings or another build of llama.cpp. {see}"
    return ServerError("KNB530", what, why=why, fix=fix)
