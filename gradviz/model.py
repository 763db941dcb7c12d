"""The deep LeNet of the article: stem, N blocks of two convolutions, head; 5 + 2N weight layers."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import nn

from gradviz.config import RunConfig

# Called for each weight layer with its index in forward order, its output z before norm and activation, and
# what it hands on, h (for the logits z itself).
Watch = Callable[[int, torch.Tensor, torch.Tensor], None]

_ACTIVATION = {"sigmoid": torch.sigmoid, "relu": F.relu}
CHANNELS = 16  # of every block


def _ignore(index: int, z: torch.Tensor, h: torch.Tensor) -> None:
    pass


class Block(nn.Module):
    """Two 5×5 convolutions of 16 channels, each followed by [batch norm and] activation; [the input added at the end]."""

    def __init__(self, batch_norm: bool, shortcut: bool):
        super().__init__()
        self.conv1 = nn.Conv2d(CHANNELS, CHANNELS, 5, padding=2)
        self.conv2 = nn.Conv2d(CHANNELS, CHANNELS, 5, padding=2)
        self.norm1 = nn.BatchNorm2d(CHANNELS) if batch_norm else nn.Identity()
        self.norm2 = nn.BatchNorm2d(CHANNELS) if batch_norm else nn.Identity()
        self.shortcut = shortcut

    def forward(self, x: torch.Tensor, activation: Callable, index: int, watch: Watch) -> torch.Tensor:
        """(batch, 16, 7, 7) -> the same; `index` is the forward place of conv1."""
        z = self.conv1(x)
        h = activation(self.norm1(z))
        watch(index, z, h)
        z = self.conv2(h)
        h = activation(self.norm2(z))
        watch(index + 1, z, h)
        return x + h if self.shortcut else h  # nothing after the addition, as in the article


class DeepLeNet(nn.Module):
    """The article's net. Parameters hold no values until `initialise` has drawn them.

    Made on the meta device first: building 1000 blocks then costs no drawing of weights that are thrown away,
    and the process-wide random state stays untouched.
    """

    def __init__(self, config: RunConfig):
        super().__init__()
        with torch.device("meta"):
            self.conv1 = nn.Conv2d(1, 6, 5, padding=2)
            self.conv2 = nn.Conv2d(6, CHANNELS, 5, padding=2)
            self.blocks = nn.ModuleList(Block(config.batch_norm, config.shortcut) for _ in range(config.blocks))
            self.fc1 = nn.Linear(CHANNELS * 7 * 7, 120)
            self.fc2 = nn.Linear(120, 84)
            self.fc3 = nn.Linear(84, 10)
        self.to_empty(device="cpu")
        self._inside = _ACTIVATION[config.activation]
        self._outside = self._inside if config.activation_everywhere else F.relu

    def forward(self, images: torch.Tensor, watch: Watch = _ignore) -> torch.Tensor:
        """(batch, 1, 28, 28) -> logits (batch, 10)."""
        z = self.conv1(images)
        h = self._outside(z)
        watch(0, z, h)
        z = self.conv2(F.max_pool2d(h, 2))
        h = self._outside(z)
        watch(1, z, h)
        x = F.max_pool2d(h, 2)
        index = 2
        for block in self.blocks:
            x = block(x, self._inside, index, watch)
            index += 2
        h = x.flatten(1)
        for linear in (self.fc1, self.fc2):
            z = linear(h)
            h = self._outside(z)
            watch(index, z, h)
            index += 1
        z = self.fc3(h)
        watch(index, z, z)
        return z

    @property
    def weight_layers(self) -> list[nn.Conv2d | nn.Linear]:
        """In forward order, as RunConfig.layer_names names them."""
        inner = [conv for block in self.blocks for conv in (block.conv1, block.conv2)]
        return [self.conv1, self.conv2, *inner, self.fc1, self.fc2, self.fc3]


@torch.no_grad()
def initialise(model: DeepLeNet, init_range: float | None, generator: torch.Generator) -> None:
    """Draws every parameter, layer by layer in forward order, weights before bias, always on the CPU.

    Default is PyTorch's own: weights and biases from U(−1/√fan_in, 1/√fan_in), which is what `reset_parameters`
    of Conv2d and Linear does (kaiming_uniform with a = √5; He et al. 2015). With `init_range` = a the weights come
    from U(−a, a) instead (article, experiment 2); biases keep their default. Batch norm starts as the identity.
    """
    for layer in model.weight_layers:
        bound = 1 / math.sqrt(layer.weight[0].numel())
        spread = bound if init_range is None else init_range
        layer.weight.uniform_(-spread, spread, generator=generator)
        layer.bias.uniform_(-bound, bound, generator=generator)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.reset_parameters()


def parameter_count(config: RunConfig) -> int:
    """Trainable numbers, from the table of the article: 16·16·25 + 16 per block convolution, 32 per batch norm."""
    stem = 6 * 25 + 6 + 16 * 6 * 25 + 16
    head = 784 * 120 + 120 + 120 * 84 + 84 + 84 * 10 + 10
    return stem + head + 2 * config.blocks * (CHANNELS * CHANNELS * 25 + CHANNELS + 2 * CHANNELS * config.batch_norm)
