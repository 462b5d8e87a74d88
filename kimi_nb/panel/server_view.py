"""What the server panel says, worked out from what is known of a server: no widget, no server, no clock."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from typing import TYPE_CHECKING

from kimi_nb.engine.server_state import ServerState
from kimi_nb.errors import KimiNbError, troubles
from kimi_nb.panel import nodes as n
from kimi_nb.panel.words import gib, tokens

if TYPE_CHECKING:
    from pathlib import Path

    from kimi_nb.engine.server_metrics import Work
    from kimi_nb.machine.machine import Gpu
    from kimi_nb.panel.nodes import Node
    from kimi_nb.plan import MemoryReport

__all__ = ["Facts", "log_nodes", "memory_nodes", "reach_nodes", "state_nodes", "work_nodes"]

_SHOWN_LINES = 200


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What is known of a server at a moment.

    Attributes:
        state: Where it stands.
        alias: The model's name, as clients ask for it.
        name: By which it is found from elsewhere; empty for one that ends with this notebook.
        base_url: Where it answers; empty while it does not.
        error: Why it failed, if it did.
        coming_back: Whether it is about to be started again.
        loading: What it does while it starts, and how far it is.
        work: What its slots do; None when it did not say.
        memory_mib: What it has in RAM, and what of that are pages of files.
        estimate: What it should take; None where its settings are not known.
        gpus: The GPUs as they are now.
        note: What is to be known of the model's files.
        key_file: Where its key is.
        key_variable: Or the environment variable that has it.
        log: Its newest lines.
        log_path: Where all of them are.
    """

    state: ServerState = ServerState.STOPPED
    alias: str = ""
    name: str = ""
    base_url: str = ""
    error: KimiNbError | None = None
    coming_back: bool = False
    loading: tuple[str, float | None] = ("", None)
    work: Work | None = None
    memory_mib: tuple[float, float] | None = None
    estimate: MemoryReport | None = None
    gpus: tuple[Gpu, ...] = ()
    note: str = ""
    key_file: Path | None = None
    key_variable: str | None = None
    log: tuple[str, ...] = ()
    log_path: Path | None = None


def state_nodes(facts: Facts) -> list[Node]:
    """Return where it stands, in words, and why and what to do where it failed."""
    match facts.state:
        case ServerState.STOPPED:
            words = "Stopped." if facts.alias else "No server runs here."
            return [n.text(words, live=True, key="state")]
        case ServerState.STARTING:
            doing, fraction = facts.loading
            said = doing or "under way"
            percent = f", {fraction:.0%}" if fraction is not None else ""
            return [
                n.text(f"Starting {facts.alias}.".replace(" .", "."), live=True, key="state"),
                n.progress("Loading", fraction, said + percent, key="loading"),
            ]
        case ServerState.READY:
            words = f"Ready: {facts.alias} answers at {facts.base_url}"
            return [n.text(words, tone="good", live=True, key="state"), *_lasts(facts)]
        case ServerState.DEGRADED:
            words = (
                f"{facts.alias} runs but does not answer at present. It may be reading a long prompt, or its "
                "disk or GPU may hang. If this lasts, look at the end of the log, then restart it."
            )
            return [n.text(words, tone="warn", live=True, key="state"), *_lasts(facts)]
        case ServerState.STOPPING:
            return [n.text("Stopping.", live=True, key="state")]
        case _:
            return _failed(facts)


def _lasts(facts: Facts) -> list[Node]:
    if facts.name:
        how = f"until it is stopped here or with kimi-nb serve stop --name {facts.name}"
        words = f"It runs on when this notebook ends, as {facts.name}, {how}."
    else:
        words = "It ends with this notebook's kernel."
    return [n.text(line, tone="quiet", key=f"note{i}") for i, line in enumerate([words, facts.note]) if line]


def _failed(facts: Facts) -> list[Node]:
    error = facts.error
    if error is None:
        return [n.text("Failed.", tone="bad", live=True, key="state")]
    found = [n.text(f"Failed: {error.what}: {error.why}.", tone="bad", live=True, key="state")]
    if facts.coming_back:
        found.append(n.text("It will be started again in a moment.", live=True, key="again"))
    else:
        found.append(n.text(f"What to do: {error.fix}", key="fix"))
    known = troubles().get(error.id)
    if known is not None:
        about = n.text(" ".join(known.explanation.split()), key="about")
        found.append(n.fold(f"More on {error.id}: {known.title}", [about], key="about error"))
    return found


def reach_nodes(facts: Facts) -> list[Node]:
    """Return how it is reached, and where its key is; never the key."""
    if not facts.base_url:
        return []
    if facts.key_file is not None:
        where = "The key is not shown here. It is in a file that only you can read."
        key = f"cat {shlex.quote(str(facts.key_file))}"
        in_shell = f'"$({key})"'
        in_python = f"pathlib.Path({str(facts.key_file)!r}).read_text()"
    else:
        where = f"The key is the one in the environment variable {facts.key_variable}."
        in_shell, in_python = f'"${facts.key_variable}"', f"os.environ[{facts.key_variable!r}]"
    # printf is part of the shell and a pipe is no argument: so the key is in no list of processes.
    shell = f"printf 'Authorization: Bearer %s' {in_shell} |\n  curl -H @- {facts.base_url}/models"
    python = (
        f"import {in_python.partition('.')[0]}, openai\n"
        f"client = openai.OpenAI(base_url={facts.base_url!r},\n    api_key={in_python})"
    )
    chat = (
        "from kimi_nb.chat import Chat\nchat = Chat(panel.engine)  # panel: what kimi_nb.panel.server() gave"
    )
    ways = [
        n.text(where, key="where"),
        n.code("In this notebook", chat),
        n.code("In a terminal", shell),
        n.code("In a program with openai's package", python),
    ]
    return [
        n.group(
            "Address",
            [n.code("Base URL", facts.base_url), n.fold("The key, and how to use it", ways, key="ways")],
            key="reach",
        )
    ]


def work_nodes(facts: Facts) -> list[Node]:
    """Return what its slots do, and how fast."""
    if facts.state not in {ServerState.READY, ServerState.DEGRADED}:
        return []
    work = facts.work
    if work is None:
        words = "It has not answered the last question; it may be reading a long prompt."
        return [n.group("Work", [n.text(words, tone="quiet", key="speed")], key="work", quiet=True)]
    figures = [
        n.fact("Slots in use", f"{work.busy} of {work.slots}", f"{tokens(work.slot_ctx)} of context each"),
        _speed(work),
    ]
    if work.mean_tok_s is not None:
        mean = f"at {work.mean_tok_s:,.1f} tokens/s an answer, on average"
        figures.append(n.fact("Written so far", tokens(work.written), mean))
    return [n.group("Work", [n.row(figures, key="figures")], key="work", quiet=True)]


def _speed(work: Work) -> Node:
    if not work.busy:
        return n.fact("Now", "idle", "nothing is being answered")
    if work.tok_s is not None:
        return n.fact("Now", f"{work.tok_s:,.1f} tokens/s", "all slots together")
    return n.fact("Now", "reading" if work.reading else "writing", "an answer is under way")


def memory_nodes(facts: Facts) -> list[Node]:
    """Return the memory it has against what was estimated."""
    found, estimate = [], facts.estimate
    if facts.memory_mib is not None:
        resident, paged = facts.memory_mib
        parts = [
            ("paged", f"pages of files {gib(paged)}", paged),
            ("compute", f"its own {gib(resident - paged)}", resident - paged),
        ]
        most, said = resident, f"{gib(resident)} now"
        if estimate is not None:
            host = estimate.host
            base = host.model_mib + host.context_mib + host.compute_mib
            most = max(base + (host.prompt_cache_mib or 0.0), resident)
            said += f", {gib(base)} estimated"
            if host.prompt_cache_mib:
                said += f", and up to {gib(host.prompt_cache_mib)} for finished prompts"
        found.append(n.bar("llama-server's RAM", parts, most, said, tone="good"))
    if estimate is not None:
        host = estimate.host
        words = (
            f"Estimated: weights {gib(host.model_mib)}, context {gib(host.context_mib)}, "
            f"compute {gib(host.compute_mib)}. The program's own code and buffers come on top."
        )
        found.append(n.text(words, tone="quiet", key="estimated"))
        for gpu, now in zip(estimate.gpus, facts.gpus, strict=False):
            used = now.total_mib - now.free_mib
            said = (
                f"{gib(used)} of {gib(now.total_mib)} in use by all programs, {gib(gpu.needed_mib)} estimated"
            )
            parts = [("weights", f"in use {gib(used)}", used)]
            found.append(n.bar(gpu.name, parts, now.total_mib, said, tone="good"))
    return [n.group("Memory now, against the estimate", found, key="memory")] if found else []


def log_nodes(facts: Facts, search: str) -> list[Node]:
    """Return the end of its log, or the lines of it that contain a text."""
    if not facts.log:
        return []
    wanted = search.strip().casefold()
    lines = [line for line in facts.log if wanted in line.casefold()] if wanted else list(facts.log)
    newest = lines[-_SHOWN_LINES:]
    all_lines = f"{len(facts.log):,} line{'' if len(facts.log) == 1 else 's'}"
    said = f"{len(lines):,} of {all_lines} contain it" if wanted else all_lines
    if len(newest) < len(lines):
        said += f"; the newest {len(newest)} are shown"
    found = [
        n.field("search", "Search the log", search),
        n.text(f"{said}.", tone="quiet", live=True, key="found"),
        n.log("llama-server's log", newest),
    ]
    if facts.log_path is not None:
        found.append(n.text(f"All of it is in {facts.log_path}", tone="quiet", key="path"))
    return [n.group("Log", found, key="log")]
