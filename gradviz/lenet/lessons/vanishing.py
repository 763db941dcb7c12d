"""Claims 1 to 4 of the article: gradients vanish, explode, and wake up."""

from __future__ import annotations

import math
from statistics import median

from gradviz.diagnosis.state import GAP
from gradviz.lenet.config import RunConfig
from gradviz.lenet.lessons.evidence import (
    Evidence,
    all_hold,
    by_depth,
    depth_border,
    none_holds,
    opposite,
    profile,
    told,
    told_alone,
)
from gradviz.lenet.lessons.lesson import FLAT, TENFOLD, Finding, Lesson, Part, recipe, with_seeds
from gradviz.lenet.naming import net_name
from gradviz.lenet.outcome import TRAINED, result
from gradviz.record.reading import decades, ends, factor
from gradviz.words import gettext as _
from gradviz.words import listed, ngettext, number, scientific

_HOW_DEEP = (1, 20, "blocks")


# Claim 1

_SIGMOID = (1, 2, 3, 4, 6, 7)


def _plain_sigmoid() -> list[RunConfig]:
    return with_seeds([recipe("sigmoid", blocks) for blocks in _SIGMOID], lambda net: 2 <= net.blocks <= 4)


def _check_sigmoid(e: Evidence) -> Finding:
    nets = [recipe("sigmoid", blocks) for blocks in _SIGMOID]
    found = depth_border(e, nets)
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
            Part(_("6 blocks still train."), e.trained(recipe("sigmoid", 6)), told_alone(e, recipe("sigmoid", 6))),
            Part(_("7 blocks do not."), opposite(e.trained(recipe("sigmoid", 7))), told_alone(e, recipe("sigmoid", 7))),
            Part(
                _("The gradient vanishes from the last layer towards the first."),
                max(factors) < 1 / FLAT if factors else None,
                _("7 blocks at step 0: {profile}.").format(profile=profile(e.run(recipe("sigmoid", 7)))),
            ),
        ),
        found.first_failed,
        _("Border in these runs: {border}.").format(border=found.text),
    )  # fmt: skip


SIGMOID_DEPTH = Lesson(
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
)  # fmt: skip


# Claim 2


def _wide() -> list[RunConfig]:
    return [recipe("relu", 12, init_range=0.5, steps=60), recipe("relu", 40, init_range=0.5, steps=60)]


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
                _("12 blocks at step 0, weight gradient: {profile}.").format(profile=profile(run)),
            ),
            Part(
                _("The backward signal grows layer by layer on the way back."), signal > FLAT,
                _("12 blocks at step 0, backward signal: {profile}.").format(profile=profile(run, "signal_rms")),
            ),
            Part(
                _("Training is hard."), none_holds(e.trained(twelve), e.trained(forty)),
                _("Loss of 12 blocks at step 0: {start}; {told}.").format(start=number(start), told=told(e, twelve, forty)),
            ),
        ),
        answer,
        _("12 blocks: loss {start} at step 0, {loss} after {steps} steps.").format(
            start=number(start), loss=number(result(run).loss, 3), steps=result(run).steps
        ),
    )  # fmt: skip


EXPLODING_INIT = Lesson(
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
)  # fmt: skip


# Claim 3


def _dynamics() -> list[RunConfig]:
    nets = [recipe("sigmoid", 1), recipe("sigmoid", 2), recipe("relu", 4), recipe("sigmoid", 7), recipe("sigmoid", 30, steps=40)]
    return with_seeds(nets, lambda net: net.blocks in (2, 4))


def _check_dynamics(e: Evidence) -> Finding:
    nets = [net for net in _dynamics() if net.seed == 0]
    sigmoid = [net for net in nets if net.activation == "sigmoid"]
    gaps = {net.blocks: decades(*ends(e.run(net))) for net in sigmoid}
    rises = {
        net: median(
            float(max(run.history.snapshot().quantity("weight_grad_rms")[:, run.recipe.layout.front])) / ends(run)[0]
            for run in e.runs(net) if result(run).outcome == TRAINED
        )
        for net in nets if e.trained(net) and ends(e.run(net))[0] > 0
    }  # fmt: skip
    deep = e.run(recipe("sigmoid", 7))
    deepest = e.run(recipe("sigmoid", 30, steps=40))
    before, after = ends(deep)[0], ends(deep, last=True)[0]
    zero = ends(deepest, last=True)[0]
    recovered = min(rises.values()) >= TENFOLD if rises else None
    widest = max(rises.values(), default=math.nan)
    answer = None if not rises else "grows" if widest >= TENFOLD else "shrinks" if widest <= 1 / TENFOLD else "stays"
    return Finding(
        (
            Part(
                _("At the start gradients shrink from the last to the first layer, the more the deeper the net."),
                all(a > b for a, b in zip(gaps.values(), list(gaps.values())[1:], strict=False)) and max(gaps.values()) < 0,
                _("First over last block at step 0: {gaps}.").format(
                    gaps=listed(
                        ngettext("{n} block {gap}", "{n} blocks {gap}", n).format(n=n, gap=scientific(gap))
                        for n, gap in gaps.items()
                    )
                ),
            ),
            Part(
                _("In nets that are not too deep the first layers' gradients recover as training goes on."), recovered,
                _("Largest gradient of the first block over that at step 0, in the nets that trained: {rises}.").format(
                    rises=listed(f"{net_name(net)} ×{number(rise)}" for net, rise in rises.items()) or _("no net trained")
                ),
            ),
            Part(
                _("Past some depth they never recover, and the net cannot train."),
                all_hold(
                    opposite(e.trained(recipe("sigmoid", 7))), after < TENFOLD**2 * before,
                    decades(*ends(deep, last=True)) < -GAP,
                ),
                _("7 sigmoid blocks: first block {before} at step 0, {after} at the end; {told}.").format(
                    before=number(before), after=number(after), told=told(e, recipe("sigmoid", 7))
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


DYNAMICS = Lesson(
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
)  # fmt: skip


# Claim 4


def _plain_relu() -> list[RunConfig]:
    nets = [recipe("sigmoid", 3), recipe("sigmoid", 4), *(recipe("relu", blocks) for blocks in (4, 6, 7, 8, 9, 10))]
    return with_seeds(nets, lambda net: net.blocks > 4 or net.activation == "sigmoid")


def _check_relu(e: Evidence) -> Finding:
    nets = [net for net in _plain_relu() if net.seed == 0]
    relu = [net for net in nets if net.activation == "relu"]
    sigmoid = [net for net in nets if net.activation == "sigmoid"]
    found, other = depth_border(e, relu), depth_border(e, sigmoid)
    ten = e.run(recipe("relu", 10))
    relu_factor, sigmoid_factor = factor(ten), factor(e.run(recipe("sigmoid", 4)))
    later = None
    if found.first_failed is not None and other.first_failed is not None:
        later = found.first_failed > other.first_failed
    return Finding(
        (
            Part(
                _("Relu vanishes too."), relu_factor < 1 / FLAT,
                _("10 relu blocks at step 0: {profile}.").format(profile=profile(ten)),
            ),
            Part(
                _("Only later than sigmoid."), later,
                _("Relu {relu}; sigmoid {sigmoid}.").format(relu=found.text, sigmoid=other.text),
            ),
            Part(_("9 blocks still train."), e.trained(recipe("relu", 9)), told_alone(e, recipe("relu", 9))),
            Part(_("10 blocks do not."), opposite(e.trained(recipe("relu", 10))), told_alone(e, recipe("relu", 10))),
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


RELU_DEPTH = Lesson(
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
)  # fmt: skip
