"""From a slider's move to new numbers: in the kernel, and on the screen.

    python benchmarks/bench_panel.py

A real JupyterLab with a real kernel and a real Chromium show the plan panel for a header of Kimi K2.5's
shape. The kernel's time is from the message to the view that is sent back, all figures, the forecast and the
drawing included. The screen's is from the input event to the first frame with the new numbers. Then a slider
is moved 60 times a second for 10 seconds, three times: what counts is how soon after the last move its
numbers are there.
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

KERNEL_MS = 5.0
SCREEN_MS = 100.0
SETTLED_MS = 2 * SCREEN_MS
"""At the last move one answer may be under way; without a backlog, nothing else is before its own."""
SWEEPS = 3
MOVES = 120
NOTEBOOK = """
import json, time
from kimi_nb.panel.plan_panel import PlanPanel

hear = PlanPanel._hear

def timed(self, *given):
    start, worked = time.perf_counter(), time.thread_time()
    hear(self, *given)
    took, work = time.perf_counter() - start, time.thread_time() - worked
    with open("times.jsonl", "a") as file:
        file.write(json.dumps([took * 1e3, work * 1e3]) + "\\n")

PlanPanel._hear = timed
PlanPanel("kimi.gguf", machine="rtx4090-256gb")
"""
MOVE = """async ({moves}) => {
    const root = document.querySelector('.knb');
    const ranges = [...root.querySelectorAll('input[type=range]')].filter(one => Number(one.max) > 5);
    const took = [];
    for (let i = 0; i < moves; i++) {
        const range = ranges[i % ranges.length];
        const last = Number(range.max), at = Number(range.value);
        const to = (at + 1 + Math.floor(Math.random() * last)) % (last + 1);
        const before = range.getAttribute('aria-valuetext'), begun = performance.now();
        range.value = to;
        range.dispatchEvent(new Event('input', {bubbles: true}));
        await new Promise(done => {
            const watch = new MutationObserver(() => {
                if (range.getAttribute('aria-valuetext') === before) return;
                watch.disconnect();
                requestAnimationFrame(() => setTimeout(done)); // after the frame that shows it
            });
            watch.observe(root, {subtree: true, childList: true, characterData: true, attributes: true});
        });
        took.push(performance.now() - begun);
        await new Promise(done => setTimeout(done, 20));
    }
    return took;
}"""
SWEEP = """async ({moves, every}) => {
    const root = document.querySelector('.knb');
    const range = root.querySelector('input[type=range]');
    let views = 0;
    const watch = new MutationObserver(() => { views += 1; });
    watch.observe(root, {attributes: true, attributeFilter: ['data-seen']});
    const begun = performance.now();
    let sent = 0;
    while (sent < moves) {
        const due = Math.min(moves, Math.floor((performance.now() - begun) / every) + 1);
        for (; sent < due; sent++) {
            range.value = sent % (Number(range.max) + 1);
            range.dispatchEvent(new Event('input', {bubbles: true}));
        }
        await new Promise(done => setTimeout(done, 4));
    }
    // A move of its own, so that there is one last value to wait for.
    const before = range.getAttribute('aria-valuetext'), last = performance.now();
    range.value = Number(range.value) > 2 ? 0 : Number(range.max);
    range.dispatchEvent(new Event('input', {bubbles: true}));
    let text = before, still = performance.now();
    while (performance.now() - still < 1000) {
        await new Promise(done => requestAnimationFrame(done));
        const now = range.getAttribute('aria-valuetext');
        if (now !== text) { text = now; still = performance.now(); }
    }
    watch.disconnect();
    return {views, settled: still - last, seconds: (last - begun) / 1000};
}"""


def main() -> int:
    """Measure, print the table, and return 0 if the targets are met."""
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        on_screen, sweeps, in_kernel = measured(home)
    rows = [
        ("slider to new numbers, in the kernel", [took for took, _ in in_kernel], KERNEL_MS),
        ("the same, its own work alone", [work for _, work in in_kernel], KERNEL_MS),
        ("slider to new numbers, on the screen", on_screen, SCREEN_MS),
        ("last of 600 moves to its numbers", [one["settled"] for one in sweeps], SETTLED_MS),
    ]
    print(
        f"machine: {platform.machine()}, {os.cpu_count()} processors and a load of {os.getloadavg()[0]:.1f}, "
        f"{platform.system()}, Python {platform.python_version()}"
    )
    print(f"{'':<40}{'median':>12}{'95 of 100':>12}{'target':>12}{'ratio':>8}")
    for name, taken, target in rows:
        median, most = statistics.median(taken), sorted(taken)[int(0.95 * (len(taken) - 1))]
        print(f"{name:<40}{median:>9.2f} ms{most:>9.2f} ms{target:>9.2f} ms{target / median:>7.1f}x")
    drawn = ", ".join(f"{one['views']} views in {one['seconds']:.1f} s" for one in sweeps)
    print(f"60 moves a second drew {drawn}")
    # On a busy machine the kernel waits for its turn: what it must keep is the target for its own work.
    return 0 if all(statistics.median(taken) <= target for _, taken, target in rows[1:]) else 1


def measured(home: Path) -> tuple[list[float], list[dict[str, Any]], list[tuple[float, float]]]:
    """Return the times on the screen, what came of the sweeps, and the kernel's times."""
    from header_models import ORACLE_MODELS
    from lab_pages import Lab, chromium, open_notebook
    from playwright.sync_api import sync_playwright

    (home / "notebooks").mkdir()
    ORACLE_MODELS["TQ1"].write(home / "notebooks" / "kimi.gguf")
    lab = Lab(home, home / "notebooks")
    lab.write("bench.ipynb", NOTEBOOK)
    try:
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(
                executable_path=chromium(), args=["--no-sandbox", "--disable-dev-shm-usage"]
            )
            page = browser.new_page(viewport={"width": 1400, "height": 1300})
            (cell,) = open_notebook(lab, page, "bench.ipynb")
            assert cell["errors"] == [], cell["errors"]
            page.wait_for_selector(".knb")
            time.sleep(2)  # JupyterLab still works on itself
            page.evaluate(MOVE, {"moves": 10})
            on_screen = page.evaluate(MOVE, {"moves": MOVES})
            sweeps = [page.evaluate(SWEEP, {"moves": 600, "every": 1000 / 60}) for _ in range(SWEEPS)]
            browser.close()
        lines = (home / "notebooks" / "times.jsonl").read_text().splitlines()
        return on_screen, sweeps, [tuple(json.loads(line)) for line in lines]
    finally:
        lab.close()


if __name__ == "__main__":
    sys.exit(main())
