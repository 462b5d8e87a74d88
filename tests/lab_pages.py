"""A real JupyterLab and a real Chromium, and a person's hands in them."""

import json
import os
import re
import shutil
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
from system import alive

ROOT = Path(__file__).parents[1]
TOKEN = "a-token-for-this-test"
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


class Lab:
    """A JupyterLab over a folder of notebooks, with nothing of this user's own settings."""

    def __init__(self, home, notebooks, env=None):
        self.notebooks = notebooks
        settings = home / "config" / "labconfig"
        settings.mkdir(parents=True)
        news = {"disabledExtensions": {"@jupyterlab/apputils-extension:announcements": True}}
        (settings / "page_config.json").write_text(json.dumps(news))
        clean = os.environ | {
            "JUPYTER_CONFIG_DIR": str(home / "config"),
            "JUPYTER_DATA_DIR": str(home / "data"),
            "JUPYTER_RUNTIME_DIR": str(home / "runtime"),
            "IPYTHONDIR": str(home / "ipython"),
            "JUPYTER_TOKEN": TOKEN,
        }
        self._log = home / "lab.log"
        self._file = self._log.open("w")
        self._process = subprocess.Popen(
            [sys.executable, "-m", "jupyter", "lab", "--no-browser", "--ServerApp.ip=127.0.0.1", "--ServerApp.port=0",
             "--ServerApp.allow_root=True", f"--ServerApp.root_dir={notebooks}", "--LabApp.expose_app_in_browser=True"],
            env=clean | (env or {}), stdout=self._file, stderr=subprocess.STDOUT,
        )  # fmt: skip
        try:
            self.address = self._found_address()
        except BaseException:
            self.close()
            raise

    def _found_address(self):
        for _ in range(1800):  # a busy machine needs its time
            said = self._log.read_text()
            if found := re.search(r"http://127\.0\.0\.1:(\d+)/lab", said):
                return f"http://127.0.0.1:{found[1]}"
            assert self._process.poll() is None, said
            time.sleep(0.1)
        raise AssertionError(said)

    @property
    def pid(self):
        return self._process.pid

    def url(self, name):
        return f"{self.address}/lab/tree/{name}?reset&token={TOKEN}"

    def write(self, name, *cells):
        """Write a notebook of code cells."""
        code = {"cell_type": "code", "metadata": {}, "execution_count": None, "outputs": []}
        book = {
            "cells": [code | {"id": f"cell-{i}", "source": text} for i, text in enumerate(cells)],
            "metadata": {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}},
            "nbformat": 4,
            "nbformat_minor": 5,
        }
        (self.notebooks / name).write_text(json.dumps(book))

    def servers(self):
        """Return the process ids of the llama-servers beneath it."""
        found = []
        for process in psutil.Process(self.pid).children(recursive=True):
            with suppress(psutil.Error):  # it has ended meanwhile
                if process.name() == "llama-server" and alive(process.pid):
                    found.append(process.pid)
        return found

    def close(self):
        self._process.terminate()
        self._process.wait(30)
        self._file.close()


def open_notebook(lab, page, name):
    """Open a notebook and run all of it; return what its code cells did."""
    page.goto(lab.url(name))
    page.wait_for_function("() => window.jupyterapp !== undefined")
    return page.evaluate(RUN_ALL, name)


@pytest.fixture(scope="module")
def browser():
    # Of a module and not of the session: while it is open, asyncio.run() is refused in this thread.
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        running = playwright.chromium.launch(
            executable_path=chromium(),
            args=["--no-sandbox", "--disable-dev-shm-usage", "--disable-background-networking"],
        )
        yield running
        running.close()


def new_page(browser, width=1280, height=1500):
    """Open an empty page; return it, and the list that gets every error which nobody caught on it."""
    from playwright.sync_api import expect

    page = browser.new_page(viewport={"width": width, "height": height})
    page.set_default_timeout(60_000)
    expect.set_options(timeout=20_000)
    wrong = []
    page.on("pageerror", lambda error: wrong.append(str(error)))
    return page, wrong


def change_theme(page, look):
    """Change JupyterLab's theme: "Light" or "Dark"."""
    page.evaluate(
        "name => window.jupyterapp.commands.execute('apputils:change-theme', {theme: name})",
        f"JupyterLab {look}",
    )
    page.wait_for_selector(
        f"body[data-jp-theme-light={'true' if look == 'Light' else 'false'}]", state="attached"
    )
    # Meanwhile JupyterLab shows a splash. It takes that away 200 ms later, and once more, with an error on the
    # page, if another change came in between.
    page.wait_for_selector("#jupyterlab-splash", state="detached")


def set_width(page, width, what=".knb"):
    """Give what the selector names so many pixels, as a narrow or a wide notebook would."""
    page.evaluate(
        "([what, width]) => { document.querySelector(what).parentElement.style.width = width + 'px'; }",
        [what, width],
    )


def check_access(page, what=None):
    """Assert that axe finds nothing wrong on a page, or in what the selector names; return what it found right."""
    from axe_playwright_python.sync_playwright import Axe

    only = {"runOnly": {"type": "tag", "values": ["wcag2a", "wcag2aa"]}}
    found = Axe().run(page, context=what, options=only).response
    assert [(one["id"], [node["target"] for node in one["nodes"]]) for one in found["violations"]] == []
    return found["passes"]


def check_panel(page, panel, what=".knb"):
    """Assert that axe finds nothing wrong in a panel, which the selector names too, and that nothing sticks out."""
    assert len(check_access(page, what)) > 10
    assert panel.evaluate("at => at.scrollWidth <= at.clientWidth + 1")


def restart_kernel(page):
    """Restart the kernel of the notebook that is open."""
    page.evaluate("""async () => {
        const widget = [...window.jupyterapp.shell.widgets('main')].find(w => w.context);
        await widget.context.sessionContext.session.kernel.restart();
    }""")


def save_screenshot(page, name, panel=None):
    """Keep a picture of a panel, or of the page, where KIMI_NB_SCREENSHOTS names a folder for it."""
    if shots := os.environ.get("KIMI_NB_SCREENSHOTS"):
        Path(shots).mkdir(parents=True, exist_ok=True)
        if panel is not None:
            page.set_viewport_size({"width": 1500, "height": int(panel.bounding_box()["height"]) + 300})
            panel.evaluate("() => document.activeElement.blur()")
        (panel or page).screenshot(path=f"{shots}/{name}.png", animations="disabled")
