"""The dashboard under a person's hands: from the plan to an answer, in real JupyterLab and real Chromium."""

import re

import psutil
import pytest
from lab_pages import Lab, browser, change_theme, new_page, open_notebook, save_screenshot  # noqa: F401 - browser is a fixture
from playwright.sync_api import expect

pytestmark = [pytest.mark.browser, pytest.mark.engine]
CELL = """import kimi_nb.panel
from kimi_nb.plan import Settings
dashboard = kimi_nb.panel.dashboard(settings=Settings(threads=1, cache_ram=0), endpoint="http://127.0.0.1:9")
dashboard"""


@pytest.fixture(scope="module")
def lab(build, nano, tmp_path_factory):
    home = tmp_path_factory.mktemp("dashboard")
    (home / "notebooks").mkdir()
    (home / "models").mkdir()
    places = {"KIMI_NB_RUNTIME": "run", "KIMI_NB_CHATS": "chats", "KIMI_NB_MODELS": "models"}
    running = Lab(home, home / "notebooks", env={name: str(home / at) for name, at in places.items()})
    running.write("dashboard.ipynb", CELL)
    yield running
    running.close()


@pytest.fixture(scope="module")
def page(lab, browser):  # noqa: F811 - as above
    opened, opened.wrong = new_page(browser)
    (cell,) = open_notebook(lab, opened, "dashboard.ipynb")
    assert cell["errors"] == []
    yield opened
    opened.close()


@pytest.fixture
def dashboard(page):
    """All tests share one page, in their order."""
    expect(tab(page, "Plan")).to_contain_text("Fits")
    yield page.locator(".knb-dashboard")
    assert page.wrong == []


def tab(page, name):
    return page.get_by_role("tab", name=re.compile(name))


def test_from_the_plan_to_an_answer_by_keyboard(page, dashboard):
    first = tab(page, "Plan")
    expect(first).to_have_attribute("aria-selected", "true")
    expect(dashboard.get_by_role("tabpanel")).to_have_count(1)  # the others are hidden from everybody
    slots = page.get_by_role("slider", name="Slots", exact=True)
    slots.focus()
    page.keyboard.press("ArrowRight")
    expect(slots).to_have_attribute("aria-valuetext", "2 at once")
    first.focus()
    # The arrows would go to the next cell if JupyterLab got them.
    for name, to in (
        ("End", "Chat"),
        ("ArrowRight", "Plan"),
        ("ArrowRight", "Download"),
        ("ArrowRight", "Server"),
    ):
        page.keyboard.press(name)
        expect(tab(page, to)).to_be_focused()
        expect(tab(page, to)).to_have_attribute("aria-selected", "true")
    panel = page.get_by_role("tabpanel", name=re.compile("Server"))
    expect(panel.get_by_text(re.compile("^nano: .* 2 slots"))).to_be_visible()
    panel.get_by_role("button", name="Start", exact=True).focus()
    page.keyboard.press("Enter")
    expect(tab(page, "Server")).to_contain_text("Ready")
    tab(page, "Server").focus()
    page.keyboard.press("ArrowRight")
    chat = page.get_by_role("tabpanel", name=re.compile("Chat"))
    expect(chat.get_by_text(re.compile("^nano, llama-server at"))).to_be_visible()
    chat.get_by_label(re.compile("^Your message")).focus()
    page.keyboard.type("What is 3 + 4?")
    page.keyboard.press("Enter")
    expect(tab(page, "Chat")).to_contain_text("Answered")
    for look in ("Dark", "Light"):
        change_theme(page, look)
        save_screenshot(page, dashboard, f"dashboard-{look.lower()}")
    tab(page, "Server").click()
    panel.get_by_role("button", name="Stop").click()
    expect(tab(page, "Server")).to_contain_text("Stopped")


def test_nothing_that_axe_finds(page, dashboard):
    from axe_playwright_python.sync_playwright import Axe

    only = {"runOnly": {"type": "tag", "values": ["wcag2a", "wcag2aa"]}}
    page.evaluate("() => window.jupyterapp.commands.execute('application:toggle-left-area')")
    # Each panel's own test looks at it in both themes at both widths.
    for look, width in (("Light", 1060), ("Dark", 400)):
        change_theme(page, look)
        page.evaluate(
            "width => { document.querySelector('.knb-dashboard').parentElement.style.width = width + 'px'; }",
            width,
        )
        for name in ("Plan", "Download", "Server", "Chat"):
            tab(page, name).click()
            expect(page.get_by_role("tabpanel", name=re.compile(name))).to_be_visible()
            found = Axe().run(page, context=".knb-dashboard", options=only).response
            wrong = [(one["id"], [node["target"] for node in one["nodes"]]) for one in found["violations"]]
            assert wrong == []
            assert len(found["passes"]) > 10
            assert dashboard.evaluate("at => at.scrollWidth <= at.clientWidth + 1")


def test_a_restarted_kernel_leaves_no_server_and_says_so(lab, page, dashboard):
    tab(page, "Server").click()
    page.get_by_role("button", name="Start", exact=True).click()
    expect(tab(page, "Server")).to_contain_text("Ready")
    servers = [
        process
        for process in psutil.Process(lab._process.pid).children(recursive=True)
        if process.name() == "llama-server"
    ]
    assert len(servers) == 1
    page.evaluate("""async () => {
        const widget = [...window.jupyterapp.shell.widgets('main')].find(w => w.context);
        await widget.context.sessionContext.session.kernel.restart();
    }""")
    expect(dashboard.get_by_role("alert")).to_contain_text("Run its cell again")
    assert psutil.wait_procs(servers, timeout=10)[1] == []
    page.evaluate("() => window.jupyterapp.commands.execute('runmenu:run-all')")
    expect(tab(page, "Server")).to_contain_text("No server runs here")
