"""What a live page costs the browser: processor time of all its processes, and what the page's main thread did with it.

    python -m benchmarks.live_cost [--blocks 12 60 1000] [--seconds 20] [--shot FOLDER]

The real server with made-up records (benchmarks/replay.py: 500 columns at once, then 4 steps a second), a real Chromium on its
Lab page, which takes one update a second. Everything is counted by Chromium itself (SystemInfo.getProcessInfo and
Performance.getMetrics), once the page has been live for ten seconds.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.common import chromium, live_page, running_app, table

PARTS = ("ScriptDuration", "RecalcStyleDuration", "LayoutDuration", "TaskDuration")
WARM = 12.0  # seconds: at first a page asks more often than once a second


def cost(quick: bool, depths: Sequence[int] = (12, 60, 1000), seconds: float = 20.0, folder: Path | None = None) -> str:
    if quick:
        depths, seconds = (12,), 6.0
    rows = []
    with running_app("benchmarks.replay") as server, chromium() as browser:
        processes = browser.new_browser_cdp_session()
        for blocks in depths:
            page, config = live_page(browser, server, blocks)
            page.wait_for_timeout(1000 * WARM)
            metrics = page.context.new_cdp_session(page)
            metrics.send("Performance.enable")
            before = taken(page, processes, metrics)
            page.wait_for_timeout(1000 * seconds)
            after = taken(page, processes, metrics)
            spent = {name: after[name] - before[name] for name in after}
            updates = max(1, spent["updates"])
            cores = sum(spent[kind] for kind in after if kind.startswith("cpu-")) / seconds
            each = {name: 1000 * value / updates for name, value in spent.items()}
            rows.append([
                config.layers, f"{updates / seconds:.2f}", f"{100 * cores:.1f}", *(f"{each[part]:.1f}" for part in PARTS),
                *(f"{each.get(kind, 0.0):.0f}" for kind in ("cpu-renderer", "cpu-GPU", "cpu-browser")),
            ])  # fmt: skip
            print(*rows[-1], file=sys.stderr, flush=True)
            if folder:
                page.screenshot(path=folder / f"live-{blocks}.png", full_page=True)
            page.get_by_role("button", name="Stop").click()
            page.close()
    head = ["layers", "updates per second", "browser, % of a core", "script, ms per update", "style, ms", "layout, ms",
            "main thread in all, ms", "page's process, ms", "painting process, ms", "browser's process, ms"]  # fmt: skip
    return table(head, rows)


def taken(page, processes, metrics) -> dict[str, float]:
    """Seconds of the processor by kind of process and by work of the main thread, and updates drawn, since the beginning."""
    found = {name["name"]: name["value"] for name in metrics.send("Performance.getMetrics")["metrics"] if name["name"] in PARTS}
    for process in processes.send("SystemInfo.getProcessInfo")["processInfo"]:
        kind = f"cpu-{process['type']}"
        found[kind] = found.get(kind, 0.0) + process["cpuTime"]
    return found | {"updates": float(page.evaluate("document.querySelector('[data-mode=live]').dataset.updates ?? 0"))}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--blocks", type=int, nargs="+", default=[12, 60, 1000])
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--shot", type=Path)
    options = parser.parse_args()
    print(cost(False, options.blocks, options.seconds, options.shot))


if __name__ == "__main__":
    main()
