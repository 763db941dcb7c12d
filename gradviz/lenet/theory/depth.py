"""All blocks: forward to the last map, and the gradient back from it to the first."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from gradviz.lenet.theory.blocks import NormConv, PlainConv, State
from gradviz.lenet.theory.taps import BIAS_VARIANCE, CHANNELS, FAN_IN, PIXELS, TAPS, tap_correlation

EXACT_BLOCKS, STRIDE = 14, 0.25  # deeper blocks change so slowly that they are stepped over, 25 % of the depth at a time
BN_EXACT_BLOCKS, BN_STRIDE = 8, 0.5
SETTLED, BN_SETTLED, BN_MOST_BLOCKS = 1e-5, 1e-4, 40  # relative change per block at which a plain net is taken to stay as it is


@dataclass
class Way:
    """All N blocks, in forward order. Blocks alike are kept once: M blocks, all later ones are like the last of them."""

    slopes: np.ndarray  # (M, 2, 2, 49) of both convolutions, as in Layer
    below: np.ndarray  # (M, 2, 2, 49)
    extra: np.ndarray | None  # (M, 7, 49) with relu and without batch norm
    scalars: np.ndarray  # (5, 2N): log, activation, share, back and forth of each convolution
    end: State  # the map after the last block, its diagonal where batch norm carried kernels


def forward(conv: PlainConv | NormConv, state: State, blocks: int, exactly: bool = False) -> Way:
    """Block by block at first; at once to the end when nothing changes any more, else in strides that grow with the depth.

    `exactly`: block by block to the end, which takes long.
    """
    norm = isinstance(conv, NormConv)
    exact, stride = (BN_EXACT_BLOCKS, BN_STRIDE) if norm else (EXACT_BLOCKS, STRIDE)
    if exactly:
        exact = blocks
    kept, scalars, nodes, at, distinct = [], [], [], 0, blocks
    pace = math.inf, math.inf
    while at < blocks:
        after, layers = conv.block(state)
        kept.append(layers)
        scalars.append(np.array([(n.log, n.activation, n.share, n.back, n.forth) for n in layers]))
        nodes.append(at)
        before, pace = pace, (after.log - state.log, after.log_gap - state.log_gap)
        change = max(abs(pace[0] - before[0]), abs(pace[1] - before[1]))
        if not (exactly or conv.shortcut) and at < blocks - 1:
            seen = min(1.0, after.gap_factor) if norm else 1.0  # what is lost behind the mean decides nothing
            change = max(change, np.abs(after.moment - state.moment).max(), np.abs(after.gap - state.gap).max() * seen)
            if change < (BN_SETTLED if norm else SETTLED) or (norm and at == BN_MOST_BLOCKS):
                distinct, k = at + 1, blocks - at
                scalars.append(scalars[-1] + (k - 1) * np.array([pace[0], pace[0], pace[1] - pace[0], 0, 0]))
                nodes.append(blocks - 1)
                end = conv.diagonal(after)
                end = State(end.moment, end.gap, end.mean, end.log + (k - 1) * pace[0], end.log_gap + (k - 1) * pace[1])
                break
        stepwise = at < exact or (norm and not conv.shortcut)
        k = 1 if stepwise else max(1, min(blocks - 1 - at, int(stride * at)))  # ends on the last block
        state = after if k == 1 else conv.stride(state, after, k)
        at += k
    else:
        end = conv.diagonal(state)
    if not blocks:
        nothing = np.zeros((0, 2, 2, PIXELS))
        return Way(nothing, nothing, None, np.zeros((5, 0)), end)

    def between(values: list[Any], count: int) -> np.ndarray:
        return _between_nodes(nodes[: len(values)], np.array(values), count)

    extra = between([second.extra for _first, second in kept], distinct) if kept[0][1].extra is not None else None
    return Way(
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


def backward(
    way: Way, taps: np.ndarray, top: np.ndarray, shortcut: bool, blocks: int
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


def aligned_gradient(
    way: Way, start: State, log_along: float, weight_variance: float, shortcut: bool, batch: int
) -> tuple[tuple[np.ndarray, np.ndarray], float]:
    """What relu adds where biases are small: the part of ∂L/∂x along x itself, which adds up over images and positions.

    By Euler's theorem Σ x·∂L/∂x = Σ u·o at every block of a net homogeneous in x. So ∂L/∂x has a part κ β x with
    β ~ (E x)²; with a shortcut it rules beyond some 20 blocks. Returns ln of the mean squares that it adds to the
    weight gradients and the signals (2N each), and ln κ at the first block's input.
    """
    assert way.extra is not None, "relu without batch norm has it"
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
    grad2, grad1 = tap_correlation(g, np.sqrt(cross_h)), tap_correlation(w, np.sqrt(cross_x))
    signal2, signal1 = (beta**2 * gated).mean(1) / batch**2, (w**2).mean(1) / batch**2
    with np.errstate(divide="ignore"):  # images that have nothing in common add nothing
        gradient = everywhere(np.log(np.stack([grad1, grad2], 1))) + 2 * log_kappa[:, None] + math.log(CHANNELS / FAN_IN)
        signal = everywhere(np.log(np.stack([signal1, signal2], 1))) + (2 * log_kappa - log)[:, None]
    return (gradient.ravel(), signal.ravel()), float(kappa(start.moment, start.mean**2)[1] + left[0] - start.log)


def norm_spread(activation: str, layers: int) -> np.ndarray:
    """Variance of ln|.|² per layer with batch norm at 16 channels; fitted to real nets, no formula is known."""
    if activation == "sigmoid":
        return np.full(layers, 0.062)
    return 0.005 + 0.13 * (1 - np.exp(-np.arange(layers) / 45))
