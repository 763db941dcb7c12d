"""What a step takes of the learning rate that is set: all of it, or less while the net is warmed up and later on."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Schedule:
    """`share`: of the learning rate at a step, counted from the end of the warm-up, of so many that follow it. `code`: the same
    as an expression of the program, in which {step} and {steps} stand for them."""

    sentence: str
    share: Callable[[int, int], float]
    code: str


SCHEDULES = {
    "constant": Schedule("The learning rate stays as it is set.", lambda step, steps: 1.0, "1.0"),
    "cosine": Schedule(  # Loshchilov & Hutter 2017, one period
        "The learning rate falls along half a cosine to nearly 0 at the last step: long steps first, ever finer ones later.",
        lambda step, steps: 0.5 * (1 + math.cos(math.pi * step / steps)),
        "0.5 * (1 + math.cos(math.pi * {step} / {steps}))",
    ),
    "step-decay": Schedule(  # as He et al. 2016 on ImageNet, and torch.optim.lr_scheduler.StepLR
        "The learning rate falls to a tenth after a third of the steps and to a hundredth after two thirds: "
        "what long steps blur, short ones settle.",
        lambda step, steps: (1.0, 0.1, 0.01)[step // part(steps)],
        "(1.0, 0.1, 0.01)[{step} // {part}]",
    ),
}


def part(steps: int) -> int:
    """Steps of a third, rounded up."""
    return -(-steps // 3)


def share(schedule: str, warmup: int, steps: int, step: int) -> float:
    """What `step` of `steps` takes of the learning rate, of which the first `warmup` rise evenly to all of it (Goyal et al.
    2017)."""
    if step < warmup:
        return (step + 1) / warmup
    return SCHEDULES[schedule].share(step - warmup, steps - warmup)
