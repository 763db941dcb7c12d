"""The path to the eye: bytes, server time, browser time, and how long people wait for a picture. And what the store costs.

    python -m benchmarks.eye [--wire] [--browser] [--waits] [--store]

Wire: `gradviz.web.wire` alone, on made-up histories of 500 columns. Browser: the real server with made-up records
(benchmarks/replay.py), a real Chromium on its Lab page; the page itself measures from asking to drawn. Waits: the real
server with real trainings. Store: `RunStore.save` with what a run records in half a second, as the run manager writes.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from benchmarks import replay
from benchmarks.common import COLUMNS, WINDOW, chromium, live_page, load_data, middle, new_profile, running_app, table
from gradviz.lenet.config import READERS, RunConfig
from gradviz.lenet.diagnosis import diagnose
from gradviz.record.history import History, max_columns
from gradviz.record.quantities import QUANTITIES
from gradviz.record.run import Run, Status
from gradviz.store.store import RunStore
from gradviz.web import wire

PREVIEW = "document.querySelector('[data-mode=preview]')?.dataset.plots === 'drawn'"
BLOCKS = (12, 60, 1000)  # 29, 125 and 2005 layers


def made_up(blocks: int, steps: int, status: Status = Status.RUNNING, seed: int = 0) -> Run:
    config = RunConfig(blocks=blocks, activation="relu", shortcut=True, dataset=load_data().name, steps=1000, seed=seed)
    run = Run(config, History(config.layers, max_columns(config.layers)), status, "cpu")
    random = np.random.default_rng(0)
    for step in range(steps):
        run.history.append(replay.record(step, config.layers, random))
    return run


def milliseconds(work, times: int) -> list[float]:
    taken = []
    for _ in range(times):
        begin = time.perf_counter()
        work()
        taken.append(1000 * (time.perf_counter() - begin))
    return taken


def wires(quick: bool) -> str:
    rows, times = [], 5 if quick else 50
    low, high = QUANTITIES["weight_grad_rms"].ranges[0]
    for blocks in BLOCKS:
        run = made_up(blocks, COLUMNS)
        words = diagnose(run)
        said = (str(words.verdict), str(words.sentence))
        stride = run.history.stride

        def some(since, run=run, stride=stride, said=said):
            return wire.delta(run, since, stride if since else 0, "weight_grad_rms", low, high, *said)

        few, whole = some(COLUMNS - 2), some(0)
        rows.append([
            len(run.recipe.layout), f"{len(few) / 1000:.1f}", middle(milliseconds(lambda some=some: some(COLUMNS - 2), times)),
            f"{len(whole) / 1000:.0f}", middle(milliseconds(lambda some=some: some(0), times), 1),
            middle(milliseconds(lambda run=run: diagnose(run), max(3, times // 5)), 1),
        ])  # fmt: skip
    head = ["layers", "update, kB", "update, server ms", "whole, kB", "whole, server ms", "verdict, ms (once per second and run)"]
    return table(head, rows)


# Runs in the page: for every answer drawn, from asking to the end of drawing, and the drawing alone.
WATCH = """() => {
  const panel = document.querySelector('[data-mode=live]');
  window.asked = null; window.seen = [];
  const get = window.fetch;
  window.fetch = (url, ...rest) => {
    if (String(url).includes('/api/runs/') && !String(url).includes('profile')) window.asked = performance.now();
    return get(url, ...rest);
  };
  new MutationObserver(() => {
    if (window.asked !== null) window.seen.push([performance.now() - window.asked, Number(panel.dataset.drawMs)]);
    window.asked = null;
  }).observe(panel, { attributes: true, attributeFilter: ['data-draw-ms'] });
}"""


def browsers(quick: bool) -> str:
    rows, wanted = [], 4 if quick else 15
    with running_app("benchmarks.replay") as server, chromium() as browser:
        for blocks in BLOCKS:
            page, config = live_page(browser, server, blocks)
            page.evaluate(WATCH)
            page.wait_for_function(f"window.seen.length >= {wanted}", timeout=180_000)
            seen = page.evaluate("window.seen")
            rows.append([config.layers, middle([row[1] for row in seen], 0), middle([row[0] for row in seen], 0)])
            print(*rows[-1], file=sys.stderr, flush=True)
            page.get_by_role("button", name="Stop").click()
            page.close()
    return table(["layers", "drawing, ms", "from asking to drawn, ms"], rows)


def waits(quick: bool) -> str:
    """Seconds until the server answers, until the page is usable, from a change to its preview, from Start to the first point."""
    again, rows = 2 if quick else 7, []
    base = RunConfig(blocks=12, activation="relu", shortcut=True, dataset=load_data().name, steps=5000)
    begin = time.perf_counter()
    with running_app() as server:
        rows.append(["server started until it answers", "–", f"{time.perf_counter() - begin:.1f}"])

        def address(config: RunConfig) -> str:
            return f"{server.url}/?" + "&".join(f"{key}={value}" for key, value in config.to_query().items())

        rows.append(["first page until its preview is drawn", 12, middle(first_pages(server, address(base), again))])
        rows += page_waits(base, address, quick, again)
        rows += compare_waits(server, again)
    return table(["wait", "blocks", "s"], rows)


def first_pages(server, address: str, again: int) -> list[float]:
    """Seconds that the Lab takes in a browser that has just been opened, each time of a server that has just answered."""
    taken = []
    for _ in range(again):
        server.kill()
        server.start()
        with new_profile() as browser:
            page = browser.new_page()
            begin = time.perf_counter()
            page.goto(address)
            page.get_by_role("button", name="Start").wait_for()
            page.wait_for_function(PREVIEW)
            taken.append(time.perf_counter() - begin)
    return taken


def page_waits(base: RunConfig, address: Callable[[RunConfig], str], quick: bool, again: int) -> list[list]:
    """Rows of what a page takes that is there already."""
    rows: list[list] = []
    with chromium() as browser:
        page = browser.new_page(viewport=WINDOW)
        page.set_default_timeout(120_000)
        for blocks in (12,) if quick else (12, 100, 1000):
            times = range(1, 1 + (again if blocks < 1000 else 2))
            taken = [preview_wait(page, address, replace(base, blocks=blocks), seed) for seed in times]
            rows.append(["preview asked for until measured and answered, server", blocks, middle([one[0] for one in taken])])
            rows.append(["a change of the seed until its preview is drawn", blocks, middle([one[1] for one in taken])])
        firsts = []
        for seed in range(again):
            page.goto(address(replace(base, seed=50 + seed)))
            page.wait_for_function(PREVIEW)
            begin = time.perf_counter()
            page.get_by_role("button", name="Start").click()
            page.wait_for_function(
                "(p => p && p.dataset.plots === 'drawn' && p.dataset.steps > 0)(document.querySelector('[data-mode=live]'))"
            )
            firsts.append(time.perf_counter() - begin)
            page.get_by_role("button", name="Stop").click()
            page.get_by_role("button", name="Start").or_(page.get_by_role("button", name="afresh")).first.wait_for()
        rows.append(["click on Start until the first point is drawn", 12, middle(firsts)])
    return rows


def compare_waits(server, again: int) -> list[list]:
    """Rows of how long the Compare page takes to draw eight runs."""
    runs = [made_up(40, 300, Status.FINISHED, seed) for seed in range(8)]
    server.kill()
    store = RunStore(server.store, READERS)
    store.save(*runs)
    store.close()
    server.start()
    link = f"{server.url}/compare?runs={','.join(run.id for run in runs)}"
    drawn = (
        "document.querySelectorAll('.imagelayer image').length === 9 && "
        "[...document.querySelectorAll('.gv-figure')].every(figure => figure.querySelector('.main-svg'))"
    )

    def opened(context) -> float:
        page = context.new_page()
        begin = time.perf_counter()
        page.goto(link)
        page.wait_for_function(drawn)
        taken = time.perf_counter() - begin
        page.close()
        return taken

    with new_profile() as browser:
        from_link, clicked = [opened(browser) for _ in range(again)], []
        page = browser.new_page()
        page.goto(link)
        page.wait_for_function(drawn)
        for _ in range(again):
            page.get_by_role("link", name="Lab").first.click()
            page.wait_for_function(PREVIEW)
            page.wait_for_timeout(1000)
            begin = time.perf_counter()
            page.get_by_role("link", name="Compare").first.click()
            page.wait_for_function(drawn)
            clicked.append(time.perf_counter() - begin)
    with chromium() as browser:
        context = browser.new_context(viewport=WINDOW)
        context.set_default_timeout(120_000)
        private = [opened(context) for _ in range(again)]
    return [
        ["Compare with 8 runs of 85 layers, from a click in the app until all is drawn", 40, middle(clicked)],
        ["the same from a link in a new tab, Streamlit's own start included", 40, middle(from_link)],
        ["the same in a private window, which keeps nothing compiled", 40, middle(private)],
    ]


def preview_wait(page, address, config: RunConfig, seed: int) -> tuple[float, float]:
    """Opens the page with `seed` − 1, changes nothing but the seed, and waits: (server's part, everything), seconds."""
    page.goto(address(replace(config, seed=seed * 100)))
    page.wait_for_function("document.querySelector('[data-mode=preview]')?.dataset.measured")
    old = page.evaluate("document.querySelector('[data-mode=preview]').dataset.measured")
    field = page.get_by_role("spinbutton", name="Seed")
    if not field.is_visible():
        page.get_by_text("Advanced").first.click()
    field.fill(str(seed * 100 + 1))
    begin = time.perf_counter()
    with page.expect_response(lambda reply: "/api/previews/" in reply.url and reply.status == 200) as reply:
        field.press("Enter")
        page.wait_for_function(
            f"(p => p && p.dataset.measured && p.dataset.measured !== '{old}')(document.querySelector('[data-mode=preview]'))"
        )
    total = time.perf_counter() - begin
    timing = reply.value.request.timing
    return (timing["responseStart"] - timing["requestStart"]) / 1000, total


def stores(quick: bool) -> str:
    rows = []
    for blocks in BLOCKS:
        run, random = made_up(blocks, 10), np.random.default_rng(1)
        with TemporaryDirectory() as folder:
            store = RunStore(Path(folder), READERS)
            taken, steps = [], 40 if quick else 200
            for begun in range(10, 10 + steps, 5):
                for step in range(begun, begun + 5):
                    run.history.append(replay.record(step, len(run.recipe.layout), random))
                taken += [each / 5 for each in milliseconds(lambda store=store, run=run: store.save(run), 1)]
            store.close()
            size = folder_bytes(folder) / run.history.steps
        rows.append([len(run.recipe.layout), f"{size / 1000:.1f}", middle(taken)])
    return table(["layers", "kB per step on disk", "ms per step (five steps a time)"], rows)


def folder_bytes(folder: str) -> int:
    return sum(os.path.getsize(file) for file in Path(folder).rglob("*") if file.is_file())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parts = {"wire": wires, "browser": browsers, "waits": waits, "store": stores}
    for name in parts:
        parser.add_argument(f"--{name}", action="store_true")
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args()
    chosen = [name for name in parts if getattr(options, name)] or list(parts)
    for name in chosen:
        print(parts[name](options.quick), flush=True)


if __name__ == "__main__":
    main()
