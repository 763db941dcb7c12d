"""A shared file in a browser without a network: it answers what the server would, and never runs what somebody typed."""

from __future__ import annotations

import base64
import itertools
import json
import random
import struct
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from heatmap import place
from playwright.sync_api import BrowserContext, Page, expect
from recorded import ARITHMETIC, extend, finished_run, new_run
from spooled import Spooled

from gradviz.lenet.config import RunConfig
from gradviz.record.quantities import described
from gradviz.record.run import Run, Status
from gradviz.record.spool import read_spool
from gradviz.share.outcome import run_shared
from gradviz.share.page import Shared, written
from gradviz.share.several import compared
from gradviz.web import wire
from gradviz.web.given import theory_of, words_of

GROUPS = tuple(f"stage{stage}.unit{unit}.conv" for stage in range(10) for unit in range(8))  # a page folds them


@pytest.fixture(scope="module")
def offline(browser) -> Iterator[BrowserContext]:
    context = browser.new_context(viewport={"width": 1280, "height": 900}, offline=True)
    context.set_default_timeout(30_000)
    yield context
    context.close()


@pytest.fixture
def shown(offline, tmp_path) -> Iterator[Callable[..., Page]]:
    """shown(run, …) is a page with its file, opened from the disk and drawn; whatever goes wrong in it fails the test."""
    wrong: list[str] = []
    pages: list[Page] = []

    def opened(what: Run | Shared, home: str | None = None) -> Page:
        file = tmp_path / "Größe # 数 %41.html"
        file.write_bytes(written(what if isinstance(what, Shared) else run_shared(what, home)))
        page = offline.new_page()
        pages.append(page)
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("console", lambda said: wrong.append(said.text) if said.type in ("error", "warning") else None)
        page.on("dialog", lambda dialog: (wrong.append(dialog.message), dialog.dismiss()))
        page.on("request", lambda asked: wrong.append(asked.url) if asked.url.startswith(("http", "ws")) else None)
        page.goto(file.as_uri())
        expect(page.locator(".gv")).to_have_attribute("data-plots", "drawn")
        return page

    yield opened
    for page in pages:
        page.close()
    assert wrong == []


def asked(page: Page, path: str) -> tuple[dict, bytes]:
    """Header and arrays of what the file answers."""
    packed = page.evaluate(
        """async (path) => {
          const bytes = new Uint8Array(await (await fetch(new URL(path, document.baseURI))).arrayBuffer());
          let text = "";
          for (let i = 0; i < bytes.length; i += 9000) text += String.fromCharCode(...bytes.subarray(i, i + 9000));
          return btoa(text);
        }""", path,
    )  # fmt: skip
    return read(base64.b64decode(packed))


def read(message: bytes) -> tuple[dict, bytes]:
    (length,) = struct.unpack_from("<I", message)
    return json.loads(message[4 : 4 + length], parse_int=float), message[4 + length :]  # 1e19 is written otherwise there


def assert_same(arrays: bytes, truth: bytes, header: dict) -> None:
    """Numbers as such: a nan may have other bits; codes byte for byte."""
    codes = int(header["columns"] * header["rows"])
    assert len(arrays) == len(truth) and arrays[-codes:] == truth[-codes:]
    np.testing.assert_array_equal(*(np.frombuffer(each[:-codes], "<f4") for each in (arrays, truth)))


def odd_run() -> Run:
    run = new_run(blocks=2)
    extend(run, 30)
    run.status, run.test_accuracy = Status.DIVERGED, 0.25
    return run


def pooled_run() -> Run:
    run = new_run(blocks=160, columns=8)  # more layers than rows; columns of four steps
    extend(run, 30)
    run.status = Status.FINISHED
    return run


def watched_run(folder: Path) -> Run:
    spool = Spooled(folder, GROUPS)
    spool.steps(21, every=5)
    spool.end()
    return read_spool(spool.path)


@pytest.mark.parametrize("kind", ["odd", "pooled", "watched"])
def test_a_file_answers_what_the_server_would(kind, shown, tmp_path):
    run = {"odd": odd_run, "pooled": pooled_run, "watched": lambda: watched_run(tmp_path)}[kind]()
    page, history, said = shown(run), run.history, words_of(run)
    for quantity in history.quantities:
        wishes = [(ends, "") for ends in described(quantity).ranges]
        wishes += [] if described(quantity).linear else [((0.0, 0.0), "&fit=1")]
        for (low, high), fit in wishes:
            theirs, arrays = asked(page, f"api/runs/{run.id}?quantity={quantity}&low={low:g}&high={high:g}{fit}")
            ours, truth = read(wire.delta(run, 0, 0, quantity, low, high, *said, fit=bool(fit), opened=None))
            assert theirs.pop("frame") == history.steps
            assert theirs == ours
            assert_same(arrays, truth, ours)
    for step in range(history.steps):
        theirs, arrays = asked(page, f"api/runs/{run.id}/profile?step={step}")
        column = int(theirs["from_step"]) // history.stride
        assert not run.watched and column == step // history.stride or run.watched and abs(theirs["from_step"] - step) <= 2
        assert arrays == np.ascontiguousarray(history.columns[column], "<f4").tobytes()
        assert theirs["theory"] == (None if column else theory_of(run.recipe))


def test_a_moment_of_the_replay_is_what_the_page_showed_then(shown):
    run = odd_run()
    page = shown(run)
    then = new_run(blocks=2)
    then.created, then.status = run.created, Status.RUNNING
    extend(then, 30)
    for slider, steps in ((0, 1), (11, 12), (28, 29)):
        page.get_by_label("Up to which step").fill(str(slider))
        expect(page.locator(".gv")).to_have_attribute("data-steps", str(steps))
        short = replace(then, history=then.history.snapshot(steps))
        for quantity in ("weight_grad_rms", "zero_share"):
            low, high = described(quantity).ranges[0]
            theirs, arrays = asked(page, f"api/runs/{run.id}?quantity={quantity}&low={low:g}&high={high:g}")
            ours, truth = read(wire.delta(short, 0, 0, quantity, low, high, *words_of(short), opened=None))
            for name in ("frame", "seconds_left", "live"):
                theirs.pop(name), ours.pop(name, None)
            assert theirs == ours
            assert_same(arrays, truth, ours)


def test_it_is_opened_from_disk_without_a_network_scrubbed_and_replayed(shown):
    run = finished_run(RunConfig(blocks=3, steps=24, dataset="digits"), 24)
    run.arithmetic = ARITHMETIC
    page = shown(run, home="http://school.example:8501/")
    expect(page.get_by_role("heading", level=1)).to_have_text(run.recipe.title)
    page.mouse.move(*place(page, 7, 4))
    truth = run.history.quantity("weight_grad_rms")[7, 4]
    expect(page.locator(".gv-tip")).not_to_contain_text("≈")
    expect(page.locator(".gv-tip")).to_contain_text(f"{truth:.1e}".split("e")[0])
    expect(page.locator(".gv-profile .gv-meaning")).to_have_text("step 7")
    page.mouse.click(*place(page, 7, 4))
    link = page.get_by_role("link", name="Open layer")
    assert link.get_attribute("href").startswith(f"http://school.example:8501/anatomy?run={run.id}&layer=block1.conv1")
    slider = page.get_by_label("Up to which step")
    slider.fill("9")
    expect(page.locator("[data-figure=step] span")).to_have_text("9 of 23")
    expect(page.locator("output")).to_have_text("step 9 of 23")
    page.get_by_role("button", name="Replay").click()
    expect(page.get_by_role("button", name="Pause")).to_be_visible()
    page.get_by_role("button", name="Pause").click()
    slider.fill("22")
    page.get_by_role("button", name="Replay").click()  # from there to the end
    expect(page.locator(".gv")).to_have_attribute("data-status", "finished", timeout=20_000)
    expect(page.locator("[data-figure=step] span")).to_have_text("23 of 23")
    page.get_by_label("Quantity").select_option("activation_rms")
    expect(page.locator(".gv")).to_have_attribute("data-quantity", "activation_rms")
    back = page.get_by_role("link", name="The same on the pages of gradviz").get_attribute("href")
    assert back.startswith("http://school.example:8501/?") and f"run={run.id}" in back


@pytest.mark.parametrize(("width", "scheme"), [(1280, "dark"), (390, "light")])
def test_it_has_room_on_a_screen_and_on_a_phone_and_the_readers_colours(width, scheme, shown):
    page = shown(odd_run())
    page.set_viewport_size({"width": width, "height": 800})
    page.emulate_media(color_scheme=scheme)
    expect(page.locator("html")).to_have_attribute("data-theme", scheme)
    expect(page.locator("html")).to_have_js_property("scrollWidth", width)
    dark, light = "rgb(14, 17, 23)", "rgb(255, 255, 255)"
    expect(page.locator(".gv-loss svg").first).to_have_css("background-color", dark if scheme == "dark" else light)
    page.get_by_role("button", name="colours").click()
    expect(page.locator(".gv-loss svg").first).to_have_css("background-color", light if scheme == "dark" else dark)
    expect(page.locator("body")).to_have_css("background-color", light if scheme == "dark" else dark)


def test_a_comparison_shows_its_pictures_and_each_of_its_runs(shown):
    runs = [finished_run(RunConfig(blocks=2, steps=12, dataset="digits", seed=seed), 12) for seed in (0, 1)]
    page = shown(compared(runs, "activation_rms"))
    expect(page.locator(".share-figure .plot-container")).to_have_count(6)
    page.locator(".share-bar select").select_option(index=1)
    expect(page.locator(".gv")).to_have_attribute("data-id", runs[1].id)
    expect(page.locator(".gv")).to_have_attribute("data-plots", "drawn")
    page.get_by_label("Up to which step").fill("3")
    expect(page.locator("[data-figure=step] span")).to_have_text("3 of 11")
    assert page.get_by_role("table").first.inner_text().count("finished") == 2


HOSTILE = [
    "</script><script>window.hit=1</script>", "<img src=x onerror=window.hit=1>", "\"'><svg onload=window.hit=1>",
    "<a href=\"javascript:window.hit=1\">press</a>", "javascript:window.hit=1", "]]>--><!--", "${window.hit=1}", "{step}{layer}",
    "%{x}<extra>", "\u202egnp.exe", "\x00\x08\x1b[31m", "\ud800", "𝕊 数 🜚", "\\u003cscript", "__proto__", "constructor", "",
    " ", "a" * 300, "</title>", "&lt;b&gt;", "http://evil.example/x.js",
]  # fmt: skip


def test_nothing_that_somebody_typed_is_run_or_fetched_whatever_it_says(shown, tmp_path):
    chance = random.Random(7)
    parts = ["<", ">", "&", '"', "'", "`", "\\", "/", "=", "(", ")", "script", "onload", ":", ";", "\n", "{", "}", "%", "\u2028"]
    noise = ["".join(chance.choices(parts, k=chance.randint(1, 24))) for _ in range(40)]
    names = list(dict.fromkeys(name or "(empty)" for name in itertools.chain(HOSTILE, noise)))
    spool = Spooled(tmp_path, names, title=HOSTILE[0] + HOSTILE[1] + "\u202e\ud800x")
    spool.steps(4)
    spool.end()
    run = read_spool(spool.path)
    page = shown(run, home="http://school.example/")
    title = page.get_by_role("heading", level=1)
    assert title.text_content() == run.recipe.title.replace("\ud800", "?") and title.locator("*").count() == 0
    assert page.evaluate("window.hit") is None
    assert page.locator("script").count() == 4 and page.locator("main :is(img, iframe, object, script)").count() == 0
    assert page.locator("main a[href^='javascript'], main svg a").count() == 0
    page.locator("select[name=layer]").select_option(index=3)
    page.get_by_label("Up to which step").fill("1")
    expect(page.locator(".gv")).to_have_attribute("data-steps", "2")
    assert page.evaluate("window.hit") is None


def test_a_script_that_the_file_does_not_know_is_not_run(offline, tmp_path):
    (tmp_path / "run.html").write_bytes(written(run_shared(odd_run())))
    page = offline.new_page()
    page.goto((tmp_path / "run.html").as_uri())
    refused = page.evaluate(
        """() => new Promise((done) => {
          document.addEventListener("securitypolicyviolation", (event) => done(event.violatedDirective), { once: true });
          const script = document.createElement("script");
          script.textContent = "window.hit = 1";
          document.head.append(script);
        })"""
    )
    assert refused.startswith("script-src") and page.evaluate("window.hit") is None
    page.close()
