"""LayerProbe: the numbers of every weight layer at one step, right over the whole range of float32.

The trap it avoids: a gradient entry of 1e-23 is a fine float32 number, its square is not. A float32 2-norm reads 0
for a layer that is alive and inf for one that is only large. On a CPU a length that came out so is taken again in
float64; on a GPU, where looking at a number stops the queue, every length is taken in float64.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import groupby

import numpy as np
import torch

from gradviz.lenet.config import RunConfig
from gradviz.lenet.net import DeepLeNet, Watch
from gradviz.record import sample as anatomy
from gradviz.record.quantities import QUANTITIES
from gradviz.record.sample import AnatomySample, Picture

_ROW = {name: row for row, name in enumerate(QUANTITIES)}
# A float32 length between these is exact enough: squares of entries of 1e-16 are still 6 decades above float32's
# smallest normal number, and the sum of a million squares of 1e16 is still 10^6 below its largest.
_SAFE = (1e-13, 1e16)
_AT_ONCE = 16  # activations measured by one call: few calls, and the last of them still lie in the cache


class Interrupted(Exception):
    """Raised inside a forward or backward pass when somebody asked to stop."""


class LayerProbe:
    """Measures one training step: `watch` goes into the forward pass, the rest is called in the order of the methods.

    `interrupt` is asked once per layer and pass, so that a step of a thousand blocks can be left in its middle.
    `numbers`, float32 (len(QUANTITIES), layers) on the model's device, is what was measured; `table` makes it readable.
    """

    def __init__(self, model: DeepLeNet, interrupt: Callable[[], bool], deferred: bool = False):
        """`deferred` looks at no number before `read`, and keeps each in one place, as a CUDA graph wants it: for GPUs."""
        self._weights = [layer.weight for layer in model.weight_layers]
        self._stacks = _stacked(self._weights)
        self._interrupt = interrupt
        self._deferred = deferred
        self.numbers = torch.full((len(QUANTITIES), len(self._weights)), math.nan, device=self._weights[0].device)
        self._here = None if deferred else self.numbers.numpy()  # the same memory
        self._seen: list[torch.Tensor] = []  # activations that are not measured yet, the last ones of `_watched`
        self._watched = 0

    def watch(self, index: int, z: torch.Tensor, h: torch.Tensor) -> None:
        """Measures the activation and, when the backward pass comes by, the signal ∂loss/∂z."""
        if self._interrupt():
            raise Interrupted
        if index == 0:
            self._seen = []  # of a pass that was left in its middle
        self._seen.append(h.detach())
        self._watched = index + 1
        if len(self._seen) == _AT_ONCE:
            self._look()

        def signal(gradients: tuple[torch.Tensor]) -> None:
            if self._interrupt():
                raise Interrupted
            self._note("signal_rms", index, self._rms(gradients[0]))

        z.grad_fn.register_prehook(signal)  # half the cost of a hook on z itself

    def _look(self) -> None:
        if self._seen:
            self._note("activation_rms", slice(self._watched - len(self._seen), self._watched), self._all_rms(self._seen))
            self._seen = []

    @torch.no_grad()
    def after_backward(self) -> None:
        self._look()
        for stack in self._stacks:
            gradients = stack.gather([weight.grad for weight in self._weights[stack.layers]], stack.spare)
            self._note("weight_grad_rms", stack.layers, self._row_rms(gradients))
            self._note("zero_share", stack.layers, self._zero_share(gradients))
            self._note("weight_rms", stack.layers, self._row_rms(stack.rows(stack.old)))
        self.numbers[_ROW["treated_grad_rms"]] = self.numbers[_ROW["weight_grad_rms"]]
        self.numbers[_ROW["update_ratio"]].fill_(math.nan)  # of the step before

    @torch.no_grad()
    def after_treatment(self) -> None:
        for stack in self._stacks:
            gradients = stack.gather([weight.grad for weight in self._weights[stack.layers]], stack.spare)
            self._note("treated_grad_rms", stack.layers, self._row_rms(gradients))

    @torch.no_grad()
    def after_step(self) -> None:
        """The change that really arrived in the float32 weights: an update too small to change a weight counts as 0."""
        for stack in self._stacks:
            new = stack.gather(self._weights[stack.layers], stack.spare)
            self._note("update_ratio", stack.layers, self._row_rms(stack.rows(stack.old).sub_(new)))
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
        """`numbers` of one step -> float32 (len(QUANTITIES), layers), rows as in runs.QUANTITIES; nan: not measured."""
        table = numbers.copy()
        with np.errstate(all="ignore"):
            table[_ROW["update_ratio"]] /= table[_ROW["weight_rms"]]
        return table

    @staticmethod
    def without_update(table: np.ndarray) -> np.ndarray:
        """The table of a step that ends with its backward pass."""
        table[_ROW["treated_grad_rms"]], table[_ROW["update_ratio"]] = table[_ROW["weight_grad_rms"]], math.nan
        return table

    def _note(self, name: str, layers: slice | int, values: float | list[float] | np.ndarray | torch.Tensor) -> None:
        (self.numbers if self._deferred else self._here)[_ROW[name], layers] = values

    def _rms(self, tensor: torch.Tensor) -> float | torch.Tensor:
        if self._deferred:
            return self._all_rms((tensor,))[0]
        return _safe_length(torch.linalg.vector_norm(tensor).item(), (tensor,), 0) / math.sqrt(tensor.numel())

    def _all_rms(self, tensors: Sequence[torch.Tensor]) -> list[float] | torch.Tensor:
        roots = [math.sqrt(tensor.numel()) for tensor in tensors]
        if not self._deferred:
            lengths = torch.stack(torch._foreach_norm(tensors)).tolist()
            return [_safe_length(length, tensors, k) / root for k, (length, root) in enumerate(zip(lengths, roots, strict=True))]
        if _wide(tensors[0]) is torch.float64:
            return torch.stack(torch._foreach_div(torch._foreach_norm(list(tensors), 2, dtype=torch.float64), roots))
        return torch.cat([_narrow_rms(tensor.reshape(1, -1)) for tensor in tensors])

    def _row_rms(self, rows: torch.Tensor) -> list[float] | torch.Tensor:
        """Of (layers, entries)."""
        root = math.sqrt(rows.shape[1])
        if not self._deferred:
            lengths = torch.linalg.vector_norm(rows, dim=1).tolist()
            return [_safe_length(length, rows, k) / root for k, length in enumerate(lengths)]
        if _wide(rows) is torch.float64:
            return torch.linalg.vector_norm(rows, dim=1, dtype=torch.float64) / root
        return _narrow_rms(rows)

    def _zero_share(self, rows: torch.Tensor) -> np.ndarray | torch.Tensor:
        """Of (layers, entries)."""
        if self._deferred:
            return (rows == 0).float().mean(1)
        # Row by row: numpy counts a row of booleans at the speed of memory, along an axis it adds them up as whole numbers.
        return 1 - np.array([np.count_nonzero(row) for row in rows.numpy() != 0]) / rows.shape[1]


@dataclass
class _Stack:
    """Neighbours of one shape and memory format, measured together: one call for all blocks in place of one for each layer."""

    layers: slice
    old: torch.Tensor  # the weights before the step, (layers · out, …) in their own memory format
    spare: torch.Tensor  # for gradients, and after the step for its undoing

    def gather(self, tensors: Sequence[torch.Tensor], into: torch.Tensor) -> torch.Tensor:
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


def _safe_length(length: float, tensors: Sequence[torch.Tensor], k: int) -> float:
    # The k-th is looked up only if needed: a row of a tensor costs more to name than to measure.
    if _SAFE[0] < length < _SAFE[1] or math.isnan(length):
        return length
    return torch.linalg.vector_norm(tensors[k], dtype=torch.float64).item()


def _narrow_rms(rows: torch.Tensor) -> torch.Tensor:
    """(layers,) of (layers, entries) without float64: over the largest entry, no square leaves float32."""
    largest = rows.abs().amax(1)
    rest = torch.linalg.vector_norm(rows / largest[:, None], dim=1) / math.sqrt(rows.shape[1])
    return torch.where((largest > 0) & largest.isfinite(), largest * rest, largest)  # 0/0 is all zero, inf/inf overflown


class AnatomyProbe:
    """Takes apart the sampled steps: `begin`, then `watching` and `on_the_paths` around forward and backward, then in order.

    Of each tensor it looks at ENTRIES entries, drawn once, and at the smallest and largest of all. It changes no number
    of the training. On a GPU all stays there until `read`.
    """

    def __init__(self, model: DeepLeNet, config: RunConfig):
        self._config = config
        self._weights = [layer.weight for layer in model.weight_layers]
        self._parameters = list(model.parameters())
        self._blocks = model.blocks
        layers = len(self._weights)
        self._entries = min(anatomy.ENTRIES, anatomy.ALL_ENTRIES // layers)
        self._pictured = anatomy.even_choice(layers, anatomy.PICTURED_LAYERS).tolist()
        # One choice for the whole run: the same entries at every step, and of the gradient before and after.
        self._random = np.random.default_rng(0)
        self._chosen: dict[int, torch.Tensor] = {}  # by size of the tensor

    def begin(self, step: int) -> None:
        self._step = step
        self._taken: dict[str, list] = {}  # kind -> (entries, smallest, largest) of each layer
        self._numbers = {name: [math.nan] * len(self._weights) for name in anatomy.LAYER_NUMBERS}
        self._overall = [math.nan] * len(anatomy.OVERALL)
        self._paths = [[math.nan] * len(self._blocks) * self._config.shortcut for _ in anatomy.PATHS]
        self._pictures: dict[int, tuple] = {}
        self._before: list[torch.Tensor] = []

    def watching(self, watch: Watch) -> Watch:
        """`watch`, and a look at the activations."""
        self._taken["activation"] = [None] * len(self._weights)

        def both(index: int, z: torch.Tensor, h: torch.Tensor) -> None:
            watch(index, z, h)
            self._look_at(index, h.detach())

        return both

    def _look_at(self, index: int, h: torch.Tensor) -> None:
        self._taken["activation"][index] = self._take(h)
        layers = len(self._weights)
        if index == layers - 1:
            return  # the logits have no activation
        inside = self._config.activation_everywhere or 2 <= index < layers - 3
        activation = self._config.activation if inside else "relu"
        if activation == "relu":
            units = h.permute(0, 2, 3, 1).reshape(-1, h.shape[1]) if h.ndim == 4 else h  # no copy if channels_last
            dead = units.amax(0) == 0
            self._numbers["dead_share"][index] = dead.float().mean()
        elif activation == "sigmoid":
            self._numbers["saturated_share"][index] = ((h < 0.02) | (h > 0.98)).float().mean()

    @contextmanager
    def on_the_paths(self) -> Iterator[None]:
        """Measures what comes back to each block's input, over the shortcut, through the convolutions, and together."""
        handles = []
        try:
            if self._config.shortcut:
                for number, block in enumerate(self._blocks):
                    handles.append(block.conv1.register_forward_pre_hook(partial(self._part_ways, number)))
                for block in self._blocks[-1:]:
                    handles.append(block.register_forward_hook(self._above))
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _part_ways(self, number: int, _module: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor]:
        x = inputs[0]
        road = x.view_as(x)  # the convolutions' own name for x, so that its gradient is theirs alone
        road.register_hook(partial(self._note, "branch", number))

        def total(gradient: torch.Tensor) -> None:
            self._note("total", number, gradient)
            if number:  # it is also what the block below gets over its shortcut
                self._note("identity", number - 1, gradient)

        x.register_hook(total)
        return (road,)

    def _above(self, _module: torch.nn.Module, _inputs: tuple, output: torch.Tensor) -> None:
        output.register_hook(partial(self._note, "identity", len(self._blocks) - 1))

    def _note(self, path: str, number: int, gradient: torch.Tensor) -> None:
        length = torch.linalg.vector_norm(gradient, dtype=_wide(gradient))
        self._paths[anatomy.PATHS.index(path)][number] = length / math.sqrt(gradient.numel())

    @torch.no_grad()
    def after_backward(self) -> None:
        self._taken["weight"] = [self._take(weight) for weight in self._weights]
        self._taken["weight_grad"] = [self._take(weight.grad) for weight in self._weights]
        if self._step in anatomy.pictured_steps(self._config.steps):
            for layer in self._pictured:
                weight = self._weights[layer]
                self._pictures[layer] = (_picture(weight), _picture(weight.grad))
        if self._config.treatment != "none":
            self._before = [parameter.grad.clone() for parameter in self._parameters]

    @torch.no_grad()
    def after_treatment(self) -> None:
        self._taken["treated_grad"] = [self._take(weight.grad) for weight in self._weights]
        rows = [_compared(old, parameter.grad) for old, parameter in zip(self._before, self._parameters, strict=True)]
        self._before = []
        table = torch.stack(rows).cpu().double()  # (parameters, 4)
        sizes = torch.tensor([parameter.numel() for parameter in self._parameters])
        places = {id(parameter): place for place, parameter in enumerate(self._parameters)}
        of_layers = [places[id(weight)] for weight in self._weights]
        altered, cosine = _altered_and_cosine(table[of_layers], sizes[of_layers])
        self._numbers["altered_share"], self._numbers["cosine"] = altered.tolist(), cosine.tolist()
        altered, cosine = _altered_and_cosine(table.sum(0, keepdim=True), sizes.sum())
        lengths = table[:, 2:].sum(0).sqrt()
        self._overall = [altered.item(), cosine.item(), *lengths.tolist()]

    @torch.no_grad()
    def after_step(self, undone: Sequence[torch.Tensor]) -> None:
        """`undone`: old − new weights."""
        self._taken["update"] = [self._take(change.neg()) for change in undone]

    @torch.no_grad()
    def read(self) -> AnatomySample:
        kinds = tuple(kind for kind in anatomy.KINDS if kind in self._taken)
        tables = [self._distributions(self._taken[kind]) for kind in kinds]
        pictures = {
            layer: Picture(weight.cpu().numpy(), float(weight_scale), gradient.cpu().numpy(), float(gradient_scale))
            for layer, ((weight, weight_scale), (gradient, gradient_scale)) in self._pictures.items()
        }
        sample = AnatomySample(
            self._step,
            kinds,
            np.stack([quantiles for quantiles, _counts in tables]),
            np.stack([counts for _quantiles, counts in tables]),
            np.array([_numbers(row) for row in self._numbers.values()], np.float32),
            np.array(self._overall),
            np.array([_numbers(row) for row in self._paths]),
            pictures,
        )
        self._taken, self._pictures = {}, {}
        return sample

    def _take(self, tensor: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        # In the order of the memory, whichever it is: reshape would copy a channels_last tensor.
        size = tensor.numel()
        flat = tensor.detach().as_strided((size,), (1,), tensor.storage_offset())
        if size <= self._entries:
            return flat.clone(), *flat.aminmax()
        if size not in self._chosen:
            places = np.sort(self._random.choice(size, self._entries, replace=False))
            self._chosen[size] = torch.from_numpy(places).to(flat.device)
        return flat[self._chosen[size]], *flat.aminmax()

    @staticmethod
    def _distributions(taken: list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]) -> tuple[np.ndarray, np.ndarray]:
        """quantiles (layers, len(PERCENTS)), counts (layers, BINS)"""
        quantiles = np.empty((len(taken), len(anatomy.PERCENTS)), np.float32)
        counts = np.empty((len(taken), anatomy.BINS), np.uint16)
        sizes = np.array([entries.numel() for entries, _low, _high in taken])
        for size in np.unique(sizes):
            places = np.flatnonzero(sizes == size)
            stacked = torch.stack([taken[place][0] for place in places]).cpu().numpy()
            quantiles[places], counts[places] = anatomy.distribution(stacked)
        for column, part in ((0, 1), (-1, 2)):
            quantiles[:, column] = torch.stack([row[part] for row in taken]).cpu().numpy()
        quantiles[np.isnan(quantiles[:, 0])] = np.nan  # a nan among the entries that were not chosen
        return quantiles, counts


def _picture(tensor: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    filters = tensor[: anatomy.FILTERS]
    scale = filters.abs().amax()
    return torch.where(scale > 0, filters / scale * 127, 0).nan_to_num(0, 127, -127).round().to(torch.int8), scale


def _compared(old: torch.Tensor, new: torch.Tensor) -> torch.Tensor:
    """(4,): entries that differ, old·new, old·old, new·new; float64, where the squares of 1e-30 are not 0."""
    wide = _wide(old)
    a, b = old.flatten().to(wide), new.flatten().to(wide)
    return torch.stack(((old != new).sum().to(wide), a.dot(b), a.dot(a), b.dot(b)))


def _altered_and_cosine(table: torch.Tensor, sizes: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    differ, dot, old, new = table.T
    return differ / sizes, dot / old.sqrt() / new.sqrt()


def _wide(tensor: torch.Tensor) -> torch.dtype:
    return torch.float32 if tensor.device.type == "mps" else torch.float64  # an Apple GPU has no float64


def _numbers(row: list) -> np.ndarray:
    """Floats, and one-number tensors that may lie on the device, which come over together."""
    tensors = [value for value in row if torch.is_tensor(value)]
    if not tensors:
        return np.array(row, float)
    brought = iter(torch.stack(tensors).cpu().tolist())
    return np.array([next(brought) if torch.is_tensor(value) else value for value in row], float)
