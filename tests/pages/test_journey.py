"""The reader's way through the Lab in a real browser on the real server."""

import io
import json
import math
import re
import signal
import struct
import time
import urllib.request

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Page, expect

LIVE = "[data-mode=live]"
SECONDS = 1000  # Playwright counts in milliseconds
QUICK = "activation=relu&blocks=2&batch_size=16&dataset=digits&steps=100000"


def state(page: Page, name: str) -> str:
    return page.locator(LIVE).get_attribute(f"data-{name}", timeout=60 * SECONDS)


def wait_for_steps(page: Page, steps: int) -> None:
    page.wait_for_function(f"Number(document.querySelector('{LIVE}')?.dataset.steps) >= {steps}", timeout=90 * SECONDS)


def start(page: Page, url: str) -> None:
    page.goto(url)
    page.get_by_role("button", name="Start").click(timeout=60 * SECONDS)
    wait_for_steps(page, 1)


def colours(page: Page) -> np.ndarray:
    """uint8 (pixels, 3) of the heatmap's plotting area as it is on the screen."""
    area = page.locator(".gv-heatmap .nsewdrag").first
    area.scroll_into_view_if_needed()
    return np.asarray(Image.open(io.BytesIO(area.screenshot())).convert("RGB")).reshape(-1, 3)


def test_a_reader_sets_the_toggles_starts_watches_pauses_reloads_and_stops(page: Page, server):
    page.goto(f"{server.url}/?{QUICK}")
    page.get_by_text("Batch norm", exact=True).click(timeout=60 * SECONDS)
    expect(page).to_have_url(re.compile("batch_norm=on"))
    page.get_by_role("button", name="Start").click()
    wait_for_steps(page, 5)
    expect(page).to_have_url(re.compile(r"run=[0-9a-f]{12}"))

    early = int(state(page, "columns"))
    wait_for_steps(page, early + 10)
    assert int(state(page, "columns")) > early
    assert len(np.unique(colours(page), axis=0)) > 8  # a picture, not one colour

    page.get_by_role("button", name="Pause").click()
    expect(page.get_by_role("button", name="Resume")).to_be_visible()
    page.wait_for_function(f"document.querySelector('{LIVE}').dataset.status === 'paused'")
    steps = int(state(page, "steps"))
    page.get_by_role("button", name="One step").click()
    page.wait_for_function(f"Number(document.querySelector('{LIVE}').dataset.steps) === {steps + 1}")

    run_id = state(page, "id")
    page.reload()
    wait_for_steps(page, steps + 1)
    assert state(page, "id") == run_id and state(page, "status") == "paused"
    expect(page.get_by_role("switch", name="Batch norm")).to_be_checked()

    page.get_by_role("button", name="Resume").click()
    wait_for_steps(page, steps + 5)
    page.get_by_role("button", name="Stop").click()
    expect(page.get_by_role("button", name="Start afresh")).to_be_visible(timeout=10 * SECONDS)
    page.wait_for_function(f"document.querySelector('{LIVE}').dataset.status === 'stopped'")


def test_buttons_follow_the_run_however_fast_it_is_paused_and_resumed(page: Page, server):
    page.goto(f"{server.url}/?activation=relu&blocks=1&batch_size=4&dataset=digits&steps=100000&seed=77")
    page.get_by_role("button", name="Start").click(timeout=60 * SECONDS)
    for delay in (0, 0.1, 0.3, 0, 0.7, 0.1, 0, 1.5):  # between and within polls, which come every 0.3 to 1 s
        for button, other in (("Pause", "Resume"), ("Resume", "Pause")):
            page.get_by_role("button", name=button).click(timeout=20 * SECONDS)
            expect(page.get_by_role("button", name=other)).to_be_visible(timeout=20 * SECONDS)
            page.wait_for_timeout(1000 * delay)
    page.get_by_role("button", name="Stop").click()


def test_a_second_browser_finds_the_same_run_by_its_link(page: Page, browser, server):
    start(page, f"{server.url}/?{QUICK}&seed=2")
    expect(page).to_have_url(re.compile("run="))
    other = browser.new_page()
    other.goto(f"{server.url}/?run={state(page, 'id')}")
    wait_for_steps(other, 1)
    assert state(other, "id") == state(page, "id")
    expect(other.get_by_role("button", name="Stop")).to_be_visible()
    other.get_by_role("button", name="Pause").click()
    expect(page.get_by_role("button", name="Resume")).to_be_visible(timeout=20 * SECONDS)  # the first reader's page follows
    page.get_by_role("button", name="Resume").click()
    expect(other.get_by_role("button", name="Pause")).to_be_visible(timeout=20 * SECONDS)
    page.close()  # the run goes on without its first reader
    wait_for_steps(other, int(state(other, "steps")) + 5)
    other.get_by_role("button", name="Stop").click()
    other.wait_for_function(f"document.querySelector('{LIVE}').dataset.status === 'stopped'")
    other.close()


def test_zoom_and_hover_survive_updates(page: Page, server):
    start(page, f"{server.url}/?{QUICK}&seed=3")
    wait_for_steps(page, 30)
    area = page.locator(".gv-heatmap .nsewdrag").first
    area.scroll_into_view_if_needed()
    box = area.bounding_box()
    page.mouse.move(box["x"] + box["width"] * 0.2, box["y"] + box["height"] * 0.3)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] * 0.6, box["y"] + box["height"] * 0.7, steps=5)
    page.mouse.up()
    zoomed = "document.querySelector('.gv-heatmap .js-plotly-plot')._fullLayout.xaxis.range.map(x => Math.round(x * 10))"
    before = page.evaluate(zoomed)
    node = page.evaluate_handle("document.querySelector('.gv-heatmap .js-plotly-plot')")
    steps = int(state(page, "steps"))
    wait_for_steps(page, steps + 20)
    assert page.evaluate(zoomed) == before
    assert page.evaluate("node => node.isConnected", node)  # never drawn anew
    page.get_by_role("button", name="Stop").click()


def header(server, run_id: str) -> dict:
    """What the live route says of the run now."""
    with urllib.request.urlopen(f"{server.url}/api/runs/{run_id}", timeout=10) as answer:
        raw = answer.read()
    return json.loads(raw[4 : 4 + struct.unpack("<I", raw[:4])[0]])


def test_after_kill_and_restart_the_run_is_there_interrupted_with_all_but_its_last_second(page: Page, start_server):
    server = start_server()
    start(page, f"{server.url}/?{QUICK}&seed=4")
    wait_for_steps(page, 40)
    run_id = state(page, "id")
    first, begin = header(server, run_id)["steps"], time.monotonic()
    page.wait_for_timeout(3 * SECONDS)
    seen, seconds = header(server, run_id)["steps"], time.monotonic() - begin
    server.restart()  # kill -9
    page.goto(f"{server.url}/?run={run_id}")
    page.wait_for_function(f"document.querySelector('{LIVE}')?.dataset.status === 'interrupted'", timeout=60 * SECONDS)
    lost = seen - int(state(page, "steps"))
    assert lost / ((seen - first) / seconds) <= 1.0
    expect(page.get_by_role("button", name="Start afresh")).to_be_visible()


@pytest.mark.timed
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_server_ends_within_two_seconds_in_the_middle_of_a_run(page: Page, start_server, number):
    server = start_server()
    start(page, f"{server.url}/?{QUICK}&seed=5&blocks=40")
    page.goto("about:blank")
    assert server.stop(number) < 2.0


@pytest.mark.timed
def test_a_thousand_blocks_start_show_their_first_column_and_stop_within_three_seconds(page: Page, server):
    taken: list[float] = []
    while len(taken) < 3 and min(taken, default=math.inf) >= 3:  # a moment in which the machine does something else is not ours
        start(page, f"{server.url}/?activation=sigmoid&shortcut=on&blocks=1000&batch_size=4&dataset=digits&seed={len(taken)}")
        assert len(np.unique(colours(page), axis=0)) > 3
        page.get_by_role("button", name="Stop").click()
        begin = time.monotonic()
        page.wait_for_function(f"document.querySelector('{LIVE}').dataset.status === 'stopped'", timeout=30 * SECONDS)
        taken.append(time.monotonic() - begin)
    assert min(taken) < 3
