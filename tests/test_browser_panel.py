"""The plan panel under a person's hands: real JupyterLab, real kernel, real Chromium, real llama.cpp."""

import re
import time
from contextlib import suppress

import psutil
import pytest
from header_models import ORACLE_MODELS
from lab_pages import (  # noqa: F401 - browser is a fixture
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

from kimi_nb.files import cache_home
from kimi_nb.plan import Plan

pytestmark = pytest.mark.browser
TITLE = "Plan: will it fit, and how fast?"
MODEL = "Kimi-K2.5-UD-TQ1_0.gguf"
SLIDERS = {
    "Context": "--ctx-size",
    "Slots": "--parallel",
    "Experts on the GPU, in layers": "--n-cpu-moe",
    "Everything else on the GPU, in layers": "--n-gpu-layers",
    "Threads": "--threads",
    "Tokens of a prompt at once (ubatch)": "--ubatch-size",
    "RAM for finished prompts": "--cache-ram",
}
KERNEL = """async todo => {
    const widget = [...window.jupyterapp.shell.widgets('main')].find(w => w.context);
    await widget.context.sessionContext.session.kernel[todo]();
}"""
SAVE = "() => window.jupyterapp.commands.execute('docmanager:save')"


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    home = tmp_path_factory.mktemp("panel")
    (home / "notebooks").mkdir()
    (home / "cache").mkdir()
    for kept in ("engine", "nano"):  # what takes long to make; what was measured is not this user's
        (home / "cache" / kept).symlink_to(cache_home() / kept)
    ORACLE_MODELS["TQ1"].write(home / "notebooks" / MODEL)
    running = Lab(home, home / "notebooks", {"KIMI_NB_CACHE": str(home / "cache")})
    running.write(
        "plan.ipynb", f"import kimi_nb.panel\nkimi_nb.panel.plan('{MODEL}', machine='rtx4090-256gb')"
    )
    running.write("nano.ipynb", "import kimi_nb.panel\nkimi_nb.panel.plan('nano')")
    yield running
    running.close()


@pytest.fixture(scope="module")
def page(lab, browser):  # noqa: F811 - as above
    """The panel for Kimi's header, opened once."""
    page, wrong = new_page(browser, width=1500)
    (cell,) = open_notebook(lab, page, "plan.ipynb")
    assert cell["errors"] == []
    expect(verdict(shown(page))).to_contain_text("Fits")
    page.evaluate("() => window.jupyterapp.commands.execute('application:toggle-left-area')")
    yield page
    page.close()
    assert wrong == []


@pytest.fixture
def tabs(lab, browser):  # noqa: F811 - as above
    """Open tabs on the notebook with nano's panel; the first one runs it."""
    opened = []

    def tab(*, first, prepare=lambda _: None):
        page, wrong = new_page(browser, width=1500)
        opened.append((page, wrong))
        prepare(page)
        if first:
            (cell,) = open_notebook(lab, page, "nano.ipynb")
            assert cell["errors"] == []
            page.evaluate(SAVE)
        else:
            page.goto(lab.url("nano.ipynb"))
        expect(verdict(shown(page))).to_contain_text("Fits", timeout=60_000)
        return page, shown(page)

    yield tab
    for page, _ in opened:
        page.close()
    assert [wrong for _, wrong in opened if wrong] == []


def shown(page):
    return page.get_by_role("region", name=TITLE)


def verdict(panel):
    return panel.get_by_role("status").first


def command(panel):
    return panel.get_by_role("region", name="The command", exact=True)


def value_of(panel, flag):
    found = re.search(rf"{flag} (\S+)", command(panel).inner_text())
    return found[1] if found else None


def engines(lab):
    """Return the llama.cpp programs that run beneath this JupyterLab; those that end have some seconds for it."""
    for _ in range(50):
        found = []
        for one in psutil.Process(lab.pid).children(recursive=True):
            with suppress(psutil.NoSuchProcess):
                found += [one.name()] if "llama" in one.name() else []
        if not found:
            break
        time.sleep(0.2)
    return found


def test_every_slider_by_keyboard_and_by_mouse(page):
    panel = shown(page)
    gpu = panel.get_by_role("img", name=re.compile("^GPU0"))
    for name, flag in SLIDERS.items():
        slider = panel.get_by_role("slider", name=name, exact=True)
        before, said = value_of(panel, flag), slider.get_attribute("aria-valuetext")
        slider.focus()
        # The arrows would go to the next cell if JupyterLab got them.
        page.keyboard.press(
            "ArrowLeft" if slider.input_value() == slider.get_attribute("max") else "ArrowRight"
        )
        expect(slider).not_to_have_attribute("aria-valuetext", said)
        expect(command(panel)).not_to_contain_text(re.compile(rf"{flag} {before}(\s|$)"))
        expect(slider).to_be_focused()
        after, said = value_of(panel, flag), slider.get_attribute("aria-valuetext")
        box = slider.bounding_box()
        page.mouse.click(box["x"] + box["width"] * 0.35, box["y"] + box["height"] / 2)
        expect(slider).not_to_have_attribute("aria-valuetext", said)
        assert value_of(panel, flag) != after
    bar, said = gpu.get_attribute("aria-label"), verdict(panel).inner_text()
    panel.get_by_role("slider", name="Everything else on the GPU, in layers").press("End")
    experts = panel.get_by_role("slider", name="Experts on the GPU, in layers")
    experts.press("End")
    expect(experts).to_have_attribute("aria-valuetext", "60 of 60 on the GPU")
    expect(gpu).not_to_have_attribute("aria-label", bar)
    expect(verdict(panel)).not_to_have_text(said)
    expect(verdict(panel)).to_contain_text(re.compile(r"Does not fit: [\d.,]+ GiB of GPU0's memory short"))
    assert "--n-cpu-moe" not in command(panel).inner_text()


def test_what_cannot_fit_says_by_how_much_and_the_planner_mends_it(lab, page):
    panel = shown(page)
    panel.get_by_role("slider", name="Experts on the GPU, in layers").press("Home")
    panel.get_by_role("slider", name="RAM for finished prompts").press("End")
    machine = panel.get_by_label("Machine", exact=True).and_(page.locator("select"))
    machine.select_option("typed in")
    panel.get_by_label("RAM, GiB").fill("2")
    panel.get_by_label("GPUs, GiB each").fill("16")
    expect(verdict(panel)).to_contain_text(re.compile(r"Does not fit: .*[\d.]+ GiB of RAM short"))
    expect(panel.get_by_role("button", name="Save plan")).to_have_attribute("aria-disabled", "true")
    panel.get_by_label("GPUs, GiB each").fill("sixteen")
    expect(verdict(panel)).to_contain_text("KNB951")
    panel.get_by_label("GPUs, GiB each").fill("16")
    panel.get_by_label("RAM, GiB").fill("384")
    button = panel.get_by_role("button", name="Let the planner choose")
    button.focus()
    page.keyboard.press("Enter")
    expect(panel.get_by_text("Why this plan")).to_be_visible()
    expect(verdict(panel)).to_contain_text("Fits")
    chosen = command(panel).inner_text()
    panel.get_by_role("button", name="Copy: The command").click()
    expect(panel.get_by_text("Copied", exact=True)).to_be_visible()
    panel.get_by_label("File of the plan").fill("clicked.json")
    panel.get_by_role("button", name="Save plan").click()
    expect(panel.get_by_text(re.compile("^Saved to"))).to_be_visible()
    assert Plan.load(lab.notebooks / "clicked.json").machine == "typed in"
    panel.get_by_role("slider", name="Slots").press("End")
    expect(command(panel)).not_to_have_text(chosen)
    panel.get_by_role("button", name="Open plan").click()
    expect(command(panel)).to_have_text(chosen)


def test_nothing_that_axe_finds_in_either_theme_wide_or_narrow(page):
    panel = shown(page)
    machine = panel.get_by_label("Machine", exact=True).and_(page.locator("select"))
    machine.select_option("rtx4090-256gb")
    panel.get_by_role("button", name="Let the planner choose").click()
    why = panel.get_by_text("Why this plan")
    expect(why).to_be_visible()
    why.press("Enter")  # folds it
    expect(panel.get_by_text("What every token needs is on the GPU")).to_be_hidden()
    for theme in ("Dark", "Light"):
        change_theme(page, theme)
        for width in (400, 1150):
            set_width(page, width)
            check_panel(page, panel)
            save_screenshot(page, f"plan-{theme.lower()}{'-400' if width == 400 else ''}", panel)


def test_verified_and_rehearsed_with_the_real_llama_cpp_and_seen_from_two_tabs(build, lab, tabs):
    page, panel = tabs(first=True)
    expect(panel.get_by_text(re.compile("^Memory: estimated"))).to_be_visible()
    panel.get_by_role("button", name="Verify with llama.cpp").click()
    expect(panel.get_by_text("Memory: verified with llama.cpp")).to_be_visible(timeout=60_000)
    expect(panel.get_by_role("table")).to_contain_text("Host")
    panel.get_by_role("slider", name="Context", exact=True).press("ArrowLeft")
    expect(panel.get_by_text(re.compile("^Memory: estimated"))).to_be_visible()  # that was for other settings
    expect(panel.get_by_text(re.compile("^Speed: a wide estimate"))).to_be_visible()

    panel.get_by_label("Seconds to measure").fill("600")
    panel.get_by_role("button", name="Rehearse", exact=True).click()
    expect(panel.get_by_role("progressbar", name="Rehearsing")).to_be_visible()
    expect(panel.get_by_text(re.compile("^(writing slice|experts|decode|prefill|.*threads)"))).to_be_visible()
    second, there = tabs(first=False)
    page.close()  # what is under way goes on, and can be ended from elsewhere
    there.get_by_role("button", name="Cancel").click()
    expect(there.get_by_text("Cancelled: nothing was kept.")).to_be_visible()
    assert engines(lab) == []
    there.get_by_label("Seconds to measure").fill("5")
    there.get_by_role("button", name="Rehearse", exact=True).click()
    expect(there.get_by_text("Speed: measured on this machine")).to_be_visible(timeout=120_000)

    there.get_by_label("Seconds to measure").fill("600")
    there.get_by_role("button", name="Rehearse", exact=True).click()
    expect(there.get_by_role("progressbar", name="Rehearsing")).to_be_visible()
    second.evaluate(KERNEL, "restart")
    expect(there.get_by_role("alert")).to_contain_text("Run its cell again")
    assert engines(lab) == []


def test_a_lost_connection_loses_nothing(lab, tabs):
    sockets, cut = [], {"off": False, "deaf": False}

    def through(socket):
        if cut["off"]:
            socket.close()
            return
        server = socket.connect_to_server()
        sockets.append(socket)
        socket.on_message(lambda message: None if cut["deaf"] else server.send(message))

    page, panel = tabs(
        first=True,
        prepare=lambda page: page.route_web_socket(re.compile(r"/api/kernels/.*/channels"), through),
    )
    slots = panel.get_by_role("slider", name="Slots")
    cut["deaf"] = True  # what is sent now gets lost
    slots.press("ArrowRight")
    expect(panel.get_by_text(re.compile("^Waiting for the kernel"))).to_be_visible()
    assert value_of(panel, "--parallel") == "1"
    cut["deaf"] = False
    expect(command(panel)).to_contain_text("--parallel 2")
    expect(panel.get_by_text(re.compile("^Waiting for the kernel"))).to_be_hidden()

    cut["off"] = True
    for socket in sockets:
        socket.close()
    slots.press("ArrowRight")
    cut["off"] = False
    page.evaluate(KERNEL, "reconnect")  # by itself JupyterLab waits for up to two minutes
    expect(command(panel)).to_contain_text("--parallel 3", timeout=60_000)
    expect(slots).to_have_attribute("aria-valuetext", "3 at once")
    expect(panel.get_by_role("alert")).to_be_hidden()
