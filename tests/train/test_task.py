"""A net that is no LeNet, trained and measured: three layers, one of them in a block with a shortcut, vectors for images."""

import math
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from gradviz.record.history import StepRecord
from gradviz.record.layout import Layout
from gradviz.record.quantities import QUANTITIES
from gradviz.record.run import Status
from gradviz.train.task import Shortcut, Task, Watch
from gradviz.train.trainer import Trainer

pytestmark = pytest.mark.trains
ROW = {name: row for row, name in enumerate(QUANTITIES)}
STEPS, BATCH, LR = 12, 8, 0.2


class Branch(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(8, 8)

    def forward(self, x: torch.Tensor, watch: Watch) -> torch.Tensor:
        z = self.linear(x)
        h = torch.relu(z)
        watch(1, z, h)
        return x + h


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.block, self.last = nn.Linear(6, 8), Branch(), nn.Linear(8, 3)

    def forward(self, x: torch.Tensor, watch: Watch = lambda *_: None) -> torch.Tensor:
        z = self.first(x)
        h = torch.tanh(z)
        watch(0, z, h)
        z = self.last(self.block(h, watch))
        watch(2, z, z)
        return z

    @property
    def layers(self) -> list[nn.Linear]:
        return [self.first, self.block.linear, self.last]


def drawn() -> tuple[Net, torch.Tensor, torch.Tensor]:
    """A net and 40 examples that can be learnt."""
    generator = torch.Generator().manual_seed(3)
    net = Net()
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.uniform_(-0.5, 0.5, generator=generator)
    images = torch.randn(40, 6, generator=generator)
    return net, images, images[:, :3].argmax(1)


def in_turn() -> Iterator[torch.Tensor]:
    while True:
        yield from torch.arange(40).split(BATCH)


def task() -> Task:
    net, images, labels = drawn()
    return Task(
        layout=Layout(("stem.proj", "body.0.mix", "head")),
        model=net,
        weights=[layer.weight for layer in net.layers],
        optimizer=torch.optim.SGD(net.parameters(), lr=LR),
        examples=(images, labels),
        batches=in_turn(),
        batch_size=BATCH,
        steps=STEPS,
        subset=(images[:10], labels[:10]),
        test=(images, labels),
        preview=4,
        lost=(None, "dead", None),
        shortcuts=[Shortcut(net.block, net.block.linear)],
    )


def repeat(step):
    """A capture that takes the step itself."""
    return step


@pytest.mark.parametrize("capture", [None, repeat], ids=["cpu path", "gpu path"])
def test_any_net_is_trained_as_by_a_plain_loop_and_measured_as_by_autograd(capture):
    trainer = Trainer(task(), capture=capture)
    records: list[StepRecord] = list(trainer)
    net, images, labels = drawn()
    batches = in_turn()
    for record in records:
        batch = next(batches)
        h = torch.tanh(net.first(images[batch]))
        loss = F.cross_entropy(net(images[batch]), labels[batch])
        gradients = torch.autograd.grad(loss, list(net.parameters()))
        assert record.loss == pytest.approx(loss.item(), rel=1e-4)
        weights = [gradient for gradient in gradients if gradient.ndim == 2]
        expected = [gradient.double().square().mean().sqrt().item() for gradient in weights]
        np.testing.assert_allclose(record.layers[ROW["weight_grad_rms"]], expected, rtol=1e-3)
        assert record.layers[ROW["activation_rms"], 0] == pytest.approx(h.square().mean().sqrt().item(), rel=1e-3)
        moved = [LR * size / layer.weight.square().mean().sqrt().item() for size, layer in zip(expected, net.layers, strict=True)]
        np.testing.assert_allclose(record.layers[ROW["update_ratio"]], moved, rtol=1e-2)
        with torch.no_grad():
            for parameter, gradient in zip(net.parameters(), gradients, strict=True):
                parameter -= LR * gradient
    assert [record.step for record in records] == list(range(STEPS)) and trainer.outcome.status is Status.FINISHED
    right = (net(images).argmax(1) == labels).float().mean().item()
    assert trainer.outcome.test_accuracy == pytest.approx(right) and trainer.outcome.deletion is None


def test_what_comes_back_over_the_shortcut_and_through_the_branch_is_told_apart():
    sample = next(iter(Trainer(task()))).anatomy
    net, images, labels = drawn()
    x = torch.tanh(net.first(images[:BATCH]))
    out = net.block(x, lambda *_: None)
    over, total = torch.autograd.grad(F.cross_entropy(net.last(out), labels[:BATCH]), (out, x))
    rms = [gradient.square().mean().sqrt().item() for gradient in (over, total - over, total)]
    np.testing.assert_allclose(sample.paths[:, 0], rms, rtol=1e-4)
    dead = (torch.relu(net.block.linear(x)).amax(0) == 0).float().mean().item()
    assert sample.number("dead_share")[1] == pytest.approx(dead) and np.isnan(sample.number("dead_share")[[0, 2]]).all()


def test_what_is_done_to_the_gradients_is_handed_in_and_measured_before_and_after():
    def halve(parameters):
        for parameter in parameters:
            parameter.grad *= 0.5

    plain, treated = (next(iter(Trainer(replace(task(), treat=treat)))) for treat in (None, halve))
    same = plain.layers[ROW["weight_grad_rms"]]
    np.testing.assert_array_equal(treated.layers[ROW["weight_grad_rms"]], same)
    np.testing.assert_allclose(treated.layers[ROW["treated_grad_rms"]], same / 2, rtol=1e-5)
    np.testing.assert_allclose(treated.layers[ROW["update_ratio"]], plain.layers[ROW["update_ratio"]] / 2, rtol=1e-3)


def test_a_loss_that_is_not_finite_names_the_layer_as_the_layout_does():
    todo = task()
    with torch.no_grad():
        todo.weights[1].fill_(math.inf)
    trainer = Trainer(todo)
    (record,) = trainer
    assert record.nonfinite_layer == "body.0.mix" and trainer.outcome.status is Status.DIVERGED
    assert trainer.outcome.message.code == "loss-not-finite" and "body.0.mix" in str(trainer.outcome.message)


def test_a_preview_looks_at_as_many_examples_as_the_task_says():
    record = Trainer(task()).preview()
    net, images, labels = drawn()
    assert record.loss == pytest.approx(F.cross_entropy(net(images[:4]), labels[:4]).item(), rel=1e-5)


def test_every_quantity_of_the_table_is_measured():
    record = next(iter(Trainer(task())))
    assert {name for name, row in ROW.items() if not np.isfinite(record.layers[row]).all()} == set()
