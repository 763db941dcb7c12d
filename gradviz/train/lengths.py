"""Lengths of tensors, right over the whole range of float32; on a GPU without a look at them.

On a processor a number is a float at once, and a float32 length outside the safe range is taken again in float64. On
a GPU it is a tensor of one number that is taken in float64 and stays there: `bring` fetches them together.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import cast

import numpy as np
import torch
from torch import nn

Number = float | torch.Tensor  # a float, or () on a device
ORDINARY = (torch.Tensor, nn.Parameter)  # types of what holds its entries itself

# A float32 length between these is exact enough: squares of entries of 1e-16 are still 6 decades above float32's
# smallest normal number, and the sum of a million squares of 1e16 is still 10^6 below its largest.
_LOW, _HIGH = 1e-13, 1e16
_NARROW = (torch.float16, torch.bfloat16)
_NUMPY = (torch.float32, torch.float64)
_norm = torch.linalg.vector_norm
# Squares that float32 adds up to five digits if no gaps lie between them. Of 16 million it loses 0.06 %, with gaps 1.4 %.
_FAIR = 1 << 19
_AT_ONCE = 1 << 16  # entries that are counted in one call: larger scratch would be asked of the system, and given back, each time


def length(tensor: torch.Tensor) -> Number:
    """The 2-norm, also of a sparse tensor."""
    if tensor.dtype is torch.float32 and tensor.is_cpu and tensor.layout is torch.strided:
        entries = tensor.numel()
        if entries <= _AT_ONCE or (entries <= _FAIR and tensor.is_contiguous()):
            found = _norm(tensor).item()
            return found if _LOW < found < _HIGH else safe_length(found, (tensor,), 0)
    if tensor.layout == torch.sparse_coo:
        tensor = tensor.coalesce().values()
    if tensor.numel() == 0:
        return 0.0
    if tensor.device.type != "cpu":
        # An Apple GPU has no float64.
        wide = None if tensor.is_complex() or tensor.device.type == "mps" else torch.float64
        there: torch.Tensor = torch.linalg.vector_norm(tensor, dtype=wide)
        return there
    kind = torch.float32 if tensor.dtype in _NARROW else None
    if _fair(tensor):
        found = torch.linalg.vector_norm(tensor, dtype=kind).item()
    else:
        found = torch.linalg.vector_norm(torch.cat(_parts(tensor, kind)), dtype=torch.float64).item()
    return safe_length(found, (tensor,), 0)


def _fair(tensor: torch.Tensor) -> bool:
    """Whether float32 adds its squares up well enough."""
    return tensor.numel() <= _AT_ONCE or (tensor.numel() <= _FAIR and memory(tensor) is not None)


def _parts(tensor: torch.Tensor, kind: torch.dtype | None) -> list[torch.Tensor]:
    """The lengths of its parts as lists, each part a piece of the memory: any other takes many times as long."""
    if (flat := memory(tensor)) is not None:
        whole = len(flat) // _FAIR * _FAIR
        pieces = torch.linalg.vector_norm(flat[:whole].view(-1, _FAIR), dim=1, dtype=kind)
        return [pieces, torch.linalg.vector_norm(flat[whole:], dtype=kind).reshape(1)]
    outer = max((axis for axis in range(tensor.dim()) if tensor.shape[axis] > 1), key=tensor.stride)
    inner = [axis for axis in range(tensor.dim()) if axis != outer]
    return [torch.linalg.vector_norm(tensor, dim=inner, dtype=kind) if inner else tensor.abs()]


def lengths(tensors: Sequence[torch.Tensor]) -> list[Number]:
    """The same of many, in few calls where they are alike."""
    for t in tensors:
        small = t.numel() <= _AT_ONCE
        if t.dtype is not torch.float32 or not t.is_cpu or t.layout is not torch.strided or not (small or _fair(t)):
            return [length(tensor) for tensor in tensors]
    found: list[float] = torch.stack(torch._foreach_norm(list(tensors))).tolist() if tensors else []
    return [one if _LOW < one < _HIGH else safe_length(one, tensors, k) for k, one in enumerate(found)]


def is_safe(length: float) -> bool:
    """Whether squares in float32 gave it right."""
    return _LOW < length < _HIGH or math.isnan(length)


def safe_length(found: float, tensors: Sequence[torch.Tensor] | torch.Tensor, k: int) -> float:
    """The 2-norm of the k-th on a processor, `found` in float32."""
    # The k-th is looked up only if needed: a row of a tensor costs more to name than to measure.
    if is_safe(found):
        return found
    wide = torch.complex128 if tensors[k].is_complex() else torch.float64
    return float(torch.linalg.vector_norm(tensors[k], dtype=wide))


def nonzero(tensor: torch.Tensor, beside: torch.Tensor | None = None, into: torch.Tensor | None = None) -> Number:
    """How many entries of a strided tensor are not 0; of those alone where the mask `beside` is true; `into` becomes a mask of
    them. Both have the tensor's shape and strides."""
    countable = tensor.is_cpu and tensor.dtype in _NUMPY  # by numpy, several times as fast as torch
    if countable and tensor.numel() <= _AT_ONCE:
        entries = tensor.numpy()
        there = entries != 0 if into is None else np.not_equal(entries, 0, out=into.numpy())
        return float(np.count_nonzero(there if beside is None else there & beside.numpy()))
    if not countable or (flat := memory(tensor)) is None:
        mask = tensor != 0 if beside is None else (tensor != 0) & beside
        if into is not None:
            into.copy_(mask)
        count = torch.count_nonzero(mask)
        return count if count.device.type != "cpu" else float(count.item())
    entries, found = flat.numpy(), 0
    others, kept = (None if mask is None else in_order(mask).numpy() for mask in (beside, into))
    for begin in range(0, len(entries), _AT_ONCE):
        end = begin + _AT_ONCE
        there = np.not_equal(entries[begin:end], 0, out=None if kept is None else kept[begin:end])
        if others is not None:
            there &= others[begin:end]
        found += int(np.count_nonzero(there))
    return float(found)


def memory(tensor: torch.Tensor) -> torch.Tensor | None:
    """Its entries in the order of the memory, (n,), without a copy; None where there are gaps between them."""
    if tensor.is_contiguous():
        return tensor.detach().view(-1)
    size, expected = tensor.numel(), 1
    for stride, extent in sorted(zip(tensor.stride(), tensor.shape, strict=True)):
        if extent > 1:
            if stride != expected:
                return None
            expected *= extent
    return tensor.detach().as_strided((size,), (1,), tensor.storage_offset())


def in_order(tensor: torch.Tensor) -> torch.Tensor:
    """The same of a tensor that is known to have no gaps."""
    flat = memory(tensor)
    assert flat is not None
    return flat


def bring(numbers: Sequence[Number]) -> Sequence[float]:
    """All as numbers; what lies on a device comes over at once, and has to be finished first."""
    if torch.Tensor not in set(map(type, numbers)):
        return cast("Sequence[float]", numbers)
    there = [number for number in numbers if isinstance(number, torch.Tensor)]
    device = next((t.device for t in there if t.device.type != "cpu"), there[0].device)
    kind = torch.float32 if device.type == "mps" else torch.float64
    here = torch.stack([t.detach().to(device=device, dtype=kind).reshape(()) for t in there]).tolist()
    brought = iter(here)
    return [next(brought) if isinstance(number, torch.Tensor) else float(number) for number in numbers]
