"""Tensors that lie on several processes (DTensor), a part on each, and where FSDP2 keeps the part while it has the whole."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn


def is_spread(tensor: object) -> bool:
    return type(tensor).__name__ == "DTensor"  # by name: what it is imported from takes a second to import


def local(tensor: torch.Tensor) -> torch.Tensor:
    """The part of it that lies here; of one that is whole all of it. Nothing is asked of another process."""
    if type(tensor) in (torch.Tensor, nn.Parameter) or not is_spread(tensor):
        return tensor
    there: Any = tensor
    with torch.no_grad():
        part: torch.Tensor = there.to_local()
    return part


def fsdp_groups(model: nn.Module) -> Iterator[Any]:
    """What FSDP2 handles as one. Its own names: where they are others there is none."""
    for module in model.modules():
        state = getattr(module, "_get_fsdp_state", None)
        with contextlib.suppress(AttributeError, ValueError, RuntimeError):
            if state is not None:
                found = state()
                yield from getattr(found, "_fsdp_param_groups", None) or filter(None, [found._fsdp_param_group])


def holds_back(model: nn.Module) -> bool:
    """Whether FSDP2 has gradients that it has not yet given to the parts: of passes without a sync."""
    each = (one for group in fsdp_groups(model) for one in getattr(group, "fsdp_params", ()))
    return any(
        getattr(one, "unsharded_accumulated_grad", None) is not None
        or getattr(getattr(one, "_unsharded_param", None), "grad", None) is not None
        for one in each
    )


def parts(model: nn.Module) -> dict[tuple[int, str], torch.Tensor]:
    """(id of a module, name of its parameter) -> the part of it here. In the module itself lies the whole during a pass."""
    found: dict[tuple[int, str], torch.Tensor] = {}
    for group in fsdp_groups(model):
        for each in getattr(group, "fsdp_params", ()):
            with contextlib.suppress(AttributeError):
                at, part = each._module_info, each.sharded_param
                found[id(at.module), at.param_name] = part
                for module, name in zip(at.shared_modules, at.shared_param_names, strict=True):
                    found[id(module), name] = part
    for module in model.modules():
        for name, parameter in module._parameters.items():
            if is_spread(parameter) and parameter is not None:
                found[id(module), name] = parameter
    return found
