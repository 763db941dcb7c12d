"""One layer of independent Gaussians: what an activation makes of a variance, and of the correlation of two images."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Protocol

import numpy as np

from gradviz.lenet.theory.taps import CHANNELS

Pairs = tuple[np.ndarray, np.ndarray] | None


class Gaussians(Protocol):
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


class Relu:
    """Closed forms: the arc-cosine kernels of Cho & Saul 2009."""

    def __init__(self, q: np.ndarray, pairs: Pairs):
        self.q, self.pairs = q, pairs
        self.second, self.slope, self.mean = q / 2, np.full_like(q, 0.5), np.sqrt(q / (2 * math.pi))

    def pair(self, c: np.ndarray) -> np.ndarray:
        return self.pair_both(c)[0]

    def pair_slope(self, c: np.ndarray) -> np.ndarray:
        slope: np.ndarray = 0.5 - np.arccos(c) / (2 * math.pi)
        return slope

    def pair_both(self, c: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        size, slope = self.q, self.pair_slope(c)
        if self.pairs is not None:
            root = np.sqrt(self.q)
            size = root[self.pairs[0]] * root[self.pairs[1]]
        return size * (np.sqrt(1 - c * c) / (2 * math.pi) + c * slope), slope

    def spread(self, bias_share: float) -> tuple[float, float]:
        # Form: 1/width per layer (Hanin 2018). Where biases rule, a channel is on or off for all images and positions,
        # which has variance 1/16 by itself. Numbers fitted to the increments of the signal in real nets.
        return 0.021 + 0.065 * bias_share**1.5, 0.11 * (1 - bias_share) ** 2


class Sigmoid:
    """Expansion in Hermite polynomials: E f f' = 1/4 + Σ a_n a'_n cⁿ, a_n = E f(√q u) He_n(u) / √n! for odd n."""

    def __init__(self, q: np.ndarray, pairs: Pairs):
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
        total: np.ndarray = k[4] * c2
        for n in (3, 2, 1):
            total += k[n]
            total *= c2
        total += k[0]
        return total

    def pair(self, c: np.ndarray) -> np.ndarray:
        both: np.ndarray = 0.25 + c * self._series("pair", c)
        return both

    def pair_slope(self, c: np.ndarray) -> np.ndarray:
        return self._series("pair_slope", c)

    def pair_both(self, c: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return self.pair(c), self.pair_slope(c)

    def spread(self, bias_share: float) -> tuple[float, float]:
        # Saturated, few entries carry the signal, but others in each image and position: that averages out again.
        return min(0.03, 0.001 + 0.5 * (float((self._fourth / self.slope**2).sum()) / len(self.q) - 1) / CHANNELS), 0.0


class Tanh(Sigmoid):
    """tanh z = 2 sigmoid(2z) − 1."""

    def __init__(self, q: np.ndarray, pairs: Pairs):
        super().__init__(4 * q, pairs)
        self.second, self.slope = 4 * (self.second - 0.25), 16 * self.slope
        self._fourth = 256 * self._fourth
        self.mean = np.full_like(q, 1e-30)  # 0, but its logarithm is taken

    def pair(self, c: np.ndarray) -> np.ndarray:
        return 4 * (super().pair(c) - 0.25)

    def pair_slope(self, c: np.ndarray) -> np.ndarray:
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


def gaussians(activation: str, q: np.ndarray, pairs: Pairs = None) -> Gaussians:
    made: dict[str, type[Relu] | type[Sigmoid]] = {"relu": Relu, "sigmoid": Sigmoid, "tanh": Tanh}
    return made[activation](q, pairs)


def gap_after(
    f: Gaussians, q: np.ndarray, c: np.ndarray, slope_pair: np.ndarray, gap: np.ndarray, factor: float
) -> np.ndarray:
    """E f² − E f(z) f(z'), for E z² − E z z' = gap · factor; in the units of gap. `slope_pair`: f.pair_slope(c)."""
    # Nearly equal images: ∫ of the slope over the covariance, by Simpson's rule, for the difference would be rounded off.
    inside: np.ndarray = gap * (f.slope + 4 * f.pair_slope((1 + c) / 2) + slope_pair) / 6
    far = (1 - c) * (1 + q) > 0.02  # counted in saturated sigmoids, which tell images apart that are nearly equal
    return np.where(far, (f.second - f.pair(c)) / max(factor, 1e-300), inside) if far.any() else inside
