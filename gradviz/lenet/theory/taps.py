"""Where a 5×5 convolution with zero padding looks on a 7×7 map, flattened to 49 positions."""

from __future__ import annotations

import numpy as np

CHANNELS, SIDE, PIXELS = 16, 7, 49
FAN_IN = CHANNELS * 25  # of a block convolution
BIAS_VARIANCE = 1 / (3 * FAN_IN)  # of a block convolution: U(±1/√fan_in), whatever the weights are

_NEAR = (np.abs(np.subtract.outer(np.arange(SIDE), np.arange(SIDE))) <= 2).astype(float)
TAPS = np.kron(_NEAR, _NEAR)  # (49, 49): 1 where two positions share a 5×5 window; row sums from 9 to 25
LAMBDA = float(np.linalg.eigvalsh(TAPS)[-1])  # 18.956: taps that count, because the gradient gathers in the middle
_PAIR_SHIFT = np.sum([np.kron(np.eye(SIDE, k=t), np.eye(SIDE, k=t)) for t in range(-2, 3)], axis=0)


def _rows_and_columns(kernel: np.ndarray) -> np.ndarray:
    """(row, column; row', column') to (row, row'; column, column'), and back: its own inverse."""
    return kernel.reshape(-1, SIDE, SIDE, SIDE, SIDE).swapaxes(2, 3).reshape(kernel.shape)


def tap_sum(kernel: np.ndarray) -> np.ndarray:
    """Σ_t kernel[p+t, q+t] over the 25 taps, for (…, 49, 49) kernels over two positions (Xiao et al. 2018)."""
    return _rows_and_columns(_PAIR_SHIFT @ _rows_and_columns(kernel) @ _PAIR_SHIFT.T)


def tap_correlation(g: np.ndarray, h: np.ndarray) -> np.ndarray:
    """Σ_t (Σ_p g[p] h[p+t])² for each row of (N, 49)."""
    total = np.zeros(len(g))
    g, h = (np.ascontiguousarray(v.T).reshape(SIDE, SIDE, -1) for v in (g, h))
    for i in range(-2, 3):
        for j in range(-2, 3):
            here = g[max(0, -i) : SIDE - max(0, i), max(0, -j) : SIDE - max(0, j)]
            there = h[max(0, i) : SIDE + min(0, i), max(0, j) : SIDE + min(0, j)]
            total += np.einsum("rcn,rcn->n", here, there) ** 2
    return total
