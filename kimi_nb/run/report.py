"""The report of a run: a page with the record, and each executed notebook as a page that needs no network."""

from __future__ import annotations

import html
import json
from datetime import UTC, datetime
from importlib.resources import files
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from kimi_nb.errors import RunError
from kimi_nb.files import write_text
from kimi_nb.run.notebook import source_of

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from kimi_nb.run.record import NotebookRun, Run

__all__ = ["INDEX", "html_report"]

INDEX = "index.html"
_PLOTLY = "application/vnd.plotly.v1+json"
_STATIC = ("image/svg+xml", "image/png", "image/jpeg")
_SIGNS = {"succeeded": "✓", "failed": "✗", "interrupted": "■", "not_run": "·"}


def html_report(run: Run) -> Path:
    """Write ``index.html`` and a page for each executed notebook into the run's folder.

    The pages hold all they show: they ask nothing of the network, and a policy in each of them forbids it.

    Args:
        run: The record; the executed notebooks are read from its folder.

    Returns:
        The path of ``index.html``.

    Raises:
        RunError: A page could not be written.
    """
    try:
        for notebook in run.notebooks:
            if notebook.executed is not None:
                write_text(run.out / f"{notebook.name}.html", _notebook_page(run.out, notebook))
        write_text(run.out / INDEX, _index_page(run))
    except OSError as error:
        raise RunError(
            "KNB706",
            f"the report could not be written into {run.out}",
            why=error.strerror or str(error),
            fix="The record run.json and the executed notebooks are complete without it.",
        ) from None
    return run.out / INDEX


def _index_page(run: Run) -> str:
    good = sum(notebook.status == "succeeded" for notebook in run.notebooks)
    by = f" by {html.escape(run.interrupted_by)}" if run.interrupted_by else ""
    rows = "".join(_row(notebook) for notebook in run.notebooks)
    given = {f"{one.name}: {name}": value for one in run.notebooks for name, value in one.parameters.items()}
    body = f"""<main>
<h1>Notebook run</h1>
<p>{_status(run.status)}{by}: {good} of {len(run.notebooks)} notebooks succeeded. Started
<time datetime="{html.escape(run.started)}">{_readable(run.started)}</time>, took {run.seconds:.1f} s.</p>
<h2>Notebooks</h2>
<div class="scroll" tabindex="0" role="region" aria-label="Notebooks of this run"><table>
<caption>What became of each notebook. Memory is the largest resident size of the kernel with all it had
started.</caption> <thead><tr><th scope="col">Notebook</th><th scope="col">Status</th><th
scope="col">Seconds</th> <th scope="col">Cells run</th><th scope="col">Memory, MiB</th><th scope="col">What
happened</th></tr></thead> <tbody>{rows}</tbody></table></div>
{_pairs("Parameters", "Parameter", given)}
{_pairs("Versions", "Part", run.versions)}
<p>The whole record is in <a href="run.json">run.json</a>.</p>
</main>"""
    return _page(f"Notebook run: {run.status}", body)


def _row(one: NotebookRun) -> str:
    name = html.escape(one.name)
    link = f'<a href="{quote(one.name)}.html">{name}</a>' if one.executed else name
    what = [one.error.to_html()] if one.error else []
    if one.masked:
        what.append(f"A secret was found {one.masked} times in what it left, and masked.")
    if one.attempts > 1:
        what.append("Its kernel was started twice: the first lost a race for its ports.")
    if one.log:
        what.append(f'<a href="{quote(one.log)}">Log of {name}</a>')
    memory = "unknown" if one.peak_mib is None else f"{one.peak_mib:.0f}"
    return (
        f'<tr><th scope="row">{link}</th><td>{_status(one.status)}</td>'
        f'<td class="number">{one.seconds:.1f}</td><td class="number">{one.cells_run} of {one.cells}</td>'
        f'<td class="number">{memory}</td><td>{"<br>".join(what)}</td></tr>\n'
    )


def _readable(started: str) -> str:
    return f"{datetime.fromisoformat(started).astimezone(UTC):%Y-%m-%d %H:%M} UTC"


def _status(status: str) -> str:
    # The word carries the meaning; colour and sign only help to find it.
    sign = f'<span aria-hidden="true">{_SIGNS[status]} </span>'
    return f'<span class="status {status}">{sign}{status.replace("_", " ")}</span>'


def _pairs(title: str, what: str, pairs: Mapping[str, Any]) -> str:
    if not pairs:
        return ""
    rows = "".join(
        f'<tr><th scope="row">{html.escape(name)}</th><td><code>{html.escape(str(value))}</code></td></tr>'
        for name, value in pairs.items()
    )
    return (
        f'<h2>{title}</h2>\n<table><thead><tr><th scope="col">{what}</th>'
        f'<th scope="col">Value</th></tr></thead><tbody>{rows}</tbody></table>'
    )


def _notebook_page(out: Path, one: NotebookRun) -> str:
    import nbformat
    from nbconvert import HTMLExporter

    content = json.loads((out / f"{one.name}.ipynb").read_text(encoding="utf-8"))
    figures = sum(_prepare(cell) for cell in content["cells"])
    beside = out if one.source is None else one.source.parent
    exporter = HTMLExporter(  # type: ignore[no-untyped-call]  # typed in part
        template_name="basic", embed_images=True, exclude_anchor_links=True
    )
    node = nbformat.from_dict(content)  # type: ignore[no-untyped-call]  # typed in part
    main, _ = exporter.from_notebook_node(
        node, resources={"metadata": {"name": one.name, "path": str(beside)}}
    )
    # A page without a heading is one that a screen reader cannot name.
    heading = "" if "<h1" in main else f"<h1>{html.escape(one.name)}</h1>\n"
    body = f"""<nav aria-label="Report"><a href="{INDEX}">All notebooks of this run</a> ·
{_status(one.status)} after {one.seconds:.1f} s</nav>
<main>
{heading}{main}
</main>"""
    return _page(one.name, body, script=_plotly_script() if figures else None)


def _prepare(cell: dict[str, Any]) -> int:
    """Make a cell's outputs fit for a page without a kernel; return how many figures need plotly's script."""
    figures = 0
    cell["source"] = source_of(cell)
    for output in cell.get("outputs", []):
        data = output.get("data", {})
        for kind in [kind for kind in data if "widget" in kind]:
            del data[kind]  # a widget without its kernel shows nothing; its text says what it was
        if _PLOTLY in data:
            figure = data.pop(_PLOTLY)
            if not any(kind in data for kind in _STATIC):
                data["text/html"] = _figure(figure)
                figures += 1
            else:
                data.pop("text/html", None)
    return figures


def _figure(figure: dict[str, Any]) -> str:
    from plotly.io import to_html

    title = figure.get("layout", {}).get("title", "")
    title = (title.get("text") if isinstance(title, dict) else title) or "Figure"
    drawn = to_html(
        {key: figure[key] for key in ("data", "layout") if key in figure},
        include_plotlyjs=False,
        full_html=False,
        validate=False,
        config={"displaylogo": False, "responsive": True},
    )
    return f'<figure role="figure" aria-label="{html.escape(title)}">{drawn}</figure>'


def _plotly_script() -> str:
    from plotly.offline import get_plotlyjs

    return f"<script>{get_plotlyjs()}</script>"


def _page(title: str, body: str, *, script: str | None = None) -> str:
    from pygments.formatters import HtmlFormatter  # type: ignore[import-untyped]  # it ships no types

    light = HtmlFormatter(style="default").get_style_defs(".highlight")
    dark = HtmlFormatter(style="github-dark").get_style_defs(".highlight")
    own = files("kimi_nb.run").joinpath("report.css").read_text(encoding="utf-8")
    # Nothing may be fetched, from anywhere: what is on the page came with it.
    policy = "default-src 'none'; style-src 'unsafe-inline'; img-src data: blob:; font-src data:"
    if script is not None:
        policy += "; script-src 'unsafe-inline'"
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<title>{html.escape(title)}</title>
<style>
{light}
@media (prefers-color-scheme: dark) {{ {dark} }}
{own}</style>
{script or ""}
</head>
<body>
{body}
</body>
</html>
"""
