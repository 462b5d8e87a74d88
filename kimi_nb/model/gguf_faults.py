"""What can be wrong with a GGUF file: one id, one headline and one remedy for each kind of damage."""

from __future__ import annotations

from kimi_nb.errors import ModelFileError

__all__ = ["bytes_text", "fault", "quoted"]

_AGAIN = "Download the file again and compare its sha256 with the publisher's."
_REPORT = (
    "Take the file from another publisher, or convert the model again with llama.cpp's current converter."
)

_KINDS: dict[str, tuple[str, str]] = {
    "KNB300": ("is not a GGUF file", "Name the .gguf file itself."),
    "KNB301": (
        "is a web page, not a GGUF file",
        "A page about the file was saved instead of it: use the download link, or `kimi-nb download`.",
    ),
    "KNB302": (
        "is a git-lfs pointer, not the model",
        "Run `git lfs pull` in that repository, or fetch the file with `kimi-nb download`.",
    ),
    "KNB303": (
        "is a Xet pointer, not the model",
        "Fetch the file itself with `kimi-nb download`, or install git-xet and pull again.",
    ),
    "KNB304": ("is empty", "Remove it and download it again."),
    "KNB305": ("ends in the middle of its header", "The download did not finish: continue or repeat it."),
    "KNB306": ("is incomplete", "The download did not finish: continue or repeat it."),
    "KNB307": ("has an unsupported GGUF version", _REPORT),
    "KNB308": (
        "is a big-endian GGUF file",
        "Take the little-endian file; llama.cpp on this machine refuses this one.",
    ),
    "KNB309": ("declares impossible counts", _AGAIN),
    "KNB310": ("has a bad metadata key", _AGAIN),
    "KNB311": ("has a metadata value of a bad type", _AGAIN),
    "KNB312": ("declares an impossible length", _AGAIN),
    "KNB313": ("has a bad alignment", _AGAIN),
    "KNB314": ("has a bad tensor name", _AGAIN),
    "KNB315": ("has a tensor of an impossible shape", _AGAIN),
    "KNB316": ("has a tensor of a type that llama.cpp does not read", _REPORT),
    "KNB317": ("has tensor data in the wrong place", _AGAIN),
    "KNB318": ("has a header larger than any real model's", _AGAIN),
    "KNB320": (
        "is one of several shards, and others are missing",
        "Download them into the same folder.",
    ),
    "KNB321": (
        "belongs with shards of another set",
        "Remove all shards and download them from one repository at one revision.",
    ),
    "KNB322": (
        "is a shard under a wrong name",
        "Give it its own name back: llama.cpp finds shards by NAME-00001-of-00005.gguf.",
    ),
    "KNB323": (
        "is a stand-in without weights",
        "Name the model's own file; `kimi-nb download` fetches it.",
    ),
    "KNB340": ("cannot be read in parts", "Download the file, or use a server that answers byte ranges."),
    "KNB341": (
        "did not arrive whole",
        "Try again; if it stays so, look at the network or the proxy.",
    ),
    "KNB342": ("changed on the server while it was read", "Try again, and name a revision by its commit."),
    "KNB343": ("needs a token", "Set HF_TOKEN to a read token of an account that may see it."),
    "KNB344": (
        "is closed to this token",
        "Accept the terms on its page, or use a token that may read it.",
    ),
    "KNB345": ("is not on the server", "Check the repository, the revision and the file name."),
    "KNB346": (
        "is held back: too many requests",
        "Wait some minutes, or set HF_TOKEN.",
    ),
    "KNB347": ("cannot be had: the server is in trouble", "Try again in some minutes."),
    "KNB348": ("cannot be reached", "Look at the network, the proxy settings and HF_ENDPOINT."),
    "KNB349": (
        "was answered strangely",
        "Check HF_ENDPOINT and the proxy settings.",
    ),
    "KNB350": ("is not in the repository", "Name one of the quants listed here."),
    "KNB331": ("lacks metadata that is needed here", _REPORT),
    "KNB332": ("cannot be read", "Check its permissions and its disk."),
}


def fault(id: str, label: str, why: str, *, fix: str | None = None) -> ModelFileError:  # noqa: A002 - the field's name
    """Return the error for one kind of damage.

    Args:
        id: One of the ids above.
        label: The file, as the reader knows it: a name, never a whole URL with its query.
        why: What exactly was found.
        fix: Instead of the usual remedy.
    """
    what, usual_fix = _KINDS[id]
    return ModelFileError(id, f"{label} {what}", why=why, fix=fix or usual_fix)


def bytes_text(n: int) -> str:
    """Write a number of bytes for people: ``46.1 GiB``, ``512 bytes``."""
    size = float(n)
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if size < 1024 or unit == "GiB":  # noqa: PLR2004 - the step between units
            break
        size /= 1024
    return f"{n} bytes" if unit == "bytes" else f"{size:.1f} {unit}"


def quoted(text: str, most: int = 80) -> str:
    """Return text from a file in quotes, shortened where it is long."""
    return repr(text if len(text) <= most else text[:most] + "...")
