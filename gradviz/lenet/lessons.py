"""The article's ten claims, and what it missed, as lessons: predict first, then run, then compare.

A lesson is data and one function. The function takes the claim apart into statements that the recorded numbers of
its runs hold or do not hold; the verdict on the claim is computed from these statements and nothing else.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from statistics import median

import numpy as np

from gradviz.diagnosis.diagnose import GAP
from gradviz.lenet.config import RunConfig
from gradviz.lenet.sweep import DIVERGED, TRAINED, Result, Sweep, border, looked, remedy_name, result
from gradviz.record.float32 import ADAM_EPS, SMALLEST, SMALLEST_NORMAL
from gradviz.record.quantities import QUANTITIES
from gradviz.record.run import Run, Status
from gradviz.words import gettext as _
from gradviz.words import ngettext, number, scientific

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
DECADE = 10.0
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


class Evidence:
    """The runs of a lesson, found by their settings whatever the data set, the device and the seed."""

    def __init__(self, runs: Iterable[Run]):
        self._runs: dict[RunConfig, list[Run]] = {}
        for run in runs:
            self._runs.setdefault(_bare(run.recipe), []).append(run)

    def runs(self, config: RunConfig) -> list[Run]:
        """One for each seed. Raises KeyError if the lesson has no such run."""
        return self._runs[_bare(config)]

    def run(self, config: RunConfig) -> Run:
        """The one with the smallest seed."""
        return min(self.runs(config), key=lambda run: run.recipe.seed)

    def results(self, config: RunConfig) -> list[Result]:
        return [result(run) for run in self.runs(config)]

    def outcome(self, config: RunConfig) -> str:
        """The outcome of most seeds; of a tie, the one that is not 'trained'."""
        words = [found.outcome for found in self.results(config)]
        return max(dict.fromkeys(words), key=lambda word: (words.count(word), word != TRAINED))

    def trained(self, config: RunConfig) -> bool | None:
        """Whether more than half of its seeds trained; None if exactly half did."""
        return _most(found.outcome == TRAINED for found in self.results(config))


def _most(held: Iterable[bool | None]) -> bool | None:
    """What more than half of those that could tell say; None if they disagree evenly, or none could."""
    told = [each for each in held if each is not None]
    return None if 2 * sum(told) == len(told) else 2 * sum(told) > len(told)


def _not(held: bool | None) -> bool | None:
    return None if held is None else not held


def _all(*held: bool | None) -> bool | None:
    """One that does not hold decides; else one that is open leaves it open."""
    return False if False in held else None if None in held else True


def _none(*held: bool | None) -> bool | None:
    return _all(*map(_not, held))


def _bare(config: RunConfig) -> RunConfig:
    return replace(config, dataset="mnist", device="auto", seed=0)


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

    def conclude(self, runs: Iterable[Run]) -> Finding:
        """What the runs say. Raises KeyError if one of the lesson's configs has no run."""
        return self.check(Evidence(runs))

    def judge(self, prediction: str | float, finding: Finding) -> bool | None:
        """Whether the prediction was right: the same choice, or a number within a fifth (and within 1 of a whole one)."""
        if finding.answer is None:
            return None
        if isinstance(finding.answer, str):
            return prediction == finding.answer
        room = max(0.2 * abs(finding.answer), 1.0 if finding.answer >= 3 else 0.1)
        return abs(float(prediction) - finding.answer) <= room


# Nets


def _net(activation: str, blocks: int, **more: object) -> RunConfig:
    steps = DEEP_STEPS if more.get("batch_norm") or more.get("shortcut") else STEPS
    return RunConfig(**{"activation": activation, "blocks": blocks, "batch_size": BATCH, "steps": steps, **more})


def _seeds(nets: Iterable[RunConfig], near: Callable[[RunConfig], bool]) -> list[RunConfig]:
    """Those near a border with SEEDS seeds: on which side one run of them ends is decided by its last digits."""
    return [replace(net, seed=seed) for net in nets for seed in range(SEEDS if near(net) else 1)]


# What the records say


def quantity_at(run: Run, quantity: str, last: bool = False) -> np.ndarray:
    """float64 (layers,) at step 0, or in the last column."""
    return run.history.snapshot().columns[-1 if last else 0, list(QUANTITIES).index(quantity)].astype(float)


def inside(run: Run) -> slice:
    """The block convolutions, or the stem in a net without blocks."""
    return slice(run.recipe.layout.front, run.recipe.layout.back + 1)


def factor(run: Run, quantity: str = "weight_grad_rms") -> float:
    """Per block convolution towards the input, at step 0: least squares on log10; nan with fewer than 3 normal numbers."""
    values = quantity_at(run, quantity)[inside(run)]
    places = np.flatnonzero(np.isfinite(values) & (values > SMALLEST_NORMAL))
    if len(places) < 3:
        return math.nan
    return float(10 ** -np.polyfit(places, np.log10(values[places]), 1)[0])


def ends(run: Run, quantity: str = "weight_grad_rms", last: bool = False) -> tuple[float, float]:
    """First and last block convolution."""
    values = quantity_at(run, quantity, last)[inside(run)]
    return float(values[0]), float(values[-1])


def decades(first: float, last: float) -> float:
    """log10(first / last), 0 read as the smallest float32 number."""
    return math.log10(max(first, SMALLEST)) - math.log10(max(last, SMALLEST))


def _told(e: Evidence, *configs: RunConfig) -> str:
    """'2 blocks sigmoid trained (loss 1.79 after 276 steps); 4 blocks sigmoid: 1 of 3 seeds trained (loss 1.79, 2.30, 2.31)'"""
    return "; ".join(_told_one(net_name(replace(config, seed=0)), e.results(config)) for config in configs)


def _told_one(name: str, results: list[Result]) -> str:
    if len(results) > 1:
        return _("{name}: {trained} of {seeds} seeds trained (loss {losses})").format(
            name=name, trained=sum(found.outcome == TRAINED for found in results), seeds=len(results),
            losses=", ".join(number(found.loss, 3) for found in results),
        )  # fmt: skip
    (found,) = results
    return ngettext(
        "{name} {outcome} (loss {loss} after {steps} step)", "{name} {outcome} (loss {loss} after {steps} steps)", found.steps
    ).format(name=name, outcome=_(found.outcome), loss=number(found.loss, 3), steps=found.steps)


def net_name(config: RunConfig) -> str:
    """'7 blocks sigmoid', '10 blocks relu + batch norm momentum', ..."""
    parts = [ngettext("{n} block", "{n} blocks", config.blocks).format(n=config.blocks), remedy_name(config)]
    parts += [config.optimizer] if config.optimizer != "adam" else []
    parts += [f"±{config.init_range:g}"] if config.init_range is not None else []
    parts += [_("seed {seed}").format(seed=config.seed)] if config.seed else []
    return " ".join(parts)


def by_depth(steps: Mapping[int, float]) -> str:
    """'1 block 142, 2 blocks 1,275'"""
    return ", ".join(
        ngettext("{n} block {steps:,.0f}", "{n} blocks {steps:,.0f}", n).format(n=n, steps=count) for n, count in steps.items()
    )


def _profile(run: Run, quantity: str = "weight_grad_rms") -> str:
    """'last block 1.2e-2, first block 3.4e-21, factor 0.12 per convolution'"""
    first, last = ends(run, quantity)
    return _("last block {last}, first block {first}, factor {factor} per convolution").format(
        last=number(last), first=number(first), factor=number(factor(run, quantity))
    )


def _depth_border(e: Evidence, nets: Iterable[RunConfig]):
    return border((run.recipe, result(run)) for net in nets for run in e.runs(net))


# Claim 1


_SIGMOID = (1, 2, 3, 4, 6, 7)


def _plain_sigmoid() -> list[RunConfig]:
    return _seeds([_net("sigmoid", blocks) for blocks in _SIGMOID], lambda net: 2 <= net.blocks <= 4)


def _check_sigmoid(e: Evidence) -> Finding:
    nets = [_net("sigmoid", blocks) for blocks in _SIGMOID]
    found = _depth_border(e, nets)
    trained = [net for net in nets if e.trained(net)]
    failed = [net for net in nets if not e.trained(net)]
    steps = {net.blocks: median(r.trained_at for r in e.results(net) if r.trained_at is not None) for net in trained}
    slower = steps[max(steps)] > steps[min(steps)] if len(steps) > 1 else None
    factors = [factor(e.run(net)) for net in failed]
    return Finding(
        (
            Part(
                _("More blocks train more slowly."), slower,
                _("Steps until trained: {steps}.").format(
                    steps=by_depth(steps) or _("no net trained")
                ),
            ),
            Part(_("6 blocks still train."), e.trained(_net("sigmoid", 6)), _told(e, _net("sigmoid", 6)) + "."),
            Part(_("7 blocks do not."), _not(e.trained(_net("sigmoid", 7))), _told(e, _net("sigmoid", 7)) + "."),
            Part(
                _("The gradient vanishes from the last layer towards the first."),
                max(factors) < 1 / FLAT if factors else None,
                _("7 blocks at step 0: {profile}.").format(profile=_profile(e.run(_net("sigmoid", 7)))),
            ),
        ),
        found.first_failed,
        _("Border in these runs: {border}.").format(border=found.text),
    )  # fmt: skip


# Claim 2


def _wide() -> list[RunConfig]:
    return [_net("relu", 12, init_range=0.5, steps=60), _net("relu", 40, init_range=0.5, steps=60)]


def _check_wide(e: Evidence) -> Finding:
    twelve, forty = _wide()
    run = e.run(twelve)
    weight, signal = factor(run), factor(run, "signal_rms")
    outcome = e.outcome(twelve)
    start = float(run.history.loss[0])
    answer = "trains" if outcome == TRAINED else "infinite" if not math.isfinite(start) else "high"
    return Finding(
        (
            Part(
                _("The weight gradients grow layer by layer on the way back."), weight > FLAT,
                _("12 blocks at step 0, weight gradient: {profile}.").format(profile=_profile(run)),
            ),
            Part(
                _("The backward signal grows layer by layer on the way back."), signal > FLAT,
                _("12 blocks at step 0, backward signal: {profile}.").format(profile=_profile(run, "signal_rms")),
            ),
            Part(
                _("Training is hard."), _none(e.trained(twelve), e.trained(forty)),
                _("Loss of 12 blocks at step 0: {start}; {told}.").format(start=number(start), told=_told(e, twelve, forty)),
            ),
        ),
        answer,
        _("12 blocks: loss {start} at step 0, {loss} after {steps} steps.").format(
            start=number(start), loss=number(result(run).loss, 3), steps=result(run).steps
        ),
    )  # fmt: skip


# Claim 3


def _dynamics() -> list[RunConfig]:
    nets = [_net("sigmoid", 1), _net("sigmoid", 2), _net("relu", 4), _net("sigmoid", 7), _net("sigmoid", 30, steps=40)]
    return _seeds(nets, lambda net: net.blocks in (2, 4))


def _check_dynamics(e: Evidence) -> Finding:
    nets = [net for net in _dynamics() if net.seed == 0]
    sigmoid = [net for net in nets if net.activation == "sigmoid"]
    gaps = {net.blocks: decades(*ends(e.run(net))) for net in sigmoid}
    rises = {
        net: median(
            max(quantity_at_all(run, "weight_grad_rms")[:, inside(run).start]) / ends(run)[0]
            for run in e.runs(net) if result(run).outcome == TRAINED
        )
        for net in nets if e.trained(net) and ends(e.run(net))[0] > 0
    }  # fmt: skip
    deep = e.run(_net("sigmoid", 7))
    deepest = e.run(_net("sigmoid", 30, steps=40))
    before, after = ends(deep)[0], ends(deep, last=True)[0]
    zero = ends(deepest, last=True)[0]
    recovered = min(rises.values()) >= DECADE if rises else None
    widest = max(rises.values(), default=math.nan)
    answer = None if not rises else "grows" if widest >= DECADE else "shrinks" if widest <= 1 / DECADE else "stays"
    return Finding(
        (
            Part(
                _("At the start gradients shrink from the last to the first layer, the more the deeper the net."),
                all(a > b for a, b in zip(gaps.values(), list(gaps.values())[1:], strict=False)) and max(gaps.values()) < 0,
                _("First over last block at step 0: {gaps}.").format(
                    gaps=", ".join(
                        ngettext("{n} block {gap}", "{n} blocks {gap}", n).format(n=n, gap=scientific(gap))
                        for n, gap in gaps.items()
                    )
                ),
            ),
            Part(
                _("In nets that are not too deep the first layers' gradients recover as training goes on."), recovered,
                _("Largest gradient of the first block over that at step 0, in the nets that trained: {rises}.").format(
                    rises=", ".join(f"{net_name(net)} ×{number(rise)}" for net, rise in rises.items()) or _("no net trained")
                ),
            ),
            Part(
                _("Past some depth they never recover, and the net cannot train."),
                _all(_not(e.trained(_net("sigmoid", 7))), after < DECADE**2 * before, decades(*ends(deep, last=True)) < -GAP),
                _("7 sigmoid blocks: first block {before} at step 0, {after} at the end; {told}.").format(
                    before=number(before), after=number(after), told=_told(e, _net("sigmoid", 7))
                ),
            ),
            Part(
                _("There they fall to 0."), zero == 0,
                _("30 sigmoid blocks: first block {zero} at the end.").format(zero=number(zero)),
            ),
        ),
        answer,
        _("The first block's gradient grew up to ×{rise} in the nets that trained.").format(rise=number(widest))
        if rises else _("No net trained."),
    )  # fmt: skip


def quantity_at_all(run: Run, quantity: str) -> np.ndarray:
    """float64 (columns, layers)"""
    return run.history.snapshot().quantity(quantity).astype(float)


# Claim 4


def _plain_relu() -> list[RunConfig]:
    nets = [_net("sigmoid", 3), _net("sigmoid", 4), *(_net("relu", blocks) for blocks in (4, 6, 7, 8, 9, 10))]
    return _seeds(nets, lambda net: net.blocks > 4 or net.activation == "sigmoid")


def _check_relu(e: Evidence) -> Finding:
    nets = [net for net in _plain_relu() if net.seed == 0]
    relu = [net for net in nets if net.activation == "relu"]
    sigmoid = [net for net in nets if net.activation == "sigmoid"]
    found, other = _depth_border(e, relu), _depth_border(e, sigmoid)
    ten = e.run(_net("relu", 10))
    relu_factor, sigmoid_factor = factor(ten), factor(e.run(_net("sigmoid", 4)))
    later = None
    if found.first_failed is not None and other.first_failed is not None:
        later = found.first_failed > other.first_failed
    return Finding(
        (
            Part(
                _("Relu vanishes too."), relu_factor < 1 / FLAT,
                _("10 relu blocks at step 0: {profile}.").format(profile=_profile(ten)),
            ),
            Part(
                _("Only later than sigmoid."), later,
                _("Relu {relu}; sigmoid {sigmoid}.").format(relu=found.text, sigmoid=other.text),
            ),
            Part(_("9 blocks still train."), e.trained(_net("relu", 9)), _told(e, _net("relu", 9)) + "."),
            Part(_("10 blocks do not."), _not(e.trained(_net("relu", 10))), _told(e, _net("relu", 10)) + "."),
            Part(
                _("The cause is the factor per layer, accumulated; sigmoid merely shrinks more."),
                sigmoid_factor < relu_factor < 1,
                _("Factor per convolution at step 0: relu {relu}, sigmoid {sigmoid}.").format(
                    relu=number(relu_factor), sigmoid=number(sigmoid_factor)
                ),
            ),
        ),
        found.first_failed,
        _("Border in these runs: {border}.").format(border=found.text),
    )  # fmt: skip


# Claim 5

_CLIPS = ({}, {"treatment": "clip-norm", "threshold": 1.0}, {"treatment": "clip-value", "threshold": 0.01})


def _clipping() -> list[RunConfig]:
    return _seeds(_clipped(), lambda net: net.activation == "relu")


def _clipped() -> list[RunConfig]:
    exploding = [_net("relu", 4, init_range=0.3, optimizer="sgd", lr=0.01, steps=150, **clip) for clip in _CLIPS]
    return exploding + [_net("sigmoid", 7, **clip) for clip in _CLIPS]


def _check_clipping(e: Evidence) -> Finding:
    exploding, vanishing = _clipped()[:3], _clipped()[3:]
    calmed = _all(
        _most(found.outcome == DIVERGED for found in e.results(exploding[0])),
        *(_most(math.isfinite(result(run).loss) and result(run).loss < run.history.loss[0] for run in e.runs(net))
          for net in exploding[1:]),
    )  # fmt: skip
    learns = any(e.trained(net) for net in exploding[1:])
    cured = [e.trained(net) for net in vanishing[1:]]
    same = [ends(e.run(net), "treated_grad_rms")[0] / ends(e.run(net))[0] for net in vanishing[1:]]
    answers = {(True, True): "both", (True, False): "explosion", (False, True): "vanishing", (False, False): "neither"}
    answer = None if None in (calmed, *cured) else answers[calmed, any(cured)]
    return Finding(
        (
            Part(
                _("Clipping controls explosion: the loss stays finite and falls."), calmed,
                _("4 relu blocks, ±0.3, SGD 0.01, loss {start} at step 0: {told}.").format(
                    start=number(_first_loss(e, exploding[0])), told=_told(e, *exploding)
                )
                + ("" if learns else " " + _("It calms the steps, but in these steps the net does not learn.")),
            ),
            Part(
                _("Clipping does nothing for vanishing."), _none(*cured, e.trained(vanishing[0])),
                _("7 sigmoid blocks: {told}. The first block's gradient after clipping is {same} of what it was.").format(
                    told=_told(e, *vanishing), same=_(" and ").join(number(value, 3) for value in same)
                ),
            ),
        ),
        answer,
        _("Explosion: {calmed}. Vanishing: {cured}.").format(
            calmed=_("held") if calmed else _("not held"), cured=_("cured") if any(cured) else _("not cured")
        ),
    )  # fmt: skip


def _first_loss(e: Evidence, config: RunConfig) -> float:
    return float(e.run(config).history.loss[0])


# Claim 6

_OPTIMISERS = ({}, {"optimizer": "momentum", "lr": 0.01})


def _floor() -> list[RunConfig]:
    return _seeds(_floored(), lambda net: net.treatment == "floor")


def _floored() -> list[RunConfig]:
    return [
        _net("sigmoid", 7, **how, **floor)
        for how in _OPTIMISERS
        for floor in ({}, {"treatment": "floor", "threshold": 1e-10})
    ]  # fmt: skip


def _check_floor(e: Evidence) -> Finding:
    _adam_free, adam, _sgd_free, sgd = nets = _floored()
    trained = e.trained(adam), e.trained(sgd)
    first, treated = ends(e.run(adam))[0], ends(e.run(adam), "treated_grad_rms")[0]
    update = ends(e.run(adam), "update_ratio")[0], ends(e.run(nets[0]), "update_ratio")[0]
    answer = {(True, True): "both", (True, False): "adam", (False, True): "momentum", (False, False): "neither"}.get(trained)
    return Finding(
        (
            Part(
                _("Raising small gradients to 10⁻¹⁰ fails: the net cannot train."), _none(*trained),
                _told(e, *nets) + ".",
            ),
            Part(
                _("Most entries are small, so raising them changes most of the gradient and its direction is lost."),
                treated > DECADE * first,
                _("First block at step 0: gradient {first}, after the floor {treated}. "
                  "Update : weight under Adam {with_floor}, without the floor {without}.").format(
                    first=number(first), treated=number(treated), with_floor=number(update[0]), without=number(update[1]),
                ),
            ),
        ),
        answer,
        _told(e, adam, sgd) + ".",
    )  # fmt: skip


# Claim 7


def _batch_norm() -> list[RunConfig]:
    return _seeds(_normed(), lambda net: net.batch_norm and net.blocks >= 40 and net.steps > LOOK)


def _normed() -> list[RunConfig]:
    return [
        _net("relu", 10), _net("relu", 12, batch_norm=True), _net("relu", 40, batch_norm=True),
        _net("relu", 60, batch_norm=True, steps=LOOK), _net("relu", 100, batch_norm=True, steps=LOOK),
        _net("relu", 60, batch_norm=True),
    ]  # fmt: skip


def _check_batch_norm(e: Evidence) -> Finding:
    plain, twelve, forty, look, hundred, sixty = _normed()
    run = e.run(hundred)
    gap = decades(*ends(run, "signal_rms"))
    return Finding(
        (
            Part(
                _("Batch norm cures vanishing."),
                _all(e.trained(twelve), _not(e.trained(plain)), decades(*ends(e.run(twelve))) > -GAP),
                _("{told}. First over last block at step 0: {plain} without, {cured} with batch norm.").format(
                    told=_told(e, plain, twelve), plain=scientific(decades(*ends(e.run(plain)))),
                    cured=scientific(decades(*ends(e.run(twelve)))),
                ),
            ),
            Part(_("40 blocks train."), e.trained(forty), _told(e, forty) + "."),
            Part(_("60 blocks train."), e.trained(sixty), _told(e, sixty) + "."),
            Part(
                _("Past 60 blocks vanishing or explosion return."),
                abs(gap) >= GAP and abs(gap) > abs(decades(*ends(e.run(look), "signal_rms"))),
                _("Backward signal at step 0, 100 blocks: {profile}; 60 blocks: {sixty}.").format(
                    profile=_profile(run, "signal_rms"), sixty=_profile(e.run(look), "signal_rms")
                ),
            ),
        ),
        "explodes" if gap >= GAP else "vanishes" if gap <= -GAP else "level",
        _("100 blocks at step 0: the signal of the first block is {gap} times that of the last.").format(gap=scientific(gap)),
    )  # fmt: skip


# Claim 8


def _thousand(activation: str) -> RunConfig:
    return _net(activation, 1000, shortcut=True, batch_size=FEW, steps=LOOK)


def _shortcut() -> list[RunConfig]:
    return _seeds(_shortcuts(), lambda net: net.activation == "sigmoid" and net.shortcut and net.steps > LOOK)


def _shortcuts() -> list[RunConfig]:
    return [
        _net("sigmoid", 7), _net("sigmoid", 12, shortcut=True), _net("relu", 10), _net("relu", 12, shortcut=True),
        _net("relu", 40, shortcut=True), _thousand("sigmoid"), _thousand("relu"), _net("sigmoid", 40, shortcut=True),
    ]  # fmt: skip


def _check_shortcut(e: Evidence) -> Finding:
    plain_sigmoid, sigmoid, plain_relu, relu, forty, thousand_sigmoid, thousand_relu, sigmoid_forty = _shortcuts()
    deep, loud = e.run(thousand_sigmoid), e.run(thousand_relu)
    gaps = [decades(*ends(run)) for run in (deep, loud)]
    loss = float(loud.history.loss[0])
    moves = [ends(run, "update_ratio")[0] for run in (deep, loud)]
    return Finding(
        (
            Part(
                _("The shortcut cures vanishing."),
                _all(_none(*map(e.trained, (plain_sigmoid, plain_relu))), *map(e.trained, (sigmoid, relu))),
                _told(e, plain_sigmoid, sigmoid, plain_relu, relu) + ".",
            ),
            Part(
                _("40 blocks (85 layers) train."), _all(e.trained(forty), e.trained(sigmoid_forty)),
                _told(e, forty, sigmoid_forty) + ".",
            ),
            Part(
                _("At 1000 blocks (2005 layers) nothing vanishes."), min(gaps) > -GAP,
                _("First over last block at step 0: sigmoid {sigmoid}, relu {relu}.").format(
                    sigmoid=scientific(gaps[0]), relu=scientific(gaps[1])
                ),
            ),
            Part(
                _("1000 relu blocks can train: the loss is finite and Adam moves the first block."),
                math.isfinite(loss) and loss < 1e6 and moves[1] >= _usual_step(loud) / DECADE,
                _("Relu: loss {loss} at step 0, update : weight of the first block {move}. Sigmoid: loss {other}, {other_move}. "
                  "Only {steps} steps were taken: a laptop cannot show more of it.").format(
                    loss=number(loss), move=number(moves[1]), other=number(float(deep.history.loss[0])),
                    other_move=number(moves[0]), steps=LOOK,
                ),
            ),
        ),
        "quiet" if loss < 10 else "loud" if loss < 1e6 else "huge",
        _("1000 relu blocks with shortcut: loss {loss} at step 0.").format(loss=number(loss)),
    )  # fmt: skip


# Claim 9


def _bypass() -> list[RunConfig]:
    return _seeds([_net("relu", 40, shortcut=True, steps=150)], lambda net: True)


def _check_bypass(e: Evidence) -> Finding:
    """Each statement is that of most seeds; the numbers shown are those of the first."""
    each = [_check_bypassed(e, run) for run in e.runs(_bypass()[0])]
    first, places = each[0], [found.answer for found in each]
    answer = next((place for place in places if 2 * places.count(place) > len(places)), None)
    parts = tuple(
        replace(part, holds=_most(found.parts[k].holds for found in each), measured=part.measured + _held_by(each, k))
        for k, part in enumerate(first.parts)
    )
    return Finding(parts, answer, " ".join(found.answer_text for found in each))


def _held_by(each: list[Finding], k: int) -> str:
    """' So in 2 of 3 seeds.'; empty for one seed."""
    if len(each) == 1:
        return ""
    held = sum(found.parts[k].holds is True for found in each)
    return " " + _("So in {held} of {seeds} seeds.").format(held=held, seeds=len(each))


def _check_bypassed(e: Evidence, run: Run) -> Finding:
    gradient = quantity_at(run, "weight_grad_rms", last=True)[inside(run)]
    weight = quantity_at(run, "weight_rms", last=True)[inside(run)] / quantity_at(run, "weight_rms")[inside(run)]
    middle = float(np.median(gradient))
    tiny = np.flatnonzero(gradient < TINY * middle)
    before = gradient[: tiny[-1]] if len(tiny) else gradient[:0]  # nearer to the input, so behind it on the way back
    unharmed = bool(np.median(before) > TINY * middle) if len(before) else None
    names = run.recipe.layout.names
    lowest = int(np.argmin(gradient))
    third = len(gradient) / 3
    return Finding(
        (
            Part(
                _("Some layers have zero or tiny gradients."), bool(len(tiny)),
                _("{count} of {all} block convolutions have less than {tiny} of the median gradient {middle}; the smallest is "
                  "{smallest} in {name}.").format(
                    count=len(tiny), all=len(gradient), tiny=TINY, middle=number(middle), smallest=number(float(gradient.min())),
                    name=names[2 + lowest],
                ),
            ),
            Part(
                _("This does no harm to the others: they are bypassed on the way back."), unharmed,
                _("First block {first}, last block {last}, after {steps} steps; {told}.").format(
                    first=number(float(gradient[0])), last=number(float(gradient[-1])), steps=run.history.steps,
                    told=_told(e, run.recipe),
                ),
            ),
            Part(
                _("The weights of all layers stay normal."), bool(NORMAL[0] < weight.min() and weight.max() < NORMAL[1]),
                _("Weight RMS over that at the start: {low} to {high}.").format(
                    low=number(float(weight.min())), high=number(float(weight.max()))
                ),
            ),
        ),
        "first" if lowest < third else "last" if lowest >= 2 * third else "middle",
        _("The smallest gradient is in {name}.").format(name=names[2 + lowest]),
    )  # fmt: skip


# Claim 10

_FEEDBACK = {
    "none": {"optimizer": "momentum", "lr": 0.01},
    "clip": {"optimizer": "momentum", "lr": 0.01, "treatment": "clip-norm", "threshold": 1.0},
    "adam": {"optimizer": "adam"},
    "batch-norm": {"optimizer": "momentum", "lr": 0.01, "batch_norm": True, "steps": STEPS},
    "feedback": {"optimizer": "adam", "treatment": "feedback", "threshold": 1e-3},
}


def _feedback() -> list[RunConfig]:
    return _seeds([_net("relu", 10, **how) for how in _FEEDBACK.values()], lambda net: net.optimizer == "adam")


def _check_feedback(e: Evidence) -> Finding:
    nets = {word: _net("relu", 10, **how) for word, how in _FEEDBACK.items()}
    plain = e.run(nets["none"])
    values = np.log10(np.maximum(quantity_at(plain, "signal_rms")[inside(plain)], SMALLEST))
    places = np.arange(len(values))
    straight = float(np.corrcoef(places, values)[0, 1] ** 2)
    cures = [word for word, net in nets.items() if word != "none" and e.trained(net)]
    return Finding(
        (
            Part(
                _("Vanishing works like positive feedback: each layer multiplies what the last one left."), straight > 0.95,
                _("10 relu blocks at step 0: the logarithm of the signal over depth is a line with R² = {r:.3f}.").format(
                    r=straight
                ),
            ),
            Part(
                _("A negative feedback can cure it."), _all(bool(cures), _not(e.trained(nets["none"]))),
                _told(e, *nets.values()) + ".",
            ),
        ),
        cures[0] if len(cures) == 1 else "several" if cures else "none",
        _("Cured by: {cures}.").format(cures=", ".join(cures) or _("none of them")),
    )  # fmt: skip


# What the article missed


def _two_gradients() -> list[RunConfig]:
    return [_net("relu", 12, init_range=0.5, steps=60)]


def _check_two_gradients(e: Evidence) -> Finding:
    run = e.run(_two_gradients()[0])
    weight, signal, forward = factor(run), factor(run, "signal_rms"), 1 / factor(run, "activation_rms")
    return Finding(
        (
            Part(_("The backward signal grows on the way back."), signal > FLAT,
                 _("Factor {signal} per convolution.").format(signal=number(signal))),
            Part(_("The activations grow on the way forward."), forward > FLAT,
                 _("Factor {forward} per convolution.").format(forward=number(forward))),
            Part(_("Their product, the weight gradient, is flat over depth and huge."),
                 1 / FLAT < weight < FLAT and ends(run)[0] > 1e3,
                 _("Weight gradient: {profile}.").format(profile=_profile(run))),
        ),
        {(True, True): "both", (True, False): "weight", (False, True): "signal"}.get((weight > FLAT, signal > FLAT), "neither"),
        _("Weight gradient ×{weight}, backward signal ×{signal} per convolution.").format(
            weight=number(weight), signal=number(signal)
        ),
    )  # fmt: skip


def _norm_explodes() -> list[RunConfig]:
    return [_net("relu", blocks, batch_norm=True, steps=LOOK) for blocks in (12, 30, 60)]


def _check_norm_explodes(e: Evidence) -> Finding:
    nets = _norm_explodes()
    gaps = [decades(*ends(e.run(net), "signal_rms")) for net in nets]
    per_conv = factor(e.run(nets[1]), "signal_rms")
    return Finding(
        (
            Part(_("With batch norm the signal grows on the way back, at PyTorch's own init."), per_conv > FLAT,
                 _("30 blocks: factor {factor} per convolution.").format(factor=number(per_conv, 3))),
            Part(_("The growth accumulates with depth."), gaps[0] < gaps[1] < gaps[2],
                 _("First over last block: {gaps}.").format(gaps=", ".join(
                     _("{n} blocks {gap}").format(n=net.blocks, gap=scientific(gap))
                     for net, gap in zip(nets, gaps, strict=True)))),
            Part(_("At 60 blocks it is more than a thousandfold."), gaps[2] >= GAP,
                 _("60 blocks: {gap}.").format(gap=scientific(gaps[2]))),
        ),
        per_conv,
        _("30 blocks: ×{factor} per convolution.").format(factor=number(per_conv, 3)),
    )  # fmt: skip


def _sigmoid_norm() -> list[RunConfig]:
    nets = [_net("sigmoid", 12, batch_norm=True), _net("sigmoid", 40, batch_norm=True, steps=LOOK)]
    return _seeds(nets, lambda net: net.steps > LOOK)


def _check_sigmoid_norm(e: Evidence) -> Finding:
    twelve, *_others, forty = _sigmoid_norm()
    run = e.run(forty)
    gap, per_conv = decades(*ends(run)), factor(run)
    return Finding(
        (
            Part(_("Sigmoid with batch norm still vanishes."), gap <= -GAP,
                 _("40 blocks at step 0: {profile}.").format(profile=_profile(run))),
            Part(_("It shrinks less per convolution than without batch norm (0.124 in theory)."), 0.124 < per_conv < 1,
                 _("Factor {factor} per convolution.").format(factor=number(per_conv, 3))),
            Part(_("12 blocks do not train."), _not(e.trained(twelve)), _told(e, twelve) + "."),
        ),
        "vanishes" if gap <= -GAP else "explodes" if gap >= GAP else "level",
        _("40 blocks at step 0: first over last block {gap}.").format(gap=scientific(gap)),
    )  # fmt: skip


def _usual_step(run: Run) -> float:
    """Adam's first step moves every weight by the learning rate (Kingma & Ba 2015); here over the first block's weight RMS."""
    return run.recipe.lr / ends(run, "weight_rms")[0]


def _shortcut_fails() -> list[RunConfig]:
    return [_net("relu", 40, shortcut=True, init_range=0.5, steps=LOOK), _thousand("relu"), _thousand("sigmoid")]


def _check_shortcut_fails(e: Evidence) -> Finding:
    wide, thousand, sigmoid = _shortcut_fails()
    losses = [_first_loss(e, net) for net in (wide, thousand, sigmoid)]
    move, usual = ends(e.run(thousand), "update_ratio")[0], _usual_step(e.run(thousand))
    return Finding(
        (
            Part(_("40 blocks from ±0.5: the loss is not finite at the first step."), not math.isfinite(losses[0]),
                 _("Loss {loss} at step 0; inf or nan first in {layer}.").format(
                     loss=number(losses[0]), layer=e.run(wide).nonfinite_layer or "—")),
            Part(_("1000 relu blocks: the sum along the shortcut explodes."), losses[1] > 1e6,
                 _("Loss {loss} at step 0.").format(loss=number(losses[1]))),
            Part(_("The gradient there is so large that Adam hardly moves its weights."), move < usual / DECADE,
                 _("First block: gradient {gradient}, update : weight {move}; Adam's usual first step is {usual}.").format(
                     gradient=number(ends(e.run(thousand))[0]), move=number(move), usual=number(usual))),
            Part(_("Sigmoid is bounded, and its sum grows only in proportion to depth."), losses[2] < 1e3,
                 _("1000 sigmoid blocks: loss {loss} at step 0.").format(loss=number(losses[2]))),
        ),
        "infinite" if not math.isfinite(losses[0]) else "quiet" if losses[0] < 10 else "loud",
        _("40 blocks from ±0.5: loss {loss} at step 0.").format(loss=number(losses[0])),
    )  # fmt: skip


def _adam_hides() -> list[RunConfig]:
    return _seeds(_hidden(), lambda net: True)


def _hidden() -> list[RunConfig]:
    return [_net("relu", 6), _net("relu", 6, optimizer="momentum", lr=0.01), _net("relu", 10)]


def _check_adam_hides(e: Evidence) -> Finding:
    adam, momentum, deep = _hidden()
    fronts = [ends(e.run(net))[0] for net in (adam, deep)]
    answer = {(True, True): "both", (True, False): "adam", (False, True): "momentum", (False, False): "neither"}.get(
        (e.trained(adam), e.trained(momentum))
    )
    return Finding(
        (
            Part(_("6 blocks, gradient under a thousandth: Adam trains, SGD with momentum does not."),
                 _all(e.trained(adam), _not(e.trained(momentum)), decades(*ends(e.run(adam))) < -GAP),
                 _("First over last block at step 0: {gap}; {told}.").format(
                     gap=scientific(decades(*ends(e.run(adam)))), told=_told(e, adam, momentum))),
            Part(_("10 blocks: the first gradient lies under Adam's eps, and Adam no longer helps."),
                 _all(fronts[1] < ADAM_EPS, _not(e.trained(deep))),
                 _("First block {front}, eps 10⁻⁸, so Adam's step shrinks to {share} of its size; {told}.").format(
                     front=number(fronts[1]), share=number(fronts[1] / (fronts[1] + ADAM_EPS)), told=_told(e, deep))),
        ),
        answer,
        _told(e, adam, momentum) + ".",
    )  # fmt: skip


def _underflow() -> list[RunConfig]:
    return [_net("sigmoid", blocks, steps=LOOK) for blocks in (12, 20, 30)]


def _check_underflow(e: Evidence) -> Finding:
    zeros = {net.blocks: int((quantity_at(e.run(net), "weight_grad_rms")[inside(e.run(net))] == 0).sum()) for net in _underflow()}
    twelve, twenty, thirty = _underflow()
    return Finding(
        (
            Part(_("12 blocks: tiny, but not 0."), zeros[12] == 0 and ends(e.run(twelve))[0] < 1e-15,
                 _("First block {first}.").format(first=number(ends(e.run(twelve))[0]))),
            Part(_("30 blocks: the first layers read exactly 0, because float32 ends at 1.4·10⁻⁴⁵."), zeros[30] > 0,
                 _("{zeros} of 60 block convolutions have gradient exactly 0.").format(zeros=zeros[30])),
            Part(_("The zeros begin at the first layer: they are the end of a slope, not dead layers."),
                 bool((quantity_at(e.run(thirty), "weight_grad_rms")[inside(e.run(thirty))][: zeros[30]] == 0).all())
                 if zeros[30] else None,
                 _("20 blocks: first block {twenty}; 30 blocks: the first that is not 0 has {first}.").format(
                     twenty=number(ends(e.run(twenty))[0]),
                     first=number(float(quantity_at(e.run(thirty), "weight_grad_rms")[inside(e.run(thirty))][zeros[30]]))
                     if zeros[30] < 60 else "—")),
        ),
        float(zeros[30]),
        _("30 blocks: {zeros} of 60 block convolutions have gradient exactly 0 at step 0.").format(zeros=zeros[30]),
    )  # fmt: skip


_HOW_DEEP = (1, 20, "blocks")

LESSONS: dict[str, Lesson] = {
    lesson.id: lesson
    for lesson in (
        Lesson(
            "sigmoid-depth", 1, "Sigmoid: how deep can it get?",
            "Plain sigmoid blocks: more blocks train more slowly; up to 6 still train; from 7 on the gradient vanishes, from "
            "the last layer towards the first, and the net cannot train.",
            "Plain sigmoid blocks, Adam 0.001, 300 steps of 32 images. What is the smallest number of blocks that does not "
            "train?",
            {},
            "A sigmoid's slope is at most 1/4. With PyTorch's own weights one convolution and its sigmoid hand back 0.124 of "
            "the signal, whatever the images are; a block has two, so each block costs a factor of 65. At four blocks the "
            "first gradient is about 10⁻¹⁰, under Adam's eps of 10⁻⁸, and the forward signal is lost as well: the last map "
            "is the same for every image to seven digits. The exact border moves with optimiser, learning rate and number of "
            "steps, which the article does not state; the slope does not.",
            _plain_sigmoid, _check_sigmoid, number=_HOW_DEEP, look_at=("border", "profile", "loss"),
        ),
        Lesson(
            "exploding-init", 2, "Large weights: what explodes?",
            "Plain relu with all weights from U(−0.5, 0.5): gradients grow layer by layer on the way back and explode; "
            "training is hard.",
            "12 relu blocks from U(−0.5, 0.5), 60 steps of Adam 0.001. What does the loss do?",
            {"trains": "It falls well under chance", "high": "It starts huge and stays far above chance",
             "infinite": "It is not finite at step 0"},
            "Each convolution enlarges the backward signal 3.5-fold, and the activations on the way forward just as much. "
            "The weight gradient is a product of the two and therefore huge but level: the picture of weight gradients alone "
            "hides the explosion. In the Lab, switch the quantity to the backward signal. At 36 blocks float32 ends and the "
            "loss is not finite.",
            _wide, _check_wide, quantity="signal_rms",
            ),
        Lesson(
            "dynamics", 3, "While it trains: do the first layers wake up?",
            "At the start gradients shrink from last to first layer, the more the deeper; in nets that are not too deep the "
            "first layers' gradients recover as training goes on; past some depth they never recover, fall to 0, and the net "
            "cannot train.",
            "In a net that trains, what does the gradient of the first block do on the way?",
            {"grows": "It grows tenfold or more", "stays": "It stays within a factor of ten", "shrinks": "It shrinks to a tenth"},
            "The last layers learn first. As their weights grow, each convolution hands back more of the signal, and the "
            "layer before wakes up: recovery runs from the end to the front. Where the first gradients are under Adam's eps "
            "and the forward signal is lost, there is nothing to start from.",
            _dynamics, _check_dynamics, look_at=("wake", "profile", "loss"),
        ),
        Lesson(
            "relu-depth", 4, "Relu instead of sigmoid",
            "Relu vanishes too, only later: at 10 blocks and more. The main cause is the factor per layer, accumulated; "
            "sigmoid merely shrinks more.",
            "Plain relu blocks, Adam 0.001, 300 steps of 32 images. What is the smallest number of blocks that does not "
            "train?",
            {},
            "Relu passes about half of the signal, and PyTorch's own weights (±0.05) do the rest: 0.349 per convolution "
            "against 0.124 for sigmoid. Weights from ±0.1406 would make it 1: try them in the Lab. So it is "
            "the factor, not the kind of activation. Two more walls stand near the same depth: relu layers that die at this "
            "learning rate, and a forward signal under float32's resolution.",
            _plain_relu, _check_relu, number=_HOW_DEEP, look_at=("border", "profile", "loss"),
        ),
        Lesson(
            "clipping", 5, "Gradient clipping",
            "clip_grad_norm_ and clip_grad_value_ control explosion and do nothing for vanishing.",
            "Against what does clipping help?",
            {"explosion": "Against explosion only", "vanishing": "Against vanishing only", "both": "Against both",
             "neither": "Against neither"},
            "Clipping can only make gradients smaller, so it cannot touch one that has vanished. Against explosion it bounds "
            "the step: plain SGD, which otherwise runs off to nan, stays finite. It does not repair the cause, weights that "
            "are too large, and Adam hides the difference, because it divides by the gradient's size anyway.",
            _clipping, _check_clipping,
        ),
        Lesson(
            "floor", 6, "Raise what is too small?",
            "After the backward pass every entry smaller than 10⁻¹⁰ is set to ±10⁻¹⁰. This fails: most entries are small, so "
            "raising them changes most of the gradient and its direction is lost.",
            "7 sigmoid blocks with a floor of 10⁻¹⁰: who makes it train?",
            {"adam": "Adam", "momentum": "SGD with momentum", "both": "Both", "neither": "Neither"},
            "A vanished gradient says which way is down in its small differences. The floor keeps only the signs of entries "
            "that are themselves rounding noise, and makes them all equally important. Under SGD a step of 10⁻¹⁰ times the "
            "learning rate does nothing at all; under Adam, which divides by the gradient's size, the noise becomes a step "
            "of its own.",
            _floor, _check_floor,
        ),
        Lesson(
            "batch-norm", 7, "Batch norm: a cure, up to a point",
            "Batch norm after each added convolution cures vanishing and explosion up to about 60 blocks; past that they "
            "return, because it does not control the gradient directly.",
            "100 relu blocks with batch norm, before any training: the backward signal, on its way from the last block to "
            "the first, …",
            {"vanishes": "vanishes, more than a thousandfold", "level": "stays within a thousandfold",
             "explodes": "explodes, more than a thousandfold"},
            "Batch norm holds the activations, and so the forward way. Backward, dividing by a layer's spread multiplies the "
            "signal: by 1.16 per convolution with relu, whatever the weights (Yang et al. 2019). That is harmless at 12 "
            "blocks, 10⁴ at 30 and 10⁷ at 60.",
            _batch_norm, _check_batch_norm, quantity="signal_rms",
        ),
        Lesson(
            "shortcut", 8, "The shortcut",
            "The shortcut cures vanishing altogether: 1000 blocks (2005 layers) still train.",
            "1000 relu blocks with shortcut, before any training: how large is the loss? (Chance is 2.3.)",
            {"quiet": "Under 10", "loud": "Between 10 and a million", "huge": "Over a million"},
            "The gradient has a road past the convolutions with a factor of exactly 1, so it cannot vanish. But relu is "
            "never negative: every block adds in the same direction, the sum grows by 1.07 per block, 10²⁹ at 1000 blocks. "
            "With sigmoid the branch is bounded and the sum grows only in proportion to depth. Whether 1000 blocks train is "
            "more than a laptop can show; docs/reproduction.md says what was measured.",
            _shortcut, _check_shortcut, look_at=("profile", "loss"),
        ),
        Lesson(
            "bypass", 9, "Where the shortcut bypasses a layer",
            "Shortcut, 40 blocks (85 layers): some layers have zero or tiny gradients without harm to the others; their "
            "weights stay normal, so nothing is bypassed on the way forward; the forward paths act like an ensemble.",
            "After 150 steps, in which part of the net is the block convolution with the smallest weight gradient?",
            {"first": "In the first third", "middle": "In the middle third", "last": "In the last third"},
            "A block whose branch is dead hands the signal on through its shortcut, unchanged: a zero is a hole in the "
            "picture and not a slope. The weights of such a layer stay where they started, since nothing moves them; that "
            "they look normal does not say that the layer is used. To see whether a block matters, leave it out and measure "
            "the accuracy.",
            _bypass, _check_bypass, early=False, look_at=("profile", "weights", "loss"),
        ),
        Lesson(
            "feedback", 10, "Could negative feedback cure it?",
            "A remark: vanishing and exploding come from a kind of positive feedback; could a negative feedback control cure "
            "them? The article leaves it open.",
            "10 relu blocks, 300 steps. Which of these makes them train: clipping by norm (with momentum), Adam, or batch "
            "norm (with momentum)?",
            {"clip": "Clipping alone", "adam": "Adam alone", "batch-norm": "Batch norm alone",
             "feedback": "The feedback controller alone", "several": "More than one", "none": "None"},
            "A factor per layer, applied again and again, is what positive feedback is: the logarithm of the signal is a "
            "straight line over depth. Clipping acts only on what is too large. Adam divides each gradient by its own recent "
            "size, but only down to its eps. The controller brings every layer's signal up to a set size, so no gradient is "
            "small any more; yet where the forward way has lost the image, a large gradient still has nothing to say. Batch norm "
            "measures each layer's spread and divides by it: feedback on the way forward, at every layer.",
            _feedback, _check_feedback, quantity="signal_rms",
        ),
        Lesson(
            "two-gradients", None, "Two things called gradient",
            "With relu and U(−0.5, 0.5) the weight gradient is flat over depth, because the activations grow forward "
            "as fast as the backward signal grows backward.",
            "12 relu blocks from U(−0.5, 0.5), step 0: what grows from the last block back to the first?",
            {"weight": "The weight gradient only", "signal": "The backward signal only", "both": "Both", "neither": "Neither"},
            "The gradient of a weight is the signal at its layer's output times the activation at its input. Relu nets are "
            "homogeneous: scaling one layer scales the result alike wherever it stands, so Σ w · ∂loss/∂w is the same for "
            "every layer. Only the backward signal shows the growth of claim 2.",
            _two_gradients, _check_two_gradients, quantity="signal_rms",
        ),
        Lesson(
            "batch-norm-explodes", None, "Batch norm explodes by itself",
            "Relu with batch norm multiplies the backward signal by 1.16 per convolution at any init (Yang et al. "
            "2019).",
            "30 relu blocks with batch norm, step 0: by which factor does one convolution multiply the backward signal?",
            {},
            "Normalising divides by the spread of a layer; relu cuts half of what was normalised, so the next layer finds "
            "less spread and divides by it again. Forward this restores the size, backward it multiplies. In 16 channels the "
            "factor falls from 1.16 near the input to 1.125 deep inside. No choice of init or of activation prevents it "
            "without padding; a shortcut does.",
            _norm_explodes, _check_norm_explodes, number=(0.1, 3.0, "per convolution"), quantity="signal_rms",
            look_at=("profile",),
        ),
        Lesson(
            "sigmoid-batch-norm", None, "Sigmoid with batch norm",
            "Sigmoid with batch norm still vanishes here, by 0.735 per convolution.",
            "40 sigmoid blocks with batch norm, before any training: the weight gradient, on its way from the last block to "
            "the first, …",
            {"vanishes": "vanishes, more than a thousandfold", "level": "stays within a thousandfold",
             "explodes": "explodes, more than a thousandfold"},
            "Zero padding gives every map the same border pattern. With sigmoid, whose mean is 1/2, that pattern makes up "
            "most of the variance over the batch; batch norm divides by it, and the part that depends on the image dies "
            "away. So 'batch norm cures vanishing' holds for relu and not for sigmoid.",
            _sigmoid_norm, _check_sigmoid_norm,
        ),
        Lesson(
            "shortcut-fails", None, "Where the shortcut fails",
            "A shortcut does not survive U(−0.5, 0.5) at 40 blocks, nor 1000 relu blocks at PyTorch's own init.",
            "40 relu blocks with shortcut, weights from U(−0.5, 0.5): the loss at step 0 is …",
            {"quiet": "under 10", "loud": "large but finite", "infinite": "not finite"},
            "A shortcut passes the signal on unchanged and adds what the branch makes of it. If the branch enlarges, from "
            "±0.5 by 12 per block, so does the sum. With relu even a small branch adds up, because it is never negative. "
            "Adam meets its own end there: the square of a gradient over 6·10²⁰ is inf in float32, and the weight's step "
            "becomes 0. Batch norm inside the branch, or a branch that starts at 0 (Fixup, SkipInit), prevents it.",
            _shortcut_fails, _check_shortcut_fails, look_at=("profile",),
        ),
        Lesson(
            "adam-eps", None, "Adam hides vanishing, then meets it",
            "Adam's step is lr · g / (g + eps), so a gradient far above eps = 10⁻⁸ moves its weight however small it "
            "is, and one far below does not.",
            "6 relu blocks: the first gradient is about 10⁻⁸, the last 10⁻². Who trains in 300 steps?",
            {"adam": "Adam only", "momentum": "SGD with momentum only", "both": "Both", "neither": "Neither"},
            "SGD moves a weight by the learning rate times its gradient, so the first layers of this net stand still. Adam "
            "divides by the gradient's own size and moves all layers alike, until the gradient meets eps. It is not a sharp "
            "wall: with luck and a smaller learning rate, nets a few blocks deeper get going too.",
            _adam_hides, _check_adam_hides,
        ),
        Lesson(
            "float32", None, "When small becomes zero",
            "The gradient of plain sigmoid nets is exactly 0 in float32 from 23 blocks on.",
            "30 sigmoid blocks, step 0: how many of the 60 block convolutions have a weight gradient that is exactly 0?",
            {},
            "The true gradient is never 0; float32 ends at 1.4·10⁻⁴⁵. The zeros begin in the backward signal and run from "
            "some depth to the first layer: the end of a slope. A dead relu layer is another thing: one zero among living "
            "neighbours. A tool that squares float32 numbers to get a norm shows zeros from 10⁻²³ on, and they are not "
            "there.",
            _underflow, _check_underflow, number=(0, 60, "convolutions"), look_at=("profile",),
        ),
    )
}  # fmt: skip

# Remedy -> the largest number of blocks that still trains, as the article says (claims 1, 4, 7, 8).
ARTICLE_BORDERS = {"sigmoid": 6, "relu": 9, "relu + batch norm": 60, "relu + shortcut": 1000, "sigmoid + shortcut": 1000}

DIGITS_DIFFER = (
    "These runs use the built-in digits: 1,437 scans of 8×8 pixels, enlarged. The factors per convolution at step 0 come from "
    "the blocks and are the same as on MNIST; the level at the first two layers is a little different. An epoch is 44 steps, so "
    "every image is seen several times, and borders of trainability may lie a block higher or lower. The article's numbers are "
    "about MNIST."
)


def ended(run: Run | None, early: bool) -> bool:
    """Whether a run is of use to a lesson: it came to its end, or to 'trained' where that is enough."""
    if run is None or run.status.live:
        return False
    return run.status in (Status.FINISHED, Status.DIVERGED) or looked(run) or (early and result(run).outcome == TRAINED)
