"""What `gradviz.watch` costs somebody's training: against the same loop without it, and with `wandb.watch`, in turns.

    python -m benchmarks.watching [--quick]     # some ten minutes
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from typing import Any
from unittest.mock import patch

import torch
import torch.nn.functional as F

import gradviz
from benchmarks import loops, nets
from benchmarks.common import load_data, relu_shortcut, table
from benchmarks.nets import Supervised
from gradviz.train import hooks
from gradviz.train.eyes import find_compiled


def resnet18() -> Supervised:
    """With batches as large as people use."""
    return replace(nets.resnet18(0, False), batches=nets.pictures(64, 32, 0))


NETS: dict[str, Callable[[], Supervised]] = {
    "LeNet, 12 blocks": lambda: lenet(12),
    "GPT, 6 blocks of 128": lambda: nets.gpt(0, False),
    "LSTM, 128": lambda: nets.lstm(0, False),
    "U-Net": lambda: nets.unet(0, False),
    "ViT, 8 blocks of 192": lambda: nets.vit(0, False),
    "ResNet-18, 32 × 32, batch 64": resnet18,
}
WITHOUT = "every step, without numba"
MODES = ("bare", "every step", "auto", WITHOUT, "wandb")
_SETTLED = 8  # steps in which every="auto" finds its pace
_TURN = 0.5  # seconds of one mode in one turn


def lenet(blocks: int) -> Supervised:
    """As the Lab trains it, batches of 64, in a loop of somebody's own."""
    config = relu_shortcut(blocks, 64)
    model, optimizer = loops.net(config)
    random, data = torch.Generator().manual_seed(0), load_data()

    def batches() -> Iterator[nets.Batch]:
        while True:
            chosen = torch.randint(0, len(data.train_labels), (64,), generator=random)
            yield data.train_images[chosen], data.train_labels[chosen]

    return Supervised(model, optimizer, batches(), 10**9, F.cross_entropy)


@contextmanager
def watched(
    mode: str, loop: Supervised, folder: str, wandb_run: Any
) -> Iterator[tuple[Callable[[torch.Tensor], object], Callable[[], int], Callable[[], object]]]:
    """Gives what is called with the loss after each step, what says how many steps one is measured of, and what works out all
    that has been put off."""
    if mode == "bare":
        yield lambda loss: None, lambda: 1, lambda: None
    elif mode == "wandb":
        wandb_run.watch(loop.model, log="gradients", log_freq=1)
        yield lambda loss: wandb_run.log({"loss": loss.item()}), lambda: 1, lambda: None
        wandb_run.unwatch(loop.model)
    else:
        every = "auto" if mode == "auto" else 1
        with without_numba() if mode == WITHOUT else nullcontext():
            watch = gradviz.watch(loop.model, loop.optimizer, every=every, folder=folder)
        with watch as run:
            yield lambda loss: run.log(loss=loss), lambda: run.every, lambda: run.run


def without_numba() -> Any:
    """What is watched meanwhile is measured by torch alone."""
    return patch.object(hooks, "find_compiled", return_value=None)


def ratios(
    make: Callable[[], Supervised], modes: tuple[str, ...], seconds: float, turns: int, folder: str, wandb_run: Any
) -> tuple[float, dict[str, list[float]]]:
    """(seconds of a bare step, mode -> its time over that of the bare loop before and after it, one for each turn)

    For so many seconds and turns at least.

    One net for all modes: two equal ones lie elsewhere in memory, and differ by several per cent.
    """
    loop, taken = make(), 0
    loop.rates = [group["lr"] for group in loop.optimizer.param_groups]

    def timed(mode: str, count: int) -> float:
        with watched(mode, loop, folder, wandb_run) as (after, every, work_out):

            def take(steps: int) -> None:
                nonlocal taken
                for _ in range(steps):
                    after(loop.take(taken)[""])
                    taken += 1

            take(_SETTLED if mode == "auto" else 2)
            whole = -(-count // every()) * every()  # as many measured ones as there are in the long run
            work_out()
            begin = time.perf_counter()
            take(whole)
            work_out()
            return (time.perf_counter() - begin) / whole

    count = max(3, round(_TURN / timed("bare", 3)))
    bare = [timed("bare", count)]
    found: dict[str, list[float]] = {mode: [] for mode in modes[1:]}
    begin = time.perf_counter()
    while time.perf_counter() - begin < seconds or len(found[modes[1]]) < turns:
        for mode in modes[1:] if len(found[modes[1]]) % 2 else modes[:0:-1]:
            there = timed(mode, count)
            bare.append(timed("bare", count))
            found[mode].append(there / statistics.fmean(bare[-2:]))
    return statistics.median(bare), found


def measure(quick: bool) -> str:
    """One thread each."""
    torch.set_num_threads(1)
    rows, each = [], []
    with tempfile.TemporaryDirectory() as folder:
        run = _wandb(folder)
        numba = find_compiled([torch.empty(1 << 20)]) is not None
        modes = tuple(mode for mode in MODES if (run or mode != "wandb") and (numba or mode != WITHOUT))
        for name, make in NETS.items():
            bare, found = ratios(make, modes, *((1.0, 3) if quick else (60.0, 9)), folder, run)
            middle = {mode: statistics.median(values) for mode, values in found.items()}
            each.append(middle["every step"])
            without = f"{middle[WITHOUT]:.3f}" if numba else "the same"
            theirs = ["not installed", "–"]
            if run:
                theirs = [f"{middle['wandb']:.2f}", f"{(each[-1] - 1) / (middle['wandb'] - 1):.2f}"]
            rows.append([name, f"{1000 * bare:.1f}", f"{middle['auto']:.3f}", f"{each[-1]:.3f}", without, *theirs])
            print(*rows[-1], sep=" | ", file=sys.stderr, flush=True)
        if run:
            run.finish()
    head = ["training", "ms per step", 'every="auto"', "every=1", "every=1 without numba", "wandb.watch"]
    head.append("extra time of every=1 over wandb.watch's")
    found = "" if numba else "numba is not installed. "
    return table(head, rows) + f"\n{found}Median of every=1 over the nets: {statistics.median(each):.3f}.\n"


def _wandb(folder: str) -> Any:
    """An offline run of Weights & Biases, or None where it is not installed."""
    try:
        import wandb
    except ImportError:
        return None
    return wandb.init(mode="offline", dir=folder, settings=wandb.Settings(silent=True, console="off"))


if __name__ == "__main__":
    print(measure("--quick" in sys.argv[1:]))
