"""What a chart costs that takes new numbers: the live element's own way against Plotly's calls, a canvas, and uPlot.

    python -m benchmarks.drawing [--updates 40] [--uplot uPlot.iife.min.js]

Two lines of 500 points in one chart of 600 × 250 pixels, each update with a point more, in turns on one page of a real Chromium,
drawn by the scripts that browsers get (benchmarks/drawing.js). Milliseconds of the main thread in all, painting included, as
Chromium counts them (Performance.getMetrics), less an update that draws nothing.
"""

from __future__ import annotations

import argparse
import gzip
import statistics
from pathlib import Path

from benchmarks.common import WINDOW, chromium, table
from gradviz.web import scripts

SITE = "http://drawing.test/"
POINTS = 500
STATIC = Path(scripts.__file__).with_name("static")
WAYS = Path(__file__).with_suffix(".js")


def measure(quick: bool, updates: int = 40, uplot: Path | None = None) -> str:
    turns, updates = (1, 8) if quick else (5, updates)
    plotly = scripts.lighter(scripts.PLOTLY.read_text(encoding="utf-8"))
    names = ["nothing", "live", "react", "restyle", "extendTraces", "canvas", *(["uPlot"] if uplot else [])]
    kilobytes = {"canvas": 0.0, "uPlot": _packed(uplot.read_text(encoding="utf-8")) if uplot else 0.0}
    taken: dict[str, list[float]] = {name: [] for name in names}
    with chromium() as browser:
        page = browser.new_page(viewport=WINDOW)
        page.set_default_timeout(120_000)
        page.route(f"{SITE}**", lambda route: route.fulfill(body="<!doctype html><body>", content_type="text/html"))
        page.route(f"{SITE}static/*", lambda route: route.fulfill(path=STATIC / Path(route.request.url).name))
        page.goto(SITE)
        for text in (plotly, *(path.read_text(encoding="utf-8") for path in (uplot, WAYS) if path)):
            page.add_script_tag(content=text)
        metrics = page.context.new_cdp_session(page)
        metrics.send("Performance.enable")
        for _ in range(turns):
            for name in names:
                page.evaluate("([name, from, updates]) => run(name, from, updates)", [name, POINTS, updates])
                before = _spent(metrics)
                page.evaluate("go()")
                taken[name].append(1000 * (_spent(metrics) - before) / updates)
    middle = {name: statistics.median(taken[name]) for name in names}
    packed = dict.fromkeys(names, _packed(plotly)) | kilobytes
    rows = [[name, f"{middle[name] - middle['nothing']:.1f}", f"{packed[name]:.0f}"] for name in names[1:]]
    return table(["way", "ms per update", "kB of library, packed"], rows)


def _spent(metrics) -> float:
    return next(each["value"] for each in metrics.send("Performance.getMetrics")["metrics"] if each["name"] == "TaskDuration")


def _packed(text: str) -> float:
    return len(gzip.compress(text.encode(), 6)) / 1000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--updates", type=int, default=40)
    parser.add_argument("--uplot", type=Path, help="uPlot's script, if it is at hand")
    options = parser.parse_args()
    print(measure(False, options.updates, options.uplot))


if __name__ == "__main__":
    main()
