"""What watch measures, against float64 and autograd asked another way; and against the Trainer's own numbers."""

import copy

import numpy as np
import pytest
import torch
from torch import nn
from watched_nets import (
    Recurrent,
    ResNet,
    Transformer,
    UNet,
    assert_near,
    images,
    loss_on,
    row,
    tokens,
    torchvision_models,
    truth,
)

import gradviz
from benchmarks.nets import HEALTHY, Discriminator, Generator
from gradviz.record.quantities import QUANTITIES
from gradviz.train import hooks

NETS = {
    "resnet": (ResNet, images()),
    "lstm": (Recurrent, tokens()),
    "transformer": (Transformer, tokens()),
    "unet": (UNet, images()),
}
# What has an output of its own; of the other rows a reason is given.
WITHOUT_OUTPUT = {
    "lstm": {"lstm.weight_ih_l0": "watch-inside"},
    "transformer": {"place": "watch-bare", "attend.in_proj_weight": "watch-inside"},
}
SPEAKERS = {"lstm.weight_hh_l0": "lstm", "attend.out_proj": "attend"}
PARAMETERS = {"place", "attend.in_proj_weight", "lstm.weight_ih_l0", "lstm.weight_hh_l0"}


def one_step(model, loss, folder, lr=0.1):
    optimizer = torch.optim.SGD(model.parameters(), lr)
    with gradviz.watch(model, optimizer, every=1, folder=folder) as run:
        value = loss(model)
        value.backward()
        optimizer.step()
        run.log(loss=value)
    return run


def check_against_truth(model, loss, folder, without_output=None):
    without_output = without_output or {}
    before = copy.deepcopy(model)
    run = one_step(model, loss, folder)
    weights = {name: name if name in PARAMETERS else f"{name}.weight" for name in run.layers}
    outputs = {name: SPEAKERS.get(name, name) for name in run.layers if name not in without_output}
    expected = truth(before, loss, weights, outputs, lr=0.1)
    for quantity, numbers in expected.items():
        assert_near(row(run, quantity), numbers)
    for layer, why in without_output.items():
        assert run.missing[layer] == {"signal_rms": why, "activation_rms": why}
    assert run.run.history.loss[0] == pytest.approx(loss(before.double()).item(), rel=1e-5)
    return run


@pytest.fixture(params=["torch", "numba"])
def way(request, monkeypatch):
    """How its numbers are taken, whatever the size of the net."""
    from gradviz.train import compiled

    monkeypatch.setattr(hooks, "find_compiled", lambda weights: compiled if request.param == "numba" else None)


@pytest.mark.parametrize("name", NETS)
def test_every_number_of_a_small_net_is_that_of_float64(name, way, tmp_path):
    torch.manual_seed(0)
    make, data = NETS[name]
    check_against_truth(make(), loss_on(data), tmp_path, WITHOUT_OUTPUT.get(name))


def test_every_number_of_torchvisions_resnet_is_that_of_float64(tmp_path):
    resnet18 = torchvision_models().resnet18
    torch.manual_seed(0)
    run = check_against_truth(resnet18(num_classes=10), loss_on(images(4, 64, 3)), tmp_path)
    assert len(run.layers) == 21 and run.layers[0] == "conv1" and run.layers[-1] == "fc"


def test_the_rows_stand_in_the_order_of_their_first_calls(tmp_path):
    model = ResNet()
    run = one_step(model, loss_on(images()), tmp_path)
    assert [name for name, _weight in model.named_parameters()][0] == "fc.weight"
    assert run.layers == ("stem", "blocks.0.conv1", "blocks.0.conv2", "blocks.1.conv1", "blocks.1.conv2", "fc")


def test_the_share_of_exact_zeros_is_counted(way, tmp_path):
    model = nn.Linear(4, 2, bias=False)
    run = one_step(model, lambda net: net(torch.tensor([[1.0, 0.0, 0.0, 2.0]])).sum(), tmp_path)
    assert row(run, "zero_share") == {"weight": 0.5}


def test_a_gradient_of_1e_minus_23_and_one_of_1e_20_are_measured_where_a_float32_norm_is_not(way, tmp_path):
    for size in (1e-23, 1e20):
        run = one_step(nn.Linear(4, 2, bias=False), lambda net, size=size: (net(torch.ones(1, 4)) * size).sum(), tmp_path)
        assert row(run, "weight_grad_rms")["weight"] == row(run, "signal_rms")["weight"] == pytest.approx(size, rel=1e-6)


def test_what_is_not_finite_is_shown_and_the_layer_where_it_began_is_named(way, tmp_path):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 2))
    with torch.no_grad():
        model[1].weight[0, 0] = torch.inf
    run = one_step(model, lambda net: net(torch.ones(1, 4)).sum(), tmp_path)
    assert row(run, "activation_rms")["1"] == np.inf and run.run.nonfinite_layer == "1"


@pytest.mark.trains
@pytest.mark.parametrize("settings", [dict(blocks=12), dict(blocks=3, activation="relu", optimizer="sgd", lr=0.01)])
def test_the_deep_lenet_watched_has_the_digits_of_the_trainer(settings, tmp_path, one_thread):
    from gradviz.lenet.config import RunConfig
    from gradviz.lenet.data import Shelf
    from gradviz.lenet.experiment import training

    config = RunConfig(steps=4, batch_size=16, seed=3, **settings)
    data = Shelf(tmp_path, download=False).load("digits")
    theirs = [record.layers for record in training(config, data, torch.device("cpu"))]
    trainer = training(config, data, torch.device("cpu"))
    run = gradviz.watch(trainer.model, every=1, folder=tmp_path)
    losses = [record.loss for record in trainer]
    run.close()
    same = ("weight_grad_rms", "signal_rms", "weight_rms", "update_ratio", "zero_share", "treated_grad_rms")
    assert run.run.history.steps == len(theirs) == len(losses)
    for place, quantity in enumerate(QUANTITIES):
        if quantity in same:
            np.testing.assert_array_equal(run.quantity(quantity), np.stack([table[place] for table in theirs]), quantity)


# Of benchmarks/nets.py: what torchvision and people's own files have, small. A GAN's two nets are each other's loss.
KINDS_OF_NETS = [name for name in HEALTHY if not name.startswith(("ResNet-18", "ResNet-50", "LSTM", "U-Net", "GAN"))]


def unrandom(model: nn.Module) -> nn.Module:
    """Nothing is dropped by chance, and no weight is so small that a step is lost in rounding: a ratio to 0 is no number."""
    for module in model.modules():
        if isinstance(getattr(module, "p", None), float):
            module.p = 0.0
    for parameter in model.parameters():
        if float(parameter.abs().max()) < 1e-4:
            nn.init.normal_(parameter, std=0.1)
    return model


def check_any_net(model, loss, folder, relative):
    before = copy.deepcopy(unrandom(model))
    run = one_step(model, loss, folder)
    parameters = dict(before.named_parameters(remove_duplicate=False))
    weights = {name: name if name in parameters else f"{name}.weight" for name in run.layers}
    trained = {name: weight for name, weight in weights.items() if parameters[weight].requires_grad}
    spoken = [name for name in run.layers if "signal_rms" not in run.missing.get(name, {})]
    outputs = {name: name.removesuffix(".out_proj") if "attention.out_proj" in name else name for name in spoken}
    expected = truth(before, loss, trained, outputs, lr=0.1)
    assert len(spoken) > len(run.layers) / 2
    for quantity, numbers in expected.items():
        found = row(run, quantity)
        assert_near({name: found[name] for name in numbers}, numbers, relative)
        assert set(found) - set(numbers) <= set(weights) - set(trained)  # frozen ones have a size


@pytest.mark.parametrize("name", KINDS_OF_NETS)
def test_every_number_of_a_net_as_people_have_them_is_that_of_float64(name, way, tmp_path, one_thread):
    torch.manual_seed(0)
    made = HEALTHY[name](0, True)
    x, y = next(made.batches)

    def loss(model):
        kind = next(model.parameters()).dtype
        return made.loss(model(x.to(kind) if x.is_floating_point() else x), y)

    check_any_net(made.model, loss, tmp_path, 1e-3)


@pytest.mark.parametrize("which", ["generator", "discriminator"])
def test_every_number_of_a_gans_nets_is_that_of_float64(which, tmp_path, one_thread):
    torch.manual_seed(0)
    makes, judges = Generator(8), Discriminator(8)
    z = torch.randn(8, 32)
    if which == "generator":
        check_any_net(makes, lambda net: copy.deepcopy(judges).to(next(net.parameters()).dtype)(
            net(z.to(next(net.parameters()).dtype))).mean(), tmp_path, 1e-3)  # fmt: skip
    else:
        fake = makes(z).detach()
        check_any_net(judges, lambda net: net(fake.to(next(net.parameters()).dtype)).square().mean(), tmp_path, 1e-3)
