"""Sweeps: what an outcome is, where a border lies, that no run is done twice, and the page."""

import math
import sqlite3
import threading
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from playwright.sync_api import Page, expect
from timing import until
from viewing import opened, text

from gradviz.lenet.config import READERS, ConfigError, RunConfig
from gradviz.lenet.naming import remedy_name
from gradviz.lenet.outcome import (
    DIVERGED,
    FAILED,
    SHORT,
    STARTED,
    STUCK,
    TRAINED,
    TRAINED_BELOW,
    UNFINISHED,
    WINDOW,
    Result,
    border,
    result,
)
from gradviz.lenet.sweep import Sweep, cost, estimate, measured_rate
from gradviz.record.history import History, StepRecord
from gradviz.record.quantities import QUANTITIES
from gradviz.record.run import Outcome, Run, Status, Summary
from gradviz.serve.admission import Refused
from gradviz.serve.desk import too_little
from gradviz.serve.manager import RunManager
from gradviz.serve.sweeps import SweepRunner
from gradviz.settings import Limits
from gradviz.store.store import RunStore
from gradviz.ui.server import server

CHANCE = math.log(10)


def made(losses, status=Status.FINISHED, gradient=(1, 1e-6, 1e-3, 1, 1, 1, 1), **settings) -> Run:
    """A run of one block with these losses; `gradient` is its weight-gradient profile at every step."""
    config = RunConfig(**{"blocks": 1, "steps": len(losses), **settings})
    run = Run(config, History(config.layers), status)
    for step, loss in enumerate(losses):
        layers = np.full((len(QUANTITIES), config.layers), 1, np.float32)
        layers[0] = gradient
        run.history.append(StepRecord(step, loss, 0.1, layers, 0.01 * (step + 1)))
    return run


# Outcomes


def test_trained_means_that_the_last_twenty_steps_together_are_half_a_nat_under_chance():
    assert pytest.approx(CHANCE - 0.5) == TRAINED_BELOW
    assert result(made([CHANCE] * 30 + [TRAINED_BELOW - 0.01] * WINDOW)).outcome == TRAINED
    assert result(made([CHANCE] * 30 + [TRAINED_BELOW + 0.01] * WINDOW)).outcome == STARTED
    assert result(made([0.1] * 30 + [CHANCE] * WINDOW)).outcome == STUCK  # what it once knew does not count


def test_one_good_batch_is_not_training():
    assert result(made([CHANCE] * 49 + [0.5])).outcome == STUCK


def test_between_chance_and_trained_a_net_has_only_started():
    assert result(made([CHANCE - 0.11] * 40)).outcome == STARTED
    assert result(made([CHANCE - 0.09] * 40)).outcome == STUCK


def test_a_loss_that_is_not_finite_or_ten_times_chance_is_divergence():
    assert result(made([2.0] * 39 + [math.nan], Status.DIVERGED)).outcome == DIVERGED
    assert result(made([24.0] * 40)).outcome == DIVERGED
    assert result(made([22.0] * 40)).outcome == STUCK


def test_a_run_cut_short_says_nothing_unless_it_has_trained():
    assert result(made([CHANCE] * 30, Status.STOPPED, steps=100)).outcome == UNFINISHED
    assert result(made([1.0] * 30, Status.STOPPED, steps=100)).outcome == TRAINED
    assert result(made([1.0] * 30, Status.INTERRUPTED, steps=100)).outcome == TRAINED
    assert result(made([], Status.FAILED, steps=5)).outcome == FAILED
    assert result(made([CHANCE] * 3)).outcome == SHORT


def test_the_step_at_which_it_trained_is_the_first_whose_window_is_low():
    losses = [CHANCE] * 50 + [0.0] * 50
    windows = [np.mean(losses[step - WINDOW + 1 : step + 1]) for step in range(WINDOW - 1, 100)]
    assert result(made(losses)).trained_at == WINDOW - 1 + next(k for k, mean in enumerate(windows) if mean < TRAINED_BELOW)


def test_the_ratio_is_that_of_the_first_to_the_last_block_convolution_at_step_0():
    assert result(made([CHANCE] * 20)).ratio == pytest.approx(1e-3, rel=1e-5)  # 1e-3 over 1: places 2 and 3
    assert result(made([CHANCE] * 20, gradient=(1, 1, 0, 1, 1, 1, 1))).ratio == 0


# What a sweep is


BASES = (RunConfig(activation="sigmoid", blocks=1), RunConfig(activation="relu", blocks=1))


def test_a_sweep_is_every_remedy_at_every_point_with_every_seed_and_the_first_seed_comes_first():
    sweep = Sweep.over("s", BASES, {"blocks": [1, 2, 3], "lr": [1e-3, 1e-4]}, range(2))
    assert len(sweep.configs) == len(set(sweep.configs)) == 2 * 6 * 2
    assert {config.seed for config in sweep.configs[:12]} == {0}
    assert sweep.axes == ("blocks", "lr") and list(sweep.remedies().values()) == ["sigmoid", "relu"]


@pytest.mark.parametrize(
    "axes, seeds, bases",
    [
        ({}, [0], BASES), ({"steps": [1]}, [0], BASES), ({"blocks": []}, [0], BASES), ({"blocks": [1]}, [], BASES),
        ({"blocks": [1]}, [0], []), ({"blocks": [2000]}, [0], BASES), ({"blocks": range(300)}, [0], BASES),
        ({"blocks": [1], "lr": [1], "init_range": [1]}, [0], BASES),
    ],
)  # fmt: skip
def test_a_question_that_is_no_sweep_is_refused_with_a_sentence(axes, seeds, bases):
    with pytest.raises(ConfigError, match=r"\."):
        Sweep.over("s", bases, axes, seeds)


def test_remedies_that_differ_only_in_the_optimiser_are_told_apart():
    sweep = Sweep.over("s", [RunConfig(optimizer="adam"), RunConfig(optimizer="sgd")], {"blocks": [1, 2]}, [0])
    assert list(sweep.remedies().values()) == ["adam", "sgd"]


def test_a_remedy_is_named_by_everything_that_makes_it_one():
    assert remedy_name(RunConfig(activation="relu", batch_norm=True, shortcut=True)) == "relu + batch norm + shortcut"
    assert remedy_name(RunConfig(treatment="clip-norm")) == "sigmoid + clip-norm"


def test_a_sweep_survives_the_way_through_its_file():
    sweep = Sweep.over("s", BASES, {"init_range": [0.1, 0.2]}, [0, 5], early=False)
    again = Sweep.from_dict(sweep.to_dict())
    assert again == sweep and again.id == sweep.id


def outcomes(*words):
    """Runs of rising depth; several words for one depth are its seeds."""
    return [
        (RunConfig(blocks=blocks, seed=seed), Result(word, 0, 1, None, 1, 1, 1))
        for blocks, seeds in words for seed, word in enumerate(seeds)
    ]  # fmt: skip


def test_the_border_lies_before_the_first_depth_at_which_no_majority_trains():
    found = border(outcomes((1, [TRAINED] * 3), (2, [TRAINED, TRAINED, STUCK]), (3, [TRAINED, STUCK, DIVERGED]), (4, [TRAINED])))
    assert (found.deepest_trained, found.first_failed) == (2, 3)
    assert found.shares == {1: (3, 3), 2: (2, 3), 3: (1, 3), 4: (1, 1)}
    assert border(outcomes((1, [TRAINED]), (2, [UNFINISHED]))).first_failed is None
    assert border(outcomes((1, [TRAINED, STUCK]))).first_failed == 1  # half is no majority


def test_the_estimate_is_the_measured_time_scaled_by_blocks_images_and_steps():
    small, large = RunConfig(blocks=4, batch_size=16, steps=10), RunConfig(blocks=12, batch_size=32, steps=100)
    assert cost(large) == 4 * cost(small)  # (4 + 12)/(4 + 4) blocks, twice the images
    run = made([CHANCE] * 40)
    rate = measured_rate([Summary.of(run)])
    assert estimate([run.recipe], rate) == pytest.approx(0.4)
    assert estimate([large], rate, at_once=2) == pytest.approx(estimate([large], rate) / 2)
    assert measured_rate([]) is None


# Running


class Counted:
    """Trainings that cost nothing, and a record of how often each config was trained to its end."""

    def __init__(self):
        self.begun: list[str] = []
        self.ended: list[str] = []
        self.gate = threading.Event()
        self.gate.set()
        self.rest: int | None = None  # a run waits at this step for whoever stops it

    def __call__(self, config, interrupt):
        return _Quick(config, interrupt, self)


class _Quick:
    def __init__(self, config, interrupt, counted):
        self.config, self.interrupt, self.counted = config, interrupt, counted
        self.device, self.arithmetic, self.outcome = "cpu", None, None

    def __iter__(self):
        self.counted.begun.append(self.config.id)
        layers = np.full((len(QUANTITIES), self.config.layers), 1, np.float32)
        for step in range(self.config.steps):
            while (not self.counted.gate.is_set() or step == self.counted.rest) and not self.interrupt():
                threading.Event().wait(0.01)
            if self.interrupt():
                self.outcome = Outcome(Status.STOPPED)
                return
            loss = 1.0 if self.config.activation == "relu" and step > 5 else CHANCE
            yield StepRecord(step, loss, 0.1, layers, 0.001 * (step + 1))
        self.counted.ended.append(self.config.id)
        self.outcome = Outcome(Status.FINISHED, 0.5)


class Room:
    """A store, a manager and a sweep runner that can be torn down and built again, as by a restart."""

    def __init__(self, folder):
        self.folder, self.counted, self.limits, self.workers = folder, Counted(), Limits(), 2
        self.open()

    def open(self, kind=RunManager):
        self.store = RunStore(self.folder, READERS)
        self.manager = kind(self.store, self.counted, workers=self.workers, limits=self.limits)
        self.sweeps = SweepRunner(self.manager, self.folder / "sweeps", at_once=2, tick=0.01)

    def close(self):
        self.sweeps.close()
        self.manager.close()
        self.store.close()


@pytest.fixture
def room(tmp_path):
    room = Room(tmp_path / "runs")
    yield room
    room.counted.gate.set()
    room.close()


FORTY = Sweep.over("forty", [RunConfig(steps=30, batch_size=4)], {"blocks": range(20)}, range(2))


def test_forty_runs_survive_a_restart_in_the_middle_and_none_is_done_twice(room):
    room.sweeps.start(FORTY)
    until(lambda: len(room.sweeps.results(FORTY)) >= 15)
    room.counted.gate.clear()
    room.close()
    done = set(room.counted.ended)
    assert 15 <= len(done) < 40
    room.counted.gate.set()
    room.open()
    until(lambda: len(room.sweeps.results(FORTY)) == 40)
    assert sorted(room.counted.ended) == sorted(config.id for config in FORTY.configs)  # each exactly once
    until(lambda: not room.sweeps.active(FORTY.id))


def test_a_run_that_the_server_refuses_is_said_and_does_not_hold_up_the_others(room):
    room.close()
    room.limits = Limits(blocks=17)
    room.open()
    room.sweeps.start(FORTY)
    until(lambda: not room.sweeps.active(FORTY.id))
    assert len(room.sweeps.results(FORTY)) == 36 and max(config.blocks for config in room.sweeps.results(FORTY)) == 17
    assert "at most 17 blocks" in str(room.sweeps.warning)
    room.close()
    room.limits = Limits()
    room.open()
    room.sweeps.start(FORTY)
    until(lambda: len(room.sweeps.results(FORTY)) == 40)
    until(lambda: not room.sweeps.warning)


def test_runs_that_somebody_has_made_already_are_not_made_again(room):
    for config in FORTY.configs[:5]:
        room.manager.start(config)
        assert room.manager.wait(config.id, 30)
    assert len(room.sweeps.results(FORTY)) == 5  # before it was ever started
    room.sweeps.start(FORTY)
    until(lambda: len(room.sweeps.results(FORTY)) == 40)
    assert len(room.counted.begun) == 40


def test_no_more_runs_are_live_than_allowed_so_that_others_get_a_worker(room):
    room.counted.gate.clear()
    room.sweeps.start(FORTY)
    until(lambda: len(room.sweeps.live(FORTY)) == 2)
    assert sum(summary.status.live for summary in room.manager.list()) == 2


def test_a_stopped_sweep_rests_and_a_resumed_one_trains_what_was_cut_short(room):
    room.sweeps.start(FORTY)
    until(lambda: len(room.sweeps.results(FORTY)) >= 3)
    room.counted.gate.clear()
    until(lambda: len(live := room.sweeps.live(FORTY)) == 2 and {run.id for run in live} <= set(room.counted.begun))
    cut = [run.id for run in room.sweeps.live(FORTY)]
    room.sweeps.stop(FORTY.id)
    assert all(room.manager.wait(run_id, 30) for run_id in cut)
    cut = [run_id for run_id in cut if room.manager.get(run_id).status == Status.STOPPED]  # one may just have ended
    assert cut
    assert not room.sweeps.active(FORTY.id) and not room.sweeps.live(FORTY)
    begun = len(room.counted.begun)
    room.counted.gate.set()
    room.sweeps.start(FORTY)
    until(lambda: len(room.sweeps.results(FORTY)) == 40)
    assert len(room.counted.begun) == begun + 40 - (begun - len(cut)) and len(room.counted.ended) == 40


@pytest.mark.trains
def test_a_run_stops_once_it_has_trained_and_only_then(room):
    bases = [RunConfig(activation="relu", steps=5000, blocks=0), RunConfig(activation="sigmoid", steps=60, blocks=0)]
    sweep = Sweep.over("early", bases, {"blocks": [0]}, [0])
    room.counted.rest = 1000
    room.sweeps.start(sweep)
    until(lambda: len(room.sweeps.results(sweep)) == 2)
    relu, sigmoid = (room.sweeps.results(sweep)[config] for config in sweep.configs)
    assert relu.outcome == TRAINED and relu.steps < 5000
    assert sigmoid.outcome == STUCK and sigmoid.steps == 60


@pytest.mark.trains
def test_a_sweep_that_wants_whole_runs_is_not_content_with_one_that_was_stopped_early(room):
    base = [RunConfig(activation="relu", steps=2000, blocks=0)]
    early, whole = (Sweep.over("s", base, {"blocks": [0]}, [0], early=early) for early in (True, False))
    room.counted.rest = 1000
    room.sweeps.start(early)
    until(lambda: len(room.sweeps.results(early)) == 1)
    assert room.sweeps.results(early)[early.configs[0]].steps <= 1001 and not room.sweeps.results(whole)
    room.counted.rest = None
    room.sweeps.start(whole)
    until(lambda: len(room.sweeps.results(whole)) == 1)
    assert room.sweeps.results(whole)[whole.configs[0]].steps == 2000


def test_a_run_that_somebody_stops_by_hand_is_not_forced_on_him_again(room):
    room.counted.gate.clear()
    sweep = Sweep.over("one", [RunConfig(steps=50)], {"blocks": [0]}, [0])
    room.sweeps.start(sweep)
    until(lambda: room.counted.begun)
    room.manager.stop(sweep.configs[0].id)
    until(lambda: not room.sweeps.active(sweep.id))
    assert len(room.counted.begun) == 1 and not room.sweeps.results(sweep)


def test_a_spoilt_file_in_the_folder_does_not_stop_the_server(room):
    room.sweeps.start(FORTY)
    room.close()
    (room.folder / "sweeps" / "bad.json").write_text('{"name": 1, "configs": [{"blocks": -5}], "early": true')
    (room.folder / "sweeps" / "worse.json").write_text('{"name": 1, "configs": [{"blocks": -5}], "early": true}')
    room.open()
    assert [sweep.id for sweep in room.sweeps.list()] == [FORTY.id]


# People


def test_a_sweep_whose_kept_runs_take_long_to_read_keeps_no_page_waiting(room):
    for config in FORTY.configs[:5]:
        room.manager.start(config)
        assert room.manager.wait(config.id, 30)
    room.close()
    gate, reading = threading.Event(), threading.Event()

    class Slow(RunManager):
        def get(self, id):
            if self.at_hand(id) is None:
                reading.set()
                gate.wait(30)
            return super().get(id)

    room.open(Slow)
    room.sweeps.start(FORTY, "ann")
    assert reading.wait(30)
    asked = threading.Thread(target=lambda: (room.sweeps.people_of_run("x"), room.sweeps.waits_for(FORTY.id)), daemon=True)
    asked.start()
    asked.join(10)
    waited = asked.is_alive()
    gate.set()
    assert not waited
    until(lambda: len(room.sweeps.results(FORTY)) == 40 and not room.sweeps.active(FORTY.id))
    assert len(room.counted.begun) == 40


def test_a_sweep_whose_kept_runs_cannot_be_read_now_says_why_and_goes_on_later(room):
    room.manager.start(FORTY.configs[0])
    assert room.manager.wait(FORTY.configs[0].id, 30)
    room.close()
    enough = threading.Event()

    class Short(RunManager):
        def get(self, id):
            if not enough.is_set():
                raise Refused("memory", too_little(1e6, 1e6))
            return super().get(id)

    room.open(Short)
    room.sweeps.start(FORTY)
    until(lambda: "too little memory" in str(room.sweeps.waits_for(FORTY.id)))
    enough.set()
    until(lambda: len(room.sweeps.results(FORTY)) == 40 and not room.sweeps.active(FORTY.id))


def test_a_sweep_whose_file_cannot_be_removed_says_so(room):
    room.counted.gate.clear()
    room.sweeps.start(FORTY)
    file = room.folder / "sweeps" / f"{FORTY.id}.json"

    def spoilt() -> bool:
        """A folder of its name is removed as little as a file that is not ours. The file may be written again meanwhile."""
        file.unlink()
        with suppress(FileExistsError):
            file.mkdir()
        return file.is_dir()

    until(spoilt)
    room.sweeps.forget(FORTY.id)
    assert "would be back" in str(room.sweeps.warning) and not room.sweeps.list()


def long(name: str, steps: int = 100_000, seed: int = 0) -> Sweep:
    return Sweep.over(name, [RunConfig(activation="sigmoid", steps=steps, seed=seed)], {"lr": [1e-3, 2e-3, 3e-3]}, [seed])


@pytest.fixture
def wide(room):
    """The same with a worker for each: what rests there keeps its own from nobody."""
    room.close()
    room.workers = 8
    room.open()
    return room


def begun(room: Room, sweep: Sweep) -> bool:
    return any(config.id in room.counted.begun for config in sweep.configs)


def test_a_long_sweep_does_not_keep_a_lesson_or_the_sweep_of_another_from_its_first_run(wide):
    wide.counted.rest = 5  # of every run: none ends by itself
    hog, other, lesson = long("hog", seed=1), long("other", seed=2), long("lesson float32", 3, seed=3)
    wide.sweeps.start(hog, "ann")
    until(lambda: len(wide.sweeps.live(hog)) == 2)
    wide.sweeps.start(other, "bob")
    wide.sweeps.start(lesson, "cyd")
    until(lambda: begun(wide, other) and len(wide.sweeps.results(lesson)) == 3)
    assert len(wide.sweeps.live(hog)) == 2 and len(wide.sweeps.live(other)) == 1
    assert not wide.sweeps.waits_for(lesson.id)


def test_a_second_sweep_of_one_person_waits_and_says_why_and_can_be_removed(wide):
    wide.counted.rest = 5
    first, second = long("first", seed=1), long("second", seed=2)
    wide.sweeps.start(first, "ann")
    until(lambda: len(wide.sweeps.live(first)) == 2)
    wide.sweeps.start(second, "ann")
    until(lambda: wide.sweeps.waits_for(second.id))
    assert "waits for its turn" in str(wide.sweeps.waits_for(second.id)) and not wide.sweeps.live(second)
    wide.sweeps.forget(second.id)
    assert [sweep.id for sweep in wide.sweeps.list()] == [first.id] and not wide.sweeps.waits_for(second.id)


def test_two_sweeps_take_turns(wide):
    one, two = (Sweep.over(name, [RunConfig(steps=25, batch_size=4)], {"blocks": blocks}, [0])
                for name, blocks in (("one", range(20)), ("two", range(20, 40))))  # fmt: skip
    wide.counted.gate.clear()
    wide.sweeps.start(one, "ann")
    wide.sweeps.start(two, "bob")
    until(lambda: begun(wide, one) and begun(wide, two))
    wide.counted.gate.set()
    until(lambda: len(wide.counted.ended) == 40)
    half = [RunConfig(steps=25, batch_size=4, blocks=blocks).id for blocks in range(20)]
    assert 5 <= sum(run_id in half for run_id in wide.counted.ended[:20]) <= 15


def test_one_person_has_only_so_many_sweeps_going_on(room):
    room.counted.rest = 5
    with pytest.raises(Refused, match="going on"):
        for seed in range(20):
            room.sweeps.start(long(f"sweep {seed}", seed=seed), "ann")
    room.sweeps.start(long("bob's", seed=30), "bob")


def test_whose_a_sweep_is_outlives_a_restart_and_it_ends_when_the_last_has_left(room):
    room.counted.rest = 5
    sweep = long("ours")
    room.sweeps.start(sweep, "ann")
    room.sweeps.join(sweep.id, "bob")
    room.close()
    room.open()
    assert room.sweeps.people(sweep.id) == ("ann", "bob")
    assert room.sweeps.leave(sweep.id, "ann") and room.sweeps.leave(sweep.id, "eve") and room.sweeps.active(sweep.id)
    assert not room.sweeps.leave(sweep.id, "bob") and not room.sweeps.active(sweep.id)


def test_a_run_that_a_strangers_sweep_trains_afresh_is_its_own_peoples_afterwards(room):
    config = long("sweep").configs[0]
    room.counted.rest = 5
    run = room.manager.start(config, client="ann")
    room.manager.join(run.id, "bob")
    until(lambda: run.history.steps == 5)
    room.manager.stop(run.id)
    until(lambda: not run.status.live and not room.manager.unsaved())
    room.counted.rest = None
    sweep = Sweep("eve's", (config,))
    room.sweeps.start(sweep, "eve")
    until(lambda: len(room.sweeps.results(sweep)) == 1)
    assert room.manager.get(run.id).history.steps > 5 and room.manager.get(run.id).clients == ("ann", "bob")
    until(lambda: not room.manager.unsaved())
    assert room.store.load(run.id).clients == ("ann", "bob")


def test_a_run_that_somebody_has_paused_does_not_hold_up_the_lesson_that_needs_it(room):
    lesson = long("lesson float32")
    room.counted.rest = 5
    run = room.manager.start(lesson.configs[0], client="eve")
    until(lambda: run.history.steps == 5)
    room.manager.pause(run.id)
    room.counted.rest = None
    until(lambda: run.status is Status.PAUSED)
    room.sweeps.start(lesson, "ann")
    until(lambda: len(room.sweeps.results(lesson)) == 3)
    assert run.status is Status.FINISHED


def test_what_the_teacher_has_paused_stays_so_while_a_lesson_waits_for_it(room):
    lesson = long("lesson float32")
    room.counted.rest = 5
    run = room.manager.start(lesson.configs[0], client="eve")
    until(lambda: run.history.steps == 5)
    room.manager.pause(run.id, firmly=True)
    room.counted.rest = None
    until(lambda: run.status is Status.PAUSED)
    steps = run.history.steps
    room.sweeps.start(lesson, "ann")
    until(lambda: len(room.sweeps.results(lesson)) == 2 and "paused by the teacher" in str(room.sweeps.waits_for(lesson.id)))
    assert run.status is Status.PAUSED and run.history.steps == steps
    room.manager.resume(run.id)
    until(lambda: len(room.sweeps.results(lesson)) == 3)


def test_nobody_waits_while_the_files_of_sweeps_are_looked_for(room):
    room.close()
    waited = []

    class Folder(type(Path())):
        """Of a slow disk: whoever asks something else meanwhile is answered all the same, or is counted."""

        def exists(self, **options: bool) -> bool:
            if self.suffix == ".json":
                asks = threading.Thread(target=lambda: runner.people("x"), daemon=True)
                asks.start()
                asks.join(10)
                waited.append(asks.is_alive())
            return super().exists(**options)

    room.open()
    room.sweeps.close()
    runner = SweepRunner(room.manager, Folder(room.folder / "sweeps"), at_once=2, tick=0.01)
    room.counted.gate.clear()
    runner.start(FORTY, "ann")
    until(lambda: len(waited) > 3)
    runner.close()
    assert not any(waited)


def test_whoever_begins_sweep_after_sweep_drives_out_his_own_and_not_those_of_others(room):
    room.counted.gate.clear()
    for person in ("ann", "guest-1"):
        room.sweeps.start(mine := long(person), person)
        room.sweeps.stop(mine.id)
    for seed in range(320):
        room.sweeps.start(one := Sweep(f"sweep {seed}", (RunConfig(seed=seed),)), f"eve {seed % 20}")
        room.sweeps.stop(one.id)
    assert {"ann", "guest-1"} <= {sweep.name for sweep in room.sweeps.list()} and len(room.sweeps.list()) <= 301


def test_a_flood_of_people_is_remembered_of_neither_run_nor_sweep(room):
    room.counted.rest = 5
    room.sweeps.start(sweep := long("ours"), "ann")
    run = room.manager.start(sweep.configs[0], client="ann")
    for n in range(1000):
        room.sweeps.join(sweep.id, f"guest-{n}")
        room.manager.join(run.id, f"guest-{n}")
    for n in range(30):  # a class still finds room
        room.sweeps.join(sweep.id, f"student {n}")
        room.manager.join(run.id, f"student {n}")
    for people in (room.sweeps.people(sweep.id), run.clients):
        assert len(people) < 100 and "ann" in people and "student 29" in people


# The page


SMALL = {"remedies": "relu", "values": "0,1", "steps": "25", "batch_size": "4", "dataset": "digits"}


@pytest.mark.timeout(300)
def test_the_page_says_what_a_sweep_costs_before_it_starts_and_runs_it(page_server):
    page = opened("sweep", **SMALL)
    assert "2 of 2 runs to do" in text(page)
    page.button(key="start").click().run()
    sweep = server().sweeps.list()[0]
    assert len(sweep.configs) == 2
    until(lambda: len(server().sweeps.results(sweep)) == 2, 200)
    page.run()
    assert not page.exception and "All 2 runs are there." in text(page)
    assert f"under {TRAINED_BELOW:.2f}" in text(page)  # the definition stands on the screen


def test_what_the_page_cannot_take_from_its_link_is_said(page_server):
    page = opened("sweep", **{**SMALL, "steps": "0", "early": "off", "axis": "colour", "batchsize": "8", "utm_source": "x"})
    said = [warning.value for warning in page.warning]
    assert len(said) == 3 and all("link" in each for each in said)
    assert any("(steps)" in each and "100000" in each for each in said) and any("colour" in each for each in said)
    assert any("'batchsize' is not a setting" in each and "batch_size" in each for each in said)


def test_a_value_out_of_range_is_refused_with_its_name_and_range(page_server):
    page = opened("sweep", **{**SMALL, "values": "0,5000"})
    assert "Blocks (blocks) must be a whole number from 0 to 1000" in page.error[0].value


def test_rubbish_in_the_url_leaves_a_page_that_works(page_server):
    page = opened("sweep", remedies="x", axis="y", seeds="z", steps="-1", values="1,2", sweep="nothing", lr="nan")
    assert "is not on this server" in text(page)


@pytest.mark.timeout(400)
def test_a_reader_starts_a_sweep_of_forty_and_a_killed_server_finishes_it(page: Page, start_server):
    """Kill -9 in its middle; afterwards all forty are there and those that had ended were not trained again."""
    server = start_server(GRADVIZ_DATA="/nonexistent", GRADVIZ_WORKERS="2")
    rates = ",".join(f"{1e-4 * k:g}" for k in range(1, 21))
    page.goto(f"{server.url}/sweep?remedies=relu&axis=lr&values={rates}&blocks=0&seeds=2&steps=20&batch_size=2&dataset=digits")
    page.get_by_role("button", name="Start").click(timeout=60_000)

    def kept() -> dict[str, float]:
        with sqlite3.connect(f"file:{server.store / 'runs.sqlite'}?mode=ro", uri=True) as database:
            # The kill may come between a run's last step and its end: it is "interrupted" then, and has all its steps.
            ended = "status = 'finished' OR (status IN ('stopped', 'interrupted') AND steps >= 20)"
            return dict(database.execute(f"SELECT id, created FROM runs WHERE {ended}"))

    until(lambda: len(kept()) >= 6, 150)
    server.kill()
    before = kept()
    server.start()
    until(lambda: len(kept()) == 40, 200)
    after = kept()
    assert len(before) < 40 and all(after[run_id] == created for run_id, created in before.items())
    page.reload()
    expect(page.get_by_text("All 40 runs are there.")).to_be_visible(timeout=60_000)
    expect(page.locator(".js-plotly-plot").first).to_be_visible(timeout=60_000)
