"""What a server does not take, and what it counts."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

import pytest
from puppets import SMALL, Stage, do, seeded
from timing import until

from gradviz.lenet.config import RunConfig
from gradviz.record.run import Status
from gradviz.serve.admission import Refused, memory_needed
from gradviz.serve.manager import RunManager
from gradviz.settings import Limits
from gradviz.store.store import RunStore


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
