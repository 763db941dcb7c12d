"""The first minute of somebody who has never been here, and the display for the whole room."""

from __future__ import annotations

import pytest
from axe import complaints, settled
from playwright.sync_api import Page, expect
from recorded import finished_run
from viewing import QUICK, keys, lab, text

from gradviz.lenet.config import RunConfig
from gradviz.ui.meanings import MEANINGS
from gradviz.ui.server import server

TOGGLES = ("activation", "batch_norm", "shortcut", "init_custom", "treatment")
ENDED = RunConfig(activation="relu", blocks=2, batch_size=8, steps=20, dataset="digits")


def test_three_steps_lead_from_the_picture_over_start_to_a_change(page_server):
    page = lab()
    assert "1 of 3" in text(page) and "What you see" in text(page)
    page.button(key="first_next").click().run()
    assert "2 of 3" in text(page) and "Press Start" in text(page)
    page.button(key="start").click().run()
    assert "3 of 3" in text(page) and "Change one thing" in text(page) and "first_next" not in keys(page)
    page.button(key="first_skip").click().run()
    assert "of 3" not in text(page)
    page.button(key="close").click().run()
    assert "of 3" not in text(page)
    assert server().manager.wait(RunConfig.from_query(QUICK)[0].id, 60)


def test_the_words_of_the_field_are_explained_where_the_reader_opens_them(page_server):
    page = lab()
    assert "What the words mean" in [box.label for box in page.expander] and "ln 10" not in text(page)
    assert all(meaning.endswith(".") for meaning in MEANINGS.values())


def test_whoever_comes_to_a_run_is_not_led(page_server):
    run = finished_run(ENDED)
    page_server.store.save(run)
    assert "of 3" not in text(lab(run=run.id))


def test_a_browser_that_has_skipped_the_steps_never_sees_them_again_but_by_their_link(page: Page, server):
    page.set_viewport_size({"width": 1280, "height": 800})
    page.goto(f"{server.url}/")
    page.get_by_role("button", name="Skip").click(timeout=60_000)
    expect(page.get_by_text("of 3 ·")).to_be_hidden()
    page.wait_for_function("document.cookie.includes('gradviz_seen')")
    page.goto(f"{server.url}/")
    settled(page)
    expect(page.get_by_text("of 3 ·")).to_have_count(0)
    for language in ("zh", "en"):
        page.goto(f"{server.url}/?first&lang={language}")
        page.get_by_role("button", name={"zh": "跳过", "en": "Skip"}[language]).wait_for(timeout=60_000)
        all_on_one_screen(page)
    expect(page.get_by_text("1 of 3 ·")).to_be_visible(timeout=60_000)
    settled(page)
    assert complaints(page) == []


def all_on_one_screen(page: Page) -> None:
    """The page is calm: what a lesson changes, Start and the picture are seen together, with the steps beside them."""
    parts = [*(f".st-key-control_{name}" for name in TOGGLES), ".st-key-start", ".st-key-first", ".gv-preview .gv-plot"]
    page.wait_for_selector(".gv-preview .gv-plot .main-svg", timeout=60_000)
    settled(page)
    lowest = page.evaluate("parts => parts.map((part) => document.querySelector(part).getBoundingClientRect().bottom)", parts)
    alert = page.locator("[data-testid=stAlert]")  # that MNIST is not here
    assert max(lowest[:-1]) < 800 and lowest[-1] - sum(box.bounding_box()["height"] + 16 for box in alert.all()) < 800


@pytest.mark.timeout(200)
def test_on_the_projector_type_and_lines_are_large_and_nothing_is_to_press_but_the_way_back(page: Page, server):
    page.goto(f"{server.url}/?activation=relu&blocks=1&batch_size=8&dataset=digits&steps=30&seed=8")
    page.get_by_role("button", name="Start", exact=True).click(timeout=60_000)
    page.wait_for_selector("[data-mode=live][data-status=finished]", timeout=90_000)
    size = (
        "parseFloat(getComputedStyle(document.querySelector('{0}')).fontSize) * document.querySelector('{0}').currentCSSZoom"
    )
    line = "parseFloat(getComputedStyle([...document.querySelectorAll('.gv-loss .js-line')].at(-1)).strokeWidth)"
    settled(page)
    small, thin = page.evaluate(size.format(".gv-state")), page.evaluate(line)
    page.get_by_role("button", name="Projector").click()
    expect(page.get_by_role("button", name="Back to the Lab")).to_be_visible()
    page.wait_for_url("**projector**")
    settled(page)
    seen = [button.inner_text().split("\n")[-1] for button in page.get_by_role("button").all() if button.is_visible()]
    assert seen == ["Back to the Lab"]
    for part in (".stSidebar", "[data-testid=stHeader]", ".gv-controls select"):
        assert not page.locator(part).first.is_visible()
    assert page.evaluate(size.format(".gv-state")) > 1.4 * small and page.evaluate(line) > 1.5 * thin
    assert page.evaluate("getComputedStyle(document.querySelector('.gv')).color") == "rgb(0, 0, 0)"
    assert page.evaluate("getComputedStyle(document.querySelector('.gv-figure b')).opacity") == "1"
    assert complaints(page) == []
    page.get_by_role("button", name="Back to the Lab").click()
    expect(page.get_by_role("switch", name="Batch norm")).to_be_visible()
