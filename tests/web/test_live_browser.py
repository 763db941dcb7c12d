"""What the live element draws, read from the screen and compared with what the server measured."""

import io
import itertools
import json
import re
import struct
import urllib.request
from collections.abc import Iterator

import numpy as np
import pytest
from heatmap import place
from PIL import Image
from playwright.sync_api import Page, expect

from gradviz.record import raster
from gradviz.record.quantities import QUANTITIES

LIVE = "[data-mode=live]"
SECONDS = 1000  # Playwright counts in milliseconds
VANISHED = "activation=sigmoid&blocks=30&batch_size=4&dataset=digits&steps=24"  # 60 sigmoid convolutions: exact zeros below


def fetch(url: str) -> tuple[dict, bytes]:
    with urllib.request.urlopen(url, timeout=20) as answer:
        raw = answer.read()
    (length,) = struct.unpack_from("<I", raw)
    return json.loads(raw[4 : 4 + length]), raw[4 + length :]


def measured(server, run_id: str, step: int, quantity: str) -> np.ndarray:
    """float32 (layers,) as the server measured them."""
    _, body = fetch(f"{server.url}/api/runs/{run_id}/profile?step={step}")
    return np.frombuffer(body, "<f4").reshape(len(QUANTITIES), -1)[list(QUANTITIES).index(quantity)]


def drawn(page: Page) -> None:
    """Waits until every column that came is painted and the page has drawn it."""
    page.wait_for_function(
        f"(() => {{ const d = document.querySelector('{LIVE}')?.dataset; return d?.plots && d.painted === d.columns; }})()",
        timeout=60 * SECONDS,
    )
    page.evaluate("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")


@pytest.fixture(scope="module")
def live(server, browser) -> Iterator[Page]:
    """A page with the finished run of a net whose lower gradients are exactly zero; loaded once, since that takes longest."""
    page = browser.new_page(viewport={"width": 1280, "height": 1500})
    page.goto(f"{server.url}/?{VANISHED}")
    page.get_by_role("button", name="Start").click(timeout=60 * SECONDS)
    page.wait_for_selector(f"{LIVE}[data-status=finished]", timeout=120 * SECONDS)
    drawn(page)
    yield page
    page.close()


@pytest.fixture(scope="module")
def run_id(live) -> str:
    return live.locator(LIVE).get_attribute("data-id")


def number(text: str) -> float:
    """The number of a text such as '3.2·10⁻¹⁴'."""
    digits = str.maketrans("⁻⁰¹²³⁴⁵⁶⁷⁸⁹", "-0123456789")
    factor, _, exponent = text.partition("·10")
    return float(factor) * 10.0 ** int(exponent.translate(digits) or 0) if exponent else float(factor)


def test_pointing_at_a_cell_names_the_layer_the_step_and_the_measured_value(live, server, run_id):
    truth = measured(server, run_id, 7, "weight_grad_rms")
    normal = np.finfo(np.float32).smallest_normal
    names = fetch(f"{server.url}/api/runs/{run_id}")[0]["names"]
    zero, alive = int(np.flatnonzero(truth == 0)[2]), int(np.flatnonzero(truth > normal)[8])
    for layer in (zero, alive, len(names) - 1):
        live.mouse.move(*place(live, 7, layer))
        expect(live.locator(".gv-tip")).to_contain_text(names[layer])
        expect(live.locator(".gv-tip")).not_to_contain_text("≈", timeout=10 * SECONDS)  # the exact column has come
        step, _, value = live.locator(".gv-tip").inner_text().splitlines()[1].partition(": ")
        assert step == "step 7"
        if truth[layer] == 0:
            assert value == "exact zero"
        else:
            assert number(value) == pytest.approx(truth[layer], rel=0.05)
    expect(live.locator(".gv-profile .gv-meaning")).to_have_text("step 7")


def test_each_cell_has_the_colour_of_its_value(live, server, run_id):
    picture = np.asarray(Image.open(io.BytesIO(live.screenshot())).convert("RGB")).astype(int)
    low, high = QUANTITIES["weight_grad_rms"].ranges[0]
    marks = {raster.ZERO: (255, 255, 255), raster.DENORMAL: (247, 168, 207), raster.BELOW: (172, 24, 242)}
    seen, levels = set(), []
    for step in (1, 12, 22):
        truth = measured(server, run_id, step, "weight_grad_rms")
        codes = raster.encode(truth, "weight_grad_rms", low, high)
        (x, bottom), (_, top) = place(live, step, 0), place(live, step, len(codes) - 1)
        for layer, code in enumerate(codes):
            y = bottom + (top - bottom) * layer / (len(codes) - 1)
            colour = picture[round(y), round(x)]
            if code in marks:
                assert np.abs(colour - marks[code]).max() <= 3, f"layer {layer} of step {step} is {truth[layer]}"
                seen.add(int(code))
            else:
                levels.append((code, colour.sum()))
    assert raster.ZERO in seen and raster.BELOW in seen
    # Viridis grows lighter with the value, so the order of levels is the order of lightness.
    light = dict(levels)
    order = sorted(light)
    assert len(order) > 10
    assert all(light[a] <= light[b] + 12 for a, b in itertools.pairwise(order))


def test_another_quantity_shows_its_own_numbers(live, server, run_id):
    live.locator("select[name=quantity]").select_option("zero_share")
    live.wait_for_selector(f"{LIVE}[data-quantity=zero_share]")
    drawn(live)
    truth = measured(server, run_id, 5, "zero_share")
    live.mouse.move(*place(live, 5, 4))
    expect(live.locator(".gv-tip")).to_contain_text(f"{100 * truth[4]:.1f} %")
    live.locator("select[name=quantity]").select_option("weight_grad_rms")
    live.wait_for_selector(f"{LIVE}[data-quantity=weight_grad_rms]")
    drawn(live)


def test_a_click_keeps_the_step_and_a_second_click_lets_it_go(live):
    live.mouse.click(*place(live, 9, 20))
    live.mouse.move(0, 0)
    expect(live.locator(".gv-profile .gv-meaning")).to_contain_text("step 9, kept")
    live.mouse.click(*place(live, 9, 20))
    live.mouse.move(0, 0)
    expect(live.locator(".gv-profile .gv-meaning")).to_contain_text("newest")


def test_a_kept_row_leads_to_the_anatomy_of_its_layer(live, run_id):
    names = live.locator("select[name=layer] option").all_inner_texts()[1:]
    link = live.get_by_role("link", name="in Anatomy")
    assert not link.is_visible() and not live.locator(".gv-row").is_visible()
    live.mouse.click(*place(live, 9, 20))
    expect(live.locator(".gv-row")).to_be_visible()
    expect(link).to_have_text(f"Open layer {names[20]} in Anatomy")
    expect(live.locator("select[name=layer]")).to_have_value("20")
    assert link.evaluate("a => a.href") == live.evaluate(
        f"new URL('anatomy?run={run_id}&layer={names[20]}&view=layer&step=9', document.baseURI).href"
    )
    live.mouse.click(*place(live, 9, 20))
    assert not link.is_visible()


def test_the_keyboard_reaches_a_row_and_its_link(live, run_id):
    live.locator("select[name=layer]").focus()
    live.locator("select[name=layer]").select_option("block3.conv1")
    live.keyboard.press("Tab")
    link = live.get_by_role("link", name="Open layer block3.conv1 in Anatomy")
    expect(link).to_be_focused()
    page = live.context.browser.new_page()
    page.goto(link.evaluate("a => a.href"))
    expect(page.get_by_role("combobox", name="Layer, from input to output")).to_have_value("block3.conv1", timeout=90 * SECONDS)
    page.close()
    live.locator("select[name=layer]").select_option("")


def test_key_figures_are_the_measured_ones(live, server, run_id):
    header, _ = fetch(f"{server.url}/api/runs/{run_id}")

    def shown(name: str) -> str:
        return live.locator(f"[data-figure={name}] span").inner_text()

    assert number(shown("loss")) == pytest.approx(header["loss"], rel=1e-3)
    assert shown("first_gradient") == "exact zero"
    assert number(shown("last_gradient")) == pytest.approx(header["last_gradient"], rel=0.05)
    assert shown("device") == header["device"]
    expect(live.locator(".gv-state")).to_contain_text(header["sentence"])


@pytest.mark.parametrize("chart", ["loss", "accuracy", "heatmap", "profile"])
def test_every_chart_saves_itself_as_png_and_svg(live, chart):
    with live.expect_download() as png:
        live.locator(f".gv-{chart} button[data-format=png]").click()
    assert Image.open(png.value.path()).width > 800
    with live.expect_download() as svg:
        live.locator(f".gv-{chart} button[data-format=svg]").click()
    text = svg.value.path().read_text(encoding="utf-8")
    assert text.startswith("<svg") and "sigmoid" in text  # the run's settings stand on it
    if chart == "heatmap":
        assert re.search(r'<image[^>]+href="data:image/png;base64', text)


@pytest.mark.parametrize("width", [390, 1280])
def test_nothing_is_wider_than_the_page_and_labels_of_layers_do_not_overlap(live, width):
    live.set_viewport_size({"width": width, "height": 1500})
    live.wait_for_function(f"document.querySelector('.gv-heatmap .main-svg').clientWidth < {width}")
    drawn(live)
    assert live.evaluate("document.documentElement.scrollWidth") <= width
    for chart in ("heatmap", "profile"):
        labels = live.locator(f".gv-{chart} .yaxislayer-above text, .gv-{chart} .ytick text")
        boxes = sorted((box["y"], box["height"]) for box in (label.bounding_box() for label in labels.all()) if box)
        assert len(boxes) > 4
        assert all(y + 0.75 * height <= next_y for (y, height), (next_y, _) in itertools.pairwise(boxes))
    lefts = [live.locator(f".gv-{name}").bounding_box()["x"] for name in ("heatmap", "profile")]
    assert (lefts[0] == lefts[1]) is (width == 390)  # stacked on a phone, side by side on a screen
    live.set_viewport_size({"width": 1280, "height": 1500})


def test_the_charts_follow_a_switch_to_the_dark_theme_without_being_made_anew(live):
    node = live.evaluate_handle("document.querySelector('.gv-loss .js-plotly-plot')")
    background = "document.querySelector('.gv-loss .js-plotly-plot')._fullLayout.paper_bgcolor"
    before = live.evaluate(background)
    live.emulate_media(color_scheme="dark")
    live.wait_for_function(f"{background} !== '{before}'")
    page_colour = "getComputedStyle(document.querySelector('.gv')).getPropertyValue('--st-background-color').trim()"
    shades = [int(live.evaluate(page_colour)[i : i + 2], 16) for i in (1, 3, 5)]
    text = live.evaluate("document.querySelector('.gv-loss .js-plotly-plot')._fullLayout.font.color")
    found, light = (list(map(int, re.findall(r"\d+", colour))) for colour in (live.evaluate(background), text))
    assert found == shades and sum(found) < 200 and sum(light) > 500
    assert live.evaluate("node => node.isConnected", node)
    live.emulate_media(color_scheme="light")
