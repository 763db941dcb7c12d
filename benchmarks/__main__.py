"""`python -m benchmarks [--quick] [--write] [--only PART ...]` measures everything and prints docs/performance.md's tables.

With --write the tables go into docs/performance.md, each between its own two marks, as soon as it is measured; the text around
them is written by hand. What was cut off goes on with `--from PART`.
About 40 minutes on two cores, --quick three; nothing else may run meanwhile.
"""

from __future__ import annotations

import argparse
import os
import platform
import re
import sys
import time

os.environ["OMP_NUM_THREADS"] = "1"

import torch

from benchmarks import drawing, eye, gpu, live_cost, machine, recording, sharing, training, watching
from benchmarks.common import ROOT

PARTS = {
    "training": training.measure,
    "recording": recording.measure,
    "share": machine.share,
    "profile": machine.profile,
    "depth": machine.depth,
    "wire": eye.wires,
    "browser": eye.browsers,
    "live": live_cost.cost,
    "drawing": drawing.measure,
    "waits": eye.waits,
    "store": eye.stores,
    "files": sharing.files,
    "watching": watching.measure,
    "gpu": gpu.measure,
}
PAGE = ROOT / "docs" / "performance.md"


def machine_text() -> str:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"{platform.machine()}, {cores} cores, Python {platform.python_version()}, torch {torch.__version__}\n"


def put(text: str, part: str, body: str) -> str:
    """`text` with `body` between the two marks of `part`. Raises ValueError if they are not there."""
    begin, end = f"<!-- {part}: begin -->", f"<!-- {part}: end -->"
    pattern = re.compile(re.escape(begin) + ".*?" + re.escape(end), re.DOTALL)
    if not pattern.search(text):
        raise ValueError(f"{PAGE} has no place for {part}: {begin} … {end}")
    return pattern.sub(lambda _: f"{begin}\n{body.strip()}\n{end}", text)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="few turns: whether it works, not how fast it is")
    parser.add_argument("--write", action="store_true", help="into docs/performance.md")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--from", dest="first", choices=PARTS, help="this part and those after it")
    options = parser.parse_args()
    parts = list(PARTS)
    wanted = [part for part in options.only if not options.first or parts.index(part) >= parts.index(options.first)]
    for part in ["machine", *wanted]:
        begin = time.perf_counter()
        body = machine_text() if part == "machine" else PARTS[part](options.quick)
        print(f"\n## {part}, {time.perf_counter() - begin:.0f} s\n\n{body}", flush=True)
        if options.write:
            PAGE.write_text(put(PAGE.read_text(encoding="utf-8"), part, body), encoding="utf-8")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
