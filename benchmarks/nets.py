"""Healthy nets of many kinds on small inputs with labels that can be learnt, as people train them; `small` for a quick look."""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from types import ModuleType
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.optim.optimizer import Optimizer

from gradviz.lenet.data import torchvision_datasets

Batch = tuple[torch.Tensor, torch.Tensor]


@dataclass
class Training:
    """A loop of somebody's own. `step(k)` takes one and gives the loss of each net; each net is a run of its own."""

    nets: dict[str, tuple[nn.Module, list[Optimizer]]]
    step: Callable[[int], dict[str, torch.Tensor]]
    steps: int


@dataclass
class Supervised:
    """One net, one optimiser, one loss: what most people write. Whatever a fault changes is a field."""

    model: nn.Module
    optimizer: Optimizer
    batches: Iterator[Batch]
    steps: int
    loss: Callable[[torch.Tensor, torch.Tensor], torch.Tensor] = F.cross_entropy
    clip: float | None = None
    warm_up: int = 0
    scaler: Any = None
    rates: list[float] = field(default_factory=list)

    def training(self) -> Training:
        self.rates = [group["lr"] for group in self.optimizer.param_groups]
        return Training({"": (self.model, [self.optimizer])}, self.take, self.steps)

    def take(self, step: int) -> dict[str, torch.Tensor]:
        for group, rate in zip(self.optimizer.param_groups, self.rates, strict=True):
            group["lr"] = rate * min(1.0, step / self.warm_up) if self.warm_up else rate
        x, y = next(self.batches)
        self.optimizer.zero_grad()
        out = self.model(x)
        loss = self.loss(out, y)
        if self.scaler:
            self.scaler.scale(loss).backward()
            self.scaler.step(self.optimizer)
            self.scaler.update()
            return {"": loss}
        loss.backward()
        if self.clip:
            nn.utils.clip_grad_norm_(self.model.parameters(), self.clip)
        self.optimizer.step()
        return {"": loss}


# --- data ------------------------------------------------------------------------------------------------------------


def pictures(count: int, side: int, seed: int, channels: int = 3, scale: float = 1.0) -> Iterator[Batch]:
    """Noise with one of ten patterns under it."""
    random = torch.Generator().manual_seed(seed)
    patterns = torch.randn(10, channels, side, side, generator=random)
    while True:
        y = torch.randint(0, 10, (count,), generator=random)
        yield scale * (patterns[y] + torch.randn(count, channels, side, side, generator=random)), y


def texts(count: int, length: int, seed: int, words: int = 64) -> Iterator[Batch]:
    """(tokens, the next tokens): each is mostly the same function of the one before."""
    random = torch.Generator().manual_seed(seed)
    follows = torch.randperm(words, generator=random)
    while True:
        tokens = [torch.randint(0, words, (count,), generator=random)]
        for _ in range(length):
            other = torch.randint(0, words, (count,), generator=random)
            tokens.append(torch.where(torch.rand(count, generator=random) < 0.9, follows[tokens[-1]], other))
        row = torch.stack(tokens, 1)
        yield row[:, :-1], row[:, 1:]


def marked_texts(count: int, length: int, seed: int, words: int = 64) -> Iterator[Batch]:
    """(tokens, label): the label's own words are among them."""
    random = torch.Generator().manual_seed(seed)
    while True:
        y = torch.randint(0, 10, (count,), generator=random)
        x = torch.randint(10, words, (count, length), generator=random)
        own = torch.rand(count, length, generator=random) < 0.3
        yield torch.where(own, y[:, None], x), y


def next_words(out: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return F.cross_entropy(out.flatten(0, 1), y.flatten())


# --- nets of our own --------------------------------------------------------------------------------------------------


class Mlp(nn.Module):
    """(n, c, h, w) -> (n, 10)"""

    def __init__(self, layers: int, act: Callable[[torch.Tensor], torch.Tensor], width: int = 64, inputs: int = 3 * 8 * 8):
        super().__init__()
        sizes = [inputs, *[width] * (layers - 1), 10]
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(sizes))
        self.act = act

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = x.flatten(1)
        for layer in self.layers[:-1]:
            h = self.act(layer(h))
        return self.layers[-1](h)


class Attention(nn.Module):
    def __init__(self, width: int, heads: int, causal: bool):
        super().__init__()
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.heads, self.causal = heads, causal

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        n, length, width = x.shape
        q, k, v = self.qkv(x).reshape(n, length, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        h = F.scaled_dot_product_attention(q, k, v, is_causal=self.causal)
        return self.proj(h.transpose(1, 2).reshape(n, length, width))


class Block(nn.Module):
    """`first`: norm before each branch (GPT), else behind the sum (BERT)."""

    def __init__(self, width: int, heads: int, causal: bool, first: bool, normed: bool = True):
        super().__init__()
        self.attention = Attention(width, heads, causal)
        self.wide, self.narrow = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.norm1, self.norm2 = (nn.LayerNorm(width) if normed else nn.Identity() for _ in range(2))
        self.first = first

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.first:
            x = x + self.attention(self.norm1(x))
            return x + self.narrow(F.gelu(self.wide(self.norm2(x))))
        x = self.norm1(x + self.attention(x))
        return self.norm2(x + self.narrow(F.gelu(self.wide(x))))


class Gpt(nn.Module):
    """Tokens (n, length) -> (n, length, words); the head's weight is the embedding's."""

    def __init__(self, width: int, blocks: int, words: int = 64, length: int = 64, std: float = 0.02, normed: bool = True):
        super().__init__()
        self.embed, self.place = nn.Embedding(words, width), nn.Embedding(length, width)
        self.blocks = nn.ModuleList(Block(width, 4, True, True, normed) for _ in range(blocks))
        self.norm = nn.LayerNorm(width) if normed else nn.Identity()
        self.head = nn.Linear(width, words, bias=False)
        for module in self.modules():
            if isinstance(module, (nn.Linear, nn.Embedding)):
                nn.init.normal_(module.weight, std=std)
                if isinstance(module, nn.Linear) and module.bias is not None:
                    nn.init.zeros_(module.bias)
        for name, parameter in self.named_parameters():
            if normed and name.endswith(("proj.weight", "narrow.weight")):
                nn.init.normal_(parameter, std=std / math.sqrt(2 * blocks))
        self.head.weight = self.embed.weight

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.embed(x) + self.place(torch.arange(x.shape[1]))
        for block in self.blocks:
            h = block(h)
        return self.head(self.norm(h))


class LowRank(nn.Module):
    def __init__(self, base: nn.Linear, rank: int = 8):
        super().__init__()
        self.base = base.requires_grad_(False)
        self.a, self.b = nn.Linear(base.in_features, rank, bias=False), nn.Linear(rank, base.out_features, bias=False)
        nn.init.zeros_(self.b.weight)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.base(x) + 2 * self.b(self.a(x))


class Bert(nn.Module):
    """Tokens (n, length) -> (n, 10)"""

    def __init__(self, width: int, blocks: int, words: int = 64, length: int = 64):
        super().__init__()
        self.embed, self.place = nn.Embedding(words, width), nn.Embedding(length, width)
        self.norm = nn.LayerNorm(width)
        self.blocks = nn.ModuleList(Block(width, 4, False, False) for _ in range(blocks))
        self.pool, self.head = nn.Linear(width, width), nn.Linear(width, 10)
        for module in self.modules():
            if isinstance(module, (nn.Linear, nn.Embedding)):
                nn.init.normal_(module.weight, std=0.02)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.norm(self.embed(x) + self.place(torch.arange(x.shape[1])))
        for block in self.blocks:
            h = block(h)
        return self.head(torch.tanh(self.pool(h[:, 0])))

    def adapted(self) -> Bert:
        """Frozen but for low-rank adapters and the head."""
        self.requires_grad_(False)
        for block in self.blocks:
            block.attention.qkv = LowRank(block.attention.qkv)
            block.wide = LowRank(block.wide)
        self.pool.requires_grad_(True)
        self.head.requires_grad_(True)
        return self


class Lstm(nn.Module):
    """Tokens (n, length) -> (n, length, words)"""

    def __init__(self, width: int, layers: int = 2, words: int = 64):
        super().__init__()
        self.embed = nn.Embedding(words, width)
        self.lstm = nn.LSTM(width, width, layers, batch_first=True)
        self.head = nn.Linear(width, words)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.lstm(self.embed(x))[0])


def twice(inputs: int, outputs: int) -> nn.Sequential:
    layers = [nn.Conv2d(inputs, outputs, 3, padding=1), nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers, nn.Conv2d(outputs, outputs, 3, padding=1), nn.BatchNorm2d(outputs), nn.ReLU(inplace=True))


class UNet(nn.Module):
    """(n, 3, s, s) -> (n, 3, s, s)"""

    def __init__(self, width: int, depth: int = 3):
        super().__init__()
        sizes = [width << level for level in range(depth + 1)]
        self.down = nn.ModuleList(twice(a, b) for a, b in zip([3, *sizes[:-1]], sizes, strict=True))
        self.up = nn.ModuleList(nn.ConvTranspose2d(b, a, 2, stride=2) for a, b in pairwise(sizes))
        self.join = nn.ModuleList(twice(2 * size, size) for size in sizes[:-1])
        self.last = nn.Conv2d(width, 3, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        kept = []
        for level, down in enumerate(self.down):
            x = down(F.max_pool2d(x, 2) if level else x)
            kept.append(x)
        for level in reversed(range(len(self.up))):
            x = self.join[level](torch.cat([kept[level], self.up[level](x)], 1))
        return self.last(x)


class PreActivation(nn.Module):
    """The bottleneck of ResNet-1001: norm and relu before each convolution."""

    def __init__(self, width: int):
        super().__init__()
        self.norms = nn.ModuleList(nn.BatchNorm2d(size) for size in (4 * width, width, width))
        sizes = [(4 * width, width, 1), (width, width, 3), (width, 4 * width, 1)]
        self.convs = nn.ModuleList(nn.Conv2d(a, b, k, padding=k // 2, bias=False) for a, b, k in sizes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = x
        for norm, conv in zip(self.norms, self.convs, strict=True):
            h = conv(F.relu(norm(h)))
        return x + h


class DeepResNet(nn.Module):
    """3 · blocks + 2 layers; 333 blocks are the 1001 of He et al. 2016, here without its two strides."""

    def __init__(self, blocks: int, width: int):
        super().__init__()
        self.stem = nn.Conv2d(3, 4 * width, 3, padding=1, bias=False)
        self.blocks = nn.Sequential(*(PreActivation(width) for _ in range(blocks)))
        self.norm, self.fc = nn.BatchNorm2d(4 * width), nn.Linear(4 * width, 10)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(F.relu(self.norm(self.blocks(self.stem(x)))).mean((2, 3)))


class Generator(nn.Module):
    """(n, 32) -> (n, 3, 32, 32)"""

    def __init__(self, width: int):
        super().__init__()
        self.first = nn.ConvTranspose2d(32, 4 * width, 4, bias=False)
        self.rest = nn.ModuleList(
            nn.ConvTranspose2d(a, b, 4, 2, 1, bias=False) for a, b in ((4 * width, 2 * width), (2 * width, width), (width, 3))
        )
        self.norms = nn.ModuleList(nn.BatchNorm2d(size) for size in (4 * width, 2 * width, width))

    def forward(self, z: torch.Tensor) -> torch.Tensor:
        h = self.first(z[:, :, None, None])
        for norm, layer in zip(self.norms, self.rest, strict=True):
            h = layer(F.relu(norm(h)))
        return torch.tanh(h)


class Discriminator(nn.Module):
    """(n, 3, 32, 32) -> (n,)"""

    def __init__(self, width: int):
        super().__init__()
        sizes = (3, width, 2 * width, 4 * width)
        self.layers = nn.ModuleList(nn.Conv2d(a, b, 4, 2, 1) for a, b in pairwise(sizes))
        self.norms = nn.ModuleList([nn.Identity(), nn.BatchNorm2d(2 * width), nn.BatchNorm2d(4 * width)])
        self.last = nn.Conv2d(4 * width, 1, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer, norm in zip(self.layers, self.norms, strict=True):
            x = F.leaky_relu(norm(layer(x)), 0.2)
        return self.last(x).flatten()


# --- how each is trained ----------------------------------------------------------------------------------------------


def models() -> ModuleType:
    torchvision_datasets()  # makes torchvision importable beside any torch
    return importlib.import_module("torchvision.models")


def sgd(model: nn.Module, lr: float = 0.05) -> Optimizer:
    return torch.optim.SGD(model.parameters(), lr, momentum=0.9, weight_decay=1e-4)


def adamw(model: nn.Module, lr: float = 1e-3, **settings: Any) -> Optimizer:
    return torch.optim.AdamW([weight for weight in model.parameters() if weight.requires_grad], lr, **settings)


def resnet18(seed: int, small: bool) -> Supervised:
    if small:
        resnet = models().resnet
        model = resnet.ResNet(resnet.BasicBlock, [1, 1, 1, 1], num_classes=10)
    else:
        model = models().resnet18(num_classes=10)
    return Supervised(model, sgd(model), pictures(16, 32, seed), 12 if small else 40)


def resnet50(seed: int, small: bool) -> Supervised:
    """Each block's last norm starts at 0: at step 0 no gradient enters a branch."""
    resnet = models().resnet
    blocks = [1, 1, 1, 1] if small else [3, 4, 6, 3]
    model = resnet.ResNet(resnet.Bottleneck, blocks, num_classes=10, zero_init_residual=True)
    return Supervised(model, sgd(model), pictures(8 if small else 16, 32, seed), 12 if small else 40)


def vgg16(seed: int, small: bool) -> Supervised:
    vgg = models().vgg
    plan = [16, "M", 32, "M", 64, 64, "M", 64, 64, "M", 64, 64, "M"] if small else vgg.cfgs["D"]
    model = vgg.VGG(vgg.make_layers(plan, batch_norm=True), num_classes=10)
    if small:
        model.avgpool = nn.AdaptiveAvgPool2d(1)
        model.classifier = nn.Sequential(nn.Linear(64, 64), nn.ReLU(True), nn.Dropout(), nn.Linear(64, 10))
    return Supervised(model, sgd(model, 0.01), pictures(16 if small else 8, 32, seed), 12 if small else 25)


def convnext(seed: int, small: bool) -> Supervised:
    """Its layer scale starts at 1e-6: so much of the gradient enters a branch."""
    kind = models().convnext
    sizes = [(16, 32, 1), (32, 64, 2), (64, None, 1)] if small else [(96, 192, 3), (192, 384, 3), (384, 768, 9), (768, None, 3)]
    model = kind.ConvNeXt([kind.CNBlockConfig(*size) for size in sizes], 0.1, num_classes=10)
    return Supervised(model, adamw(model), pictures(8, 32, seed), 12 if small else 40, warm_up=0 if small else 10)


def vit(seed: int, small: bool) -> Supervised:
    """torchvision's: its head starts at 0, so at step 0 no gradient leaves it."""
    layers, width = (3, 32) if small else (8, 192)
    model = models().VisionTransformer(32, 4, layers, 4, width, 4 * width, num_classes=10)
    return Supervised(model, adamw(model), pictures(16, 32, seed), 12 if small else 40, clip=1.0)


def mobilenet(seed: int, small: bool) -> Supervised:
    net = models().mobilenet_v3_small if small else models().mobilenet_v3_large
    model = net(num_classes=10)
    optimizer = torch.optim.RMSprop(model.parameters(), 1e-3, momentum=0.9, eps=0.0316, alpha=0.9)
    return Supervised(model, optimizer, pictures(16, 32, seed), 12 if small else 40)


def gpt(seed: int, small: bool) -> Supervised:
    model = Gpt(32, 2) if small else Gpt(128, 6)
    return Supervised(model, adamw(model), texts(16, 32, seed), 12 if small else 60, next_words, 1.0, 3 if small else 10)


def lora(seed: int, small: bool) -> Supervised:
    model = (Bert(32, 2) if small else Bert(128, 6)).adapted()
    return Supervised(model, adamw(model), marked_texts(16, 32, seed), 12 if small else 60)


def bert(seed: int, small: bool) -> Supervised:
    model = Bert(32, 2) if small else Bert(128, 6)
    return Supervised(model, adamw(model, 3e-4), marked_texts(16, 32, seed), 12 if small else 60, warm_up=5)


def lstm(seed: int, small: bool) -> Supervised:
    model = Lstm(32) if small else Lstm(128)
    return Supervised(model, adamw(model, 3e-3), texts(16, 32, seed), 12 if small else 60, next_words, 1.0)


def unet(seed: int, small: bool) -> Supervised:
    model = UNet(4 if small else 16)
    pairs = ((x, x.roll(1, 3)) for x, _y in pictures(8, 32, seed))
    return Supervised(model, torch.optim.Adam(model.parameters(), 1e-3), pairs, 12 if small else 40, F.mse_loss)


def deep_resnet(seed: int, small: bool) -> Supervised:
    model = DeepResNet(40 if small else 333, 2 if small else 4)
    return Supervised(model, sgd(model, 0.01 if not small else 0.05), pictures(8, 8, seed), 12 if small else 25)


def gan(seed: int, small: bool) -> Training:
    makes, judges = Generator(8 if small else 32), Discriminator(8 if small else 32)
    for module in [*makes.modules(), *judges.modules()]:
        if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d)):
            nn.init.normal_(module.weight, std=0.02)
    optimizers = [torch.optim.Adam(net.parameters(), 2e-4, betas=(0.5, 0.999)) for net in (makes, judges)]
    batches, random = pictures(16, 32, seed), torch.Generator().manual_seed(seed)
    one, zero = torch.ones(16), torch.zeros(16)
    says = F.binary_cross_entropy_with_logits

    def step(_step: int) -> dict[str, torch.Tensor]:
        real = torch.tanh(next(batches)[0])
        fake = makes(torch.randn(16, 32, generator=random))
        optimizers[1].zero_grad()
        judged = says(judges(real), one) + says(judges(fake.detach()), zero)
        judged.backward()
        optimizers[1].step()
        optimizers[0].zero_grad()
        made = says(judges(fake), one)
        made.backward()
        optimizers[0].step()
        return {"generator": made, "discriminator": judged}

    return Training({"generator": (makes, optimizers[:1]), "discriminator": (judges, optimizers[1:])}, step, 12 if small else 40)


HEALTHY: dict[str, Callable[[int, bool], Supervised | Training]] = {
    "ResNet-18": resnet18,
    "ResNet-50, zero-initialised residuals": resnet50,
    "VGG16-bn": vgg16,
    "ConvNeXt-tiny": convnext,
    "ViT": vit,
    "MobileNetV3": mobilenet,
    "GPT, tied weights": gpt,
    "BERT-like encoder": bert,
    "BERT-like encoder, LoRA": lora,
    "LSTM": lstm,
    "U-Net": unet,
    "GAN": gan,
    "ResNet-1001-like": deep_resnet,
}
