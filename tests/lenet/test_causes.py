"""What is likely the cause of what was found in a deep LeNet, and which one change to try next."""

from dataclasses import replace

import numpy as np
import pytest

from gradviz.diagnosis.findings import Verdict
from gradviz.diagnosis.state import State
from gradviz.lenet.causes import Case, likely_cause
from gradviz.lenet.config import RunConfig
from gradviz.lenet.diagnosis import diagnose, facts
from gradviz.lenet.next_experiment import next_experiment
from gradviz.record.history import History
from gradviz.record.quantities import QUANTITIES
from gradviz.record.run import Run, Status

UNTREATED = {"treatment": "none", "threshold": 1.0}
FLOOR = {"treatment": "floor", "threshold": 1e-4}


def case(found: Verdict, status: Status = Status.FINISHED, **settings: object) -> Case:
    """Of a run whose numbers are the same in every layer at every step."""
    config = RunConfig(**{"activation": "relu", "blocks": 2, "steps": 40, **settings})
    columns = np.full((20, len(QUANTITIES), config.layers), 0.01, np.float32)
    run = Run(config, History.restored(columns, np.full((20, 3), 2.3), [], 1, 1000), status)
    return Case(State(run, run.history, 19, facts(config)), config, frozenset({found}))


@pytest.mark.parametrize(
    ("found", "settings", "code", "changes"),
    [
        (Verdict.EXPLODING, {"init_range": 0.5}, "try-critical", {"init": "critical", "init_range": None}),
        (Verdict.EXPLODING, {"activation": "sigmoid"}, "try-slower", {"lr": 1e-4}),
        (Verdict.DIVERGED, {"lr": 10.0}, "try-slower", {"lr": 1.0}),
        (Verdict.DEAD, {"lr": 0.3}, "try-slower", {"lr": 0.03}),
        (Verdict.DEAD, {"lr": 5e-7}, None, {}),  # ten times smaller is not allowed
        (Verdict.RECOVERING, {}, "try-longer", {"steps": 120}),
        (Verdict.RECOVERING, {"steps": 40_000}, "try-longer", {"steps": 100_000}),
        (Verdict.RECOVERING, {"steps": 100_000}, None, {}),
        (Verdict.LEARNING, {"blocks": 0}, "try-deeper", {"blocks": 4}),
        (Verdict.LEARNING, {"blocks": 600}, "try-deeper", {"blocks": 1000}),
        (Verdict.LEARNING, {"blocks": 1000}, None, {}),
        (Verdict.VANISHING, {}, "try-norm", {"batch_norm": True}),
        (Verdict.VANISHING, {"blocks": 31}, "try-shortcut", {"shortcut": True}),
        (Verdict.VANISHED, {"activation": "tanh"}, "try-shortcut", {"shortcut": True}),
        (Verdict.VANISHING, {"shortcut": True}, "try-longer", {"steps": 120}),
        (Verdict.VANISHING, FLOOR, "sentences", {"batch_norm": True} | UNTREATED),
        (Verdict.SATURATED, {"activation": "sigmoid"}, "try-shortcut", {"shortcut": True}),
        (Verdict.STUCK, {"treatment": "feedback", "threshold": 1e-3}, "try-shortcut", {"shortcut": True} | UNTREATED),
        (Verdict.UNUSABLE, {"optimizer": "sgd", "lr": 0.1}, "try-adam", {"optimizer": "adam", "lr": 1e-3}),
        (Verdict.UNUSABLE, {"lr": 1e-5}, "try-faster", {"lr": 1e-4}),
        (Verdict.STUCK, {"lr": 0.1}, "try-slower", {"lr": 0.01}),
        (Verdict.STUCK, {}, "try-longer", {"steps": 120}),
        (Verdict.HEALTHY, {}, "try-longer", {"steps": 120}),
    ],
)
def test_each_finding_has_its_next_experiment_which_changes_what_it_says_and_nothing_else(found, settings, code, changes):
    looked_at = case(found, **settings)
    experiment = next_experiment(looked_at)
    if code is None:
        assert experiment is None
        return
    message, config = experiment
    assert message.code == code and str(message).endswith((".", "?"))
    before, after = looked_at.config.to_dict(), config.to_dict()
    assert {name: value for name, value in after.items() if before[name] != value} == pytest.approx(changes)


def test_nothing_is_to_be_tried_while_a_healthy_run_has_not_yet_ended():
    assert next_experiment(case(Verdict.HEALTHY, Status.RUNNING)) is None


@pytest.mark.parametrize(
    ("found", "settings", "codes"),
    [
        (Verdict.VANISHING, {},
         ["cause-product-relu", "cause-default-factor", "cause-under-critical", "cause-training-vanishes"]),
        (Verdict.VANISHING, {"activation": "gelu"}, ["cause-training-vanishes"]),
        (Verdict.VANISHING, {"activation": "sigmoid", "batch_norm": True}, ["cause-printed-border", "cause-training-vanishes"]),
        (Verdict.EXPLODING, {"init_range": 0.5}, ["cause-over-critical"]),
        (Verdict.EXPLODING, {"init_range": 0.1}, ["cause-steps-too-large"]),
        (Verdict.DEAD, {}, ["cause-dead"]),
        (Verdict.SATURATED, {"activation": "sigmoid", "init_range": 2.0}, ["cause-saturated-at-start"]),
        (Verdict.SATURATED, {"activation": "sigmoid"}, ["cause-saturated-by-training"]),
        (Verdict.STUCK, {}, ["cause-stuck"]),
        (Verdict.STUCK, {"treatment": "normalise"}, ["cause-forward-lost"]),
        (Verdict.HEALTHY, {"treatment": "feedback"}, ["cause-steered"]),
        (Verdict.HEALTHY, {"shortcut": True, "batch_norm": True}, ["cause-shortcut"]),
        (Verdict.HEALTHY, {"batch_norm": True}, ["cause-norm"]),
        (Verdict.HEALTHY, {"init": "critical"}, ["cause-critical"]),
        (Verdict.HEALTHY, {}, ["cause-few-convolutions"]),
        (Verdict.HEALTHY, {"blocks": 0}, []),
        (Verdict.HEALTHY, {"activation": "silu", "init": "critical"}, []),
    ],
)  # fmt: skip
def test_each_finding_has_its_likely_cause_and_a_healthy_net_its_reason(found, settings, codes):
    assert [cause.code for cause in likely_cause(case(found, **settings))] == codes


def test_a_run_in_which_knobs_were_turned_is_judged_by_what_is_in_force_at_the_step_that_is_looked_at():
    turned = RunConfig(
        activation="relu", blocks=2, steps=40, lr=0.1, changes="10:lr=0.01,10:treatment=normalise,20:optimizer=sgd"
    )
    first, second, third = (facts(turned, step) for step in (9, 10, 20))
    assert (first.lr, first.treatment, first.adam) == (0.1, "", True)
    assert (second.lr, second.treatment, second.adam) == (0.01, "normalise", True)
    assert (third.lr, third.treatment, third.adam) == (0.01, "normalise", False)
    columns = np.full((40, len(QUANTITIES), turned.layers), 0.01, np.float32)
    columns[:, list(QUANTITIES).index("weight_grad_rms")] = np.logspace(-17, -1, turned.layers)
    run = Run(turned, History.restored(columns, np.full((40, 3), 2.3), [], 1, 1000), Status.FINISHED)
    early, late = diagnose(run, 9), diagnose(run)
    assert Verdict.VANISHING in early.findings and Verdict.VANISHING in late.findings
    same = RunConfig(activation="relu", blocks=2, steps=40, batch_norm=True)
    assert early.next_experiment[1] == replace(same, lr=0.1)
    assert late.next_experiment[1] == replace(same, lr=0.01, optimizer="sgd")  # without a treatment that would hide the cure


def test_a_longer_run_turns_the_same_knobs():
    turned = case(Verdict.HEALTHY, changes="10:lr=0.01")
    message, config = next_experiment(turned)
    assert (message.code, config.changes, config.steps) == ("try-longer", turned.config.changes, 120)
