"""How much of the machine does training use, and does its cost grow in proportion to depth?

    python -m benchmarks.machine [--share] [--depth]

Share: floating-point operations per second of the Trainer, everything recorded, over those of `torch.mm` of two
2048 × 2048 matrices, both on one thread, taking turns in this process. Depth: each net in a process of its own, which says
how long it took to build the Trainer, to the first record, a step from then on (median), and its peak memory over what
the process held before.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import time

os.environ["OMP_NUM_THREADS"] = "1"

import torch  # noqa: E402

from benchmarks.common import ROOT, load_data, middle, table  # noqa: E402
from benchmarks.loops import in_memory  # noqa: E402
from gradviz.config import RunConfig  # noqa: E402
from gradviz.trainer import Trainer  # noqa: E402

MATRIX = 2048
DEPTHS = (0, 12, 60, 200, 500, 1000)


def step_flops(blocks: int, batch: int) -> float:
    """Of one training step: forward 2 · multiplications per image, the backward pass twice that."""
    forward = 784 * 6 * 25 + 196 * 16 * 150 + blocks * 2 * 49 * 16 * 400 + 784 * 120 + 120 * 84 + 840
    return 3 * 2 * forward * batch


def relu_shortcut(blocks: int, batch: int) -> RunConfig:
    return RunConfig(
        blocks=blocks, activation="relu", shortcut=True, dataset=load_data().name, steps=100_000, batch_size=batch
    )


def share(quick: bool) -> str:
    torch.set_num_threads(1)
    left, right, product = torch.randn(MATRIX, MATRIX), torch.randn(MATRIX, MATRIX), torch.empty(MATRIX, MATRIX)
    rows = []
    for blocks, batch in ((12, 64), (60, 64), (60, 256)):
        config = relu_shortcut(blocks, batch)
        loops = {
            "app": iter(Trainer(config, load_data(), torch.device("cpu"))),
            "bare loop": in_memory(config, load_data()),
        }
        shares: dict[str, list[float]] = {name: [] for name in loops}
        peak = []
        for turn in range(3 if quick else 15):
            begin = time.thread_time()
            for _ in range(3):
                torch.mm(left, right, out=product)
            peak.append(3 * 2 * MATRIX**3 / (time.thread_time() - begin))
            for name, loop in loops.items():
                if turn == 0:
                    next(loop), next(loop)
                steps = max(1, 120 // max(1, blocks * batch // 64))
                begin = time.thread_time()
                for _ in range(steps):
                    next(loop)
                shares[name].append(100 * step_flops(blocks, batch) * steps / (time.thread_time() - begin) / peak[-1])
        rows.append([blocks, batch, f"{statistics.median(peak) / 1e9:.0f}", *(middle(shares[name], 0) for name in loops)])
        print(*rows[-1], file=sys.stderr, flush=True)
    return table(["blocks", "batch", "torch.mm, GFLOP/s", "app, % of it", "bare default loop, % of it"], rows)


def one_depth(blocks: int, steps: int) -> dict[str, float]:
    torch.set_num_threads(1)
    config, data = relu_shortcut(blocks, 64), load_data()
    next(iter(Trainer(relu_shortcut(0, 64), data, torch.device("cpu"))))  # the first training of a process loads libraries
    held = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    begin = time.perf_counter()
    records = iter(trainer := Trainer(config, data, torch.device("cpu")))
    built = time.perf_counter() - begin
    next(records)
    first = time.perf_counter() - begin
    times = []
    for _ in range(steps):
        begin = time.thread_time()
        next(records)
        times.append(time.thread_time() - begin)
    del trainer
    peak = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - held) / 1024
    return dict(blocks=blocks, built=built, first=first, step=statistics.median(times), memory=peak)


def depth(quick: bool) -> str:
    found = []
    for blocks in DEPTHS[: 4 if quick else None]:
        steps = str(max(3, min(20, 2000 // max(1, blocks))))
        command = [sys.executable, "-m", "benchmarks.machine", "--one-depth", str(blocks), steps]
        done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True)
        found.append(json.loads(done.stdout))
        print(found[-1], file=sys.stderr, flush=True)
    base = found[0]
    rows = []
    for one in found:
        blocks = one["blocks"]
        each = f"{1e6 * (one['step'] - base['step']) / blocks / 64:.1f}" if blocks else "–"
        memory = f"{(one['memory'] - base['memory']) / blocks:.2f}" if blocks else "–"
        seconds = [f"{one[name]:.2f}" for name in ("built", "first")]
        rows.append([blocks, f"{1000 * one['step']:.0f}", each, f"{one['memory']:.0f}", memory, *seconds])
    head = ["blocks", "ms per step", "µs per image and block", "peak MiB", "MiB per block", "built, s", "first record, s"]
    return table(head, rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--share", action="store_true")
    parser.add_argument("--depth", action="store_true")
    parser.add_argument("--one-depth", type=int, nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one_depth:
        print(json.dumps(one_depth(*options.one_depth)))
        return
    everything = not (options.share or options.depth)
    if options.share or everything:
        print(share(False))
    if options.depth or everything:
        print(depth(False))


if __name__ == "__main__":
    main()
