"""The dashboard under a person's hands: from the plan to an answer, in real JupyterLab and real Chromium."""

import re

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
from system import gone

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
        save_screenshot(page, f"dashboard-{look.lower()}", dashboard)
    tab(page, "Server").click()
    panel.get_by_role("button", name="Stop").click()
    expect(tab(page, "Server")).to_contain_text("Stopped")


def test_nothing_that_axe_finds(page, dashboard):
    page.evaluate("() => window.jupyterapp.commands.execute('application:toggle-left-area')")
    # Each panel's own test looks at it in both themes at both widths.
    for look, width in (("Light", 1060), ("Dark", 400)):
        change_theme(page, look)
        set_width(page, width, ".knb-dashboard")
        for name in ("Plan", "Download", "Server", "Chat"):
            tab(page, name).click()
            expect(page.get_by_role("tabpanel", name=re.compile(name))).to_be_visible()
            check_panel(page, dashboard, ".knb-dashboard")


def test_a_restarted_kernel_leaves_no_server_and_says_so(lab, page, dashboard):
    tab(page, "Server").click()
    page.get_by_role("button", name="Start", exact=True).click()
    expect(tab(page, "Server")).to_contain_text("Ready")
    (pid,) = lab.servers()
    restart_kernel(page)
    expect(dashboard.get_by_role("alert")).to_contain_text("Run its cell again")
    assert gone(pid)
    page.evaluate("() => window.jupyterapp.commands.execute('runmenu:run-all')")
    expect(tab(page, "Server")).to_contain_text("No server runs here")
