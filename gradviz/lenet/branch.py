"""Runs that begin with the steps of another: what they have in common, and where they part."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from gradviz.lenet.config import RunConfig
from gradviz.record.history import History
from gradviz.record.quantities import QUANTITIES
from gradviz.record.sample import pictured_steps, sampled_steps
from gradviz.train.trainer import test_interval


def same_until(one: RunConfig, other: RunConfig) -> int:
    """The step before which trainings of both are one and the same: 0 if they are two from the beginning."""
    return _parting(one, other) if _plain(one) == _plain(other) else 0


def _plain(config: RunConfig) -> RunConfig:
    """Without what lets two trainings part only later."""
    return replace(config, steps=1, changes=(), warmup=0, schedule="constant")


def _parting(one: RunConfig, other: RunConfig) -> int:
    """The same of two that are plainly the same.

    A change comes right before its step, and so is no part of the state that is kept before that; so does another learning
    rate of a schedule, and that hangs on how many steps there are to be.
    """
    steps, changes = min(one.steps, other.steps), set(one.changes) ^ set(other.changes)
    if (one.is_scheduled or other.is_scheduled) and _paces(one) != _paces(other):
        steps = next((step for step in range(steps) if one.share(step) != other.share(step)), steps)
    return min([steps, *(change.step for change in changes)])


def _paces(config: RunConfig) -> tuple[object, ...]:
    return config.warmup, config.schedule, config.steps


def partings(configs: Sequence[RunConfig]) -> list[tuple[int, int, int]]:
    """(place of one, place of a later one, step) for each that is the same training as an earlier one until that step: of
    several the one that it stays with longest."""
    found, plain = [], [_plain(config) for config in configs]
    for place, config in enumerate(configs):
        alike = [earlier for earlier in range(place) if plain[earlier] == plain[place]]
        until = [(_parting(configs[earlier], config), -earlier) for earlier in alike]
        if until and max(until)[0]:
            step, earlier = max(until)
            found.append((-earlier, place, step))
    return found


def taken_over(history: History, config: RunConfig, step: int) -> History | None:
    """Of the records of a run that is the same as that of `config` until `step` what that one would have recorded itself until
    there; None if that is not in them."""
    found = history.until(step)
    if found is None or found.quantities != tuple(QUANTITIES):
        return None
    interval, sampled, pictured = test_interval(config.steps), sampled_steps(config.steps), pictured_steps(config.steps)
    found.tests = [test for test in found.tests if test[0] % interval == 0]
    samples = [sample for sample in found.samples if sample.step in sampled]
    found.samples = [sample if sample.step in pictured else replace(sample, images=b"") for sample in samples]
    if len(found.tests) < -(-step // interval) or len(samples) < sum(each < step for each in sampled):
        return None  # of a longer run: that looks less often
    return found
