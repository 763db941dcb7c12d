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
from collections.abc import Iterator

import torch

from benchmarks.common import load_data, middle, table
from gradviz.ahead import Capture, cuda_graph
from gradviz.config import RunConfig
from gradviz.trainer import Trainer

BLOCKS = (12, 200, 1000)
WARM = 12  # steps: past the first sampled ones, and past the capture
HEAD = ["blocks", "kernel by kernel, ms", "graph, ms", "times as fast", "kernels, ms", "kernels", "rest, % of a step"]


def launched(step):
    """A capture that captures nothing."""
    return step


def trainings(blocks: int, device: torch.device, captures: dict[str, Capture]) -> dict[str, Iterator]:
    config = RunConfig(
        blocks=blocks, activation="relu", shortcut=True, dataset=load_data().name, steps=100_000, lr=1e-5, batch_size=64
    )
    return {name: iter(Trainer(config, load_data(), device, capture=capture)) for name, capture in captures.items()}


def step_time(records: Iterator, seconds: float) -> float:
    """Seconds per step, the numbers' way to the processor and the records included."""
    begin, steps = time.perf_counter(), 0
    while time.perf_counter() - begin < seconds:
        next(records)
        steps += 1
    return (time.perf_counter() - begin) / steps


def measure(quick: bool) -> str:
    if not torch.cuda.is_available():
        return "No CUDA card was at hand.\n"
    rows = []
    for blocks in BLOCKS:
        both = trainings(blocks, torch.device("cuda"), {"launched": launched, "graph": cuda_graph})
        for records in both.values():
            for _ in range(WARM):
                next(records)
        times: dict[str, list[float]] = {name: [] for name in both}
        for _ in range(2 if quick else 7):
            for name, records in both.items():
                times[name].append(step_time(records, 1 if quick else 4))
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as seen:
            steps = 0
            begin = time.perf_counter()
            while time.perf_counter() - begin < 1:
                next(both["graph"])
                steps += 1
            torch.cuda.synchronize()
        events = seen.key_averages()
        kernels = sum(event.self_device_time_total for event in events) / steps / 1e6
        count = sum(event.count for event in events if event.self_device_time_total) / steps
        graph = statistics.median(times["graph"])
        gained = [a / b for a, b in zip(times["launched"], times["graph"], strict=True)]
        rows.append([
            blocks, f"{1000 * statistics.median(times['launched']):.2f}", f"{1000 * graph:.2f}", middle(gained, 1),
            f"{1000 * kernels:.2f}", f"{count:.0f}", f"{100 * (1 - kernels / graph):.0f}",
        ])  # fmt: skip
        print(*rows[-1], file=sys.stderr, flush=True)
    return f"On {torch.cuda.get_device_name()}:\n\n" + table(HEAD, rows)
