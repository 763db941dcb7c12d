"""What may be done to the gradients: between the backward pass and the step (`treat`), or on the way back (`steer`)."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle

from gradviz.record.layout import Layout
from gradviz.train.layer_probe import gradients

Scaled = Callable[[torch.Tensor], torch.Tensor]  # a signal -> the one that goes on
Treat = Callable[[Sequence[nn.Parameter]], None]  # changes the gradients of the parameters in place

FEEDBACK_GAIN = 0.2  # of the error in log signal, corrected per step: what is left of it after 20 steps is 1 %


def treat(treatment: str, threshold: float, parameters: Sequence[nn.Parameter]) -> None:
    """Applies the treatment of that name in place, on every parameter; those of `steer` have been applied already.

    An overflowing norm clips to zero and nan stays nan, as in PyTorch.

    clip-norm, clip-value: Pascanu, Mikolov, Bengio 2013 (arXiv 1211.5063); article, experiment 5. floor: experiment 6.
    """
    if treatment == "clip-norm":
        nn.utils.clip_grad_norm_(parameters, threshold)
    elif treatment == "clip-value":
        nn.utils.clip_grad_value_(parameters, threshold)
    elif treatment == "floor":
        for gradient in gradients(parameters):
            _floor(gradient, threshold)


def _floor(gradient: torch.Tensor, threshold: float) -> None:
    """Every entry with |g| < threshold becomes ±threshold by its sign; zero counts as positive."""
    raised = torch.full_like(gradient, threshold).masked_fill_(gradient < 0, -threshold)
    gradient.copy_(torch.where(gradient.abs() < threshold, raised, gradient))


def steer(
    treatment: str, target: float, layers: Sequence[nn.Module], layout: Layout, afresh: bool = True
) -> Callable[[], None]:
    """For "normalise" and "feedback": scales the backward signal ∂loss/∂z of every layer below the head, at its place.

    The head is what comes after `layout.inside`; it keeps the loss's own signal. A layer's weight gradient and everything
    below it come from the scaled signal. Call it with the layers of the layout's rows; for any other treatment it does
    nothing. What it returns undoes it. Not `afresh`: the gains of an earlier feedback are kept. See docs/remedies.md.
    """
    handles: list[RemovableHandle] = []
    if treatment not in ("normalise", "feedback"):
        return lambda: None
    controller = _Feedback(target)
    for index, layer in enumerate(layers[: layout.inside.stop]):
        if treatment == "feedback":  # a buffer: it belongs to the net's state, and goes where the net goes
            if afresh:
                device = next(layer.parameters()).device
                layer.register_buffer("feedback_gain", torch.zeros((), device=device), persistent=False)
            scaled: Scaled = partial(controller.scaled, index, layer)
        else:
            scaled = partial(_normalised, target)
        handles.append(layer.register_forward_hook(partial(_on_the_way_back, scaled)))

    def undo() -> None:
        for handle in handles:
            handle.remove()

    return undo


def _on_the_way_back(scaled: Scaled, _layer: nn.Module, _inputs: tuple[torch.Tensor], z: torch.Tensor) -> None:
    if z.requires_grad:
        z.register_hook(scaled)


def _shape_and_rms(signal: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The signal over its largest entry, the rms of that, and the largest entry (1 for an all-zero signal).

    The square of 1e-30 is 0 in float32, the square of 1e-30/1e-30 is not.
    """
    largest = signal.abs().amax()
    largest = largest.masked_fill(largest == 0, 1.0)  # a number in `torch.where` would go to a GPU as a copy that is waited for
    shape = signal / largest
    return shape, shape.square().mean().sqrt(), largest


def _normalised(target: float, signal: torch.Tensor) -> torch.Tensor:
    """The signal with the rms `target`. An exact zero has no direction to restore: it stays 0."""
    shape, rms, _largest = _shape_and_rms(signal)
    return shape * (target / rms).masked_fill(rms == 0, 1.0)


class _Feedback:
    """One integral controller per layer, in the logarithm of its signal: gain += FEEDBACK_GAIN · error, every step.

    Each layer corrects only the part of its error that the layer above does not: if all of them corrected the whole
    of it, errors would add up along the chain (a string of n such controllers overshoots by a power of n).
    """

    def __init__(self, target: float):
        self._log_target = math.log(target)
        self._error_above = torch.zeros(())
        self._last = -1

    def scaled(self, index: int, layer: nn.Module, signal: torch.Tensor) -> torch.Tensor:
        """`layer.feedback_gain` is the natural logarithm of what its signal is multiplied by."""
        if index >= self._last:  # the first layer of a new backward pass
            self._error_above = signal.new_zeros(())
        self._last = index
        gain = layer.get_buffer("feedback_gain")
        scaled = signal * gain.exp()
        _shape, rms, largest = _shape_and_rms(scaled)
        # An exact zero says nothing about how far off it is: the gain waits, and so does the layer below.
        known = rms != 0
        error = torch.where(known, self._log_target - rms.log() - largest.log(), self._error_above)
        gain += FEEDBACK_GAIN * (error - self._error_above)  # in place, so that a captured CUDA graph turns it too
        self._error_above = error
        return scaled
