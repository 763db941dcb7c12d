"""LayerProbe: the numbers of every weight layer at one step, right over the whole range of float32.

The trap it avoids: a gradient entry of 1e-23 is a fine float32 number, its square is not. A float32 2-norm reads 0
for a layer that is alive and inf for one that is only large. On a CPU a length that came out so is taken again in
float64; on a GPU, where looking at a number stops the queue, every tensor is divided by its largest entry first.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import torch

from gradviz.model import DeepLeNet
from gradviz.runs import QUANTITIES

_ROW = {name: row for row, name in enumerate(QUANTITIES)}
# A float32 length between these is exact enough: squares of entries of 1e-16 are still 6 decades above float32's
# smallest normal number, and the sum of a million squares of 1e16 is still 10^6 below its largest.
_SAFE = (1e-13, 1e16)


class Interrupted(Exception):
    """Raised inside a forward or backward pass when somebody asked to stop."""


class LayerProbe:
    """Measures one training step: `watch` goes into the forward pass, the rest is called in the order of the methods.

    `interrupt` is asked once per layer and pass, so that a step of a thousand blocks can be left in its middle.
    """

    def __init__(self, model: DeepLeNet, interrupt: Callable[[], bool], deferred: bool = False):
        """`deferred` keeps all numbers on the device until `read`: for GPUs."""
        layers = model.weight_layers
        self._weights = [layer.weight for layer in layers]
        self._old = [torch.empty_like(weight) for weight in self._weights]
        self._interrupt = interrupt
        self._deferred = deferred
        self._lengths: dict[str, list] = {name: [math.nan] * len(layers) for name in QUANTITIES}
        self._sizes: dict[str, list[int]] = {
            name: [weight.numel() for weight in self._weights] for name in QUANTITIES
        }

    def watch(self, index: int, z: torch.Tensor, h: torch.Tensor) -> None:
        """Measures the activation now and, when the backward pass comes by, the signal ∂loss/∂z."""
        if self._interrupt():
            raise Interrupted
        self._sizes["activation_rms"][index] = h.numel()
        self._sizes["signal_rms"][index] = z.numel()
        self._lengths["activation_rms"][index] = self._length(h.detach())

        def signal(gradient: torch.Tensor) -> None:
            if self._interrupt():
                raise Interrupted
            self._lengths["signal_rms"][index] = self._length(gradient)

        z.register_hook(signal)

    @torch.no_grad()
    def after_backward(self) -> None:
        gradients = [weight.grad for weight in self._weights]
        self._lengths["weight_grad_rms"] = self._all_lengths(gradients)
        self._lengths["weight_rms"] = self._all_lengths(self._weights)
        self._lengths["treated_grad_rms"] = self._lengths["weight_grad_rms"]
        nonzero = [gradient.count_nonzero() for gradient in gradients]
        self._lengths["zero_share"] = nonzero if self._deferred else [int(count) for count in nonzero]
        torch._foreach_copy_(self._old, self._weights)

    @torch.no_grad()
    def after_treatment(self) -> None:
        self._lengths["treated_grad_rms"] = self._all_lengths([weight.grad for weight in self._weights])

    @torch.no_grad()
    def after_step(self) -> None:
        """The change that really arrived in the float32 weights: an update too small to change a weight counts as 0."""
        torch._foreach_sub_(self._old, self._weights)
        self._lengths["update_ratio"] = self._all_lengths(self._old)

    def read(self) -> np.ndarray:
        """float32 (len(QUANTITIES), layers), rows as in runs.QUANTITIES; nan where nothing was measured."""
        if self._deferred:
            self._bring_over()
        table = np.array([self._lengths[name] for name in QUANTITIES])
        sizes = np.array([self._sizes[name] for name in QUANTITIES])
        with np.errstate(all="ignore"):
            table[_ROW["update_ratio"]] /= table[_ROW["weight_rms"]]
            for name, row in _ROW.items():
                if name.endswith("_rms"):
                    table[row] /= np.sqrt(sizes[row])
            table[_ROW["zero_share"]] = 1 - table[_ROW["zero_share"]] / sizes[_ROW["zero_share"]]
            return table.astype(np.float32)

    def _length(self, tensor: torch.Tensor):
        """2-norm as a Python float; deferred: a tensor (largest magnitude, 2-norm of the entries over it)."""
        if self._deferred:
            largest = tensor.abs().amax()
            return torch.stack((largest, torch.linalg.vector_norm(tensor / largest)))
        return _safe_length(torch.linalg.vector_norm(tensor).item(), tensor)

    def _all_lengths(self, tensors: Sequence[torch.Tensor]) -> list:
        if self._deferred:
            return [self._length(tensor) for tensor in tensors]
        quick = torch.stack(torch._foreach_norm(tensors)).tolist()
        return [_safe_length(length, tensor) for length, tensor in zip(quick, tensors, strict=True)]

    def _bring_over(self) -> None:
        """One transfer for everything that is still on the device."""
        places = [(name, k) for name in QUANTITIES for k, value in enumerate(self._lengths[name]) if torch.is_tensor(value)]
        pairs = torch.stack([
            value if (value := self._lengths[name][k]).ndim else torch.stack((value.float(), torch.ones_like(value).float()))
            for name, k in places
        ])
        for (name, k), (largest, rest) in zip(places, pairs.cpu().tolist(), strict=True):
            # 0/0 is the all-zero layer, inf/inf the overflown one: the largest entry says which.
            self._lengths[name] = list(self._lengths[name])
            self._lengths[name][k] = largest if largest == 0 or not math.isfinite(largest) else largest * rest


def _safe_length(length: float, tensor: torch.Tensor) -> float:
    if _SAFE[0] < length < _SAFE[1] or math.isnan(length):
        return length
    return torch.linalg.vector_norm(tensor, dtype=torch.float64).item()


def first_nonfinite(table: np.ndarray, names: Sequence[str]) -> str | None:
    """The layer where inf or nan first appears in time: forward pass, then backward pass, then weights' gradients."""
    for quantity, order in (("activation_rms", 1), ("signal_rms", -1), ("weight_grad_rms", -1)):
        bad = np.flatnonzero(~np.isfinite(table[_ROW[quantity]]))[::order]
        if len(bad):
            return names[bad[0]]
    return None
