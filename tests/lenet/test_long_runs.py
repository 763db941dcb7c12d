"""Runs at the article's length: when one may be stopped, that nothing kept is lost or repeated, and what they say."""

import math
import os
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from recorded import ARITHMETIC, NET, long_run

from gradviz.lenet import article_length
from gradviz.lenet.config import RunConfig
from gradviz.lenet.data import Shelf
from gradviz.lenet.experiment import training
from gradviz.lenet.lessons.catalogue import LESSONS
from gradviz.lenet.long_runs import (
    AT_CHANCE,
    DEAD,
    DIVERGED,
    EPOCH,
    LEARNT,
    STEPS,
    UNDER_WAY,
    WINDOW,
    Judge,
    Keep,
    KeepError,
    train_all,
)
from gradviz.record.history import StepRecord
from gradviz.record.quantities import QUANTITIES
from gradviz.record.run import Outcome, Status


def record(step, loss=2.3, accuracy=0.1, silent=(), config=NET) -> StepRecord:
    layers = np.full((len(QUANTITIES), config.layers), 0.5, np.float32)
    layers[list(QUANTITIES).index("activation_rms"), list(silent)] = 0
    return StepRecord(step, loss, accuracy, layers, seconds=0.01 * (step + 1))


def judged(records, config=NET, **more) -> Judge:
    judge = Judge(config, **more)
    for each in records:
        judge.take(each)
        if judge.verdict:
            break
    return judge


# When a run may be stopped


def test_a_run_has_learnt_when_ninety_of_a_hundred_answers_are_right_over_a_window():
    rising = [record(step, 2.3 - 0.005 * step, min(0.95, 0.005 * step)) for step in range(400)]
    judge = judged(rising)
    means = [np.mean([each.accuracy for each in rising[step - WINDOW + 1 : step + 1]]) for step in range(WINDOW - 1, 400)]
    assert judge.verdict == LEARNT and judge.learnt_at == WINDOW - 1 + int(np.argmax(np.array(means) >= 0.9))
    losses = [np.mean([each.loss for each in rising[step - WINDOW + 1 : step + 1]]) for step in range(WINDOW - 1, 400)]
    assert judge.left_chance_at == WINDOW - 1 + int(np.argmax(np.array(losses) < math.log(10) - 0.1))


def test_a_run_that_is_wanted_whole_goes_on_after_it_has_learnt():
    judge = judged((record(step, 0.1, 0.97) for step in range(300)), early=False)
    assert judge.verdict is None and judge.learnt_at == WINDOW - 1
    assert judge.result(ARITHMETIC, 0.96).outcome == LEARNT


@pytest.mark.parametrize("loss, accuracy, word", [(2.3, 0.1, AT_CHANCE), (1.9, 0.3, UNDER_WAY), (math.nan, 0.1, DIVERGED)])
def test_a_run_that_used_up_its_steps_is_judged_by_its_last_window(loss, accuracy, word):
    assert judged(record(step, loss, accuracy) for step in range(150)).result(ARITHMETIC, None).outcome == word


def test_a_layer_that_hands_on_zeros_for_a_whole_epoch_ends_the_run_and_one_step_less_does_not():
    assert judged(record(step, silent=[3]) for step in range(EPOCH - 1)).verdict is None
    judge = judged(record(step, silent=[3]) for step in range(2 * EPOCH))
    assert judge.verdict == DEAD and judge.result(ARITHMETIC, None).steps == EPOCH


def test_a_layer_that_wakes_up_once_in_an_epoch_is_not_dead():
    records = [record(step, silent=[] if step % EPOCH == EPOCH - 1 else [3]) for step in range(3 * EPOCH)]
    assert judged(records).verdict is None


def test_silent_layers_that_take_turns_are_not_one_dead_layer():
    assert judged(record(step, silent=[2 + step % 2]) for step in range(2 * EPOCH)).verdict is None


@pytest.mark.parametrize("more", [{"shortcut": True}, {"treatment": "floor", "threshold": 1e-10}, {"treatment": "feedback"}])
def test_a_silent_block_proves_nothing_where_a_road_leads_past_it_or_a_zero_gradient_is_raised(more):
    config = replace(NET, **more)
    assert judged((record(step, silent=[3]) for step in range(2 * EPOCH)), config).verdict is None


@pytest.mark.trains
def test_below_a_dead_layer_nothing_changes_and_every_image_gets_the_same_answer():
    """Why an epoch of zeros may end a run: the mathematics of it, on a real net with one dead layer."""
    data = Shelf(Path("nowhere"), download=False).load("digits")
    config = RunConfig(activation="relu", blocks=2, batch_size=16, steps=30, dataset="digits", optimizer="momentum", lr=0.01)
    trainer = training(config, data, torch.device("cpu"))
    layers = trainer.model.weight_layers
    with torch.no_grad():
        layers[3].bias.fill_(-1e3)
    before = [layer.weight.detach().clone() for layer in layers]
    silent = list(QUANTITIES).index("activation_rms")
    assert all((record.layers[silent, 3] == 0) for record in trainer)
    assert all(torch.equal(old, layer.weight) for old, layer in zip(before[:4], layers, strict=False))
    assert not torch.equal(before[-1], layers[-1].weight)  # the last layers go on, towards the frequencies of the classes
    with torch.no_grad():
        answers = trainer.model(data.test_images[:50])
    assert torch.equal(answers, answers[:1].expand_as(answers))


# What is kept


def test_a_kept_run_comes_back_as_it_was_with_nan_and_inf_and_exact_zeros(tmp_path):
    odd = long_run(loss=math.inf, curve=((0.0, math.nan, 0.1, 0.0, -math.inf),), test_accuracy=0.5)
    keep = Keep(tmp_path / "kept.jsonl")
    keep.add(odd)
    keep.add(long_run(replace(NET, seed=1, lr=1e-4)))
    again = Keep(tmp_path / "kept.jsonl")
    assert len(again) == 2 and again.get(NET).arithmetic == ARITHMETIC
    assert str(again.get(NET)) == str(odd) and again.get(NET).start == odd.start  # as text: nan is not equal to itself
    assert again.get(replace(NET, seed=1, lr=1e-4)).recipe.lr == 1e-4


def test_a_line_that_was_cut_off_costs_that_line_and_the_next_one_stands_by_itself(tmp_path):
    path = tmp_path / "kept.jsonl"
    Keep(path).add(long_run())
    whole = path.read_bytes()
    path.write_bytes(whole + whole[: len(whole) // 2])
    keep = Keep(path)
    assert len(keep) == 1
    keep.add(long_run(replace(NET, seed=1)))
    assert len(Keep(path)) == 2 and path.read_bytes().startswith(whole)


@pytest.mark.parametrize("line", ['{"version": 2}', "[]", "nonsense", '{"version": 1, "config": {"colour": "red"}}'])
def test_a_line_of_another_version_is_refused_in_one_sentence_that_names_it(tmp_path, line):
    path = tmp_path / "kept.jsonl"
    path.write_text(line + "\n" + long_run().to_line() + "\n")
    with pytest.raises(KeepError, match=r"^Line 1 of .*kept\.jsonl is not a run of this version .*\.$"):
        Keep(path)


def test_a_folder_in_which_nothing_can_be_kept_is_said(tmp_path):
    with pytest.raises(KeepError, match="cannot be written"):
        Keep(tmp_path / "absent" / "kept.jsonl").add(long_run())


# Training


class Fake:
    """A training that gives so many records, and waits before the last one until it may go on."""

    device = "fake"

    def __init__(self, config, interrupt, learns=True, may_end=None):
        self.config, self.outcome = config, None
        self._interrupt, self._learns, self._may_end = interrupt, learns, may_end

    def __iter__(self):
        for step in range(self.config.steps):
            if step == self.config.steps - 1 and self._may_end:
                while not self._may_end.wait(0.01):
                    if self._interrupt():
                        self.outcome = Outcome(Status.STOPPED)
                        return
            yield record(step, 0.2 if self._learns else 2.3, 0.95 if self._learns else 0.1, config=self.config)
        self.outcome = Outcome(Status.FINISHED, 0.97 if self._learns else 0.1)


def fakes(asked, **more):
    def train(config, interrupt):
        asked.append(config)
        return Fake(config, interrupt, **more)

    return train


CONFIGS = [replace(NET, seed=seed, steps=150) for seed in range(4)]


def test_every_run_is_trained_once_and_a_second_call_trains_nothing(tmp_path):
    asked, said = [], []
    keep = Keep(tmp_path / "kept.jsonl")
    train_all([*CONFIGS, CONFIGS[0]], keep, fakes(asked), ARITHMETIC, workers=2, say=said.append)
    assert sorted(config.seed for config in asked) == [0, 1, 2, 3] and len(said) == 4
    train_all(CONFIGS, Keep(tmp_path / "kept.jsonl"), fakes(asked), ARITHMETIC, workers=2)
    assert len(asked) == 4
    assert all(run.outcome == LEARNT and run.steps == WINDOW and run.test_accuracy is None for run in keep)


def test_a_run_that_is_wanted_whole_is_done_again_and_then_no_more(tmp_path):
    asked = []
    keep = Keep(tmp_path / "kept.jsonl")
    for whole in ((), CONFIGS[:1], CONFIGS[:1]):
        train_all(CONFIGS[:2], keep, fakes(asked), ARITHMETIC, whole=whole)
    assert [config.seed for config in asked] == [0, 1, 0]
    assert keep.get(CONFIGS[0]).test_accuracy == 0.97 and keep.get(CONFIGS[1]).test_accuracy is None
    assert Keep(tmp_path / "kept.jsonl").get(CONFIGS[0]).steps == 150  # the later line counts


def test_an_interruption_costs_the_runs_under_way_and_no_other(tmp_path):
    """The first run ends; while the second is under way, whoever waits is interrupted."""
    asked, never = [], threading.Event()
    keep = Keep(tmp_path / "kept.jsonl")

    def train(config, interrupt):
        asked.append(config)
        return Fake(config, interrupt, learns=False, may_end=never if config.seed else None)

    def show(_state):
        if len(asked) > 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_all(CONFIGS, keep, train, ARITHMETIC, workers=1, show=show, say=lambda line: None)
    assert [run.recipe.seed for run in Keep(keep.path)] == [0] and [config.seed for config in asked] == [0, 1]


def test_what_a_training_raises_comes_out_and_what_had_ended_is_kept(tmp_path):
    def train(config, interrupt):
        if config.seed == 1:
            raise RuntimeError("no memory")
        return Fake(config, interrupt)

    keep = Keep(tmp_path / "kept.jsonl")
    with pytest.raises(RuntimeError, match="no memory"):
        train_all(CONFIGS, keep, train, ARITHMETIC, say=lambda line: None)
    assert [run.recipe.seed for run in keep] == [0]


def test_no_run_begins_after_the_time_is_up(tmp_path):
    asked = []
    train_all(CONFIGS, Keep(tmp_path / "kept.jsonl"), fakes(asked), ARITHMETIC, until=0.0, clock=lambda: 1.0)
    assert not asked


# The plan and what it says


def kept(*runs):
    return {run.recipe: run for run in runs}.get


def test_the_plan_holds_what_the_report_promises():
    configs = article_length.plan()
    assert configs[0] == article_length.NINE_RELU and all(config.steps == STEPS and config.batch_size == 64 for config in configs)
    for optimizer, lr in article_length.RATES:
        for activation, depths in (("sigmoid", range(4, 8)), ("relu", range(7, 12))):
            assert {article_length.net(activation, n, optimizer=optimizer, lr=lr) for n in depths} <= set(configs)


@pytest.mark.parametrize(
    "trains, text",
    [
        ({7: True, 8: False, 9: True}, "learnt up to 9 blocks, the deepest that was tried, not at 8"),
        ({7: True, 8: False, 9: True, 10: False, 11: False}, "learnt up to 9 blocks, not at 8, 10"),
        ({8: True, 9: None}, "learnt up to 8 blocks, at 9 one seed of two"),
        ({8: None, 9: True}, "learnt up to 9 blocks, the deepest that was tried, at 8 one seed of two"),
        ({4: None, 5: False}, "none that was tried learnt with most seeds, from 4 blocks on, at 4 one seed of two"),
        ({4: False, 5: False}, "none that was tried learnt, from 4 blocks on"),
    ],
)
def test_a_border_names_what_failed_before_it_and_what_is_divided(trains, text):
    assert article_length.RateBorder("relu", "adam", 0.001, trains).text == f"adam 0.001: {text}"


def test_a_border_outside_the_plan_is_followed_and_both_its_sides_get_a_second_seed():
    def at(blocks, **more):
        return article_length.net("sigmoid", blocks, **more)

    stuck = [long_run(at(n), AT_CHANCE) for n in (4, 5)]
    assert list(article_length.follow_up(kept(*stuck))) == [at(3)]
    learnt = [*stuck, long_run(at(3))]
    assert list(article_length.follow_up(kept(*learnt))) == [at(3, seed=1), at(4, seed=1)]
    assert at(12) in list(article_length.follow_up(kept(*(long_run(at(n)) for n in (10, 11)))))


def test_a_border_is_met_only_under_the_rate_that_met_it_and_divided_seeds_are_said():
    runs = [long_run(article_length.net("sigmoid", n, seed=seed), LEARNT if n < 3 or (n, seed) == (3, 1) else AT_CHANCE)
            for n in (1, 2, 3, 4) for seed in (0, 1)]  # fmt: skip
    border = article_length.border_at(article_length.LongEvidence(runs), "sigmoid", "adam", 1e-3)
    assert border.deepest == 2 and border.text == "adam 0.001: learnt up to 2 blocks, not at 4, at 3 one seed of two"
    assert article_length.border_at(article_length.LongEvidence(runs), "sigmoid", "adam", 1e-4) is None


def test_nine_relu_blocks_that_learn_under_one_rate_hold_the_articles_statement():
    def relu(blocks, outcome, lr=1e-3):
        return long_run(article_length.net("relu", blocks, lr=lr), outcome)

    runs = [relu(7, LEARNT), relu(9, DEAD), relu(9, LEARNT, 3e-4), relu(10, DEAD), relu(10, AT_CHANCE, 3e-4),
            long_run(article_length.net("sigmoid", 4), AT_CHANCE), long_run(article_length.net("sigmoid", 3))]  # fmt: skip

    def held(runs):
        return {part.statement: part.holds for part in article_length.findings(runs)["relu-depth"].parts}

    assert held(runs)["9 blocks still train, under some rate."] and held(runs)["Only later than sigmoid."]
    assert held(runs)["10 blocks do not, under any rate."] is None  # not every rate was asked
    rest = [long_run(article_length.net("relu", 10, optimizer=optimizer, lr=lr), AT_CHANCE)
            for optimizer, lr in article_length.RATES[2:]]  # fmt: skip
    assert held(runs + rest)["10 blocks do not, under any rate."]
    assert held([*runs, *rest[:-1], replace(rest[-1], outcome=LEARNT)])["10 blocks do not, under any rate."] is False


@pytest.mark.parametrize("plain, cured, holds", [
    ((DEAD,), (LEARNT,), True), ((), (LEARNT,), None), ((DEAD, LEARNT), (LEARNT,), None), ((LEARNT,), (LEARNT,), False),
    ((), (AT_CHANCE,), False), ((DEAD,), (LEARNT, AT_CHANCE), None),
])  # fmt: skip
def test_batch_norm_is_no_cure_and_no_failure_where_the_plain_net_was_not_run_or_seeds_are_divided(plain, cured, holds):
    """One outcome for each seed."""
    nets = {article_length.net("relu", 11): plain, article_length.BATCH_NORM[0]: cured}
    runs = [long_run(replace(net, seed=seed), outcome) for net, words in nets.items() for seed, outcome in enumerate(words)]
    assert article_length.findings(runs)["batch-norm"].parts[0].holds is holds


def test_what_was_not_run_is_no_finding():
    assert article_length.findings([]) == {}


def test_the_runs_that_come_with_gradviz_are_whole_and_hold_nine_relu_blocks():
    runs = {run.recipe: run for run in article_length.kept_runs()}
    nine = runs[article_length.NINE_RELU]
    assert nine.outcome == LEARNT and nine.left_chance_at > 1000  # a run of 300 steps could not have known
    assert set(article_length.findings(runs.values())) <= set(LESSONS)
    assert all(len(run.start["weight_grad_rms"]) == config.layers for config, run in runs.items())


def test_relu_is_later_than_sigmoid_only_if_it_is_so_under_every_rate_that_has_a_border():
    def held(*more):
        runs = [long_run(article_length.net("sigmoid", 3)), long_run(article_length.net("sigmoid", 4), AT_CHANCE),
                long_run(article_length.net("relu", 10), DEAD), *more]  # fmt: skip
        parts = article_length.findings(runs)["relu-depth"].parts
        return next(part.holds for part in parts if part.statement == "Only later than sigmoid.")

    assert held() is None  # no relu net has learnt at 0.001 yet
    assert held(long_run(article_length.net("relu", 5))) is True
    assert held(long_run(article_length.net("relu", 3))) is False
    assert held(long_run(article_length.net("relu", 5)), long_run(article_length.net("sigmoid", 2, lr=1e-4))) is None


def test_a_gradient_that_is_zero_because_a_layer_died_is_no_vanishing():
    def sigmoid(blocks, outcome, last, **more):
        config = article_length.net("sigmoid", blocks, **more)
        start = {name: tuple(10.0 ** (k * blocks) for k in range(config.layers)) for name in long_run().start}
        return long_run(config, outcome, start=start, curve=((0.0, 2.3, 0.1, 1e-9, 1e-2), (900.0, 2.3, 0.1, last, 1e-2)))

    runs = [sigmoid(1, LEARNT, 1e-2), sigmoid(2, LEARNT, 1e-2), sigmoid(7, DEAD, 0.0)]
    assert "dynamics" not in article_length.findings(runs)
    still = [*runs, sigmoid(6, AT_CHANCE, 1e-12, lr=3e-4)]
    held = {part.statement: part.holds for part in article_length.findings(still)["dynamics"].parts}
    assert held["There they fall to 0."] is False and held["Past some depth they never recover, and the net cannot train."]


@pytest.mark.timeout(30)
def test_what_is_no_file_is_refused_as_the_place_of_kept_runs(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path, tmp_path / "pipe", Path("/dev/zero")):
        with pytest.raises(KeepError, match="is no file"):
            Keep(path)


def test_a_first_run_that_would_surely_pass_the_time_is_not_begun_though_nothing_is_measured_yet(tmp_path):
    asked = []
    deep = article_length.net("relu", 200, shortcut=True)
    train_all([deep], Keep(tmp_path / "kept.jsonl"), fakes(asked), ARITHMETIC, until=60.0, clock=lambda: 0.0)
    assert not asked
