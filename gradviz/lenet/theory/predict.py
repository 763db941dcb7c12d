"""What theory says about a net before it has learnt anything: `predict(config)`, per layer, without building the net.

Mean field theory of random nets (Poole et al. 2016; Schoenholz et al. 2017; for convolutions Xiao et al. 2018 and
Novak et al. 2019): given the layer below, every pre-activation of a wide random layer is Gaussian, so second moments
are all there is to follow; and on the way back, weights are treated as independent of those of the way forward.
A batch needs two kinds of pairs, an image with itself and two different images. All maps are 7×7, flattened to 49
positions. docs/theory.md derives the formulas, cites the papers and shows the errors.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np

from gradviz.config import FIELDS, RunConfig
from gradviz.record import float32
from gradviz.record.float32 import ADAM_EPS, ADAM_OVERFLOW
from gradviz.words import gettext as _
from gradviz.words import power

CHANNELS, SIDE, PIXELS = 16, 7, 49
FAN_IN = CHANNELS * 25  # of a block convolution
BIAS_VARIANCE = 1 / (3 * FAN_IN)  # of a block convolution: U(±1/√fan_in), whatever the weights are
BN_EPS = 1e-5  # PyTorch's default
HEAD_WIDTHS = (CHANNELS * PIXELS, 120, 84, 10)

PLATEAU = 1e-11  # first-block gradients below this were stuck in nearly all Adam runs, between it and ADAM_EPS in some

EXACT_BLOCKS, STRIDE = 14, 0.25  # deeper blocks change so slowly that they are stepped over, 25 % of the depth at a time
BN_EXACT_BLOCKS, BN_STRIDE = 8, 0.5
SETTLED, BN_SETTLED, BN_MOST_BLOCKS = 1e-5, 1e-4, 40  # relative change per block at which a plain net is taken to stay as it is


# --- one layer of independent Gaussians --------------------------------------------------------------------------


_Pairs = tuple[np.ndarray, np.ndarray] | None


class _Gaussians(Protocol):
    """Expectations over z ~ N(0, q) for a vector q of variances, and over pairs of correlation c.

    A pair is of equal variances, c being a vector as long as q, or of q[pairs[0]] and q[pairs[1]], c as long as those.
    """

    second: np.ndarray  # E f²
    slope: np.ndarray  # E f'²
    mean: np.ndarray  # E f

    def pair(self, c: np.ndarray) -> np.ndarray:
        """E f(z) f(z')"""

    def pair_slope(self, c: np.ndarray) -> np.ndarray:
        """E f'(z) f'(z'), which is also the derivative of `pair` by the covariance (Price's theorem)."""

    def pair_both(self, c: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """`pair` and `pair_slope`, which share most of their work."""

    def spread(self, bias_share: float) -> tuple[float, float]:
        """Variance of ln|.|² that one layer of 16 channels adds to one draw, backward and forward (Hanin & Rolnick 2018)."""


class _Relu:
    """Closed forms: the arc-cosine kernels of Cho & Saul 2009."""

    def __init__(self, q: np.ndarray, pairs: _Pairs):
        self.q, self.pairs = q, pairs
        self.second, self.slope, self.mean = q / 2, np.full_like(q, 0.5), np.sqrt(q / (2 * math.pi))

    def pair(self, c):
        return self.pair_both(c)[0]

    def pair_slope(self, c):
        return 0.5 - np.arccos(c) / (2 * math.pi)

    def pair_both(self, c):
        size, slope = self.q, self.pair_slope(c)
        if self.pairs is not None:
            root = np.sqrt(self.q)
            size = root[self.pairs[0]] * root[self.pairs[1]]
        return size * (np.sqrt(1 - c * c) / (2 * math.pi) + c * slope), slope

    def spread(self, bias_share):
        # Form: 1/width per layer (Hanin 2018). Where biases rule, a channel is on or off for all images and positions,
        # which has variance 1/16 by itself. Numbers fitted to the increments of the signal in real nets.
        return 0.021 + 0.065 * bias_share**1.5, 0.11 * (1 - bias_share) ** 2


class _Sigmoid:
    """Expansion in Hermite polynomials: E f f' = 1/4 + Σ a_n a'_n cⁿ, a_n = E f(√q u) He_n(u) / √n! for odd n."""

    def __init__(self, q: np.ndarray, pairs: _Pairs):
        self.q, self.pairs = q, pairs
        low, step, table = _sigmoid_table()
        place = np.minimum(np.maximum((np.log(q) / 2 - low) / step, 0), len(table) - 1.001)
        index = place.astype(int)
        row, above = table[index], table[index + 1]
        row = (row + (place - index)[:, None] * (above - row)).T
        self.second, self.slope, self.mean = 0.25 + q * row[0], row[1], np.full_like(q, 0.5)
        self._fourth = row[2]
        self._coefficients = {"pair": row[3:8] * np.sqrt(q), "pair_slope": row[8:13]}
        self._products: dict[str, np.ndarray] = {}

    def _series(self, name: str, c: np.ndarray) -> np.ndarray:
        """Σ k_n k'_n c^(2n), n = 0 … 4"""
        if name not in self._products:
            k = self._coefficients[name]
            self._products[name] = k * k if self.pairs is None else k.take(self.pairs[0], 1) * k.take(self.pairs[1], 1)
        k, c2 = self._products[name], c * c
        total = k[4] * c2
        for n in (3, 2, 1):
            total += k[n]
            total *= c2
        total += k[0]
        return total

    def pair(self, c):
        return 0.25 + c * self._series("pair", c)

    def pair_slope(self, c):
        return self._series("pair_slope", c)

    def pair_both(self, c):
        return self.pair(c), self.pair_slope(c)

    def spread(self, bias_share):
        # Saturated, few entries carry the signal, but others in each image and position: that averages out again.
        return min(0.03, 0.001 + 0.5 * (float((self._fourth / self.slope**2).sum()) / len(self.q) - 1) / CHANNELS), 0.0


class _Tanh(_Sigmoid):
    """tanh z = 2 sigmoid(2z) − 1."""

    def __init__(self, q: np.ndarray, pairs: _Pairs):
        super().__init__(4 * q, pairs)
        self.second, self.slope = 4 * (self.second - 0.25), 16 * self.slope
        self._fourth = 256 * self._fourth
        self.mean = np.full_like(q, 1e-30)  # 0, but its logarithm is taken

    def pair(self, c):
        return 4 * (super().pair(c) - 0.25)

    def pair_slope(self, c):
        return 16 * super().pair_slope(c)


@lru_cache(maxsize=1)
def _sigmoid_table() -> tuple[float, float, np.ndarray]:
    """Rows at ln √q = low, low + step, ...: (E f² − 1/4)/q, E f'², E f'⁴, four a_n/√q and what they miss, the same of f'."""
    log_s = np.linspace(-14, 14, 701)
    # Points dense near 0, where the sigmoid of a wide Gaussian turns.
    t = np.linspace(-math.asinh(9e7), math.asinh(9e7), 1201)
    u, step = np.sinh(t) * 1e-7, np.cosh(t) * 1e-7 * (t[1] - t[0])
    weight = step * np.exp(-u * u / 2) / math.sqrt(2 * math.pi)
    hermite = (u, (u**3 - 3 * u) / 6**0.5, (u**5 - 10 * u**3 + 15 * u) / 120**0.5,
               (u**7 - 21 * u**5 + 105 * u**3 - 105 * u) / 5040**0.5)  # fmt: skip
    s = np.exp(log_s)[:, None]
    half = np.tanh(s * u / 2) / 2  # sigmoid − 1/2
    slope = 0.25 - half * half
    a = half @ np.stack([weight * h for h in hermite], 1)
    second, slope2, slope4 = (half**2) @ weight, (slope**2) @ weight, (slope**4) @ weight
    b = a * np.sqrt([1, 3, 5, 7]) / s  # coefficients of f', by Stein's lemma
    rest = np.sqrt(np.maximum(second - (a**2).sum(1), 0))
    slope_rest = np.sqrt(np.maximum(slope2 - (b**2).sum(1), 0))
    # Relative to √q, so that a straight line between table points is exact for narrow Gaussians too.
    table = np.column_stack([second / s[:, 0] ** 2, slope2, slope4, a / s, rest / s[:, 0], b, slope_rest])
    return float(log_s[0]), float(log_s[1] - log_s[0]), table


def _gaussians(activation: str, q: np.ndarray, pairs: _Pairs = None) -> _Gaussians:
    return {"relu": _Relu, "sigmoid": _Sigmoid, "tanh": _Tanh}[activation](q, pairs)


def _gap_after(
    f: _Gaussians, q: np.ndarray, c: np.ndarray, slope_pair: np.ndarray, gap: np.ndarray, factor: float
) -> np.ndarray:
    """E f² − E f(z) f(z'), for E z² − E z z' = gap · factor; in the units of gap. `slope_pair`: f.pair_slope(c)."""
    # Nearly equal images: ∫ of the slope over the covariance, by Simpson's rule, for the difference would be rounded off.
    inside = gap * (f.slope + 4 * f.pair_slope((1 + c) / 2) + slope_pair) / 6
    far = (1 - c) * (1 + q) > 0.02  # counted in saturated sigmoids, which tell images apart that are nearly equal
    return np.where(far, (f.second - f.pair(c)) / max(factor, 1e-300), inside) if far.any() else inside


# --- where a 5×5 convolution with zero padding looks ---------------------------------------------------------------

_NEAR = (np.abs(np.subtract.outer(np.arange(SIDE), np.arange(SIDE))) <= 2).astype(float)
TAPS = np.kron(_NEAR, _NEAR)  # (49, 49): 1 where two positions share a 5×5 window; row sums from 9 to 25
LAMBDA = float(np.linalg.eigvalsh(TAPS)[-1])  # 18.956: taps that count, because the gradient gathers in the middle
_PAIR_SHIFT = sum(np.kron(np.eye(SIDE, k=t), np.eye(SIDE, k=t)) for t in range(-2, 3))
_SHIFTS = np.stack([np.kron(np.eye(SIDE, k=i), np.eye(SIDE, k=j)) for i in range(-2, 3) for j in range(-2, 3)])


def _rows_and_columns(kernel: np.ndarray) -> np.ndarray:
    """(row, column; row', column') to (row, row'; column, column'), and back: its own inverse."""
    return kernel.reshape(-1, SIDE, SIDE, SIDE, SIDE).swapaxes(2, 3).reshape(kernel.shape)


def tap_sum(kernel: np.ndarray) -> np.ndarray:
    """Σ_t kernel[p+t, q+t] over the 25 taps, for (…, 49, 49) kernels over two positions (Xiao et al. 2018)."""
    return _rows_and_columns(_PAIR_SHIFT @ _rows_and_columns(kernel) @ _PAIR_SHIFT.T)


# --- real images: the stem -----------------------------------------------------------------------------------------


@lru_cache(maxsize=1)
def _stem_table() -> dict[str, Any]:
    return json.loads(Path(__file__).with_name("stem_statistics.json").read_text())


def measured_datasets() -> tuple[str, ...]:
    return tuple(_stem_table()["datasets"])


@dataclass(frozen=True)
class _Stem:
    """Statistics of conv1 and conv2 on real images; see stem_statistics for what is what."""

    activation: np.ndarray  # (2,) E h² of conv1, conv2
    image_part: np.ndarray  # (2,) its image-dependent part
    mean: np.ndarray  # (49,) of the map that enters the first block
    cross: np.ndarray  # (49, 49) its second moment over two different images
    gap: np.ndarray  # (49, 49) what one image with itself has more
    alone: np.ndarray  # (4, 49) response of signal 1, 2 and gradient 1, 2 to a gradient at each position
    pair: np.ndarray  # (4, 49) the same between two images
    aligned: np.ndarray  # (4,) response to a gradient along the map itself


@lru_cache(maxsize=64)
def _stem(dataset: str, activation: str, init_range: float | None) -> _Stem:
    table = _stem_table()
    entries = table["datasets"][dataset][activation]
    if init_range is None:
        return _read_stem(entries[0])
    grid = np.log(table["init_ranges"])
    place = float(np.interp(math.log(init_range), grid, np.arange(len(grid))))
    low = min(int(place), len(grid) - 2)
    part = place - low
    one, two = _read_stem(entries[1 + low]), _read_stem(entries[2 + low])

    def mixed(name: str) -> np.ndarray:
        return (1 - part) * getattr(one, name) + part * getattr(two, name)

    def scale(name: str) -> tuple[np.ndarray, np.ndarray]:
        return np.maximum(getattr(one, name), 1e-300), np.maximum(getattr(two, name), 1e-300)

    def powers(name: str) -> np.ndarray:
        a, b = scale(name)
        return a ** (1 - part) * b**part

    def sized(name: str, diagonal: str | None = None) -> np.ndarray:
        """Shape on a straight line, size on a power law."""
        a, b = (getattr(stem, name) for stem in (one, two))
        size_a, size_b = (np.abs(v).mean() if v.ndim == 1 else np.trace(v) for v in (a, b))
        return ((1 - part) * a / size_a + part * b / size_b) * size_a ** (1 - part) * size_b**part

    alone = powers("alone")
    return _Stem(
        powers("activation"), powers("image_part"), sized("mean"), sized("cross"), sized("gap"), alone,
        alone * ((1 - part) * one.pair / one.alone + part * two.pair / two.alone), powers("aligned"),
    )  # fmt: skip


def _read_stem(entry: dict[str, Any]) -> _Stem:
    rings = np.minimum(np.arange(SIDE), np.arange(SIDE)[::-1])
    ring = np.minimum.outer(rings, rings).ravel()

    def kernel(name: str) -> np.ndarray:
        vectors, signs = np.array(entry[name]["vectors"]), np.array(entry[name]["signs"])
        matrix = (vectors.T * signs) @ vectors
        np.fill_diagonal(matrix, entry[name]["diagonal"])
        return matrix

    return _Stem(
        activation=np.array([entry["conv1_activation"], entry["conv2_activation"]]),
        image_part=np.array([entry["conv1_image_part"], entry["conv2_image_part"]]),
        mean=np.array(entry["mean"]) * entry["scale"] ** 0.5,
        cross=kernel("cross") * entry["scale"],
        gap=kernel("gap") * entry["gap_scale"],
        alone=np.array(entry["alone"])[:, ring],
        pair=np.array(entry["pair"])[:, ring],
        aligned=np.array(entry["aligned"]),
    )


# --- forward through the blocks ------------------------------------------------------------------------------------


@dataclass
class _State:
    """The map between two blocks. True second moment = e^log · moment, true image-dependent part = e^log_gap · gap.

    Without batch norm the 49 positions are enough, since the weights of different taps are independent; batch norm
    couples positions and images, so there moment (of two different images) and gap are (49, 49).
    """

    moment: np.ndarray
    gap: np.ndarray
    mean: np.ndarray  # (49,), true mean = e^(log/2) · mean
    log: float = 0.0
    log_gap: float = 0.0

    @property
    def gap_factor(self) -> float:
        """What turns `gap` into the units of `moment`."""
        return math.exp(min(600.0, self.log_gap - self.log))


@dataclass
class _Layer:
    """What the backward pass and the reader need of one convolution. Vectors have 49 positions."""

    slopes: np.ndarray  # (2, 49) ∂L/∂h² to ∂L/∂z²: an image with itself, two different images
    below: np.ndarray  # (2, 49) variance of z from the weights: e^log · below, for the same two pairs
    log: float
    activation: float  # ln E h²
    share: float  # ln of the image-dependent share of E h²
    back: float = 0.0  # variance of ln|.|² of one draw that this layer adds, backward
    forth: float = 0.0  # and forward
    extra: np.ndarray | None = None  # (7, 49), on second convolutions of relu blocks: what _aligned_gradient needs


class _PlainConv:
    """Convolution and activation without norm. Moments in units of e^log, so that relu can grow past any float."""

    def __init__(self, activation: str, weight_variance: float, shortcut: bool):
        self.activation, self.shortcut, self.relu = activation, shortcut, activation == "relu"
        self.taps = CHANNELS * weight_variance * TAPS

    def __call__(
        self, moment: np.ndarray, gap: np.ndarray, state: _State, factor: float
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, _Layer]:
        """E h², its image-dependent part and E h, and the layer. `factor`: state.gap_factor"""
        below, gap_below = self.taps @ moment, self.taps @ gap
        bias = BIAS_VARIANCE * math.exp(-state.log)
        q = below + bias
        gap_true = gap_below * factor
        c = np.minimum(np.maximum(1 - gap_true / q, 0), 1)
        f = _gaussians(self.activation, q)
        slope_pair = f.pair_slope(c)
        gap_out = _gap_after(f, q, c, slope_pair, gap_below, factor)
        back, forth = f.spread(float((bias / q).sum()) / PIXELS)
        loss = math.exp(-back / 2)  # the median draw lies this much under the mean
        second, gap_out = f.second * math.exp(-forth / 2), gap_out * math.exp(-forth / 2)
        size = float(second.sum())
        layer = _Layer(
            np.array((f.slope, slope_pair)) * loss, np.array((below, np.maximum(below - gap_true, 0))), state.log,
            math.log(size / PIXELS) + state.log, math.log(float(gap_out.sum()) / size) + state.log_gap - state.log, back, forth,
        )  # fmt: skip
        return second, gap_out, f.mean, layer

    def block(self, state: _State) -> tuple[_State, list[_Layer]]:
        factor = state.gap_factor
        h1, gap1, _mean, first = self(state.moment, state.gap, state, factor)
        h2, gap2, mean, second = self(h1, gap1, state, factor)
        cross_x, cross_h2 = state.moment - state.gap * factor, h2 - gap2 * factor
        # E f'(z)² out² and E f'(z) ∂/∂W out, out what the block hands on: relu's own output passes its own gate.
        gated, gated_pair, through = h2, cross_h2, np.full(PIXELS, 0.5)
        if self.shortcut:
            both = 2 * state.mean * mean
            slope, slope_pair = second.slopes
            gated, gated_pair = h2 + both + slope * state.moment, cross_h2 + both + slope_pair * cross_x
            if self.relu:
                q2 = second.below[0] + BIAS_VARIANCE * math.exp(-state.log)
                through = through + np.sqrt(cross_x / (2 * math.pi * q2))
            h2, gap2, mean = h2 + state.moment + both, gap2 + state.gap, mean + state.mean
        if self.relu:
            second.extra = np.array((h2, mean**2, gated, gated_pair, through, h1 - gap1 * factor, cross_x))
        return self._scaled(_State(h2, gap2, mean, state.log, state.log_gap)), [first, second]

    def stride(self, state: _State, after: _State, blocks: int) -> _State:
        """`blocks` blocks at once, from what two blocks in a row do: their factors go on changing as they did."""
        second = self.block(after)[0]

        def rise(name: str) -> tuple[float, np.ndarray]:
            one, two, three = (getattr(s, name) for s in (state, after, second))
            return _continued(np.log(two / one), np.log(three / two), blocks)

        def rise_of(name: str) -> float:
            one, two, three = (getattr(s, name) for s in (state, after, second))
            return _continued(np.array([two - one]), np.array([three - two]), blocks)[0]

        (size, shape), (gap_size, gap_shape), (mean_size, mean_shape) = rise("moment"), rise("gap"), rise("mean")
        return self._scaled(_State(
            state.moment * np.exp(shape) * math.exp(size), state.gap * np.exp(gap_shape),
            state.mean * np.exp(mean_shape) * math.exp(mean_size),
            state.log + rise_of("log"), state.log_gap + gap_size + rise_of("log_gap"),
        ))  # fmt: skip

    def _scaled(self, state: _State) -> _State:
        """The same state in numbers of order 1. Sigmoid's own scale is bounded, and its 1/4 knows no unit."""
        size, gap_size = float(state.moment.sum()) / PIXELS if self.relu else 1.0, float(state.gap.sum()) / PIXELS
        return _State(
            state.moment / size, state.gap / gap_size, state.mean / size**0.5,
            state.log + math.log(size), state.log_gap + math.log(gap_size),
        )  # fmt: skip

    def diagonal(self, state: _State) -> _State:
        return state


def _continued(one: np.ndarray, two: np.ndarray, blocks: int) -> tuple[float, np.ndarray]:
    """Sum over `blocks` steps of a change that was `one`, then `two`, and goes on as a geometric series: mean and rest.

    The rest relaxes fast while the mean grows for ever; following both at one pace would overshoot.
    """
    def total(start: float, end: float) -> float:
        ratio = min(1.0, max(0.0, end / start)) if start else 0.0
        return blocks if ratio > 1 - 1e-9 else (1 - ratio**blocks) / (1 - ratio)

    mean, next_mean = float(one.sum()) / len(one), float(two.sum()) / len(two)
    rest = one - mean
    return mean * total(mean, next_mean), rest * total(float(np.abs(rest).sum()), float(np.abs(two - next_mean).sum()))


_PAIRS = np.triu_indices(PIXELS)  # a symmetric kernel is worked on as the vector of its upper triangle
_UPPER = np.ravel_multi_index(_PAIRS, (PIXELS, PIXELS))
_WHOLE = np.zeros((PIXELS, PIXELS), int)  # kernel.take(_UPPER).take(_WHOLE) is the kernel again
_WHOLE[_PAIRS] = _WHOLE.T[_PAIRS] = np.arange(len(_UPPER))
_DIAGONAL = _WHOLE.diagonal().copy()


class _NormConv:
    """Convolution, batch norm and activation: kernels over two positions, since the batch statistics couple them."""

    def __init__(self, activation: str, weight_variance: float, shortcut: bool, batch: int):
        self.activation, self.shortcut, self.batch = activation, shortcut, batch
        self.scale = CHANNELS * weight_variance

    def __call__(self, cross: np.ndarray, gap: np.ndarray, factor: float, log_gap: float) -> tuple[np.ndarray, ...]:
        """Second moment of h over two images, its image-dependent part, E h, and the layer."""
        b = self.batch
        z, z_gap = tap_sum(np.array((cross, gap))) * self.scale
        own = z_gap * factor
        # Batch norm subtracts the mean over batch and positions, which also removes the bias.
        r = (z + own / b).sum(1) / PIXELS
        z = z - r[:, None] - (r - r.sum() / PIXELS)
        own_z, image_z = (z + own).diagonal(), z.diagonal()
        mu = float(own_z.sum()) / PIXELS  # mean variance of a channel
        # Spectrum of the covariance of all 49·B values of a channel: once that of own + B·z, B − 1 times that of `own`.
        times = np.array([1.0, b - 1.0])[:b]
        spectrum = np.maximum(np.linalg.eigvalsh(np.array((own + b * z, own))[:b]), 0)
        spectrum /= times @ spectrum.sum(1)
        inverse = _mean_inverse(spectrum, times)  # mu · E 1/σ²
        evenness = float(times @ (spectrum**2).sum(1))
        # z/σ to second order in the fluctuation of σ, rescaled to mean variance 1 (or less, where eps rules).
        grown, taken = (1 + 2 * evenness) / mu, 2 / (PIXELS * b * mu * mu)
        product = (own + (b / 2) * z) @ z
        k = grown * z.take(_UPPER) - taken * (product + product.T).take(_UPPER)
        k_gap = grown * z_gap.take(_UPPER) - taken * (z_gap @ own).take(_UPPER)
        k_own = k + k_gap * factor
        rescale = (mu / (mu + BN_EPS)) / (float(k_own[_DIAGONAL].sum()) / PIXELS)
        k, k_gap, k_own = k * rescale, k_gap * rescale, k_own * rescale
        v = np.maximum(k_own[_DIAGONAL], 1e-12)
        root = np.sqrt(v)
        size = root[_PAIRS[0]] * root[_PAIRS[1]]
        c, c_own = (np.minimum(np.maximum(kernel / size, -1), 1) for kernel in (k, k_own))
        f = _gaussians(self.activation, v, _PAIRS)
        cross_out, slope_pair = f.pair_both(c)
        own_out, own_slope = f.pair_both(c_own)
        gap_out = k_gap * (slope_pair + 4 * f.pair_slope((c + c_own) / 2) + own_slope) / 6  # see _gap_after
        far = np.abs(c_own - c) > 0.01
        gap_out = np.where(far, (own_out - cross_out) / max(factor, 1e-300), gap_out)
        to_z = inverse / (mu + BN_EPS)
        second = float(f.second.sum())
        share = float(gap_out[_DIAGONAL].sum()) / second
        layer = _Layer(
            np.array((f.slope, slope_pair[_DIAGONAL])) * to_z, np.array((own_z, image_z)) / inverse, 0.0,
            math.log(second / PIXELS), math.log(max(share, 1e-300)) + log_gap,
        )  # fmt: skip
        return cross_out.take(_WHOLE), gap_out.take(_WHOLE), f.mean, layer

    def block(self, state: _State) -> tuple[_State, list[_Layer]]:
        factor, log_gap = state.gap_factor, state.log_gap
        cross, gap, _mean, first = self(state.moment, state.gap, factor, log_gap)
        cross, gap, mean, second = self(cross, gap, factor, log_gap)
        if self.shortcut:
            self._branch = cross, gap, mean
            return self._add(state, 1), [first, second]
        return _scaled_gap(_State(cross, gap, mean, 0.0, log_gap)), [first, second]

    def _add(self, state: _State, k: int) -> _State:
        """k equal branches on top of the map; their means add up in step, all else at random."""
        cross, gap, mean = self._branch
        both = np.outer(state.mean, mean)
        moment = state.moment + k * (cross + both + both.T) + k * (k - 1) * np.outer(mean, mean)
        return _scaled_gap(_State(moment, state.gap + k * gap, state.mean + k * mean, 0.0, state.log_gap))

    def stride(self, state: _State, after: _State, blocks: int) -> _State:
        if self.shortcut:
            return self._add(state, blocks)
        return _State(after.moment, after.gap, after.mean, 0.0, state.log_gap + blocks * (after.log_gap - state.log_gap))

    def diagonal(self, state: _State) -> _State:
        gap = np.diag(state.gap)
        return _State(np.diag(state.moment) + gap * state.gap_factor, gap, state.mean, 0.0, state.log_gap)


def _scaled_gap(state: _State) -> _State:
    size = float(np.trace(state.gap)) / PIXELS
    if size > 0:
        state.gap, state.log_gap = state.gap / size, state.log_gap + math.log(size)
    return state


_S = np.exp(np.linspace(-9, 16, 76))


def _mean_inverse(spectrum: np.ndarray, times: np.ndarray) -> float:
    """E 1/Σ λ_i g_i² for unit Gaussians g: ∫ Π (1 + 2 s λ_i)^(−1/2) ds (Laplace method of Yang et al. 2019).

    `spectrum`: (groups, up to 49), the λ of a group each `times` (groups,) over; they add up to 1.
    """
    # One logarithm per group: with a sum of 1 these products stay under 10^273.
    product = np.exp(-0.5 * np.log((1 + 2 * _S[:, None, None] * spectrum).prod(2)) @ times)
    return float(_S[0] + np.sum((product * _S)[1:] + (product * _S)[:-1]) / 2 * math.log(_S[1] / _S[0]))


@dataclass
class _Way:
    """All N blocks, in forward order. Blocks alike are kept once: M blocks, all later ones are like the last of them."""

    slopes: np.ndarray  # (M, 2, 2, 49) of both convolutions, as in _Layer
    below: np.ndarray  # (M, 2, 2, 49)
    extra: np.ndarray | None  # (M, 7, 49) with relu and without batch norm
    scalars: np.ndarray  # (5, 2N): log, activation, share, back and forth of each convolution
    end: _State  # the map after the last block, its diagonal where batch norm carried kernels


def _forward(conv: _PlainConv | _NormConv, state: _State, blocks: int) -> _Way:
    """Block by block at first; at once to the end when nothing changes any more, else in strides that grow with the depth."""
    norm = isinstance(conv, _NormConv)
    exact, stride = (BN_EXACT_BLOCKS, BN_STRIDE) if norm else (EXACT_BLOCKS, STRIDE)
    kept, scalars, nodes, at, distinct = [], [], [], 0, blocks
    pace = math.inf, math.inf
    while at < blocks:
        after, layers = conv.block(state)
        kept.append(layers)
        scalars.append(np.array([(n.log, n.activation, n.share, n.back, n.forth) for n in layers]))
        nodes.append(at)
        before, pace = pace, (after.log - state.log, after.log_gap - state.log_gap)
        change = max(abs(pace[0] - before[0]), abs(pace[1] - before[1]))
        if not conv.shortcut and at < blocks - 1:
            seen = min(1.0, after.gap_factor) if norm else 1.0  # what is lost behind the mean decides nothing
            change = max(change, np.abs(after.moment - state.moment).max(), np.abs(after.gap - state.gap).max() * seen)
            if change < (BN_SETTLED if norm else SETTLED) or (norm and at == BN_MOST_BLOCKS):
                distinct, k = at + 1, blocks - at
                scalars.append(scalars[-1] + (k - 1) * np.array([pace[0], pace[0], pace[1] - pace[0], 0, 0]))
                nodes.append(blocks - 1)
                end = conv.diagonal(after)
                end = _State(end.moment, end.gap, end.mean, end.log + (k - 1) * pace[0], end.log_gap + (k - 1) * pace[1])
                break
        stepwise = at < exact or (norm and not conv.shortcut)
        k = 1 if stepwise else max(1, min(blocks - 1 - at, int(stride * at)))  # ends on the last block
        state = after if k == 1 else conv.stride(state, after, k)
        at += k
    else:
        end = conv.diagonal(state)
    if not blocks:
        nothing = np.zeros((0, 2, 2, PIXELS))
        return _Way(nothing, nothing, None, np.zeros((5, 0)), end)

    def between(values: list[Any], count: int) -> np.ndarray:
        return _between_nodes(nodes[: len(values)], np.array(values), count)

    extra = between([second.extra for _first, second in kept], distinct) if kept[0][1].extra is not None else None
    return _Way(
        between([[layer.slopes for layer in layers] for layers in kept], distinct),
        between([[layer.below for layer in layers] for layers in kept], distinct),
        extra, between(scalars, blocks).reshape(2 * blocks, 5).T, end,
    )  # fmt: skip


def _between_nodes(nodes: list[int], values: np.ndarray, count: int) -> np.ndarray:
    """Values at blocks 0 … count − 1 on straight lines between those at `nodes`, the last of which is count − 1."""
    if len(nodes) == count:
        return values
    filled = np.empty((count, *values.shape[1:]))
    for low, high, start, end in zip(nodes, nodes[1:], values, values[1:], strict=False):
        filled[low] = start
        if high - low > 1:
            part = np.arange(1, high - low).reshape(-1, *[1] * start.ndim) / (high - low)
            np.multiply(part, end - start, out=filled[low + 1 : high])
            filled[low + 1 : high] += start
    filled[-1] = values[-1]
    return filled


# --- the head and the loss -----------------------------------------------------------------------------------------


@lru_cache(maxsize=1)
def _logit_draws() -> np.ndarray:
    draws = np.random.default_rng(0).standard_normal((2, 2048, 10))  # fixed: a prediction is the same every time
    return np.ascontiguousarray(draws.transpose(0, 2, 1))


def _loss_gradient(log_std: float, correlation: float, batch: int) -> tuple[float, float, float]:
    """For Gaussian logits of 10 classes, u = (softmax − one-hot) / batch:

    Σ |u|² over the images; Σ u·u' over pairs of different images; ln of Σ u·o, the logits themselves.
    """
    std = math.exp(min(log_std, 12.0))  # beyond this softmax is one-hot and stays so
    shared, own = _logit_draws()
    c = min(max(correlation, 0.0), 1.0)
    logits = np.stack([shared, c * shared + math.sqrt(1 - c * c) * own]) * std
    p = np.exp(logits - logits.max(1, keepdims=True))
    p /= p.sum(1, keepdims=True)
    images = shared.shape[1]

    def product(a: np.ndarray, b: np.ndarray) -> float:
        return float(a.ravel() @ b.ravel()) / images

    alone = (product(p, p) / 2 + 0.8) / batch
    pairs = (1 - 1 / batch) * max(0.0, product(p[0], p[1]) - 0.1)
    along = product(p, logits) / 2 / std
    return alone, pairs, math.log(along) + log_std


@dataclass
class _Head:
    gradient: list[float]  # of fc1, fc2, fc3, each ln of the mean square
    signal: list[float]
    activation: list[float]
    share: list[float]
    log_std: float  # ln of the standard deviation of the logits
    top: np.ndarray  # (2,) ∂L/∂h² at each position of the last map: an image with itself, two different images
    log_along: float  # ln of Σ u·o', o' the part of the logits that scales with the last map


def _head(activation: str, state: _State, init_range: float | None, batch: int) -> _Head:
    second, gap = float(state.moment.mean()), float(state.gap.mean())
    scaling = second
    inputs, slopes, variances = [], [], []
    head = _Head([], [], [], [], 0.0, np.zeros(2), 0.0)
    for k, fan_in in enumerate(HEAD_WIDTHS[:-1]):
        weight = 1 / (3 * fan_in) if init_range is None else init_range**2 / 3
        inputs.append((second, second - gap * state.gap_factor))
        variances.append(weight)
        q = np.array([fan_in * weight * second + math.exp(-state.log) / (3 * fan_in)])
        gap_z = fan_in * weight * gap
        c = np.clip(1 - gap_z * state.gap_factor / q, 0, 1)
        if k < 2:
            f = _gaussians(activation, q)
            pair = f.pair_slope(c)
            gap = float(_gap_after(f, q, c, pair, np.array([gap_z]), state.gap_factor)[0])
            second = float(f.second[0])
            slopes.append(np.array([f.slope[0], pair[0]]))
        else:
            second, gap = float(q[0]), gap_z
        scaling *= fan_in * weight * (0.5 if k < 2 else 1)
        head.activation.append(math.log(second) + state.log)
        head.share.append(math.log(max(gap, 1e-300) / second) + state.log_gap - state.log)
    head.log_std = head.activation[-1] / 2
    alone, pairs, along = _loss_gradient(head.log_std, float(c[0]), batch)
    head.log_along = along + math.log(scaling / second)
    unit = np.array([alone, pairs]) / 10  # per output unit
    for k in (2, 1, 0):
        head.signal.insert(0, math.log(unit[0] / batch))
        head.gradient.insert(0, math.log(unit @ inputs[k]) + state.log)
        below = variances[k] * HEAD_WIDTHS[k + 1] * unit
        unit = below * slopes[k - 1] if k else below
    head.top = unit
    return head


# --- the prediction ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Prediction:
    """Per layer in forward order, as config.layer_names; all arrays are log10, one float64 per layer, read-only.

    The quantities are those of runs.QUANTITIES at step 0. `share` is the root mean square of an activation about its
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


def predict(config: RunConfig) -> Prediction:
    """The net of `config` at initialisation. Equal nets share one cached answer.

    Where there is no theory for a setting, every number is nan and `limits` is the one sentence that says so.
    """
    if absent := _absent(config):
        nothing = np.full(config.layers, np.nan)
        nothing.setflags(write=False)
        return Prediction(*[nothing] * 5, math.nan, math.nan, math.nan, 0.0, (absent,))
    config = _without_leak(config)
    prediction = _predict(_net(config), config.blocks)
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


def _without_leak(config: RunConfig) -> RunConfig:
    """leaky-relu's second moments differ from relu's by 10^-4 per layer."""
    return dataclasses.replace(config, activation="relu") if config.activation == "leaky-relu" else config


def _block_range(config: RunConfig) -> float:
    """a of the block convolutions' U(−a, a)"""
    if config.init == "critical":
        return critical_range(config.activation)
    return FAN_IN**-0.5 if config.init_range is None else config.init_range


def _absent(config: RunConfig) -> str | None:
    """The setting that there is no theory for."""
    tanh = config.activation == "tanh"
    for name, absent in {
        "activation": config.activation in ("gelu", "silu"),
        "batch_norm": config.batch_norm and tanh,
        "activation_everywhere": config.activation_everywhere and tanh,  # stems were measured with relu and sigmoid
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
def _predict(net: _Net, blocks: int) -> Prediction:
    activation, batch_norm, shortcut, everywhere, init_range, block_range, dataset, batch = net
    outside = activation if everywhere else "relu"
    stem = _stem(dataset, outside, init_range)
    weight_variance = block_range**2 / 3
    if batch_norm:
        conv = _NormConv(activation, weight_variance, shortcut, batch)
        state = _State(stem.cross, stem.gap, stem.mean)
    else:
        conv = _PlainConv(activation, weight_variance, shortcut)
        gap = np.diag(stem.gap)
        state = _State(np.diag(stem.cross) + gap, gap, stem.mean)
    way = _forward(conv, state, blocks)
    logs, activations, shares, back, forth = way.scalars
    head = _head(outside, way.end, init_range, batch)
    taps = CHANNELS * weight_variance * TAPS
    weighted, signal, bottom, log_bottom, branch = _backward(way, taps, head.top, shortcut, blocks)
    if batch_norm and not shortcut:
        back = _norm_spread(activation, 2 * blocks)
        loss = np.cumsum(back[::-1])[::-1] / 2
        weighted, signal, log_bottom = weighted - loss, signal - loss, log_bottom - loss[:1].sum()
    gradient = weighted + math.log(CHANNELS / weight_variance / (FAN_IN * CHANNELS)) + logs
    signal = signal - math.log(PIXELS * batch)

    # Σ over the positions of what arrives at the first block's input, times the measured response of the stem.
    arriving = stem.alone @ bottom[0] + stem.pair @ bottom[1]
    below_stem = np.log(np.maximum(arriving, 1e-300)) + log_bottom
    if blocks and activation == "relu" and not batch_norm and (shortcut or head.log_std > 0):
        extra, log_kappa = _aligned_gradient(way, state, head.log_along, weight_variance, shortcut, batch)
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


def _norm_spread(activation: str, layers: int) -> np.ndarray:
    """Variance of ln|.|² per layer with batch norm at 16 channels; fitted to real nets, no formula is known."""
    if activation == "sigmoid":
        return np.full(layers, 0.062)
    return 0.005 + 0.13 * (1 - np.exp(-np.arange(layers) / 45))


def _backward(
    way: _Way, taps: np.ndarray, top: np.ndarray, shortcut: bool, blocks: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray, float, np.ndarray]:
    """For each block convolution (2N,): ln Σ ∂L/∂z² · below over positions and both kinds of pairs, and ln Σ ∂L/∂z² of an
    image with itself; ∂L/∂h² at the first block's input (2, 49), its log; and the share of each block's ∂L/∂h² that came
    through its convolutions (N,).

    fc1 has weights of its own for each position, so gradients of different positions start uncorrelated; the sum
    over taps keeps them so, and 49 numbers are exact in the wide limit.
    """
    slopes, distinct = way.slopes, len(way.slopes)
    every = 8 if shortcut else 1  # blocks after which the numbers are brought back to order 1
    # Each kind of pair in units of its own e^log, since two different images may lose their gradient much faster.
    x, log = np.outer(top > 0, np.ones(PIXELS)), np.array([math.log(size) if size else -math.inf for size in top])
    at_z, logs = np.empty((blocks, 2, 2, PIXELS)), np.empty((blocks, 2))
    rows, slope_rows = list(at_z.reshape(-1, 2, PIXELS)), list(slopes.reshape(-1, 2, PIXELS))  # views: quicker than indexing
    block, high = blocks, distinct
    while block:
        block -= 1
        k, before = 2 * min(block, distinct - 1), x
        logs[block] = log
        at_h = np.dot(np.multiply(x, slope_rows[k + 1], rows[2 * block + 1]), taps)
        x = np.dot(np.multiply(at_h, slope_rows[k], rows[2 * block]), taps)
        if shortcut:
            x += before
        if block % every:
            continue
        size = x[:, 24]  # the centre
        size = np.where(size > 0, size, 1)[:, None]
        x /= size
        growth = np.log(size[:, 0])
        log = log + growth
        if not shortcut and block >= distinct and not block % 4 and np.abs(x - before).max() < 1e-11:
            # The same from here down to where the net settled: only the sizes change, by fixed factors.
            high, rest = block, np.arange(block - distinct, -1, -1)[:, None]
            logs[distinct - 1 : block] = log + growth * rest
            at_z[distinct - 1] = at_z[block]
            log = log + growth * len(rest)
            block = distinct - 1
    bottom, log_bottom = x, float(log[0])
    bottom[1] *= math.exp(log[1] - log[0])

    def everywhere(low: np.ndarray, up: np.ndarray) -> np.ndarray:
        """(N, ...) from the blocks that were worked out; those between are like the last of `low`."""
        return np.concatenate([low, np.repeat(low[-1:], high - distinct, 0), up])

    weighted = everywhere((at_z[:distinct] * way.below).sum(-1), (at_z[high:] * way.below[-1:]).sum(-1))
    alone = everywhere(at_z[:distinct, :, 0].sum(-1), at_z[high:, :, 0].sum(-1))
    log_alone = logs[:, :1]
    weighted = np.log(weighted[:, :, 0] + weighted[:, :, 1] * np.exp(logs[:, 1:] - log_alone)) + log_alone
    branch = np.ones(blocks)
    if shortcut and blocks:
        centre = np.log(at_z[:, 1, 0, 24] / slopes[:, 1, 0, 24]) + logs[:, 0]  # of what arrives at each block
        branch = -np.expm1(centre - np.concatenate([[math.log(bottom[0, 24]) + log_bottom], centre[:-1]]))
    return weighted.ravel(), (np.log(alone) + log_alone).ravel(), bottom, log_bottom, branch


def _aligned_gradient(
    way: _Way, start: _State, log_along: float, weight_variance: float, shortcut: bool, batch: int
) -> tuple[tuple[np.ndarray, np.ndarray], float]:
    """What relu adds where biases are small: the part of ∂L/∂x along x itself, which adds up over images and positions.

    By Euler's theorem Σ x·∂L/∂x = Σ u·o at every block of a net homogeneous in x. So ∂L/∂x has a part κ β x with
    β ~ (E x)²; with a shortcut it rules beyond some 20 blocks. Returns ln of the mean squares that it adds to the
    weight gradients and the signals (2N each), and ln κ at the first block's input.
    """
    out, squared_mean, gated, gated_pair, through, cross_h, cross_x = way.extra.transpose(1, 0, 2)
    logs = way.scalars[0]
    blocks = len(logs) // 2
    log = logs[0::2]
    taps = CHANNELS * weight_variance * TAPS

    def everywhere(values: np.ndarray) -> np.ndarray:
        """(M, ...) to (N, ...)"""
        return np.concatenate([values, np.repeat(values[-1:], blocks - len(values), 0)])

    # Without a shortcut, biases replace a part of the signal at every convolution, and only what is left scales with x.
    left = np.zeros(len(logs) + 1)
    if not shortcut:
        below = everywhere(way.below[:, :, 0].sum(-1)).ravel()
        left[:-1] = np.cumsum(np.log(below / (below + PIXELS * BIAS_VARIANCE * np.exp(-logs)))[::-1])[::-1]

    def kappa(moment: np.ndarray, squared_mean: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """β, and ln κ without what biases take."""
        beta = squared_mean / squared_mean.mean(-1, keepdims=True)
        return beta, log_along - np.log(CHANNELS * (beta * moment).sum(-1))

    beta, log_kappa = kappa(out, squared_mean)
    log_kappa = everywhere(log_kappa) + left[2::2]
    g = beta * np.sqrt(gated_pair)
    w = np.sqrt(way.slopes[:, 0, 1] * (g**2 @ taps) + ((beta * through) @ taps) ** 2 * cross_h)
    grad2, grad1 = _tap_correlation(g, np.sqrt(cross_h)), _tap_correlation(w, np.sqrt(cross_x))
    signal2, signal1 = (beta**2 * gated).mean(1) / batch**2, (w**2).mean(1) / batch**2
    with np.errstate(divide="ignore"):  # images that have nothing in common add nothing
        gradient = everywhere(np.log(np.stack([grad1, grad2], 1))) + 2 * log_kappa[:, None] + math.log(CHANNELS / FAN_IN)
        signal = everywhere(np.log(np.stack([signal1, signal2], 1))) + (2 * log_kappa - log)[:, None]
    return (gradient.ravel(), signal.ravel()), float(kappa(start.moment, start.mean**2)[1] + left[0] - start.log)


def _tap_correlation(g: np.ndarray, h: np.ndarray) -> np.ndarray:
    """Σ_t (Σ_p g[p] h[p+t])² for each row of (N, 49)."""
    total = np.zeros(len(g))
    g, h = (np.ascontiguousarray(v.T).reshape(SIDE, SIDE, -1) for v in (g, h))
    for i in range(-2, 3):
        for j in range(-2, 3):
            here = g[max(0, -i) : SIDE - max(0, i), max(0, -j) : SIDE - max(0, j)]
            there = h[max(0, i) : SIDE + min(0, i), max(0, j) : SIDE + min(0, j)]
            total += np.einsum("rcn,rcn->n", here, there) ** 2
    return total


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
    first, last = p.weight_grad_rms[2], p.share[-4]
    largest = _largest(p)
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
    if config.optimizer == "adam":
        if first < math.log10(PLATEAU):
            yield _(
                "Adam moves by lr · g/(g + 10⁻⁸), and g is {value} in the first block: nearly all runs like this were stuck."
            ).format(value=power(first))
        elif first < math.log10(ADAM_EPS):
            yield _("The first block lies under Adam's eps of 10⁻⁸: slow or stuck, depending on seed and learning rate.")
        elif largest < math.log10(float32.LARGEST) and first > math.log10(ADAM_OVERFLOW):
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
    if activation in ("gelu", "silu"):
        return math.nan
    if activation in ("relu", "leaky-relu"):
        passed = 1 + (0.01**2 if activation == "leaky-relu" else 0)
        return math.sqrt(6 / (CHANNELS * LAMBDA * passed))

    def chi(a: float) -> float:
        taps = CHANNELS * a * a / 3 * TAPS
        moment = np.full(PIXELS, 0.25)
        for _step in range(100):
            f = _gaussians(activation, taps @ moment + BIAS_VARIANCE)
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
    return DepthMarks(None, None, None, None) if _absent(config) else _depth_marks(_net(_without_leak(config)))


@lru_cache(maxsize=64)
def _depth_marks(net: _Net) -> DepthMarks:
    most = FIELDS["blocks"].spec.high
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
