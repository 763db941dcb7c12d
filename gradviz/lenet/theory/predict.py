"""What theory says about a net before it has learnt anything: `predict(config)`, per layer, without building the net.

Mean field theory of random nets (Poole et al. 2016; Schoenholz et al. 2017; for convolutions Xiao et al. 2018 and
Novak et al. 2019): given the layer below, every pre-activation of a wide random layer is Gaussian, so second moments
are all there is to follow; and on the way back, weights are treated as independent of those of the way forward.
A batch needs two kinds of pairs, an image with itself and two different images. All maps are 7×7, flattened to 49
positions. docs/theory.md derives the formulas, cites the papers and shows the errors.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any, NamedTuple

import numpy as np

from gradviz.lenet.activations import ACTIVATIONS
from gradviz.lenet.config import FIELDS, MOST_BLOCKS, RunConfig
from gradviz.lenet.theory.blocks import begin
from gradviz.lenet.theory.depth import aligned_gradient, backward, forward, norm_spread
from gradviz.lenet.theory.gaussians import gaussians
from gradviz.lenet.theory.head import head_of
from gradviz.lenet.theory.stem import measured_activations, measured_datasets, stem_of
from gradviz.lenet.theory.taps import BIAS_VARIANCE, CHANNELS, FAN_IN, LAMBDA, PIXELS, TAPS
from gradviz.record import float32
from gradviz.record.float32 import ADAM_EPS, ADAM_OVERFLOW
from gradviz.words import gettext as _
from gradviz.words import power

PLATEAU = 1e-11  # first-block gradients below this were stuck in nearly all Adam runs, between it and ADAM_EPS in some


@dataclass(frozen=True, eq=False)
class Prediction:
    """Per layer in forward order, as config.layout.names; all arrays are log10, one float64 per layer, read-only.

    The quantities are those of record.quantities at step 0. `share` is the root mean square of an activation about its
    mean over the images, over its root mean square: 10^-7 means that float32 shows the same map for every image.
    """

    weight_grad_rms: np.ndarray
    signal_rms: np.ndarray
    activation_rms: np.ndarray
    share: np.ndarray
    std: np.ndarray  # dex, of the weight gradient in one random draw; the band is ±2 of it
    slope: float  # dex per block convolution towards the input: negative vanishes; nan below one block
    signal_slope: float
    logit_std: float
    widest: float  # largest variance of a sigmoid's input in the blocks; 0 where there is none or batch norm holds it
    limits: tuple[str, ...]  # one sentence for each reason why the prediction may be off here

    @property
    def factor(self) -> float:
        """By what one block convolution multiplies the weight gradient on the way to the input."""
        return 10**self.slope

    @property
    def signal_factor(self) -> float:
        """By what one block convolution multiplies the backward signal."""
        return 10**self.signal_slope


def predict(config: RunConfig, exactly: bool = False) -> Prediction:
    """The net of `config` at initialisation. Equal nets share one cached answer. `exactly`: without strides over the blocks
    of deep nets, which takes long and changes nothing that can be seen.

    Where there is no theory for a setting, every number is nan and `limits` is the one sentence that says so.
    """
    if absent := _absent(config):
        nothing = np.full(config.layers, np.nan)
        nothing.setflags(write=False)
        return Prediction(nothing, nothing, nothing, nothing, nothing, math.nan, math.nan, math.nan, 0.0, (absent,))
    config = _as_derived(config)
    prediction = _predict(_net(config), config.blocks, exactly)
    return dataclasses.replace(prediction, limits=tuple(_limits(config, prediction)))


class _Net(NamedTuple):
    """What a prediction depends on beside the number of blocks."""

    activation: str
    batch_norm: bool
    shortcut: bool
    everywhere: bool
    init_range: float | None
    block_range: float
    dataset: str
    batch: int


def _net(config: RunConfig) -> _Net:
    dataset = config.dataset if config.dataset in measured_datasets() else "mnist"
    return _Net(
        config.activation, config.batch_norm, config.shortcut, config.activation_everywhere,
        config.init_range, _block_range(config), dataset, config.batch_size,
    )  # fmt: skip


def _as_derived(config: RunConfig) -> RunConfig:
    """With the activation whose mathematics holds for it: leaky-relu is relu to the theory."""
    return dataclasses.replace(config, activation=ACTIVATIONS[config.activation].derived_as or config.activation)


def _block_range(config: RunConfig) -> float:
    """a of the block convolutions' U(−a, a)"""
    if config.init == "critical":
        return critical_range(config.activation)
    return FAN_IN**-0.5 if config.init_range is None else config.init_range


def _absent(config: RunConfig) -> str | None:
    """The setting that there is no theory for."""
    derived = ACTIVATIONS[config.activation].derived_as
    measured = derived in measured_activations()  # of those alone pairs of images were ever worked out too
    for name, absent in {
        "activation": derived is None,
        "batch_norm": config.batch_norm and not measured,
        "activation_everywhere": config.activation_everywhere and not measured,
        "other_norm": config.other_norm != "none",
        "branch_scale": config.branch_scale != "one",
        "init": config.init not in ("default", "critical"),
        "treatment": config.treatment == "normalise",  # it sets the signal by itself
    }.items():
        if absent:
            value, label = getattr(config, name), _(FIELDS[name].spec.label)
            setting = label if value is True else f"{label}: {value}"
            return _("There is no prediction for this combination ({setting}): what you see is measured only.").format(
                setting=setting
            )
    return None


@lru_cache(maxsize=256)
def _predict(net: _Net, blocks: int, exactly: bool = False) -> Prediction:
    activation, batch_norm, shortcut, everywhere, init_range, block_range, dataset, batch = net
    outside = activation if everywhere else "relu"
    stem = stem_of(dataset, outside, init_range)
    weight_variance = block_range**2 / 3
    conv, state = begin(stem, activation, batch_norm, shortcut, weight_variance, batch)
    way = forward(conv, state, blocks, exactly)
    logs, activations, shares, back, forth = way.scalars
    head = head_of(outside, way.end, init_range, batch)
    taps = CHANNELS * weight_variance * TAPS
    weighted, signal, bottom, log_bottom, branch = backward(way, taps, head.top, shortcut, blocks)
    if batch_norm and not shortcut:
        back = norm_spread(activation, 2 * blocks)
        loss = np.cumsum(back[::-1])[::-1] / 2
        weighted, signal, log_bottom = weighted - loss, signal - loss, log_bottom - loss[:1].sum()
    gradient = weighted + math.log(CHANNELS / weight_variance / (FAN_IN * CHANNELS)) + logs
    signal = signal - math.log(PIXELS * batch)

    # Σ over the positions of what arrives at the first block's input, times the measured response of the stem.
    arriving = stem.alone @ bottom[0] + stem.pair @ bottom[1]
    below_stem = np.log(np.maximum(arriving, 1e-300)) + log_bottom
    if blocks and activation == "relu" and not batch_norm and (shortcut or head.log_std > 0):
        extra, log_kappa = aligned_gradient(way, state, head.log_along, weight_variance, shortcut, batch)
        gradient, signal = np.logaddexp(gradient, extra[0]), np.logaddexp(signal, extra[1])
        below_stem = np.logaddexp(below_stem, np.log(stem.aligned) + 2 * log_kappa)
    stem_signal = below_stem[:2] - np.log([784 * batch, 196 * batch])
    stem_gradient = below_stem[2:] - np.log([150, 2400])

    def log10(*parts: Any) -> np.ndarray:
        """Mean squares in natural logarithm to root mean squares in log10."""
        values = np.concatenate(parts) / (2 * math.log(10))
        values.setflags(write=False)
        return values

    weight_grad_rms = log10(stem_gradient, gradient, head.gradient)
    signal_rms = log10(stem_signal, signal, head.signal)
    share = log10(np.log(stem.image_part / stem.activation), shares, head.share)
    # Batch norm takes some of the spread back. Of a block with shortcut only what comes through the branch spreads.
    told = 0.4 if batch_norm else np.repeat(np.maximum(branch, 0.15 if activation == "relu" else 0), 2)
    upto = np.cumsum(np.concatenate([[0, 0, 0], (told * back)[::-1], [0, 0]]))[::-1]  # from each layer to the top
    std = np.sqrt(0.02 + (upto + (told * forth).sum() / 2) / (2 * math.log(10)) ** 2)
    std.setflags(write=False)
    logit_std = head.log_std / math.log(10)
    widest = float(way.below[:, :, 0].max() + BIAS_VARIANCE) if blocks and not batch_norm and activation == "sigmoid" else 0.0
    return Prediction(
        weight_grad_rms, signal_rms, log10(np.log(stem.activation), activations, head.activation), share, std,
        _slope(weight_grad_rms), _slope(signal_rms), logit_std, widest, (),
    )  # fmt: skip


def _slope(values: np.ndarray) -> float:
    inside = values[2:-3]
    if not len(inside):
        return math.nan
    place = np.arange(len(inside)) - (len(inside) - 1) / 2
    return -float(place @ inside / (place @ place))


# --- what follows for the reader -----------------------------------------------------------------------------------


def _limits(config: RunConfig, p: Prediction) -> Iterator[str]:
    """Where the theory does not hold for this config, or what else decides beside the size of the gradient."""
    blocks, relu, plain = config.blocks, config.activation == "relu", not (config.batch_norm or config.shortcut)
    yield _("The prediction is for step 0; once the weights have moved it says nothing.")
    if config.treatment == "feedback":
        yield _("The controllers start with a gain of 1: from the second step on they change the signal.")
    if config.dataset not in measured_datasets():
        yield _("The first two layers were never measured on {name}: they are predicted with those of MNIST.").format(
            name=config.dataset
        )
    if not blocks:
        return
    if plain and relu and p.logit_std > 1:
        yield _(
            "The weight gradient is flat over depth because activations grow as fast as the signal shrinks: "
            "see the backward signal. Off by up to 0.3 decades here."
        )
    if relu and config.batch_norm and not config.shortcut and blocks > 40:
        yield _(
            "Nets of 16 channels drift away from the wide limit: growth per convolution falls from 1.16 to about 1.13. "
            "This correction is fitted to real nets, not derived."
        )
    if relu and config.batch_norm and config.shortcut and blocks > 100:
        yield _("Too low for the first blocks, by 0.3 to 0.6 decades at 200 blocks: take it as a lower bound.")
    if not relu and config.batch_norm and not config.shortcut and blocks > 6:
        yield _(
            "Do not read trainability off this gradient: it may be large enough for Adam, yet nets like this did not train "
            "from 12 blocks on. Padding draws the same border into every map, and batch norm divides the picture away."
        )
    if p.widest > 10:
        yield _("The sigmoids are saturated (a fifth of their inputs beyond ±4): the first blocks may be off by 0.4 decades.")
    if plain and relu and blocks > 2 and _block_range(config) < critical_range("relu"):
        yield _(
            "Biases rule here: six or seven of the 16 channels of each layer are off for every picture. "
            "A layer at exactly 0 between neighbours that are not is a dead layer, no vanishing gradient."
        )
    yield from _ends_of_float32(p)
    if config.optimizer == "adam":
        yield from _ends_of_adam(p)


def _ends_of_float32(p: Prediction) -> Iterator[str]:
    first, last, largest = p.weight_grad_rms[2], p.share[-4], _largest(p)
    if largest > math.log10(float32.LARGEST):
        yield _("float32 ends at 3.4·10³⁸, this net reaches {value}: the loss is inf or nan from the first step.").format(
            value=power(largest)
        )
    if p.signal_rms.min() < math.log10(float32.ZERO):
        yield _("float32 shows exactly 0 in the first layers; the first block's true weight gradient is {value}.").format(
            value=power(first)
        )
    elif p.weight_grad_rms.min() < math.log10(float32.SMALLEST_NORMAL):
        yield _("The first layers lie under 10⁻³⁸: there float32 loses digits, and a graphics card may show 0.")
    if last < math.log10(float32.RESOLUTION):
        yield _(
            "The last block hands on one map for all pictures: they differ by {value} of it, and float32 resolves 10⁻⁷."
        ).format(value=power(last))


def _ends_of_adam(p: Prediction) -> Iterator[str]:
    first = p.weight_grad_rms[2]
    if first < math.log10(PLATEAU):
        yield _(
            "Adam moves by lr · g/(g + 10⁻⁸), and g is {value} in the first block: nearly all runs like this were stuck."
        ).format(value=power(first))
    elif first < math.log10(ADAM_EPS):
        yield _("The first block lies under Adam's eps of 10⁻⁸: slow or stuck, depending on seed and learning rate.")
    elif _largest(p) < math.log10(float32.LARGEST) and first > math.log10(ADAM_OVERFLOW):
        yield _("Adam squares a gradient of {value} and gets inf: its steps are 0.").format(value=power(first))


def _largest(p: Prediction) -> float:
    return max(float(values.max()) for values in (p.weight_grad_rms, p.signal_rms, p.activation_rms))


@lru_cache(maxsize=8)
def critical_range(activation: str) -> float:
    """a* for weights from U(−a, a) in a plain net: below it the backward signal vanishes with depth, above it explodes.

    Where χ = 16 · a²/3 · λ · E f'² = 1, in the wide limit (Schoenholz et al. 2017; λ instead of the number of taps
    because zero padding lets the gradient gather in the middle). relu: √(6/(16 λ)). sigmoid: E f'² depends on a, so
    the map's own fixed point is found first, and so with tanh. nan for gelu and silu, which have none: small signals
    they shrink, and from the range on at which they do not, signals grow without end (Roberts et al. 2022, ch. 5).
    """
    row = ACTIVATIONS[activation]
    if row.leak is not None:
        return math.sqrt(6 / (CHANNELS * LAMBDA * (1 + row.leak**2)))
    if row.derived_as is None:
        return math.nan
    derived = row.derived_as

    def chi(a: float) -> float:
        taps = CHANNELS * a * a / 3 * TAPS
        moment = np.full(PIXELS, 0.25)
        for _step in range(100):
            f = gaussians(derived, taps @ moment + BIAS_VARIANCE)
            moment = f.second
        root = np.sqrt(f.slope)
        return float(np.linalg.eigvalsh(root[:, None] * taps * root)[-1])

    low, high = 0.01, 10.0
    while high - low > 1e-5:
        middle = (low + high) / 2
        low, high = (middle, high) if chi(middle) < 1 else (low, middle)
    return low


@dataclass(frozen=True)
class DepthMarks:
    """The smallest number of blocks (up to 1000) at which ..., everything else as in the config; None if at none."""

    adam_eps: int | None  # the first block's weight gradient lies under Adam's eps
    float32_normal: int | None  # ... under float32's smallest normal number
    float32_zero: int | None  # the signal at the first block rounds to exactly 0 in float32
    float32_overflow: int | None  # some layer's numbers exceed float32: loss inf or nan at step 0


def depth_marks(config: RunConfig) -> DepthMarks:
    """Found by bisection over predictions, all None where there are none; the answer does not depend on config.blocks."""
    return DepthMarks(None, None, None, None) if _absent(config) else _depth_marks(_net(_as_derived(config)))


@lru_cache(maxsize=64)
def _depth_marks(net: _Net) -> DepthMarks:
    most = MOST_BLOCKS
    at = partial(_predict, net)

    def smallest(reached: Any) -> int | None:
        if not reached(at(most)):
            return None
        low, high = 0, 1  # 0 blocks have no first block
        while high < most and not reached(at(high)):
            low, high = high, min(2 * high, most)
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (low, middle) if reached(at(middle)) else (middle, high)
        return high

    return DepthMarks(
        smallest(lambda p: p.weight_grad_rms[2] < math.log10(ADAM_EPS)),
        smallest(lambda p: p.weight_grad_rms[2] < math.log10(float32.SMALLEST_NORMAL)),
        smallest(lambda p: p.signal_rms[2] < math.log10(float32.ZERO)),
        smallest(lambda p: _largest(p) > math.log10(float32.LARGEST)),
    )
