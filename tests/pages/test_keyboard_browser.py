"""Without a mouse, without sight, with little movement, with colours of one's own, on a small screen."""

from __future__ import annotations

import io
import re

import numpy as np
import pytest
from axe import settled
from legible import cut
from PIL import Image
from playwright.sync_api import Locator, Page, expect
from recorded import finished_run
from running import Server

from gradviz import words
from gradviz.lenet.config import RunConfig
from gradviz.lenet.lessons.catalogue import LESSONS

ENDED = RunConfig(activation="sigmoid", blocks=3, batch_size=8, steps=20, dataset="digits")


@pytest.fixture(scope="module")
def site(serve_runs) -> Server:
    return serve_runs(finished_run(ENDED))


def tab_to(page: Page, goal: Locator, most: int = 120) -> None:
    """Presses Tab until that element has the focus; each on the way shows where it is."""
    goal.wait_for()
    for _ in range(most):
        page.keyboard.press("Tab")
        if goal.evaluate("goal => goal === document.activeElement || goal.contains(document.activeElement)"):
            return
    raise AssertionError(f"Tab does not reach {goal}")


def said_of(picture: Locator) -> str:
    return picture.evaluate("e => document.getElementById(e.getAttribute('aria-describedby')).textContent")


def focus_is_seen(page: Page) -> bool:
    """Whether the picture of the focused element, or of what stands for it, is another without the focus."""
    return page.evaluate(
        """() => {
            const seen = ['outlineStyle', 'outlineWidth', 'boxShadow', 'borderColor', 'backgroundColor'];
            const shown = (e) => seen.map((name) => getComputedStyle(e)[name]).join();
            const parts = [];
            for (let e = document.activeElement; e && parts.length < 4; e = e.parentElement) parts.push(e, ...e.children);
            const focused = parts.map(shown), element = document.activeElement;
            element.blur();
            const changed = parts.some((part, k) => shown(part) !== focused[k]);
            element.focus({ focusVisible: true });
            return changed;
        }"""
    )  # fmt: skip


def spoken(page: Page, words: str | re.Pattern) -> None:
    expect(page.locator("[role=status]").filter(has_text=words).first).to_be_attached()


def test_the_heatmap_is_read_cell_by_cell_with_the_arrow_keys(reader, site):
    reader.goto(f"{site.url}/?run={ENDED.id}")
    settled(reader)
    heat = reader.get_by_role("application", name=re.compile("Every layer at every step"))
    tab_to(reader, heat)
    assert focus_is_seen(reader)
    names = ENDED.layout.names
    reader.keyboard.press("ArrowUp")
    spoken(reader, re.compile(rf"^{re.escape(names[0])}, step 19: [\d.]"))
    expect(reader.locator(".gv-cell")).to_be_visible()
    reader.keyboard.press("ArrowUp")
    reader.keyboard.press("ArrowLeft")
    spoken(reader, re.compile(rf"^{re.escape(names[1])}, step 18: [\d.]"))
    reader.keyboard.press("Home")
    spoken(reader, re.compile(rf"^{re.escape(names[1])}, step 0: "))
    reader.keyboard.press("Enter")
    expect(reader.locator(".gv-profile .gv-meaning")).to_contain_text("step 0, kept")
    expect(reader.get_by_role("link", name=f"Open layer {names[1]} in Anatomy")).to_be_visible()
    ends = "document.querySelector('.gv-heatmap .js-plotly-plot')._fullLayout.xaxis.range"
    before = reader.evaluate(ends)
    reader.keyboard.press("+")
    reader.wait_for_function(f"JSON.stringify({ends}) !== '{str(before).replace(' ', '')}'")
    reader.keyboard.press("0")
    reader.wait_for_function(f"{ends}[1] - {ends}[0] >= {before[1] - before[0]}")
    reader.keyboard.press("Tab")
    expect(reader.locator(".gv-cell")).to_be_hidden()
    assert not heat.evaluate("heat => heat === document.activeElement")  # no trap


def test_a_picture_says_what_it_shows_and_gives_its_numbers_in_a_table(reader, site):
    reader.goto(f"{site.url}/?run={ENDED.id}")
    settled(reader)
    loss = reader.get_by_role("img", name="Loss")
    said = said_of(loss)
    assert "training batch: first 0: 2.3; last 19: 0.5; lowest 19: 0.5; highest 0: 2.3." in said
    spoken(reader, re.compile(r"^Finished\. "))
    button = reader.locator(".gv-heatmap").get_by_role("button", name="The numbers of this picture")
    button.focus()
    reader.keyboard.press("Enter")
    rows = reader.get_by_role("dialog").get_by_role("row")
    expect(rows).to_have_count(1 + ENDED.layers)
    expect(rows.nth(1).get_by_role("cell").first).to_have_text(ENDED.layout.names[0])
    reader.keyboard.press("Escape")
    expect(reader.get_by_role("dialog")).to_have_count(0)
    expect(button).to_be_focused()


def test_a_figure_says_what_it_shows_too(reader, site):
    reader.goto(f"{site.url}/compare?runs={ENDED.id}")
    settled(reader)
    figure = reader.get_by_role("figure", name="Training loss over steps")
    said = said_of(figure)
    assert "first 0: 2.3; last 19: 0.5" in said
    figure.get_by_role("button", name="The numbers of this picture").click()
    expect(reader.get_by_role("dialog").get_by_role("row")).to_have_count(1 + ENDED.steps)
    reader.keyboard.press("Escape")


def test_the_slow_motion_goes_by_arrow_keys_and_does_not_move_by_itself_for_who_wants_none(reader, site):
    reader.emulate_media(reduced_motion="reduce")
    reader.goto(f"{site.url}/anatomy?run={ENDED.id}&view=motion")
    settled(reader)
    slider = reader.get_by_role("slider", name="Time within the step")
    slider.focus()
    reader.keyboard.press("Home")
    reader.keyboard.press("ArrowRight")
    spoken(reader, re.compile(f"Forward.*{re.escape(ENDED.layout.names[1])} hands on"))
    reader.keyboard.press("PageUp")
    reader.keyboard.press("PageUp")
    spoken(reader, re.compile(f"Backward.*At {re.escape(ENDED.layout.names[-1])}"))
    reader.get_by_role("button", name="Next stage").click()
    spoken(reader, "Treatment.")
    long = "(a) => a.playState === 'running' && a.effect.getComputedTiming().activeDuration > 50"
    assert reader.evaluate(f"document.getAnimations().filter({long}).length") == 0
    reader.emulate_media(reduced_motion="no-preference")


@pytest.mark.timeout(300)
@pytest.mark.parametrize("language", ["en", "zh_CN"])
def test_a_whole_lesson_is_done_with_the_keyboard_and_read_in_the_accessibility_tree(reader, site, language):
    lesson = LESSONS["float32"]
    page, answer = reader, {"en": "20", "zh_CN": "30"}[language]
    page.goto(f"{site.url}/lessons?dataset=digits&lang={words.word_of(language)}")
    settled(page)
    with words.speaking(language):
        title, question, predicted, why = (
            words.gettext(text) for text in (lesson.title, lesson.question, "Your prediction: **{answer}**", "Why")
        )  # fmt: skip
        measured, explanation = words.gettext("Measured"), words.gettext(lesson.explanation)
    tab_to(page, page.locator(".st-key-open-float32 button"))
    assert focus_is_seen(page)
    page.keyboard.press("Enter")
    tab_to(page, page.get_by_role("spinbutton"))
    page.keyboard.type(answer)
    tab_to(page, page.get_by_test_id("stFormSubmitButton").locator("button"))
    assert focus_is_seen(page)
    page.keyboard.press("Enter")
    page.wait_for_url(f"**prediction={answer}**")
    if language == "en":  # the second reader finds the runs of the first
        tab_to(page, page.locator(".st-key-run button"))
        page.keyboard.press("Enter")
    expect(page.get_by_role("heading", name=why, exact=True)).to_be_visible(timeout=120_000)
    page.locator("figure > .gv-figure").first.wait_for()
    settled(page)
    tree = page.get_by_role("main").aria_snapshot()
    for said in (f'heading "{title}" [level=1]', f'heading "{question}" [level=2]', f'heading "{why}" [level=2]', measured,
                 predicted.split("*")[0].strip(), answer, explanation[:30], "- table:", 'figure "'):  # fmt: skip
        assert said in tree, said
    assert "- img" not in re.sub(r"- img \"[^\"]+\"", "", tree)  # each has a name
    if language == "zh_CN":
        left = re.sub(r"/url: .*|https?:\S+|`[^`]*`", "", tree)
        assert re.findall(r"[A-Za-z]+(?: [a-z]+){3,}", left) == []  # no English sentence


def colours(part: Locator) -> int:
    return len(np.unique(np.asarray(Image.open(io.BytesIO(part.screenshot())).convert("RGB")).reshape(-1, 3), axis=0))


def test_with_forced_colours_switches_the_slider_and_the_bar_of_progress_are_there(reader, site):
    reader.goto(f"{site.url}/?run={ENDED.id}")
    settled(reader)
    reader.emulate_media(forced_colors="active")
    switch = reader.locator(".st-key-control_batch_norm label > div").first
    off = colours(switch)
    assert off > 1
    assert colours(reader.locator(".st-key-control_blocks_quick [role=group] > div > div").first) > 1
    bar = reader.get_by_role("progressbar").first
    expect(bar).to_have_attribute("aria-valuenow", "100")
    inside = bar.locator("div").evaluate("e => getComputedStyle(e).backgroundColor")
    assert inside != bar.evaluate("e => getComputedStyle(e).backgroundColor")
    reader.emulate_media(forced_colors="none")


# What Chrome does: a <font> with other words in the place of each text.
TRANSLATE = """() => {
    const walker = document.createTreeWalker(document.querySelector('.stMain'), NodeFilter.SHOW_TEXT), texts = [];
    for (let text = walker.nextNode(); text; text = walker.nextNode())
        if (!text.parentElement.closest('style, script, svg, pre')) texts.push(text);
    for (const text of texts) {
        const font = document.createElement('font');
        font.textContent = text.data.toUpperCase();
        text.replaceWith(font);
    }
}"""


def test_a_page_that_the_browser_translates_goes_on_showing_what_is_set(reader, site):
    reader.goto(f"{site.url}/?blocks=2&dataset=digits&steps=20&activation=relu")
    reader.wait_for_selector("[data-mode=preview][data-status=ready]")
    settled(reader)
    main = reader.locator(".stMain")
    reader.evaluate(TRANSLATE)
    expect(main).to_contain_text("9 WEIGHT LAYERS")
    reader.get_by_role("slider", name="Blocks").press("ArrowRight")
    expect(main).to_contain_text("11 weight layers")
    expect(main).to_contain_text("3 blocks")
    expect(main).not_to_contain_text("2 BLOCKS")
    reader.get_by_role("switch", name="Shortcut").press("Space")
    expect(main).to_contain_text("3 blocks · relu · shortcut")


@pytest.mark.parametrize("page", ["", "anatomy", "lessons", "compare", "sweep", "classroom"])
def test_nothing_of_a_page_lies_beside_the_screen_or_is_cut_at_a_zoom_of_200_and_400_percent(reader, site, page):
    """A screen of 1280 pixels has 640 and 320 then."""
    try:
        reader.goto(f"{site.url}/{page}" + (f"?run={ENDED.id}" if page in ("", "anatomy") else ""))
        for width in (640, 320):
            reader.set_viewport_size({"width": width, "height": 640})
            settled(reader)
            beside = reader.evaluate("""() => {
                const main = document.querySelector('.stMain');
                return [document.documentElement.scrollWidth - innerWidth, main.scrollWidth - main.clientWidth];
            }""")
            assert max(beside) <= 0, width
            assert cut(reader) == [], width
    finally:
        reader.set_viewport_size({"width": 1280, "height": 800})
