"""The plan panel under a person's hands: real JupyterLab, real kernel, real Chromium, real llama-fit-params."""

import os
import re
from pathlib import Path

import pytest
from header_models import ModelShape, kimi_types
from lab_pages import Lab, browser, open_notebook  # noqa: F401 - browser is a fixture
from playwright.sync_api import expect

pytestmark = pytest.mark.browser
SHAPE = ModelShape(n_layer=8, types=kimi_types("Q8_0", "Q4_K", "Q4_K", "Q4_0"))
SLIDERS = {
    "Context": "--ctx-size",
    "Slots": "--parallel",
    "Experts on the GPU, in layers": "--n-cpu-moe",
    "Everything else on the GPU, in layers": "--n-gpu-layers",
    "Threads": "--threads",
    "Tokens of a prompt at once (ubatch)": "--ubatch-size",
    "RAM for finished prompts": "--cache-ram",
}


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    home = tmp_path_factory.mktemp("panel")
    (home / "notebooks").mkdir()
    SHAPE.write(home / "notebooks" / "kimi.gguf")
    running = Lab(home, home / "notebooks")
    running.write(
        "plan.ipynb",
        "import kimi_nb.panel\npanel = kimi_nb.panel.plan('kimi.gguf', machine='rtx4090-256gb')\npanel",
    )
    running.write("nano.ipynb", "import kimi_nb.panel\npanel = kimi_nb.panel.plan('nano')\npanel")
    yield running
    running.close()


@pytest.fixture
def page(browser):  # noqa: F811 - as above
    opened = browser.new_page(viewport={"width": 1280, "height": 1500})
    opened.set_default_timeout(60_000)
    expect.set_options(timeout=20_000)
    wrong = []
    opened.on("pageerror", lambda error: wrong.append(str(error)))
    yield opened
    opened.close()
    assert wrong == []


def opened(lab, page, name):
    (cell,) = open_notebook(lab, page, name)
    assert cell["errors"] == []
    panel = page.get_by_role("region", name="Plan: will it fit, and how fast?")
    expect(verdict(panel)).to_contain_text("Fits")
    return panel


def verdict(panel):
    return panel.get_by_role("status").first


def command(panel):
    return panel.get_by_role("region", name="The command", exact=True)


def value_of(panel, flag):
    found = re.search(rf"{flag} (\S+)", command(panel).inner_text())
    return found[1] if found else None


def theme(page, name):
    page.evaluate("name => window.jupyterapp.commands.execute('apputils:change-theme', {theme: name})", name)
    light = "true" if name == "JupyterLab Light" else "false"
    expect(page.locator("body")).to_have_attribute("data-jp-theme-light", light)


def test_every_slider_by_keyboard_and_by_mouse(lab, page):
    panel = opened(lab, page, "plan.ipynb")
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
    bar = gpu.get_attribute("aria-label")
    experts = panel.get_by_role("slider", name="Experts on the GPU, in layers")
    experts.focus()
    page.keyboard.press("End")
    expect(experts).to_have_attribute("aria-valuetext", "7 of 7 on the GPU")
    expect(gpu).not_to_have_attribute("aria-label", bar)
    assert "--n-cpu-moe" not in command(panel).inner_text()
    for name in ("Everything else on the GPU, in layers", "Slots", "Context"):
        panel.get_by_role("slider", name=name, exact=True).press("End")
    expect(verdict(panel)).to_contain_text(re.compile(r"Does not fit: [\d.,]+ GiB of GPU0's memory short"))


def test_what_cannot_fit_says_by_how_much_and_the_planner_mends_it(lab, page):
    panel = opened(lab, page, "plan.ipynb")
    panel.get_by_label("Machine", exact=True).and_(page.locator("select")).select_option("typed in")
    panel.get_by_label("RAM, GiB").fill("2")
    panel.get_by_label("GPUs, GiB each").fill("16")
    expect(verdict(panel)).to_contain_text(re.compile(r"Does not fit: [\d.]+ GiB of RAM short"))
    panel.get_by_label("GPUs, GiB each").fill("sixteen")
    expect(verdict(panel)).to_contain_text("KNB951")
    panel.get_by_label("GPUs, GiB each").fill("16")
    panel.get_by_label("RAM, GiB").fill("128")
    button = panel.get_by_role("button", name="Let the planner choose")
    button.focus()
    page.keyboard.press("Enter")
    expect(panel.get_by_text("Why this plan")).to_be_visible()
    expect(verdict(panel)).to_contain_text("Fits")
    panel.get_by_label("File of the plan").fill("clicked.json")
    panel.get_by_role("button", name="Save plan").click()
    expect(panel.get_by_text(re.compile("^Saved to"))).to_be_visible()
    assert (lab.notebooks / "clicked.json").is_file()


def test_verified_with_the_real_llama_cpp(build, lab, page):
    panel = opened(lab, page, "nano.ipynb")
    expect(panel.get_by_text(re.compile("^Memory: estimated"))).to_be_visible()
    panel.get_by_role("button", name="Verify with llama.cpp").click()
    expect(panel.get_by_text("Memory: verified with llama.cpp")).to_be_visible(timeout=60_000)
    expect(panel.get_by_role("table")).to_contain_text("Host")
    panel.get_by_role("slider", name="Context", exact=True).press("ArrowLeft")
    expect(panel.get_by_text(re.compile("^Memory: estimated"))).to_be_visible()  # that was for other settings


@pytest.mark.parametrize("width", [400, 1280])
@pytest.mark.parametrize("look", ["JupyterLab Light", "JupyterLab Dark"])
def test_nothing_that_axe_finds_in_either_theme_wide_or_narrow(lab, page, look, width):
    from axe_playwright_python.sync_playwright import Axe

    panel = opened(lab, page, "plan.ipynb")
    theme(page, look)
    page.evaluate("() => window.jupyterapp.commands.execute('application:toggle-left-area')")
    page.evaluate(
        "width => { const box = document.querySelector('.knb').parentElement; box.style.width = width + 'px'; }",
        min(width, 1150),
    )
    only = {"runOnly": {"type": "tag", "values": ["wcag2a", "wcag2aa"]}}
    found = Axe().run(page, context=".knb", options=only).response
    assert [(one["id"], [node["target"] for node in one["nodes"]]) for one in found["violations"]] == []
    assert len(found["passes"]) > 10
    assert panel.evaluate("at => at.scrollWidth <= at.clientWidth + 1")
    if shots := os.environ.get("KIMI_NB_SCREENSHOTS"):
        Path(shots).mkdir(parents=True, exist_ok=True)
        panel.screenshot(path=f"{shots}/plan-{look.split()[-1].lower()}-{width}.png")


def test_two_tabs_show_the_same_and_a_restart_is_told(lab, page, browser):  # noqa: F811 - as above
    panel = opened(lab, page, "plan.ipynb")
    page.evaluate("() => window.jupyterapp.commands.execute('docmanager:save')")
    second = browser.new_page(viewport={"width": 1280, "height": 1500})
    wrong = []
    second.on("pageerror", lambda error: wrong.append(str(error)))
    second.goto(lab.url("plan.ipynb"))
    there = second.get_by_role("region", name="Plan: will it fit, and how fast?")
    slider = there.get_by_role("slider", name="Slots")
    expect(slider).to_have_attribute("aria-valuetext", "1 at once", timeout=60_000)
    slider.focus()
    second.keyboard.press("ArrowRight")
    expect(panel.get_by_role("slider", name="Slots")).to_have_attribute("aria-valuetext", "2 at once")
    second.close()
    page.evaluate("""async () => {
        const widget = [...window.jupyterapp.shell.widgets('main')].find(w => w.context);
        await widget.context.sessionContext.session.kernel.restart();
    }""")
    expect(panel.get_by_role("alert")).to_contain_text("Run its cell again")
    assert wrong == []
