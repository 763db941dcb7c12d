"""The numbers of the probe against float64, autograd asked another way, and entries chosen by hand."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from gradviz.lenet.config import RunConfig
from gradviz.lenet.experiment import training
from gradviz.lenet.net import DeepLeNet, initialise
from gradviz.record.quantities import QUANTITIES
from gradviz.record.reading import first_nonfinite
from gradviz.train.layer_probe import LayerProbe
from gradviz.train.training import Interrupted, never

ROW = {name: row for row, name in enumerate(QUANTITIES)}


def step_by_probe(config: RunConfig, images, labels, deferred: bool) -> tuple[DeepLeNet, np.ndarray]:
    """One step of plain SGD at rate 0.1, measured."""
    model = DeepLeNet(config)
    initialise(model, config.init_range, torch.Generator().manual_seed(config.seed))
    start = {name: value.clone() for name, value in model.state_dict().items()}
    probe = LayerProbe([layer.weight for layer in model.weight_layers], never, deferred=deferred)
    F.cross_entropy(model(images, probe.watch), labels).backward()
    probe.after_backward()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter -= 0.1 * parameter.grad
    probe.after_step()
    table = probe.read()
    model.load_state_dict(start)
    return model, table


def step_in_float64(model: DeepLeNet, images, labels) -> dict[str, list[float]]:
    """The same numbers from a float64 copy, with torch.autograd.grad instead of hooks."""
    model = model.double()
    outputs, activations = [], []
    logits = model(images.double(), lambda index, z, h: (outputs.append(z), activations.append(h)))
    weights = [layer.weight for layer in model.weight_layers]
    gradients = torch.autograd.grad(F.cross_entropy(logits, labels), [*weights, *outputs])

    def rms(tensor):
        return tensor.pow(2).mean().sqrt().item()

    return dict(
        weight_grad_rms=[rms(g) for g in gradients[: len(weights)]],
        signal_rms=[rms(g) for g in gradients[len(weights) :]],
        activation_rms=[rms(h) for h in activations],
        weight_rms=[rms(w) for w in weights],
        update_ratio=[0.1 * rms(g) / rms(w) for g, w in zip(gradients, weights, strict=False)],
    )


@pytest.fixture(scope="module")
def batch():
    generator = torch.Generator().manual_seed(7)
    return torch.randn(8, 1, 28, 28, generator=generator), torch.randint(0, 10, (8,), generator=generator)


@pytest.mark.parametrize("deferred", [False, True], ids=["cpu path", "gpu path"])
@pytest.mark.parametrize("changes", [
    dict(activation="relu"), dict(activation="sigmoid"), dict(activation="relu", batch_norm=True, shortcut=True),
    dict(activation="relu", init_range=0.5), dict(activation="sigmoid", activation_everywhere=True),
], ids=str)
def test_every_number_agrees_with_float64_and_another_way_of_asking(batch, changes, deferred):
    model, table = step_by_probe(RunConfig(blocks=3, **changes), *batch, deferred)
    expected = step_in_float64(model, *batch)
    for name in ("weight_grad_rms", "signal_rms", "activation_rms", "weight_rms"):
        np.testing.assert_allclose(table[ROW[name]], expected[name], rtol=2e-3, err_msg=name)
    large = np.array(expected["update_ratio"]) > 1e-4  # below, float32 weights round the change away
    np.testing.assert_allclose(table[ROW["update_ratio"]][large], np.array(expected["update_ratio"])[large], rtol=2e-2)


@pytest.mark.parametrize("deferred", [False, True], ids=["cpu path", "gpu path"])
def test_a_vanished_layer_is_measured_down_to_the_end_of_float32(batch, deferred):
    """Sigmoid, 16 blocks: the first gradients lie near 1e-30, where squares are long 0 in float32."""
    model, table = step_by_probe(RunConfig(blocks=16), *batch, deferred)
    expected = np.array(step_in_float64(model, *batch)["weight_grad_rms"])
    assert expected[2] < 1e-28
    np.testing.assert_allclose(np.log10(table[ROW["weight_grad_rms"]]), np.log10(expected), atol=0.02)


def of_ones() -> list[torch.nn.Parameter]:
    """The weights of a net of two blocks, all 1: the first two and the last three layers have no neighbour of their shape."""
    weights = [layer.weight for layer in DeepLeNet(RunConfig(blocks=2)).weight_layers]
    for weight in weights:
        weight.data.fill_(1.0)
    return weights


EVERY_PATH = pytest.mark.parametrize(
    "path", [{}, dict(deferred=True), dict(deferred=True, float64=False)], ids=["cpu", "gpu", "gpu without float64"]
)


@EVERY_PATH
@pytest.mark.parametrize("size", [1e-44, 1e-30, 1e-20, 1.0, 1e25, 3e38])
def test_a_layer_of_equal_entries_reads_that_entry(size, path):
    weights = of_ones()
    probe = LayerProbe(weights, never, **path)
    for weight in weights:
        weight.grad = torch.full_like(weight, size)
    probe.after_backward()
    stored = np.float32(size)  # 1e-44 is a denormal: float32 holds 9.8e-45
    np.testing.assert_allclose(probe.read()[ROW["weight_grad_rms"]], stored, rtol=1e-5 if size > 1e-38 else 0.1)


@EVERY_PATH
def test_exact_zeros_inf_and_nan_are_told_apart(path):
    weights = of_ones()
    probe = LayerProbe(weights, never, **path)
    for weight in weights:
        weight.grad = torch.zeros_like(weight)
    weights[1].grad.view(-1)[:600] = 1e-40  # 600 of 2400 alive, as denormals
    weights[4].grad.view(-1)[:1600] = 1e-40  # of 6400
    for inf, nan in ((2, 3), (6, 7)):
        weights[inf].grad[0, 0] = math.inf
        weights[nan].grad[0, 0] = math.nan
    probe.after_backward()
    table = probe.read()
    gradient, zeros = table[ROW["weight_grad_rms"]], table[ROW["zero_share"]]
    for place in (0, 5, 8):
        assert gradient[place] == 0 and zeros[place] == 1
    for place in (1, 4):
        assert gradient[place] == pytest.approx(0.5e-40, rel=0.01) and zeros[place] == pytest.approx(0.75)
    for inf, nan in ((2, 3), (6, 7)):
        assert gradient[inf] == math.inf and math.isnan(gradient[nan])


def test_a_step_that_ends_with_its_backward_pass_has_no_update():
    """The one before it had."""
    weights = of_ones()
    for weight in weights:
        weight.grad = torch.ones_like(weight)
    probe = LayerProbe(weights, never)
    probe.after_backward()
    weights[0].data.fill_(0.5)
    weights[3].data.fill_(0.75)
    probe.after_step()
    assert probe.read()[ROW["update_ratio"]].tolist() == [0.5, 0, 0, 0.25, 0, 0, 0, 0, 0]
    probe.after_backward()
    assert np.isnan(probe.read()[ROW["update_ratio"]]).all()


def test_an_update_too_small_for_float32_counts_as_no_update(batch):
    model, table = step_by_probe(RunConfig(blocks=12), *batch, False)
    assert table[ROW["weight_grad_rms"]][2] > 0
    assert table[ROW["update_ratio"]][2] == 0


def test_asking_to_stop_leaves_a_pass_in_its_middle(batch):
    config = RunConfig(blocks=20)
    asked = []

    def interrupt() -> bool:
        asked.append(1)
        return len(asked) == 60  # 45 layers forward, so this is on the way back

    trainer = training(config, _data(*batch), torch.device("cpu"), interrupt)
    with pytest.raises(Interrupted):
        trainer.preview()
    assert len(asked) == 60


def _data(images, labels):
    from gradviz.lenet.data import Dataset

    return Dataset("digits", images.repeat(16, 1, 1, 1), labels.repeat(16), images, labels)


def test_the_first_nonfinite_layer_is_the_first_in_time():
    names = ("conv1", "conv2", "fc1")
    table = np.ones((len(QUANTITIES), 3), np.float32)
    assert first_nonfinite(table, names) is None
    table[ROW["weight_grad_rms"], :] = np.inf
    assert first_nonfinite(table, names) == "fc1"  # the backward pass begins at the end
    table[ROW["signal_rms"], :2] = np.nan
    assert first_nonfinite(table, names) == "conv2"
    table[ROW["activation_rms"], 1:] = np.nan
    assert first_nonfinite(table, names) == "conv2"
    table[ROW["activation_rms"], 0] = np.inf
    assert first_nonfinite(table, names) == "conv1"
