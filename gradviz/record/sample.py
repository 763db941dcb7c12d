"""What a layer is made of at one step, as plain data: distributions, paths, pictures.

The numbers of every step are in `history.History`; these are too many for that, so they are taken at sampled steps only.
numpy alone: the measuring is done in `train`.
"""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from gradviz.record.float32 import SMALLEST

# What has a distribution in every layer. A run without a treatment has no treated gradient.
KINDS: dict[str, str] = {
    "weight": "Weights",
    "weight_grad": "Weight gradients, before any treatment",
    "treated_grad": "Weight gradients as the optimiser gets them",
    "update": "Updates: what the step changed in the weights",
    "activation": "Activations: what the layer hands on",
}
PERCENTS = (0, 1, 5, 25, 50, 75, 95, 99, 100)
# Magnitudes are counted in octaves, that is by the exponent of the float32, which needs no logarithm and no range: bin
# 1 … 254 holds 2^(bin−127) ≤ |x| < 2^(bin−126), bin 0 what is smaller but not zero, and the last two have no size.
BINS, NONFINITE, ZERO = 257, 255, 256
EDGES = np.concatenate([[SMALLEST], 2.0 ** np.arange(-126, 129)])  # (256,) of bins 0 … 254

LAYER_NUMBERS: dict[str, str] = {
    "dead_share": "Dead units: share of relu units (channels) that are 0 for every image of the batch",
    "saturated_share": "Saturated: share of the sigmoids' outputs under 0.02 or over 0.98",
    "altered_share": "Altered: share of the weight-gradient entries that the treatment changed",
    "cosine": "Cosine between the weight gradient before and after the treatment",
}
OVERALL = ("altered_share", "cosine", "length_before", "length_after")  # of the gradient of all parameters at once
PATHS = ("identity", "branch", "total")

ENTRIES = 2048  # of one layer's tensor that a distribution looks at, the same ones at every step
ALL_ENTRIES = 1_000_000  # of one kind in all layers together
PICTURED_LAYERS = 85  # the article's 40 blocks; a deeper net keeps the pictures of so many layers, evenly spread
FILTERS = 16  # of each pictured layer: all of a block convolution's
DELETION_WORK = 500_000  # block passes of one image, some 4 s of one core


def sampled_steps(steps: int) -> tuple[int, ...]:
    """0, 1, 2, 5, 10, 20, 50, … and the last: 18 of 100,000."""
    series = {0, steps - 1} | {digit * 10**power for power in range(6) for digit in (1, 2, 5)}
    return tuple(sorted(step for step in series if 0 <= step < steps))


def pictured_steps(steps: int) -> tuple[int, ...]:
    """0, 1, 10, 100, … and the last."""
    return tuple(step for step in sampled_steps(steps) if step in (0, 1, 10, 100, 1000, 10_000, steps - 1))


def even_choice(count: int, most: int) -> np.ndarray:
    """Places of at most `most` of `count` things, evenly spread, with both ends."""
    return np.unique(np.linspace(0, count - 1, min(count, most)).round().astype(int)) if min(count, most) > 0 else np.arange(0)


@dataclass(frozen=True, eq=False)
class Picture:
    """The first filters of one layer and their gradients, to look at: 8 bits, `scale` is the magnitude of ±127."""

    weight: np.ndarray  # int8 (filters ≤ 16, inputs, rows, columns); a linear layer: (16, inputs)
    weight_scale: float
    gradient: np.ndarray
    gradient_scale: float  # 0: every entry is exactly 0; nan: some are not finite


@dataclass(frozen=True, eq=False)
class AnatomySample:
    """One sampled step. Before this step's update, except `update`."""

    step: int
    kinds: tuple[str, ...]  # those of KINDS that were measured, the rows of:
    quantiles: np.ndarray  # float32 (kinds, layers, len(PERCENTS)), signed; nan in a layer that holds one
    counts: np.ndarray  # uint16 (kinds, layers, BINS)
    layers: np.ndarray  # float32 (len(LAYER_NUMBERS), layers); nan where it does not apply
    overall: np.ndarray  # float64 (len(OVERALL),); nan without a treatment
    paths: np.ndarray  # float64 (len(PATHS), blocks): root mean square at each block's input; (3, 0) without shortcut
    pictures: dict[int, Picture] = field(default_factory=dict)  # by layer

    def quantile(self, kind: str) -> np.ndarray:
        """float32 (layers, len(PERCENTS)). Raises ValueError if this kind was not measured."""
        return np.asarray(self.quantiles[self.kinds.index(kind)])

    def count(self, kind: str) -> np.ndarray:
        """uint16 (layers, BINS). Raises ValueError if this kind was not measured."""
        return np.asarray(self.counts[self.kinds.index(kind)])

    def number(self, name: str) -> np.ndarray:
        """float32 (layers,), one of LAYER_NUMBERS."""
        return np.asarray(self.layers[list(LAYER_NUMBERS).index(name)])

    def packed(self) -> PackedSample:
        numbers = io.BytesIO()
        np.savez_compressed(
            numbers, step=self.step, kinds=np.array(self.kinds), quantiles=self.quantiles, counts=self.counts,
            layers=self.layers, overall=self.overall, paths=self.paths,
        )  # fmt: skip
        pictures = io.BytesIO()
        if self.pictures:
            parts = {"layers": np.array(list(self.pictures))}
            for layer, picture in self.pictures.items():
                parts[f"weight{layer}"], parts[f"gradient{layer}"] = picture.weight, picture.gradient
            scales = [[picture.weight_scale, picture.gradient_scale] for picture in self.pictures.values()]
            np.savez(pictures, allow_pickle=False, scales=np.array(scales), **parts)  # noise does not compress
        return PackedSample(self.step, numbers.getvalue(), pictures.getvalue())


@dataclass(frozen=True)
class PackedSample:
    """A sample as it is kept, in memory and in the store: some 0.3 kB a layer, and 12 kB more with pictures."""

    step: int
    numbers: bytes  # .npz
    images: bytes = b""  # .npz, or empty

    @property
    def nbytes(self) -> int:
        return len(self.numbers) + len(self.images)

    def packed(self) -> PackedSample:
        """Itself: a sample that comes from another process is packed already."""
        return self

    def sample(self) -> AnatomySample:
        """Without the pictures: see `picture`."""
        with np.load(io.BytesIO(self.numbers), allow_pickle=False) as kept:
            return AnatomySample(
                int(kept["step"]), tuple(kept["kinds"].tolist()), kept["quantiles"], kept["counts"],
                kept["layers"], kept["overall"], kept["paths"],
            )  # fmt: skip

    def picture(self, layer: int) -> tuple[int, Picture] | None:
        """The picture of this layer, or of the nearest one that is kept, with its place; None if none was kept."""
        if not self.images:
            return None
        with np.load(io.BytesIO(self.images), allow_pickle=False) as kept:
            layers = kept["layers"]
            place = int(np.abs(layers - layer).argmin())
            nearest = int(layers[place])
            weight_scale, gradient_scale = kept["scales"][place].tolist()
            return nearest, Picture(kept[f"weight{nearest}"], weight_scale, kept[f"gradient{nearest}"], gradient_scale)


@dataclass(frozen=True)
class BlockDeletion:
    """The trained net without one of its blocks, whose input then goes straight to the next: Veit et al. 2016 (1605.06431)."""

    images: int  # of the test set, the same for each block
    full: float  # accuracy of the whole net on them, 0 … 1
    without_all: float  # of stem and head alone, every block left out at once
    blocks: tuple[int, ...]
    accuracies: tuple[float, ...]  # one for each of `blocks`

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> BlockDeletion:
        """What dataclasses.asdict gave, from JSON too. Raises TypeError, KeyError."""
        return cls(**{**values, **{name: tuple(values[name]) for name in ("blocks", "accuracies")}})

    @property
    def noise(self) -> float:
        """Two standard errors of an accuracy on so many images; an accuracy of 0 or 1 counts as half an image off."""
        share = min(max(self.full, 0.5 / self.images), 1 - 0.5 / self.images)
        return 2 * math.sqrt(share * (1 - share) / self.images)

    @property
    def harmless(self) -> tuple[int, ...]:
        """The blocks without which the net is as good, within the noise."""
        pairs = zip(self.blocks, self.accuracies, strict=True)
        return tuple(block for block, accuracy in pairs if accuracy >= self.full - self.noise)


def deleted_blocks(blocks: int, images: int, steps: int, batch_size: int) -> np.ndarray:
    """Which blocks to try without: all where that costs at most a fifth of the training, else an even choice.

    Without block b only the blocks after it are new, half of all on average.
    """
    if not blocks:
        return np.arange(0)
    training = 3 * steps * batch_size * blocks  # a backward pass is twice a forward pass
    work = min(max(training // 5, 20_000), DELETION_WORK)
    return even_choice(blocks, work // max(1, blocks * images // 2))


# --- distributions -------------------------------------------------------------------------------------------------


def distribution(entries: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """float32 (layers, n) -> quantiles float32 (layers, len(PERCENTS)) as numpy.percentile's, counts uint16 (layers, BINS)."""
    layers, n = entries.shape
    bits = np.ascontiguousarray(entries).view(np.uint32)
    place = ((bits >> 23) & 0xFF).astype(np.int64)
    place[(bits << 1) == 0] = ZERO  # the sign bit aside
    place += BINS * np.arange(layers)[:, None]
    counts = np.bincount(place.ravel(), minlength=layers * BINS).reshape(layers, BINS).astype(np.uint16)
    ordered = np.sort(entries, axis=1)  # nan last
    at = np.array(PERCENTS) / 100 * (n - 1)
    below = np.floor(at).astype(int)
    part = at - below
    with np.errstate(invalid="ignore"):
        step = np.where(part > 0, part * (ordered[:, np.minimum(below + 1, n - 1)] - ordered[:, below]), 0)
        quantiles = (ordered[:, below] + step).astype(np.float32)
    quantiles[np.isnan(ordered[:, -1])] = np.nan
    return quantiles, counts


def magnitude_quantiles(counts: np.ndarray, percents: Sequence[float] = (5, 25, 50, 75, 95)) -> np.ndarray:
    """log10 of the magnitudes that so many percent of a layer's non-zero finite entries stay under.

    counts (layers, BINS) -> float64 (layers, len(percents)), nan in a layer without such entries. Straight lines within
    an octave, so a value is right to 0.1 decades or so.
    """
    sized = counts[:, :NONFINITE].astype(float)  # (layers, 255)
    total = sized.sum(1)
    reached = np.concatenate([np.zeros((len(counts), 1)), np.cumsum(sized, 1)], axis=1)  # at EDGES
    edges = np.log10(EDGES)
    found = np.full((len(counts), len(percents)), np.nan)
    for layer in np.flatnonzero(total):
        found[layer] = np.interp(np.array(percents) / 100 * total[layer], reached[layer], edges)
    return found
