"""Gradient treatments on gradients small enough to work out by hand."""

import math

import pytest
import torch
from torch import nn

from gradviz.lenet.config import TREATMENTS
from gradviz.record.layout import Layout
from gradviz.train.treatment import steer, treat


def parameters(*gradients) -> list[nn.Parameter]:
    made = []
    for gradient in gradients:
        parameter = nn.Parameter(torch.zeros(len(gradient)))
        parameter.grad = torch.tensor(gradient)
        made.append(parameter)
    return made


def test_clip_by_norm_scales_the_whole_gradient_to_the_threshold():
    a, b = parameters([3.0, 0.0], [0.0, 4.0])  # length 5
    treat("clip-norm", 1.0, [a, b])
    torch.testing.assert_close(torch.cat([a.grad, b.grad]), torch.tensor([0.6, 0, 0, 0.8]), rtol=1e-5, atol=0)


def test_clip_by_norm_leaves_a_short_gradient_alone():
    (a,) = parameters([3e-20, 4e-20])
    treat("clip-norm", 1.0, [a])
    assert a.grad.tolist() == pytest.approx([3e-20, 4e-20])


def test_clip_by_value_cuts_single_entries():
    (a,) = parameters([-7.0, 0.05, 0.2])
    treat("clip-value", 0.1, [a])
    assert a.grad.tolist() == pytest.approx([-0.1, 0.05, 0.1])


def test_the_floor_raises_small_entries_by_their_sign_and_counts_zero_as_positive():
    (a,) = parameters([1e-20, -1e-20, 0.0, -0.0, 0.5, -0.5, 1e-10, math.nan, math.inf])
    treat("floor", 1e-10, [a])
    expected = [1e-10, -1e-10, 1e-10, 1e-10, 0.5, -0.5, 1e-10, math.nan, math.inf]
    assert a.grad.tolist() == pytest.approx(expected, nan_ok=True)


def test_without_treatment_nothing_changes():
    (a,) = parameters([1e30, 1e-30])
    treat("none", 1.0, [a])
    assert a.grad.tolist() == pytest.approx([1e30, 1e-30])


@pytest.mark.parametrize("word", TREATMENTS)
def test_every_treatment_that_is_offered_changes_a_gradient(word):
    def gradient(word: str) -> torch.Tensor:
        generator = torch.Generator().manual_seed(0)
        layers = [nn.Linear(4, 4) for _ in range(3)]
        for parameter in (parameters := [parameter for layer in layers for parameter in layer.parameters()]):
            nn.init.uniform_(parameter, -0.5, 0.5, generator=generator)
        steer(word, 1e-3, layers, Layout(("a", "b", "c"), range(2)))
        for _step in range(2):  # a control with memory acts on what it saw the step before
            for parameter in parameters:
                parameter.grad = None
            nn.Sequential(*layers)(torch.full((2, 4), 1e-3)).square().sum().backward()
            treat(word, 1e-3, parameters)
        return torch.cat([parameter.grad.flatten() for parameter in parameters])

    assert torch.equal(gradient(word), gradient("none")) is (word == "none")
