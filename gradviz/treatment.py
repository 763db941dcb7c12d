"""What may be done to the gradients between the backward pass and the step. All work in place, on every parameter."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn


def treat(treatment: str, threshold: float, parameters: Sequence[nn.Parameter]) -> None:
    """Applies one of config.TREATMENTS. An overflowing norm clips to zero and nan stays nan, as in PyTorch.

    clip-norm, clip-value: Pascanu, Mikolov, Bengio 2013 (arXiv 1211.5063); article, experiment 5. floor: experiment 6.
    """
    if treatment == "clip-norm":
        nn.utils.clip_grad_norm_(parameters, threshold)
    elif treatment == "clip-value":
        nn.utils.clip_grad_value_(parameters, threshold)
    elif treatment == "floor":
        for parameter in parameters:
            _floor(parameter.grad, threshold)


def _floor(gradient: torch.Tensor, threshold: float) -> None:
    """Every entry with |g| < threshold becomes ±threshold by its sign; zero counts as positive."""
    raised = torch.where(gradient < 0, -threshold, threshold)
    gradient.copy_(torch.where(gradient.abs() < threshold, raised, gradient))
