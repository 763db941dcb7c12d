"""The deep LeNet of the article: stem, N blocks of two convolutions, head; 5 + 2N weight layers."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import cast

import torch
import torch.nn.functional as F
from torch import nn
from torch.autograd.graph import Node

from gradviz.lenet.activations import ACTIVATIONS, critical_start
from gradviz.lenet.config import RunConfig
from gradviz.train.task import Watch

Function = Callable[[torch.Tensor], torch.Tensor]

CHANNELS = 16  # of every block
LSUV_TOLERANCE = 0.01  # of the spread, 1; the paper is content with 0.1


def _ignore(index: int, z: torch.Tensor | Node | None, h: torch.Tensor) -> None:
    pass


def activation_function(word: str, in_place: bool = False) -> Function:
    """`in_place`: in the memory of its input, if it can."""
    row = ACTIVATIONS[word]
    module, name = (in_place and row.in_place or row.code).split(".")
    function: Function = getattr({"torch": torch, "F": F}[module], name)
    return function


def _norm(config: RunConfig) -> nn.Module:
    """Batch norm (Ioffe & Szegedy 2015), GroupNorm (Wu & He 2018), LayerNorm (Ba et al. 2016), or nothing."""
    if config.batch_norm:
        return nn.BatchNorm2d(CHANNELS)
    if config.other_norm == "group":
        return nn.GroupNorm(4, CHANNELS)
    return nn.LayerNorm((CHANNELS, 7, 7)) if config.other_norm == "layer" else nn.Identity()


class Block(nn.Module):
    """Two 5×5 convolutions of 16 channels, each followed by [a norm and] activation; [the input added at the end].

    The scale of the branch: 1/√blocks after Fixup (Zhang et al. 2019), a learnt number from 0 on by SkipInit (De & Smith 2020).
    """

    def __init__(self, config: RunConfig):
        super().__init__()
        self.conv1 = nn.Conv2d(CHANNELS, CHANNELS, 5, padding=2)
        self.conv2 = nn.Conv2d(CHANNELS, CHANNELS, 5, padding=2)
        self.norm1 = _norm(config)
        self.norm2 = _norm(config)
        self.shortcut = config.shortcut
        self.scale: float | nn.Parameter | None = None
        if config.branch_scale == "fixed":
            self.scale = 1 / math.sqrt(config.blocks)
        elif config.branch_scale == "skip-init":
            self.scale = nn.Parameter(torch.empty(()))

    def forward(self, x: torch.Tensor, activation: Function, index: int, watch: Watch) -> torch.Tensor:
        """(batch, 16, 7, 7) -> the same; `index` is the forward place of conv1."""
        z: torch.Tensor = self.conv1(x)
        node, h = z.grad_fn, activation(self.norm1(z))
        watch(index, node if h is z else z, h)
        z = self.conv2(h)
        node, h = z.grad_fn, activation(self.norm2(z))
        watch(index + 1, node if h is z else z, h)
        if self.scale is not None:
            h = self.scale * h
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
            self.blocks = nn.ModuleList(Block(config) for _ in range(config.blocks))
            self.fc1 = nn.Linear(CHANNELS * 7 * 7, 120)
            self.fc2 = nn.Linear(120, 84)
            self.fc3 = nn.Linear(84, 10)
        self.to_empty(device="cpu")
        self.activation = config.activation
        self.gain = ACTIVATIONS[config.activation].gain
        self._shortcut = config.shortcut
        self._words = config.activation, config.activation if config.activation_everywhere else "relu"
        self._inside, self._outside = map(activation_function, self._words)
        self._relu_last = False  # after the pooling of the stem

    def overwrite(self, may: bool = True) -> None:
        """From now on activations take the memory of their input where they can: the same numbers, and less memory to read that
        has gone cold. `watch` then gets the node of z for z."""
        self._inside, self._outside = (activation_function(word, in_place=may) for word in self._words)
        self._relu_last = may and self._words[1] == "relu"

    def forward(self, images: torch.Tensor, watch: Watch = _ignore) -> torch.Tensor:
        """(batch, 1, 28, 28) -> logits (batch, 10)."""
        x = self._pooled(0, self.conv1(images), watch)
        x = self._pooled(1, self.conv2(x), watch)
        index = 2
        for block in self.blocks:
            x = block(x, self._inside, index, watch)
            index += 2
        if self._shortcut and x.requires_grad and x.is_contiguous(memory_format=torch.channels_last):
            # The gradient of flatten has a pixel's channels apart. Shortcuts would carry that through all blocks, where no
            # kernel takes two orders of memory at once but slowly.
            x.register_hook(lambda gradient: gradient.contiguous(memory_format=torch.channels_last))
        h = x.flatten(1)
        for linear in (self.fc1, self.fc2):
            z: torch.Tensor = linear(h)
            node, h = z.grad_fn, self._outside(z)
            watch(index, node if h is z else z, h)
            index += 1
        z = self.fc3(h)
        watch(index, z, z)
        return z

    def _pooled(self, index: int, z: torch.Tensor, watch: Watch) -> torch.Tensor:
        """The activation of one of the stem's layers, each 2×2 pixels become one."""
        node = z.grad_fn
        if self._relu_last:
            # The largest of four numbers and 0 is the same whichever is asked first, and so is who gets the gradient; relu's
            # backward pass has a quarter to do. `data`: of z the pool's backward pass needs the size alone.
            pooled = F.max_pool2d(z, 2)
            watch(index, node, self._outside(z.data))
            return self._outside(pooled)
        h = self._outside(z)
        watch(index, node if h is z else z, h)
        return F.max_pool2d(h, 2)

    @property
    def each_block(self) -> list[Block]:
        """In forward order; `blocks` as what they are."""
        return cast("list[Block]", list(self.blocks))

    @property
    def inner_layers(self) -> list[nn.Conv2d]:
        """Those of the blocks, in forward order."""
        return [conv for block in self.each_block for conv in (block.conv1, block.conv2)]

    @property
    def weight_layers(self) -> list[nn.Conv2d | nn.Linear]:
        """In forward order, as RunConfig.layout.names names them."""
        return [self.conv1, self.conv2, *self.inner_layers, self.fc1, self.fc2, self.fc3]


@torch.no_grad()
def initialise(
    model: DeepLeNet,
    init: str | float | None,
    generator: torch.Generator,
    images: torch.Tensor | None = None,
    look: Callable[[], None] = lambda: None,
) -> None:
    """Draws every parameter, layer by layer in forward order, weights before bias, always on the CPU.

    None or "default" is PyTorch's own: weights and biases from U(−1/√fan_in, 1/√fan_in), which is what
    `reset_parameters` of Conv2d and Linear does (kaiming_uniform with a = √5; He et al. 2015). A number a draws the
    weights from U(−a, a) instead (article, experiment 2), a word of config.INITS as said there; biases keep their
    default. Norms start as the identity, the learnt scales of SkipInit at 0.
    `images` (n, 1, 28, 28) on any device: LSUV measures on the first lsuv_images of them, and only it needs them.
    `look` is called at every layer, some times a second at least: it raises to end this in the middle.
    """
    inside = set(model.inner_layers)
    for layer in model.weight_layers:
        look()
        bound = 1 / math.sqrt(layer.weight[0].numel())
        start = bound if init is None or init == "default" else init
        if start == "critical":
            start = critical_start(model.activation) if layer in inside else bound
        if isinstance(start, str):
            _draw(start, layer.weight, model.gain, generator)
        else:
            layer.weight.uniform_(-start, start, generator=generator)
        if layer.bias is not None:
            layer.bias.uniform_(-bound, bound, generator=generator)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d | nn.GroupNorm | nn.LayerNorm):
            module.reset_parameters()
        if isinstance(module, Block) and isinstance(module.scale, nn.Parameter):
            module.scale.zero_()
    if init == "lsuv":
        if images is None:
            raise ValueError("LSUV measures on images")
        _unit_variance(model, images[: lsuv_images(len(model.blocks))].cpu(), look)


def lsuv_images(blocks: int) -> int:
    """32, or fewer in deep nets, where they would keep the reader waiting; 8 images still have 6,272 numbers per layer."""
    return min(32, max(8, 8_000 // max(1, blocks)))


def _draw(init: str, weight: torch.Tensor, gain: float, generator: torch.Generator) -> None:
    """He et al. 2015; Glorot & Bengio 2010 (Xavier); Saxe et al. 2014; Xiao et al. 2018; Mishkin & Matas 2016 (LSUV)."""
    if init == "he-normal":
        nn.init.kaiming_normal_(weight, nonlinearity="relu", generator=generator)
    elif init == "he-uniform":
        nn.init.kaiming_uniform_(weight, nonlinearity="relu", generator=generator)
    elif init == "xavier-normal":
        nn.init.xavier_normal_(weight, generator=generator)
    elif init == "xavier-uniform":
        nn.init.xavier_uniform_(weight, generator=generator)
    elif init == "delta-orthogonal" and weight.ndim == 4:
        middle = nn.init.orthogonal_(torch.empty(weight.shape[:2]), gain, generator=generator)
        weight.zero_()[:, :, 2, 2] = middle
    else:  # a linear layer's delta-orthogonal weights and LSUV's first are orthogonal
        nn.init.orthogonal_(weight, gain, generator=generator)


def _unit_variance(model: DeepLeNet, images: torch.Tensor, look: Callable[[], None]) -> None:
    """LSUV: one forward pass; each layer divides its weights by the spread of its output before it hands it on.

    The bias is left alone, so one division does not hit 1; at most ten, as in the paper.
    """
    def divide(layer: nn.Module, inputs: tuple[torch.Tensor]) -> None:
        for _ in range(10):
            look()
            spread = layer.forward(*inputs).std()
            if not spread > 0 or abs(spread - 1) < LSUV_TOLERANCE:  # a dead layer has no spread to divide by
                break
            layer.weight /= spread

    hooks = [layer.register_forward_pre_hook(divide) for layer in model.weight_layers]
    model(images)
    for hook in hooks:
        hook.remove()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.reset_running_stats()  # this pass was no training


def parameter_count(config: RunConfig) -> int:
    """Trainable numbers, from the table of the article: 16·16·25 + 16 per block convolution, and those of its norm."""
    stem = 6 * 25 + 6 + 16 * 6 * 25 + 16
    head = 784 * 120 + 120 + 120 * 84 + 84 + 84 * 10 + 10
    norm = 2 * CHANNELS if config.batch_norm else {"none": 0, "group": 2 * CHANNELS, "layer": 2 * 784}[config.other_norm]
    return stem + head + config.blocks * (2 * (CHANNELS * CHANNELS * 25 + CHANNELS + norm) + (config.branch_scale == "skip-init"))
