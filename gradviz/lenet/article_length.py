"""Which nets are trained at the article's length, and what its claims look like there."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cache, partial
from typing import Any

import numpy as np

from gradviz.diagnosis.state import GAP
from gradviz.lenet.config import RunConfig
from gradviz.lenet.lessons.evidence import by_depth
from gradviz.lenet.lessons.lesson import NORMAL, TENFOLD, TINY, Finding, Part
from gradviz.lenet.long_runs import AT_CHANCE, BATCH, DIVERGED, STEPS, Keep, LongRun
from gradviz.lenet.naming import net_name
from gradviz.record.reading import decades
from gradviz.words import gettext as _
from gradviz.words import linked, listed, ngettext, number, scientific, sentence

RATES = (("adam", 1e-3), ("adam", 3e-4), ("adam", 1e-4), ("momentum", 1e-2), ("momentum", 1e-1))
DEPTHS = {"sigmoid": (4, 5, 6, 7), "relu": (7, 8, 9, 10, 11)}  # the article's borders are 6 to 7, and 9 to 10
SHALLOWEST, DEEPEST = 1, 20  # how far a border is followed that lies outside of these
SEEDS = (0, 1)  # the second one only near a border


def net(activation: str, blocks: int, **more: Any) -> RunConfig:
    return RunConfig(**{"activation": activation, "blocks": blocks, "batch_size": BATCH, "steps": STEPS, **more})


NINE_RELU = net("relu", 9, lr=3e-4)
SHORTCUT = tuple(net(activation, blocks, shortcut=True) for blocks in (40, 100, 200) for activation in ("relu", "sigmoid"))
BATCH_NORM = tuple(net("relu", blocks, batch_norm=True) for blocks in (20, 40, 60, 80))
_LOUD: dict[str, Any] = {"init_range": 0.3, "optimizer": "sgd", "lr": 0.01}  # explodes, and SGD does not hide it
_CLIPS: tuple[dict[str, Any], ...] = (
    {}, {"treatment": "clip-norm", "threshold": 1.0}, {"treatment": "clip-value", "threshold": 0.01},
)  # fmt: skip
EXPLODING = tuple(net("relu", 4, **_LOUD, **clip) for clip in _CLIPS)
VANISHING = tuple(net("sigmoid", 7, **clip) for clip in _CLIPS)
_FLOOR: dict[str, Any] = {"treatment": "floor", "threshold": 1e-10}
# The floor where the gradient vanishes, and where the net learns without it.
FLOORED = (net("sigmoid", 7, **_FLOOR), net("relu", 9, lr=3e-4, **_FLOOR), net("sigmoid", 2, **_FLOOR))
WHOLE = (SHORTCUT[0],)  # experiment 9 looks at this net after 10 epochs
WIDE = net("relu", 12, init_range=0.5)


def plan() -> list[RunConfig]:
    """What is trained whatever comes out, in the order in which it tells most."""
    grid = [[net(word, blocks, optimizer=optimizer, lr=lr) for word, depths in DEPTHS.items() for blocks in depths]
            for optimizer, lr in RATES]  # fmt: skip
    first, *others = grid
    remedies = [*SHORTCUT[:2], *BATCH_NORM[:2], *EXPLODING, *VANISHING, *FLOORED, WIDE]
    shallow = [net("sigmoid", blocks) for blocks in (1, 2, 3)]
    configs = [NINE_RELU, *first, *shallow, *others[0], *remedies, *(each for grid in others[1:] for each in grid),
               *BATCH_NORM[2:], *SHORTCUT[2:]]  # fmt: skip
    return list(dict.fromkeys(configs))


def is_plain(config: RunConfig) -> bool:
    """Whether it is a net of the tables of depth, optimiser and rate."""
    rate = (config.optimizer, config.lr)
    return rate in RATES and config == net(config.activation, config.blocks, optimizer=rate[0], lr=rate[1], seed=config.seed)


def follow_up(kept: Callable[[RunConfig], LongRun | None]) -> Iterator[RunConfig]:
    """What the kept runs ask for next: the border where the plan did not meet it, and a second seed on both its sides."""
    for activation in DEPTHS:
        for optimizer, lr in RATES:
            at = partial(net, activation, optimizer=optimizer, lr=lr)
            known = {blocks: run for blocks in range(SHALLOWEST, DEEPEST + 1) if (run := kept(at(blocks)))}
            if not known:
                continue
            learnt = [blocks for blocks, run in known.items() if run.trains]
            if not learnt:
                if min(known) > SHALLOWEST:
                    yield at(min(known) - 1)
            elif max(learnt) == max(known):
                if max(known) < DEEPEST:
                    yield at(max(known) + 1)
            if learnt:
                yield at(max(learnt), seed=1)
                if failed := [blocks for blocks in known if blocks > max(learnt)]:
                    yield at(min(failed), seed=1)



# What the runs say


class LongEvidence:
    """The kept long runs, found by their settings; every seed of a setting counts."""

    def __init__(self, runs: Iterable[LongRun]):
        self._runs: dict[RunConfig, list[LongRun]] = {}
        for run in sorted(runs, key=lambda run: run.recipe.seed):
            self._runs.setdefault(replace(run.recipe, seed=0), []).append(run)

    def __iter__(self) -> Iterator[LongRun]:
        return (run for runs in self._runs.values() for run in runs)

    def runs(self, config: RunConfig) -> list[LongRun]:
        """One for each seed; empty if none is kept."""
        return self._runs.get(config, [])

    def trains(self, config: RunConfig) -> bool | None:
        """Whether most seeds learnt; None if none is kept, or if they disagree evenly."""
        learnt = [run.trains for run in self.runs(config)]
        return None if 2 * sum(learnt) == len(learnt) else 2 * sum(learnt) > len(learnt)


@dataclass(frozen=True)
class RateBorder:
    """Where plain nets of one activation stop learning under one optimiser and rate."""

    activation: str
    optimizer: str
    lr: float
    trains: Mapping[int, bool | None]  # blocks -> whether most seeds learnt, None if evenly divided; by rising depth

    @property
    def deepest(self) -> int | None:
        return max((blocks for blocks, learnt in self.trains.items() if learnt), default=None)

    @property
    def text(self) -> str:
        """'adam 0.001: learnt up to 3 blocks, not at 4'"""
        rate = f"{self.optimizer} {self.lr:g}"
        failed = [blocks for blocks, learnt in self.trains.items() if learnt is False]
        after = next((blocks for blocks in failed if blocks > (self.deepest or 0)), math.inf)
        divided = [blocks for blocks, learnt in self.trains.items() if learnt is None and blocks < after]
        if self.deepest is None:
            text = _("{rate}: none that was tried learnt with most seeds") if divided else _("{rate}: none that was tried learnt")
            text += _(", from {n} blocks on")
        elif max(self.trains) == self.deepest:
            text = _("{rate}: learnt up to {n} blocks, the deepest that was tried")
        else:
            text = _("{rate}: learnt up to {n} blocks")
        not_at = [blocks for blocks in failed if self.deepest and blocks <= after]
        if not_at:
            text += _(", not at {m}")
        if divided:
            text += _(", at {k} one seed of two")
        return text.format(rate=rate, n=self.deepest or min(self.trains), m=listed(map(str, not_at)),
                           k=listed(map(str, divided)))  # fmt: skip


def border_at(e: LongEvidence, activation: str, optimizer: str, lr: float) -> RateBorder | None:
    """None if nothing of it is kept."""
    depths = {n: net(activation, n, optimizer=optimizer, lr=lr) for n in range(SHALLOWEST, DEEPEST + 1)}
    trains = {n: e.trains(config) for n, config in depths.items() if e.runs(config)}
    return RateBorder(activation, optimizer, lr, trains) if trains else None


def borders(e: LongEvidence, activation: str) -> list[RateBorder]:
    return [found for rate in RATES if (found := border_at(e, activation, *rate))]


def told(*runs: LongRun) -> str:
    """'9 blocks relu adam 0.0003 learnt (accuracy 90 % after 7,812 steps); …'"""
    return linked(
        _("{name} {rate} {outcome} (accuracy {accuracy:.0%} after {steps:,} steps)").format(
            name=net_name(run.recipe), rate=f"{run.recipe.lr:g}", outcome=_(run.outcome), accuracy=run.accuracy, steps=run.steps
        )
        for run in runs
    )


def _told(e: LongEvidence, *configs: RunConfig) -> str:
    return told(*(run for config in configs for run in e.runs(config))) or _("not run")


def _blocks(run: LongRun, quantity: str, last: bool = False) -> np.ndarray:
    """float64 (block convolutions,)"""
    return np.array((run.end if last else run.start)[quantity])[run.recipe.layout.inside]


def _gap(run: LongRun, quantity: str = "weight_grad_rms", last: bool = False) -> float:
    """log10 of the first over the last block convolution."""
    values = _blocks(run, quantity, last)
    return decades(float(values[0]), float(values[-1]))


def _holds_at(found: list[RateBorder], blocks: int, want: bool) -> bool | None:
    """Whether a net of so many blocks learnt under at least one rate (`want`), or under none of them (not `want`).

    None while no rate has said yes and some have not been asked.
    """
    learnt = [border.trains.get(blocks) for border in found]
    if any(learnt):
        return want
    return None if learnt.count(False) < len(RATES) else not want


def _none(*learnt: bool | None) -> bool | None:
    """Whether none of them did: one that did decides, else one that is open leaves it open."""
    return False if True in learnt else None if None in learnt else True


def _border_text(found: list[RateBorder]) -> str:
    return linked(border.text for border in found)


def _sigmoid_depth(e: LongEvidence) -> Finding | None:
    found = borders(e, "sigmoid")
    seven, usual = e.runs(net("sigmoid", 7)), border_at(e, "sigmoid", *RATES[0])
    if not seven or usual is None:
        return None
    steps = {
        blocks: min(run.learnt_at for run in e.runs(net("sigmoid", blocks)) if run.learnt_at is not None)
        for blocks, learnt in usual.trains.items() if learnt
    }  # fmt: skip
    gap = _gap(seven[0])
    return Finding(
        (
            Part(
                _("More blocks train more slowly."), steps[max(steps)] > steps[min(steps)] if len(steps) > 1 else None,
                _("Steps until learnt, Adam 0.001: {steps}.").format(
                    steps=by_depth(steps) or _("no net learnt")
                ),
            ),
            Part(_("6 blocks still train, under some rate."), _holds_at(found, 6, True), sentence(_border_text(found))),
            Part(_("7 blocks do not, under any rate."), _holds_at(found, 7, False), sentence(_border_text(found))),
            Part(
                _("The gradient vanishes from the last layer towards the first."), gap < -GAP,
                _("7 blocks, first over last block at step 0: {gap}.").format(gap=scientific(gap)),
            ),
        ),
        max((border.deepest or 0 for border in found), default=0) + 1.0,
        sentence(_border_text(found)),
    )  # fmt: skip


def _relu_depth(e: LongEvidence) -> Finding | None:
    relu, sigmoid = borders(e, "relu"), borders(e, "sigmoid")
    ten = e.runs(net("relu", 10))
    if not relu or not sigmoid or not ten:
        return None
    deepest = {(border.optimizer, border.lr): border.deepest for border in relu}
    pairs = [(deepest.get((border.optimizer, border.lr)), border.deepest) for border in sigmoid if border.deepest is not None]
    later = [None if one is None else one > other for one, other in pairs]  # None: no relu net has learnt there yet
    gap = _gap(ten[0])
    return Finding(
        (
            Part(_("Relu vanishes too."), gap < -GAP,
                 _("10 blocks, first over last block at step 0: {gap}.").format(gap=scientific(gap))),
            Part(_("Only later than sigmoid."), False if False in later else None if None in later or not later else True,
                 _("Relu {relu}. Sigmoid {sigmoid}.").format(relu=_border_text(relu), sigmoid=_border_text(sigmoid))),
            Part(_("9 blocks still train, under some rate."), _holds_at(relu, 9, True),
                 sentence(_told(e, *(net("relu", 9, optimizer=optimizer, lr=lr) for optimizer, lr in RATES)))),
            Part(_("10 blocks do not, under any rate."), _holds_at(relu, 10, False),
                 sentence(_told(e, *(net("relu", 10, optimizer=optimizer, lr=lr) for optimizer, lr in RATES)))),
        ),
        max((border.deepest or 0 for border in relu), default=0) + 1.0,
        sentence(_border_text(relu)),
    )  # fmt: skip


def _clipping(e: LongEvidence) -> Finding | None:
    if not all(map(e.runs, EXPLODING + VANISHING)):
        return None
    free, *clipped = (e.runs(config)[0] for config in EXPLODING)
    calmed = free.outcome == DIVERGED and all(run.outcome != DIVERGED for run in clipped)
    cured = [e.trains(config) for config in VANISHING[1:]]
    return Finding(
        (
            Part(_("Clipping controls explosion: the loss stays finite."), calmed, sentence(_told(e, *EXPLODING))),
            Part(_("Clipping does nothing for vanishing."), _none(*cured, e.trains(VANISHING[0])),
                 sentence(_told(e, *VANISHING))),
        ),
        None,
        sentence(_told(e, EXPLODING[0], EXPLODING[1], VANISHING[1])),
    )  # fmt: skip


def _floor(e: LongEvidence) -> Finding | None:
    if not all(map(e.runs, FLOORED)):
        return None
    free = [replace(config, treatment="none") for config in FLOORED]
    spoilt = [config for config, plain in zip(FLOORED, free, strict=True) if e.trains(plain) and not e.trains(config)]
    learns_without = [config for config, plain in zip(FLOORED, free, strict=True) if e.trains(plain)]
    return Finding(
        (
            Part(_("Where the gradient has vanished, raising small entries to 10⁻¹⁰ does not make the net train."),
                 _none(e.trains(FLOORED[0])), sentence(_told(e, free[0], FLOORED[0]))),
            Part(_("It spoils nets that train without it."), len(spoilt) == len(learns_without) if learns_without else None,
                 sentence(_told(e, *free[1:], *FLOORED[1:]))),
        ),
        None,
        sentence(_told(e, *FLOORED)),
    )  # fmt: skip


def _batch_norm(e: LongEvidence) -> Finding | None:
    tried = [config for config in BATCH_NORM if e.runs(config)]
    if not tried:
        return None
    plain = net("relu", 11)
    cures = _none(e.trains(plain), _none(e.trains(tried[0])))  # neither the plain net learnt, nor did the cured one not
    parts = [Part(_("Batch norm cures vanishing."), cures, sentence(_told(e, plain, tried[0])))]
    for config in BATCH_NORM[1:3]:
        parts.append(Part(_("{n} blocks train.").format(n=config.blocks), e.trains(config), sentence(_told(e, config))))
    deepest = BATCH_NORM[3]
    parts.append(Part(_("80 blocks do not."), _none(e.trains(deepest)), sentence(_told(e, deepest))))
    return Finding(tuple(parts), None, sentence(_told(e, *tried)))


def _shortcut(e: LongEvidence) -> Finding | None:
    tried = [config for config in SHORTCUT if e.runs(config)]
    if not tried:
        return None
    gaps = {config: _gap(e.runs(config)[0]) for config in tried}
    by_depth = [[config for config in SHORTCUT if config.blocks == blocks] for blocks in (40, 100, 200)]
    parts = [
        Part(
            _("{n} blocks train.").format(n=nets[0].blocks),
            None if None in (held := [e.trains(config) for config in nets]) else all(held), sentence(_told(e, *nets)),
        )
        for nets in by_depth
    ]  # fmt: skip
    vanished = Part(
        _("Nothing vanishes at the start."), min(gaps.values()) > -GAP,
        _("First over last block at step 0: {gaps}.").format(
            gaps=listed(f"{net_name(config)} {scientific(gap)}" for config, gap in gaps.items())
        ),
    )  # fmt: skip
    return Finding((vanished, *parts), None, sentence(_told(e, *tried)))


def _bypass(e: LongEvidence) -> Finding | None:
    runs = [run for run in e.runs(WHOLE[0]) if run.test_accuracy is not None]
    if not runs:
        return None
    run = runs[0]
    gradient = _blocks(run, "weight_grad_rms", last=True)
    weight = _blocks(run, "weight_rms", last=True) / _blocks(run, "weight_rms")
    middle = float(np.median(gradient))
    tiny = int((gradient < TINY * middle).sum())
    return Finding(
        (
            Part(_("After 10 epochs some layers have zero or tiny gradients."), tiny > 0,
                 _("{count} of {all} block convolutions have less than {tiny} of the median gradient {middle}.").format(
                     count=tiny, all=len(gradient), tiny=TINY, middle=number(middle))),
            Part(_("This does no harm: the net has learnt."), run.trains,
                 _("Test accuracy {accuracy:.1%}.").format(accuracy=run.test_accuracy)),
            Part(_("The weights of all layers stay normal."), bool(NORMAL[0] < weight.min() and weight.max() < NORMAL[1]),
                 _("Weight RMS over that at the start: {low} to {high}.").format(
                     low=number(float(weight.min())), high=number(float(weight.max())))),
        ),
        None,
        _("Smallest gradient {smallest}, median {middle}.").format(smallest=number(float(gradient.min())), middle=number(middle)),
    )  # fmt: skip


def _exploding(e: LongEvidence) -> Finding | None:
    if not e.runs(WIDE):
        return None
    run = e.runs(WIDE)[0]
    return Finding(
        (
            Part(_("The weight gradients grow layer by layer on the way back."), _gap(run) > math.log10(TENFOLD),
                 _("First over last block at step 0, weight gradient: {gap}.").format(gap=scientific(_gap(run)))),
            Part(_("The backward signal does."), _gap(run, "signal_rms") > GAP,
                 _("First over last block at step 0, backward signal: {gap}.").format(gap=scientific(_gap(run, "signal_rms")))),
            Part(_("Training is hard."), _none(e.trains(WIDE)), sentence(_told(e, WIDE))),
        ),
        None,
        sentence(_told(e, WIDE)),
    )  # fmt: skip


def _dynamics(e: LongEvidence) -> Finding | None:
    sigmoid = [run for n in range(1, 8) for run in e.runs(net("sigmoid", n))[:1]]
    plain = [run for run in e if is_plain(run.recipe)]
    learnt = [run for run in plain if run.trains]
    # Where a layer died, what lies before it reads 0 for that reason: no word on vanishing.
    stuck = [run for run in plain if run.recipe.activation == "sigmoid" and run.outcome == AT_CHANCE]
    if len(sigmoid) < 3 or not learnt or not stuck:
        return None
    gaps = {run.recipe.blocks: _gap(run) for run in sigmoid}
    rises = [max(point[3] for point in run.curve) / run.curve[0][3] for run in learnt if run.curve[0][3] > 0]
    deepest = max(stuck, key=lambda run: run.recipe.blocks)
    still = deepest.curve[-1][3] < TENFOLD**2 * deepest.curve[0][3]
    zero = deepest.curve[-1][3]
    values = list(gaps.values())
    return Finding(
        (
            Part(_("At the start gradients shrink from the last to the first layer, the more the deeper the net."),
                 max(values) < 0 and all(a > b for a, b in itertools.pairwise(values)),
                 listed(ngettext("{n} block {gap}", "{n} blocks {gap}", n).format(n=n, gap=scientific(gap))
                           for n, gap in gaps.items()) + "."),
            Part(_("In nets that are not too deep the first layers' gradients recover as training goes on."),
                 min(rises) >= TENFOLD,
                 _("Largest gradient of the first block over that at step 0, in {n} nets that learnt: ×{low} to ×{high}.").format(
                     n=len(rises), low=number(min(rises)), high=number(max(rises)))),
            Part(_("Past some depth they never recover, and the net cannot train."), still,
                 sentence(_told(e, replace(deepest.recipe, seed=0)))),
            Part(_("There they fall to 0."), zero == 0,
                 _("{name} {rate}: first block {zero} at the end.").format(
                     name=net_name(deepest.recipe), rate=f"{deepest.recipe.lr:g}", zero=number(zero))),
        ),
        None,
        _("The first block's gradient grew ×{low} to ×{high} in {n} nets that learnt.").format(
            n=len(rises), low=number(min(rises)), high=number(max(rises))),
    )  # fmt: skip


_CHECKS: dict[str, Callable[[LongEvidence], Finding | None]] = {  # lesson -> what its long runs say
    "sigmoid-depth": _sigmoid_depth,
    "exploding-init": _exploding,
    "dynamics": _dynamics,
    "relu-depth": _relu_depth,
    "clipping": _clipping,
    "floor": _floor,
    "batch-norm": _batch_norm,
    "shortcut": _shortcut,
    "bypass": _bypass,
}


def findings(runs: Iterable[LongRun]) -> dict[str, Finding]:
    """Lesson id -> what the kept long runs say to its claim; only lessons to which they say something."""
    evidence = LongEvidence(runs)
    return {id: finding for id, check in _CHECKS.items() if (finding := check(evidence))}


@cache
def kept_runs() -> tuple[LongRun, ...]:
    """Those that come with gradviz; they do not change while it runs. None where the file is missing. Raises KeepError."""
    return tuple(Keep())


def missing(kept: Callable[[RunConfig], LongRun | None]) -> list[RunConfig]:
    """What the plan names and nobody has run yet."""
    return [config for config in dict.fromkeys([*plan(), *follow_up(kept)]) if kept(config) is None]
