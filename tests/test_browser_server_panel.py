"""The server panel under a person's hands: real JupyterLab, real kernel, real Chromium, real llama-server."""

import os
import re
import signal

import psutil
import pytest
from lab_pages import (  # noqa: F401 - browser is a fixture
    Lab,
    browser,
    change_theme,
    check_panel,
    new_page,
    open_notebook,
    restart_kernel,
    save_screenshot,
    set_width,
)
from playwright.sync_api import expect
from system import gone, words_of

pytestmark = [pytest.mark.browser, pytest.mark.engine]
CELL = """import kimi_nb.panel
from kimi_nb.plan import Settings
panel = kimi_nb.panel.server(settings=Settings(ctx_size=8192, parallel=2, threads=1, cache_ram=0))
panel"""
WRITE = """import threading
from kimi_nb.engine.server_http import ServerHttp
def write(url=panel.engine.base_url, key=panel.engine.api_key):
    http = ServerHttp.at(url, key)
    try:
        while True:  # until it is stopped
            http.ask("/completion", {"prompt": "A story.", "n_predict": 400, "ignore_eos": True}, timeout_s=60)
    except OSError:
        pass
threading.Thread(target=write, daemon=True).start()"""
TITLE = "Server: start it, watch it, stop it"


@pytest.fixture(scope="module")
def lab(build, nano, tmp_path_factory):
    home = tmp_path_factory.mktemp("server-panel")
    (home / "notebooks").mkdir()
    (home / "notebooks" / "broken.gguf").write_bytes(nano.read_bytes()[:200_000])
    running = Lab(home, home / "notebooks", env={"KIMI_NB_RUNTIME": str(home / "run")})
    running.write("server.ipynb", CELL)
    yield running
    running.close()


@pytest.fixture(scope="module")
def page(lab, browser):  # noqa: F811 - as above
    """One page for all tests: opening a notebook takes longer than most of them."""
    opened, opened.wrong = new_page(browser)
    (cell,) = open_notebook(lab, opened, "server.ipynb")
    assert cell["errors"] == []
    yield opened
    opened.close()


@pytest.fixture
def panel(page):
    """The panel, with nothing running and as it was at first."""
    shown = page.get_by_role("region", name=TITLE)
    expect(state(shown)).to_be_visible()
    stop = shown.get_by_role("button", name="Stop")
    if stop.get_attribute("aria-disabled") == "false":
        stop.click()
        expect(state(shown)).to_have_text("Stopped.")
        shown.get_by_label("Search the log").fill("")
    shown.get_by_label("Model", exact=True).select_option("nano, the small model that comes with kimi-nb")
    yield shown
    assert page.wrong == []


def state(panel):
    return panel.get_by_role("group", name="The server").get_by_role("status").first


def started(panel):
    panel.get_by_role("button", name="Start", exact=True).click()
    expect(state(panel)).to_contain_text("Ready: nano answers at http://127.0.0.1:")
    return panel


def in_kernel(page, code):
    page.evaluate(
        """async code => {
        const widget = [...window.jupyterapp.shell.widgets('main')].find(w => w.context);
        await widget.context.sessionContext.session.kernel.requestExecute({code}).done;
    }""",
        code,
    )


def kernel_pid(lab):
    (kernel,) = [
        process
        for process in psutil.Process(lab.pid).children(recursive=True)
        if any("ipykernel" in word for word in words_of(process))
    ]
    return kernel.pid


def test_by_keyboard_started_searched_restarted_and_stopped(lab, page, panel):
    start = panel.get_by_role("button", name="Start", exact=True)
    panel.get_by_label("Model", exact=True).focus()
    for _ in range(12):
        if start.evaluate("at => at === document.activeElement"):
            break
        page.keyboard.press("Tab")
    expect(start).to_be_focused()
    page.keyboard.press("Enter")
    expect(state(panel)).to_contain_text("Ready: nano answers at http://127.0.0.1:")
    expect(start).to_be_focused()  # it stays where it was, and says why it does nothing now
    expect(start).to_have_attribute("aria-description", "It runs already.")
    (pid,) = lab.servers()
    expect(panel.get_by_text("0 of 2", exact=True)).to_be_visible()
    expect(panel.get_by_role("img", name=re.compile("^llama-server's RAM: .* estimated"))).to_be_visible()

    search, log = panel.get_by_label("Search the log"), panel.get_by_role("log", name="llama-server's log")
    search.focus()
    page.keyboard.type("listening on")
    expect(panel.get_by_text(re.compile(r"^1 of \d+ lines contain it\.$"))).to_be_visible()
    expect(log).to_have_text(re.compile(r"^\S.*listening on http://127\.0\.0\.1:\d+$"))
    for _ in "listening on":
        page.keyboard.press("Backspace")
    expect(log).to_contain_text("model loaded")

    address = panel.get_by_role("region", name="Base URL").inner_text()
    restart = panel.get_by_role("button", name="Restart")
    restart.focus()
    page.keyboard.press("Space")
    expect(state(panel)).not_to_contain_text("Ready")
    expect(state(panel)).to_contain_text(f"Ready: nano answers at {address}")
    assert pid not in lab.servers()
    panel.get_by_role("button", name="Stop").focus()
    page.keyboard.press("Enter")
    expect(state(panel)).to_have_text("Stopped.")
    assert lab.servers() == []


def test_what_it_does_is_shown_and_the_key_is_not(lab, page, panel):
    started(panel)
    key = next((lab.notebooks.parent / "run").glob("*.key")).read_text()
    panel.get_by_text("The key, and how to use it").click()
    expect(panel.get_by_text("It is in a file that only you can read")).to_be_visible()
    assert key not in page.content()
    in_kernel(page, WRITE)
    expect(panel.get_by_text("1 of 2", exact=True)).to_be_visible()
    expect(panel.get_by_text(re.compile(r"^[\d,.]+ tokens/s$"))).to_be_visible()
    expect(panel.get_by_text(re.compile(r"^at [\d,.]+ tokens/s an answer, on average$"))).to_be_visible()
    page.evaluate("() => window.jupyterapp.commands.execute('docmanager:save')")
    assert key not in (lab.notebooks / "server.ipynb").read_text()


def test_a_broken_model_says_why_and_what_to_do(lab, page, panel):
    panel.get_by_label("Model", exact=True).select_option("A GGUF file of mine")
    panel.get_by_label("Path of the file").fill("broken.gguf")
    panel.get_by_role("button", name="Start", exact=True).click()
    expect(state(panel)).to_contain_text("Failed: ")
    expect(panel.get_by_text(re.compile("^What to do: "))).to_be_visible()
    panel.get_by_text(re.compile("^More on KNB3")).click()
    expect(panel.get_by_text(re.compile("Traceback"))).to_have_count(0)
    save_screenshot(page, "server-failed", panel)
    panel.get_by_label("Model", exact=True).select_option("nano, the small model that comes with kimi-nb")
    started(panel)


def test_killed_from_outside_it_is_said_in_words(lab, page, panel):
    started(panel)
    (pid,) = lab.servers()
    os.kill(pid, signal.SIGKILL)
    expect(state(panel)).to_contain_text("Failed: llama-server was killed while it was running")
    expect(panel.get_by_text(re.compile("^What to do: "))).to_be_visible()
    started(panel)


def test_a_second_tab_shows_the_same_and_a_closed_one_harms_nothing(lab, page, panel, browser):  # noqa: F811
    started(panel)
    page.evaluate("() => window.jupyterapp.commands.execute('docmanager:save')")
    second = browser.new_page(viewport={"width": 1280, "height": 1500})
    wrong = []
    second.on("pageerror", lambda error: wrong.append(str(error)))
    second.goto(lab.url("server.ipynb"))
    there = second.get_by_role("region", name=TITLE)
    expect(state(there)).to_contain_text("Ready: nano answers", timeout=60_000)
    there.get_by_role("button", name="Stop").click()
    expect(state(panel)).to_have_text("Stopped.")
    started(panel)
    expect(state(there)).to_contain_text("Ready: nano answers")
    second.close()
    (pid,) = lab.servers()
    panel.get_by_label("Search the log").fill("model loaded")
    expect(panel.get_by_text(re.compile(r"^1 of \d+ lines contain it\.$"))).to_be_visible()
    assert lab.servers() == [pid]
    assert wrong == []


def test_nothing_that_axe_finds_in_either_theme_wide_or_narrow(lab, page, panel):
    started(panel)
    in_kernel(page, WRITE)
    page.evaluate("() => window.jupyterapp.commands.execute('application:toggle-left-area')")
    for look, width in (("Dark", 1060), ("Light", 1060), ("Light", 400), ("Dark", 400), ("Dark", 1060)):
        change_theme(page, look)
        set_width(page, width)
        expect(panel.get_by_text("1 of 2", exact=True)).to_be_visible()
        expect(panel.get_by_text(re.compile(r"^[\d,.]+ tokens/s$"))).to_be_visible()
        check_panel(page, panel)
        if (look, width) in {("Dark", 1060), ("Light", 1060)} and not panel.get_by_label("Name").count():
            save_screenshot(page, f"server-{look.lower()}", panel)
        if (look, width) == ("Light", 400):  # folds and all, from then on
            panel.get_by_text("The key, and how to use it").click()
            panel.get_by_text("More", exact=True).click()
            panel.get_by_label("Keep it running when this notebook ends").check()
            expect(panel.get_by_label("Name to find it by")).to_be_visible()
            expect(panel.get_by_text("Restart serves it")).to_be_visible()
    panel.get_by_label("Keep it running when this notebook ends").uncheck()


def test_a_kernel_that_is_restarted_or_killed_leaves_nothing(lab, page, panel):
    started(panel)
    (pid,) = lab.servers()
    restart_kernel(page)
    expect(panel.get_by_role("alert")).to_contain_text("Run its cell again")
    assert gone(pid)
    page.evaluate("() => window.jupyterapp.commands.execute('runmenu:run-all')")
    expect(panel.get_by_role("alert")).to_be_hidden()
    started(panel)
    (pid,) = lab.servers()
    os.kill(kernel_pid(lab), signal.SIGKILL)
    assert gone(pid)
