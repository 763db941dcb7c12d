"""What a CUDA graph of the training step gains, and what the card still waits for.

    python -m benchmarks --only gpu

Each net is trained with everything recorded, in turns by the graph and with every kernel launched from Python. *Kernels*
is the time the card computes in a step of the graph, by PyTorch's profiler: what is left of the step is neither arithmetic
nor launching, but the gaps between the graph's nodes and the copies of batch and numbers.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace

import torch

from benchmarks.common import load_data, middle, relu_shortcut, table
from gradviz.lenet.experiment import training
from gradviz.train.ahead import cuda_graph

BLOCKS = (12, 200, 1000)
WARM = 12  # steps: past the first sampled ones, and past the capture
HEAD = ["blocks", "kernel by kernel, ms", "graph, ms", "times as fast", "kernels, ms", "kernels", "rest, % of a step"]


def launched(step: Callable[[], None]) -> Callable[[], None]:
    """A capture that captures nothing."""
    return step


class Kept:
    """The capture of a training, and its replay for whoever wants to look at it."""

    replay: Callable[[], None]

    def __call__(self, step: Callable[[], None]) -> Callable[[], None]:
        self.replay = cuda_graph(step)
        return self.replay


def step_time(records: Iterator, seconds: float) -> float:
    """Seconds per step, the numbers' way to the processor and the records included."""
    torch.cuda.synchronize()
    begin, steps = time.perf_counter(), 0
    while time.perf_counter() - begin < seconds:
        next(records)
        steps += 1
    torch.cuda.synchronize()
    return (time.perf_counter() - begin) / steps


def kernels(replay: Callable[[], None], steps: int = 5) -> tuple[float, float]:
    """Of one replayed step: seconds that the card computes, and the number of kernels."""
    torch.cuda.synchronize()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as seen:
        for _ in range(steps):
            replay()
        torch.cuda.synchronize()
    events = [event for event in seen.key_averages() if not event.key.startswith(("Memcpy", "Memset", "cuda"))]
    return sum(event.self_device_time_total for event in events) / steps / 1e6, sum(event.count for event in events) / steps


def measure(quick: bool) -> str:
    if not torch.cuda.is_available():
        return "No CUDA card was at hand.\n"
    rows = []
    for blocks in BLOCKS:
        config = replace(relu_shortcut(blocks, 64), lr=1e-5)
        graph_of = Kept()
        both = [iter(training(config, load_data(), torch.device("cuda"), capture=capture)) for capture in (launched, graph_of)]
        for records in both:
            for _ in range(WARM):
                next(records)
        times = [[step_time(records, 1 if quick else 4) for records in both] for _ in range(2 if quick else 7)]
        eager, graph = (statistics.median(column) for column in zip(*times, strict=True))
        computing, count = kernels(graph_of.replay)
        rows.append([
            blocks, f"{1000 * eager:.2f}", f"{1000 * graph:.2f}", middle([a / b for a, b in times], 1),
            f"{1000 * computing:.2f}", f"{count:.0f}", f"{100 * (1 - computing / graph):.0f}",
        ])  # fmt: skip
        print(*rows[-1], file=sys.stderr, flush=True)
    return f"On {torch.cuda.get_device_name()}:\n\n" + table(HEAD, rows)
