"""What may be turned while a net trains, and when: the changes of a RunConfig."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, NamedTuple

from gradviz.lenet.fields import ConfigError, Spec, to_word
from gradviz.messages import Message, say

MOST_CHANGES = 50  # of one run


class Change(NamedTuple):
    """Right before this step the setting `field` becomes `value`."""

    step: int
    field: str
    value: Any

    def __str__(self) -> str:
        return f"{self.step}:{self.field}={to_word(self.value)}"


@dataclass(frozen=True)
class Knobs:
    """What may be another at each step."""

    treatment: str
    threshold: float
    optimizer: str
    lr: float


KNOBS = tuple(Knobs.__dataclass_fields__)


@dataclass(frozen=True)
class ChangesSpec(Spec):
    """Of a tuple of changes, by rising step; a word such as '120:lr=0.0003,150:optimizer=sgd' is understood."""

    of: Mapping[str, Spec] = field(default_factory=dict)  # the settings that may change

    @property
    def range(self) -> Message:
        return say("range-changes", names=", ".join(self.of), most=MOST_CHANGES)

    def read(self, name: str, given: Any) -> tuple[Change, ...]:
        parts = given.split(",") if isinstance(given, str) else given
        if not isinstance(parts, (list, tuple)) or len(parts) > MOST_CHANGES:
            shown = str(given)[:40]
            raise ConfigError(name, say("setting-range", label=self.label, name=name, range=self.range, given=shown))
        changes = sorted((self._read(name, part) for part in parts), key=lambda change: (change.step, KNOBS.index(change.field)))
        for one, other in pairwise(changes):
            if one[:2] == other[:2]:
                told = {"label": self.of[one.field].label, "field": one.field}
                raise ConfigError(name, say("change-twice", of=self.label, name=name, step=one.step, **told))
        return tuple(changes)

    def _read(self, name: str, given: Any) -> Change:
        refusal = say("setting-range", label=self.label, name=name, range=self.range, given=str(given)[:40])
        if isinstance(given, str):
            step, _colon, rest = given.partition(":")
            word, equals, value = rest.partition("=")
            if not equals or not (step.isascii() and step.isdecimal() and len(step) < 12):
                raise ConfigError(name, refusal)
            given = (int(step), word, value)
        if not isinstance(given, (list, tuple)) or len(given) != 3:
            raise ConfigError(name, refusal)
        step, word, value = given
        if isinstance(step, bool) or not isinstance(step, int) or not isinstance(word, str):
            raise ConfigError(name, refusal)
        if word not in self.of:
            raise ConfigError(name, say("change-no-knob", label=self.label, name=name, given=word[:40], names=", ".join(self.of)))
        try:
            return Change(step, word, self.of[word].read(word, value))
        except ConfigError as error:
            raise ConfigError(name, say("change-value", label=self.label, name=name, step=step, problem=error.message)) from None


def check_steps(name: str, label: str, changes: Iterable[Change], steps: int) -> None:
    """Raises ConfigError for a change before step 1, which the settings themselves would say, or after the last step."""
    for change in changes:
        if not 1 <= change.step < steps:
            code = "change-step" if steps > 1 else "change-no-step"
            raise ConfigError(name, say(code, label=label, name=name, last=steps - 1, steps=steps, step=change.step))


def effective(first: Knobs, changes: Iterable[Change]) -> tuple[Change, ...]:
    """The changes that are ones: what is already so is left out, and a threshold that nothing uses. Equal lists train alike."""
    asked = dict(vars(first))
    said = dict(asked)
    found: list[Change] = []
    by_step: dict[int, list[Change]] = {}
    for change in changes:
        by_step.setdefault(change.step, []).append(change)
    for step, each in by_step.items():
        asked |= {change.field: change.value for change in each}
        names = [name for name in KNOBS if asked[name] != said[name] and (name != "threshold" or asked["treatment"] != "none")]
        found += [Change(step, name, asked[name]) for name in names]
        said |= {name: asked[name] for name in names}
    return tuple(found)
