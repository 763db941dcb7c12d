"""Measures what the theory needs to know about real images, and writes it to stem_statistics.json beside it:
`python -m gradviz.lenet.theory.stem_statistics`.

The blocks are predicted by formulas alone, but the first two convolutions see pictures, and no formula knows those.
So random stems are drawn, real batches are sent through, and averages are kept. Forward: mean and second moments of
the 7×7 maps that enter the first block. Backward: how much of a gradient that arrives there reaches conv1 and conv2.

A batch gradient splits into the part of each image with itself and the part between two images; both responses are
kept. They are linear in the variance that arrives at each of the 49 positions, and are measured for the four rings
of the 7×7 map (corner ring first).
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np

from gradviz.lenet.data import Shelf
from gradviz.settings import Settings

FILE = Path(__file__).with_name("stem_statistics.json")
COMMAND = "python -m gradviz.lenet.theory.stem_statistics"
# Weights from U(−a, a). Between these the theory interpolates in log a: only the ratio of weights to biases
# matters, and every statistic is a smooth function of it.
INIT_RANGES = (0.001, 0.005, 0.02, 0.05, 0.1, 0.2, 0.5, 2.0)
BATCH = 64
RANK = 5  # eigenvectors kept of each 49×49 kernel; its diagonal is kept exactly
RINGS = np.array([min(i, j, 6 - i, 6 - j) for i in range(7) for j in range(7)])  # 0 at the border, 3 in the centre


def conv_patches(maps: np.ndarray) -> np.ndarray:
    """Maps (n, channels, side, side) to their zero-padded 5×5 patches (n, side², channels·25)."""
    n, channels, side, _ = maps.shape
    padded = np.pad(maps, ((0, 0), (0, 0), (2, 2), (2, 2)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (5, 5), axis=(2, 3))  # (n, c, side, side, 5, 5)
    return windows.transpose(0, 2, 3, 1, 4, 5).reshape(n, side * side, channels * 25)


def _patches_backward(grad: np.ndarray, channels: int) -> np.ndarray:
    """The transpose of conv_patches: (n, side², channels·25) to (n, channels, side, side)."""
    n, positions, _ = grad.shape
    side = int(positions**0.5)
    grad = grad.reshape(n, side, side, channels, 5, 5)
    padded = np.zeros((n, channels, side + 4, side + 4))
    for i in range(5):
        for j in range(5):
            padded[:, :, i : i + side, j : j + side] += grad[..., i, j].transpose(0, 3, 1, 2)
    return padded[:, :, 2:-2, 2:-2]


class StemLayer:
    """conv 5×5, activation, 2×2 max pool on one batch; keeps what the backward pass needs."""

    def __init__(self, patches: np.ndarray, weight: np.ndarray, bias: np.ndarray, activation: str):
        self.patches, self.weight, self.channels = patches, weight, patches.shape[2] // 25
        n, positions, _ = patches.shape
        side = int(positions**0.5)
        z = patches @ weight.T + bias  # (n, positions, out)
        self.out = np.maximum(z, 0) if activation == "relu" else 1 / (1 + np.exp(-z))
        slope = (z > 0).astype(float) if activation == "relu" else self.out * (1 - self.out)
        half = side // 2
        cells = self.out.reshape(n, half, 2, half, 2, -1).transpose(0, 1, 3, 5, 2, 4).reshape(n, half, half, -1, 4)
        self.winner = cells.argmax(-1)[..., None]
        pooled = np.take_along_axis(cells, self.winner, -1)[..., 0]
        self.pooled = pooled.transpose(0, 3, 1, 2)  # (n, out, side/2, side/2)
        self.slope, self.side = slope, side

    def backward(self, grad: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """From ∂L/∂pooled to ∂L/∂z, ∂L/∂weight, ∂L/∂input."""
        n, half = len(grad), self.side // 2
        cells = np.zeros((n, half, half, grad.shape[1], 4))
        np.put_along_axis(cells, self.winner, grad.transpose(0, 2, 3, 1)[..., None], -1)
        routed = cells.reshape(n, half, half, -1, 2, 2).transpose(0, 1, 4, 2, 5, 3).reshape(n, self.side**2, -1)
        z = routed * self.slope
        flat = z.reshape(-1, z.shape[2])
        return z, flat.T @ self.patches.reshape(len(flat), -1), _patches_backward(z @ self.weight, self.channels)


def _image_part(values: np.ndarray) -> np.ndarray:
    """Second moment of the image-dependent part: E h² − E h h' over two different images of the batch (axis 0)."""
    centred = values - values.mean(0)
    part: np.ndarray = (centred**2).sum(0) / (len(values) - 1)
    return part


def _responses(one: StemLayer, two: StemLayer, grad: np.ndarray) -> np.ndarray:
    """Sums of squares per channel: signal conv1, signal conv2; then gradient conv1, gradient conv2."""
    z2, w2, below = two.backward(grad.reshape(BATCH, 16, 7, 7))
    z1, w1, _ = one.backward(below)
    return np.array([(z1**2).sum() / 6, (z2**2).sum() / 16, (w1**2).sum(), (w2**2).sum()])


def _rings(one: StemLayer, two: StemLayer, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """(4, rings) each: responses to a gradient of unit variance that arrives at a ring, of an image alone and between two."""
    alone, pair = [], []
    for ring in range(4):
        there = RINGS == ring
        own = rng.standard_normal((BATCH, 16, 49)) * there / BATCH**0.5
        shared = np.broadcast_to(rng.standard_normal((16, 49)) * there / BATCH, (BATCH, 16, 49))
        r_own, r_shared = _responses(one, two, own) / there.sum(), _responses(one, two, shared) / there.sum()
        alone.append(r_own)
        pair.append((r_shared - r_own / BATCH) / (1 - 1 / BATCH))
    return np.array(alone).T, np.array(pair).T


def measure(
    images: np.ndarray, activation: str, init_range: float | None, draws: int, rng: np.random.Generator
) -> dict[str, Any]:
    """Averages over `draws` random stems, each on its own batch of images (n, 1, 28, 28), already normalised.

    Weights come from U(−init_range, init_range), or PyTorch's default U(±1/√fan_in); biases always from the default.
    Scales are averaged in the logarithm, because what one draw shows is the median and not the mean.
    """
    bound1, bound2 = 1 / 25**0.5, 1 / 150**0.5
    a1, a2 = (init_range, init_range) if init_range is not None else (bound1, bound2)
    logs: dict[str, list[Any]] = {}
    mean, same, gap = np.zeros(49), np.zeros((49, 49)), np.zeros((49, 49))

    def note(name: str, value: Any) -> None:
        logs.setdefault(name, []).append(np.log(np.maximum(value, 1e-300)))

    for _ in range(draws):
        batch = images[rng.choice(len(images), BATCH, replace=False)].astype(float)
        one = StemLayer(conv_patches(batch), rng.uniform(-a1, a1, (6, 25)), rng.uniform(-bound1, bound1, 6), activation)
        two = StemLayer(conv_patches(one.pooled), rng.uniform(-a2, a2, (16, 150)), rng.uniform(-bound2, bound2, 16), activation)
        for name, layer in (("conv1", one), ("conv2", two)):
            note(name + "_activation", (layer.out**2).mean())
            note(name + "_image_part", _image_part(layer.out).mean())
        x = two.pooled.reshape(BATCH, 16, 49)
        centred = x - x.mean(0)
        difference = np.einsum("ncp,ncq->pq", centred, centred) / (16 * (BATCH - 1))
        moment = np.einsum("ncp,ncq->pq", x, x) / (16 * BATCH)
        note("scale", np.trace(moment) / 49)
        note("gap_scale", np.trace(difference) / 49)
        norm = (np.trace(moment) / 49) or 1.0
        mean += x.mean((0, 1)) / norm**0.5 / draws
        same += moment / norm / draws
        gap += difference / ((np.trace(difference) / 49) or 1.0) / draws
        alone, pair = _rings(one, two, rng)
        logs.setdefault("alone", []).append(alone)
        logs.setdefault("pair", []).append(pair)
        note("aligned", _responses(one, two, x / BATCH))

    def scaled(name: str) -> np.ndarray:
        """Shape averaged over draws, each draw weighing the same; size from the mean logarithm."""
        values = np.array(logs[name])  # (draws, 4, rings)
        size = np.abs(np.array(logs["alone"])).mean(2, keepdims=True) + 1e-300
        shape: np.ndarray = (values / size).mean(0) * np.exp(np.log(size).mean(0))
        return shape

    sized = ("alone", "pair")
    result: dict[str, Any] = {name: _short(np.exp(np.mean(v, 0))) for name, v in logs.items() if name not in sized}
    cross = same - gap * result["gap_scale"] / result["scale"]
    return result | {
        "mean": _short(mean),
        "cross": _kernel(cross),
        "gap": _kernel(gap),
        "alone": _short(scaled("alone")),
        "pair": _short(scaled("pair")),
    }


def _kernel(matrix: np.ndarray) -> dict[str, Any]:
    """A symmetric 49×49 matrix as its diagonal and its leading eigenvectors, each times √|eigenvalue|, with their signs."""
    values, vectors = np.linalg.eigh(matrix)
    order = np.argsort(-np.abs(values))[:RANK]
    return {
        "diagonal": _short(np.diag(matrix)),
        "signs": [int(s) for s in np.sign(values[order])],
        "vectors": _short((vectors[:, order] * np.sqrt(np.abs(values[order]))).T, 3),
    }


def _short(value: Any, digits: int = 4) -> Any:
    if np.ndim(value):
        return [_short(v, digits) for v in value]
    return float(f"{float(value):.{digits}g}")


def main() -> None:
    parser = argparse.ArgumentParser(prog=COMMAND, description=__doc__)
    parser.add_argument("--datasets", nargs="+", default=["mnist", "digits"], help="others in the file are kept")
    parser.add_argument("--draws", type=int, default=40, help="random stems per setting")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=FILE)
    arguments = parser.parse_args()
    settings = Settings.from_environment()
    shelf = Shelf(settings.data, download=settings.download)
    table = json.loads(arguments.out.read_text()) if arguments.out.exists() else {}
    table |= {"command": f"{COMMAND} --draws {arguments.draws} --seed {arguments.seed}", "init_ranges": INIT_RANGES}
    for name in arguments.datasets:
        images = np.asarray(shelf.load(name).train_images)
        rng = np.random.default_rng(arguments.seed)
        entries = table.setdefault("datasets", {})[name] = {}
        for activation in ("relu", "sigmoid"):
            default = measure(images, activation, None, arguments.draws, rng)
            entries[activation] = [default, *(measure(images, activation, a, arguments.draws, rng) for a in INIT_RANGES)]
            print(f"{name} {activation} measured", flush=True)
    arguments.out.write_text(json.dumps(table, separators=(",", ":")) + "\n")
    print(f"{arguments.out.name}: {arguments.out.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
