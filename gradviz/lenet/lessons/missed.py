"""What the article missed: six lessons."""

from __future__ import annotations

import math

from gradviz.diagnosis.state import GAP
from gradviz.lenet.config import RunConfig
from gradviz.lenet.lessons.evidence import (
    Evidence,
    all_hold,
    first_loss,
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
