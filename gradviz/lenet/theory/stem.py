"""Real images: what the first two convolutions make of them, as stem_statistics measured it."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from gradviz.lenet.theory.taps import SIDE


@lru_cache(maxsize=1)
def table() -> dict[str, Any]:
    measured: dict[str, Any] = json.loads(Path(__file__).with_name("stem_statistics.json").read_text())
    return measured


def measured_datasets() -> tuple[str, ...]:
    return tuple(table()["datasets"])


def measured_activations() -> tuple[str, ...]:
    """Those that the stem was measured with."""
    return tuple(table()["datasets"]["mnist"])


@dataclass(frozen=True)
class Stem:
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
def stem_of(dataset: str, activation: str, init_range: float | None) -> Stem:
    measured = table()
    entries = measured["datasets"][dataset][activation]
    if init_range is None:
        return _read(entries[0])
    grid = np.log(measured["init_ranges"])
    place = float(np.interp(math.log(init_range), grid, np.arange(len(grid))))
    low = min(int(place), len(grid) - 2)
    part = place - low
    one, two = _read(entries[1 + low]), _read(entries[2 + low])

    def scale(name: str) -> tuple[np.ndarray, np.ndarray]:
        return np.maximum(getattr(one, name), 1e-300), np.maximum(getattr(two, name), 1e-300)

    def powers(name: str) -> np.ndarray:
        a, b = scale(name)
        power: np.ndarray = a ** (1 - part) * b**part
        return power

    def sized(name: str) -> np.ndarray:
        """Shape on a straight line, size on a power law."""
        a, b = (getattr(stem, name) for stem in (one, two))
        size_a, size_b = (np.abs(v).mean() if v.ndim == 1 else np.trace(v) for v in (a, b))
        mixed: np.ndarray = ((1 - part) * a / size_a + part * b / size_b) * size_a ** (1 - part) * size_b**part
        return mixed

    alone = powers("alone")
    return Stem(
        powers("activation"), powers("image_part"), sized("mean"), sized("cross"), sized("gap"), alone,
        alone * ((1 - part) * one.pair / one.alone + part * two.pair / two.alone), powers("aligned"),
    )  # fmt: skip


def _read(entry: dict[str, Any]) -> Stem:
    rings = np.minimum(np.arange(SIDE), np.arange(SIDE)[::-1])
    ring = np.minimum.outer(rings, rings).ravel()

    def kernel(name: str) -> np.ndarray:
        vectors, signs = np.array(entry[name]["vectors"]), np.array(entry[name]["signs"])
        matrix: np.ndarray = (vectors.T * signs) @ vectors
        np.fill_diagonal(matrix, entry[name]["diagonal"])
        return matrix

    return Stem(
        activation=np.array([entry["conv1_activation"], entry["conv2_activation"]]),
        image_part=np.array([entry["conv1_image_part"], entry["conv2_image_part"]]),
        mean=np.array(entry["mean"]) * entry["scale"] ** 0.5,
        cross=kernel("cross") * entry["scale"],
        gap=kernel("gap") * entry["gap_scale"],
        alone=np.array(entry["alone"])[:, ring],
        pair=np.array(entry["pair"])[:, ring],
        aligned=np.array(entry["aligned"]),
    )
