"""The lesson itself, on real MNIST: what the article is about must be visible in our numbers."""

import itertools
import math

import numpy as np
import pytest
import torch

from gradviz.lenet.config import PRESETS, RunConfig
from gradviz.lenet.data import Shelf
from gradviz.lenet.experiment import training
from gradviz.record.quantities import QUANTITIES
from gradviz.record.run import Status

pytestmark = pytest.mark.trains
CHANCE = math.log(10)  # loss of a net that knows nothing


@pytest.fixture(scope="module")
def mnist(data_folder):
    return Shelf(data_folder, download=False).load("mnist")


def train(mnist, **changes):
    """All records; without the test on 10,000 images at the end, which nobody here asks for."""
    config = RunConfig(**changes)
    trainer = training(config, mnist, torch.device("cpu"))
    return list(itertools.islice(trainer, config.steps)), trainer.outcome


def layers(record, quantity: str) -> np.ndarray:
    return record.layers[list(QUANTITIES).index(quantity)].astype(float)


def factor_per_convolution(values: np.ndarray) -> float:
    """Least-squares growth per block convolution on the way back, from the last towards the first."""
    logs = np.log10(values[2:-3])
    return 10 ** -np.polyfit(np.arange(len(logs)), logs, 1)[0]


def test_twelve_sigmoid_blocks_vanish_by_fifteen_decades_and_stay_at_chance(mnist):
    records, _ = train(mnist, activation="sigmoid", blocks=12, steps=40)
    gradient = layers(records[0], "weight_grad_rms")
    assert 0 < gradient[2] < gradient[-4] * 1e-15
    assert factor_per_convolution(gradient) == pytest.approx(0.1236, rel=0.1)  # theory at initialisation
    late = np.mean([record.loss for record in records[10:]])
    assert late == pytest.approx(CHANCE, abs=0.03)


@pytest.mark.parametrize("cure, steps", [
    (dict(activation="relu", batch_norm=True), 60),
    (dict(activation="relu", shortcut=True), 60),
    (dict(activation="sigmoid", shortcut=True), 160),  # stands at chance for a hundred steps first
], ids=str)
def test_the_same_twelve_blocks_train_once_they_are_cured(mnist, cure, steps):
    records, _ = train(mnist, blocks=12, steps=steps, **cure)
    gradient = layers(records[0], "weight_grad_rms")
    assert gradient[2] > gradient[-4] * 1e-3
    assert np.mean([record.loss for record in records[-10:]]) < CHANCE - 0.4


def test_relu_vanishes_too_but_by_fewer_decades(mnist):
    records, _ = train(mnist, activation="relu", blocks=12, steps=1)
    gradient = layers(records[0], "weight_grad_rms")
    assert 1e-13 < gradient[2] / gradient[-4] < 1e-6
    assert factor_per_convolution(gradient) == pytest.approx(0.37, rel=0.15)  # 0.349 deep in, flatter near the input


def test_a_large_init_shows_in_the_backward_signal_and_not_in_the_profile_of_the_weight_gradients(mnist):
    for seed in range(3):
        records, _ = train(mnist, activation="relu", blocks=12, init_range=0.5, steps=1, seed=seed)
        gradient, signal = layers(records[0], "weight_grad_rms"), layers(records[0], "signal_rms")
        assert gradient[2:-3].min() > 1e6 and factor_per_convolution(gradient) == pytest.approx(1, abs=0.1)
        assert factor_per_convolution(signal) == pytest.approx(3.5, rel=0.1)
        assert factor_per_convolution(layers(records[0], "activation_rms")) == pytest.approx(1 / 3.5, rel=0.1)


def test_forty_blocks_with_a_large_init_diverge_at_the_first_step(mnist):
    records, outcome = train(mnist, **PRESETS["exploding-init"].changes, blocks=40)
    assert len(records) == 1 and outcome.status is Status.DIVERGED


def test_thirty_sigmoid_blocks_reach_exact_zero_from_the_input_on(mnist):
    records, _ = train(mnist, activation="sigmoid", blocks=30, steps=1, batch_size=16)
    signal = layers(records[0], "signal_rms")[2:-3]
    zero = np.flatnonzero(signal == 0)
    assert len(zero) >= 5 and zero.tolist() == list(range(len(zero)))  # the front, without gaps
    assert layers(records[0], "zero_share")[2] == 1


def test_batch_norm_alone_makes_deep_relu_nets_explode_mildly(mnist):
    records, _ = train(mnist, activation="relu", batch_norm=True, blocks=30, steps=1)
    assert factor_per_convolution(layers(records[0], "weight_grad_rms")) == pytest.approx(1.15, rel=0.03)


def test_batch_norm_does_not_save_sigmoid(mnist):
    records, _ = train(mnist, activation="sigmoid", batch_norm=True, blocks=20, steps=1)
    assert factor_per_convolution(layers(records[0], "weight_grad_rms")) == pytest.approx(0.735, rel=0.05)
