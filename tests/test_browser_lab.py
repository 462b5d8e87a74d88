"""A person opens a notebook in JupyterLab and runs all of it: real JupyterLab, real kernel, real Chromium."""

import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytestmark = pytest.mark.browser

ROOT = Path(__file__).parents[1]
RUN_ALL = """async path => {
    const app = window.jupyterapp;
    await app.restored;
    let widget = null;
    for (let tries = 0; tries < 300 && !widget; tries++) {
        widget = [...app.shell.widgets('main')].find(w => w.context && w.context.path === path) ?? null;
        if (!widget) await new Promise(done => setTimeout(done, 100));
    }
    await widget.context.ready;
    await widget.context.sessionContext.ready;
    app.shell.activateById(widget.id);
    await app.commands.execute('runmenu:run-all');
    const cells = widget.content.widgets.filter(cell => cell.model.type === 'code').map(cell => cell.model);
    return cells.map(model => ({
        count: model.executionCount,
        errors: [...Array(model.outputs.length).keys()].map(i => model.outputs.get(i).toJSON())
            .filter(output => output.output_type === 'error').map(output => output.ename + ': ' + output.evalue),
    }));
}"""


def chromium():
    for name in (os.environ.get("KIMI_NB_CHROMIUM"), "chromium", "chromium-browser", "google-chrome"):
        if name and (found := shutil.which(name)):
            return found
    pytest.skip("NO CHROMIUM: browser tests did not run; install chromium or name one in KIMI_NB_CHROMIUM")


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    home = tmp_path_factory.mktemp("lab")
    notebooks = home / "notebooks"
    shutil.copytree(ROOT / "notebooks", notebooks)
    settings = home / "config" / "labconfig"
    settings.mkdir(parents=True)
    news = {"disabledExtensions": {"@jupyterlab/apputils-extension:announcements": True}}
    (settings / "page_config.json").write_text(json.dumps(news))
    env = os.environ | {
        "JUPYTER_CONFIG_DIR": str(home / "config"),
        "JUPYTER_DATA_DIR": str(home / "data"),
        "JUPYTER_RUNTIME_DIR": str(home / "runtime"),
        "IPYTHONDIR": str(home / "ipython"),
        "JUPYTER_TOKEN": "a-token-for-this-test",
    }
    log = (home / "lab.log").open("w")
    process = subprocess.Popen(
        [sys.executable, "-m", "jupyter", "lab", "--no-browser", "--ServerApp.ip=127.0.0.1", "--ServerApp.port=0",
         "--ServerApp.allow_root=True", f"--ServerApp.root_dir={notebooks}", "--LabApp.expose_app_in_browser=True"],
        env=env, stdout=log, stderr=subprocess.STDOUT,
    )  # fmt: skip
    try:
        for _ in range(600):
            said = (home / "lab.log").read_text()
            if found := re.search(r"http://127\.0\.0\.1:(\d+)/lab", said):
                break
            assert process.poll() is None, said
            time.sleep(0.1)
        else:
            raise AssertionError(said)
        yield f"http://127.0.0.1:{found[1]}"
    finally:
        process.terminate()
        process.wait(30)
        log.close()


@pytest.fixture(scope="module")
def browser():
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        running = playwright.chromium.launch(
            executable_path=chromium(),
            args=["--no-sandbox", "--disable-dev-shm-usage", "--disable-background-networking"],
        )
        yield running
        running.close()


@pytest.mark.parametrize("name", ["01_setup.ipynb", "02_hardware_check.ipynb", "06_tool_calls.ipynb"])
def test_run_all_in_jupyterlab_runs_every_cell_without_an_error(build, nano, lab, browser, name, tmp_path):
    page = browser.new_page(viewport={"width": 1280, "height": 1600})
    page.set_default_timeout(180_000)
    try:
        page.goto(f"{lab}/lab/tree/{name}?reset&token=a-token-for-this-test")
        page.wait_for_function("() => window.jupyterapp !== undefined")
        cells = page.evaluate(RUN_ALL, name)
        assert len(cells) > 5
        assert [cell["errors"] for cell in cells if cell["errors"]] == []
        assert [cell["count"] for cell in cells] == list(range(1, len(cells) + 1))
    finally:
        if shots := os.environ.get("KIMI_NB_SCREENSHOTS"):
            Path(shots).mkdir(parents=True, exist_ok=True)
            page.screenshot(path=f"{shots}/{Path(name).stem}.png")
        page.close()
