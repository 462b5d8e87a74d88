"""``kimi-nb rehearse``: measure on this machine how fast a model will be, without having it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from kimi_nb.commands._options import add_model, given_model
from kimi_nb.errors import UsageError

if TYPE_CHECKING:
    import argparse

    from kimi_nb.plan.profile import Profile
    from kimi_nb.plan.speed import Forecast

__all__ = ["configure", "main"]

_SHORT_MS = 0.005


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's options."""
    add_model(parser)
    parser.add_argument(
        "--budget", metavar="S", default="60", help="seconds it may take, more or less (default: 60)"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON document")


def main(args: argparse.Namespace) -> int:
    """Rehearse, keep the profile, and print what it says."""
    from kimi_nb.engine import ensure_build
    from kimi_nb.machine import probe
    from kimi_nb.plan import Settings
    from kimi_nb.plan.profile import forecast_from
    from kimi_nb.progress import ProgressLine, bar
    from kimi_nb.rehearse.rehearsal import rehearse
    from kimi_nb.rehearse.saved import save_profile

    budget_s = _budget(args.budget)
    line = ProgressLine()
    model = given_model(args)
    build = ensure_build(progress=lambda text, _fraction: line.update(text))
    machine = probe()
    profile = rehearse(
        model,
        machine,
        budget_s=budget_s,
        build=build,
        progress=lambda text, done: line.update(f"{bar(done)} {text}"),
    )
    path = save_profile(profile)
    line.done(f"the profile is kept in {path}")
    usual = Settings(ctx_size=16384, n_gpu_layers="all")
    if machine.usable_gpus:
        usual = usual.replace(cpu_moe=True)
    forecast = forecast_from(profile, model, usual, machine)
    if args.json:
        told = {
            "path": str(path),
            "settings": usual.to_dict(),
            "forecast": forecast.as_dict(),
            "profile": profile.to_dict(),
        }
        print(json.dumps(told))
    else:
        _show(profile, forecast)
    return 0


def _budget(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise UsageError(
            "KNB847",
            f"--budget cannot be {text[:40]!r}",
            why="it takes a number of seconds",
            fix="Give --budget 60.",
        ) from None


def _show(profile: Profile, forecast: Forecast) -> None:
    print(f"{profile.model.name} {profile.model.quant} on {profile.machine}, llama.cpp {profile.build}")
    print(f"{'ms a step':<10}{'where':<17}{'threads':>8}{'tokens':>8}{'low':>10}{'expected':>10}{'high':>10}")
    for cost in profile.costs:
        if cost.ms.high < _SHORT_MS:
            continue
        name = f"{cost.part} {cost.kv_type}" if cost.part == "depth" else cost.part
        counts = f"{cost.threads or '-':>8}{cost.tokens:>8}"
        ms = f"{cost.ms.low:>10.2f}{cost.ms.expected:>10.2f}{cost.ms.high:>10.2f}"
        print(f"{name:<10}{cost.way:<17}{counts}{ms}")
    if disk := profile.disk_read_mib_s:
        print(f"disk, uncached: {disk.expected:.0f} MiB/s ({disk.low:.0f} to {disk.high:.0f})")
    print(f"writing: {forecast.decode_tok_s} tokens/s, bound by {forecast.decode_bound}")
    print(f"reading: {forecast.prefill_tok_s} tokens/s, bound by {forecast.prefill_bound}")
    for limit in profile.limits:
        print(f"- {limit}")
