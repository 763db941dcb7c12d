"""With how many threads a run is computed: which are fixed, and what one that is done again repeats."""

from collections.abc import Callable
from dataclasses import replace

import pytest
from puppets import SMALL, Stage
from timing import until

from gradviz import machine
from gradviz.lenet.experiment import arithmetic_of
from gradviz.lenet.lessons.catalogue import LESSONS
from gradviz.lenet.sweep import Sweep
from gradviz.record.arithmetic import FREE
from gradviz.record.run import Status
from gradviz.serve.sweeps import SweepRunner
from gradviz.settings import Settings
from gradviz.store.store import RunStore
from gradviz.train.cores import Had
from gradviz.ui.server import Numbers


@pytest.fixture
def numbers(monkeypatch: pytest.MonkeyPatch) -> Numbers:
    monkeypatch.setattr(machine, "cores", lambda: 4.0)
    return Numbers(replace(Settings(), train_in="process"))


def test_a_run_of_one_person_follows_the_free_cores_and_one_with_fixed_threads_or_of_a_lesson_does_not(numbers: Numbers) -> None:
    assert numbers.free(SMALL) == Had() and numbers.arithmetic(SMALL).thread_changes == FREE
    of_a_lesson = next(iter(LESSONS.values())).configs("digits")[0]
    assert numbers.free(of_a_lesson) is None and numbers.arithmetic(of_a_lesson).thread_changes == ""
    for settings in ({"train_in": "process", "fixed": True}, {"train_in": "thread"}):
        fixed = replace(Settings(), threads=3, **settings)
        assert Numbers(fixed).free(SMALL) is None and Numbers(fixed).arithmetic(SMALL) == arithmetic_of(SMALL, 3)


def test_runs_of_a_sweep_have_a_fixed_number_and_one_that_a_person_has_too_follows_the_cores(
    managed: Callable, stage: Stage, store: RunStore, numbers: Numbers
) -> None:
    numbers.manager = manager = managed(train=stage)
    sweeps = SweepRunner(manager, store.folder / "sweeps", tick=0.01)
    sweeps.start(Sweep.over("one", [SMALL], {"blocks": [1]}, [1]))
    until(lambda: manager.at_hand(replace(SMALL, seed=1).id) is not None)
    assert numbers.free(replace(SMALL, seed=1)) is None
    manager.start(replace(SMALL, seed=2), client="ann")
    assert numbers.free(replace(SMALL, seed=2)) == Had()
    sweeps.close()


@pytest.mark.parametrize("changes, repeated", [
    ("0:1 2:2", ((0, 1), (2, 2))), ("", ((0, 1),)), ("0:1 2:16", None),
], ids=["followed the cores", "a fixed number", "more than there are"])  # fmt: skip
def test_a_run_that_is_done_again_repeats_the_threads_that_it_had(
    managed: Callable, stage: Stage, numbers: Numbers, changes: str, repeated: tuple | None
) -> None:
    numbers.manager = manager = managed(train=stage)
    run = manager.start(SMALL, client="ann")
    stage[0].allow(3)
    until(lambda: run.history.steps == 3)
    manager.stop(run.id)
    until(lambda: run.status is Status.STOPPED and not manager.has_worker(run.id))
    run.arithmetic = replace(arithmetic_of(SMALL, 1), thread_changes=changes)
    assert numbers.arithmetic(SMALL) == (run.arithmetic if repeated else replace(run.arithmetic, thread_changes=FREE))
    again = manager.start(SMALL, again=True, client="ann")
    assert again.status.live and numbers.free(SMALL) == (Had(repeated, 3) if repeated else Had())
    run.arithmetic = replace(run.arithmetic, torch="1.0")  # whose digits do not come again
    assert numbers.free(SMALL) == Had()
