"""What a CUDA graph of the training step gains, what the card still waits for, whole trainings, and two at once.

Each net is trained with everything recorded, in turns by the graph and with every kernel launched from Python, and beside
them the loop that people write, which records nothing. *Kernels* is the time the card computes in a step of the graph, by
PyTorch's profiler: what is left of the step is neither arithmetic nor launching, but the gaps between the graph's nodes and
the copies of batch and numbers.
"""

from __future__ import annotations

import contextlib
import statistics
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np
import torch

from benchmarks.common import load_data, middle, relu_shortcut, table
from benchmarks.gpu.numbers import Said, error, logging, tf32
from benchmarks.loops import in_memory
from gradviz.lenet.config import RunConfig
from gradviz.lenet.experiment import task, training
from gradviz.record.history import StepRecord
from gradviz.record.quantities import QUANTITIES
from gradviz.train.ahead import Capture, cuda_graph
from gradviz.train.trainer import Trainer

BLOCKS = (12, 200, 1000)
WARM = 8  # steps: past the capture
HEAD = [
    "blocks", "bare loop, ms", "app, kernel by kernel, ms", "app, graph, ms", "graph against kernel by kernel",
    "graph against the bare loop", "the same with TF32, ms", "kernels, ms", "kernels", "rest, % of a step", "capture, s", "GiB",
]  # fmt: skip


def launched(step: Callable[[], None]) -> Callable[[], None]:
    """A capture that captures nothing."""
    return step


class Kept:
    """The capture of a training, and its replay for whoever wants to look at it."""

    replay: Callable[[], None]
    seconds = 0.0

    def __init__(self, capture: Capture):
        self._capture = capture

    def __call__(self, step: Callable[[], None]) -> Callable[[], None]:
        begin = time.perf_counter()
        self.replay = self._capture(step)
        self.seconds = time.perf_counter() - begin
        return self.replay


def wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def step_time(loop: Iterator, seconds: float, device: torch.device) -> float:
    """Seconds per step, the numbers' way to the processor and the records included."""
    wait(device)
    begin, steps = time.perf_counter(), 0
    while time.perf_counter() - begin < seconds:
        next(loop)
        steps += 1
        if steps % 8 == 0 and not isinstance(loop, StepLoop):
            wait(device)  # the loop that records nothing would run ahead without end
    wait(device)
    return (time.perf_counter() - begin) / steps


class StepLoop:
    """The records of a training without end."""

    def __init__(self, config: RunConfig, device: torch.device, capture: Capture):
        self._records = iter(Trainer(task(config, load_data(), device), capture=capture, sampled=()))

    def __iter__(self) -> StepLoop:
        return self

    def __next__(self) -> StepRecord:
        return next(self._records)


def kernels(replay: Callable[[], None], steps: int) -> tuple[float, float]:
    """Of one replayed step: seconds that the card computes, and the number of kernels."""
    torch.cuda.synchronize()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as seen:
        for _ in range(steps):
            replay()
        torch.cuda.synchronize()
    events = [event for event in seen.key_averages() if not event.key.startswith(("Memcpy", "Memset", "cuda"))]
    return sum(event.self_device_time_total for event in events) / steps / 1e6, sum(event.count for event in events) / steps


def one_depth(blocks: int, device: torch.device, quick: bool) -> list[object]:
    # With branches scaled down, else a thousand blocks diverge at once.
    config, cuda = replace(relu_shortcut(blocks, 64), lr=1e-5, branch_scale="fixed"), device.type == "cuda"
    if cuda:
        torch.cuda.reset_peak_memory_stats()
    graph_of = Kept(cuda_graph if cuda else launched)
    with tf32(True):
        rounded = StepLoop(config, device, graph_of)
        for _ in range(WARM):
            next(rounded)
    loops = [in_memory(config, load_data().to(device), device=device)]
    loops += [StepLoop(config, device, capture) for capture in (launched, graph_of)]
    for loop in loops:
        for _ in range(WARM if not quick else 5):
            next(loop)
    turns, seconds = (2, 0.3) if quick else (3, 0.7)
    times = [[step_time(loop, seconds, device) for loop in (*loops, rounded)] for _ in range(turns)]
    bare, eager, graph, coarse = (statistics.median(column) for column in zip(*times, strict=True))
    computing: list[object] = ["–", "–", "–"]
    if cuda:
        with contextlib.suppress(Exception):  # of a profiler that is not there
            spent, count = kernels(graph_of.replay, 5 if blocks < 500 else 1)
            computing = [f"{1000 * spent:.2f}", f"{count:.0f}", f"{100 * (1 - spent / graph):.0f}"]
    return [
        blocks, f"{1000 * bare:.2f}", f"{1000 * eager:.2f}", f"{1000 * graph:.2f}", middle([t[1] / t[2] for t in times], 1),
        middle([t[0] / t[2] for t in times], 1), f"{1000 * coarse:.2f}", *computing, f"{graph_of.seconds:.1f}",
        f"{torch.cuda.max_memory_allocated() / 2**30:.1f}" if cuda else "–",
    ]  # fmt: skip


def speed(device: str, quick: bool) -> str:
    rows = []
    for blocks in (2, 4) if device == "cpu" else BLOCKS:
        rows.append(one_depth(blocks, torch.device(device), quick))
        print(*rows[-1], sep=" | ", file=sys.stderr, flush=True)
    return table(HEAD, rows)


def ends(device: str, quick: bool, seconds: float = 100) -> str:
    """1000 blocks with shortcut, from the first step to the last."""
    rows, blocks, began = [], 4 if device == "cpu" else 1000, time.perf_counter()
    for changes in (dict(activation="sigmoid"), dict(activation="relu"), dict(activation="relu", branch_scale="fixed")):
        if time.perf_counter() - began > 0.6 * seconds:
            break
        config = RunConfig(blocks=blocks, shortcut=True, dataset=load_data().name, steps=30 if quick else 300, **changes)
        begin = time.perf_counter()
        until = began + seconds
        trainer = training(config, load_data(), torch.device(device), lambda until=until: time.perf_counter() > until)
        records, first = [], 0.0
        for record in trainer:
            first = first or time.perf_counter() - begin
            records.append(record)
        gradient = [record.layers[0, config.layout.inside.start] for record in (records[0], records[-1])] if records else []
        rows.append([
            ", ".join(map(str, changes.values())), trainer.outcome.status, len(records), f"{records[0].loss:.4g}",
            f"{records[-1].loss:.4g}", trainer.outcome.test_accuracy, *(f"{value:.1e}" for value in gradient),
            f"{first:.1f}", f"{time.perf_counter() - begin:.1f}", trainer.outcome.message or "–",
        ])  # fmt: skip
        print(*rows[-1], sep=" | ", file=sys.stderr, flush=True)
    head = ["net", "how it ended", "steps", "first loss", "last loss", "accuracy on the test set",
            "gradient of the first block, first step", "last step", "first record, s", "all, s", "said"]  # fmt: skip
    return f"{blocks} blocks with shortcut, batch 64, Adam 0.001, {load_data().name}:\n\n" + table(head, rows)


def together(device: str, quick: bool) -> str:
    """Two trainings at once on one card, each in a thread of its own, against each alone."""
    place, said = torch.device(device), Said()
    logging.getLogger("gradviz").addHandler(said)
    steps = 30 if quick else 400
    blocks = 12 if device == "cuda" else 1
    configs = [RunConfig(blocks=blocks, activation="relu", shortcut=True, seed=seed, steps=steps, dataset=load_data().name,
                         optimizer="sgd", lr=0.01) for seed in (0, 1)]  # fmt: skip
    found: dict[tuple[str, int], tuple[list[StepRecord], float]] = {}

    def train(how: str, config: RunConfig) -> None:
        begin = time.perf_counter()
        try:
            records = list(training(config, load_data(), place))
        except Exception as failure:
            said.lines.append(f"{how}: {type(failure).__name__}: {failure}"[:300])
            records = []
        found[how, config.seed] = records, time.perf_counter() - begin

    train("first", configs[0])
    for config in configs:
        train("alone", config)
    threads = [threading.Thread(target=train, args=("together", config)) for config in configs]
    begin = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    both = time.perf_counter() - begin
    rows = []
    for config in configs:
        (alone, one), (beside, _) = found["alone", config.seed], found["together", config.seed]
        again = found["first", 0][0] if config.seed == 0 else alone
        near = [_apart(each, alone) for each in (again, beside)]
        rows.append([config.seed, len(beside), f"{one:.2f}", *near])
    head = ["seed", "steps", "alone, s", "alone and alone again, largest relative difference of 20 steps", "together and alone"]
    alone_both = sum(found["alone", config.seed][1] for config in configs)
    words = "; ".join(said.lines) or "nothing"
    return table(head, rows) + f"\nBoth at once {both:.2f} s, one after the other {alone_both:.2f} s. Said: {words}.\n"


def _apart(some: list[StepRecord], others: list[StepRecord]) -> str:
    kept = list(QUANTITIES).index("update_ratio")
    tables = [np.array([record.layers[:kept] for record in each[:20]]) for each in (some, others)]
    return error(*tables) if len(some) == len(others) else f"{len(some)} and {len(others)} records"
