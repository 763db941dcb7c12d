"""Claims 5 to 10 of the article: what cures vanishing and explosion, and what does not."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np

from gradviz.diagnosis.state import GAP
from gradviz.lenet.config import RunConfig
from gradviz.lenet.lessons.evidence import (
    Evidence,
    all_hold,
    first_loss,
    most,
    none_holds,
    one_or_both,
    opposite,
    profile,
    told,
    told_alone,
    usual_step,
)
from gradviz.lenet.lessons.lesson import LOOK, NORMAL, STEPS, TENFOLD, TINY, Finding, Lesson, Part, recipe, thousand, with_seeds
from gradviz.lenet.outcome import DIVERGED, result
from gradviz.record.float32 import SMALLEST
from gradviz.record.reading import decades, ends, judged
from gradviz.record.run import Run
from gradviz.words import gettext as _
from gradviz.words import joined, listed, number, scientific

# Claim 5

_CLIPS: tuple[dict[str, Any], ...] = (
    {}, {"treatment": "clip-norm", "threshold": 1.0}, {"treatment": "clip-value", "threshold": 0.01},
)  # fmt: skip


def _clipping() -> list[RunConfig]:
    return with_seeds(_clipped(), lambda net: net.activation == "relu")


def _clipped() -> list[RunConfig]:
    exploding = [recipe("relu", 4, init_range=0.3, optimizer="sgd", lr=0.01, steps=150, **clip) for clip in _CLIPS]
    return exploding + [recipe("sigmoid", 7, **clip) for clip in _CLIPS]


def _check_clipping(e: Evidence) -> Finding:
    exploding, vanishing = _clipped()[:3], _clipped()[3:]
    calmed = all_hold(
        most(found.outcome == DIVERGED for found in e.results(exploding[0])),
        *(most(math.isfinite(result(run).loss) and result(run).loss < run.history.loss[0] for run in e.runs(net))
          for net in exploding[1:]),
    )  # fmt: skip
    learns = any(e.trained(net) for net in exploding[1:])
    cured = [e.trained(net) for net in vanishing[1:]]
    same = [ends(e.run(net), "treated_grad_rms")[0] / ends(e.run(net))[0] for net in vanishing[1:]]
    answer = one_or_both("explosion", calmed, "vanishing", None if None in cured else any(cured))
    return Finding(
        (
            Part(
                _("Clipping controls explosion: the loss stays finite and falls."), calmed,
                joined([
                    _("4 relu blocks, ±0.3, SGD 0.01, loss {start} at step 0: {told}.").format(
                        start=number(first_loss(e, exploding[0])), told=told(e, *exploding)
                    ),
                    "" if learns else _("It calms the steps, but in these steps the net does not learn."),
                ]),
            ),
            Part(
                _("Clipping does nothing for vanishing."), none_holds(*cured, e.trained(vanishing[0])),
                _("7 sigmoid blocks: {told}. The first block's gradient after clipping is {same} of what it was.").format(
                    told=told(e, *vanishing), same=_(" and ").join(number(value, 3) for value in same)
                ),
            ),
        ),
        answer,
        _("Explosion: {calmed}. Vanishing: {cured}.").format(
            calmed=_("held") if calmed else _("not held"), cured=_("cured") if any(cured) else _("not cured")
        ),
    )  # fmt: skip


CLIPPING = Lesson(
    "clipping", 5, "Gradient clipping",
    "clip_grad_norm_ and clip_grad_value_ control explosion and do nothing for vanishing.",
    "Against what does clipping help?",
    {"explosion": "Against explosion only", "vanishing": "Against vanishing only", "both": "Against both",
     "neither": "Against neither"},
    "Clipping can only make gradients smaller, so it cannot touch one that has vanished. Against explosion it bounds "
    "the step: plain SGD, which otherwise runs off to nan, stays finite. It does not repair the cause, weights that "
    "are too large, and Adam hides the difference, because it divides by the gradient's size anyway.",
    _clipping, _check_clipping,
)  # fmt: skip


# Claim 6

_OPTIMISERS: tuple[dict[str, Any], ...] = ({}, {"optimizer": "momentum", "lr": 0.01})


def _floor() -> list[RunConfig]:
    return with_seeds(_floored(), lambda net: net.treatment == "floor")


def _floored() -> list[RunConfig]:
    return [
        recipe("sigmoid", 7, **how, **floor)
        for how in _OPTIMISERS
        for floor in ({}, {"treatment": "floor", "threshold": 1e-10})
    ]  # fmt: skip


def _check_floor(e: Evidence) -> Finding:
    _adam_free, adam, _sgd_free, sgd = nets = _floored()
    trained = e.trained(adam), e.trained(sgd)
    first, treated = ends(e.run(adam))[0], ends(e.run(adam), "treated_grad_rms")[0]
    update = ends(e.run(adam), "update_ratio")[0], ends(e.run(nets[0]), "update_ratio")[0]
    answer = one_or_both("adam", trained[0], "momentum", trained[1])
    return Finding(
        (
            Part(
                _("Raising small gradients to 10⁻¹⁰ fails: the net cannot train."), none_holds(*trained),
                told_alone(e, *nets),
            ),
            Part(
                _("Most entries are small, so raising them changes most of the gradient and its direction is lost."),
                treated > TENFOLD * first,
                _("First block at step 0: gradient {first}, after the floor {treated}. "
                  "Update : weight under Adam {with_floor}, without the floor {without}.").format(
                    first=number(first), treated=number(treated), with_floor=number(update[0]), without=number(update[1]),
                ),
            ),
        ),
        answer,
        told_alone(e, adam, sgd),
    )  # fmt: skip


FLOOR = Lesson(
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
)  # fmt: skip


# Claim 7


def _batch_norm() -> list[RunConfig]:
    return with_seeds(_normed(), lambda net: net.batch_norm and net.blocks >= 40 and net.steps > LOOK)


def _normed() -> list[RunConfig]:
    return [
        recipe("relu", 10), recipe("relu", 12, batch_norm=True), recipe("relu", 40, batch_norm=True),
        recipe("relu", 60, batch_norm=True, steps=LOOK), recipe("relu", 100, batch_norm=True, steps=LOOK),
        recipe("relu", 60, batch_norm=True),
    ]  # fmt: skip


def _check_batch_norm(e: Evidence) -> Finding:
    plain, twelve, forty, look, hundred, sixty = _normed()
    run = e.run(hundred)
    gap = decades(*ends(run, "signal_rms"))
    return Finding(
        (
            Part(
                _("Batch norm cures vanishing."),
                all_hold(e.trained(twelve), opposite(e.trained(plain)), decades(*ends(e.run(twelve))) > -GAP),
                _("{told}. First over last block at step 0: {plain} without, {cured} with batch norm.").format(
                    told=told(e, plain, twelve), plain=scientific(decades(*ends(e.run(plain)))),
                    cured=scientific(decades(*ends(e.run(twelve)))),
                ),
            ),
            Part(_("40 blocks train."), e.trained(forty), told_alone(e, forty)),
            Part(_("60 blocks train."), e.trained(sixty), told_alone(e, sixty)),
            Part(
                _("Past 60 blocks vanishing or explosion return."),
                abs(gap) >= GAP and abs(gap) > abs(decades(*ends(e.run(look), "signal_rms"))),
                _("Backward signal at step 0, 100 blocks: {profile}; 60 blocks: {sixty}.").format(
                    profile=profile(run, "signal_rms"), sixty=profile(e.run(look), "signal_rms")
                ),
            ),
        ),
        "explodes" if gap >= GAP else "vanishes" if gap <= -GAP else "level",
        _("100 blocks at step 0: the signal of the first block is {gap} times that of the last.").format(gap=scientific(gap)),
    )  # fmt: skip


BATCH_NORM = Lesson(
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
)  # fmt: skip


# Claim 8


def _shortcut() -> list[RunConfig]:
    return with_seeds(_shortcuts(), lambda net: net.activation == "sigmoid" and net.shortcut and net.steps > LOOK)


def _shortcuts() -> list[RunConfig]:
    return [
        recipe("sigmoid", 7), recipe("sigmoid", 12, shortcut=True), recipe("relu", 10), recipe("relu", 12, shortcut=True),
        recipe("relu", 40, shortcut=True), thousand("sigmoid"), thousand("relu"), recipe("sigmoid", 40, shortcut=True),
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
                all_hold(none_holds(*map(e.trained, (plain_sigmoid, plain_relu))), *map(e.trained, (sigmoid, relu))),
                told_alone(e, plain_sigmoid, sigmoid, plain_relu, relu),
            ),
            Part(
                _("40 blocks (85 layers) train."), all_hold(e.trained(forty), e.trained(sigmoid_forty)),
                told_alone(e, forty, sigmoid_forty),
            ),
            Part(
                _("At 1000 blocks (2005 layers) nothing vanishes."), min(gaps) > -GAP,
                _("First over last block at step 0: sigmoid {sigmoid}, relu {relu}.").format(
                    sigmoid=scientific(gaps[0]), relu=scientific(gaps[1])
                ),
            ),
            Part(
                _("1000 relu blocks can train: the loss is finite and Adam moves the first block."),
                math.isfinite(loss) and loss < 1e6 and moves[1] >= usual_step(loud) / TENFOLD,
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


SHORTCUT = Lesson(
    "shortcut", 8, "The shortcut",
    "The shortcut cures vanishing altogether: 1000 blocks (2005 layers) still train.",
    "1000 relu blocks with shortcut, before any training: how large is the loss? (Chance is 2.3.)",
    {"quiet": "Under 10", "loud": "Between 10 and a million", "huge": "Over a million"},
    "The gradient has a road past the convolutions with a factor of exactly 1, so it cannot vanish. But relu is "
    "never negative: every block adds in the same direction, the sum grows by 1.07 per block, 10²⁹ at 1000 blocks. "
    "With sigmoid the branch is bounded and the sum grows only in proportion to depth. Whether 1000 blocks train is "
    "more than a laptop can show; docs/reproduction.md says what was measured.",
    _shortcut, _check_shortcut, look_at=("profile", "loss"),
)  # fmt: skip


# Claim 9


def _bypass() -> list[RunConfig]:
    return with_seeds([recipe("relu", 40, shortcut=True, steps=150)], lambda net: True)


def _check_bypass(e: Evidence) -> Finding:
    """Each statement is that of most seeds; the numbers shown are those of the first."""
    each = [_check_bypassed(e, run) for run in e.runs(_bypass()[0])]
    first, places = each[0], [found.answer for found in each]
    answer = next((place for place in places if 2 * places.count(place) > len(places)), None)
    parts = tuple(
        replace(part, holds=most(found.parts[k].holds for found in each), measured=joined([part.measured, _held_by(each, k)]))
        for k, part in enumerate(first.parts)
    )
    return Finding(parts, answer, joined(found.answer_text for found in each))


def _held_by(each: list[Finding], k: int) -> str:
    """'So in 2 of 3 seeds.'; empty for one seed."""
    if len(each) == 1:
        return ""
    held = sum(found.parts[k].holds is True for found in each)
    return _("So in {held} of {seeds} seeds.").format(held=held, seeds=len(each))


def _check_bypassed(e: Evidence, run: Run[RunConfig]) -> Finding:
    gradient = judged(run, "weight_grad_rms", last=True)
    weight = judged(run, "weight_rms", last=True) / judged(run, "weight_rms")
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
                    told=told(e, run.recipe),
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


BYPASS = Lesson(
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
)  # fmt: skip


# Claim 10

_FEEDBACK: dict[str, dict[str, Any]] = {
    "none": {"optimizer": "momentum", "lr": 0.01},
    "clip": {"optimizer": "momentum", "lr": 0.01, "treatment": "clip-norm", "threshold": 1.0},
    "adam": {"optimizer": "adam"},
    "batch-norm": {"optimizer": "momentum", "lr": 0.01, "batch_norm": True, "steps": STEPS},
    "feedback": {"optimizer": "adam", "treatment": "feedback", "threshold": 1e-3},
}


def _feedback() -> list[RunConfig]:
    return with_seeds([recipe("relu", 10, **how) for how in _FEEDBACK.values()], lambda net: net.optimizer == "adam")


def _check_feedback(e: Evidence) -> Finding:
    nets = {word: recipe("relu", 10, **how) for word, how in _FEEDBACK.items()}
    plain = e.run(nets["none"])
    values = np.log10(np.maximum(judged(plain, "signal_rms"), SMALLEST))
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
                _("A negative feedback can cure it."), all_hold(bool(cures), opposite(e.trained(nets["none"]))),
                told_alone(e, *nets.values()),
            ),
        ),
        cures[0] if len(cures) == 1 else "several" if cures else "none",
        _("Cured by: {cures}.").format(cures=listed(cures) or _("none of them")),
    )  # fmt: skip


FEEDBACK = Lesson(
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
)  # fmt: skip
