"""Pause, step, resume, stop, and a training that fails."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from puppets import SMALL, Stage, do, seeded, steps
from timing import Clock, until

from gradviz.lenet.data import DataError
from gradviz.record.run import Run, Status
from gradviz.serve.admission import memory_needed
from gradviz.serve.manager import RunManager
from gradviz.store.store import RunStore


def test_a_paused_run_gives_its_worker_to_others_and_goes_on_where_it_was(managed: Callable, stage: Stage) -> None:
    manager = managed(train=stage)
    run, other = manager.start(seeded(1)), manager.start(seeded(2))
    stage[1].allow(2)
    until(lambda: steps(run) == 2)
    manager.pause(run.id)
    assert run.status == Status.RUNNING  # in the middle of step 2
    stage[1].allow(1)
    until(lambda: run.status == Status.PAUSED)
    assert steps(run) == 3
    stage[2].allow(1)
    until(lambda: steps(other) == 1)
    third = manager.start(seeded(3))
    manager.resume(run.id)
    assert run.status == Status.QUEUED and manager.position(run.id) == 1  # before the one that has not begun
    assert manager.position(third.id) == 2
    stage[2].allow(4)
    stage[1].allow(2)
    assert manager.wait(run.id, 60) and run.status == Status.FINISHED
    assert run.history.quantity("weight_rms")[:, 0].tolist() == [1000, 1001, 1002, 1003, 1004]
    assert stage.made[:2] == [1, 2]


def test_a_pause_that_is_taken_back_before_the_step_ends_changes_nothing(managed: Callable, stage: Stage) -> None:
    manager = managed(train=stage)
    run = manager.start(SMALL)
    stage[0].allow(1)
    until(lambda: steps(run) == 1)
    manager.pause(run.id)
    manager.resume(run.id)
    stage[0].allow(4)
    assert manager.wait(run.id, 60) and run.status == Status.FINISHED


def test_each_press_of_step_is_one_step_and_the_run_stays_paused(managed: Callable, stage: Stage) -> None:
    manager = managed(train=stage)
    run = manager.start(seeded(1, steps=50))
    stage[1].allow(1)
    until(lambda: steps(run) == 1)
    manager.pause(run.id)
    stage[1].allow(1)
    until(lambda: run.status == Status.PAUSED)
    before = steps(run)
    stage[1].allow(30)
    manager.step(run.id)
    until(lambda: steps(run) == before + 1)
    for _ in range(3):
        manager.step(run.id)
    until(lambda: steps(run) == before + 4)
    bystander = manager.start(seeded(2))  # gets the worker only once the steps are done
    stage[2].allow(5)
    assert manager.wait(bystander.id, 60)
    assert steps(run) == before + 4 and run.status == Status.PAUSED
    manager.resume(run.id)
    until(lambda: run.status == Status.RUNNING)


def test_step_does_nothing_to_a_run_that_is_not_paused(managed: Callable, stage: Stage) -> None:
    manager = managed(train=stage)
    run, waiting = manager.start(seeded(1)), manager.start(seeded(2))
    until(lambda: run.status == Status.RUNNING)
    manager.step(run.id)
    manager.step(waiting.id)
    manager.resume(waiting.id)
    assert manager.position(waiting.id) == 1 and run.status == Status.RUNNING


def test_a_queued_run_can_be_paused_stepped_resumed_and_stopped(managed: Callable, stage: Stage) -> None:
    manager = managed(train=stage)
    first, queued = manager.start(seeded(1)), manager.start(seeded(2))
    manager.pause(queued.id)
    assert queued.status == Status.PAUSED and manager.position(queued.id) is None
    stage[1].allow(5)
    assert manager.wait(first.id, 60)
    assert 2 not in stage.puppets
    manager.step(queued.id)
    stage[2].allow(5)
    until(lambda: steps(queued) == 1)
    until(lambda: not manager.has_worker(queued.id))
    assert steps(queued) == 1
    manager.stop(queued.id)
    assert queued.status == Status.STOPPED and steps(queued) == 1
    assert stage[2].ended  # the generator is closed and its net can be freed


def test_stop_acts_in_the_middle_of_a_step_and_in_the_queue(managed: Callable, stage: Stage) -> None:
    manager = managed(train=stage)
    run, queued = manager.start(seeded(1)), manager.start(seeded(2))
    stage[1].allow(2)
    until(lambda: steps(run) == 2)
    manager.stop(queued.id)
    assert queued.status == Status.STOPPED
    manager.stop(run.id)  # step 2 has begun and will never be allowed
    assert manager.wait(run.id, 60)
    assert run.status == Status.STOPPED and steps(run) == 2 and str(run.message) == ""
    assert 2 not in stage.puppets


def test_a_paused_training_gives_its_memory_back_after_a_while_and_says_so(
    managed: Callable, stage: Stage, store: RunStore, clock: Clock
) -> None:
    manager = managed(train=stage, clock=clock, hold=600)
    run = paused(manager, stage, 1, "ann")
    clock.now = 599
    manager.pause(run.id)  # once more changes nothing
    other = paused(manager, stage, 2, "ann")
    assert run.status == Status.PAUSED
    clock.now = 601
    assert manager.wait(run.id, 60) and stage[1].ended
    assert run.status == Status.STOPPED and "Paused for 10 minutes" in str(run.message) and "kept" in str(run.message)
    assert steps(run) == 2 and other.status == Status.PAUSED
    until(lambda: (kept := store.load(run.id)) is not None and kept.status == Status.STOPPED)


def test_paused_trainings_give_way_to_a_run_that_needs_their_memory_those_of_who_has_most_first(
    managed: Callable, stage: Stage, clock: Clock
) -> None:
    net = dict(blocks=200, batch_size=64)
    size = memory_needed(seeded(1, **net))
    manager = managed(train=stage, clock=clock, memory_left=lambda: 4.5 * size - size * sum(
        not puppet.ended for puppet in stage.puppets.values()))  # fmt: skip
    bobs = paused(manager, stage, 1, "bob", **net)
    anns = [paused(manager, stage, seed, "ann", **net) for seed in (2, 3, 4)]
    clock.now = 61
    late = manager.start(seeded(5, **net), client="cyd")  # was refused
    do(manager, stage, late)
    assert [run.status for run in (bobs, *anns)] == ["paused", "stopped", "paused", "paused"]
    assert "memory was needed" in str(anns[0].message) and late.status == Status.RUNNING


def test_clearing_the_queue_stops_what_is_paused_too(managed: Callable, stage: Stage) -> None:
    manager = managed(train=stage)
    run = paused(manager, stage, 1, "ann")
    trains = manager.start(seeded(2), client="bob")
    do(manager, stage, trains)
    waits = manager.start(seeded(3), client="ann")
    assert manager.clear_queue() == 2
    assert [each.status for each in (run, trains, waits)] == ["stopped", "running", "stopped"]


def paused(manager: RunManager, stage: Stage, seed: int, client: str, **changes: object) -> Run:
    run = manager.start(seeded(seed, **changes), client=client)
    do(manager, stage, run)
    manager.pause(run.id)
    stage[seed].allow()
    until(lambda: run.status == Status.PAUSED)
    return run


def test_the_queue_can_be_cleared(managed: Callable, stage: Stage) -> None:
    manager = managed(train=stage)
    running = manager.start(seeded(1), client="ann")
    until(lambda: running.status == Status.RUNNING)
    waiting = [manager.start(seeded(seed), client="ann") for seed in (2, 3)]
    assert manager.clear_queue() == 2 and manager.clear_queue() == 0
    assert running.status == Status.RUNNING and all(run.status == Status.STOPPED for run in waiting)


@pytest.mark.parametrize(
    "error, words",
    [
        (DataError("MNIST is not complete."), "MNIST is not complete."),
        (MemoryError(), "memory does not suffice"),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried ..."), "memory does not suffice"),
        (ZeroDivisionError("division by zero"), "ZeroDivisionError"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_an_error_ends_its_own_run_in_one_sentence_and_no_other(
    managed: Callable, stage: Stage, store: RunStore, caplog: pytest.LogCaptureFixture, error: Exception, words: str
) -> None:
    manager = managed(train=stage)
    run, other = manager.start(seeded(1)), manager.start(seeded(2))
    stage[1].allow(2)
    until(lambda: steps(run) == 2)
    stage[1].error = error
    stage[1].allow(1)
    assert manager.wait(run.id, 60)
    assert run.status == Status.FAILED and words in str(run.message) and "\n" not in str(run.message)
    assert steps(run) == 2
    (line,) = [line for line in caplog.records if line.levelno == logging.ERROR]
    assert run.id in line.getMessage() and line.exc_info[1] is error
    stage[2].allow(5)
    assert manager.wait(other.id, 60) and other.status == Status.FINISHED
    until(lambda: (kept := store.load(run.id)) and kept.status == Status.FAILED)
    assert str(store.load(run.id).message) == str(run.message)


def test_a_training_that_cannot_even_begin_fails_in_words(managed: Callable) -> None:
    manager = managed()  # the real trainer: there is no MNIST in the folder, and downloads are off
    run = manager.start(replace(SMALL, dataset="mnist"))
    assert manager.wait(run.id, 60)
    assert run.status == Status.FAILED and "MNIST is not in the data folder" in str(run.message)
    if not torch.cuda.is_available():
        run = manager.start(replace(SMALL, device="cuda"))
        assert manager.wait(run.id, 60)
        assert run.status == Status.FAILED and "cuda is not on this machine" in str(run.message)
