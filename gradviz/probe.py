"""LayerProbe: the numbers of every weight layer at one step, right over the whole range of float32.

The trap it avoids: a gradient entry of 1e-23 is a fine float32 number, its square is not. A float32 2-norm reads 0
for a layer that is alive and inf for one that is only large. On a CPU a length that came out so is taken again in
float64; on a GPU, where looking at a number stops the queue, every tensor is divided by its largest entry first.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch

from gradviz import anatomy
from gradviz.anatomy import AnatomySample, Picture
from gradviz.config import RunConfig
from gradviz.model import DeepLeNet, Watch
from gradviz.runs import QUANTITIES

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
    """

    def __init__(self, model: DeepLeNet, interrupt: Callable[[], bool], deferred: bool = False):
        """`deferred` keeps all numbers on the device until `read`: for GPUs."""
        self._weights = [layer.weight for layer in model.weight_layers]
        self._stacks = _stacked(self._weights)
        self._interrupt = interrupt
        self._deferred = deferred
        self._lengths: dict[str, list] = {name: [math.nan] * len(self._weights) for name in QUANTITIES}
        self._sizes: dict[str, list[int]] = {
            name: [weight.numel() for weight in self._weights] for name in QUANTITIES
        }
        self._seen: list[tuple[int, torch.Tensor]] = []  # activations that are not measured yet

    def watch(self, index: int, z: torch.Tensor, h: torch.Tensor) -> None:
        """Measures the activation and, when the backward pass comes by, the signal ∂loss/∂z."""
        if self._interrupt():
            raise Interrupted
        self._sizes["activation_rms"][index] = h.numel()
        self._sizes["signal_rms"][index] = z.numel()
        self._seen.append((index, h.detach()))
        if len(self._seen) == _AT_ONCE:
            self._look()

        def signal(gradients: tuple[torch.Tensor]) -> None:
            if self._interrupt():
                raise Interrupted
            self._lengths["signal_rms"][index] = self._length(gradients[0])

        z.grad_fn.register_prehook(signal)  # half the cost of a hook on z itself

    def _look(self) -> None:
        if self._seen:
            indices, activations = zip(*self._seen, strict=True)
            self._seen = []
            for index, length in zip(indices, self._all_lengths(activations), strict=True):
                self._lengths["activation_rms"][index] = length

    @torch.no_grad()
    def after_backward(self) -> None:
        self._look()
        for stack in self._stacks:
            gradients = stack.gather([self._weights[index].grad for index in stack.indices], stack.spare)
            self._note("weight_grad_rms", stack, self._row_lengths(gradients))
            self._note("zero_share", stack, gradients.count_nonzero(1) if self._deferred else _count_nonzero(gradients))
            self._note("weight_rms", stack, self._row_lengths(stack.rows(stack.old)))
        self._lengths["treated_grad_rms"] = list(self._lengths["weight_grad_rms"])

    @torch.no_grad()
    def after_treatment(self) -> None:
        for stack in self._stacks:
            gradients = stack.gather([self._weights[index].grad for index in stack.indices], stack.spare)
            self._note("treated_grad_rms", stack, self._row_lengths(gradients))

    @torch.no_grad()
    def after_step(self) -> None:
        """The change that really arrived in the float32 weights: an update too small to change a weight counts as 0."""
        for stack in self._stacks:
            new = stack.gather(stack.tensors, stack.spare)
            self._note("update_ratio", stack, self._row_lengths(stack.rows(stack.old).sub_(new)))
            stack.old, stack.spare = stack.spare, stack.old  # what is new now is what the next step starts from

    @property
    def undone(self) -> list[torch.Tensor]:
        """After `after_step`: old − new weights of each layer, in the order of their memory. Overwritten by the next step."""
        rows = {index: row for stack in self._stacks for index, row in zip(stack.indices, stack.rows(stack.spare), strict=True)}
        return [rows[index] for index in range(len(rows))]

    def read(self) -> np.ndarray:
        """float32 (len(QUANTITIES), layers), rows as in runs.QUANTITIES; nan where nothing was measured."""
        self._look()
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

    def _note(self, name: str, stack: _Stack, values: Iterable) -> None:
        row = self._lengths[name]
        for index, value in zip(stack.indices, values, strict=True):
            row[index] = value

    def _length(self, tensor: torch.Tensor):
        """2-norm as a Python float; deferred: a tensor (largest magnitude, 2-norm of the entries over it)."""
        if self._deferred:
            largest = tensor.abs().amax()
            return torch.stack((largest, torch.linalg.vector_norm(tensor / largest)))
        return _safe_length(torch.linalg.vector_norm(tensor).item(), (tensor,), 0)

    def _all_lengths(self, tensors: Sequence[torch.Tensor]) -> list:
        if self._deferred:
            return [self._length(tensor) for tensor in tensors]
        quick = torch.stack(torch._foreach_norm(tensors)).tolist()
        return [_safe_length(length, tensors, k) for k, length in enumerate(quick)]

    def _row_lengths(self, rows: torch.Tensor) -> list[float] | torch.Tensor:
        """Of (layers, entries), as `_length` would give for each row."""
        if self._deferred:
            largest = rows.abs().amax(1)
            return torch.stack((largest, torch.linalg.vector_norm(rows / largest[:, None], dim=1)), 1)
        quick = torch.linalg.vector_norm(rows, dim=1).tolist()
        return [_safe_length(length, rows, k) for k, length in enumerate(quick)]

    def _bring_over(self) -> None:
        """One transfer for everything that is still on the device."""
        places = [(name, k) for name in QUANTITIES for k, value in enumerate(self._lengths[name]) if torch.is_tensor(value)]
        pairs = torch.stack([
            value if (value := self._lengths[name][k]).ndim else torch.stack((value.float(), torch.ones_like(value).float()))
            for name, k in places
        ])
        for (name, k), (largest, rest) in zip(places, pairs.cpu().tolist(), strict=True):
            # 0/0 is the all-zero layer, inf/inf the overflown one: the largest entry says which.
            self._lengths[name][k] = largest if largest == 0 or not math.isfinite(largest) else largest * rest


@dataclass
class _Stack:
    """Weights of one shape and memory format, measured together: one call for all blocks in place of one for each layer."""

    indices: list[int]
    tensors: list[torch.Tensor]
    old: torch.Tensor  # the weights before the step, (layers · out, …) in their own memory format
    spare: torch.Tensor  # for gradients, and after the step for its undoing

    def gather(self, tensors: Sequence[torch.Tensor], into: torch.Tensor) -> torch.Tensor:
        """The tensors copied into `into`; returns its rows."""
        torch.cat(tensors, out=into)
        return self.rows(into)

    def rows(self, buffer: torch.Tensor) -> torch.Tensor:
        """(layers, entries) of a buffer, in the order of its memory."""
        entries = self.tensors[0].numel()
        return buffer.as_strided((len(self.indices), entries), (entries, 1))


def _stacked(weights: Sequence[torch.Tensor]) -> list[_Stack]:
    alike: dict[tuple, list[int]] = {}
    for index, weight in enumerate(weights):
        alike.setdefault((weight.shape, weight.stride()), []).append(index)
    stacks = []
    for indices in alike.values():
        tensors = [weights[index].detach() for index in indices]
        old, spare = torch.cat(tensors), torch.cat(tensors)
        stacks.append(_Stack(indices, tensors, old, spare))
    return stacks


def _count_nonzero(rows: torch.Tensor) -> list[int]:
    # Row by row: numpy counts a row of booleans at the speed of memory, along an axis it adds them up as whole numbers.
    return [np.count_nonzero(row) for row in rows.numpy() != 0]


def _safe_length(length: float, tensors: Sequence[torch.Tensor], k: int) -> float:
    # The k-th is looked up only if needed: a row of a tensor costs more to name than to measure.
    if _SAFE[0] < length < _SAFE[1] or math.isnan(length):
        return length
    return torch.linalg.vector_norm(tensors[k], dtype=torch.float64).item()


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


def first_nonfinite(table: np.ndarray, names: Sequence[str]) -> str | None:
    """The layer where inf or nan first appears in time: forward pass, then backward pass, then weights' gradients."""
    for quantity, order in (("activation_rms", 1), ("signal_rms", -1), ("weight_grad_rms", -1)):
        bad = np.flatnonzero(~np.isfinite(table[_ROW[quantity]]))[::order]
        if len(bad):
            return names[bad[0]]
    return None
