"""AnatomyProbe: what a layer is made of at the sampled steps: distributions, paths, pictures."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial

import numpy as np
import torch
from torch.autograd.graph import Node

from gradviz.record import sample as anatomy
from gradviz.record.sample import AnatomySample, Picture
from gradviz.train.layer_probe import gradients, wide
from gradviz.train.task import Task, Watch

_Taken = tuple[torch.Tensor, torch.Tensor, torch.Tensor]  # of a tensor: entries, smallest, largest
_Scaled = tuple[torch.Tensor, torch.Tensor]  # int8 entries, and the size of ±127


class AnatomyProbe:
    """Takes apart the sampled steps: `begin`, then `watching` and `on_the_paths` around forward and backward, then in order.

    Of each tensor it looks at ENTRIES entries, drawn once, and at the smallest and largest of all. It changes no number
    of the training. On a GPU all stays there until `read`.
    """

    def __init__(self, task: Task):
        self._task, self._steps, self._lost, self._shortcuts = task, task.steps, task.lost, task.shortcuts
        self._weights = list(task.weights)
        self._parameters = list(task.model.parameters())
        layers = len(self._weights)
        self._entries = min(anatomy.ENTRIES, anatomy.ALL_ENTRIES // layers)
        self._pictured = anatomy.even_choice(layers, anatomy.PICTURED_LAYERS).tolist()
        # One choice for the whole run: the same entries at every step, and of the gradient before and after.
        self._random = np.random.default_rng(0)
        self._chosen: dict[int, torch.Tensor] = {}  # by size of the tensor

    def begin(self, step: int) -> None:
        self._step = step
        self._taken: dict[str, list[_Taken]] = {}  # kind -> of each layer
        self._numbers: dict[str, list[float | torch.Tensor]] = {
            name: [math.nan] * len(self._weights) for name in anatomy.LAYER_NUMBERS
        }
        self._overall = [math.nan] * len(anatomy.OVERALL)
        self._paths: list[list[float | torch.Tensor]] = [[math.nan] * len(self._shortcuts) for _ in anatomy.PATHS]
        self._pictures: dict[int, tuple[_Scaled, _Scaled]] = {}  # of weight and gradient
        self._before: list[torch.Tensor] = []

    def watching(self, watch: Watch) -> Watch:
        """`watch`, and a look at the activations."""
        self._taken["activation"] = []

        def both(index: int, z: torch.Tensor | Node | None, h: torch.Tensor) -> None:
            watch(index, z, h)
            self._look_at(index, h.detach())

        return both

    def _look_at(self, index: int, h: torch.Tensor) -> None:
        self._taken["activation"].append(self._take(h))
        lost = self._lost[index] if self._lost else None
        if lost == "dead":
            units = h.permute(0, 2, 3, 1).reshape(-1, h.shape[1]) if h.ndim == 4 else h  # no copy if channels_last
            dead = units.amax(0) == 0
            self._numbers["dead_share"][index] = dead.float().mean()
        elif lost == "saturated":
            self._numbers["saturated_share"][index] = ((h < 0.02) | (h > 0.98)).float().mean()

    @contextmanager
    def on_the_paths(self) -> Iterator[None]:
        """Measures what comes back to each block's input: over the shortcut, through the branch, and together."""
        handles = []
        try:
            for number, shortcut in enumerate(self._shortcuts):
                handles.append(shortcut.entrance.register_forward_pre_hook(partial(self._part_ways, number)))
            for shortcut in self._shortcuts[-1:]:
                handles.append(shortcut.block.register_forward_hook(self._above))
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _part_ways(self, number: int, _module: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor]:
        x = inputs[0]
        road = x.view_as(x)  # the branch's own name for x, so that its gradient is theirs alone
        road.register_hook(partial(self._note, "branch", number))

        def total(gradient: torch.Tensor) -> None:
            self._note("total", number, gradient)
            if number:  # it is also what the block below gets over its shortcut
                self._note("identity", number - 1, gradient)

        x.register_hook(total)
        return (road,)

    def _above(self, _module: torch.nn.Module, _inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        output.register_hook(partial(self._note, "identity", len(self._shortcuts) - 1))

    def _note(self, path: str, number: int, gradient: torch.Tensor) -> None:
        length = torch.linalg.vector_norm(gradient, dtype=wide(gradient))
        self._paths[anatomy.PATHS.index(path)][number] = length / math.sqrt(gradient.numel())

    @torch.no_grad()
    def after_backward(self) -> None:
        self._taken["weight"] = [self._take(weight) for weight in self._weights]
        self._taken["weight_grad"] = [self._take(gradient) for gradient in gradients(self._weights)]
        if self._step in anatomy.pictured_steps(self._steps):
            for layer in self._pictured:
                weight = self._weights[layer]
                self._pictures[layer] = (_picture(weight), _picture(gradients([weight])[0]))
        if self._task.treat:
            self._before = [gradient.clone() for gradient in gradients(self._parameters)]

    @torch.no_grad()
    def after_treatment(self) -> None:
        self._taken["treated_grad"] = [self._take(gradient) for gradient in gradients(self._weights)]
        rows = [_compared(old, new) for old, new in zip(self._before, gradients(self._parameters), strict=True)]
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

    def _take(self, tensor: torch.Tensor) -> _Taken:
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
    def _distributions(taken: list[_Taken]) -> tuple[np.ndarray, np.ndarray]:
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


def _picture(tensor: torch.Tensor) -> _Scaled:
    filters = tensor[: anatomy.FILTERS]
    scale = filters.abs().amax()
    return torch.where(scale > 0, filters / scale * 127, 0).nan_to_num(0, 127, -127).round().to(torch.int8), scale


def _compared(old: torch.Tensor, new: torch.Tensor) -> torch.Tensor:
    """(4,): entries that differ, old·new, old·old, new·new; float64, where the squares of 1e-30 are not 0."""
    dtype = wide(old)
    a, b = old.flatten().to(dtype), new.flatten().to(dtype)
    return torch.stack(((old != new).sum().to(dtype), a.dot(b), a.dot(a), b.dot(b)))


def _altered_and_cosine(table: torch.Tensor, sizes: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    differ, dot, old, new = table.T
    return differ / sizes, dot / old.sqrt() / new.sqrt()


def _numbers(row: list[float | torch.Tensor]) -> np.ndarray:
    """Floats, and one-number tensors that may lie on the device, which come over together."""
    tensors = [value for value in row if torch.is_tensor(value)]
    if not tensors:
        return np.array(row, float)
    brought = iter(torch.stack(tensors).cpu().tolist())
    return np.array([next(brought) if torch.is_tensor(value) else value for value in row], float)
