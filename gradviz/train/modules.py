"""The rows of any net: its weights of two dimensions and more, each with the module at whose output its signal is measured."""

from __future__ import annotations

import weakref
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from gradviz.train.spread import parts

# Names that wrappers put into a path: they say how a module is run, not where it stands.
_WRAPPERS = {"_orig_mod", "_checkpoint_wrapped_module", "_fsdp_wrapped_module", "parametrizations"}


@dataclass(eq=False)
class Row:
    """A weight. It holds neither the weight nor a module alive."""

    name: str
    owner: weakref.ref[nn.Module]  # whose parameter it is
    key: str  # by this name
    user: weakref.ref[nn.Module]  # whose call uses it; its output is the layer's z
    why: str = ""  # where it is not: why the layer has no output, as a code ("watch-…" of messages)
    tied: str = ""  # name of the row that is the same weight, if one stands before it
    part: weakref.ref[torch.Tensor] | None = None  # of a weight that lies on several processes, as the optimiser has it

    @property
    def weight(self) -> torch.Tensor | None:
        """None once it is gone: its module was deleted or given up."""
        return self.present if self.part is None or (part := self.part()) is None else part

    @property
    def present(self) -> torch.Tensor | None:
        """What the module has in its place now: during a pass FSDP2 puts the whole there."""
        if (owner := self.owner()) is None:
            return None
        parameters = owner._parameters
        if type(parameters) is dict:
            return parameters.get(self.key)
        return next((weight for key, weight in parameters.items() if key == self.key), None)  # a scripted module's has no `get`


@dataclass
class _Found:
    rows: list[Row] = field(default_factory=list)
    seen: set[int] = field(default_factory=set)  # ids of modules whose rows are there already


def find_rows(model: nn.Module) -> list[Row]:
    """In the order of registration. A weight that two modules share has two rows; lazy weights have none yet."""
    found, spread = _Found(), parts(model)
    for path, module in model.named_modules():
        if id(module) in found.seen:
            continue
        weights = list(_weights(module))
        if not weights:
            continue
        reasons = _without_output(module, len(weights))
        for (label, key, owner), why in zip(weights, reasons, strict=True):
            name = _name(path, label, alone=len(weights) == 1)
            found.rows.append(Row(name, weakref.ref(owner), key, weakref.ref(module), why))
            found.seen.add(id(owner))
        if isinstance(module, nn.MultiheadAttention):
            found.seen.add(id(module.out_proj))  # its forward is never called: the attention uses its weight
            name = _name(f"{path}.out_proj", "weight", alone=True)
            found.rows.append(Row(name, weakref.ref(module.out_proj), "weight", weakref.ref(module)))
    for row in found.rows if spread else ():
        part = spread.get((id(row.owner()), row.key))
        row.part = None if part is None else weakref.ref(part)
    _make_unique(found.rows)
    return found.rows


def order(rows: Sequence[Row], called: Sequence[int]) -> list[Row]:
    """The rows in the order of the first calls of their modules (ids), those never called last; the tied ones are marked."""
    turn = {module: place for place, module in enumerate(called)}
    ordered = sorted(rows, key=lambda row: turn.get(id(row.user()), len(turn)))
    first: dict[int, str] = {}
    for row in ordered:
        weight = row.weight
        if weight is not None:
            name = first.setdefault(id(weight), row.name)
            row.tied = "" if name == row.name else name
    return ordered


def is_lazy_net(model: nn.Module) -> bool:
    """Whether some weights have no shape before the first forward pass."""
    return any(is_lazy(parameter) for parameter in model.parameters())


def callers(model: nn.Module) -> list[nn.Module]:
    """The modules whose calls matter: those with weights or weights to come, each once. Scripted ones take no hooks."""
    return [module for module in model.modules() if not isinstance(module, torch.jit.ScriptModule) and _may_have_rows(module)]


def _may_have_rows(module: nn.Module) -> bool:
    lazy = any(is_lazy(parameter) for parameter in module._parameters.values() if parameter is not None)
    return lazy or isinstance(module, nn.MultiheadAttention) or any(True for _ in _weights(module))


def _weights(module: nn.Module) -> Iterator[tuple[str, str, nn.Module]]:
    """(what it is called in the module, its name in its owner, its owner) of the module's own, the parametrised too."""
    lists = getattr(module, "parametrizations", None)
    behind = list(lists.items()) if isinstance(lists, nn.ModuleDict) else []
    for called, owner in [("", module), *behind]:
        for key, parameter in owner._parameters.items():
            if parameter is not None and not is_lazy(parameter) and parameter.ndim >= 2:
                yield ".".join(part for part in (called, key) if part and (key != "original" or part != key)), key, owner


def _without_output(module: nn.Module, weights: int) -> list[str]:
    """Of each of the module's own weights why the module's output is not its own, as a code; "" where it is."""
    if isinstance(module, nn.MultiheadAttention):  # that is out_proj's
        return ["watch-inside"] * weights
    if isinstance(module, torch.jit.ScriptModule):
        return ["watch-scripted"] * weights
    if any(name != "parametrizations" for name, _child in module.named_children()):
        return ["watch-bare"] * weights
    return ["watch-inside"] * (weights - 1) + [""]


def _name(path: str, key: str, alone: bool) -> str:
    parts = [part for part in path.split(".") if part and part not in _WRAPPERS]
    if not parts or not (alone and key == "weight"):
        parts.append(key)
    return ".".join(parts)


def _make_unique(rows: Sequence[Row]) -> None:
    """Without the wrappers two paths may read the same: then a number stands behind."""
    met: Counter[str] = Counter()
    for row in rows:
        met[row.name] += 1
        if met[row.name] > 1:
            row.name += f"#{met[row.name]}"
