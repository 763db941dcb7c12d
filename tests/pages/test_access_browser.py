"""Every page in every state, as somebody meets it who does not see it, uses no mouse, or sees little."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
from axe import complaints, settled
from playwright.sync_api import Page, expect
from recorded import finished_run
from running import Server
from states import open_all

from gradviz.lenet.config import RunConfig
from gradviz.lenet.lessons.catalogue import LESSONS
from gradviz.record.run import Status

PIN = "secret-4711"
ENDED = RunConfig(activation="sigmoid", blocks=3, batch_size=8, steps=20, dataset="digits")
SHOWN = LESSONS["float32"].configs("digits")
DIVERGED = RunConfig(activation="relu", blocks=2, batch_size=8, steps=20, dataset="digits")
LIVE = "?activation=relu&shortcut=on&blocks=2&batch_size=8&dataset=digits&steps=100000&treatment=clip-norm"


@pytest.fixture(scope="module")
def site(serve_runs) -> Server:
    """A server with a teacher whose store holds a finished run, one that diverged and those of a lesson."""
    diverged = finished_run(DIVERGED)
    diverged.status = Status.DIVERGED
    return serve_runs(
        finished_run(ENDED), diverged, *map(finished_run, SHOWN), GRADVIZ_PIN=PIN
    )  # fmt: skip


@pytest.fixture(scope="module")
def go(site, reader) -> Callable[[str], Page]:
    def went(address: str) -> Page:
        reader.emulate_media(color_scheme="light")
        reader.goto(f"{site.url}/{address}")
        settled(reader)
        return reader

    return went


def check(page: Page) -> None:
    settled(page)
    assert complaints(page) == []


@pytest.mark.parametrize("address", ["anatomy", "lessons", "compare", "sweep", "classroom?wall"])
def test_an_empty_page_has_nothing_that_axe_complains_of(reader, server, address):
    reader.goto(f"{server.url}/{address}")
    check(reader)


@pytest.mark.parametrize("address", [
    "", "?blocks=many", f"?run={ENDED.id}", f"?run={DIVERGED.id}", f"compare?runs={ENDED.id},{DIVERGED.id},{SHOWN[0].id}",
    "lessons?lesson=float32&dataset=digits", "lessons?lesson=sigmoid-depth&dataset=digits",
    "lessons?lesson=float32&dataset=digits&prediction=20", "classroom", f"classroom?wall={ENDED.id}",
])  # fmt: skip
def test_a_page_with_runs_has_nothing_that_axe_complains_of(go, address):
    check(go(address))


def test_what_has_been_chosen_leaves_its_field_wide_enough_to_be_met(go):
    page, widths = go(f"compare?runs={ENDED.id},{DIVERGED.id},{SHOWN[0].id}"), []
    for width in range(700, 1300, 6):
        page.set_viewport_size({"width": width, "height": 800})
        widths.append(page.locator("[data-testid=stMultiSelect] input").evaluate("e => e.getBoundingClientRect().width"))
    page.set_viewport_size({"width": 1280, "height": 800})
    assert min(widths) >= 24


def test_every_box_of_the_lab_opened_has_nothing_that_axe_complains_of(go):
    page = go(f"?run={ENDED.id}")
    open_all(page)
    check(page)


def test_a_live_run_and_its_anatomy_have_nothing_that_axe_complains_of(go):
    page = go(LIVE)
    page.get_by_role("button", name="Start", exact=True).click()
    page.wait_for_function("Number(document.querySelector('[data-mode=live]')?.dataset.steps) > 12")
    page.get_by_role("button", name="Pause").click()
    expect(page.get_by_role("button", name="Resume")).to_be_visible()
    check(page)
    run = re.search("run=([0-9a-f]+)", page.url)[1]
    for view in ("layers", "treatment", "shortcut", "layer", "motion"):
        check(go(f"anatomy?run={run}&view={view}"))


def test_the_teacher_s_page_and_the_locked_pages_have_nothing_that_axe_complains_of(go):
    page = go("classroom")
    page.get_by_text("Teacher mode").click()
    page.get_by_label("The teacher's PIN").fill(PIN)
    page.get_by_role("button", name="Enter", exact=True).click()
    page.get_by_role("button", name="Lock the controls").click()
    expect(page.get_by_role("button", name="Unlock the controls")).to_be_visible()
    page.mouse.move(0, 0)
    check(page)
    for address in ("", "sweep"):
        check(go(address))
