"""The net of the article: counts, shapes, arithmetic and initial weights, against a second implementation."""

import math

import pytest
import torch
import torch.nn.functional as F

from gradviz.lenet.config import RunConfig
from gradviz.lenet.net import DeepLeNet, initialise, parameter_count

SWITCHES = [(a, n, s) for a in ("sigmoid", "relu") for n in (False, True) for s in (False, True)]


def made(config: RunConfig) -> DeepLeNet:
    model = DeepLeNet(config)
    initialise(model, config.init_range, torch.Generator().manual_seed(config.seed))
    return model


@pytest.mark.parametrize("blocks, layers", [(0, 5), (1, 7), (12, 29), (40, 85), (1000, 2005)])
def test_a_net_has_five_plus_two_layers_per_block_named_in_forward_order(blocks, layers):
    config = RunConfig(blocks=blocks)
    names = config.layout.names
    assert config.layers == len(names) == len(set(names)) == len(DeepLeNet(config).weight_layers) == layers
    assert names[:2] == ("conv1", "conv2") and names[-3:] == ("fc1", "fc2", "fc3")
    if blocks:
        assert names[2:4] == ("block0.conv1", "block0.conv2") and names[-4] == f"block{blocks - 1}.conv2"


@pytest.mark.parametrize("batch_norm", [False, True])
@pytest.mark.parametrize("blocks", [0, 3, 40])
def test_the_stated_parameter_count_is_the_real_one(blocks, batch_norm):
    config = RunConfig(blocks=blocks, batch_norm=batch_norm)
    assert sum(p.numel() for p in DeepLeNet(config).parameters()) == parameter_count(config)
    assert parameter_count(RunConfig(blocks=0)) == 156 + 2416 + 94200 + 10164 + 850  # by hand


def test_the_shapes_are_those_of_the_articles_table():
    shapes = []
    made(RunConfig(blocks=1))(torch.zeros(2, 1, 28, 28), lambda index, z, h: shapes.append((index, tuple(h.shape))))
    assert shapes == [
        (0, (2, 6, 28, 28)), (1, (2, 16, 14, 14)), (2, (2, 16, 7, 7)), (3, (2, 16, 7, 7)),
        (4, (2, 120)), (5, (2, 84)), (6, (2, 10)),
    ]  # conv1 and conv2 before their pooling


@pytest.mark.parametrize("activation, batch_norm, shortcut", SWITCHES)
@pytest.mark.parametrize("everywhere", [False, True])
def test_the_logits_equal_the_articles_formulas_written_out(activation, batch_norm, shortcut, everywhere):
    switches = dict(activation=activation, batch_norm=batch_norm, shortcut=shortcut)
    config = RunConfig(blocks=3, activation_everywhere=everywhere, **switches)
    model = made(config)
    images = torch.randn(5, 1, 28, 28, generator=torch.Generator().manual_seed(1))
    inside = {"sigmoid": lambda z: 1 / (1 + (-z).exp()), "relu": lambda z: z.clamp(min=0)}[activation]
    outside = inside if everywhere else lambda z: z.clamp(min=0)

    def norm(z):
        if not batch_norm:
            return z
        mean, variance = z.mean((0, 2, 3), keepdim=True), z.var((0, 2, 3), keepdim=True, unbiased=False)
        return (z - mean) / (variance + 1e-5).sqrt()

    p = dict(model.named_parameters())
    h = images
    for stem in ("conv1", "conv2"):
        h = F.max_pool2d(outside(F.conv2d(h, p[f"{stem}.weight"], p[f"{stem}.bias"], padding=2)), 2)
    for b in range(3):
        x = h
        for conv in ("conv1", "conv2"):
            h = inside(norm(F.conv2d(h, p[f"blocks.{b}.{conv}.weight"], p[f"blocks.{b}.{conv}.bias"], padding=2)))
        h = x + h if shortcut else h
    h = h.reshape(5, 784)
    h = outside(h @ p["fc1.weight"].T + p["fc1.bias"])
    h = outside(h @ p["fc2.weight"].T + p["fc2.bias"])
    expected = h @ p["fc3.weight"].T + p["fc3.bias"]
    torch.testing.assert_close(model(images), expected, rtol=1e-4, atol=1e-5)


def test_default_weights_are_spread_as_pytorch_spreads_them():
    model = made(RunConfig(blocks=2))
    for layer in model.weight_layers:
        bound = 1 / math.sqrt(layer.weight[0].numel())
        for drawn in (layer.weight, layer.bias):
            assert drawn.abs().max() <= bound
        own = type(layer)(*((layer.in_channels, layer.out_channels, 5) if hasattr(layer, "in_channels")
                            else (layer.in_features, layer.out_features)))
        assert layer.weight.std().item() == pytest.approx(own.weight.std().item(), rel=0.15)
        assert own.weight.abs().max() <= bound * 1.0001  # PyTorch's own reset_parameters keeps the same bound


def test_a_given_range_sets_every_weight_and_leaves_the_biases_at_their_default():
    model, default = made(RunConfig(blocks=2, init_range=0.5)), made(RunConfig(blocks=2))
    for layer, usual in zip(model.weight_layers, default.weight_layers, strict=True):
        assert 0.45 < layer.weight.abs().max() <= 0.5
        assert torch.equal(layer.bias, usual.bias)  # the same draws from the same generator


def test_making_a_net_leaves_the_global_random_state_alone():
    before = torch.random.get_rng_state()
    made(RunConfig(blocks=3, batch_norm=True))
    assert torch.equal(before, torch.random.get_rng_state())


@pytest.mark.parametrize("order", [torch.channels_last, torch.contiguous_format])
def test_the_gradient_keeps_the_nets_order_of_memory_along_the_shortcuts_and_its_digits(order):
    """Two orders in one addition or one relu take five times as long on a processor."""
    config = RunConfig(blocks=3, activation="relu", shortcut=True)
    model, plain = made(config).to(memory_format=order), made(config)
    images, orders = torch.randn(4, 1, 28, 28, generator=torch.Generator().manual_seed(1)), []
    for block in model.each_block:
        block.conv1.register_full_backward_pre_hook(
            lambda _module, gradients: orders.append(gradients[0].is_contiguous(memory_format=order))
        )
        block.register_full_backward_hook(
            lambda _module, _inputs, gradients: orders.append(gradients[0].is_contiguous(memory_format=order))
        )
    for net in (model, plain):
        net(images).square().sum().backward()
    assert orders == [True] * 6
    for ours, theirs in zip(model.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-4, atol=1e-6)
