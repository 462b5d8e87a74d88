"""Forecast anew what was measured before, after the code that forecasts was changed.

python again.py FOLDER     FOLDER as `gpu_proof` left it, of whatever code: its profiles' costs are worked out
                           again from their measurements, and each setting's forecast is set beside what was
                           measured then. Nothing is run and nothing written: a proof is made by `gpu_proof`.
"""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))

from speed import case_of, joined, speed_figures
from trial_models import full_header

from kimi_nb.machine import Machine
from kimi_nb.plan import Settings
from kimi_nb.plan.profile import Profile
from kimi_nb.plan.profile_fit import fit_costs

Row = dict[str, Any]


def main(folder: Path) -> int:
    """Print the table; return 1 if a target is missed."""
    machine = Machine.load(folder / "machine.json")
    lines = (folder / "speed.jsonl").read_text(encoding="utf-8").splitlines()
    before = {row["key"]: row for row in joined([json.loads(line) for line in lines])}
    after = {key: forecast_again(row, folder, machine) for key, row in before.items()}
    for key, row in after.items():
        for old, new in zip(before[key]["cases"], row["cases"], strict=True):
            rates = (
                f"measured {new['measured']:9.2f}  then {old['forecast']:9.2f}  now {new['forecast']:9.2f}"
            )
            print(f"{key}, {new['threads']} threads, {new['kind']:<8}{rates}  off by {new['error']:6.1%}")
    figures = speed_figures(list(after.values()))
    for figure in figures:
        print(f"{figure.what}: {figure.measured} ({figure.target})")
    return int(any(figure.met is False for figure in figures))


def forecast_again(row: Row, folder: Path, machine: Machine) -> Row:
    """Return a row with the same measurements and the present code's forecasts."""
    value = json.loads((folder / f"{row['quant']}.profile.json").read_text(encoding="utf-8"))
    profile = Profile.from_dict(value)
    profile = replace(profile, costs=fit_costs(profile.measurements, profile.model))
    n_layer, n_expert = row["layers"] + 1, profile.model.n_expert
    model = full_header(row["quant"], small=bool(row["small"]), n_layer=n_layer, n_expert=n_expert)
    settings = Settings.from_dict(row["settings"])
    cases = []
    for case in row["cases"]:
        if not isinstance(case["error"], float):
            cases.append(case)
            continue
        at = settings.replace(threads=case["threads"])
        cases.append(case_of(profile, model, at, machine, case["kind"], case["runs"], row["prompt"]))
    return {**row, "cases": cases}


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
