"""What the article missed: seven lessons."""

from __future__ import annotations

import math
from dataclasses import replace

from gradviz.diagnosis.state import GAP
from gradviz.lenet.config import RunConfig
from gradviz.lenet.lessons.evidence import (
    Evidence,
    all_hold,
    first_loss,
    most,
    one_or_both,
    opposite,
    profile,
    told,
    told_alone,
    usual_step,
)
from gradviz.lenet.lessons.lesson import FLAT, LOOK, TENFOLD, Finding, Lesson, Part, recipe, thousand, with_seeds
from gradviz.record.float32 import ADAM_EPS
from gradviz.record.reading import decades, ends, factor, judged
from gradviz.words import gettext as _
from gradviz.words import listed, number, scientific

# Two gradients


def _two_gradients() -> list[RunConfig]:
    return [recipe("relu", 12, init_range=0.5, steps=60)]


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
                 _("Weight gradient: {profile}.").format(profile=profile(run))),
        ),
        one_or_both("weight", weight > FLAT, "signal", signal > FLAT),
        _("Weight gradient ×{weight}, backward signal ×{signal} per convolution.").format(
            weight=number(weight), signal=number(signal)
        ),
    )  # fmt: skip


TWO_GRADIENTS = Lesson(
    "two-gradients", None, "Two things called gradient",
    "With relu and U(−0.5, 0.5) the weight gradient is flat over depth, because the activations grow forward "
    "as fast as the backward signal grows backward.",
    "12 relu blocks from U(−0.5, 0.5), step 0: what grows from the last block back to the first?",
    {"weight": "The weight gradient only", "signal": "The backward signal only", "both": "Both", "neither": "Neither"},
    "The gradient of a weight is the signal at its layer's output times the activation at its input. Relu nets are "
    "homogeneous: scaling one layer scales the result alike wherever it stands, so Σ w · ∂loss/∂w is the same for "
    "every layer. Only the backward signal shows the growth of claim 2.",
    _two_gradients, _check_two_gradients, quantity="signal_rms",
)  # fmt: skip


# Batch norm explodes


def _norm_explodes() -> list[RunConfig]:
    return [recipe("relu", blocks, batch_norm=True, steps=LOOK) for blocks in (12, 30, 60)]


def _check_norm_explodes(e: Evidence) -> Finding:
    nets = _norm_explodes()
    gaps = [decades(*ends(e.run(net), "signal_rms")) for net in nets]
    per_conv = factor(e.run(nets[1]), "signal_rms")
    return Finding(
        (
            Part(_("With batch norm the signal grows on the way back, at PyTorch's own init."), per_conv > FLAT,
                 _("30 blocks: factor {factor} per convolution.").format(factor=number(per_conv, 3))),
            Part(_("The growth accumulates with depth."), gaps[0] < gaps[1] < gaps[2],
                 _("First over last block: {gaps}.").format(gaps=listed(
                     _("{n} blocks {gap}").format(n=net.blocks, gap=scientific(gap))
                     for net, gap in zip(nets, gaps, strict=True)))),
            Part(_("At 60 blocks it is more than a thousandfold."), gaps[2] >= GAP,
                 _("60 blocks: {gap}.").format(gap=scientific(gaps[2]))),
        ),
        per_conv,
        _("30 blocks: ×{factor} per convolution.").format(factor=number(per_conv, 3)),
    )  # fmt: skip


NORM_EXPLODES = Lesson(
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
)  # fmt: skip


# Sigmoid with batch norm


def _sigmoid_norm() -> list[RunConfig]:
    nets = [recipe("sigmoid", 12, batch_norm=True), recipe("sigmoid", 40, batch_norm=True, steps=LOOK)]
    return with_seeds(nets, lambda net: net.steps > LOOK)


def _check_sigmoid_norm(e: Evidence) -> Finding:
    twelve, *_others, forty = _sigmoid_norm()
    run = e.run(forty)
    gap, per_conv = decades(*ends(run)), factor(run)
    return Finding(
        (
            Part(_("Sigmoid with batch norm still vanishes."), gap <= -GAP,
                 _("40 blocks at step 0: {profile}.").format(profile=profile(run))),
            Part(_("It shrinks less per convolution than without batch norm (0.124 in theory)."), 0.124 < per_conv < 1,
                 _("Factor {factor} per convolution.").format(factor=number(per_conv, 3))),
            Part(_("12 blocks do not train."), opposite(e.trained(twelve)), told_alone(e, twelve)),
        ),
        "vanishes" if gap <= -GAP else "explodes" if gap >= GAP else "level",
        _("40 blocks at step 0: first over last block {gap}.").format(gap=scientific(gap)),
    )  # fmt: skip


SIGMOID_NORM = Lesson(
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
)  # fmt: skip


# Where the shortcut fails


def _shortcut_fails() -> list[RunConfig]:
    return [recipe("relu", 40, shortcut=True, init_range=0.5, steps=LOOK), thousand("relu"), thousand("sigmoid")]


def _check_shortcut_fails(e: Evidence) -> Finding:
    wide, thousand, sigmoid = _shortcut_fails()
    losses = [first_loss(e, net) for net in (wide, thousand, sigmoid)]
    move, usual = ends(e.run(thousand), "update_ratio")[0], usual_step(e.run(thousand))
    return Finding(
        (
            Part(_("40 blocks from ±0.5: the loss is not finite at the first step."), not math.isfinite(losses[0]),
                 _("Loss {loss} at step 0; inf or nan first in {layer}.").format(
                     loss=number(losses[0]), layer=e.run(wide).nonfinite_layer or "—")),
            Part(_("1000 relu blocks: the sum along the shortcut explodes."), losses[1] > 1e6,
                 _("Loss {loss} at step 0.").format(loss=number(losses[1]))),
            Part(_("The gradient there is so large that Adam hardly moves its weights."), move < usual / TENFOLD,
                 _("First block: gradient {gradient}, update : weight {move}; Adam's usual first step is {usual}.").format(
                     gradient=number(ends(e.run(thousand))[0]), move=number(move), usual=number(usual))),
            Part(_("Sigmoid is bounded, and its sum grows only in proportion to depth."), losses[2] < 1e3,
                 _("1000 sigmoid blocks: loss {loss} at step 0.").format(loss=number(losses[2]))),
        ),
        "infinite" if not math.isfinite(losses[0]) else "quiet" if losses[0] < 10 else "loud",
        _("40 blocks from ±0.5: loss {loss} at step 0.").format(loss=number(losses[0])),
    )  # fmt: skip


SHORTCUT_FAILS = Lesson(
    "shortcut-fails", None, "Where the shortcut fails",
    "A shortcut does not survive U(−0.5, 0.5) at 40 blocks, nor 1000 relu blocks at PyTorch's own init.",
    "40 relu blocks with shortcut, weights from U(−0.5, 0.5): the loss at step 0 is …",
    {"quiet": "under 10", "loud": "large but finite", "infinite": "not finite"},
    "A shortcut passes the signal on unchanged and adds what the branch makes of it. If the branch enlarges, from "
    "±0.5 by 12 per block, so does the sum. With relu even a small branch adds up, because it is never negative. "
    "Adam meets its own end there: the square of a gradient over 6·10²⁰ is inf in float32, and the weight's step "
    "becomes 0. Batch norm inside the branch, or a branch that starts at 0 (Fixup, SkipInit), prevents it.",
    _shortcut_fails, _check_shortcut_fails, look_at=("profile",),
)  # fmt: skip


# Adam's eps

MILLIONTH = 1e-6


def _adam_hides() -> list[RunConfig]:
    return with_seeds(_hidden(), lambda net: True)


def _hidden() -> list[RunConfig]:
    """4 blocks train well within the steps on any arithmetic, in 77 to 224 of them; at 6 the last digits decide."""
    return [recipe("relu", 4), recipe("relu", 4, optimizer="momentum", lr=0.01), recipe("relu", 10)]


def _check_adam_hides(e: Evidence) -> Finding:
    adam, momentum, deep = _hidden()
    fronts = [ends(e.run(net))[0] for net in (adam, deep)]
    answer = one_or_both("adam", e.trained(adam), "momentum", e.trained(momentum))
    return Finding(
        (
            Part(_("4 blocks, first gradient under a millionth: Adam trains, SGD with momentum does not."),
                 all_hold(e.trained(adam), opposite(e.trained(momentum)), fronts[0] < MILLIONTH),
                 _("First block at step 0: {front}; {told}.").format(front=number(fronts[0]), told=told(e, adam, momentum))),
            Part(_("10 blocks: the first gradient lies under Adam's eps, and Adam no longer helps."),
                 all_hold(fronts[1] < ADAM_EPS, opposite(e.trained(deep))),
                 _("First block {front}, eps 10⁻⁸, so Adam's step shrinks to {share} of its size; {told}.").format(
                     front=number(fronts[1]), share=number(fronts[1] / (fronts[1] + ADAM_EPS)), told=told(e, deep))),
        ),
        answer,
        told_alone(e, adam, momentum),
    )  # fmt: skip


ADAM_HIDES = Lesson(
    "adam-eps", None, "Adam hides vanishing, then meets it",
    "Adam's step is lr · g / (g + eps), so a gradient far above eps = 10⁻⁸ moves its weight however small it "
    "is, and one far below does not.",
    "4 relu blocks: the first gradient is about 5·10⁻⁷, a hundredth of the last. Who trains in 300 steps?",
    {"adam": "Adam only", "momentum": "SGD with momentum only", "both": "Both", "neither": "Neither"},
    "SGD moves a weight by the learning rate times its gradient, so the first layers of this net stand still. Adam "
    "divides by the gradient's own size and moves all layers alike, until the gradient meets eps. It is not a sharp "
    "wall: with luck and a smaller learning rate, nets a few blocks deeper get going too.",
    _adam_hides, _check_adam_hides,
)  # fmt: skip


# float32's end


def _underflow() -> list[RunConfig]:
    return [recipe("sigmoid", blocks, steps=LOOK) for blocks in (12, 20, 30)]


def _check_underflow(e: Evidence) -> Finding:
    zeros = {net.blocks: int((judged(e.run(net), "weight_grad_rms") == 0).sum()) for net in _underflow()}
    twelve, twenty, thirty = _underflow()
    return Finding(
        (
            Part(_("12 blocks: tiny, but not 0."), zeros[12] == 0 and ends(e.run(twelve))[0] < 1e-15,
                 _("First block {first}.").format(first=number(ends(e.run(twelve))[0]))),
            Part(_("30 blocks: the first layers read exactly 0, because float32 ends at 1.4·10⁻⁴⁵."), zeros[30] > 0,
                 _("{zeros} of 60 block convolutions have gradient exactly 0.").format(zeros=zeros[30])),
            Part(_("The zeros begin at the first layer: they are the end of a slope, not dead layers."),
                 bool((judged(e.run(thirty), "weight_grad_rms")[: zeros[30]] == 0).all())
                 if zeros[30] else None,
                 _("20 blocks: first block {twenty}; 30 blocks: the first that is not 0 has {first}.").format(
                     twenty=number(ends(e.run(twenty))[0]),
                     first=number(float(judged(e.run(thirty), "weight_grad_rms")[zeros[30]]))
                     if zeros[30] < 60 else "—")),
        ),
        float(zeros[30]),
        _("30 blocks: {zeros} of 60 block convolutions have gradient exactly 0 at step 0.").format(zeros=zeros[30]),
    )  # fmt: skip


UNDERFLOW = Lesson(
    "float32", None, "When small becomes zero",
    "The gradient of plain sigmoid nets is exactly 0 in float32 from 23 blocks on.",
    "30 sigmoid blocks, step 0: how many of the 60 block convolutions have a weight gradient that is exactly 0?",
    {},
    "The true gradient is never 0; float32 ends at 1.4·10⁻⁴⁵. The zeros begin in the backward signal and run from "
    "some depth to the first layer: the end of a slope. A dead relu layer is another thing: one zero among living "
    "neighbours. A tool that squares float32 numbers to get a norm shows zeros from 10⁻²³ on, and they are not "
    "there.",
    _underflow, _check_underflow, number=(0, 60, "convolutions"), look_at=("profile",),
)  # fmt: skip


# Warm-up

FIRST_STEPS = 10
WARMUP = 50


def _warm_up() -> list[RunConfig]:
    cold, warm, *rest = _warmed()
    return [*with_seeds([cold, warm], lambda net: True), *rest]


def _warmed() -> list[RunConfig]:
    """Cold and warm at ten times the usual rate; a tenth of it; and nets with other ills, the last two at a rate that is too
    large for them all the time."""
    cold = recipe("relu", 12, shortcut=True, lr=0.01)
    normed = recipe("relu", 20, batch_norm=True, lr=0.1)
    return [cold, replace(cold, warmup=WARMUP), replace(cold, lr=0.001), recipe("relu", 12, warmup=WARMUP),
            normed, replace(normed, warmup=WARMUP)]  # fmt: skip


def _check_warm_up(e: Evidence) -> Finding:
    cold, warm, slow, plain, *normed = _warmed()
    moves = [(ends(e.run(net), "update_ratio")[0], usual_step(e.run(net))) for net in (cold, warm)]
    jumps = [[float(run.history.loss[:FIRST_STEPS].max() / run.history.loss[0]) for run in e.runs(net)] for net in (cold, warm)]
    return Finding(
        (
            Part(_("Adam's first step moves each weight of a block by the learning rate, whatever its gradient."),
                 all(0.8 < move / usual < 1.25 for move, usual in moves),
                 _("First block, update : weight: {cold}, with the warm-up {warm}; in theory {usual} and {small}.").format(
                     cold=number(moves[0][0]), warm=number(moves[1][0]), usual=number(moves[0][1]), small=number(moves[1][1]))),
            Part(_("At the full rate that throws the net off at once, behind a warm-up it does not."),
                 all_hold(most(jump > 2 for jump in jumps[0]), most(jump < 2 for jump in jumps[1])),
                 _("The largest loss of the first ten steps over that at the start: {cold}; with the warm-up {warm}.").format(
                     cold=listed(map(number, jumps[0])), warm=listed(map(number, jumps[1])))),
            Part(_("With the warm-up the net trains at this rate, without it not."),
                 all_hold(opposite(e.trained(cold)), e.trained(warm)), told_alone(e, cold, warm)),
            Part(_("A tenth of the rate trains too, without any warm-up."), e.trained(slow),
                 _("At 0.001: {told}.").format(told=told(e, slow))),
            Part(_("What vanishes on its way back, no warm-up cures."), opposite(e.trained(plain)), told_alone(e, plain)),
            Part(_("Nor does it help where the full rate is too large for good: 20 blocks with batch norm at 0.1."),
                 all_hold(*(opposite(e.trained(net)) for net in normed)), told_alone(e, *normed)),
        ),
        one_or_both("warm", e.trained(warm), "cold", e.trained(cold)),
        told_alone(e, cold, warm),
    )  # fmt: skip


WARM_UP = Lesson(
    "warm-up", None, "Warm-up: why do deep nets start slowly?",
    "Behind a warm-up of the learning rate, deep nets bear rates that would otherwise undo them in the first steps (Goyal et al. "
    "2017; Liu et al. 2020).",
    "12 relu blocks with shortcut, Adam at 0.01, ten times the usual rate: once from step 0 on, once risen to over the first 50 "
    "steps. Who trains in 200 steps?",
    {"warm": "With the warm-up only", "cold": "Without it only", "both": "Both", "neither": "Neither"},
    "Adam divides each gradient by the root of the mean of its squares so far. After one gradient that mean is the square of "
    "this gradient itself, so each weight of each layer moves by the whole learning rate, by the sign of what one batch says: "
    "here a third of the weight, all at once. What the blocks add along the shortcut grows ten- to a thousandfold; the next "
    "steps take it back as hastily, and leave relus that are dead. In the heatmap of update : weight the first columns are the "
    "brightest. Behind a warm-up these steps are small, until the means have seen some gradients. A smaller rate all the way "
    "does it too. A gradient that vanishes is as small behind a warm-up, and a rate that is too large for good comes in the end.",
    _warm_up, _check_warm_up, quantity="update_ratio",
)  # fmt: skip
