"""What a reader has opened stays open while other things on the page come and go."""

from playwright.sync_api import Page, expect
from running import Server

BOXES = ("Advanced", "More remedies", "Warm-up and schedule")


def open_boxes(page: Page) -> list[str]:
    boxes = page.get_by_test_id("stSidebar").locator("details")
    return [name for name in BOXES if boxes.filter(has_text=name).evaluate("box => box.open")]


def test_boxes_of_settings_stay_open_when_a_setting_above_them_gets_fields_of_its_own(server: Server, page: Page):
    page.goto(f"{server.url}/?blocks=3&dataset=digits")
    side = page.get_by_test_id("stSidebar")
    for name in BOXES:
        side.get_by_text(name, exact=True).click()
    expect(side.get_by_role("combobox", name="Schedule")).to_be_visible()
    assert open_boxes(page) == [*BOXES]
    side.get_by_text("Weights from U", exact=False).click()
    expect(side.get_by_role("spinbutton", name="a, exactly")).to_be_visible()
    assert open_boxes(page) == [*BOXES]
    treatment = side.get_by_role("combobox", name="Gradient treatment")
    treatment.focus()
    page.keyboard.press("ArrowDown")
    expect(page.get_by_role("option", name="clip-norm")).to_be_visible()
    page.keyboard.type("clip-norm")
    expect(page.get_by_role("option")).to_have_count(1)
    page.keyboard.press("Enter")
    expect(side.get_by_role("spinbutton", name="Threshold")).to_be_visible()
    assert open_boxes(page) == [*BOXES]


def test_a_box_opens_by_itself_for_settings_that_stand_in_it(server: Server, page: Page):
    page.goto(f"{server.url}/?blocks=3&dataset=digits")
    page.get_by_role("button", name="Start").wait_for()
    assert open_boxes(page) == []
    page.goto(f"{server.url}/?blocks=300&dataset=digits&warmup=10&init=orthogonal")
    page.get_by_role("button", name="Start").wait_for()
    assert open_boxes(page) == [*BOXES]
