"""The article's ten claims, and what it missed, as lessons: predict first, then run, then compare.

A lesson is data and one function. The function takes the claim apart into statements that the recorded numbers of
its runs hold or do not hold; the verdict on the claim is computed from these statements and nothing else.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from gradviz.lenet.config import RunConfig
from gradviz.lenet.lessons.evidence import Evidence
from gradviz.lenet.outcome import TRAINED, looked, result
from gradviz.lenet.sweep import Sweep
from gradviz.record.run import Run, Status

REPRODUCED, PARTLY, NOT, OPEN = "reproduced", "partly", "not", "open"
RESULTS: dict[str, str] = {
    REPRODUCED: "every statement of the claim held in these runs",
    PARTLY: "some statements of the claim held in these runs, others did not",
    NOT: "no statement of the claim held in these runs",
    OPEN: "these runs do not settle every statement of the claim",
}

STEPS = 300  # of nets without a remedy: the slowest that trained in our searches needed 276
DEEP_STEPS = 200  # of nets with batch norm or shortcut, which train sooner if they train
LOOK = 2  # steps of a run that is only asked for its gradients at initialisation
FLAT = 1.05  # a factor per convolution within 1/1.05 … 1.05 is no growth: 24 convolutions make it 3 at most
TENFOLD = 10.0
TINY = 1e-3  # of the median layer: what counts as a tiny gradient beside its neighbours
NORMAL = (0.5, 2.0)  # weights are normal if their RMS stays within these times that at the start
BATCH = 32
SEEDS = 3  # of a net near a border
FEW = 8  # images per step of a net of 1000 blocks, so that a laptop does it


@dataclass(frozen=True)
class Part:
    """One statement of a claim, and what the runs say to it."""

    statement: str
    holds: bool | None  # None: these runs cannot tell
    measured: str  # one sentence with the numbers


@dataclass(frozen=True)
class Finding:
    """The outcome of a lesson. `answer` is the measured answer to its question: a word of its choices, or a number."""

    parts: tuple[Part, ...]
    answer: str | float | None
    answer_text: str

    @property
    def result(self) -> str:
        """A word of RESULTS."""
        held = [part.holds for part in self.parts]
        if True in held and False in held:
            return PARTLY
        return OPEN if None in held or not held else REPRODUCED if all(held) else NOT


@dataclass(frozen=True)
class Lesson:
    id: str  # its word in the URL
    claim: int | None  # number in the article; None for what the article missed
    title: str
    says: str  # the claim, as the article or theory has it
    question: str
    choices: Mapping[str, str]  # word -> answer; empty if a number is asked for
    explanation: str
    plan: Callable[[], list[RunConfig]]
    check: Callable[[Evidence], Finding]
    number: tuple[float, float, str] | None = None  # lowest, highest, unit
    early: bool = True  # see Sweep
    quantity: str = "weight_grad_rms"  # what its picture shows
    look_at: tuple[str, ...] = field(default=("profile", "loss"))  # pictures: profile, loss, border

    def configs(self, dataset: str = "mnist", seeds: Iterable[int] = (0,)) -> list[RunConfig]:
        """Its runs, sized for a laptop, quickest answers first. `seeds` are counted from those that the plan has."""
        return [replace(config, dataset=dataset, seed=config.seed + seed) for seed in seeds for config in self.plan()]

    def sweep(self, dataset: str = "mnist", seeds: Iterable[int] = (0,)) -> Sweep:
        return Sweep(f"lesson {self.id}", tuple(dict.fromkeys(self.configs(dataset, seeds))), self.early)

    def conclude(self, runs: Iterable[Run[RunConfig]]) -> Finding:
        """What the runs say. Raises KeyError if one of the lesson's configs has no run."""
        return self.check(Evidence(runs))

    def read(self, prediction: str | None) -> str | None:
        """The word of a link, if it is an answer that this lesson offers."""
        if prediction is None or (self.choices and prediction in self.choices):
            return prediction
        try:
            low, high, _unit = self.number or (0, -1, "")
            return prediction if low <= float(prediction) <= high else None
        except ValueError:
            return None

    def judge(self, prediction: str | float, finding: Finding) -> bool | None:
        """Whether the prediction was right: the same choice, or a number within a fifth (and within 1 of a whole one)."""
        if finding.answer is None:
            return None
        if isinstance(finding.answer, str):
            return prediction == finding.answer
        room = max(0.2 * abs(finding.answer), 1.0 if finding.answer >= 3 else 0.1)
        return abs(float(prediction) - finding.answer) <= room


# Nets


def recipe(activation: str, blocks: int, **more: Any) -> RunConfig:
    steps = DEEP_STEPS if more.get("batch_norm") or more.get("shortcut") else STEPS
    return RunConfig(**{"activation": activation, "blocks": blocks, "batch_size": BATCH, "steps": steps, **more})


def thousand(activation: str) -> RunConfig:
    return recipe(activation, 1000, shortcut=True, batch_size=FEW, steps=LOOK)


def with_seeds(nets: Iterable[RunConfig], near: Callable[[RunConfig], bool]) -> list[RunConfig]:
    """Those near a border with SEEDS seeds: on which side one run of them ends is decided by its last digits."""
    return [replace(net, seed=seed) for net in nets for seed in range(SEEDS if near(net) else 1)]


def ended(run: Run[RunConfig] | None, early: bool) -> bool:
    """Whether a run is of use to a lesson: it came to its end, or to 'trained' where that is enough."""
    if run is None or run.status.live:
        return False
    return run.status in (Status.FINISHED, Status.DIVERGED) or looked(run) or (early and result(run).outcome == TRAINED)
