"""What one run of a deep LeNet came to, and where a remedy stops training over depth."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from gradviz.diagnosis.state import LEFT_CHANCE
from gradviz.lenet.config import RunConfig
from gradviz.lenet.diagnosis import CHANCE, LOUD
from gradviz.messages import Message, say
from gradviz.record.run import Run, Status
from gradviz.words import N_
from gradviz.words import gettext as _

WINDOW = 20  # steps whose mean loss is judged: one batch of 32 scatters by up to 0.1
MARGIN = 0.5  # nats under chance: a fifth of the way down, and five times what the loss of a net that learns nothing scatters
TRAINED_BELOW = CHANCE - MARGIN

TRAINED, STARTED, STUCK, DIVERGED = N_("trained"), N_("started"), N_("stuck"), N_("diverged")
SHORT, UNFINISHED, FAILED = N_("not judged"), N_("unfinished"), N_("failed")
JUDGED = (TRAINED, STARTED, STUCK, DIVERGED)
OUTCOMES: dict[str, Message] = {  # the definitions, as the page shows them
    TRAINED: say("means-trained", steps=WINDOW, below=TRAINED_BELOW, chance=CHANCE, margin=MARGIN),
    STARTED: say("means-started", below=CHANCE - LEFT_CHANCE, margin=LEFT_CHANCE),
    STUCK: say("means-stuck", above=CHANCE - LEFT_CHANCE),
    DIVERGED: say("means-diverged", above=LOUD),
    SHORT: say("means-short", steps=WINDOW),
    UNFINISHED: say("means-unfinished"),
    FAILED: say("means-failed"),
}


@dataclass(frozen=True)
class Result:
    """What one run says, in a few numbers."""

    outcome: str  # a word of OUTCOMES
    loss: float  # mean of the last WINDOW steps; may be inf or nan
    steps: int  # done
    trained_at: int | None  # first step at which the mean of WINDOW steps was under TRAINED_BELOW
    ratio: float  # weight gradient of the first over the last block convolution, at step 0; nan without a step
    front: float  # weight-gradient RMS of the first block convolution (conv1 without blocks), at step 0
    seconds: float  # of training


def result(run: Run[RunConfig]) -> Result:
    """Judges a run, live or ended, by its record."""
    history = run.history.snapshot()
    if not history.steps:
        return Result(FAILED if run.status is Status.FAILED else UNFINISHED, math.nan, 0, None, math.nan, math.nan, 0.0)
    start = history.quantity("weight_grad_rms")[0].astype(float)
    first, last = run.recipe.layout.ends
    with np.errstate(all="ignore"):
        ratio = float(np.divide(start[first], start[last]))
    loss = float(np.mean(history.loss[-WINDOW:]))
    return Result(
        _outcome(run, history.steps, loss, float(history.loss[-1])), loss, history.steps,
        _trained_at(history.loss), ratio, float(start[first]), float(history.seconds[-1]),
    )  # fmt: skip


def _outcome(run: Run[RunConfig], steps: int, loss: float, last_loss: float) -> str:
    if run.status is Status.DIVERGED or not math.isfinite(last_loss):
        return DIVERGED
    if steps >= WINDOW and loss < TRAINED_BELOW:
        return TRAINED
    if run.status is Status.FAILED:
        return FAILED
    if steps < run.recipe.steps:
        return UNFINISHED
    if loss >= LOUD:
        return DIVERGED
    if steps < WINDOW:
        return SHORT
    return STARTED if loss < CHANCE - LEFT_CHANCE else STUCK


def _trained_at(loss: np.ndarray) -> int | None:
    if len(loss) < WINDOW:
        return None
    means = np.convolve(np.minimum(np.nan_to_num(loss, nan=np.inf), 1e6), np.ones(WINDOW) / WINDOW, "valid")
    below = np.flatnonzero(means < TRAINED_BELOW)
    return int(below[0]) + WINDOW - 1 if len(below) else None


def looked(run: Run[RunConfig]) -> bool:
    """Whether a run that is only asked for its gradients has shown them: the test at its end would take far longer."""
    return run.recipe.steps < WINDOW and run.history.steps == run.recipe.steps


def trained_already(run: Run[RunConfig]) -> bool:
    """Whether it counts as trained now: cheap enough to ask after every step."""
    loss = run.history.loss[-WINDOW:]
    return len(loss) == WINDOW and bool(np.mean(loss) < TRAINED_BELOW)


@dataclass(frozen=True)
class Border:
    """Where one remedy stops training over depth. A depth counts as trained if more than half of its ended runs are."""

    deepest_trained: int | None  # of the depths before the first failed one
    first_failed: int | None  # None: every depth that was tried trained
    shares: dict[int, tuple[int, int]]  # blocks -> (trained, ended)

    @property
    def text(self) -> str:
        if self.deepest_trained is None:
            return _("none that was tried trained") if self.shares else _("not run yet")
        if self.first_failed is None:
            return _("trained at every depth tried, up to {deepest} blocks").format(deepest=self.deepest_trained)
        return _("trained up to {deepest} blocks, no longer at {failed}").format(
            deepest=self.deepest_trained, failed=self.first_failed
        )


def border(results: Iterable[tuple[RunConfig, Result]]) -> Border:
    """Of the runs of one remedy. Only those of an outcome in JUDGED count."""
    counts: dict[int, list[bool]] = {}
    for config, found in results:
        if found.outcome in JUDGED:
            counts.setdefault(config.blocks, []).append(found.outcome == TRAINED)
    shares = {blocks: (sum(trained), len(trained)) for blocks, trained in sorted(counts.items())}
    failed = next((blocks for blocks, (trained, ended) in shares.items() if 2 * trained <= ended), None)
    before = [blocks for blocks in shares if failed is None or blocks < failed]
    return Border(before[-1] if before else None, failed, shares)
