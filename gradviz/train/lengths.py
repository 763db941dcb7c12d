"""Lengths of tensors, right over the whole range of float32; on a GPU without a look at them.

On a processor a number is a float at once, and a float32 length outside the safe range is taken again in float64. On
a GPU it is a tensor of one number that is taken in float64 and stays there: `bring` fetches them together.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch

Number = float | torch.Tensor  # a float, or () on a device

# A float32 length between these is exact enough: squares of entries of 1e-16 are still 6 decades above float32's
# smallest normal number, and the sum of a million squares of 1e16 is still 10^6 below its largest.
_SAFE = (1e-13, 1e16)
_NARROW = (torch.float16, torch.bfloat16)


def length(tensor: torch.Tensor) -> Number:
    """The 2-norm, also of a sparse tensor."""
    if tensor.layout == torch.sparse_coo:
        tensor = tensor.coalesce().values()
    if tensor.numel() == 0:
        return 0.0
    if tensor.device.type != "cpu":
        # An Apple GPU has no float64.
        wide = None if tensor.is_complex() or tensor.device.type == "mps" else torch.float64
        there: torch.Tensor = torch.linalg.vector_norm(tensor, dtype=wide)
        return there
    found = torch.linalg.vector_norm(tensor, dtype=torch.float32 if tensor.dtype in _NARROW else None).item()
    return safe_length(found, (tensor,), 0)


def lengths(tensors: Sequence[torch.Tensor]) -> list[Number]:
    """The same of many, in few calls where they are alike."""
    if not tensors or any(t.device.type != "cpu" or t.dtype != torch.float32 or t.layout != torch.strided for t in tensors):
        return [length(tensor) for tensor in tensors]
    found: list[float] = torch.stack(torch._foreach_norm(list(tensors))).tolist()
    return [safe_length(one, tensors, k) for k, one in enumerate(found)]


def safe_length(found: float, tensors: Sequence[torch.Tensor] | torch.Tensor, k: int) -> float:
    """The 2-norm of the k-th on a processor, `found` in float32."""
    # The k-th is looked up only if needed: a row of a tensor costs more to name than to measure.
    if _SAFE[0] < found < _SAFE[1] or math.isnan(found):
        return found
    wide = torch.complex128 if tensors[k].is_complex() else torch.float64
    return float(torch.linalg.vector_norm(tensors[k], dtype=wide))


def nonzero(tensor: torch.Tensor) -> Number:
    """How many entries of a strided tensor are not 0."""
    if tensor.device.type != "cpu":
        return torch.count_nonzero(tensor)
    if tensor.dtype == torch.float32 and (flat := memory(tensor)) is not None:
        return float(np.count_nonzero(flat.numpy() != 0))  # several times faster than torch's
    return float(torch.count_nonzero(tensor).item())


def memory(tensor: torch.Tensor) -> torch.Tensor | None:
    """Its entries in the order of the memory, (n,), without a copy; None where there are gaps between them."""
    size, expected = tensor.numel(), 1
    for stride, extent in sorted(zip(tensor.stride(), tensor.shape, strict=True)):
        if extent > 1:
            if stride != expected:
                return None
            expected *= extent
    return tensor.detach().as_strided((size,), (1,), tensor.storage_offset())


def bring(numbers: Sequence[Number]) -> list[float]:
    """All as floats; what lies on a device comes over at once, and has to be finished first."""
    there = [number for number in numbers if isinstance(number, torch.Tensor)]
    here: list[float] = []
    if there:
        device = next((t.device for t in there if t.device.type != "cpu"), there[0].device)
        kind = torch.float32 if device.type == "mps" else torch.float64
        here = torch.stack([t.detach().to(device=device, dtype=kind).reshape(()) for t in there]).tolist()
    brought = iter(here)
    return [next(brought) if isinstance(number, torch.Tensor) else float(number) for number in numbers]
