"""A student's and the teacher's browser on one real server."""

import re
import zipfile

import pytest
from playwright.sync_api import Browser, Page, expect

from gradviz.lenet.lessons.catalogue import LESSONS

SECONDS = 1000  # Playwright counts in milliseconds
LONG = "activation=relu&blocks=2&batch_size=16&dataset=digits&steps=100000"
PIN = "secret-4711"
NAME = "<b>Ann</b> & Bo"


@pytest.fixture(scope="module")
def class_server(start_server):
    return start_server(GRADVIZ_PIN=PIN)


def browser_of(browser: Browser) -> Page:
    page = browser.new_context(viewport={"width": 1280, "height": 900}).new_page()
    page.set_default_timeout(120 * SECONDS)
    return page


def press(page: Page, words: str) -> None:
    """Sends what a card's button would send, whether this browser has that button or not."""
    page.evaluate(
        "words => [...document.querySelectorAll('*')].find(e => e.gradviz?.part?.grid)"
        ".gradviz.part.component.setTriggerValue('action', words)", words,
    )  # fmt: skip


@pytest.mark.timeout(900)
def test_a_student_starts_and_the_teacher_sees_it_shows_it_to_all_and_locks_the_controls(browser, class_server):
    wait = expect
    wait.set_options(timeout=120 * SECONDS)
    student, teacher, projector = (browser_of(browser) for _ in range(3))
    try:
        student.goto(f"{class_server.url}/?{LONG}")
        name = student.get_by_role("textbox", name="Your name on the class")
        name.fill(NAME)
        name.press("Enter")
        student.get_by_role("button", name="Start", exact=True).click()
        student.wait_for_selector("[data-mode=live]")

        projector.goto(f"{class_server.url}/classroom?wall")
        wait(projector.get_by_text("Nothing is on the wall yet")).to_be_visible()

        teacher.goto(f"{class_server.url}/classroom")
        card = teacher.locator(".gvc-card")
        wait(card).to_have_attribute("data-status", "running")
        wait(card.locator(".gvc-who")).to_have_text(NAME)  # as text: nothing of it is markup
        assert card.locator(".gvc-who b").count() == 0
        run_id = card.get_attribute("data-id")
        grown = int(card.get_attribute("data-steps"))
        teacher.wait_for_function(f"Number(document.querySelector('.gvc-card').dataset.steps) > {grown}")
        assert card.locator("polyline").count() >= 1
        teacher.wait_for_function("""() => {
            const heat = document.querySelector('.gvc-heat');
            const data = heat.getContext('2d').getImageData(0, 0, heat.width, heat.height).data;
            return new Set(new Uint32Array(data.buffer)).size > 4;
        }""")

        # Whoever has no PIN may look, and sends the teacher's words in vain.
        assert card.get_by_role("button").all_inner_texts() == ["Open", "Large"]
        press(teacher, f"stop {run_id}")
        wait(teacher.get_by_text("Only the teacher may do that")).to_be_visible()
        wait(card).to_have_attribute("data-status", "running")

        teacher.get_by_text("Teacher mode").click()
        teacher.get_by_label("The teacher's PIN").fill(PIN)
        teacher.get_by_role("button", name="Enter", exact=True).click()
        card.get_by_role("button", name="Put on the wall").click()
        wait(projector.locator(".gvc-title")).to_have_text(NAME)
        projector.wait_for_function("Number(document.querySelector('[data-mode=live]')?.dataset.steps) > 0")

        teacher.get_by_role("button", name="Lock the controls").click()
        wait(teacher.get_by_role("button", name="Unlock the controls")).to_be_visible()
        wait(student.get_by_role("button", name="Stop", exact=True)).to_be_disabled()
        wait(student.get_by_text("The teacher has locked the controls")).to_be_visible()
        wait(student.get_by_role("switch", name="Batch norm")).to_be_disabled()

        card.get_by_role("button", name="Pause").click()
        wait(card).to_have_attribute("data-status", "paused")
        card.get_by_role("button", name="Resume").click()
        wait(card).to_have_attribute("data-status", "running")
        card.get_by_role("button", name="Stop").click()
        wait(card).to_have_attribute("data-status", "stopped")
        wait(student.get_by_role("button", name="Start afresh")).to_be_disabled()

        student.reload()
        wait(student.get_by_role("textbox", name="Your name on the class")).to_have_value(NAME)  # this browser remembers
        wait(student.get_by_role("button", name="Start afresh")).to_be_disabled()

        teacher.get_by_role("button", name="Unlock the controls").click()
        wait(student.get_by_role("button", name="Start afresh")).to_be_enabled()
        teacher.get_by_role("button", name="Announce").click()
        student.get_by_role("link", name=next(iter(LESSONS.values())).title).click()
        wait(student).to_have_url(re.compile(r"/lessons\?.*lesson="))

        card.get_by_role("button", name="Delete").click()
        teacher.get_by_role("dialog").get_by_role("button", name="Keep").click()
        wait(card).to_have_count(1)
        card.get_by_role("button", name="Delete").click()
        teacher.get_by_role("dialog").get_by_role("button", name="Delete").click()
        wait(card).to_have_count(0)
        assert PIN not in teacher.url and PIN not in class_server.log.read_text()
    finally:
        for page in (student, teacher, projector):
            page.context.close()


@pytest.mark.timeout(300)
def test_the_archive_comes_down_as_one_file(browser, class_server, tmp_path):
    student, teacher = browser_of(browser), browser_of(browser)
    try:
        student.goto(f"{class_server.url}/?{LONG.replace('100000', '5')}")
        student.get_by_role("button", name="Start", exact=True).click()
        student.wait_for_selector("[data-mode=live][data-status=finished]")
        teacher.goto(f"{class_server.url}/classroom")
        teacher.get_by_text("Teacher mode").click()
        teacher.get_by_label("The teacher's PIN").fill(PIN)
        teacher.get_by_role("button", name="Enter", exact=True).click()
        with teacher.expect_download() as download:
            teacher.get_by_role("button", name="All runs as one archive").click()
        download.value.save_as(tmp_path / "class.zip")
        with zipfile.ZipFile(tmp_path / "class.zip") as file:
            assert "runs.csv" in file.namelist() and any(name.endswith("steps.csv") for name in file.namelist())
    finally:
        for page in (student, teacher):
            page.context.close()


def test_a_browser_is_the_same_person_after_a_reload_and_a_restart_and_another_browser_is_not(browser, start_server):
    """Its cookie says so; the other, at another address as a proxy tells it, finds the buttons grey."""
    server = start_server(GRADVIZ_PIN="secret-4711", GRADVIZ_WORKERS="1")
    settings = "activation=relu&blocks=1&batch_size=8&dataset=digits&steps=100000"
    own, strange = browser.new_context(), browser.new_context()
    page, other = own.new_page(), strange.new_page()
    page.goto(f"{server.url}/?{settings}")
    page.get_by_role("button", name="Start", exact=True).click(timeout=60_000)
    page.wait_for_url("**run=*")
    link = page.url
    cookie = next(cookie for cookie in own.cookies() if cookie["name"] == "gradviz_person")
    assert cookie["httpOnly"] and cookie["sameSite"] == "Lax" and cookie["expires"] > 0
    other.goto(link)
    expect(other.get_by_text("This run is somebody else's")).to_be_visible(timeout=60_000)
    expect(other.get_by_role("button", name="Stop", exact=True)).to_be_disabled()
    page.reload()
    expect(page.get_by_role("button", name="Stop", exact=True)).to_be_enabled(timeout=60_000)
    server.stop(seconds=60)
    server.start()
    page.goto(link)
    other.goto(link)
    expect(page.get_by_role("button", name="Start afresh")).to_be_enabled(timeout=60_000)
    expect(other.get_by_role("button", name="Start afresh")).to_be_disabled(timeout=60_000)
    own.close()
    strange.close()
