"""What does recording every layer at every step cost? Paired: the Trainer against the same loop that records nothing.

    python benchmarks/recording.py [--blocks 12 60] [--rounds 15] [--steps 8]

Both run in this process on one thread and take turns of a few steps; each turn of the Trainer is divided by the mean of
the bare turns before and after it. Two bare loops: one with the Trainer's own memory format and fused optimiser ("same
loop"), one as PyTorch does it by default ("default loop"). Processor time of the thread, so that other work on the machine
disturbs less.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import time
from collections.abc import Iterator
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"
ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import torch  # noqa: E402
import torch.nn.functional as F  # noqa: E402

from gradviz.config import RunConfig  # noqa: E402
from gradviz.data import Dataset, Shelf  # noqa: E402
from gradviz.model import DeepLeNet, initialise  # noqa: E402
from gradviz.trainer import Trainer  # noqa: E402


def bare(config: RunConfig, data: Dataset, plain: bool) -> Iterator[None]:
    model = DeepLeNet(config)
    generator = torch.Generator().manual_seed(config.seed)
    initialise(model, config.init_range, generator)
    if not plain:
        model.to(memory_format=torch.channels_last)
    optimizer = torch.optim.Adam(model.parameters(), lr=config.lr, fused=None if plain else True)
    while True:
        order = torch.randperm(len(data.train_labels), generator=generator)
        for batch in order.split(config.batch_size):
            optimizer.zero_grad()
            F.cross_entropy(model(data.train_images[batch]), data.train_labels[batch]).backward()
            optimizer.step()
            yield


def turn(loop: Iterator, steps: int) -> float:
    begin = time.thread_time()
    for _ in range(steps):
        next(loop)
    return time.thread_time() - begin


def compare(one: Iterator, other: Iterator, rounds: int, steps: int) -> list[float]:
    """Time of one / other for each round, sorted; `other` taken as the mean of its turns before and after."""
    ratios, before = [], turn(other, steps)
    for _ in range(rounds):
        mine, after = turn(one, steps), turn(other, steps)
        ratios.append(2 * mine / (before + after))
        before = after
    return sorted(ratios)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--blocks", type=int, nargs="+", default=[12, 60])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--steps", type=int, default=8)
    options = parser.parse_args()
    torch.set_num_threads(1)
    shelf = Shelf(Path(os.environ.get("GRADVIZ_DATA", ROOT / "data")), download=False)
    data = shelf.load(shelf.effective("mnist")[0])
    print(f"data: {data.name}; batch 64; Adam; shortcut; median of {options.rounds} turns of {options.steps} steps (quartiles)")
    for blocks in options.blocks:
        config = RunConfig(blocks=blocks, activation="relu", shortcut=True, dataset=data.name, steps=100_000)
        trained = iter(Trainer(config, data, torch.device("cpu")))
        for name, plain in (("same loop", False), ("default loop", True)):
            loop = bare(config, data, plain)
            turn(loop, 3), turn(trained, 3)
            ratios = compare(trained, loop, options.rounds, options.steps)
            low, high = ratios[len(ratios) // 4], ratios[-1 - len(ratios) // 4]
            middle = statistics.median(ratios)
            print(f"{blocks:4} blocks: Trainer ×{middle:.3f} of the {name}'s time ({low:.3f} … {high:.3f})", flush=True)


if __name__ == "__main__":
    main()
