"""The chat panel under a person's hands: real JupyterLab, kernel and Chromium, and nano on a real llama-server."""

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

pytestmark = [pytest.mark.browser, pytest.mark.engine]
EXPERTS = "How many experts does Kimi K2.5 have?"
CELL = """
import json, os
import kimi_nb.panel
from kimi_nb.chat import tool

@tool
def get_weather(city: str) -> dict:
    \"\"\"Get the weather of a city.

    Args:
        city: name of the city
    \"\"\"
    return {"temp_c": {"Rome": 31, "Oslo": -4}[city], "sky": "sun"}

panel = kimi_nb.panel.chat(os.environ["THE_SERVER"], api_key_env="THE_KEY", tools=[get_weather])
panel.choose(sampling="steady")
panel
"""
SLOW = """
import os
import kimi_nb.panel
panel = kimi_nb.panel.chat(os.environ["SLOW_SERVER"], api_key_env="SLOW_KEY", model="slow", kind="llama-server")
panel
"""
"""One cell for a real nano, one for a server that is as slow as a large model."""


@pytest.fixture(scope="module")
def slow():
    """An engine that never comes to an end, so that it can be stopped."""
    from scripted_engine import Act, ScriptedEngine

    words = [(0.02, {"reasoning_content": f"thought{i} "}) for i in range(10)]
    words += [(0.05, {"content": f"word{i} "}) for i in range(2000)]
    with ScriptedEngine([Act(words)]) as engine:
        yield engine


@pytest.fixture(scope="module")
def lab(tmp_path_factory, server, slow):
    home = tmp_path_factory.mktemp("chat")
    (home / "notebooks").mkdir()
    env = {
        "THE_SERVER": server.base_url,
        "THE_KEY": server.api_key,
        "SLOW_SERVER": slow.base_url,
        "SLOW_KEY": slow.api_key,
        "KIMI_NB_CHATS": str(home / "chats"),
    }
    running = Lab(home, home / "notebooks", env)
    running.write("chat.ipynb", CELL)
    running.write("slow.ipynb", SLOW)
    running.chats = home / "chats"
    yield running
    running.close()


@pytest.fixture
def page(browser):  # noqa: F811 - as above
    opened, wrong = new_page(browser, height=2600)
    yield opened
    opened.close()
    assert wrong == []


def opened(lab, page, name="chat.ipynb"):
    (cell,) = open_notebook(lab, page, name)
    assert cell["errors"] == []
    panel = page.get_by_role("region", name="Chat", exact=True)
    expect(state(panel)).to_have_text("Ready.")
    return panel


def state(panel):
    return panel.get_by_role("status").filter(visible=True).first


def ask(panel, text):
    box = panel.get_by_label(re.compile("^Your message"))
    box.fill(text)
    box.press("Enter")


def replies(panel):
    return panel.get_by_role("article", name="nano", exact=True)


def test_ask_see_a_tool_call_regenerate_edit_and_reload(lab, page, server):
    panel = opened(lab, page)
    panel.get_by_text(re.compile("^Tools")).click()
    panel.get_by_role("checkbox", name=re.compile("^get_weather")).uncheck()
    ask(panel, EXPERTS)
    expect(state(panel)).to_contain_text("Answered.")
    answer = replies(panel).last
    expect(answer).to_contain_text("384 experts")
    thought = answer.locator("details p").first
    expect(thought).to_be_hidden()  # folded away, but there
    answer.get_by_text(re.compile("^Thinking")).click()
    expect(thought).to_be_visible()
    expect(answer).to_contain_text(
        re.compile(r"First token after [\d.]+ s, first answer token after [\d.]+ s, [\d,.]+ tokens/s")
    )
    expect(panel.get_by_label(re.compile("^Your message"))).to_have_value("")

    panel.get_by_role("button", name="Regenerate", exact=True).click()
    expect(panel.get_by_text("Earlier answers (1)")).to_be_visible()
    expect(state(panel)).to_contain_text("Answered.")

    panel.get_by_role("checkbox", name=re.compile("^get_weather")).check()
    panel.get_by_label("Mode", exact=True).select_option("Instant")
    panel.get_by_role("button", name="New", exact=True).click()
    ask(panel, "What is the weather in Rome?")
    expect(panel.get_by_text(re.compile("^Tool get_weather: done"))).to_be_visible()
    expect(panel.get_by_text('Arguments: {"city":"Rome"}')).to_be_visible()
    expect(panel.get_by_text('Result: {"temp_c":31,"sky":"sun"}')).to_be_visible()
    expect(replies(panel).last).to_contain_text("In Rome it is 31")
    expect(state(panel)).to_have_text("Answered.")

    panel.get_by_role("button", name="Edit", exact=True).last.focus()
    page.keyboard.press("Enter")
    box = panel.get_by_label("Edit your message")
    expect(box).to_be_focused()
    box.press("Tab")
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")  # leave it
    expect(panel.get_by_role("button", name="Edit", exact=True).last).to_be_focused()
    page.keyboard.press("Enter")
    expect(box).to_be_focused()
    box.fill("What is the weather in Oslo?")
    box.press("Enter")
    expect(panel.get_by_text('Arguments: {"city":"Oslo"}')).to_be_visible()
    expect(panel.get_by_text('Arguments: {"city":"Rome"}')).to_have_count(0)
    expect(state(panel)).to_contain_text("Answered.")

    no_key_in_the_programs(panel, server.api_key)
    page.evaluate("() => window.jupyterapp.commands.execute('docmanager:save')")
    page.goto("about:blank")
    page.goto(lab.url("chat.ipynb"))  # the kernel lives, and nothing is run again
    panel = page.get_by_role("region", name="Chat", exact=True)
    expect(panel.get_by_text('Arguments: {"city":"Oslo"}')).to_be_visible(timeout=60_000)
    ask(panel, "Who are you?")
    expect(panel.get_by_role("article")).to_have_count(4)
    expect(state(panel)).to_contain_text("Answered.")


def no_key_in_the_programs(panel, key):
    panel.get_by_text("As a program").click()
    for language, words in (("curl", "$LLAMA"), ("Python", "os.environ"), ("JavaScript", "process.env")):
        panel.get_by_label("Copy as").select_option(language)
        program = panel.get_by_role("region", name=f"The last question, {language}")
        expect(program).to_contain_text(words.replace("$LLAMA", '"$THE_KEY"'))
        expect(program).to_contain_text("THE_KEY")
        assert key not in panel.page.content()


def test_a_restarted_kernel_finds_every_conversation_again(lab, page):
    panel = opened(lab, page)
    ask(panel, "What is 3 + 4?")
    expect(state(panel)).to_contain_text("Answered.")
    restart_kernel(page)
    expect(panel.get_by_role("alert")).to_contain_text("Run its cell again")
    panel = opened(lab, page)
    expect(panel.get_by_text("Nothing asked yet.")).to_be_visible()
    pick = panel.get_by_label("Conversation", exact=True)
    kept = pick.locator("option", has_text="What is 3 + 4?").first.get_attribute("value")
    pick.select_option(kept)
    expect(replies(panel).last).to_contain_text("7")
    panel.get_by_role("button", name="Delete", exact=True).click()
    panel.get_by_role("button", name="No, keep it").click()
    assert (lab.chats / f"{kept}.json").is_file()
    panel.get_by_role("button", name="Delete", exact=True).click()
    panel.get_by_role("button", name="Yes, delete it").click()
    expect(panel.get_by_text("Nothing asked yet.")).to_be_visible()
    assert not (lab.chats / f"{kept}.json").exists()


def test_stop_by_keyboard_alone_and_what_came_is_kept(lab, page, slow):
    panel = opened(lab, page, "slow.ipynb")
    box = panel.get_by_label(re.compile("^Your message"))
    box.focus()
    page.keyboard.type("abjk")  # each of them is a command of JupyterLab's
    page.keyboard.press("Shift+Enter")
    page.keyboard.type("Go on")
    page.keyboard.press("Enter")
    expect(panel.get_by_role("article", name="You")).to_contain_text("abjk\nGo on")
    expect(state(panel)).to_have_text("Answering …")
    expect(panel.get_by_role("article", name="slow")).to_contain_text("word3 ")
    expect(panel.get_by_role("button", name="Send", exact=True)).to_have_attribute("aria-disabled", "true")
    gone = slow.clients_gone
    for _ in range(6):  # mode, send, stop
        page.keyboard.press("Tab")
        if page.evaluate("() => document.activeElement.textContent") == "Stop":
            break
    page.keyboard.press("Enter")
    expect(panel.get_by_text("You stopped this answer.")).to_be_visible()
    expect(panel.get_by_role("button", name="Stop", exact=True)).to_be_focused()
    expect(panel.get_by_role("button", name="Stop", exact=True)).to_have_attribute("aria-disabled", "true")
    for _ in range(200):
        if slow.clients_gone > gone:
            break
        page.wait_for_timeout(50)
    assert slow.clients_gone == gone + 1  # the connection is closed, and with it the slot is free
    expect(panel.get_by_role("article", name="slow")).to_contain_text("word3 ")


def test_two_tabs_show_the_same_stream(lab, page, browser):  # noqa: F811 - as above
    panel = opened(lab, page, "slow.ipynb")
    page.evaluate("() => window.jupyterapp.commands.execute('docmanager:save')")
    second = browser.new_page()
    wrong = []
    second.on("pageerror", lambda error: wrong.append(str(error)))
    ask(panel, "Go on")
    expect(panel.get_by_role("article", name="slow")).to_contain_text("word1 ")
    second.goto(lab.url("slow.ipynb"))  # in the middle of the answer
    there = second.get_by_role("region", name="Chat", exact=True)
    expect(there.get_by_role("article", name="slow")).to_contain_text("word40 ", timeout=60_000)
    there.get_by_role("button", name="Stop", exact=True).click()
    expect(panel.get_by_text("You stopped this answer.")).to_be_visible()
    expect(there.get_by_text("You stopped this answer.")).to_be_visible()
    shown = [each.get_by_role("article", name="slow").inner_text() for each in (panel, there)]
    assert shown[0] == shown[1]
    second.close()
    assert wrong == []


def test_nothing_that_axe_finds_in_either_theme_wide_or_narrow(lab, page):
    panel = opened(lab, page)
    page.evaluate("() => window.jupyterapp.commands.execute('application:toggle-left-area')")
    ask(panel, EXPERTS)
    expect(state(panel)).to_contain_text("Answered.")
    panel.get_by_text(re.compile("^Thinking")).first.click()
    ask(panel, "What is the weather in Rome?")
    expect(replies(panel).nth(1)).to_contain_text(re.compile("tokens/s.*tokens/s", re.DOTALL))
    expect(state(panel)).to_contain_text("Answered.")
    set_width(page, 1000)
    for look in ("Dark", "Light"):
        change_theme(page, look)
        save_screenshot(page, f"chat-{look.lower()}", panel)
    for fold in ("Settings", re.compile("^Tools"), "As a program"):
        panel.get_by_text(fold).first.click()
    panel.get_by_label("Sampling").select_option("My own")
    expect(panel.get_by_label("Top-p")).to_be_visible()
    panel.get_by_role("button", name="Edit", exact=True).first.click()
    expect(panel.get_by_label("Edit your message")).to_be_visible()
    panel.get_by_role("button", name="Delete", exact=True).click()
    expect(panel.get_by_text("Delete this conversation for good?")).to_be_visible()
    for look in ("Light", "Dark"):
        change_theme(page, look)
        for width in (400, 1000):
            set_width(page, width)
            check_panel(page, panel)
