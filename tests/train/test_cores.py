"""How a training takes the cores that are free, on a machine that is played: its clock, its other work, the time of a step."""

from itertools import pairwise

import numpy as np
import pytest
import torch

from gradviz.lenet.config import RunConfig
from gradviz.lenet.data import Shelf
from gradviz.lenet.experiment import task
from gradviz.record.arithmetic import FREE, Arithmetic, arithmetic_text, differences
from gradviz.train.cores import MOST_CHANGES, Cores, Had
from gradviz.train.trainer import Trainer


class Machine:
    """So many cores, of which others take some; a step takes `times[threads]` seconds, many more where cores are short."""

    def __init__(self, cores: float, times: dict[int, float], known: bool = True, had: Had | None = None, others: float = 0.0):
        self.cores, self.times, self.others, self.known = cores, times, others, known
        self.now = self._theirs = 0.0
        self.ends: list[float] = []  # of the steps
        used = lambda: (self._theirs, cores) if known else None  # noqa: E731
        self.training = Cores(cores, lambda _threads: None, lambda: self.now, used, had or Had())

    def steps(self, count: int) -> list[int]:
        """Trains; the numbers of threads it had."""
        had = []
        for _ in range(count):
            had.append(self.training.threads)
            seconds = self.times[had[-1]] * (10 if had[-1] > 1 and had[-1] + self.others > self.cores + 0.5 else 1)
            self.now += seconds
            self._theirs += self.others * seconds
            self.ends.append(self.now)
            self.training.took(seconds)
        return had

    def speeds(self, window: float) -> list[float]:
        """Steps over those of one thread, of every stretch of so many seconds that begins with a second."""
        ends = np.array(self.ends)
        begins = range(int(self.now - window))
        return [((begin <= ends) & (ends < begin + window)).sum() * self.times[1] / window for begin in begins]


@pytest.mark.parametrize("cores, times, best", [
    (2, {1: 0.1, 2: 0.06}, 2), (2, {1: 0.1, 2: 0.11}, 1), (16, {1: 0.1, 2: 0.06, 4: 0.04, 8: 0.035, 16: 0.036}, 8),
    (6, {1: 0.1, 2: 0.06, 4: 0.05, 6: 0.04}, 6), (1, {1: 0.1}, 1), (1.5, {1: 0.1}, 1),
])  # fmt: skip
@pytest.mark.parametrize("known", [True, False], ids=["others seen", "the steps decide"])
def test_alone_it_takes_the_number_of_threads_whose_steps_are_shortest(cores, times, best, known):
    had = Machine(cores, times, known).steps(300)
    assert had[0] == 1 and had[100:].count(best) > 0.9 * len(had[100:])


def test_one_long_step_does_not_end_a_trial():
    machine = Machine(2, {1: 0.1, 2: 0.06})
    while machine.training.threads == 1:
        machine.steps(1)
    machine.steps(2)
    machine.training.took(0.2)
    assert machine.steps(10)[-1] == 2


@pytest.mark.parametrize("drawing", [1.8, 4.0])  # times as long as with one thread
def test_a_page_that_draws_once_a_second_does_not_end_two_threads_nor_a_trial_of_them(drawing):
    machine, drawn = Machine(2, {1: 0.025, 2: 0.018}), 0
    machine.others = 0.3
    had = []
    for _ in range(600):
        second = int(machine.now)
        had += machine.steps(1)
        if had[-1] == 2 and int(machine.now) > second:  # two steps are held up
            machine.training.took(drawing * 0.025)
            machine.training.took(drawing * 0.025)
            drawn += 1
    assert drawn > 5 and 2 not in had[:15] and set(had[100:]) == {2}


def test_beside_a_busy_process_it_stays_with_one_and_takes_the_core_once_that_has_ended():
    machine = Machine(2, {1: 0.1, 2: 0.06})
    machine.others = 1.0
    assert set(machine.steps(100)) == {1}
    machine.others = 0.4  # a page
    machine.steps(20)
    assert machine.steps(1) == [2]


def test_what_others_want_is_given_back_within_some_steps():
    machine = Machine(2, {1: 0.1, 2: 0.06})
    assert machine.steps(60)[-1] == 2
    machine.others = 1.0
    assert machine.steps(8)[-1] == 1
    assert machine.steps(200).count(2) == 0


# Seconds of a step with 1, 2, 4 and 8 threads: of few layers and of many, where threads help, do not, and hinder each other.
SCALES = [(0.036, 0.024, 0.018, 0.017), (0.036, 0.0358, 0.036, 0.04), (0.036, 0.045, 0.06, 0.09), (0.16, 0.09, 0.07, 0.06),
          (0.16, 0.2, 0.2, 0.3)]  # fmt: skip


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("cores", [2, 4, 8])
def test_beside_a_busy_process_or_another_training_no_ten_seconds_give_less_than_nine_tenths_of_one_thread(cores, scale):
    times = dict(zip((1, 2, 4, 8), scale, strict=True))
    beside, both = Machine(cores, times, others=1.0), [Machine(cores, times), Machine(cores, times)]
    while beside.now < 60:
        beside.steps(1)
    while min(machine.now for machine in both) < 60:
        one, other = sorted(both, key=lambda machine: machine.now)
        one.others = other.training.threads
        one.steps(1)
    for machine in (beside, *both):
        assert min(machine.speeds(10)) >= 0.9
    if cores > 2 and scale[1] < 0.9 * scale[0]:  # what is free is taken
        assert min(machine.speeds(10)[20] for machine in (beside, *both)) > 1.3


@pytest.mark.parametrize("seconds", [0.009, 0.036, 0.16, 0.5])
@pytest.mark.parametrize("cores", [2, 8])
def test_trials_take_a_twentieth_of_the_time_where_threads_wait_for_each_other_for_no_reason_that_is_seen(cores, seconds):
    machine = Machine(cores, {1: seconds, 2: 10 * seconds, 4: 10 * seconds, 8: 10 * seconds})
    had = []
    while machine.now < 400:
        had += machine.steps(1)
    assert len(had) * seconds / machine.now >= 0.94  # the last trial has not been paid for yet
    assert machine.speeds(60)[0] >= 0.9 and 3 <= had.count(2) < 50


def test_where_more_threads_help_no_longer_for_no_reason_that_is_seen_it_goes_back_to_one():
    machine = Machine(2, {1: 0.1, 2: 0.06})
    machine.steps(60)
    machine.times = {1: 0.1, 2: 1.0}  # threads that wait for each other
    had = machine.steps(300)
    assert had[-1] == 1 and had.count(2) < 15


def test_after_so_many_changes_it_stays_with_one():
    machine, changes = Machine(2, {1: 0.1, 2: 0.06}), 0
    for turn in range(2 * MOST_CHANGES):
        machine.others = turn % 2
        had = machine.steps(60)
        changes += sum(one != other for one, other in pairwise(had))
    assert machine.training.threads == 1 and MOST_CHANGES - 4 <= changes <= MOST_CHANGES


HAD = ((0, 1), (12, 2), (30, 1), (34, 2))


@pytest.mark.parametrize("begin", [0, 20])
def test_a_run_that_is_done_again_has_the_threads_that_it_had_as_long_as_it_was_and_then_those_that_are_free(begin):
    machine = Machine(4, {1: 0.1, 2: 0.06, 4: 0.04}, had=Had(HAD, 50))
    machine.training.begin(begin)
    assert machine.steps(50 - begin) == [next(had for at, had in reversed(HAD) if at <= step) for step in range(begin, 50)]
    assert machine.steps(60)[-1] == 4


def test_what_it_had_is_given_up_where_others_have_the_cores_or_threads_wait_for_each_other():
    busy = Machine(2, {1: 0.1, 2: 0.06}, had=Had(HAD, 50), others=1.0)
    busy.training.begin(0)
    assert set(busy.steps(60)) == {1}
    stuck = Machine(2, {1: 0.1, 2: 2.0}, known=False, had=Had(((0, 1), (12, 2)), 50))
    stuck.training.begin(0)
    assert stuck.steps(50).count(2) < 6
    small = Machine(1, {1: 0.1}, had=Had(HAD, 50))
    small.training.begin(20)
    assert set(small.steps(30)) == {1}


class Given(Cores):
    """Two threads from step 3 on, one again from step 5; only said, for on a busy machine two wait for each other."""

    def __init__(self):
        super().__init__(1.0)
        self.steps = 0

    def took(self, seconds, routine=True):
        self.steps += 1
        self.threads = 2 if 3 <= self.steps < 5 else 1


def test_a_run_says_with_how_many_threads_it_was_computed_and_when_that_changed(tmp_path, one_thread):
    data = Shelf(tmp_path, download=False).load("digits")
    config = RunConfig(blocks=1, activation="relu", dataset="digits", batch_size=8, steps=7, device="cpu")
    trainer = Trainer(task(config, data, torch.device("cpu")), cores=Given())
    before, losses = trainer.arithmetic, []
    for record in trainer:
        losses.append(record.loss)
        if record.step == 3:
            assert trainer.device == "cpu, 2 threads"
    assert before.threads_from == {0: 1} and before.threads == 1 and "1 thread," in arithmetic_text(before)
    after = trainer.arithmetic
    assert after.threads_from == {0: 1, 3: 2, 5: 1} and trainer.device == "cpu, 1 thread"
    assert "1 to 2 threads (the first change at step 3)" in arithmetic_text(after)
    assert Arithmetic.from_dict(after.to_dict()) == after and "threads=1,2@3,1@5" in after.code
    fixed = [record.loss for record in Trainer(task(config, data, torch.device("cpu")))]
    assert losses == fixed


def test_numbers_of_threads_that_followed_the_free_cores_differ_from_a_fixed_one_and_from_no_other_such():
    fixed = Arithmetic("cpu", "AVX2 x86_64", "", 1, "2.13.0")
    followed, other = fixed.changed(0, 1).changed(12, 2), fixed.changed(0, 1).changed(20, 4)
    would = Arithmetic("cpu", "AVX2 x86_64", "", 1, "2.13.0", FREE)
    assert differences(fixed, followed) == ("thread_changes",) and fixed.after(followed) == fixed
    assert fixed.changed(30, 1).changed(35, 2).after(other.changed(40, 8)).threads_from == {0: 1, 20: 4, 30: 1, 35: 2}
    assert differences(followed, other) == differences(followed, would) == ()
    assert "as many threads as cores are free" in arithmetic_text(would) and would.threads_from == {}
    assert Arithmetic.from_dict(would.to_dict() | {"thread_changes": "1:2; import os"}) is None
