"""How much of the machine does training use, and does its cost grow in proportion to depth?

    python -m benchmarks.machine [--share] [--profile] [--depth]

Share: floating-point operations per second of the Trainer, everything recorded, over those of `torch.mm` of two
2048 × 2048 matrices, both on one thread, taking turns in this process. Profile: which operations a step's time goes to, and
how fast its convolutions are alone. Depth: each net in a process of its own, which says how long it took to build the
Trainer, to the first record, a step from then on (median), and its peak memory over what the process held before; the
nets take turns, three times, since the machine is not as fast in one minute as in the next.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import time
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"

import torch

from benchmarks.common import ROOT, load_data, middle, relu_shortcut, table
from benchmarks.loops import in_memory
from gradviz.lenet.experiment import training
from gradviz.record.sample import sampled_steps

MATRIX = 2048
DEPTHS = (0, 12, 60, 200, 500, 1000)


def step_flops(blocks: int, batch: int) -> float:
    """Of one training step: forward 2 · multiplications per image, the backward pass twice that."""
    forward = 784 * 6 * 25 + 196 * 16 * 150 + blocks * 2 * 49 * 16 * 400 + 784 * 120 + 120 * 84 + 840
    return 3 * 2 * forward * batch


def share(quick: bool) -> str:
    torch.set_num_threads(1)
    left, right, product = torch.randn(MATRIX, MATRIX), torch.randn(MATRIX, MATRIX), torch.empty(MATRIX, MATRIX)
    rows = []
    for blocks, batch in ((12, 64), (60, 64), (60, 256)):
        config = relu_shortcut(blocks, batch)
        loops = {
            "app": iter(training(config, load_data(), torch.device("cpu"))),
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


KINDS = {  # what PyTorch's profiler calls them, in this order: the first that fits
    "convolution, forward": ("mkldnn_convolution", "_convolution", "conv2d", "thnn_conv"),
    "convolution, backward": ("convolution_backward",),
    "relu, pooling, shortcut's addition, and back": ("relu", "threshold_backward", "max_pool", "aten::add"),
    "optimiser": ("_fused_adam",),
    "recording": ("linalg_vector_norm", "_foreach_norm", "aten::copy_", "aten::cat", "aten::stack", "aten::eq", "aten::sum",
                  "aten::sub"),
}


def profile(quick: bool) -> str:
    """Shares of a step's own time, by kind of operation, and the rate of the blocks' convolution alone."""
    torch.set_num_threads(1)
    rows = []
    for blocks, batch in ((60, 64), (60, 256)):
        records = iter(training(relu_shortcut(blocks, batch), load_data(), torch.device("cpu")))
        for _ in range(3):
            next(records)
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as seen:
            for _ in range(2 if quick else 8):
                next(records)
        spent = dict.fromkeys([*KINDS, "all else"], 0.0)
        for event in seen.key_averages():
            kind = next((kind for kind, names in KINDS.items() if any(name in event.key for name in names)), "all else")
            spent[kind] += event.self_cpu_time_total
        alone = convolution_share(batch, 3 if quick else 15)
        rows.append([blocks, batch, *(f"{100 * time / sum(spent.values()):.0f}" for time in spent.values()), middle(alone, 0)])
        print(*rows[-1], file=sys.stderr, flush=True)
    head = ["blocks", "batch", *(f"{kind}, %" for kind in spent), "one convolution alone, there and back, % of torch.mm"]
    return table(head, rows)


def convolution_share(batch: int, turns: int) -> list[float]:
    """One convolution of the blocks, forward and backward with nothing around it: its rate in per cent of torch.mm's."""
    left, right, product = torch.randn(MATRIX, MATRIX), torch.randn(MATRIX, MATRIX), torch.empty(MATRIX, MATRIX)
    convolution = torch.nn.Conv2d(16, 16, 5, padding=2).to(memory_format=torch.channels_last)
    images = torch.randn(batch, 16, 7, 7).to(memory_format=torch.channels_last).requires_grad_()
    gradient = torch.randn(batch, 16, 7, 7).to(memory_format=torch.channels_last)
    times, shares = 40 * 64 // batch, []
    for turn in range(turns + 1):
        begin = time.thread_time()
        torch.mm(left, right, out=product)
        peak = 2 * MATRIX**3 / (time.thread_time() - begin)
        begin = time.thread_time()
        for _ in range(times):
            convolution(images).backward(gradient)
        rate = times * 3 * 2 * 49 * 16 * 400 * batch / (time.thread_time() - begin)
        if turn:  # the first one loads libraries
            shares.append(100 * rate / peak)
    return shares


def one_depth(blocks: int, steps: int) -> dict[str, float]:
    torch.set_num_threads(1)
    config, data = relu_shortcut(blocks, 64), load_data()
    next(iter(training(relu_shortcut(0, 64), data, torch.device("cpu"))))  # the first training of a process loads libraries
    held = peak_memory(afresh=True)
    begin = time.perf_counter()
    records = iter(training(config, data, torch.device("cpu")))
    built = time.perf_counter() - begin
    next(records)
    first = time.perf_counter() - begin
    sampled, times, step = sampled_steps(config.steps), [], 1
    while len(times) < steps:
        begin = time.thread_time()
        next(records)
        if step not in sampled:  # the Anatomy page's samples lie close at the beginning: of a whole run they are 0.8 %
            times.append(time.thread_time() - begin)
        step += 1
    return dict(blocks=blocks, built=built, first=first, step=statistics.median(times), memory=peak_memory() - held)


def peak_memory(afresh: bool = False) -> float:
    """The most memory that this process ever held, MiB; `afresh`: counted from now on."""
    if afresh:
        Path("/proc/self/clear_refs").write_text("5")
    return int(re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())[1]) / 1024


def depth(quick: bool) -> str:
    depths, turns = DEPTHS[: 4 if quick else None], 1 if quick else 3
    found: dict[int, list[dict[str, float]]] = {blocks: [] for blocks in depths}
    for _ in range(turns):
        for blocks in depths:
            steps = str(max(2, min(20, 2000 // max(1, blocks))))
            command = [sys.executable, "-m", "benchmarks.machine", "--one-depth", str(blocks), steps]
            done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True)
            found[blocks].append(json.loads(done.stdout))
            print(found[blocks][-1], file=sys.stderr, flush=True)
    rows = []
    for blocks in depths:
        typical = {name: statistics.median(one[name] for one in found[blocks]) for name in found[blocks][0]}
        each = memory = "–"
        if blocks:
            added = [(one["step"] - base["step"]) / blocks for one, base in zip(found[blocks], found[0], strict=True)]
            each = middle([1e6 * seconds / 64 for seconds in added], 0)
            memory = f"{(typical['memory'] - statistics.median(base['memory'] for base in found[0])) / blocks:.2f}"
        seconds = [f"{typical[name]:.2f}" for name in ("built", "first")]
        rows.append([blocks, f"{1000 * typical['step']:.0f}", each, f"{typical['memory']:.0f}", memory, *seconds])
    head = ["blocks", "ms per step", "µs per image and block", "peak MiB", "MiB per block", "built, s", "first record, s"]
    return table(head, rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--share", action="store_true")
    parser.add_argument("--profile", action="store_true")
    parser.add_argument("--depth", action="store_true")
    parser.add_argument("--one-depth", type=int, nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one_depth:
        print(json.dumps(one_depth(*options.one_depth)))
        return
    parts = {"share": share, "profile": profile, "depth": depth}
    for name in [name for name in parts if getattr(options, name)] or parts:
        print(parts[name](False))


if __name__ == "__main__":
    main()
