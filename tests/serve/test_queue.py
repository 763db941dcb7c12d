"""Who trains now, and who waits for how long."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from puppets import SMALL, Stage, do, seeded, steps
from timing import Clock, until

from gradviz.lenet.data import Shelf
from gradviz.lenet.experiment import trainer_on
from gradviz.record.run import Run, Status
from gradviz.serve.admission import Refused
from gradviz.serve.job import Job
from gradviz.serve.manager import RunManager
from gradviz.serve.queue import Queue
from gradviz.settings import Limits
from gradviz.store.store import RunStore


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


def test_many_pages_that_ask_for_their_places_at_once_are_told_the_order_that_was_worked_out_for_the_first(clock: Clock) -> None:
    class Counted(Queue):
        orders = 0

        def order(self) -> list[Job]:
            self.orders += 1
            return super().order()

    jobs: dict[str, Job] = {}
    queue = Counted(jobs, 10, 2.0, clock)
    for seed in range(3):
        run = Run.begun(seeded(seed), Status.QUEUED)
        jobs[run.id] = Job(run, seed)
        queue.add(jobs[run.id])
    ids = list(jobs)
    assert [queue.position(id) for _ in range(50) for id in ids] == [1, 2, 3] * 50 and queue.orders == 1
    queue.remove(jobs[ids[0]])
    assert [queue.position(id) for id in ids] == [None, 1, 2] and queue.orders == 2
    jobs[ids[1]].run.clients = jobs[ids[2]].run.clients = ("ann",)
    jobs[ids[2]].seen = clock.now = 100.0  # she looks at it
    assert [queue.position(id) for id in ids] == [None, 2, 1] and queue.orders == 3
    clock.now += 0.06
    assert queue.position(ids[1]) == 2 and queue.orders == 4


@pytest.fixture
def fair(managed: Callable, stage: Stage, clock: Clock) -> RunManager:
    """One worker, slices of 2 s."""
    return managed(train=stage, slice=2.0, clock=clock)


def test_while_there_is_no_worker_at_all_a_run_that_trains_goes_on(fair: RunManager, stage: Stage, clock: Clock) -> None:
    """As when the head of a cluster is away and the computers have left it, but not what trains there."""
    first = fair.start(seeded(1), client="ann")
    do(fair, stage, first)
    fair.resize(0)
    second = fair.start(seeded(2), client="bob")
    for clock.now in (100, 200):
        do(fair, stage, first)
        assert fair.has_worker(first.id) and not fair.has_worker(second.id)
    fair.resize(1)
    do(fair, stage, first)
    until(lambda: fair.has_worker(second.id))


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
