"""The manager with the real trainer."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch
from puppets import SMALL, record
from timing import until

from gradviz.lenet.config import RunConfig
from gradviz.lenet.data import Shelf
from gradviz.lenet.experiment import training
from gradviz.record.history import StepRecord
from gradviz.record.run import Outcome, Status
from gradviz.train.device import device_text


@pytest.mark.trains
@pytest.mark.usefixtures("one_thread")
def test_a_run_gives_the_same_numbers_alone_and_among_three_others(managed: Callable, shelf: Shelf) -> None:
    config = replace(SMALL, steps=25, batch_norm=True, activation="relu", blocks=2)
    alone = list(training(config, shelf.load("digits"), torch.device("cpu")))
    manager = managed(workers=4)
    runs = [manager.start(replace(config, seed=seed)) for seed in (0, 1, 2, 3)]
    manager.pause(runs[0].id)  # and, going on, perhaps with another worker
    until(lambda: runs[0].status == Status.PAUSED)
    manager.step(runs[0].id)
    manager.resume(runs[0].id)
    for run in runs:
        assert manager.wait(run.id, 60) and run.status == Status.FINISHED and run.device == "cpu, 1 thread"
        assert run.arithmetic.threads == 1
    assert runs[0].history.loss.tolist() == [record.loss for record in alone]
    assert np.array_equal(runs[0].history.columns, np.stack([record.layers for record in alone]), equal_nan=True)
    assert runs[1].history.loss.tolist() != runs[0].history.loss.tolist()
    assert runs[0].test_accuracy is not None


def test_a_thousand_blocks_stop_in_the_middle_of_a_step(managed: Callable) -> None:
    manager = managed()
    run = manager.start(replace(SMALL, blocks=1000, shortcut=True, batch_size=256, activation="relu"))
    until(lambda: run.device)  # the net is built
    started = time.monotonic()
    manager.stop(run.id)
    assert manager.wait(run.id, 60)
    assert time.monotonic() - started < 3  # one step is some 25 s
    assert run.status == Status.STOPPED


def test_every_worker_keeps_its_number_of_threads(managed: Callable) -> None:
    seen: list[int] = []

    class Training:
        arithmetic, outcome = None, Outcome(Status.FINISHED)

        def __init__(self, config: RunConfig, interrupt: Callable[[], bool]):
            self.config, self.device = config, device_text(torch.device("cpu"))

        def __iter__(self) -> Iterator[StepRecord]:
            torch.ones(300, 300) @ torch.ones(300, 300)
            seen.append(torch.get_num_threads())
            yield record(self.config, 0)

    manager = managed(train=Training, threads=2)
    main = torch.get_num_threads()
    run = manager.start(SMALL)
    assert manager.wait(run.id, 60) and run.device == "cpu, 2 threads"
    assert seen == [2] and torch.get_num_threads() == main
