"""Training as something one iterates, on the built-in digits and on hand-made data."""

import math
import threading
import time

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from gradviz.lenet.activations import ACTIVATIONS
from gradviz.lenet.config import RunConfig
from gradviz.lenet.data import Dataset, Shelf
from gradviz.lenet.experiment import task, training
from gradviz.lenet.net import DeepLeNet, initialise
from gradviz.record.quantities import QUANTITIES
from gradviz.record.run import Status
from gradviz.train.trainer import Trainer

pytestmark = pytest.mark.trains
CPU = torch.device("cpu")
ROW = {name: row for row, name in enumerate(QUANTITIES)}


@pytest.fixture(scope="module")
def digits(tmp_path_factory) -> Dataset:
    return Shelf(tmp_path_factory.mktemp("data"), download=False).load("digits")


def config(**changes) -> RunConfig:
    return RunConfig(**{**dict(activation="relu", blocks=2, dataset="digits", batch_size=16, steps=12), **changes})


@pytest.mark.parametrize("optimizer", ["adam", "sgd", "momentum"])
def test_losses_equal_those_of_a_plain_pytorch_loop(digits, optimizer):
    c = config(optimizer=optimizer, lr=1e-3 if optimizer == "adam" else 0.1)
    generator = torch.Generator().manual_seed(c.seed)
    model = DeepLeNet(c)
    initialise(model, None, generator)
    plain = {
        "adam": lambda p: torch.optim.Adam(p, lr=c.lr),
        "sgd": lambda p: torch.optim.SGD(p, lr=c.lr),
        "momentum": lambda p: torch.optim.SGD(p, lr=c.lr, momentum=0.9),
    }[optimizer](model.parameters())
    order = torch.randperm(len(digits.train_labels), generator=generator)
    losses = []
    for step in range(c.steps):
        batch = order[step * 16 : step * 16 + 16]
        loss = F.cross_entropy(model(digits.train_images[batch]), digits.train_labels[batch])
        plain.zero_grad()
        loss.backward()
        plain.step()
        losses.append(loss.item())
    # Adam divides by the gradient's own size, so that rounding differences of tiny gradients count fully.
    measured = [record.loss for record in training(c, digits, CPU)]
    assert measured == pytest.approx(losses, rel=3e-3 if optimizer == "adam" else 1e-4)


@pytest.mark.parametrize("changes", [
    {}, {"shortcut": True}, {"batch_norm": True}, {"activation_everywhere": True, "treatment": "feedback", "threshold": 1e-4},
])  # fmt: skip
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_activations_that_overwrite_their_input_change_no_digit(digits, activation, changes):
    found = []
    for overwrites in (True, False):
        made = task(config(activation=activation, steps=4, **changes), digits, CPU)
        made.model.overwrite(overwrites)
        found.append(list(Trainer(made)))
    for one, other in zip(*found, strict=True):
        assert one.loss == other.loss
        np.testing.assert_array_equal(one.layers, other.layers)
        for part in ("quantiles", "counts", "layers", "paths"):
            np.testing.assert_array_equal(getattr(one.anatomy, part), getattr(other.anatomy, part))


def test_step_0_is_recorded_before_any_update(digits):
    c = config(steps=1)
    trainer = training(c, digits, CPU)
    before = [layer.weight.detach().clone() for layer in trainer.model.weight_layers]
    (record,) = trainer
    rms = [weight.pow(2).mean().sqrt().item() for weight in before]
    np.testing.assert_allclose(record.layers[ROW["weight_rms"]], rms, rtol=1e-5)
    moved = [(old - layer.weight).norm().item() / old.norm().item()
             for old, layer in zip(before, trainer.model.weight_layers, strict=True)]  # fmt: skip
    np.testing.assert_allclose(record.layers[ROW["update_ratio"]], moved, rtol=1e-3)
    assert record.test_accuracy is not None


def test_a_preview_shows_step_0_and_changes_nothing(digits):
    record = training(config(), digits, CPU).preview()
    first = next(iter(training(config(), digits, CPU)))
    assert record.loss == first.loss and record.seconds > 0
    np.testing.assert_array_equal(record.layers[ROW["weight_grad_rms"]], first.layers[ROW["weight_grad_rms"]])
    assert np.isnan(record.layers[ROW["update_ratio"]]).all()  # nothing was updated, so nothing was measured


def test_test_accuracy_comes_at_step_0_then_regularly_and_in_full_at_the_end(digits):
    trainer = training(config(steps=45), digits, CPU)
    tested = [record.step for record in trainer if record.test_accuracy is not None]
    assert tested == [0, 10, 20, 30, 40]
    assert trainer.outcome.status is Status.FINISHED
    with torch.no_grad():
        trainer.model.eval()
        right = (trainer.model(digits.test_images).argmax(1) == digits.test_labels).float().mean().item()
    assert trainer.outcome.test_accuracy == pytest.approx(right)


def test_relu_digits_are_learnt(digits):
    trainer = training(config(steps=150, batch_size=32), digits, CPU)
    losses = [record.loss for record in trainer]
    assert losses[0] == pytest.approx(math.log(10), abs=0.1) and np.mean(losses[-10:]) < 0.7
    assert trainer.outcome.test_accuracy > 0.7


def test_a_loss_that_is_not_finite_ends_the_run_with_its_record_and_names_the_layer(digits):
    trainer = training(config(blocks=40, init_range=0.5), digits, CPU)
    records = list(trainer)
    assert len(records) == 1 and not math.isfinite(records[0].loss)
    assert trainer.outcome.status is Status.DIVERGED
    activation = records[0].layers[ROW["activation_rms"]]
    first = RunConfig(blocks=40).layout.names[np.flatnonzero(~np.isfinite(activation))[0]]
    assert records[0].nonfinite_layer == first and first in str(trainer.outcome.message)
    assert first.startswith("block3"), "theory: float32 overflows between 30 and 36 blocks at a = 0.5"


def test_the_same_config_gives_the_same_numbers_alone_and_beside_three_others(digits):
    threads_of_torch = torch.get_num_threads()
    configs = [config(seed=seed, batch_norm=seed % 2 == 1, steps=6) for seed in range(4)]
    alone = [[r.loss for r in training(c, digits, CPU)] for c in configs]
    together: dict[int, list[float]] = {}
    start = threading.Barrier(4)

    def train(k: int) -> None:
        torch.set_num_threads(threads_of_torch)  # each thread has its own
        trainer = training(configs[k], digits, CPU)
        start.wait()
        together[k] = [record.loss for record in trainer]

    threads = [threading.Thread(target=train, args=(k,)) for k in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [together[k] for k in range(4)] == alone


def test_an_interrupt_ends_the_iteration_in_the_middle_of_a_step(digits):
    stop = threading.Event()
    trainer = training(config(steps=100), digits, CPU, stop.is_set)
    seen = []
    for record in trainer:
        seen.append(record.step)
        if record.step == 3:
            stop.set()
    assert seen == [0, 1, 2, 3] and trainer.outcome.status is Status.STOPPED


@pytest.mark.parametrize("treatment, threshold", [("clip-norm", 1e-3), ("clip-value", 1e-5), ("floor", 1e-3)])
def test_gradients_are_recorded_before_and_after_their_treatment(digits, treatment, threshold):
    plain = next(iter(training(config(), digits, CPU))).layers
    treated = next(iter(training(config(treatment=treatment, threshold=threshold), digits, CPU))).layers
    np.testing.assert_array_equal(treated[ROW["weight_grad_rms"]], plain[ROW["weight_grad_rms"]])
    before, after = treated[ROW["weight_grad_rms"]], treated[ROW["treated_grad_rms"]]
    if treatment == "clip-norm":
        np.testing.assert_allclose(after / before, (after / before)[0], rtol=1e-4)  # one factor for all
        assert (after < before).all()
    elif treatment == "clip-value":
        assert (after <= threshold).all() and (after <= before).all()
    else:
        assert (after >= threshold * 0.999).all()
    np.testing.assert_array_equal(plain[ROW["treated_grad_rms"]], plain[ROW["weight_grad_rms"]])


def test_the_seconds_of_an_outcome_leave_out_what_was_between_the_steps(digits):
    trainer = training(config(steps=3), digits, CPU)
    begun, between = time.perf_counter(), 0.0
    for _ in trainer:
        begin = time.perf_counter()
        threading.Event().wait(0.5)  # paused, or the turn of another
        between += time.perf_counter() - begin
    assert 0 < trainer.outcome.seconds <= time.perf_counter() - begun - between
