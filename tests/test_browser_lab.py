"""A person opens a notebook in JupyterLab and runs all of it: real JupyterLab, real kernel, real Chromium."""

import os
import shutil
from pathlib import Path

import pytest
from lab_pages import ROOT, Lab, browser, open_notebook  # noqa: F401 - browser is a fixture

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
        if shots := os.environ.get("KIMI_NB_SCREENSHOTS"):
            Path(shots).mkdir(parents=True, exist_ok=True)
            page.screenshot(path=f"{shots}/{Path(name).stem}.png")
        page.close()
