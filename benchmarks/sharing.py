"""How large a run is as one file, and how soon a browser without a network has drawn it from the disk."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from benchmarks.common import WINDOW, chromium, load_data, middle, relu_shortcut, table
from gradviz.lenet.config import RunConfig
from gradviz.lenet.experiment import training
from gradviz.record.run import Run
from gradviz.share.outcome import run_shared
from gradviz.share.page import written

RUNS = ((12, 300), (40, 500))  # blocks and steps
BATCH = 16
# Since the navigation began; `drawn` once every chart of the live element is.
DRAWN = """new MutationObserver(() => {
  if (document.querySelector(".gv")?.dataset.plots === "drawn") window.drawn ??= performance.now();
}).observe(document, { subtree: true, attributes: true, childList: true });"""


def files(quick: bool) -> str:
    turns = 1 if quick else 9
    with TemporaryDirectory() as scratch:
        nets = [replace(relu_shortcut(blocks, BATCH), steps=20 if quick else steps) for blocks, steps in RUNS]
        places = [_file(Path(scratch), net) for net in nets]
        with chromium() as browser:
            context = browser.new_context(viewport=WINDOW, offline=True)
            context.add_init_script(DRAWN)

            def opened(place: Path) -> float:
                page = context.new_page()
                page.goto(place.as_uri())
                page.locator(".gv[data-plots=drawn]").wait_for(state="attached", timeout=60_000)
                seconds = page.evaluate("drawn") / 1000
                page.close()
                return seconds

            seconds = [[opened(place) for place in places] for _ in range(turns)]
        rows = [
            [f"{5 + 2 * blocks} layers × {steps} steps", f"{place.stat().st_size / 1e6:.2f}", middle(taken)]
            for (blocks, steps), place, taken in zip(RUNS, places, zip(*seconds, strict=True), strict=True)
        ]
    return table(["run", "MB", "from opening to drawn, s"], rows)


def _file(folder: Path, config: RunConfig) -> Path:
    run, trainer = Run.begun(config), training(config, load_data(), torch.device("cpu"))
    for record in trainer:
        run.take(record)
    run.end(trainer.outcome)
    place = folder / f"{config.id}.html"
    place.write_bytes(written(run_shared(run)))
    return place
