"""How much do more threads gain, of which kind, and what do they lose beside another busy process?

    python -m benchmarks.cores [--threads 1 2] [--blocks 12 60] [--busy]

Each loop is a process of its own and takes turns with the others: PyTorch's default loop (bare), the app's Trainer with
everything recorded (app), and the batch in parts, one thread each (benchmarks/shards.py). `--busy` has another process
take a core meanwhile. Steps per second; "policy" is the environment of OpenMP's runtime.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

from benchmarks.common import table
from benchmarks.training import Loop
from gradviz import machine

LOOPS = {
    "bare": ("bare", {}),
    "app": ("app", {}),
    "app, waits a little": ("app", {"GOMP_SPINCOUNT": "10000"}),
    "app, waits asleep": ("app", {"OMP_WAIT_POLICY": "passive"}),
    "parts by threads": ("part-threads", {}),
    "parts by processes": ("part-processes", {}),
}


def counts() -> list[int]:
    most = max(1, int(machine.cores()))
    return [count for count in (1, 2, 4, 8, 16, 32) if count <= most]


def measure(quick: bool, threads: list[int] | None = None, blocks=(12, 60), turns=3, seconds=1.0, busy=False) -> str:
    threads, rows = threads or counts(), []
    if quick:
        blocks, turns, seconds = blocks[:1], 2, 0.5
    other = subprocess.Popen([sys.executable, "-c", "while True: pass"]) if busy else None
    try:
        for depth in blocks:
            cells = [(name, count) for name in LOOPS for count in threads if count > 1 or name in ("bare", "app")]
            with ThreadPoolExecutor(8) as pool:  # they start together
                made = list(pool.map(lambda cell, depth=depth: Loop(LOOPS[cell[0]][0], depth, cell[1], LOOPS[cell[0]][1]), cells))
            loops = dict(zip(cells, made, strict=True))
            found: dict[tuple[str, int], list[float]] = {cell: [] for cell in cells}
            for _ in range(turns):
                for cell, loop in loops.items():
                    if loop.said == "ready":
                        found[cell].append(loop.speed(seconds))
            for loop in made:
                loop.close()
            for name in LOOPS:
                row = [f"{statistics.median(found[name, count]):.2f}" if found.get((name, count)) else "–" for count in threads]
                rows.append([depth, name, *row])
                print(*rows[-1], sep=" | ", file=sys.stderr, flush=True)
    finally:
        if other:
            other.kill()
            other.wait()
    head = ["blocks", "loop", *(f"{count} thread{'s' * (count > 1)}, steps/s" for count in threads)]
    return table(head, rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, nargs="+")
    parser.add_argument("--blocks", type=int, nargs="+", default=[12, 60])
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=1.0)
    parser.add_argument("--busy", action="store_true")
    options = parser.parse_args()
    print(measure(False, options.threads, options.blocks, options.turns, options.seconds, options.busy))


if __name__ == "__main__":
    main()
