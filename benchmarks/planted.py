"""Trainings that go wrong in one known way each, on nets of benchmarks/nets.py, and what should be found in them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from benchmarks.nets import (
    Batch,
    Bert,
    Gpt,
    Lstm,
    Mlp,
    Supervised,
    UNet,
    adamw,
    convnext,
    models,
    next_words,
    pictures,
    resnet18,
    sgd,
    texts,
    twice,
    vit,
)


@dataclass(frozen=True)
class Fault:
    make: Callable[[int, bool], Supervised]
    expected: tuple[str, ...]  # the first finding is one of these
    layer: str = ""  # which the sentence should name


def _sigmoids(seed: int, small: bool) -> Supervised:
    model = Mlp(20, torch.sigmoid)
    return Supervised(model, adamw(model), pictures(16, 8, seed), 20)


def _small_weights(seed: int, small: bool) -> Supervised:
    """VGG without norm, its weights a tenth of what they should be."""
    model = models().vgg.VGG(models().vgg.make_layers([8, 8, "M", 16, 16, "M", *[32] * 8, "M"]), num_classes=10)
    model.classifier = nn.Linear(32 * 49, 10)
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            module.weight.data *= 0.3
    return Supervised(model, adamw(model), pictures(8, 32, seed), 20)


def _recurrent(seed: int, small: bool) -> Supervised:
    """A plain recurrent chain unrolled by hand, with a layer of its own for each step."""
    model = Mlp(30, torch.tanh)
    for layer in model.layers:
        nn.init.normal_(layer.weight, std=0.05)
    return Supervised(model, torch.optim.SGD(model.parameters(), 0.1), pictures(16, 8, seed), 20)


def _large_weights(seed: int, small: bool) -> Supervised:
    model = Mlp(20, F.relu)
    for layer in model.layers:
        nn.init.normal_(layer.weight, std=0.7)
    return Supervised(model, adamw(model, 1e-4), pictures(16, 8, seed), 10)


def _no_norm(seed: int, small: bool) -> Supervised:
    """A GPT without its norms, from weights ten times as large."""
    model = Gpt(64, 8, std=0.2, normed=False)
    return Supervised(model, adamw(model, 1e-5), texts(8, 32, seed), 10, next_words)


def _diverges(seed: int, small: bool) -> Supervised:
    model = Mlp(6, F.relu)
    return Supervised(model, torch.optim.SGD(model.parameters(), 100.0), pictures(16, 8, seed), 20)


def _bad_batch(seed: int, small: bool) -> Supervised:
    """The eighth batch holds one nan."""

    def batches() -> Iterator[Batch]:
        for number, (x, y) in enumerate(pictures(8, 32, seed)):
            if number == 7:
                x[0, 0, 0, 0] = torch.nan
            yield x, y

    return Supervised(model := UNet(4), adamw(model), ((x, x) for x, _y in batches()), 12, F.mse_loss)


class _Detached(UNet):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        kept = []
        for level, down in enumerate(self.down):
            x = down(F.max_pool2d(x, 2) if level else x)
            kept.append(x.detach() if level == 3 else x)
        x = kept.pop()
        for level in reversed(range(len(self.up))):
            x = self.join[level](torch.cat([kept[level], self.up[level](x)], 1))
        return self.last(x)


def _detached(seed: int, small: bool) -> Supervised:
    """`detach` at the bottom of a U-Net."""
    pairs = ((x, x) for x, _y in pictures(8, 32, seed))
    return Supervised(model := _Detached(4), adamw(model), pairs, 12, F.mse_loss)


class _NoGrad(Bert):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            h = self.norm(self.embed(x) + self.place(torch.arange(x.shape[1])))
            h = self.blocks[0](h)
        for block in self.blocks[1:]:
            h = block(h)
        return self.head(torch.tanh(self.pool(h[:, 0])))


def _no_grad(seed: int, small: bool) -> Supervised:
    from benchmarks.nets import marked_texts

    return Supervised(model := _NoGrad(32, 3), adamw(model), marked_texts(16, 32, seed), 12)


def _group_forgotten(seed: int, small: bool) -> Supervised:
    """A ResNet whose optimiser was not given its last stage."""
    made = resnet18(seed, True)
    model = made.model
    weights = [weight for name, weight in model.named_parameters() if not name.startswith("layer4")]
    made.optimizer = torch.optim.SGD(weights, 0.05, momentum=0.9)
    return made


def _head_replaced(seed: int, small: bool) -> Supervised:
    """The head was replaced once the optimiser was made."""
    model = Lstm(32)
    made = Supervised(model, adamw(model, 3e-3), texts(16, 32, seed), 12, next_words)
    model.head = nn.Linear(32, 64)
    return made


def _huge_rate(seed: int, small: bool) -> Supervised:
    made = vit(seed, True)
    made.optimizer, made.clip = torch.optim.Adam(made.model.parameters(), 0.3), None
    return made


def _huge_rate_of_sgd(seed: int, small: bool) -> Supervised:
    """Batch norm hides it from the loss."""
    made = resnet18(seed, True)
    made.optimizer = torch.optim.SGD(made.model.parameters(), 20.0)
    return made


def _tiny_rate(seed: int, small: bool) -> Supervised:
    made = resnet18(seed, True)
    made.optimizer = torch.optim.SGD(made.model.parameters(), 1e-6)
    return made


def _tiny_gradient(seed: int, small: bool) -> Supervised:
    """The loss is divided by a billion, so Adam's eps is all that counts."""
    model = Gpt(32, 2)
    return Supervised(model, adamw(model), texts(16, 32, seed), 12, lambda out, y: next_words(out, y) * 1e-9)


def _tight_clip(seed: int, small: bool) -> Supervised:
    """Clipped to a millionth, and SGD."""
    model = UNet(4)
    pairs = ((x, x) for x, _y in pictures(8, 32, seed))
    return Supervised(model, torch.optim.SGD(model.parameters(), 0.05), pairs, 12, F.mse_loss, clip=1e-6)


def _dead(seed: int, small: bool) -> Supervised:
    """The biases of one layer are far below 0."""
    model = nn.Sequential(twice(3, 8), nn.Conv2d(8, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1), nn.ReLU(),
                          nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 10))  # fmt: skip
    nn.init.constant_(model[1].bias, -20.0)
    return Supervised(model, sgd(model, 0.01), pictures(16, 16, seed), 20)


def _dies(seed: int, small: bool) -> Supervised:
    """Steps that push every unit below 0."""
    model = Mlp(5, F.relu)
    return Supervised(model, torch.optim.SGD(model.parameters(), 5.0), pictures(16, 8, seed), 20)


def _saturated(seed: int, small: bool) -> Supervised:
    model = Mlp(5, torch.tanh)
    for layer in model.layers[:-1]:
        nn.init.normal_(layer.weight, std=2.0)
    return Supervised(model, adamw(model), pictures(16, 8, seed), 20)


def _bytes(seed: int, small: bool) -> Supervised:
    """Pixels up to some hundreds, as they come out of a file, into sigmoids."""
    model = Mlp(3, torch.sigmoid)
    return Supervised(model, adamw(model), pictures(16, 8, seed, scale=100.0), 20)


def _coarse(seed: int, small: bool) -> Supervised:
    model = Gpt(32, 2).to(torch.bfloat16)
    return Supervised(model, adamw(model, 1e-5), texts(16, 32, seed), 12, lambda out, y: next_words(out.float(), y))


def _overflows(seed: int, small: bool) -> Supervised:
    """The scale grows 256-fold after every step that went well, and halves after each that did not."""
    model = Gpt(32, 2)
    optimizer = torch.optim.AdamW(model.parameters(), 1e-3, fused=True)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**126, growth_factor=256.0, backoff_factor=0.5, growth_interval=1)
    return Supervised(model, optimizer, texts(16, 32, seed), 40, lambda out, y: 512 * next_words(out, y), scaler=scaler)


def _all_zero(seed: int, small: bool) -> Supervised:
    """Every weight starts at 0."""
    made = convnext(seed, True)
    made.warm_up = 0
    for parameter in made.model.parameters():
        if parameter.ndim == 2 or parameter.ndim == 4:
            nn.init.zeros_(parameter)
    made.optimizer = torch.optim.SGD(made.model.parameters(), 0.01)
    return made


def _one_scale(seed: int, small: bool) -> Supervised:
    """Between two blocks of a GPT somebody has left a factor of 1e-8 for the gradient."""

    class Dim(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.clone()

        @staticmethod
        def backward(ctx, gradient):
            return gradient * 1e-8

    class Dimmed(Gpt):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            h = self.embed(x) + self.place(torch.arange(x.shape[1]))
            for number, block in enumerate(self.blocks):
                h = block(Dim.apply(h) if number == 2 else h)
            return self.head(self.norm(h))

    model = Dimmed(32, 4)
    return Supervised(model, adamw(model), texts(16, 32, seed), 12, next_words)


# --- planted once the rules stood, and never tuned to ------------------------------------------------------------------


def _default_relus(seed: int, small: bool) -> Supervised:
    """PyTorch's own initialisation, which is a little too small for relu, thirty times over."""
    model = Mlp(30, F.relu)
    return Supervised(model, sgd(model, 0.05), pictures(16, 8, seed), 20)


def _schedule_at_0(seed: int, small: bool) -> Supervised:
    """A schedule that was given epochs and counts steps: the rate is 0 from the fourth step on, and was little before."""
    model = UNet(4)
    optimizer = torch.optim.Adam(model.parameters(), 1e-8)
    pairs = ((x, x) for x, _y in pictures(8, 32, seed))
    made = Supervised(model, optimizer, pairs, 16, F.mse_loss)
    inner = made.take

    def take(step: int) -> dict[str, torch.Tensor]:
        made.rates = [1e-8 if step < 4 else 0.0]
        return inner(step)

    made.take = take  # type: ignore[method-assign]
    return made


def _gpt_too_fast(seed: int, small: bool) -> Supervised:
    model = Gpt(32, 2)
    return Supervised(model, torch.optim.Adam(model.parameters(), 0.1), texts(16, 32, seed), 20, next_words)


def _half(seed: int, small: bool) -> Supervised:
    """float16 weights, and a rate that suits a fine-tuning."""
    model = Lstm(32).to(torch.float16)
    return Supervised(model, torch.optim.SGD(model.parameters(), 1e-3), texts(8, 16, seed), 12,
                      lambda out, y: next_words(out.float(), y))  # fmt: skip


def _wide_tanh(seed: int, small: bool) -> Supervised:
    model = Mlp(12, torch.tanh)
    for layer in model.layers:
        nn.init.normal_(layer.weight, std=1.0)
    return Supervised(model, adamw(model), pictures(16, 8, seed), 20)


def _upwards(seed: int, small: bool) -> Supervised:
    """A decoder of twelve convolutions without norm, each with weights four times too large."""
    layers = [nn.Sequential(nn.Conv2d(3 if not k else 8, 8, 3, padding=1), nn.ReLU()) for k in range(12)]
    model = nn.Sequential(*layers, nn.Conv2d(8, 3, 3, padding=1))
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            module.weight.data *= 4
    pairs = ((x, x) for x, _y in pictures(4, 16, seed))
    return Supervised(model, adamw(model, 1e-5), pairs, 10, F.mse_loss)


def _head_detached(seed: int, small: bool) -> Supervised:
    """A ViT whose head sees the body through `.data`."""
    made = vit(seed, True)
    made.model.encoder.register_forward_hook(lambda _module, _inputs, output: output.data)
    return made


def _cleared_too_early(seed: int, small: bool) -> Supervised:
    """`zero_grad` between `backward` and `step`."""
    made = resnet18(seed, True)

    def take(_step: int) -> dict[str, torch.Tensor]:
        x, y = next(made.batches)
        loss = F.cross_entropy(made.model(x), y)
        loss.backward()
        made.optimizer.zero_grad()
        made.optimizer.step()
        return {"": loss}

    made.take = take  # type: ignore[method-assign]
    return made


FAULTS: dict[str, Fault] = {
    "twenty sigmoid layers": Fault(_sigmoids, ("vanishing", "vanished to exact zero")),
    "VGG without norm, small weights": Fault(_small_weights, ("vanishing",)),
    "thirty tanh layers, small weights": Fault(_recurrent, ("vanishing", "vanished to exact zero")),
    "a factor of 1e-8 left in a GPT's backward pass": Fault(_one_scale, ("vanishing",)),
    "twenty relu layers, large weights": Fault(_large_weights, ("exploding",)),
    "GPT without norms, large weights": Fault(_no_norm, ("exploding",)),
    "SGD at 100": Fault(_diverges, ("diverged",)),
    "one nan in a batch": Fault(_bad_batch, ("diverged",), "down.0.0"),
    "a detach in a U-Net": Fault(_detached, ("no gradient",), "down.3.3"),
    "no_grad around an encoder's first block": Fault(_no_grad, ("no gradient",), "blocks.0.narrow"),
    "a stage that the optimiser was not given": Fault(_group_forgotten, ("not in the optimiser",), "layer4.0.conv1"),
    "a head replaced after the optimiser was made": Fault(_head_replaced, ("not in the optimiser",), "head"),
    "ViT, Adam at 0.3": Fault(_huge_rate, ("steps too large", "diverged")),
    "ResNet, SGD at 20": Fault(_huge_rate_of_sgd, ("steps too large", "diverged")),
    "ResNet, SGD at 1e-6": Fault(_tiny_rate, ("stands still",)),
    "a loss of a billionth, Adam": Fault(_tiny_gradient, ("optimiser cannot use this gradient", "stands still")),
    "clipped to a millionth, SGD": Fault(_tight_clip, ("stands still",)),
    "a layer's biases at -20": Fault(_dead, ("dead relu layers",), "1"),
    "relu layers, SGD at 5": Fault(_dies, ("dead relu layers", "diverged", "steps too large")),
    "tanh, weights thirty times as large": Fault(_saturated, ("saturated units",)),
    "sigmoids given pixels as they come": Fault(_bytes, ("saturated units",), "layers.0"),
    "bfloat16 weights at 1e-5": Fault(_coarse, ("weights too coarse to move",)),
    "a scaler that grows too fast": Fault(_overflows, ("scaler keeps overflowing",)),
    "all weights 0": Fault(_all_zero, ("vanished to exact zero",)),
}

AFTERWARDS: dict[str, Fault] = {
    "thirty relu layers, PyTorch's own initialisation": Fault(_default_relus, ("vanishing", "vanished to exact zero")),
    "U-Net, a schedule that ends at 0 after four steps": Fault(_schedule_at_0, ("stands still",)),
    "GPT, Adam at 0.1": Fault(_gpt_too_fast, ("steps too large", "diverged")),
    "float16 weights of an LSTM, SGD at 1e-3": Fault(_half, ("weights too coarse to move", "stands still")),
    "twelve tanh layers, weights eight times as large": Fault(_wide_tanh, ("saturated units", "exploding")),
    "a decoder without norm, weights four times as large": Fault(_upwards, ("exploding", "diverged")),
    "a ViT whose head is given .data": Fault(_head_detached, ("no gradient",)),
    "zero_grad between backward and step": Fault(_cleared_too_early, ("no gradient",)),
}
