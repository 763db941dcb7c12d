"""What whoever drives a training asks of it, wherever it is computed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Protocol

import torch

from gradviz.lenet.config import RunConfig
from gradviz.record.arithmetic import Arithmetic
from gradviz.record.history import StepRecord
from gradviz.record.run import Outcome


class Training(Protocol):
    """What the manager asks of a Trainer."""

    device: torch.device | str  # of a training elsewhere in words
    arithmetic: Arithmetic | None
    outcome: Outcome | None  # how it ended, once the iteration has

    def __iter__(self) -> Iterator[StepRecord]: ...

    def preview(self) -> StepRecord: ...


Train = Callable[[RunConfig, Callable[[], bool]], Training]  # (config, interrupt)


def limit_threads(threads: int) -> None:
    # The first torch operation of a thread sets its number of threads to the last one that any thread asked for,
    # unless the number was read before it was set.
    torch.get_num_threads()
    torch.set_num_threads(threads)
