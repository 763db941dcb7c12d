"""Warm-up and schedules of the learning rate: their factors, what is the same run, and what theory says of the first step."""

from __future__ import annotations

import json
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.optim.lr_scheduler import ConstantLR, CosineAnnealingLR, LinearLR, SequentialLR, StepLR

from gradviz.lenet.branch import same_until
from gradviz.lenet.codegen import code
from gradviz.lenet.config import RunConfig
from gradviz.lenet.data import Shelf
from gradviz.lenet.experiment import training
from gradviz.lenet.fields import ConfigError
from gradviz.lenet.theory.first_step import first_move
from gradviz.record.quantities import QUANTITIES
from gradviz.store.states import States
from gradviz.train.state import StateGone
from gradviz.words import speaking

CPU = torch.device("cpu")
SMALL = RunConfig(blocks=1, activation="relu", dataset="digits", steps=30, batch_size=8, device="cpu", lr=0.01)


@pytest.fixture(scope="module")
def digits():
    return Shelf(Path("none"), download=False).load("digits")


def by_torch(config: RunConfig) -> list[float]:
    """The learning rates that PyTorch's own schedulers give."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=config.lr)
    warm, left = config.warmup, config.steps - config.warmup
    later = {
        "constant": lambda: ConstantLR(optimizer, 1.0, 1),
        "cosine": lambda: CosineAnnealingLR(optimizer, left),
        "step-decay": lambda: StepLR(optimizer, -(-left // 3), gamma=0.1),
    }[config.schedule]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that no optimiser takes steps
        schedule = later()
        if warm:
            schedule = SequentialLR(optimizer, [LinearLR(optimizer, 1 / warm, 1, warm - 1), schedule], [warm])
        rates = []
        for _step in range(config.steps):
            rates.append(optimizer.param_groups[0]["lr"])
            schedule.step()
    return rates


@pytest.mark.parametrize("schedule", ["constant", "cosine", "step-decay"])
@pytest.mark.parametrize("warmup, steps", [(0, 90), (0, 100), (7, 100), (50, 51), (2, 30)])
def test_the_learning_rates_are_those_of_pytorchs_own_schedulers(schedule, warmup, steps):
    config = RunConfig(lr=0.03, schedule=schedule, warmup=warmup, steps=steps)
    assert [config.rate(step) for step in range(steps)] == pytest.approx(by_torch(config), rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("schedule", ["constant", "cosine", "step-decay"])
@pytest.mark.parametrize("warmup, steps", [(0, 1), (5, 5), (9, 4), (3, 10), (0, 7)])
def test_the_programs_function_is_the_factor_of_every_step_to_the_last_bit(schedule, warmup, steps):
    config = RunConfig(lr=0.03, schedule=schedule, warmup=warmup, steps=steps)
    if not config.is_scheduled:
        return
    program, names = code(config), {}
    exec("import math\n" + program[program.index("def share") : program.index("rate = ")], names)
    assert [names["share"](step) for step in range(steps)] == [config.share(step) for step in range(steps)]


def test_a_run_without_a_schedule_is_kept_byte_for_byte_as_before():
    kept = (
        '{"activation": "sigmoid", "batch_norm": false, "other_norm": "none", "shortcut": false, "branch_scale": "one", '
        '"blocks": 12, "activation_everywhere": false, "init": "default", "init_range": null, "treatment": "none", '
        '"threshold": 1.0, "optimizer": "adam", "lr": 0.001, "dataset": "mnist", "batch_size": 64, "steps": 300, "seed": 0, '
        '"device": "auto"}'
    )
    assert json.dumps(RunConfig().to_dict()) == json.dumps(RunConfig(warmup=1).to_dict()) == kept
    assert RunConfig(warmup=0, schedule="constant").id == RunConfig().id != RunConfig(warmup=2).id


def test_a_schedule_stands_in_the_title_and_travels_in_a_link():
    config = RunConfig(lr=0.01, warmup=50, schedule="cosine")
    assert "adam 0.01 · warm-up 50 · cosine" in config.title
    assert config.to_query() == {"lr": "0.01", "warmup": "50", "schedule": "cosine"}
    assert RunConfig.from_query(config.to_query()) == (config, [])


@pytest.mark.parametrize(
    "given, words",
    [
        (dict(warmup=-1), "Warm-up (warmup) must be a whole number from 0 to 100000"),
        (dict(warmup="some"), "Warm-up (warmup) must be a whole number from 0 to 100000"),
        (dict(schedule="linear"), "Schedule (schedule) must be one of constant, cosine, step-decay"),
    ],
)
def test_a_bad_schedule_is_refused_in_one_sentence_with_its_range(given, words):
    with pytest.raises(ConfigError) as refusal:
        RunConfig(**given)
    assert words in str(refusal.value)


def test_where_the_rate_has_become_another_every_chart_has_a_mark():
    config = RunConfig(lr=0.03, warmup=30, schedule="step-decay", steps=120, changes="50:lr=0.01")
    assert [(turn.step, turn.word) for turn in config.turns] == [
        (30, "lr 0.03"), (50, "lr 0.01"), (60, "lr 0.001"), (90, "lr 0.0001")]  # fmt: skip
    warm, turned, _third, last = (str(turn.sentence) for turn in config.turns)
    assert "warm: the learning rate has risen to 0.03" in warm and "became 0.0001" in last
    assert "of which the schedule leaves 0.01" in turned
    assert [turn.word for turn in RunConfig(warmup=50, steps=40).turns] == []  # the run ends before it is warm


@pytest.mark.parametrize(
    "one, other, step",
    [
        (dict(schedule="cosine", steps=100), dict(schedule="cosine", steps=300), 1),  # at step 0 both take all of it
        (dict(schedule="cosine", steps=100, warmup=20), dict(schedule="cosine", steps=300, warmup=20), 21),
        (dict(schedule="step-decay", steps=90), dict(schedule="step-decay", steps=300), 30),
        (dict(warmup=20, steps=100), dict(warmup=20, steps=300), 100),
        (dict(warmup=20), dict(warmup=30), 0),
        (dict(schedule="step-decay", steps=90), dict(steps=90), 30),
        (dict(schedule="cosine", changes="40:lr=1"), dict(schedule="cosine"), 40),
        (dict(schedule="step-decay", steps=90, changes="20:lr=1"), dict(schedule="step-decay", steps=300), 20),
        (dict(steps=100), dict(steps=300), 100),
    ],
)  # fmt: skip
def test_two_runs_are_the_same_until_their_learning_rates_part(one, other, step):
    one, other = RunConfig(**one), RunConfig(**other)
    assert same_until(one, other) == same_until(other, one) == step
    rates = [[config.rate(step) for step in range(min(one.steps, other.steps))] for config in (one, other)]
    assert next((k for k, (a, b) in enumerate(zip(*rates, strict=True)) if a != b), len(rates[0])) == step


@pytest.mark.trains
def test_a_longer_run_with_cosine_does_not_begin_from_a_state_that_was_trained_with_other_rates(digits, tmp_path):
    states = States(tmp_path, 1e9, free=0)
    short = replace(SMALL, schedule="cosine", warmup=4, steps=10)
    rows = [record.loss for record in training(short, digits, CPU, states=states)]
    assert len(rows) == 10 and states.steps(short.id)[-1] == 10
    with pytest.raises(StateGone):
        training(replace(short, steps=30), digits, CPU, begin=states.path(short.id, 10))


@pytest.mark.trains
@pytest.mark.parametrize("more", [{}, {"optimizer": "momentum", "changes": "15:lr=0.003"}])
@pytest.mark.parametrize("schedule", ["constant", "cosine", "step-decay"])
def test_a_scheduled_run_goes_on_from_its_middle_with_the_same_numbers(schedule, more, digits, tmp_path):
    states = States(tmp_path, 1e9, free=0)
    config = replace(SMALL, schedule=schedule, warmup=16, **more)
    whole = list(training(config, digits, CPU, states=states))
    for step in (10, 20):
        rest = list(training(config, digits, CPU, begin=states.path(config.id, step)))
        np.testing.assert_array_equal([record.layers for record in rest], [record.layers for record in whole[step:]])
        assert [record.loss for record in rest] == [record.loss for record in whole[step:]]


@pytest.mark.trains
@pytest.mark.parametrize("more", [{}, {"init": "critical"}, {"init_range": 0.2}, {"warmup": 50}, {"schedule": "cosine"}])
def test_adams_first_step_moves_the_weights_of_a_block_as_theory_says(more, digits):
    config = replace(SMALL, activation="tanh", shortcut=True, **more)  # no unit is dead
    first = next(iter(training(config, digits, CPU)))
    measured = first.layers[list(QUANTITIES).index("update_ratio"), 2:4]
    assert measured == pytest.approx(first_move(config), rel=0.02)  # the weights are a sample of 6400


def test_where_theory_has_no_one_number_for_the_first_step_it_says_none():
    assert first_move(replace(SMALL, optimizer="sgd")) is first_move(replace(SMALL, blocks=0)) is None
    assert first_move(replace(SMALL, init="lsuv")) is None


def test_the_mark_of_what_was_turned_is_said_in_the_reader_s_language():
    turns = RunConfig(lr=0.01, changes="20:lr=0.001,40:optimizer=momentum").turns
    assert [turn.mark for turn in turns] == [turn.word for turn in turns] == ["lr 0.001", "optimizer momentum"]
    with speaking("zh_CN"):
        assert [turn.mark for turn in turns] == ["学习率 0.001", "优化器 momentum"]
