"""How fast does the app train with its page open, against the loops that people write?

    python -m benchmarks.training [--blocks 0 12 60 200] [--rounds 5] [--seconds 6] [--arms bare dataloader ...]

Starts the real server and a real Chromium on its page, starts a run there, and then takes turns: the run trains for
some seconds with the page live and everything recorded, is paused, and each of the loops of benchmarks/loops.py (same net,
same batch size) trains for as long in a process of its own. Prints how many times faster the app was: the median of the
turns. 1.00 is the loop's own speed. The first 50 steps are left out: the Anatomy page's samples lie close together there,
and what they add over a run is measured in benchmarks/recording.py. First everybody trains with one thread; then the loops
with one per core, PyTorch's default, and the app as it does unasked, with as many as cores are free (`--free`: only this).
While a loop trains the page stays open, with its run paused: it takes next to nothing then, and all cores are the loop's.
In a further turn the bare loop with all cores trains beside a page that is live too, of a run of made-up records
(benchmarks/replay.py): then the browser takes as much of the cores from the loop as it takes from the app.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import struct
import subprocess
import sys
import time
import urllib.request
from collections.abc import Mapping
from contextlib import ExitStack
from types import MappingProxyType

from benchmarks.common import ROOT, WINDOW, chromium, live_page, load_data, middle, relu_shortcut, running_app, table
from benchmarks.loops import ARMS, BATCH
from gradviz import machine

_ALL_CORES = (12, 60)  # blocks
_BESIDE = "bare beside a live page"


def header(server, run_id: str) -> dict:
    """The newest figures of the run, as the page gets them."""
    with urllib.request.urlopen(f"{server.url}/api/runs/{run_id}?since=1000000000", timeout=30) as answer:
        raw = answer.read()
    return json.loads(raw[4 : 4 + struct.unpack("<I", raw[:4])[0]])


def next_step(server, run_id: str) -> tuple[int, float]:
    """Waits for the end of a step: (steps so far, when it was)."""
    before = header(server, run_id)["steps"]
    while (now := header(server, run_id)["steps"]) == before:
        time.sleep(0.02)
    return now, time.perf_counter()


class Loop:
    """One of the loops, in a process that trains only when asked."""

    def __init__(self, arm: str, blocks: int, threads: int, more: Mapping[str, str] = MappingProxyType({})):
        """`more`: what its environment has besides."""
        environment = {**os.environ, "OMP_NUM_THREADS": str(threads), **more}
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.loops", arm, str(blocks)],
            cwd=ROOT, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
        )  # fmt: skip
        self.said = self._process.stdout.readline().strip() or "did not start"

    def speed(self, seconds: float) -> float:
        """Steps per second over so many seconds."""
        self._process.stdin.write(f"{seconds}\n")
        self._process.stdin.flush()
        return float(self._process.stdout.readline())

    def close(self) -> None:
        self._process.stdin.close()
        self._process.wait()


def switch(page, to: str) -> None:
    """Presses Pause or Resume and waits until the other is there."""
    page.get_by_role("button", name=to).click()
    page.get_by_role("button", name={"Pause": "Resume", "Resume": "Pause"}[to]).wait_for()


def compare(
    server, browser, threads: int, blocks: int, arms: tuple[str, ...], rounds: int, seconds: float, replayed=None
) -> list[str]:
    """`replayed`: a server of made-up records, for the last column; without, there is none."""
    config = relu_shortcut(blocks, BATCH)
    page = browser.new_page(viewport=WINDOW)
    page.set_default_timeout(120_000)
    page.goto(f"{server.url}/?" + "&".join(f"{key}={value}" for key, value in config.to_query().items()))
    page.get_by_role("button", name="Start").click()
    page.get_by_role("button", name="Pause").wait_for()
    loops = {arm: Loop(arm, blocks, threads) for arm in arms}
    ready = {arm: loop for arm, loop in loops.items() if loop.said == "ready"}
    ratios: dict[str, list[float]] = {arm: [] for arm in (*arms, _BESIDE)}
    speeds: list[float] = []
    if replayed:
        other, _config = live_page(browser, replayed, blocks)
        switch(other, "Pause")
    while header(server, config.id)["steps"] <= 50:
        time.sleep(0.5)
    for _ in range(rounds):
        # From the end of a step to the end of another: a step begun and not finished is training too.
        steps, begin = next_step(server, config.id)
        page.wait_for_timeout(1000 * seconds)
        more, end = next_step(server, config.id)
        live = (more - steps) / (end - begin)
        switch(page, "Pause")
        page.wait_for_timeout(500)
        for arm, loop in ready.items():
            ratios[arm].append(live / loop.speed(seconds))
        if replayed:
            switch(other, "Resume")
            ratios[_BESIDE].append(live / ready["bare"].speed(seconds))
            switch(other, "Pause")
        switch(page, "Resume")
        speeds.append(live)
    for loop in ready.values():
        loop.close()
    page.get_by_role("button", name="Stop").click()
    page.close()
    if replayed:
        other.get_by_role("button", name="Stop").click()
        other.close()
        arms = (*arms, _BESIDE)
    cells = [middle(ratios[arm]) if ratios[arm] else loops[arm].said for arm in arms]
    return [str(blocks), f"{statistics.median(speeds):.1f}", *cells]


def measure(quick: bool, blocks=(0, 12, 60, 200), rounds=5, seconds=6.0, arms=ARMS, only_free: bool = False) -> str:
    if quick:
        blocks, rounds, seconds = (12,), 2, 3.0
    if load_data().name != "mnist":
        arms = tuple(arm for arm in arms if arm != "dataloader")  # the article's way needs the article's files

    def part(threads: int, depths, beside: bool = False, **settings: str | None) -> str:
        rows, shown = [], (*arms, _BESIDE) if beside else arms
        with running_app(**settings) as server, chromium() as browser, ExitStack() as stack:
            replayed = stack.enter_context(running_app("benchmarks.replay", GRADVIZ_TRAIN_IN="thread")) if beside else None
            for depth in depths:
                rows.append(compare(server, browser, threads, depth, arms, rounds, seconds, replayed))
                print(" | ".join(rows[-1]), file=sys.stderr, flush=True)
        return table(["blocks", "app, steps/s", *(f"against {arm}" for arm in shown)], rows)

    text = "" if only_free else "One thread each:\n\n" + part(1, blocks)
    cores, some = int(machine.cores()), [depth for depth in blocks if depth in _ALL_CORES]
    if cores > 1 and some:
        text += f"\nThe app with as many threads as cores are free, the loops with {cores}:\n\n"
        text += part(cores, some, "bare" in arms, GRADVIZ_TRAIN_IN="process", GRADVIZ_THREADS=None)
    return text.strip()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--blocks", type=int, nargs="+", default=[0, 12, 60, 200])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=6)
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=ARMS)
    parser.add_argument("--free", action="store_true")
    options = parser.parse_args()
    print(measure(False, options.blocks, options.rounds, options.seconds, tuple(options.arms), options.free))


if __name__ == "__main__":
    main()
