"""The download panel under a person's hands: real JupyterLab, kernel and Chromium, and a Hub on this machine."""

import os
import re
import signal

import pytest
from faulty_hub import MIB, REPO, Fault, FaultyHub, make_repo, same_files
from lab_pages import (  # noqa: F401 - browser is a fixture
    RUN_ALL,
    Lab,
    browser,
    change_theme,
    check_panel,
    new_page,
    open_notebook,
    save_screenshot,
    set_width,
)
from playwright.sync_api import expect
from system import wait_until

from kimi_nb.engine.download import download
from kimi_nb.engine.fetch.part import WINDOW
from kimi_nb.nano.make import make_nano

pytestmark = [pytest.mark.browser, pytest.mark.engine]
NANO = "local/nano-GGUF"
TITLE = "Download: what comes, and whether it is whole"


@pytest.fixture(scope="module")
def repos(build, tmp_path_factory):
    """Nano in two shards, the larger of them of more than one window; and small files to break."""
    repos = tmp_path_factory.mktemp("hub") / "repos"
    make_nano(repos / NANO / "Q8_0", shards=2, build=build)
    make_repo(repos / REPO, shards=2, mib=2)
    return repos


@pytest.fixture
def hub(repos):
    with FaultyHub(repos) as running:
        running.licenses[NANO] = "mit"
        yield running


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    home = tmp_path_factory.mktemp("download-panel")
    (home / "notebooks").mkdir()
    running = Lab(home, home / "notebooks", env={"HF_HUB_DISABLE_IMPLICIT_TOKEN": "1"})
    yield running
    running.close()


@pytest.fixture
def page(browser):  # noqa: F811 - as above
    opened, wrong = new_page(browser, height=1400)
    yield opened
    opened.close()
    assert wrong == []


def write(lab, hub, name, repo, quant, *, rate=None):
    """Write a notebook that shows the panel, with models in a folder beside it; return that folder."""
    folder = lab.notebooks / f"models-{name.removesuffix('.ipynb')}"
    lab.write(
        name,
        "import os\n"
        "from pathlib import Path\n"
        "import kimi_nb.panel\n"
        "from kimi_nb.engine.download import Options\n"
        f"Path('{name}.pid').write_text(str(os.getpid()))\n"
        f"options = Options(limit_bytes_s={rate}, backoff_s=0.05, refusals=1)\n"
        f"kimi_nb.panel.download({repo!r}, {quant!r}, folder={str(folder)!r}, endpoint={hub.endpoint!r}, options=options)",
    )
    return folder


def opened(lab, page, name):
    (cell,) = open_notebook(lab, page, name)
    assert cell["errors"] == []
    panel = page.get_by_role("region", name=TITLE)
    expect(panel.get_by_role("group", name="What would be fetched")).to_contain_text(
        re.compile("To fetch|KNB")
    )
    return panel


def state(panel):
    return panel.get_by_role("group", name="The download").get_by_role("status").first


def whole(panel, name=f"{NANO}:Q8_0"):
    return panel.get_by_role("progressbar", name=name)


def here(panel):
    """What the panel says is here, in MB."""
    return float(re.match(r"([\d.]+) MB of", whole(panel).get_attribute("aria-valuetext"))[1])


WIDE = 1060
ALL = [(look, width) for look in ("Light", "Dark") for width in (400, WIDE)]


def looked_at(page, panel, views, picture=None):
    """No violation that axe finds, in both themes, wide and narrow; nothing sticks out; a picture of the wide ones."""
    page.set_viewport_size({"width": 1280, "height": 2000})
    page.evaluate("() => window.jupyterapp.shell.collapseLeft()")
    for look, width in views:
        change_theme(page, look)
        set_width(page, width)
        check_panel(page, panel)
        if picture and width == WIDE:
            save_screenshot(page, picture.format(look.lower()), panel)


def test_nano_is_fetched_paused_killed_and_finished_by_keyboard(lab, hub, repos, page):
    folder = write(lab, hub, "nano.ipynb", NANO, "Q8_0", rate=1.6e6)
    panel = opened(lab, page, "nano.ipynb")
    files = list((repos / NANO / "Q8_0").iterdir())
    size = sum(path.stat().st_size for path in files)
    facts = panel.get_by_role("group", name="What would be fetched")
    expect(facts).to_contain_text(f"2 files, {size / 1e6:.1f} MB in all")
    expect(facts).to_contain_text("Licence: mit.")
    expect(facts).to_contain_text("Free afterwards")
    expect(state(panel)).to_have_text("Not begun.")

    start, pause = panel.get_by_role("button", name="Download"), panel.get_by_role("button", name="Pause")
    start.focus()
    page.keyboard.press("Enter")
    expect(state(panel)).to_have_text("Downloading ...")
    expect(panel.get_by_text("over the last minute")).to_be_visible()
    expect(panel.get_by_text("Time left")).to_be_visible()
    wait_until(lambda: here(panel) > 1)
    page.keyboard.press("Tab")
    expect(pause).to_be_focused()
    page.keyboard.press("Enter")
    expect(state(panel)).to_have_text(re.compile(r"^Paused at \d+%; what has come is kept\.$"))
    paused = here(panel)
    page.keyboard.press("Shift+Tab")
    resume = panel.get_by_role("button", name="Resume")
    expect(resume).to_be_focused()
    page.keyboard.press("Space")
    wait_until(lambda: here(panel) > paused)

    page.evaluate(RUN_ALL, "nano.ipynb")  # what goes on is shown, not begun anew
    expect(state(panel)).to_have_text("Downloading ...")
    wait_until(lambda: here(panel) > 9)
    os.kill(int((lab.notebooks / "nano.ipynb.pid").read_text()), signal.SIGKILL)
    expect(panel.get_by_role("alert")).to_contain_text("Run its cell again")
    came = hub.sent()
    panel = opened(lab, page, "nano.ipynb")
    expect(state(panel)).to_have_text(re.compile(r"^Not finished at \d+%; what has come is kept\.$"))
    kept = here(panel)
    assert kept > 9
    panel.get_by_label("Speed").select_option("No limit")
    panel.get_by_role("button", name="Resume").press("Enter")
    expect(state(panel)).to_have_text("Whole: every byte of every file was verified.")
    same_files(repos / NANO, folder / NANO, "Q8_0/*.gguf")
    again = hub.sent()
    assert sum(again.values()) - sum(came.values()) <= size - kept * 1e6 + 0.1e6, "what was here came again"
    for path in files:
        assert again[str(path)] <= path.stat().st_size + 2 * WINDOW, (
            "a pause and a kill cost a window each at most"
        )
    first = panel.get_by_role("region", name="First shard, for llama-server")
    expect(first).to_have_text(str(min((folder / NANO / "Q8_0").glob("*.gguf"))))
    expect(panel.get_by_role("table")).to_contain_text("verified, every byte")


def test_a_second_tab_shows_the_same_and_a_closed_one_loses_nothing(lab, hub, repos, page, browser):  # noqa: F811
    folder = write(lab, hub, "tabs.ipynb", NANO, "Q8_0", rate=0.6e6)
    panel = opened(lab, page, "tabs.ipynb")
    page.evaluate("() => window.jupyterapp.commands.execute('docmanager:save')")
    panel.get_by_role("button", name="Download").click()
    expect(state(panel)).to_have_text("Downloading ...")
    second = browser.new_page(viewport={"width": 1280, "height": 1400})
    wrong = []
    second.on("pageerror", lambda error: wrong.append(str(error)))
    second.goto(lab.url("tabs.ipynb"))
    there = second.get_by_role("region", name=TITLE)
    expect(state(there)).to_have_text("Downloading ...", timeout=60_000)
    looked_at(page, panel, ALL, "download-{}")
    there.get_by_role("button", name="Pause").click()
    expect(state(panel)).to_contain_text("Paused at")
    there.get_by_label("Speed").select_option("5 MB/s at most")
    there.get_by_role("button", name="Resume").click()
    expect(state(panel)).to_have_text("Downloading ...")
    second.close()
    assert wrong == []
    page.goto("about:blank")  # no tab is left; the download goes on
    wait_until(lambda: len(list((folder / NANO / "Q8_0").glob("nano-*.gguf"))) == 2)
    same_files(repos / NANO, folder / NANO, "Q8_0/*.gguf")
    page.goto(lab.url("tabs.ipynb"))
    expect(state(panel)).to_have_text("Whole: every byte of every file was verified.", timeout=60_000)


def test_wrong_bytes_are_told_with_what_to_do_and_removing_asks_first(lab, hub, repos, page):
    folder = write(lab, hub, "broken.ipynb", REPO, "Q4")
    download(REPO, "Q4", endpoint=hub.endpoint, token="", folder=folder)
    broken = folder / REPO / "Q4" / "tiny-Q4-00002-of-00002.gguf"
    broken.write_bytes(broken.read_bytes()[: 1 * MIB])
    hub.faults = [Fault("flip", times=10_000, at=int(1.5 * MIB))]
    panel = opened(lab, page, "broken.ipynb")
    expect(panel.get_by_role("table")).to_contain_text("changed since it was verified, 1 of 2 files")
    start = panel.get_by_role("group", name="The download").get_by_role("button").first
    start.press("Enter")
    expect(state(panel)).to_contain_text(re.compile("Stopped at|failed"))
    expect(panel.get_by_role("group", name="The download")).to_contain_text("KNB412")
    expect(start).to_have_text("Try again")
    expect(start).to_be_focused()
    more = panel.get_by_text("More about KNB412")
    more.focus()
    page.keyboard.press("Enter")
    expect(panel.get_by_role("group", name="The download")).to_contain_text("failing memory")
    looked_at(page, panel, [("Dark", 400), ("Light", WIDE)], "download-failed")
    hub.faults = []
    start.press("Enter")
    expect(state(panel)).to_have_text("Whole: every byte of every file was verified.")
    same_files(repos / REPO, folder / REPO)

    verify = panel.get_by_role("button", name="Verify")
    verify.press("Enter")
    expect(panel.get_by_text("every byte is right")).to_be_visible()
    expect(verify).to_be_focused()
    panel.get_by_role("button", name="Remove ...").press("Enter")
    expect(panel.get_by_role("group", name="Remove it?")).to_contain_text("deletes 2 files and frees 4.2 MB")
    looked_at(page, panel, [("Light", 400), ("Dark", WIDE)])
    panel.get_by_role("button", name="No, keep it").press("Enter")
    expect(panel.get_by_text("Nothing was removed.")).to_be_visible()
    assert broken.exists()
    panel.get_by_role("button", name="Remove ...").press("Enter")
    panel.get_by_role("button", name="Yes, remove it").press("Enter")
    expect(panel.get_by_text(f"{REPO}:Q4 was removed.")).to_be_visible()
    assert not broken.parent.exists()
    expect(state(panel)).to_have_text("Not begun.")
