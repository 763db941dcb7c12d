"""The manager: who trains when, what is shared, what is kept. Most tests lead a training by hand, step by step."""

from __future__ import annotations

import logging
import math
import shutil
import signal
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from puppets import SMALL, Stage, record, seeded, steps
from timing import Clock, until

from gradviz.lenet.config import READERS, RunConfig
from gradviz.lenet.data import DataError, Shelf
from gradviz.lenet.experiment import trainer_on, training
from gradviz.record.history import History, StepRecord
from gradviz.record.quantities import QUANTITIES
from gradviz.record.run import Outcome, Run, Status
from gradviz.serve.admission import Refused, memory_needed
from gradviz.serve.manager import RunManager
from gradviz.settings import Limits
from gradviz.store.store import RunStore
from gradviz.train.device import device_text
from gradviz.train.training import Interrupted


@pytest.fixture
def store(tmp_path: Path) -> Iterator[RunStore]:
    store = RunStore(tmp_path / "runs", READERS)
    yield store
    store.close()


@pytest.fixture
def shelf(tmp_path: Path) -> Shelf:
    return Shelf(tmp_path / "data", download=False)


@pytest.fixture
def stage() -> Stage:
    return Stage()


@pytest.fixture
def managed(store: RunStore, shelf: Shelf) -> Iterator[Callable[..., RunManager]]:
    managers: list[RunManager] = []

    def make(**options: object) -> RunManager:
        # On a busy machine a test's hand may take longer than a slice; the tests of slices bring a clock of their own.
        managers.append(RunManager(store, **{"train": trainer_on(shelf), "slice": math.inf, **options}))
        return managers[-1]

    yield make
    for manager in managers:
        manager.close()


# Sharing


def test_while_the_store_is_asked_for_a_run_that_starts_everybody_else_is_answered(tmp_path: Path, shelf: Shelf, stage: Stage):
    class Asked(RunStore):
        waited = 0

        def size(self, id: str) -> int | None:
            other = threading.Thread(target=manager.statistics, daemon=True)
            other.start()
            other.join(10)
            self.waited += other.is_alive()
            return super().size(id)

    store = Asked(tmp_path / "asked", READERS)
    manager = RunManager(store, stage)
    try:
        run = manager.start(seeded(1), client="ann")
        manager.stop(run.id)
        assert manager.wait(run.id, 60)
        manager.start(seeded(1), again=True, client="ann")
        manager.start(seeded(2), client="bob")
    finally:
        manager.close()
        store.close()
    assert store.waited == 0


def test_equal_configs_share_one_live_run(managed: Callable, stage: Stage) -> None:
    manager = managed(train=stage)
    run = manager.start(seeded(1))
    assert manager.start(replace(seeded(1))) is run
    assert manager.start(seeded(1), again=True) is run  # live: again means nothing
    stage[1].allow(5)
    assert manager.wait(run.id, 60)
    assert run.status == Status.FINISHED and run.test_accuracy == 0.75 and steps(run) == 5
    assert stage.made == [1]


def test_thirty_people_who_press_start_at_once_train_once(managed: Callable, stage: Stage) -> None:
    manager = managed(train=stage, workers=4)
    runs: list[Run] = []
    barrier = threading.Barrier(30)

    def press() -> None:
        barrier.wait()
        runs.append(manager.start(seeded(1)))

    people = [threading.Thread(target=press) for _ in range(30)]
    for person in people:
        person.start()
    for person in people:
        person.join()
    assert len(runs) == 30 and all(run is runs[0] for run in runs)
    stage[1].allow(5)
    assert manager.wait(runs[0].id, 60) and stage.made == [1]


@pytest.mark.parametrize("status", [status for status in Status if not status.live])
def test_a_kept_run_is_joined_and_only_an_incomplete_one_is_started_afresh(
    managed: Callable, stage: Stage, store: RunStore, status: Status
) -> None:
    stage.free = True
    first = managed(train=stage)
    run = first.start(SMALL)
    first.wait(run.id, 60)
    first.close()
    run.status = status
    store.save(run)
    manager = managed(train=stage)
    joined = manager.start(SMALL)
    assert joined.status == status and steps(joined) == 5 and stage.made == [0]
    afresh = manager.start(SMALL, again=True)
    assert manager.wait(afresh.id, 60)
    if status in (Status.FINISHED, Status.DIVERGED):
        assert afresh is joined and stage.made == [0]
    else:
        assert afresh is not joined and stage.made == [0, 0] and afresh.status == Status.FINISHED
        until(lambda: store.load(SMALL.id).status == Status.FINISHED)
        assert store.load(SMALL.id).created == afresh.created


@pytest.mark.parametrize("status", [Status.STOPPED, Status.INTERRUPTED, Status.FAILED])
def test_what_is_started_afresh_is_kept_until_the_new_one_has_as_much(
    managed: Callable, stage: Stage, store: RunStore, status: Status
) -> None:
    manager = managed(train=stage, workers=2)
    run = manager.start(seeded(1, steps=50), client="ann")
    stage[1].allow(12)
    until(lambda: steps(run) == 12)
    manager.stop(run.id)
    assert manager.wait(run.id, 60)
    until(lambda: not manager.unsaved())
    run.status = status
    store.save(run)

    def afresh(count: int) -> Run:
        del stage.puppets[1]
        fresh = manager.start(seeded(1, steps=50), again=True, client="ann")
        stage[1].allow(count)
        until(lambda: steps(fresh) == count)
        return fresh

    short = afresh(5)
    bystander = manager.start(seeded(2))
    until(lambda: store.load(bystander.id) is not None)  # the writer has been there meanwhile
    kept = store.load(run.id)  # what is there after a kill now
    assert (kept.created, steps(kept), kept.status) == (run.created, 12, status)
    manager.stop(short.id)
    until(lambda: manager.get(run.id) is not short)
    back = manager.get(run.id)
    assert (back.status, steps(back)) == (status, 12)
    assert "ended after 5 steps" in str(back.message) and "kept" in str(back.message)
    long = afresh(12)
    until(lambda: store.load(run.id).created == long.created)
    assert steps(store.load(run.id)) == 12


def test_what_was_started_afresh_twice_in_a_hurry_is_kept_too(managed: Callable, stage: Stage, store: RunStore) -> None:
    manager = managed(train=stage)
    run = manager.start(seeded(1, steps=50))
    stage[1].allow(12)
    until(lambda: steps(run) == 12)
    manager.stop(run.id)
    assert manager.wait(run.id, 60)
    for _ in range(3):
        manager.stop(manager.start(seeded(1, steps=50), again=True).id)
    until(lambda: not manager.unsaved())
    assert steps(manager.get(run.id)) == steps(store.load(run.id)) == 12


def test_a_run_of_several_people_goes_on_until_the_last_has_left(managed: Callable, stage: Stage, store: RunStore) -> None:
    manager = managed(train=stage)
    run = manager.start(SMALL, client="ann")
    stage[0].allow(1)
    manager.join(run.id, "bob")
    manager.start(SMALL, client="cyd")
    assert run.clients == ("ann", "bob", "cyd")
    assert manager.leave(run.id, "ann") and manager.leave(run.id, "ann")  # who is not in it cannot stop it
    assert manager.leave(run.id, "cyd") and run.status.live and run.clients == ("bob",)
    until(lambda: (kept := store.load(run.id)) and kept.clients == ("bob",))
    assert not manager.leave(run.id, "bob")
    assert manager.wait(run.id, 60) and run.status == Status.STOPPED and run.clients == ("bob",)
    manager.join(run.id, "eve")  # what has ended is joined by nobody
    assert manager.get(run.id).clients == ("bob",)


def test_an_unknown_or_rubbish_id_does_nothing(managed: Callable, stage: Stage) -> None:
    manager = managed(train=stage)
    for id in ("", "0" * 12, "../x", "\ud800", "a" * 10_000):
        for wish in (manager.pause, manager.resume, manager.step, manager.stop):
            wish(id)
        assert manager.get(id) is None and manager.position(id) is None and manager.get_preview(id) is None


# The queue


def test_a_run_is_at_hand_while_it_is_live_or_was_looked_at_and_not_from_the_store_alone(store: RunStore, shelf: Shelf) -> None:
    manager = RunManager(store, trainer_on(shelf))
    run = manager.start(SMALL)
    assert manager.at_hand(run.id) is run
    assert manager.wait(run.id, 60)
    until(lambda: not manager.unsaved())
    assert manager.at_hand(run.id) is run
    manager.close()
    later = RunManager(store, trainer_on(shelf))
    assert later.at_hand(run.id) is None
    assert later.get(run.id) is not None and later.at_hand(run.id) is later.get(run.id)
    later.close()


def test_no_more_runs_at_once_than_workers_and_first_come_first_served(managed: Callable, stage: Stage) -> None:
    manager = managed(train=stage, workers=2)
    runs = [manager.start(seeded(seed)) for seed in range(5)]
    until(lambda: len(stage.puppets) == 2)
    assert [run.status for run in runs] == ["running"] * 2 + ["queued"] * 3
    assert [manager.position(run.id) for run in runs] == [None, None, 1, 2, 3]
    stage[1].allow(5)
    until(lambda: runs[2].status == Status.RUNNING)
    assert [manager.position(run.id) for run in runs] == [None, None, None, 1, 2]
    assert stage[2]  # waits until it is made: a run is "running" a moment before
    for ended, next_one in ((0, 3), (2, 4)):
        stage[ended].allow(5)
        assert stage[next_one]
    for seed in (3, 4):
        stage[seed].allow(5)
    for run in runs:
        assert manager.wait(run.id, 60) and run.status == Status.FINISHED
    assert sorted(stage.made[:2]) == [0, 1] and stage.made[2:] == [2, 3, 4]


def test_the_list_holds_live_and_kept_runs_newest_first(managed: Callable, stage: Stage) -> None:
    manager = managed(train=stage)
    runs = [manager.start(seeded(seed)) for seed in range(3)]
    stage[0].allow(5)
    manager.wait(runs[0].id, 60)
    until(lambda: manager.get(runs[1].id).status == Status.RUNNING)
    expected = [(runs[2].id, "queued", 0), (runs[1].id, "running", 0), (runs[0].id, "finished", 5)]
    assert [(line.id, line.status, line.steps) for line in manager.list()] == expected
    until(lambda: not manager.unsaved())  # now it comes from the store
    assert [(line.id, line.status, line.steps) for line in manager.list()] == expected


# Fairness


@pytest.fixture
def fair(managed: Callable, stage: Stage, clock: Clock) -> RunManager:
    """One worker, slices of 2 s."""
    return managed(train=stage, slice=2.0, clock=clock)


def do(manager: RunManager, stage: Stage, run: Run, count: int = 1) -> None:
    """So many steps of a run that has the worker, and what the manager makes of them."""
    due = steps(run) + count
    stage[run.recipe.seed].allow(count)

    until(lambda: steps(run) == due and manager.settled)


def test_a_run_that_has_had_its_slice_gives_its_worker_away_and_goes_on_where_it_was(
    fair: RunManager, stage: Stage, clock: Clock
) -> None:
    first = fair.start(seeded(1), client="ann")
    do(fair, stage, first)
    clock.now = 100
    do(fair, stage, first)  # nobody waits: it goes on
    fair.watched(first.id)
    clock.now = 101
    second = fair.start(seeded(2), client="bob")
    do(fair, stage, first)
    until(lambda: fair.has_worker(second.id))
    assert first.status == Status.RUNNING and fair.position(first.id) == 1  # it has begun, and takes its turns
    do(fair, stage, second)
    clock.now = 102.9
    do(fair, stage, second)
    assert fair.position(first.id) == 1
    clock.now = 103.1
    do(fair, stage, second)
    until(lambda: fair.has_worker(first.id))
    assert fair.position(second.id) == 1
    clock.now = 105.2
    do(fair, stage, first)
    until(lambda: fair.has_worker(second.id))
    stage[2].allow(2)
    stage[1].allow(1)
    for run in (first, second):
        assert fair.wait(run.id, 60) and run.status == Status.FINISHED
        assert run.history.quantity("weight_rms")[:, 0].tolist() == [1000 * run.recipe.seed + step for step in range(5)]
    assert stage.made == [1, 2]


def test_a_first_picture_waits_only_for_the_begin_of_a_slice(fair: RunManager, stage: Stage, clock: Clock) -> None:
    first = fair.start(seeded(1), client="ann")
    do(fair, stage, first)
    others = [fair.start(seeded(seed), client=f"person {seed}") for seed in (2, 3)]
    clock.now = 0.4
    do(fair, stage, first)
    assert fair.has_worker(first.id)
    for run, seconds in zip([first, *others], (0.6, 1.2, 1.8), strict=True):
        clock.now = seconds
        do(fair, stage, run)  # half a second is enough while somebody has no picture
    assert stage.made == [1, 2, 3] and [steps(run) for run in (first, *others)] == [3, 1, 1]
    assert fair.has_worker(others[1].id)  # now that everybody has one, slices are whole


def test_a_person_with_ten_runs_does_not_hold_up_a_person_with_one(fair: RunManager, stage: Stage, clock: Clock) -> None:
    many = [fair.start(seeded(1), client="ann")]
    until(lambda: fair.has_worker(many[0].id))
    many += [fair.start(seeded(seed), client="ann") for seed in range(2, 11)]
    one = fair.start(seeded(11), client="bob")
    assert [fair.position(run.id) for run in (many[9], one, many[1])] == [1, 2, 3]  # her newest is her first
    clock.now = 0.6
    do(fair, stage, many[0])
    until(lambda: fair.has_worker(many[9].id))
    clock.now = 1.2
    do(fair, stage, many[9])
    until(lambda: fair.has_worker(one.id))
    stage[11].allow(5)
    assert fair.wait(one.id, 60)
    assert stage.made == [1, 10, 11]
    assert all(run.status.live for run in many)


def test_a_second_run_gets_a_worker_that_nobody_else_waits_for(managed: Callable, stage: Stage, clock: Clock) -> None:
    manager = managed(train=stage, workers=2, slice=2.0, clock=clock)
    older, newer = (manager.start(seeded(seed), client="ann") for seed in (1, 2))
    do(manager, stage, older)
    do(manager, stage, newer)
    other = manager.start(seeded(3), client="bob")
    clock.now = 0.6
    do(manager, stage, newer)
    do(manager, stage, older)
    until(lambda: manager.has_worker(other.id))
    assert manager.has_worker(newer.id) and manager.position(older.id) == 1
    clock.now = 5
    do(manager, stage, other)
    do(manager, stage, newer)
    assert manager.has_worker(newer.id) and manager.has_worker(other.id)  # also beyond their slices
    stage[3].allow(4)
    until(lambda: manager.has_worker(older.id))


def test_what_nobody_looks_at_makes_room_and_goes_on_when_there_is_room(fair: RunManager, stage: Stage, clock: Clock) -> None:
    sweep = fair.start(seeded(1, steps=50))
    do(fair, stage, sweep)
    watched = fair.start(seeded(2, steps=50), client="ann")
    clock.now = 0.6
    do(fair, stage, sweep)
    until(lambda: fair.has_worker(watched.id))
    for clock.now in (9.0, 18.0, 27.0):
        fair.watched(watched.id)
        do(fair, stage, watched)
        assert fair.has_worker(watched.id) and fair.position(sweep.id) == 1
    clock.now = 38  # the page is closed
    do(fair, stage, watched)
    until(lambda: fair.has_worker(sweep.id))
    fair.watched(watched.id)
    clock.now = 38.6
    do(fair, stage, sweep)
    until(lambda: fair.has_worker(watched.id))
    fair.stop(watched.id)
    until(lambda: fair.has_worker(sweep.id))


def test_a_run_that_several_people_want_is_the_first_run_of_each(fair: RunManager, stage: Stage) -> None:
    busy = fair.start(seeded(9), client="zoe")
    stage[9]
    shared = fair.start(seeded(1), client="ann")
    anns = fair.start(seeded(2), client="ann")
    assert [fair.position(run.id) for run in (anns, shared)] == [1, 2]
    assert fair.start(seeded(1), client="bob") is shared and shared.clients == ("ann", "bob")
    assert [fair.position(run.id) for run in (shared, anns)] == [1, 2]
    assert busy.status == Status.RUNNING


def test_an_unwatched_sweep_does_not_go_before_a_persons_second_run_that_is_watched(fair: RunManager, stage: Stage) -> None:
    busy = fair.start(seeded(9), client="zoe")
    stage[9]
    sweep = fair.start(seeded(1))
    second, first = (fair.start(seeded(seed), client="ann") for seed in (2, 3))
    bobs = fair.start(seeded(4), client="bob")
    expected = [first, bobs, second, sweep]
    assert sorted(expected, key=lambda run: fair.position(run.id)) == expected
    assert busy.status == Status.RUNNING


def turns(manager: RunManager, stage: Stage, clock: Clock, count: int) -> list[int]:
    """Whose runs (seeds) have the one worker, one slice after the other."""
    had = []
    for _ in range(count):
        until(lambda: manager.settled)
        (id,) = [line.id for line in manager.list() if manager.has_worker(line.id)]
        run = manager.at_hand(id)
        clock.now += 2.1
        for line in manager.list():
            manager.watched(line.id)
        do(manager, stage, run)
        had.append(run.recipe.seed)
    return had


@pytest.mark.parametrize("who, least", [("person", 5), ("guest-", 15)])
def test_forty_people_of_one_address_do_not_take_the_turns_of_another(
    managed: Callable, stage: Stage, clock: Clock, who: str, least: int
) -> None:
    """He has cleared his cookies forty times, or takes none at all."""
    manager = managed(train=stage, slice=2.0, clock=clock)
    for seed in range(40):
        manager.start(seeded(seed, steps=1000), client=f"{who}{seed}", address="10.0.0.1")
    manager.start(seeded(99, steps=1000), client="bob", address="10.0.0.2")
    turns(manager, stage, clock, 41)  # everybody's first picture
    assert turns(manager, stage, clock, 40).count(99) >= least


def test_a_class_behind_one_address_has_four_turns_to_one_of_another(managed: Callable, stage: Stage, clock: Clock) -> None:
    manager = managed(train=stage, slice=2.0, clock=clock)
    for seed in range(30):
        manager.start(seeded(seed, steps=1000), client=f"person {seed}", address="10.0.0.1")
    for seed in (98, 99):
        manager.start(seeded(seed, steps=1000), client="hoarder", address="10.0.0.2")
    turns(manager, stage, clock, 40)
    had = turns(manager, stage, clock, 40)
    assert len({seed for seed in had if seed < 30}) == 30  # nobody starves


def test_one_person_and_one_address_have_only_a_share_of_the_queue(managed: Callable, stage: Stage) -> None:
    manager = managed(train=stage, limits=Limits(queue=40))
    manager.start(seeded(999), client="zoe")
    stage[999]

    def starts(people: list[str], address: str, first: int) -> int:
        taken = 0
        for seed, client in enumerate(people, first):
            try:
                manager.start(seeded(seed), client=client, address=address)
                taken += 1
            except Refused as refusal:
                assert refusal.reason == "queue" and str(refusal).endswith(".")
        return taken

    assert starts(["ann"] * 202, "10.0.0.1", 1000) == 4
    assert starts([f"cleared {n}" for n in range(202)], "10.0.0.1", 2000) == 16
    assert starts(["bob"], "10.0.0.2", 3000) == 1


def test_new_starts_and_presses_go_before_the_turns_of_others_only_so_often(
    managed: Callable, stage: Stage, clock: Clock
) -> None:
    manager = managed(train=stage, slice=2.0, clock=clock)
    bob = manager.start(seeded(500, steps=1000), client="bob", address="10.0.0.2")
    do(manager, stage, bob)
    for seed in range(60):
        manager.start(seeded(seed, steps=1000), client="ann", address="10.0.0.1")
        if seed:
            manager.stop(seeded(seed - 1, steps=1000).id)
    clock.now += 0.6
    do(manager, stage, bob)
    assert manager.position(seeded(59, steps=1000).id) and manager.has_worker(bob.id)


def test_the_expected_wait_follows_from_the_turns_and_from_what_goes_before(
    fair: RunManager, stage: Stage, clock: Clock
) -> None:
    first = fair.start(seeded(1, steps=101), client="ann")
    until(lambda: fair.has_worker(first.id))
    second, third = (fair.start(seeded(seed), client=f"person {seed}") for seed in (2, 3))
    background = fair.start(seeded(4))
    assert [fair.expected_wait(run.id) for run in (first, second, third)] == [None, 2.0, 4.0]
    assert fair.expected_wait(background.id) is None  # nobody knows yet how long the others take
    clock.now = 1.0
    do(fair, stage, first)
    until(lambda: fair.has_worker(second.id))
    assert fair.expected_wait(third.id) == pytest.approx(0.8 * 2.0 + 0.2 * 1.0)  # a running mean of the turns
    for id in (second.id, third.id):
        fair.stop(id)
    until(lambda: fair.has_worker(first.id))
    do(fair, stage, first)  # 2 steps in 0.01 s, and 99 more to go
    turn = 0.8 * (0.8 * 2.0 + 0.2 * 1.0)  # the second had its worker for no time at all
    assert fair.expected_wait(background.id) == pytest.approx(99 * 0.01 / 2 + turn)
    assert fair.expected_wait("0" * 12) is None


def test_the_queue_can_be_cleared(managed: Callable, stage: Stage) -> None:
    manager = managed(train=stage)
    running = manager.start(seeded(1), client="ann")
    until(lambda: running.status == Status.RUNNING)
    waiting = [manager.start(seeded(seed), client="ann") for seed in (2, 3)]
    assert manager.clear_queue() == 2 and manager.clear_queue() == 0
    assert running.status == Status.RUNNING and all(run.status == Status.STOPPED for run in waiting)


# Limits


def refused(manager: RunManager, config: RunConfig) -> Refused:
    with pytest.raises(Refused) as caught:
        manager.start(config, client="ann")
    sentence = str(caught.value)
    assert sentence.endswith(".") and "\n" not in sentence and len(sentence) < 200
    assert manager.get(config.id) is None
    return caught.value


def test_what_is_over_a_limit_is_refused_in_one_sentence(managed: Callable, stage: Stage) -> None:
    manager = managed(train=stage, limits=Limits(blocks=20, steps=500, batch=128, queue=1))
    cases = [
        (dict(blocks=21), "blocks", "at most 20 blocks, not 21"),
        (dict(steps=1000), "steps", "at most 500 steps, not 1,000"),
        (dict(batch_size=129), "batch_size", "at most 128 images per step, not 129"),
    ]
    for changes, reason, words in cases:
        refusal = refused(manager, seeded(1, **changes))
        assert refusal.reason == reason and words in str(refusal)
    running = manager.start(seeded(1, blocks=20, steps=500, batch_size=128), client="ann")
    until(lambda: running.status == Status.RUNNING)
    queued = manager.start(seeded(2), client="ann")
    refusal = refused(manager, seeded(3))
    assert refusal.reason == "queue" and "Too many runs wait already (1)" in str(refusal)
    assert manager.start(seeded(2), client="bob") is queued  # who joins takes no place
    assert manager.start(seeded(4)).status == Status.QUEUED  # a sweep sees to its own number
    assert manager.statistics().refused == {"blocks": 1, "steps": 1, "batch_size": 1, "queue": 1}


def test_a_run_that_cannot_fit_into_the_memory_is_refused_before_it_begins(managed: Callable, stage: Stage) -> None:
    large = seeded(1, blocks=1000, batch_size=1024)
    assert memory_needed(large) > 20e9 and memory_needed(SMALL) < 200e6
    manager = managed(train=stage, memory_left=lambda: 2e9)
    refusal = refused(manager, large)
    assert refusal.reason == "memory" and "2,000 MB left: choose fewer blocks or a smaller batch" in str(refusal)
    assert manager.start(SMALL).status.live
    assert managed(train=stage, memory_left=lambda: None).start(large).status.live  # nobody knows: let it try


def test_a_run_waits_for_the_memory_that_another_gives_back(managed: Callable, stage: Stage) -> None:
    left = [1e9]
    manager = managed(train=stage, workers=2, memory_left=lambda: left[0])
    config = seeded(1, blocks=200, batch_size=64)
    first = manager.start(config)
    do(manager, stage, first)
    left[0] -= memory_needed(config)
    second = manager.start(seeded(2, blocks=200, batch_size=64))  # not refused: the first will end
    small = manager.start(seeded(3))
    do(manager, stage, small)  # overtakes it
    assert second.status == Status.QUEUED and 2 not in stage.puppets
    stage[1].allow(4)
    assert manager.wait(first.id, 60)
    left[0] = 1e9
    until(lambda: second.status == Status.RUNNING)


def test_a_full_disk_and_a_full_folder_are_refused(managed: Callable, stage: Stage, store: RunStore) -> None:
    manager = managed(train=stage, limits=Limits(disk=1))
    with (store.folder / "runs-damaged-1.sqlite").open("wb") as file:
        file.truncate(2 * 10**9)  # a file of holes, which takes no place
    refusal = refused(manager, SMALL)
    assert refusal.reason == "disk" and "The 1 GB for runs are used up" in str(refusal)
    (store.folder / "runs-damaged-1.sqlite").unlink()
    manager.close()
    assert "disk is full" in str(refused(managed(train=stage, limits=Limits(free_disk=math.inf)), SMALL))


def test_beyond_the_runs_kept_the_oldest_ended_ones_give_way_but_none_of_today(
    managed: Callable, stage: Stage, store: RunStore
) -> None:
    stage.free = True
    manager = managed(train=stage, limits=Limits(runs=3))
    for seed, days in ((1, 3), (2, 5), (3, 0)):
        run = manager.start(seeded(seed))
        assert manager.wait(run.id, 60)
        until(lambda: not manager.unsaved())
        run.created -= days * 24 * 3600
        store.save(run)
    for seed in (4, 5):
        run = manager.start(seeded(seed))
        assert manager.wait(run.id, 60)
        until(lambda: not manager.unsaved())
    assert {summary.recipe.seed for summary in store.list()} == {3, 4, 5}
    refusal = refused(manager, seeded(6))
    assert refusal.reason == "runs" and "keeps 3 runs" in str(refusal)


def test_one_person_who_fills_the_places_of_kept_runs_makes_place_for_others_and_not_for_himself(
    managed: Callable, stage: Stage, store: RunStore
) -> None:
    stage.free = True
    manager = managed(train=stage, limits=Limits(runs=20))
    keeps = {"ann": range(100, 104), "hoarder": range(16)}
    for client, seeds in keeps.items():
        for seed in seeds:
            run = manager.start(seeded(seed), client=client)
            assert manager.wait(run.id, 60)
    until(lambda: not manager.unsaved())
    with pytest.raises(Refused, match="keeps 20 runs"):
        manager.start(seeded(16), client="hoarder")
    for seed, client in ((200, "bob"), (201, "guest-1"), (202, "ann")):
        run = manager.start(seeded(seed), client=client)
        assert manager.wait(run.id, 60)
        until(lambda: not manager.unsaved())
    assert {line.recipe.seed for line in store.list()} == {*range(3, 16), *range(100, 104), 200, 201, 202}
    for seed in range(203, 210):  # the hoarder comes down to what anybody may have
        try:
            assert manager.wait(manager.start(seeded(seed), client="bob").id, 60)
        except Refused:
            break
        until(lambda: not manager.unsaved())
    assert len([line for line in store.list() if line.recipe.seed < 16]) == 9


# Figures


def test_the_statistics_count_what_happened(managed: Callable, stage: Stage) -> None:
    before = time.time()
    manager = managed(train=stage, workers=2)
    finished, failed, paused, queued = (manager.start(seeded(seed)) for seed in (1, 2, 3, 4))
    stage[1].allow(5)
    assert manager.wait(finished.id, 60)
    stage[2].error = ZeroDivisionError()
    stage[2].allow()
    assert manager.wait(failed.id, 60)
    do(manager, stage, paused, 2)
    do(manager, stage, queued, 1)  # so that it is paused in the middle of a step
    manager.pause(queued.id)
    stage[4].allow()
    until(lambda: queued.status == Status.PAUSED)
    figures = manager.statistics()
    assert before <= figures.started <= time.time() and figures.workers == 2
    assert figures.live == {Status.QUEUED: 0, Status.RUNNING: 1, Status.PAUSED: 1} and figures.queue == 0
    until(lambda: manager.statistics().steps == 5 + 2 + 2)
    assert figures.ended[Status.FINISHED] == figures.ended[Status.FAILED] == 1 and figures.ended[Status.STOPPED] == 0
    assert figures.refused == {} and figures.crashes == 0


# Pause, step, stop


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


def paused(manager: RunManager, stage: Stage, seed: int, client: str, **changes: object) -> Run:
    run = manager.start(seeded(seed, **changes), client=client)
    do(manager, stage, run)
    manager.pause(run.id)
    stage[seed].allow()
    until(lambda: run.status == Status.PAUSED)
    return run


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


# Failures


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


# What is kept


def test_a_record_is_in_the_store_within_a_second(managed: Callable, stage: Stage, store: RunStore) -> None:
    manager = managed(train=stage)
    run = manager.start(SMALL)
    for step in range(1, 4):
        stage[0].allow(1)
        until(lambda step=step: steps(run) == step)
        until(lambda step=step: store.load(run.id) and steps(store.load(run.id)) == step, seconds=1)
    assert store.load(run.id).status == Status.RUNNING


def test_an_ended_run_leaves_memory_for_the_store_and_comes_back(managed: Callable, stage: Stage) -> None:
    stage.free = True
    manager = managed(train=stage, limits=Limits(kept_bytes=1))
    runs = [manager.start(seeded(seed)) for seed in range(3)]
    for run in runs:
        assert manager.wait(run.id, 60)
    until(lambda: not manager.unsaved())
    id, columns, gone = runs[0].id, runs[0].history.columns, weakref.ref(runs[0])
    assert manager.get(id) is runs[0]  # what a page holds is in memory anyway
    manager.get(runs[1].id)
    del runs, run
    until(lambda: gone() is None)
    assert manager.at_hand(id) is None
    again = manager.get(id)
    assert np.array_equal(again.history.columns, columns) and again.test_accuracy == 0.75


class SlowStore(RunStore):
    """Reads runs when it is allowed to, and counts."""

    def __init__(self, folder: Path):
        super().__init__(folder, READERS)
        self.allowed, self.counting = threading.Event(), threading.Lock()
        self.loads: list[str] = []
        self.most = self._now = 0

    def load(self, id: str) -> Run | None:
        with self.counting:
            self.loads.append(id)
            self._now += 1
            self.most = max(self.most, self._now)
        assert self.allowed.wait(60)
        try:
            return super().load(id)
        finally:
            with self.counting:
                self._now -= 1


@pytest.fixture
def slow(tmp_path: Path) -> Iterator[SlowStore]:
    slow = SlowStore(tmp_path / "slow")
    slow.save(*(Run(seeded(seed), History(SMALL.layers), Status.FINISHED) for seed in range(10)))
    yield slow
    slow.close()


def test_a_run_that_many_ask_for_is_read_once_and_few_runs_are_read_at_once(slow: SlowStore, shelf: Shelf) -> None:
    manager = RunManager(slow, trainer_on(shelf))
    ids = [seeded(seed).id for seed in range(10)]
    with ThreadPoolExecutor(60) as people:
        asked = [people.submit(manager.get, id) for id in ids * 6]
        until(lambda: slow.loads)
        assert not any(answer.done() for answer in asked)
        slow.allowed.set()
        got = [answer.result(60) for answer in asked]
    assert [run.id for run in got] == ids * 6 and len({id(run) for run in got}) == 10
    assert sorted(slow.loads) == sorted(ids) and slow.most <= 2
    manager.close()


def test_a_run_is_not_read_while_too_little_memory_is_left(slow: SlowStore, shelf: Shelf) -> None:
    slow.allowed.set()
    left = 1e6
    manager = RunManager(slow, trainer_on(shelf), memory_left=lambda: left)
    with pytest.raises(Refused, match="too little memory left for this now: 1 MB, ") as refusal:
        manager.get(SMALL.id)
    assert refusal.value.reason == "memory" and manager.get("0123456789ab") is None
    left = 1e9
    assert manager.get(SMALL.id).recipe == SMALL
    left = 1e6
    assert manager.get(SMALL.id).recipe == SMALL  # it is there
    manager.close()


def test_a_deleted_run_is_gone_also_when_it_was_being_trained(managed: Callable, stage: Stage, store: RunStore) -> None:
    manager = managed(train=stage)
    run = manager.start(SMALL)
    stage[0].allow(2)
    until(lambda: store.load(run.id) and steps(store.load(run.id)) == 2)
    manager.delete(run.id)
    assert manager.get(run.id) is None and manager.list() == []
    until(lambda: stage[0].ended)
    fresh = manager.start(SMALL)
    assert fresh is not run and steps(fresh) == 0
    manager.close()
    assert [line.created for line in store.list()] == [fresh.created]


def test_a_store_that_refuses_costs_no_run_and_is_said(managed: Callable, stage: Stage, store: RunStore) -> None:
    pages = store.file.db.execute("PRAGMA page_count").fetchone()[0]
    store.file.db.execute(f"PRAGMA max_page_count = {pages}")
    stage.free = True
    manager = managed(train=stage)
    config = seeded(1, blocks=60, steps=50)
    run = manager.start(config)
    assert manager.wait(run.id, 60) and run.status == Status.FINISHED
    until(lambda: manager.warning)
    assert "the disk is full" in str(manager.warning) and "\n" not in str(manager.warning)
    assert manager.get(run.id) is run and store.list() == []
    store.file.db.execute("PRAGMA max_page_count = 1000000")
    until(lambda: not manager.warning)
    assert steps(store.load(run.id)) == 50


def test_closing_ends_everything_in_time_and_loses_no_record(managed: Callable, stage: Stage, store: RunStore) -> None:
    manager = managed(train=stage, workers=3)
    running, stuck, paused, queued, also = (manager.start(seeded(seed)) for seed in range(5))
    for seed, run in enumerate((running, stuck, paused)):
        stage[seed].allow(2)
        until(lambda run=run: steps(run) == 2)
    stage[1].deaf = True  # an operation that takes for ever
    manager.pause(paused.id)
    stage[2].allow(1)
    until(lambda: paused.status == Status.PAUSED)
    until(lambda: queued.status == Status.RUNNING)
    started = time.monotonic()
    manager.close(timeout=2)
    assert time.monotonic() - started < 2.5
    for run, count in ((running, 2), (stuck, 2), (paused, 3), (queued, 0), (also, 0)):
        assert run.status == Status.INTERRUPTED and str(run.message)
        kept = store.load(run.id)
        assert kept.status == Status.INTERRUPTED and steps(kept) == count
    stage[1].allow(1)
    until(lambda: steps(stuck) == 3)  # it wakes up later, and disturbs nobody
    with pytest.raises(RuntimeError, match="closed"):
        manager.start(seeded(9))


def test_after_a_restart_what_waited_goes_on_in_its_order(managed: Callable, stage: Stage, store: RunStore) -> None:
    first = managed(train=stage)
    running, *waiting = (first.start(seeded(seed), client=f"person {seed}") for seed in (1, 3, 2))
    sweeps = first.start(seeded(4))
    do(first, stage, running, 2)
    first.close()
    assert [run.status for run in (running, *waiting, sweeps)] == ["interrupted", "queued", "queued", "interrupted"]
    assert not first.wait(waiting[0].id, 60)  # at once: this manager will not see its end
    stage.free = True
    second = managed(train=stage)
    for run in waiting:
        assert second.get(run.id) is not run and second.get(run.id).clients == run.clients
        assert second.wait(run.id, 60) and second.get(run.id).status == Status.FINISHED
        until(lambda run=run: store.load(run.id).status == Status.FINISHED)
        assert store.load(run.id).created == run.created and store.load(run.id).clients == run.clients
    assert stage.made == [1, 3, 2] and steps(second.get(running.id)) == 2


def as_killed(store: RunStore) -> RunStore:
    """What a kill at this moment would leave, opened."""
    folder = store.folder.with_name("killed")
    shutil.copytree(store.folder, folder, ignore=shutil.ignore_patterns("*-shm", "runs.lock"))
    return RunStore(folder, READERS)


def test_what_waited_for_its_next_slice_when_the_server_was_killed_is_trained_again_and_its_records_are_kept_until_then(
    managed: Callable, stage: Stage, store: RunStore, shelf: Shelf, clock: Clock
) -> None:
    first = managed(train=stage, slice=10, clock=clock)
    waits = first.start(seeded(1), client="person")
    do(first, stage, waits, 3)
    trains = first.start(seeded(2), client="other")
    clock.now += 11
    do(first, stage, waits)
    do(first, stage, trains, 2)  # it has the worker, and may be why the server ends
    assert waits.status == Status.RUNNING and steps(waits) == 4
    until(lambda: (found := store.load(waits.id)) and found.status == Status.QUEUED and steps(store.load(trains.id)) == 2)
    again = as_killed(store)
    assert {line.id: line.status for line in again.list()} == {waits.id: Status.QUEUED, trains.id: Status.INTERRUPTED}
    stage.puppets.clear()
    manager = RunManager(again, stage, slice=10, clock=clock)
    run = manager.get(waits.id)
    assert run.clients == ("person",) and steps(run) == 0
    do(manager, stage, run, 2)
    until(lambda: again.load(run.id).status == Status.INTERRUPTED)  # now a worker has it
    assert steps(again.load(run.id)) == 4  # and what was recorded before is there
    manager.leave(run.id, "person")
    until(lambda: not manager.unsaved() and str(manager.get(run.id).message).startswith("Started afresh"))
    assert steps(again.load(run.id)) == 4 and again.load(run.id).status == Status.INTERRUPTED
    manager.close()
    again.close()


def test_what_waited_is_trained_again_to_its_end_also_if_the_server_ends_twice(
    managed: Callable, stage: Stage, store: RunStore, shelf: Shelf, clock: Clock
) -> None:
    first = managed(train=stage, slice=10, clock=clock)
    waits = first.start(seeded(1), client="person")
    do(first, stage, waits, 3)
    trains = first.start(seeded(2), client="other")
    clock.now += 11
    do(first, stage, waits)
    until(lambda: (found := store.load(waits.id)) and found.status == Status.QUEUED)
    again = as_killed(store)
    idle = RunManager(again, stage, workers=0)  # ends before a worker has it
    assert idle.get(waits.id).status == Status.QUEUED
    idle.close()
    again.close()
    again = RunStore(again.folder, READERS)
    assert again.load(waits.id).status == Status.QUEUED and steps(again.load(waits.id)) == 4
    stage.free = True
    manager = RunManager(again, stage)
    assert manager.wait(waits.id, 60)
    until(lambda: again.load(waits.id).status == Status.FINISHED)
    assert steps(again.load(waits.id)) == waits.recipe.steps and steps(again.load(trains.id)) <= 1
    manager.close()
    again.close()


CHILD = r"""
import itertools, sys, time
from pathlib import Path
import numpy as np
import torch
from gradviz.lenet.config import READERS, RunConfig
from gradviz.serve.manager import RunManager
from gradviz.record.history import StepRecord
from gradviz.record.quantities import QUANTITIES
from gradviz.store.store import RunStore

class Training:
    device, arithmetic = "cpu, 1 thread", None
    def __init__(self, config, interrupt):
        self.config = config
    def __iter__(self):
        for step in range(self.config.steps):
            time.sleep(0.002)
            yield StepRecord(step, 2.3, 0.1, np.full((len(QUANTITIES), self.config.layers), step, np.float32), 0.0)
            sys.stdout.write(f"{self.config.seed} {step} {time.monotonic()}\n")
            sys.stdout.flush()

manager = RunManager(RunStore(Path(sys.argv[1]), READERS), Training, workers=2, slice=1e9)
for seed in (1, 2, 4, 3):  # two that train, two that wait
    manager.start(RunConfig(blocks=12, dataset="digits", steps=100_000, seed=seed), client=f"person {seed}")
manager.wait(manager.list()[0].id)
"""


def test_a_kill_costs_at_most_the_last_second_and_what_waited_goes_on(tmp_path: Path, shelf: Shelf, stage: Stage) -> None:
    child = subprocess.Popen([sys.executable, "-c", CHILD, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    lines: list[list[str]] = []

    def older(seed: str, moment: float) -> int:
        """Lines of one run from more than a second before."""
        return sum(len(line) == 3 and line[0] == seed and float(line[2]) < moment - 1 for line in lines)

    while not lines or len(lines) % 50 or min(older(seed, float(lines[-1][2])) for seed in "12") < 110:
        lines.append(child.stdout.readline().split())
        assert len(lines[-1]) == 3
    killed = time.monotonic()
    child.send_signal(signal.SIGKILL)
    lines += [line.split() for line in child.stdout.read().splitlines()]
    child.wait()
    store = RunStore(tmp_path, READERS)
    manager = RunManager(store, stage)
    assert store.notice == "" and len(manager.list()) == 4
    assert stage[4] and stage.made == [4]
    waiting = [manager.get(summary.id) for summary in manager.list() if summary.status.live]
    assert {(run.recipe.seed, run.status, run.clients) for run in waiting} == {
        (4, "running", ("person 4",)), (3, "queued", ("person 3",)),
    }  # fmt: skip
    for summary in manager.list():
        run = manager.get(summary.id)
        if run in waiting:
            continue
        assert run.status == Status.INTERRUPTED and str(run.message)
        recorded = [line for line in lines if len(line) == 3 and line[0] == str(run.recipe.seed)]
        assert 100 < older(str(run.recipe.seed), killed) <= steps(run) <= len(recorded) + 2
        assert (run.history.loss == 2.3).all()
        stride = run.history.stride
        last = [min(first + stride, steps(run)) - 1 for first in range(0, steps(run), stride)]
        # The column that was growing when the kill came may hold a step more.
        assert run.history.quantity("signal_rms")[:-1, 0].tolist() == last[:-1]
    manager.close()
    store.close()


# Previews


def test_a_preview_is_the_first_step_of_the_real_run(managed: Callable, shelf: Shelf) -> None:
    manager = managed()
    preview = manager.preview(SMALL)
    assert preview.ready.wait(60) and not preview.error
    first = next(iter(training(SMALL, shelf.load("digits"), torch.device("cpu"))))
    rows = [list(QUANTITIES).index(name) for name in ("weight_grad_rms", "signal_rms", "activation_rms", "weight_rms")]
    assert np.array_equal(preview.record.layers[rows], first.layers[rows])
    assert preview.record.loss == first.loss
    assert preview.seconds_per_step > 0
    assert manager.get_preview(preview.id) is preview


def test_previews_are_shared_by_all_configs_that_begin_alike(managed: Callable, stage: Stage) -> None:
    manager = managed(train=stage)
    preview = manager.preview(seeded(1), client="a")
    alike = seeded(1, optimizer="sgd", lr=0.1, steps=99, treatment="clip-norm", threshold=3.0)
    assert manager.preview(alike, client="b") is preview
    stage[1].allow(1)
    assert preview.ready.wait(60)
    assert manager.preview(alike, client="c") is preview
    assert stage.made == [1]
    for other in (replace(SMALL, batch_size=17), replace(SMALL, blocks=2), replace(SMALL, init_range=0.5)):
        assert manager.preview(other, client=other.id) is not preview


def test_a_newer_preview_drops_the_older_ones_of_the_same_client_only(managed: Callable, stage: Stage) -> None:
    manager = managed(train=stage)
    running = manager.preview(seeded(1), client="a")
    stage[1]  # has begun
    shared = manager.preview(seeded(2), client="b")
    assert manager.preview(seeded(2), client="a") is shared
    assert running.ready.wait(60) and running.record is None and running.error  # was interrupted in its middle
    stage[2]
    waiting = manager.preview(seeded(3), client="a")
    newest = manager.preview(seeded(4), client="a")
    assert waiting.ready.is_set() and waiting.record is None and waiting.error
    assert not shared.ready.is_set()  # b still wants it
    stage[2].allow(1)
    stage[4].allow(1)
    assert shared.ready.wait(60) and shared.record and newest.ready.wait(60) and newest.record
    assert stage.made == [1, 2, 4]
    assert manager.get_preview(waiting.id) is None


LARGE = replace(SMALL, blocks=1000, init="lsuv")


def test_twelve_large_previews_of_one_person_do_not_make_another_wait(managed: Callable, stage: Stage) -> None:
    manager = managed(train=stage)
    manager.preview(replace(LARGE, seed=0), client="tab 0", person="ann")
    stage[0]  # has begun, and is not allowed to end
    for seed in range(1, 12):
        manager.preview(replace(LARGE, seed=seed), client=f"tab {seed}", person="ann")
    small = manager.preview(seeded(20), client="bob's tab", person="bob")
    stage[20].allow(1)  # at once: the large one is laid aside
    assert small.ready.wait(60) and small.record
    stage.free = True
    rest = [manager.get_preview(replace(LARGE, seed=seed).id) for seed in range(12)]
    until(lambda: all(preview is None or preview.ready.is_set() or preview.dropped.is_set() for preview in rest))


def test_people_take_turns_with_large_previews_whoever_has_more_pages(managed: Callable, stage: Stage) -> None:
    manager = managed(train=stage)
    asked = [manager.preview(replace(LARGE, seed=seed), client=f"tab {seed}", person="ann") for seed in range(6)]
    stage[0]
    bobs = manager.preview(replace(LARGE, seed=20), client="bob's", person="bob")
    stage[0].allow(1)
    assert asked[0].ready.wait(60)
    stage[20].allow(1)
    assert bobs.ready.wait(60) and stage.made[:2] == [0, 20]


def test_a_large_preview_comes_to_its_end_among_ever_new_small_ones(managed: Callable, stage: Stage) -> None:
    manager = managed(train=stage)
    large = manager.preview(replace(LARGE, seed=1), client="ann", person="ann")
    stage[1]
    for seed in range(100, 140):
        small = manager.preview(seeded(seed), client=f"{seed}", person=f"{seed}")
        if large.aside < 3:
            stage[seed].allow(1)
            assert small.ready.wait(60)
    until(lambda: large.aside == 3)
    stage.free = True
    for puppet in list(stage.puppets.values()):
        puppet.allow(1)
    assert large.ready.wait(60) and large.record


def test_a_thousand_blocks_of_lsuv_are_interrupted_within_a_second(shelf: Shelf) -> None:
    data, asked, looks = shelf.load("digits"), threading.Event(), []

    def interrupt() -> bool:
        looks.append(time.monotonic())
        if len(looks) == 2200:  # in the middle of the measuring
            asked.set()
        return asked.is_set()

    with pytest.raises(Interrupted):
        training(replace(SMALL, blocks=1000, init="lsuv"), data, torch.device("cpu"), interrupt)
    assert len(looks) == 2200


def test_a_preview_does_not_wait_for_trainings(managed: Callable, stage: Stage) -> None:
    manager = managed(train=stage)
    runs = [manager.start(seeded(seed)) for seed in (1, 2)]
    stage[1]
    preview = manager.preview(seeded(3))
    stage[3].allow(1)
    assert preview.ready.wait(60) and preview.record
    assert [run.status for run in runs] == ["running", "queued"]


def test_a_preview_that_fails_says_so_and_is_tried_again(managed: Callable, stage: Stage) -> None:
    manager = managed(train=stage)
    preview = manager.preview(seeded(1))
    stage[1].error = MemoryError()
    stage[1].allow(1)
    assert preview.ready.wait(60)
    assert preview.record is None and "memory does not suffice" in str(preview.error) and preview.seconds_per_step is None
    assert manager.get_preview(preview.id) is preview
    del stage.puppets[1]
    again = manager.preview(seeded(1))
    stage[1].allow(1)
    assert again.ready.wait(60) and again.record


def test_only_so_many_previews_are_held(managed: Callable, stage: Stage) -> None:
    stage.free = True
    manager = managed(train=stage)
    previews = []
    for seed in range(70):
        previews.append(manager.preview(seeded(seed)))
        assert previews[-1].ready.wait(60)
    assert manager.get_preview(previews[0].id) is None and manager.get_preview(previews[-1].id) is previews[-1]
    assert manager.preview(seeded(30)) is previews[30]


# With the real trainer


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
