"""One block forward, without batch norm and with it: the moments of the map that it hands on."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from gradviz.lenet.theory.gaussians import gap_after, gaussians
from gradviz.lenet.theory.stem import Stem
from gradviz.lenet.theory.taps import BIAS_VARIANCE, CHANNELS, PIXELS, TAPS, tap_sum

BN_EPS = 1e-5  # PyTorch's default


@dataclass
class State:
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
class Layer:
    """What the backward pass and the reader need of one convolution. Vectors have 49 positions."""

    slopes: np.ndarray  # (2, 49) ∂L/∂h² to ∂L/∂z²: an image with itself, two different images
    below: np.ndarray  # (2, 49) variance of z from the weights: e^log · below, for the same two pairs
    log: float
    activation: float  # ln E h²
    share: float  # ln of the image-dependent share of E h²
    back: float = 0.0  # variance of ln|.|² of one draw that this layer adds, backward
    forth: float = 0.0  # and forward
    extra: np.ndarray | None = None  # (7, 49), on second convolutions of relu blocks: what aligned_gradient needs


class PlainConv:
    """Convolution and activation without norm. Moments in units of e^log, so that relu can grow past any float."""

    def __init__(self, activation: str, weight_variance: float, shortcut: bool):
        self.activation, self.shortcut, self.relu = activation, shortcut, activation == "relu"
        self.taps = CHANNELS * weight_variance * TAPS

    def __call__(
        self, moment: np.ndarray, gap: np.ndarray, state: State, factor: float
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, Layer]:
        """E h², its image-dependent part and E h, and the layer. `factor`: state.gap_factor"""
        below, gap_below = self.taps @ moment, self.taps @ gap
        bias = BIAS_VARIANCE * math.exp(-state.log)
        q = below + bias
        gap_true = gap_below * factor
        c = np.minimum(np.maximum(1 - gap_true / q, 0), 1)
        f = gaussians(self.activation, q)
        slope_pair = f.pair_slope(c)
        gap_out = gap_after(f, q, c, slope_pair, gap_below, factor)
        back, forth = f.spread(float((bias / q).sum()) / PIXELS)
        loss = math.exp(-back / 2)  # the median draw lies this much under the mean
        second, gap_out = f.second * math.exp(-forth / 2), gap_out * math.exp(-forth / 2)
        size = float(second.sum())
        layer = Layer(
            np.array((f.slope, slope_pair)) * loss, np.array((below, np.maximum(below - gap_true, 0))), state.log,
            math.log(size / PIXELS) + state.log, math.log(float(gap_out.sum()) / size) + state.log_gap - state.log, back, forth,
        )  # fmt: skip
        return second, gap_out, f.mean, layer

    def block(self, state: State) -> tuple[State, list[Layer]]:
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
        return self._scaled(State(h2, gap2, mean, state.log, state.log_gap)), [first, second]

    def stride(self, state: State, after: State, blocks: int) -> State:
        """`blocks` blocks at once, from what two blocks in a row do: their factors go on changing as they did."""
        second = self.block(after)[0]

        def rise(name: str) -> tuple[float, np.ndarray]:
            one, two, three = (getattr(s, name) for s in (state, after, second))
            return _continued(np.log(two / one), np.log(three / two), blocks)

        def rise_of(name: str) -> float:
            one, two, three = (getattr(s, name) for s in (state, after, second))
            return _continued(np.array([two - one]), np.array([three - two]), blocks)[0]

        (size, shape), (gap_size, gap_shape), (mean_size, mean_shape) = rise("moment"), rise("gap"), rise("mean")
        return self._scaled(State(
            state.moment * np.exp(shape) * math.exp(size), state.gap * np.exp(gap_shape),
            state.mean * np.exp(mean_shape) * math.exp(mean_size),
            state.log + rise_of("log"), state.log_gap + gap_size + rise_of("log_gap"),
        ))  # fmt: skip

    def _scaled(self, state: State) -> State:
        """The same state in numbers of order 1. Sigmoid's own scale is bounded, and its 1/4 knows no unit."""
        size, gap_size = float(state.moment.sum()) / PIXELS if self.relu else 1.0, float(state.gap.sum()) / PIXELS
        return State(
            state.moment / size, state.gap / gap_size, state.mean / size**0.5,
            state.log + math.log(size), state.log_gap + math.log(gap_size),
        )  # fmt: skip

    def diagonal(self, state: State) -> State:
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


class NormConv:
    """Convolution, batch norm and activation: kernels over two positions, since the batch statistics couple them."""

    def __init__(self, activation: str, weight_variance: float, shortcut: bool, batch: int):
        self.activation, self.shortcut, self.batch = activation, shortcut, batch
        self.scale = CHANNELS * weight_variance

    def __call__(
        self, cross: np.ndarray, gap: np.ndarray, factor: float, log_gap: float
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, Layer]:
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
        inverse = mean_inverse(spectrum, times)  # mu · E 1/σ²
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
        f = gaussians(self.activation, v, _PAIRS)
        cross_out, slope_pair = f.pair_both(c)
        own_out, own_slope = f.pair_both(c_own)
        gap_out = k_gap * (slope_pair + 4 * f.pair_slope((c + c_own) / 2) + own_slope) / 6  # see gap_after
        far = np.abs(c_own - c) > 0.01
        gap_out = np.where(far, (own_out - cross_out) / max(factor, 1e-300), gap_out)
        to_z = inverse / (mu + BN_EPS)
        second = float(f.second.sum())
        share = float(gap_out[_DIAGONAL].sum()) / second
        layer = Layer(
            np.array((f.slope, slope_pair[_DIAGONAL])) * to_z, np.array((own_z, image_z)) / inverse, 0.0,
            math.log(second / PIXELS), math.log(max(share, 1e-300)) + log_gap,
        )  # fmt: skip
        return cross_out.take(_WHOLE), gap_out.take(_WHOLE), f.mean, layer

    def block(self, state: State) -> tuple[State, list[Layer]]:
        factor, log_gap = state.gap_factor, state.log_gap
        cross, gap, _mean, first = self(state.moment, state.gap, factor, log_gap)
        cross, gap, mean, second = self(cross, gap, factor, log_gap)
        if self.shortcut:
            self._branch = cross, gap, mean
            return self._add(state, 1), [first, second]
        return _scaled_gap(State(cross, gap, mean, 0.0, log_gap)), [first, second]

    def _add(self, state: State, k: int) -> State:
        """k equal branches on top of the map; their means add up in step, all else at random."""
        cross, gap, mean = self._branch
        both = np.outer(state.mean, mean)
        moment = state.moment + k * (cross + both + both.T) + k * (k - 1) * np.outer(mean, mean)
        return _scaled_gap(State(moment, state.gap + k * gap, state.mean + k * mean, 0.0, state.log_gap))

    def stride(self, state: State, after: State, blocks: int) -> State:
        if self.shortcut:
            return self._add(state, blocks)
        return State(after.moment, after.gap, after.mean, 0.0, state.log_gap + blocks * (after.log_gap - state.log_gap))

    def diagonal(self, state: State) -> State:
        gap = np.diag(state.gap)
        return State(np.diag(state.moment) + gap * state.gap_factor, gap, state.mean, 0.0, state.log_gap)


def _scaled_gap(state: State) -> State:
    size = float(np.trace(state.gap)) / PIXELS
    if size > 0:
        state.gap, state.log_gap = state.gap / size, state.log_gap + math.log(size)
    return state


_S = np.exp(np.linspace(-9, 16, 76))


def mean_inverse(spectrum: np.ndarray, times: np.ndarray) -> float:
    """E 1/Σ λ_i g_i² for unit Gaussians g: ∫ Π (1 + 2 s λ_i)^(−1/2) ds (Laplace method of Yang et al. 2019).

    `spectrum`: (groups, up to 49), the λ of a group each `times` (groups,) over; they add up to 1.
    """
    # One logarithm per group: with a sum of 1 these products stay under 10^273.
    product = np.exp(-0.5 * np.log((1 + 2 * _S[:, None, None] * spectrum).prod(2)) @ times)
    return float(_S[0] + np.sum((product * _S)[1:] + (product * _S)[:-1]) / 2 * math.log(_S[1] / _S[0]))


def begin(
    stem: Stem, activation: str, batch_norm: bool, shortcut: bool, weight_variance: float, batch: int
) -> tuple[PlainConv | NormConv, State]:
    """The convolution that all blocks have, and the map that enters the first of them."""
    if batch_norm:
        return NormConv(activation, weight_variance, shortcut, batch), State(stem.cross, stem.gap, stem.mean)
    gap = np.diag(stem.gap)
    return PlainConv(activation, weight_variance, shortcut), State(np.diag(stem.cross) + gap, gap, stem.mean)
