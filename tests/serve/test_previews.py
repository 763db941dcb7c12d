"""Previews: whose turn it is, and what is laid aside for whom."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from puppets import SMALL, Stage, seeded
from timing import until

from gradviz.lenet.data import Shelf
from gradviz.lenet.experiment import training
from gradviz.record.quantities import QUANTITIES
from gradviz.train.training import Interrupted


@pytest.mark.usefixtures("one_thread")
def test_a_preview_is_the_first_step_of_the_real_run(managed: Callable, shelf: Shelf) -> None:
    manager = managed()
    preview = manager.preview(SMALL)
    assert preview.ready.wait(60) and not preview.error
    first = next(iter(training(SMALL, shelf.load("digits"), torch.device("cpu"))))
    rows = [list(QUANTITIES).index(name) for name in ("weight_grad_rms", "signal_rms", "activation_rms", "weight_rms")]
    assert np.array_equal(preview.record.layers[rows], first.layers[rows])
    assert preview.record.loss == first.loss
    assert preview.seconds_per_step > 0
    assert preview.share == 1 and preview.looks == preview.looks_in_all > SMALL.layers  # it counted as it went
    assert manager.get_preview(preview.id) is preview


def test_previews_are_shared_by_all_configs_that_begin_alike(managed: Callable, stage: Stage) -> None:
    manager = managed(train=stage)
    preview = manager.preview(seeded(1), client="a")
    alike = seeded(1, optimizer="sgd", lr=0.1, steps=99, treatment="clip-norm", threshold=3.0)
    assert manager.preview(alike, client="b") is preview
    stage[1].allow(1)
    assert preview.ready.wait(60)
    assert manager.preview(alike, client="c") is preview
    scheduled = replace(alike, steps=900, changes="700:lr=1", warmup=9, schedule="cosine")
    assert manager.preview(scheduled, client="d") is preview
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
