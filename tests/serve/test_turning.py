"""Knobs that are turned while a run trains: it stops where it stands, and goes on from there as the run whose settings say so."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from puppets import SMALL, ended
from timing import until

from gradviz.lenet.data import Shelf
from gradviz.lenet.experiment import training
from gradviz.record.run import Run, Status
from gradviz.serve.manager import RunManager
from gradviz.store.states import States

pytestmark = [pytest.mark.trains, pytest.mark.timeout(300), pytest.mark.usefixtures("one_thread")]
LONG = replace(SMALL, steps=4000, activation="relu", blocks=2, batch_norm=True)


def paused_at(manager: RunManager, run: Run, steps: int) -> None:
    manager.pause(run.id)
    until(lambda: run.status is Status.PAUSED)
    while run.history.steps < steps:
        before = run.history.steps
        manager.step(run.id)
        until(lambda before=before: run.history.steps > before and not manager.has_worker(run.id))


def turned(manager: RunManager, run: Run, held: bool = False, **knobs: Any) -> Run:
    return manager.start(run.recipe.turned(run.history.steps, **knobs), again=True, origin=run.id, held=held)


def afresh(run: Run, shelf: Shelf) -> list[float]:
    trainer = training(run.recipe, shelf.load("digits"), torch.device("cpu"))
    return [record.loss for record, _step in zip(trainer, range(run.history.steps), strict=False)]


def test_a_run_that_is_stopped_in_its_course_keeps_its_state_right_there(manager: RunManager, states: States) -> None:
    run = manager.start(LONG)
    until(lambda: run.history.steps > 13)
    manager.stop(run.id)
    assert ended(manager, run).status is Status.STOPPED and states.steps(run.id)[-1] == run.history.steps
    assert manager.begins.final(run) is not None and not run.message


def test_a_paused_run_that_is_stopped_keeps_its_state_and_needs_no_worker_for_that(manager: RunManager, states: States) -> None:
    run = manager.start(LONG)
    paused_at(manager, run, 3)
    other = manager.start(replace(LONG, seed=8))  # takes the only worker
    until(lambda: other.history.steps > 0)
    manager.stop(run.id)
    assert ended(manager, run).status is Status.STOPPED and states.steps(run.id) == [run.history.steps]
    manager.stop(other.id)
    ended(manager, other)


def test_turned_twice_by_hand_the_numbers_are_those_of_the_settings_that_say_so(manager: RunManager, shelf: Shelf) -> None:
    run = manager.start(LONG)
    until(lambda: run.history.steps > 5)
    manager.stop(run.id)
    first = turned(manager, ended(manager, run), lr=3e-4)
    step = run.history.steps
    until(lambda: first.history.steps > step + 5)
    manager.stop(first.id)
    second = turned(manager, ended(manager, first), optimizer="sgd", treatment="normalise", lr=0.05)
    until(lambda: second.history.steps > first.history.steps + 5)
    manager.stop(second.id)
    assert not any(each.message for each in (run, first, ended(manager, second)))
    assert {change.step for change in second.recipe.changes} == {step, first.history.steps}
    assert manager.statistics().steps == second.history.steps  # none was trained twice
    for each in (run, first, second):
        assert each.history.loss.tolist() == afresh(each, shelf)
    np.testing.assert_array_equal(second.history.loss[:step], run.history.loss)


def test_a_run_that_is_turned_while_it_is_paused_is_paused_at_that_step(manager: RunManager) -> None:
    run = manager.start(LONG)
    paused_at(manager, run, 3)
    manager.stop(run.id)
    other = turned(manager, ended(manager, run), held=True, lr=3e-4)
    until(lambda: other.status is Status.PAUSED and other.history.steps > 0)
    assert other.history.steps == run.history.steps
    np.testing.assert_array_equal(other.history.loss, run.history.loss)
    manager.step(other.id)
    until(lambda: other.history.steps == run.history.steps + 1)
    assert other.status is Status.PAUSED
    manager.stop(other.id)
    ended(manager, other)
