"""Small nets of many kinds, and the independent truth of one step: float64, and autograd asked another way."""

from __future__ import annotations

import copy
import importlib
from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

import gradviz
from gradviz.lenet.data import torchvision_datasets


class Block(nn.Module):
    def __init__(self, channels: int):
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x):
        inner = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
        inner += x  # in place, as torchvision does
        return self.relu(inner)


class ResNet(nn.Module):
    """(n, 1, 8, 8) -> (n, 10)"""

    def __init__(self, blocks: int = 2):
        super().__init__()
        self.fc = nn.Linear(8, 10)  # made first, called last
        self.stem = nn.Conv2d(1, 8, 3, padding=1)
        self.blocks = nn.Sequential(*(Block(8) for _ in range(blocks)))

    def forward(self, x):
        return self.fc(self.blocks(F.relu(self.stem(x), inplace=True)).mean((2, 3)))


class Recurrent(nn.Module):
    """Tokens (n, length) -> (n, 10)"""

    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(20, 6)
        self.lstm = nn.LSTM(6, 8, batch_first=True)
        self.out = nn.Linear(8, 10)

    def forward(self, x):
        return self.out(self.lstm(self.embed(x))[0].mean(1))


class Transformer(nn.Module):
    """Tokens (n, length) -> (n, length, 20); the last layer's weight is the embedding's."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(20, 8)
        self.place = nn.Parameter(torch.randn(1, 7, 8) * 0.1)
        self.attend = nn.MultiheadAttention(8, 2, batch_first=True)
        self.norm = nn.LayerNorm(8)
        self.wide, self.narrow = nn.Linear(8, 16), nn.Linear(16, 8)
        self.head = nn.Linear(8, 20, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, x):
        h = self.embed(x) + self.place
        h = h + self.attend(h, h, h, need_weights=False)[0]
        h = h + self.narrow(F.gelu(self.wide(self.norm(h))))
        return self.head(h)


class UNet(nn.Module):
    """(n, 1, 8, 8) -> (n, 1, 8, 8)"""

    def __init__(self):
        super().__init__()
        self.down1 = nn.Conv2d(1, 4, 3, padding=1)
        self.down2 = nn.Conv2d(4, 8, 3, stride=2, padding=1)
        self.up = nn.ConvTranspose2d(8, 4, 2, stride=2)
        self.last = nn.Conv2d(8, 1, 3, padding=1)

    def forward(self, x):
        first = F.relu(self.down1(x))
        return self.last(torch.cat([first, self.up(F.relu(self.down2(first)))], 1))


class Mlp(nn.Module):
    """(n, 6) -> (n, 3)"""

    def __init__(self, width: int = 5):
        super().__init__()
        self.first, self.second, self.last = nn.Linear(6, width), nn.Linear(width, width), nn.Linear(width, 3)

    def forward(self, x):
        return self.last(torch.tanh(self.second(torch.tanh(self.first(x)))))


def images(count: int = 4, side: int = 8, channels: int = 1) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(count, channels, side, side, generator=generator), torch.randint(0, 10, (count,), generator=generator)


def tokens(count: int = 4, length: int = 7) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(2)
    return torch.randint(0, 20, (count, length), generator=generator), torch.randint(0, 10, (count,), generator=generator)


def features(count: int = 8) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    return torch.randn(count, 6, generator=generator), torch.randint(0, 3, (count,), generator=generator)


Loss = Callable[[nn.Module], torch.Tensor]


def loss_on(data: tuple[torch.Tensor, torch.Tensor]) -> Loss:
    """Cross-entropy of a net that classifies, the mean of the squares of any other; in the net's own precision."""
    x, y = data

    def loss(model: nn.Module) -> torch.Tensor:
        kind = next(model.parameters()).dtype
        out = model(x.to(kind) if x.is_floating_point() else x)
        return F.cross_entropy(out, y) if out.ndim == 2 else (out - 1).square().mean()

    return loss


def torchvision_models():
    torchvision_datasets()  # makes torchvision importable beside any torch
    return importlib.import_module("torchvision.models")


def rms(tensor: torch.Tensor) -> float:
    return tensor.detach().double().square().mean().sqrt().item()


def truth(
    model: nn.Module, loss: Loss, weights: dict[str, str], outputs: dict[str, str], lr: float
) -> dict[str, dict[str, float]]:
    """Quantity -> layer -> number of one step of SGD, from a copy in float64 and without any hook on a gradient.

    `weights`: layer -> name of its parameter; `outputs`: layer -> name of the module whose output it is measured at.
    """
    model = copy.deepcopy(model).double()
    for module in model.modules():
        if hasattr(module, "inplace"):
            module.inplace = False
    kept: dict[str, torch.Tensor] = {}
    for layer, path in outputs.items():

        def keep(_module, _inputs, output, layer=layer):
            z = output[0] if isinstance(output, tuple) else output
            kept[layer] = z = z.clone()  # what is done to it in place is then done to another
            return (z.clone(), *output[1:]) if isinstance(output, tuple) else z.clone()

        model.get_submodule(path).register_forward_hook(keep)
    value = loss(model)
    parameters = dict(model.named_parameters(remove_duplicate=False))
    mine = {layer: parameters[name] for layer, name in weights.items()}
    unique = {id(weight): weight for weight in mine.values()}
    gradients = dict(zip(unique, torch.autograd.grad(value, list(unique.values()), retain_graph=True), strict=True))
    signals = torch.autograd.grad(value, list(kept.values()))
    of = {layer: gradients[id(weight)] for layer, weight in mine.items()}
    return {
        "weight_grad_rms": {layer: rms(gradient) for layer, gradient in of.items()},
        "treated_grad_rms": {layer: rms(gradient) for layer, gradient in of.items()},
        "weight_rms": {layer: rms(weight) for layer, weight in mine.items()},
        "update_ratio": {layer: lr * rms(of[layer]) / rms(weight) for layer, weight in mine.items()},
        "signal_rms": {layer: rms(signal) for layer, signal in zip(kept, signals, strict=True)},
        "activation_rms": {layer: rms(z) for layer, z in kept.items()},
    }


def row(run, quantity: str, step: int = -1) -> dict[str, float]:
    """layer -> number of what was measured, the absent left out."""
    numbers = run.quantity(quantity)[step].tolist()
    return {layer: number for layer, number in zip(run.layers, numbers, strict=True) if not number < 0}


def assert_near(found: dict[str, float], expected: dict[str, float], relative: float = 1e-3) -> None:
    assert found.keys() == expected.keys()
    np.testing.assert_allclose([found[name] for name in expected], list(expected.values()), rtol=relative, atol=0)


def trained(folder, model, lr=0.1, steps=3, **how):
    """A watched training of so many steps that is not closed; `how`: for gradviz.watch."""
    optimizer = torch.optim.SGD(model.parameters(), lr)
    run = gradviz.watch(model, optimizer, every=1, folder=folder, **how)
    for _ in range(steps):
        loss = loss_on(features())(model)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        run.log(loss=loss)
    return run
