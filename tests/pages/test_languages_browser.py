"""Every page in a language of brackets, and two people who read one server in two languages."""

import re
import time

import pytest
from legible import cut, overlapping, texts
from playwright.sync_api import Browser, Page, expect
from pseudo import make, unbracketed

SECONDS = 1000  # Playwright counts in milliseconds
QUICK = "blocks=1&activation=relu&batch_size=8&steps=6&dataset=digits"
CHINESE = re.compile("[\u4e00-\u9fff]")


@pytest.fixture(scope="module")
def strange_server(start_server, tmp_path_factory):
    folder = tmp_path_factory.mktemp("locale")
    make(folder)
    return start_server(GRADVIZ_LOCALE=str(folder), GRADVIZ_PIN="4711")


def opened(browser: Browser, width: int = 1280, locale: str = "en-US") -> Page:
    page = browser.new_context(viewport={"width": width, "height": 900}, locale=locale).new_page()
    page.set_default_timeout(120 * SECONDS)
    return page


def settled(page: Page) -> None:
    """Until the page's script and what it draws by itself stand still."""
    page.wait_for_selector("[data-test-script-state=notRunning]")
    page.wait_for_function("document.documentElement.dataset.lang")
    before, deadline = "", time.monotonic() + 60
    while before != (now := page.evaluate("document.body.innerText")) and time.monotonic() < deadline:
        before = now
        page.wait_for_timeout(700)


def trained(page: Page, url: str) -> str:
    """Starts the run of QUICK on this Lab, whatever its language; its id."""
    page.goto(url)
    page.locator(".st-key-start button").click()
    page.wait_for_selector("[data-mode=live][data-status=finished][data-plots=drawn]")
    return page.locator("[data-mode=live]").get_attribute("data-id")


def found_in(page: Page, state: str) -> list[tuple[str, str, str]]:
    """What went past the catalogue, is cut, or lies on something else."""
    settled(page)
    said = texts(page)
    assert sum("⟦" in text for text in said) >= 3, state
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), state
    past = [(state, "past", text) for text in said if unbracketed(text)]
    return past + [(state, "cut", text) for text in cut(page)] + [(state, "over", pair) for pair in overlapping(page)]


@pytest.mark.timeout(900)
@pytest.mark.parametrize("width", [1280, 390])
def test_no_text_of_a_page_goes_past_the_catalogue_and_none_is_cut_or_lies_on_another(browser, strange_server, width):
    page = opened(browser, width)
    try:
        run = trained(page, f"{strange_server.url}/?{QUICK}&seed={width}&lang=en-XA")
        bad = []
        for address in (
            "?blocks=many&run=0123456789ab", f"?run={run}", "?dataset=digits", f"anatomy?run={run}",
            f"anatomy?run={run}&view=layer", f"anatomy?run={run}&view=motion", "lessons?lesson=sigmoid-depth&dataset=digits",
            "lessons?lesson=exploding-init&dataset=digits&prediction=high", f"compare?runs={run}", "sweep?dataset=digits",
            "classroom", "classroom?wall",
        ):  # fmt: skip
            page.goto(f"{strange_server.url}/{address}{'&' if '?' in address else '?'}lang=en-XA")
            bad += found_in(page, address)
        assert bad == []
    finally:
        page.context.close()


@pytest.mark.timeout(600)
def test_a_run_begun_in_english_is_read_by_another_in_chinese_who_keeps_his_language_and_may_pick_it(browser, strange_server):
    english, chinese = opened(browser), opened(browser, locale="zh-CN")
    try:
        url = strange_server.url
        run = trained(english, f"{url}/?{QUICK}")
        state = "[data-mode=live] .gv-state"
        expect(english.locator(state)).to_contain_text("gradient")
        chinese.goto(f"{url}/?run={run}")
        expect(chinese.locator(state)).to_contain_text("梯度", timeout=120 * SECONDS)
        expect(chinese.locator("html")).to_have_attribute("lang", "zh-CN")
        assert "lang" not in chinese.url  # his browser says so: a link that he copies is in its reader's language

        # What Streamlit says by itself is Chinese too, in what it draws later as well, and its programs are reached by keyboard.
        expect(chinese.get_by_role("button", name="“批量归一化”的说明")).to_be_visible(timeout=120 * SECONDS)
        chinese.get_by_placeholder("1 到 24 个字符").fill("王")
        expect(chinese.get_by_text("按回车键生效")).to_be_visible()
        chinese.locator(".st-key-code summary").click()
        expect(chinese.locator("[data-testid=stCode] pre")).to_have_attribute("tabindex", "0", timeout=120 * SECONDS)
        chinese.get_by_role("link", name="课程").first.click()
        expect(chinese.get_by_role("heading", level=1)).to_have_text(CHINESE, timeout=120 * SECONDS)
        assert not CHINESE.search(english.locator(state).inner_text())

        # The teacher's link has its language, for whoever opens it and on every page after it.
        english.goto(f"{url}/?run={run}&lang=zh")
        expect(english.locator(state)).to_contain_text("梯度", timeout=120 * SECONDS)
        english.get_by_role("link", name="课程").first.click()
        expect(english).to_have_url(re.compile(r"/lessons\?.*lang=zh"), timeout=120 * SECONDS)

        # And anybody picks another, for himself alone.
        english.locator(".st-key-language").get_by_role("combobox").click()
        english.get_by_role("option", name="English", exact=True).click()
        expect(english.get_by_role("heading", level=1)).to_have_text("Lessons", timeout=120 * SECONDS)
        expect(english).to_have_url(re.compile("lang=en"))
        expect(chinese.get_by_role("heading", level=1)).to_have_text(CHINESE)
    finally:
        english.context.close()
        chinese.context.close()
