"""What does recording every layer at every step cost? Paired: the Trainer against the same loop that records nothing.

    python -m benchmarks.recording [--blocks 12 60] [--rounds 15] [--steps 8]

Both run in this process on one thread and take turns of a few steps; each turn of the Trainer is divided by the mean of
the bare turns before and after it. Two bare loops: one with the Trainer's own memory format and fused optimiser ("same
loop"), one as PyTorch does it by default ("default loop"). "Distributions" are what the sampled steps add, over a run of
300 steps: the Trainer with them against the Trainer without. Processor time of the thread, so that other work on the
machine disturbs less.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Iterator
from dataclasses import replace

os.environ["OMP_NUM_THREADS"] = "1"

import torch

from benchmarks.common import load_data, middle, table
from benchmarks.loops import in_memory
from gradviz.lenet.config import RunConfig
from gradviz.lenet.experiment import task, training
from gradviz.record.sample import sampled_steps
from gradviz.train.trainer import Trainer

RUN = 300  # steps of a usual run, over which the sampled steps are spread


def turn(loop: Iterator, steps: int) -> float:
    begin = time.thread_time()
    for _ in range(steps):
        next(loop)
    return time.thread_time() - begin


def compare(one: Iterator, other: Iterator, rounds: int, steps: int) -> list[float]:
    """Time of one / other for each round; `other` taken as the mean of its turns before and after."""
    ratios, before = [], turn(other, steps)
    for _ in range(rounds):
        mine, after = turn(one, steps), turn(other, steps)
        ratios.append(2 * mine / (before + after))
        before = after
    return ratios


def sampled(config: RunConfig, rounds: int) -> list[float]:
    """Time of a run with its distributions over the same run without, from steps that are sampled and steps that are not."""
    plain = iter(training(replace(config, steps=100_000), load_data(), torch.device("cpu")))
    next(plain)  # step 0 is sampled
    each = iter(Trainer(task(replace(config, steps=100_000), load_data(), torch.device("cpu")), sampled=range(100_000)))
    share = len(sampled_steps(RUN)) / RUN
    turn(each, 2), turn(plain, 2)
    return [1 + (ratio - 1) * share for ratio in compare(each, plain, rounds, 2)]


def measure(quick: bool, blocks=(12, 60), rounds: int = 15, steps: int = 8) -> str:
    if quick:
        rounds, steps = 5, 4
    torch.set_num_threads(1)
    data = load_data()
    rows = []
    for depth in blocks:
        config = RunConfig(blocks=depth, activation="relu", shortcut=True, dataset=data.name, steps=100_000)
        trained = iter(training(config, data, torch.device("cpu")))
        cells = []
        for tuned in (True, False):
            loop = in_memory(config, data, tuned)
            turn(loop, 3), turn(trained, 3)
            cells.append(middle(compare(trained, loop, rounds, steps), 3))
        rows.append([depth, *cells, middle(sampled(config, rounds), 4)])
        print(*rows[-1], file=sys.stderr, flush=True)
    return table(["blocks", "time over the same loop's", "time over the default loop's", "distributions on top"], rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--blocks", type=int, nargs="+", default=[12, 60])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--steps", type=int, default=8)
    options = parser.parse_args()
    print(measure(False, options.blocks, options.rounds, options.steps))


if __name__ == "__main__":
    main()
