"""One table of what was proven, with the machine's description: Markdown for people, JSON for programs."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from kimi_nb.files import write_json, write_text

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from ledger import Ledger
    from stages import Figure, Proof, Stage

    from kimi_nb.machine import Machine

__all__ = ["describe", "table_path", "write_report", "write_table"]

_MARKS = {True: "met", False: "MISSED", None: ""}


def describe(machine: Machine, version: str, backend: str) -> dict[str, str]:
    """Return what the figures are true of, without anything that names this machine."""
    memory, cpu = machine.memory, machine.cpu
    return {
        "GPUs": ", ".join(f"{gpu.name} ({gpu.total_mib} MiB)" for gpu in machine.usable_gpus) or "none used",
        "driver": f"NVIDIA {machine.nvidia.version}" if machine.nvidia else "none",
        "processor": f"{cpu.model}, {cpu.usable_cores:g} usable cores",
        "memory": f"{memory.total_mib / 1024:.0f} GiB",
        "system": f"{machine.system}, {cpu.architecture}",
        "llama.cpp": f"{version}, backend {backend}",
    }


def write_report(proof: Proof, ledger: Ledger, stages: Sequence[Stage]) -> bool:
    """Write ``proof.md`` and ``proof.json`` from all rows there are; return whether no target is missed."""
    about = describe(proof.machine, proof.build.version, proof.build.backend)
    told: dict[str, Any] = {"machine": about, "identity": ledger.identity, "stages": {}}
    met, details = True, []
    for stage in stages:
        rows = list(ledger.rows(stage.name).values())
        if not rows:
            continue
        figures = stage.figures(rows)
        met &= all(figure.met is not False for figure in figures)
        details += ["", f"## {stage.title}", "", *_table(stage, rows)]
        told["stages"][stage.name] = {
            "figures": [vars(figure) for figure in figures],
            "rows": rows,
        }
    lines = [*_summary(proof, ledger, stages), *details]
    write_text(ledger.folder / "proof.md", "\n".join(lines) + "\n")
    write_json(ledger.folder / "proof.json", told)
    return met


def table_path(repository: Path, machine: Machine) -> Path:
    """Return where a machine's table is kept in the repository."""
    names = [gpu.name for gpu in machine.usable_gpus]
    title = f"{len(names)} x {names[0]}" if names else "no GPU"
    return repository / "docs" / "proofs" / (re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-") + ".md")


def write_table(path: Path, proof: Proof, ledger: Ledger, stages: Sequence[Stage]) -> None:
    """Write the table alone, with the description of the machine."""
    lines = [
        *_summary(proof, ledger, stages),
        "",
        f"Made on {datetime.now(tz=UTC).date().isoformat()} by `make gpu-proof`.",
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, "\n".join(lines) + "\n")


def _summary(proof: Proof, ledger: Ledger, stages: Sequence[Stage]) -> list[str]:
    about = describe(proof.machine, proof.build.version, proof.build.backend)
    lines = ["# Proof on a GPU machine", "", "| machine | |", "|---|---|"]
    lines += [f"| {name} | {text} |" for name, text in about.items()]
    lines += ["", "| what | measured | target | |", "|---|---|---|---|"]
    for stage in stages:
        rows = list(ledger.rows(stage.name).values())
        if not rows:
            lines.append(f"| {stage.title} | not run | | |")
            continue
        lines += [_line(stage, figure) for figure in stage.figures(rows)]
        if failed := sum("error" in row for row in rows):
            lines.append(
                f"| {stage.name}: rows without an answer | {failed} of {len(rows)} | none | MISSED |"
            )
    return lines


def _line(stage: Stage, figure: Figure) -> str:
    return f"| {stage.name}: {figure.what} | {figure.measured} | {figure.target} | {_MARKS[figure.met]} |"


def _table(stage: Stage, rows: Sequence[dict[str, Any]]) -> list[str]:
    columns = [*stage.columns, "seconds"]
    lines = ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    for row in rows:
        if "error" in row:
            lines.append(f"| {row['key']} | {row['error']} |" + " |" * (len(columns) - 2))
        else:
            lines.append("| " + " | ".join(_cell(row.get(name, "")) for name in columns) + " |")
    return lines


def _cell(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {_cell(entry)}" for name, entry in value.items()).replace("|", "\\|")
    if isinstance(value, (list, tuple)):
        return "/".join(_cell(entry) for entry in value)
    return (value if isinstance(value, str) else json.dumps(value)).replace("|", "\\|")
