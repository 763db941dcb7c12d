"""LayerProbe: the numbers of every weight layer at one step, right over the whole range of float32.

The trap it avoids: a gradient entry of 1e-23 is a fine float32 number, its square is not. A float32 2-norm reads 0
for a layer that is alive and inf for one that is only large. On a CPU a length that came out so is taken again in
float64; on a GPU, where looking at a number stops the queue, every length is taken in float64.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any, cast

import numpy as np
import torch
from torch.autograd.graph import Node

from gradviz.record.quantities import QUANTITIES
from gradviz.train.lengths import nonzero, safe_length
from gradviz.train.training import stop_if_asked

_ROW = {name: row for row, name in enumerate(QUANTITIES)}
_AT_ONCE = 4  # activations measured by one call, on a processor while they lie in its cache
_AT_ONCE_ON_GPU = 16  # where calls are what costs


class LayerProbe:
    """Measures one training step: `watch` goes into the forward pass, the rest is called in the order of the methods.

    `interrupt` is asked once per layer and pass, so that a step of a thousand blocks can be left in its middle.
    `numbers`, float32 (len(QUANTITIES), layers) on the model's device, is what was measured; `table` makes it readable.
    """

    def __init__(
        self,
        weights: Sequence[torch.Tensor],
        interrupt: Callable[[], bool],
        deferred: bool = False,
        float64: bool | None = None,
    ):
        """`deferred` looks at no number before `read`, and keeps each in one place, as a CUDA graph wants it: for GPUs.

        `float64`: whether the device has it; by default all but Apple's GPUs do.
        """
        self._weights = list(weights)
        self._stacks = _stacked(self._weights)
        # Layers without a neighbour of their shape: on a processor a few calls for all of them, which need no copy of gradients.
        self._single = [] if deferred else [stack for stack in self._stacks if stack.layers.stop - stack.layers.start == 1]
        self._several = [stack for stack in self._stacks if stack not in self._single]
        self._places = [stack.layers.start for stack in self._single]
        self._single_weights = [self._weights[place] for place in self._places]
        self._interrupt = interrupt
        self._deferred = deferred
        self.numbers = torch.full((len(QUANTITIES), len(self._weights)), math.nan, device=self._weights[0].device)
        self._table: torch.Tensor | np.ndarray = self.numbers if deferred else self.numbers.numpy()  # the same memory
        self._float64 = wide(self.numbers) is torch.float64 if float64 is None else float64
        self._seen: list[torch.Tensor] = []  # activations that are not measured yet, the last ones of `_watched`
        self._watched = 0

    def watch(self, index: int, z: torch.Tensor | Node | None, h: torch.Tensor) -> None:
        """Measures the activation and, when the backward pass comes by, the signal ∂loss/∂z."""
        stop_if_asked(self._interrupt)
        if index == 0:
            self._seen = []  # of a pass that was left in its middle
        self._seen.append(h.detach())
        self._watched = index + 1
        if len(self._seen) == (_AT_ONCE_ON_GPU if self._deferred else _AT_ONCE):
            self._look()

        def signal(arriving: tuple[torch.Tensor]) -> None:
            stop_if_asked(self._interrupt)
            self._note("signal_rms", index, self._rms(arriving[0]))

        if (node := z.grad_fn if isinstance(z, torch.Tensor) else z) is not None:
            node.register_prehook(signal)  # half the cost of a hook on z itself

    def _look(self) -> None:
        if self._seen:
            self._note("activation_rms", slice(self._watched - len(self._seen), self._watched), self._all_rms(self._seen))
            self._seen = []

    @torch.no_grad()
    def after_backward(self) -> None:
        self._look()
        for stack in self._several:
            rows = stack.gather(gradients(self._weights[stack.layers]), stack.spare)
            self._note("weight_grad_rms", stack.layers, self._row_rms(rows))
            self._note("zero_share", stack.layers, self._zero_share(rows))
            self._note("weight_rms", stack.layers, self._row_rms(stack.rows(stack.old)))
        if self._single:
            found = gradients(self._single_weights)
            self._note("weight_grad_rms", self._places, self._all_rms(found))
            self._note("zero_share", self._places, [1 - nonzero(gradient) / gradient.numel() for gradient in found])
            self._note("weight_rms", self._places, self._all_rms([stack.old for stack in self._single]))
        self.numbers[_ROW["treated_grad_rms"]] = self.numbers[_ROW["weight_grad_rms"]]
        self.numbers[_ROW["update_ratio"]].fill_(math.nan)  # of the step before

    @torch.no_grad()
    def after_treatment(self) -> None:
        for stack in self._several:
            rows = stack.gather(gradients(self._weights[stack.layers]), stack.spare)
            self._note("treated_grad_rms", stack.layers, self._row_rms(rows))
        if self._single:
            self._note("treated_grad_rms", self._places, self._all_rms(gradients(self._single_weights)))

    @torch.no_grad()
    def after_step(self) -> None:
        """The change that really arrived in the float32 weights: an update too small to change a weight counts as 0."""
        for stack in self._several:
            new = stack.gather(self._weights[stack.layers], stack.spare)
            self._note("update_ratio", stack.layers, self._row_rms(stack.rows(stack.old).sub_(new)))
        if self._single:
            before, after = [stack.old for stack in self._single], [stack.spare for stack in self._single]
            torch._foreach_copy_(after, self._single_weights)
            torch._foreach_sub_(before, after)
            self._note("update_ratio", self._places, self._all_rms(before))
        for stack in self._stacks:
            stack.swap(in_place=self._deferred)  # what is new now is what the next step starts from

    @property
    def undone(self) -> list[torch.Tensor]:
        """After `after_step`: old − new weights of each layer, in the order of their memory. Overwritten by the next step."""
        return [row for stack in self._stacks for row in stack.rows(stack.spare)]

    @property
    def state(self) -> list[torch.Tensor]:
        """What one step leaves for the next."""
        return [stack.old for stack in self._stacks]

    def read(self) -> np.ndarray:
        """`table` of what was measured so far; a GPU has to finish it first."""
        self._look()
        return self.table(self.numbers.cpu().numpy())

    @staticmethod
    def table(numbers: np.ndarray) -> np.ndarray:
        """`numbers` of one step -> float32 (len(QUANTITIES), layers), rows as in record.quantities; nan: not measured."""
        table = numbers.copy()
        with np.errstate(all="ignore"):
            table[_ROW["update_ratio"]] /= table[_ROW["weight_rms"]]
        return table

    @staticmethod
    def without_update(table: np.ndarray) -> np.ndarray:
        """The table of a step that ends with its backward pass."""
        table[_ROW["treated_grad_rms"]], table[_ROW["update_ratio"]] = table[_ROW["weight_grad_rms"]], math.nan
        return table

    def _note(self, name: str, layers: slice | int | list[int], values: Any) -> None:
        self._table[_ROW[name], layers] = values

    def _rms(self, tensor: torch.Tensor) -> float | torch.Tensor:
        if self._deferred:
            return self._all_rms((tensor,))[0]
        return safe_length(torch.linalg.vector_norm(tensor).item(), (tensor,), 0) / math.sqrt(tensor.numel())

    def _all_rms(self, tensors: Sequence[torch.Tensor]) -> list[float] | torch.Tensor:
        roots = [math.sqrt(tensor.numel()) for tensor in tensors]
        if not self._deferred:
            lengths = [length.item() for length in torch._foreach_norm(list(tensors))]
            return [safe_length(length, tensors, k) / root for k, (length, root) in enumerate(zip(lengths, roots, strict=True))]
        if self._float64:
            return torch.stack(torch._foreach_div(torch._foreach_norm(list(tensors), 2, dtype=torch.float64), roots))
        return torch.cat([_narrow_rms(tensor.reshape(1, -1)) for tensor in tensors])

    def _row_rms(self, rows: torch.Tensor) -> list[float] | torch.Tensor:
        """Of (layers, entries)."""
        root = math.sqrt(rows.shape[1])
        if not self._deferred:
            lengths = torch.linalg.vector_norm(rows, dim=1).tolist()
            return [safe_length(length, rows, k) / root for k, length in enumerate(lengths)]
        if self._float64:
            wide_lengths: torch.Tensor = torch.linalg.vector_norm(rows, dim=1, dtype=torch.float64)
            return wide_lengths / root
        return _narrow_rms(rows)

    def _zero_share(self, rows: torch.Tensor) -> np.ndarray | torch.Tensor:
        """Of (layers, entries)."""
        if self._deferred:
            return (rows == 0).float().mean(1)
        there = rows.numpy() != 0
        if np.count_nonzero(there) == there.size:
            return np.zeros(len(there))
        # Row by row: numpy counts a row of booleans at the speed of memory, along an axis it adds them up as whole numbers.
        return 1 - np.array([np.count_nonzero(row) for row in there]) / rows.shape[1]


@dataclass(eq=False)
class _Stack:
    """Neighbours of one shape and memory format, measured together: one call for all blocks in place of one for each layer."""

    layers: slice
    old: torch.Tensor  # the weights before the step, (layers · out, …) in their own memory format
    spare: torch.Tensor  # for gradients, and after the step for its undoing

    def gather(self, tensors: list[torch.Tensor], into: torch.Tensor) -> torch.Tensor:
        """The tensors copied into `into`; returns its rows."""
        torch.cat(tensors, out=into)
        return self.rows(into)

    def rows(self, buffer: torch.Tensor) -> torch.Tensor:
        """(layers, entries) of a buffer, in the order of its memory."""
        count = self.layers.stop - self.layers.start
        return buffer.as_strided((count, buffer.numel() // count), (buffer.numel() // count, 1))

    def swap(self, in_place: bool) -> None:
        """`in_place` the contents change places, not the buffers."""
        if in_place:
            undone = self.old.clone()
            self.old.copy_(self.spare)
            self.spare.copy_(undone)
        else:
            self.old, self.spare = self.spare, self.old


def _stacked(weights: Sequence[torch.Tensor]) -> list[_Stack]:
    stacks: list[_Stack] = []
    for _like, group in groupby(weights, lambda weight: (weight.shape, weight.stride())):
        tensors = [weight.detach() for weight in group]
        first = stacks[-1].layers.stop if stacks else 0
        stacks.append(_Stack(slice(first, first + len(tensors)), torch.cat(tensors), torch.cat(tensors)))
    return stacks


def _narrow_rms(rows: torch.Tensor) -> torch.Tensor:
    """(layers,) of (layers, entries) without float64: over the largest entry, no square leaves float32."""
    largest = rows.abs().amax(1)
    rest = torch.linalg.vector_norm(rows / largest[:, None], dim=1) / math.sqrt(rows.shape[1])
    return torch.where((largest > 0) & largest.isfinite(), largest * rest, largest)  # 0/0 is all zero, inf/inf overflown


def gradients(parameters: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """After a backward pass, from which each has one."""
    return cast("list[torch.Tensor]", [parameter.grad for parameter in parameters])


def wide(tensor: torch.Tensor) -> torch.dtype:
    return torch.float32 if tensor.device.type == "mps" else torch.float64  # an Apple GPU has no float64
