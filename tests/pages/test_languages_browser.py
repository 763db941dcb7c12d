"""Every page in a language of brackets, and two people who read one server in two languages."""

import contextlib
import re
import time
from collections.abc import Iterable, Sequence

import pytest
import states
from axe import settled
from legible import cut, named, overlapping, texts
from playwright.sync_api import Browser, Page, expect
from pseudo import make, unbracketed
from running import Server

from gradviz.lenet.lessons.catalogue import LESSONS

SECONDS = 1000  # Playwright counts in milliseconds
QUICK = "blocks=1&activation=relu&batch_size=8&steps=6&dataset=digits"
# The title and the layers of somebody's own net.
OWN = re.compile(r"A \*ResNet\* of mine|\bblocks\.\d\.conv\d")
CHINESE = re.compile("[\u4e00-\u9fff]")


@pytest.fixture(scope="module")
def strange_server(tmp_path_factory):
    """It speaks the language of brackets too; its store holds the runs of all lessons."""
    folder = tmp_path_factory.mktemp("locale")
    make(folder)
    server = Server(tmp_path_factory.mktemp("server"), states.SERVER | {"GRADVIZ_LOCALE": str(folder)})
    states.stock(server.store)
    server.start()
    yield server
    server.kill()


def opened(browser: Browser, width: int = 1280, locale: str = "en-US") -> Page:
    page = browser.new_context(viewport={"width": width, "height": 900}, locale=locale).new_page()
    page.set_default_timeout(120 * SECONDS)
    return page


def trained(page: Page, url: str) -> str:
    """Starts the run of QUICK on this Lab, whatever its language; its id."""
    page.goto(url)
    page.locator(".st-key-start button").click()
    page.wait_for_selector("[data-mode=live][data-status=finished][data-plots=drawn]")
    return page.locator("[data-mode=live]").get_attribute("data-id")


class Strict:
    """Somebody who goes through every state, and writes down what went past the catalogue, is cut, or lies on something else."""

    def __init__(self, url: str):
        self.url, self.bad = url, []

    def visit(self, page: Page, states: Iterable[states.State], briefly: Sequence[str] = ()) -> None:
        """Of those that `briefly` names the narrow page alone."""
        for name, address, act in states:
            page.set_viewport_size({"width": 1280, "height": 900})
            page.goto(f"{self.url}/{address}{'&' if '?' in address else '?'}lang=en-XA")
            page.wait_for_function("document.documentElement.dataset.lang")
            settled(page)
            if act:
                act(page)
            for width in (390,) if name in briefly else (1280, 390):
                page.set_viewport_size({"width": width, "height": 900})
                settled(page)
                # What moves while a page draws itself again is gone after a while.
                deadline = time.monotonic() + 15
                while (found := self.seen(page)) and time.monotonic() < deadline:
                    page.wait_for_timeout(300)
                self.bad += [(name, width, *each) for each in found]

    def seen(self, page: Page) -> list[tuple[str, str]]:
        said = texts(page)
        found = [("few", str(said))] * (sum("⟦" in text for text in said) < 2)
        found += [("wide", "")] * page.evaluate("document.documentElement.scrollWidth > innerWidth")
        found += [("past", text) for text in (*said, *named(page)) if unbracketed(OWN.sub("", text))]
        return found + [("cut", text) for text in cut(page)] + [("over", pair) for pair in overlapping(page)]


@pytest.mark.timeout(900)
def test_no_text_of_any_state_goes_past_the_catalogue_and_none_is_cut_or_lies_on_another(browser, strange_server):
    page, teacher, strict = opened(browser), opened(browser), Strict(strange_server.url)
    with contextlib.ExitStack() as stack:
        stack.callback(page.context.close)
        stack.callback(teacher.context.close)
        strict.visit(page, states.of_nobody_yet())
        runs = {name: states.train(page, strange_server, query, status) for name, (query, status) in states.TRAINED.items()}
        for name, how in states.WATCHED.items():
            runs[name] = stack.enter_context(states.watched(strange_server.store, how))
        first, *others = (f"lesson-{lesson}" for lesson in LESSONS)
        asks = [f"{lesson}-asks" for lesson in others]  # what they ask stands beside their answers too
        strict.visit(page, (state for state in states.of_one_reader(runs) if state[0] not in asks), briefly=others)
        strict.visit(teacher, states.of_a_teacher())
        strict.visit(page, states.of_a_locked_class(runs))
    assert strict.bad == []


@pytest.mark.timeout(600)
def test_a_run_begun_in_english_is_read_by_another_in_chinese_who_keeps_his_language_and_may_pick_it(browser, server):
    english, chinese = opened(browser), opened(browser, locale="zh-CN")
    try:
        url = server.url
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
