"""The three linear layers, the loss, and the gradient that it sends back."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from gradviz.lenet.theory.blocks import State
from gradviz.lenet.theory.gaussians import gap_after, gaussians
from gradviz.lenet.theory.taps import CHANNELS, PIXELS

HEAD_WIDTHS = (CHANNELS * PIXELS, 120, 84, 10)


@lru_cache(maxsize=1)
def _logit_draws() -> np.ndarray:
    draws = np.random.default_rng(0).standard_normal((2, 2048, 10))  # fixed: a prediction is the same every time
    return np.ascontiguousarray(draws.transpose(0, 2, 1))


def loss_gradient(log_std: float, correlation: float, batch: int) -> tuple[float, float, float]:
    """For Gaussian logits of 10 classes, u = (softmax − one-hot) / batch:

    Σ |u|² over the images; Σ u·u' over pairs of different images; ln of Σ u·o, the logits themselves.
    """
    std = math.exp(min(log_std, 12.0))  # beyond this softmax is one-hot and stays so
    shared, own = _logit_draws()
    c = min(max(correlation, 0.0), 1.0)
    logits = np.stack([shared, c * shared + math.sqrt(1 - c * c) * own]) * std
    p = np.exp(logits - logits.max(1, keepdims=True))
    p /= p.sum(1, keepdims=True)
    images = int(shared.shape[1])

    def product(a: np.ndarray, b: np.ndarray) -> float:
        return float(a.ravel() @ b.ravel()) / images

    alone = (product(p, p) / 2 + 0.8) / batch
    pairs = (1 - 1 / batch) * max(0.0, product(p[0], p[1]) - 0.1)
    along = product(p, logits) / 2 / std
    return alone, pairs, math.log(along) + log_std


@dataclass
class Head:
    gradient: list[float]  # of fc1, fc2, fc3, each ln of the mean square
    signal: list[float]
    activation: list[float]
    share: list[float]
    log_std: float  # ln of the standard deviation of the logits
    top: np.ndarray  # (2,) ∂L/∂h² at each position of the last map: an image with itself, two different images
    log_along: float  # ln of Σ u·o', o' the part of the logits that scales with the last map


def head_of(activation: str, state: State, init_range: float | None, batch: int) -> Head:
    second, gap = float(state.moment.mean()), float(state.gap.mean())
    scaling = second
    inputs, slopes, variances = [], [], []
    head = Head([], [], [], [], 0.0, np.zeros(2), 0.0)
    for k, fan_in in enumerate(HEAD_WIDTHS[:-1]):
        weight = 1 / (3 * fan_in) if init_range is None else init_range**2 / 3
        inputs.append((second, second - gap * state.gap_factor))
        variances.append(weight)
        q = np.array([fan_in * weight * second + math.exp(-state.log) / (3 * fan_in)])
        gap_z = fan_in * weight * gap
        c = np.clip(1 - gap_z * state.gap_factor / q, 0, 1)
        if k < 2:
            f = gaussians(activation, q)
            pair = f.pair_slope(c)
            gap = float(gap_after(f, q, c, pair, np.array([gap_z]), state.gap_factor)[0])
            second = float(f.second[0])
            slopes.append(np.array([f.slope[0], pair[0]]))
        else:
            second, gap = float(q[0]), gap_z
        scaling *= fan_in * weight * (0.5 if k < 2 else 1)
        head.activation.append(math.log(second) + state.log)
        head.share.append(math.log(max(gap, 1e-300) / second) + state.log_gap - state.log)
    head.log_std = head.activation[-1] / 2
    alone, pairs, along = loss_gradient(head.log_std, float(c[0]), batch)
    head.log_along = along + math.log(scaling / second)
    unit = np.array([alone, pairs]) / 10  # per output unit
    for k in (2, 1, 0):
        head.signal.insert(0, math.log(unit[0] / batch))
        head.gradient.insert(0, math.log(unit @ inputs[k]) + state.log)
        below = variances[k] * HEAD_WIDTHS[k + 1] * unit
        unit = below * slopes[k - 1] if k else below
    head.top = unit
    return head
