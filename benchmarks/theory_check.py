"""The theory against real nets: `python -m benchmarks.theory_check` prints the table of docs/theory.md.

Each row: medians over random nets in float64, each on its own batch, against `gradviz.lenet.theory.predict`.
"""

from __future__ import annotations

import argparse
import itertools

import numpy as np
import torch
import torch.nn.functional as F

from gradviz.lenet.config import RunConfig
from gradviz.lenet.data import Dataset, Shelf
from gradviz.lenet.net import DeepLeNet, initialise
from gradviz.lenet.theory import predict as theory
from gradviz.settings import Settings

QUANTITIES = ("weight_grad_rms", "signal_rms", "activation_rms", "share")


def measured(config: RunConfig, data: Dataset, seed: int) -> dict[str, np.ndarray]:
    """log10 of what `predict` predicts, per layer, of one real net in float64 on one real batch."""
    random = torch.Generator().manual_seed(seed)
    model = DeepLeNet(config)
    initialise(model, config.init_range, random)
    model = model.double()
    chosen = torch.randperm(len(data.train_images), generator=random)[: config.batch_size]
    rms = {name: np.zeros(config.layers) for name in QUANTITIES}

    def watch(index: int, z: torch.Tensor, h: torch.Tensor) -> None:
        h = h.detach()
        rms["activation_rms"][index] = h.square().mean().sqrt()
        rms["share"][index] = (h.var(0).mean() / h.square().mean()).sqrt()
        z.register_hook(lambda signal: rms["signal_rms"].__setitem__(index, float(signal.square().mean().sqrt())))

    logits = model(data.train_images[chosen].double(), watch)
    F.cross_entropy(logits, data.train_labels[chosen]).backward()
    rms["weight_grad_rms"][:] = [float(layer.weight.grad.square().mean().sqrt()) for layer in model.weight_layers]
    with np.errstate(divide="ignore"):
        return {name: np.log10(values) for name, values in rms.items()}


def medians(config: RunConfig, data: Dataset, seeds: int) -> dict[str, np.ndarray]:
    runs = [measured(config, data, 100 + seed) for seed in range(seeds)]
    return {name: np.median([run[name] for run in runs], 0) for name in QUANTITIES}


def slope(values: np.ndarray) -> float:
    """dex per block convolution towards the input, by least squares"""
    return -float(np.polyfit(np.arange(len(values) - 5), values[2:-3], 1)[0])


CASES = [
    *(dict(activation=a, batch_norm=b, shortcut=s, blocks=n)
      for n in (4, 12, 40) for a, b, s in itertools.product(("sigmoid", "relu"), (False, True), (False, True))),
    *(dict(activation="relu", shortcut=s, blocks=12, init_range=a) for a in (0.02, 0.1406, 0.5) for s in (False, True)),
    *(dict(activation="sigmoid", blocks=12, init_range=a) for a in (0.02, 0.2, 1.02)),
    dict(activation="relu", shortcut=True, blocks=200),
    dict(activation="relu", batch_norm=True, blocks=100),
]  # fmt: skip


def row(config: RunConfig, data: Dataset, seeds: int) -> str:
    truth, predicted = medians(config, data, seeds), theory.predict(config)
    error = np.abs(predicted.weight_grad_rms - truth["weight_grad_rms"])
    signal = np.abs(predicted.signal_rms - truth["signal_rms"])
    real = slope(truth["weight_grad_rms"])
    net = config.activation + " + batch norm" * config.batch_norm + " + shortcut" * config.shortcut
    init = "default" if config.init_range is None else f"±{config.init_range:g}"
    return (
        f"| {net} | {config.blocks} | {init} | {truth['weight_grad_rms'][2]:.2f} | {predicted.weight_grad_rms[2]:.2f} "
        f"| {np.median(error):.2f} | {error.max():.2f} | {np.median(signal):.2f} | {real:+.4f} | {predicted.slope - real:+.4f} |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=8)
    parser.add_argument("--batch-size", type=int, default=32)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    settings = Settings.from_environment()
    name = Shelf(settings.data, download=False).effective("mnist")[0]
    data = Shelf(settings.data, download=False).load(name)
    print(f"{name}, batch {arguments.batch_size}, float64, medians over {arguments.seeds} nets\n")
    print("| net | blocks | init | first block: measured | predicted | error: median | worst | signal: median "
          "| slope measured | error |")  # fmt: skip
    print("|---|---|---|---|---|---|---|---|---|---|")
    for case in CASES:
        seeds = arguments.seeds if case["blocks"] < 100 else max(2, arguments.seeds // 2)
        print(row(RunConfig(**case, dataset=name, batch_size=arguments.batch_size), data, seeds), flush=True)


if __name__ == "__main__":
    main()
