"""One change to a deep LeNet's settings, the one most likely to teach something after what was found."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from gradviz.diagnosis.findings import Verdict
from gradviz.lenet.causes import Case
from gradviz.lenet.config import FIELDS, RunConfig, config_of
from gradviz.messages import Message, say

NORM_DEPTH = 30  # blocks of relu with batch norm above which its own explosion, 1.16 per convolution, passes GAP
ADAM_LR = 1e-3  # PyTorch's default
SLOWEST = FIELDS["lr"].spec.ends[0]
LONGEST, DEEPEST = (int(FIELDS[name].spec.ends[1]) for name in ("steps", "blocks"))

Experiment = tuple[Message, RunConfig]


def next_experiment(case: Case) -> Experiment | None:
    for verdicts, experiment in _AFTER:
        if case.found(*verdicts):
            return experiment(case)
    return None if case.state.run.status.live else _longer(case)


def _change(case: Case, message: Message, **changes: Any) -> Experiment:
    if case.config.treatment == "floor" and "treatment" in changes:
        message = say("sentences", first=message, second=say("try-without-floor"))
    return message, replace(case.config, **changes)


def _untreated(case: Case) -> dict[str, str]:
    """The change that leaves out a treatment that would hide what a cure does."""
    return {"treatment": "none"} if case.config.treatment == "floor" or case.steered else {}


def _slower(case: Case) -> Experiment | None:
    if case.config.lr < 10 * SLOWEST:
        return None
    return _change(case, say("try-slower"), lr=case.config.lr / 10)


def _longer(case: Case) -> Experiment | None:
    """The same run, with what was turned in it."""
    config = config_of(case.state.run) or case.config
    if config.steps >= LONGEST:
        return None
    return say("try-longer"), replace(config, steps=min(LONGEST, 3 * config.steps))


def _shortcut(case: Case) -> Experiment:
    return _change(case, say("try-shortcut"), **_untreated(case), shortcut=True)


def _calm(case: Case) -> Experiment | None:
    config, rectifies = case.config, case.activation.rectifies
    if rectifies and not case.normed and not config.shortcut and case.init > case.critical:
        return _change(case, say("try-critical"), init="critical", init_range=None)
    if config.init_range is not None and case.loud_at_start:
        return _change(case, say("try-default-init"), init_range=None)
    if rectifies and config.shortcut and not config.batch_norm and case.loud_at_start:
        return _change(case, say("try-norm-on-shortcut"), batch_norm=True)
    if config.batch_norm and not config.shortcut and case.exploding_at_start:
        return _shortcut(case)
    return _slower(case)


def _deeper(case: Case) -> Experiment | None:
    if case.config.blocks >= DEEPEST:
        return None
    blocks = min(DEEPEST, max(4, 2 * case.config.blocks))
    return _change(case, say("try-deeper", blocks=blocks), blocks=blocks)


def _carry(case: Case) -> Experiment | None:
    """Something that carries the gradient to the first block."""
    if not case.config.shortcut and case.activation.rectifies and not case.normed and case.config.blocks <= NORM_DEPTH:
        return _change(case, say("try-norm"), **_untreated(case), batch_norm=True)
    return _around(case)


def _around(case: Case) -> Experiment | None:
    return _longer(case) if case.config.shortcut else _shortcut(case)


def _other_steps(case: Case) -> Experiment | None:
    config = case.config
    if case.steered and not config.shortcut:
        return _shortcut(case)
    if config.optimizer != "adam":
        return _change(case, say("try-adam"), optimizer="adam", lr=ADAM_LR)
    if config.lr < ADAM_LR:
        return _change(case, say("try-faster"), lr=10 * config.lr)
    return _slower(case) if config.lr > ADAM_LR else _longer(case)


_AFTER: tuple[tuple[tuple[Verdict, ...], Callable[[Case], Experiment | None]], ...] = (  # the first row that was found decides
    ((Verdict.DIVERGED, Verdict.EXPLODING), _calm),
    ((Verdict.DEAD,), _slower),
    ((Verdict.RECOVERING,), _longer),
    ((Verdict.LEARNING,), _deeper),
    ((Verdict.VANISHED, Verdict.VANISHING), _carry),
    ((Verdict.SATURATED,), _around),
    ((Verdict.UNUSABLE, Verdict.STUCK), _other_steps),
)
