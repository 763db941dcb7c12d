"""What do more cores gain, and does a training that takes those that are free leave others theirs?

    python -m benchmarks.cores [--cores 2 4 8] [--blocks 12 60] [--turns 3] [--seconds 1.5] [--kinds]

Each loop is a process of its own, kept to so many cores of this machine, and takes turns with the others: PyTorch's default
loop with as many threads (bare), the app's Trainer with everything recorded and one thread, and the same as the app trains,
with the cores that are free. Then the two Trainers beside a process that is busy on these cores, and two of each kind at
once. Steps per second. `--kinds`: what else was tried, see docs/performance.md.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

from benchmarks.common import middle, table
from benchmarks.training import Loop
from gradviz import machine

ONE, FREE = ("app", {"OMP_NUM_THREADS": "1"}), ("app-free", {})
KINDS: dict[str, tuple[str, dict[str, str]]] = {
    "bare": ("bare", {}),
    "app": ("app", {}),
    "app, waits a little": ("app", {"GOMP_SPINCOUNT": "10000"}),
    "app, waits asleep": ("app", {"OMP_WAIT_POLICY": "passive"}),
    "parts by threads": ("part-threads", {}),
    "parts by processes": ("part-processes", {}),
}
SETTLES = 3.0  # seconds until a training has found its number of threads
BUSY = "import os, sys\nos.sched_setaffinity(0, map(int, sys.argv[1:]))\nwhile True: pass"


def counts() -> list[int]:
    most = int(machine.cores())
    return [count for count in (2, 4, 8, 16, 32) if count <= most]


@contextmanager
def started(kinds: Iterable[tuple[str, dict[str, str]]], blocks: int, cores: int):
    def start(kind: tuple[str, dict[str, str]]) -> Loop:
        return Loop(kind[0], blocks, cores, {"GRADVIZ_BENCHMARK_CORES": str(cores), **kind[1]})

    with ThreadPoolExecutor(8) as pool:  # they start together
        loops = list(pool.map(start, kinds))
    try:
        yield loops
    finally:
        for loop in loops:
            loop.close()


def in_turns(groups: dict[str, list[Loop]], turns: int, seconds: float) -> dict[str, list[float]]:
    """Name -> steps per second of each turn, of all loops of its group together, which train at once."""
    found: dict[str, list[float]] = {name: [] for name in groups}
    with ThreadPoolExecutor(8) as pool:
        for turn in range(turns):
            for name, loops in groups.items() if turn % 2 == 0 else reversed(groups.items()):  # the machine's own pace changes
                settles = SETTLES if turn == 0 else 1.0
                list(pool.map(lambda loop, settles=settles: loop.speed(settles), loops))
                found[name].append(sum(pool.map(lambda loop: loop.speed(seconds), loops)))
    return found


def one_row(blocks: int, cores: int, turns: int, seconds: float) -> list[object]:
    with started([("bare", {}), ONE, FREE, ONE, FREE], blocks, cores) as (bare, one, free, other_one, other_free):
        alone = in_turns({"bare": [bare], "one": [one], "free": [free]}, turns, seconds)
        both = in_turns({"one": [one, other_one], "free": [free, other_free]}, turns, seconds)
        places = [str(place) for place in sorted(os.sched_getaffinity(0))[:cores]]
        other = subprocess.Popen([sys.executable, "-c", BUSY, *places])
        try:
            beside = in_turns({"one": [one], "free": [free]}, turns, seconds)
        finally:
            other.kill()
            other.wait()
    middles = [f"{statistics.median(alone[name]):.1f}" for name in ("bare", "one", "free")]
    pairs = ((alone, "bare"), (beside, "one"), (both, "one"))
    ratios = [middle([ours / theirs for ours, theirs in zip(found["free"], found[name], strict=True)]) for found, name in pairs]
    return [blocks, cores, *middles, *ratios]


def measure(quick: bool, cores: list[int] | None = None, blocks=(12, 60), turns=3, seconds=1.5) -> str:
    rows = []
    for depth in blocks[:1] if quick else blocks:
        for count in cores or counts():
            rows.append(one_row(depth, count, 1 if quick else turns, seconds))
            print(*rows[-1], sep=" | ", file=sys.stderr, flush=True)
    head = ["blocks", "cores", "bare, steps/s", "app, one thread", "app, free cores", "alone, against bare",
            "beside a busy process, against one thread", "two at once, against one thread each"]  # fmt: skip
    return table(head, rows)


def kinds(cores: list[int] | None = None, blocks=(12, 60), turns=3, seconds=1.0) -> str:
    rows, threads = [], [1, *(cores or counts())]
    for depth in blocks:
        cells = [(name, count) for name in KINDS for count in threads if count > 1 or name in ("bare", "app")]
        found: dict[tuple[str, int], str] = {}
        for count in threads:
            names = [name for name, each in cells if each == count]
            with started([KINDS[name] for name in names], depth, count) as loops:
                groups = {name: [loop] for name, loop in zip(names, loops, strict=True) if loop.said == "ready"}
                for name, speeds in in_turns(groups, turns, seconds).items():
                    found[name, count] = f"{statistics.median(speeds):.2f}"
        rows += [[depth, name, *(found.get((name, count), "–") for count in threads)] for name in KINDS]
    return table(["blocks", "loop", *(f"{count} thread{'s' * (count > 1)}, steps/s" for count in threads)], rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cores", type=int, nargs="+")
    parser.add_argument("--blocks", type=int, nargs="+", default=[12, 60])
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=1.5)
    parser.add_argument("--kinds", action="store_true")
    options = parser.parse_args()
    given = options.cores, options.blocks, options.turns, options.seconds
    print(kinds(*given) if options.kinds else measure(False, *given))


if __name__ == "__main__":
    main()
