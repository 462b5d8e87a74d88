"""The report of a run can be read by everyone, offline."""

import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest

from kimi_nb.errors import RunError
from kimi_nb.run import Failure, NotebookRun, Run, html_report, run_notebooks

NOTEBOOKS = Path(__file__).parent / "notebooks"


class Page(HTMLParser):
    """What a page is made of."""

    def __init__(self, path):
        super().__init__()
        self.tags = []
        self.text = path.read_text(encoding="utf-8")
        self.feed(self.text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def all(self, tag):
        return [attributes for name, attributes in self.tags if name == tag]


def accessible(page):
    """What every page must have, whatever it shows."""
    assert page.text.startswith("<!DOCTYPE html>")
    assert page.all("html") == [{"lang": "en"}]
    assert len(page.all("title")) == len(page.all("main")) == 1
    assert len(page.all("h1")) == 1
    assert all(cell.get("scope") in {"col", "row"} for cell in page.all("th"))
    assert all(image.get("alt") for image in page.all("img"))
    [policy] = [meta["content"] for meta in page.all("meta") if "http-equiv" in meta]
    assert policy.startswith("default-src 'none'")
    assert "http" not in policy


@pytest.fixture
def made(tmp_path):
    """A run that nobody made: one notebook of each status."""
    cell = {"cell_type": "code", "id": "a", "metadata": {}, "execution_count": 1, "source": ["x = 1\n", "x"]}
    outputs = [{"output_type": "stream", "name": "stderr", "text": "\x1b[31m<red>\x1b[0m"}]
    for name in ("01_good", "02_bad & worse"):
        content = {
            "cells": [{**cell, "outputs": outputs}],
            "metadata": {},
            "nbformat": 4,
            "nbformat_minor": 5,
        }
        (tmp_path / f"{name}.ipynb").write_text(json.dumps(content))
    error = Failure("KNB711", "ValueError", "<b>& no", 0, "x = 1", "See there.")
    return Run(
        "interrupted",
        (
            NotebookRun(
                "01_good",
                "succeeded",
                1.25,
                cells=1,
                cells_run=1,
                peak_mib=80.4,
                executed="01_good.ipynb",
                masked=1,
            ),
            NotebookRun(
                "02_bad & worse", "failed", 2, error, {"ctx": 12}, executed="02_bad & worse.ipynb", attempts=2
            ),
            NotebookRun("03_cut", "interrupted", 3),
            NotebookRun("04_never", "not_run"),
        ),
        tmp_path,
        "2026-01-02T03:04:05+00:00",
        6.25,
        {"python": "3.11"},
        "SIGINT",
    )


def test_the_index_says_what_became_of_each_notebook(made):
    page = Page(html_report(made))
    accessible(page)
    for words in ("succeeded", "failed", "interrupted", "not run", "by SIGINT", "1 of 4 notebooks"):
        assert words in page.text
    assert (
        "KNB711: ValueError in the cell that begins <code>x = 1</code>: &lt;b&gt;&amp; no. See there."
        in page.text
    )
    assert "<b>" not in page.text
    links = [link["href"] for link in page.all("a")]
    assert links == ["01_good.html", "02_bad%20%26%20worse.html", "run.json"]  # quoted, as addresses are
    assert (made.out / "02_bad & worse.html").exists()
    assert "02_bad &amp; worse: ctx" in page.text


def test_a_notebooks_page_shows_its_cells_and_links_back(made):
    html_report(made)
    page = Page(made.out / "01_good.html")
    accessible(page)
    assert page.all("a")[0]["href"] == "index.html"
    assert 'class="ansi-red-fg">&lt;red&gt;' in page.text
    assert not page.all("script")


def test_a_report_that_cannot_be_written_is_one_line_and_harms_nothing(made):
    (made.out / "index.html").mkdir()
    (made.out / "index.html" / "mine").touch()
    with pytest.raises(RunError, match="KNB706: the report could not be written"):
        html_report(made)
    assert (made.out / "index.html" / "mine").exists()


def test_an_image_beside_the_notebook_is_put_into_the_page(made, tmp_path):
    folder = tmp_path / "given"
    folder.mkdir()
    (folder / "dot.png").write_bytes(b"\x89PNG")
    content = json.loads((made.out / "01_good.ipynb").read_text())
    content["cells"].append(
        {"cell_type": "markdown", "id": "b", "metadata": {}, "source": "# One\n![a dot](dot.png)"}
    )
    (made.out / "01_good.ipynb").write_text(json.dumps(content))
    one = replace(made.notebooks[0], source=folder / "01_good.ipynb")
    html_report(replace(made, notebooks=(one,)))
    page = Page(made.out / "01_good.html")
    accessible(page)
    assert page.all("img")[0]["src"].startswith("data:image/png;base64,")


@pytest.mark.notebooks
def test_figures_show_without_a_network(tmp_path):
    """plotly leaves only its own format, which nbconvert drops, and its pages name a server for the script."""
    run = run_notebooks([NOTEBOOKS / "shows_a_figure.ipynb"], out=tmp_path)
    assert run.status == "succeeded"
    html_report(run)
    page = Page(tmp_path / "shows_a_figure.html")
    assert page.all("figure") == [{"role": "figure", "aria-label": "Tokens <per> second"}]
    assert "plotly.js v" in page.text
    assert "Plotly.newPlot" in page.text
    # What a cell's own HTML names elsewhere stays unfetched, by the page's policy.
    [policy] = [meta["content"] for meta in page.all("meta") if "http-equiv" in meta]
    assert re.search(r"script-src 'unsafe-inline'(;|$)", policy)
    assert re.search(r"img-src data: blob:(;|$)", policy)
    # A widget without its kernel is told in words.
    assert "IntSlider(" in page.text
    assert "widget-view" not in page.text.split("<main>")[1]
