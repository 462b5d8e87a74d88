"""A person opens a notebook in JupyterLab and runs all of it: real JupyterLab, real kernel, real Chromium."""

import shutil
from pathlib import Path

import pytest
from lab_pages import ROOT, Lab, browser, check_access, open_notebook, save_screenshot  # noqa: F401 - browser is a fixture

from kimi_nb.panel import nodes, still
from kimi_nb.run import html_report, run_notebooks

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    home = tmp_path_factory.mktemp("lab")
    shutil.copytree(ROOT / "notebooks", home / "notebooks")
    running = Lab(home, home / "notebooks")
    yield running
    running.close()


@pytest.mark.parametrize("name", ["01_setup.ipynb", "02_hardware_check.ipynb", "06_tool_calls.ipynb"])
def test_run_all_in_jupyterlab_runs_every_cell_without_an_error(build, nano, lab, browser, name, tmp_path):  # noqa: F811 - as above
    page = browser.new_page(viewport={"width": 1280, "height": 1600})
    page.set_default_timeout(180_000)
    try:
        cells = open_notebook(lab, page, name)
        assert len(cells) > 5
        assert [cell["errors"] for cell in cells if cell["errors"]] == []
        assert [cell["count"] for cell in cells] == list(range(1, len(cells) + 1))
    finally:
        save_screenshot(page, Path(name).stem)
        page.close()


def test_a_report_with_a_still_panel_can_be_read_in_light_and_in_dark(browser, lab, tmp_path):  # noqa: F811 - as above
    """In a dark report the head of a still panel's table was dark on dark."""
    parts = [
        nodes.heading("A panel"),
        nodes.text("It goes well.", tone="good"),
        nodes.text("Mind that.", tone="warn"),
        nodes.text("It failed.", tone="bad"),
        nodes.table("Models here", ["name", "size"], [["nano", "19.5 MB"]]),
        nodes.code("The command", "llama-server"),
    ]
    (tmp_path / "panel.html").write_text(still.as_html(parts))
    lab.write(
        "still.ipynb", f"from IPython.display import HTML\nHTML(filename={str(tmp_path / 'panel.html')!r})"
    )
    report = html_report(run_notebooks([lab.notebooks / "still.ipynb"], out=tmp_path / "run"))
    for scheme in ("light", "dark"):
        for name in (report, report.with_name("still.html")):
            page = browser.new_page(
                viewport={"width": 1280, "height": 900}, color_scheme=scheme, bypass_csp=True
            )
            page.goto(name.as_uri())
            assert check_access(page)
            page.close()
