"""What passes through a net between two steps of its optimiser: signals, activations, and when a backward pass has ended.

The rules, each tried against a way in which people train:

- An activation counts once its backward pass arrives. Evaluation, the second forward pass of a checkpoint and passes that are
  thrown away then leave no trace.
- Where a backward pass begins while no weight has a gradient, what was collected before it was thrown away by `zero_grad`.
- A pass of `torch.autograd.grad`, which gives gradients to nobody, does not count.
- The end of a backward pass is asked for twice: DDP makes the gradients those of all ranks in such an end of its own.
"""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from time import perf_counter
from typing import Any

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle

from gradviz.train.behind import behind, mark
from gradviz.train.buckets import Buckets
from gradviz.train.eyes import Eyes, find_compiled
from gradviz.train.lengths import ORDINARY, Number
from gradviz.train.modules import Row, callers, find_rows, is_lazy_net
from gradviz.train.spread import holds_back, is_spread, local

Part = tuple[Number, int]  # a length, and of how many entries
# Looked up once: between two layers of a training little of a program is in the cache, and each name on the way to another costs.
_compiling, _grad_enabled = torch.compiler.is_compiling, torch.is_grad_enabled
_tracing, _task = torch._C._get_tracing_state, torch._C._current_graph_task_id
_wrapped = torch._C._functorch.is_functorch_wrapped_tensor


class Hook:
    """A function of a watch among a module's hooks. In a copy of the module, or in a file, it is a function that does nothing.

    What stands in for it there is Python's own: the file can be read where there is no gradviz.
    """

    def __init__(self, function: Callable[..., None], owner: object):
        """`owner` is who watches; it is not held alive."""
        self._function = function
        self.owner = weakref.ref(owner)

    def __call__(self, *arguments: Any) -> None:
        if _compiling():  # the compiler keeps this line alone: no break in the graph, nothing measured
            return
        self._function(*arguments)

    def __reduce_ex__(self, _protocol: object) -> tuple[Any, ...]:
        return getattr, (contextlib.nullcontext(), "__exit__")


@dataclass(slots=True)
class Raw:
    """A weight's gradient as the backward pass left it."""

    length: Number
    entries: int
    nonzero: Number | None  # None: does not apply


@dataclass(slots=True)
class Collected:
    """Of one row, since its optimiser's last step."""

    signals: list[Part] = field(default_factory=list)
    activations: list[Part] = field(default_factory=list)
    raw: Raw | None = None
    twice: bool = False  # more than one backward pass went through one forward pass: their sum is not known
    closed: bool = False  # another optimiser has stepped since its passes
    across: bool = False  # and then more passes came: they belong to no one step, and none is kept


class Passes:
    """Listens to a net. `measuring` is set by its owner from step to step; without it only `begun` is kept.

    `rows` are in the order of registration, and `collected` is what was measured of each. `failed` gets each exception of the
    listening: none reaches the training.
    """

    def __init__(self, model: nn.Module, failed: Callable[[Exception], None], owner: object):
        self.measuring = True
        self.begun = False  # a pass that may train has begun; its owner sets it back
        self.forwards = 0  # such passes, by the calls of the module that was called first
        self._root: int | None = None  # its id
        self.thrown_away = 0  # measured passes with a gradient that is not finite, which no step followed
        self.seconds = 0.0  # of this thread, spent here while measuring
        self.calls: dict[int, None] = {}  # ids of modules in the order of their first calls, until `ordered`
        self.called: set[int] = set()  # ids of modules since the last step, while measuring
        self.eyes = Eyes(find_compiled(model.parameters()))
        self.on_device = False  # something was measured that does not lie in this machine's own memory
        self.behind: dict[int, str] = {}  # id of a module -> what stands behind it, as far as it was seen until `ordered`
        self._model = weakref.ref(model)
        self._failed = failed
        self._on_touch = Hook(self._touched, owner)
        self._open: dict[int, bool] = {}  # backward passes under way, by the id of their graph task -> whether they count
        self._touching: dict[int, weakref.ref[torch.Tensor]] = {}  # by id; a set would compare entries
        self._handles: list[RemovableHandle] = []
        self._first: list[RemovableHandle] = []
        try:
            for module in callers(model):
                self._handles.append(module.register_forward_hook(Hook(partial(self._forward, id(module)), owner)))
                self._first.append(module.register_forward_pre_hook(Hook(partial(self._call, id(module)), owner)))
            self._find(model)
        except Exception:
            self.close()
            raise

    def _find(self, model: nn.Module) -> None:
        self._lazy = is_lazy_net(model)
        self.rows: list[Row] = find_rows(model)
        self.collected = [Collected() for _ in self.rows]
        self._buckets: Buckets | None = None
        self._spoken: dict[int, list[int]] = {}  # id of a module -> rows measured at its output
        for k, row in enumerate(self.rows):
            if not row.why and (module := row.user()) is not None:
                self._spoken.setdefault(id(module), []).append(k)
        self.touch()

    @property
    def buckets(self) -> Buckets:
        """Of the rows, from the first time that they are asked for; compiled eyes need none."""
        if self._buckets is None:
            self._buckets = Buckets([None if self.eyes.compiled else row.weight for row in self.rows])
        return self._buckets

    def touch(self) -> None:
        """Listens to the weights that have come to want a gradient: lazy ones, and those that were frozen."""
        for row in self.rows:
            weight = row.weight
            if weight is not None and not weight.is_cpu:
                self.on_device = True
            if (known := self._touching.get(id(weight))) is not None and known() is weight:
                continue
            if weight is not None and weight.requires_grad and weight.is_leaf:
                self._touching[id(weight)] = weakref.ref(weight)
                self._handles.append(weight.register_post_accumulate_grad_hook(self._on_touch))

    def ordered(self) -> None:
        """No longer notes which module is called first."""
        for handle in self._first:
            handle.remove()
        self._first = []

    def forget(self, rows: Iterable[int]) -> None:
        for k in rows:
            self.collected[k] = Collected()

    def another_stepped(self, its: Collection[int]) -> None:
        """An optimiser has, and these are its rows."""
        for k, found in enumerate(self.collected):
            if found.signals and k not in its:
                found.closed = True

    def stop(self) -> None:
        """Measures nothing more, and keeps nothing of a step under way."""
        self.measuring, self._buckets = False, None
        self.forget(range(len(self.rows)))

    def close(self) -> None:
        self.measuring, self._buckets = False, None
        self.eyes.close()
        for handle in [*self._handles, *self._first]:
            handle.remove()
        self._handles, self._first = [], []

    # --- forward ---------------------------------------------------------------------------------------------------

    def _call(self, module: int, *_: object) -> None:
        self.calls.setdefault(module)

    def _forward(self, module: int, called: nn.Module, inputs: object, output: object) -> None:
        if self.begun and not self.measuring and module != self._root:
            return  # nothing that is not known
        if _tracing() is not None:
            return
        if called.training and _grad_enabled() and _task() == -1:
            self._open.clear()  # outside of any backward pass: one that is still open has died of an error
            self.begun = True
            if self._root is None:
                self._root = module
            self.forwards += module == self._root
        if self.measuring:
            begin = perf_counter()
            try:
                self._look(module, inputs, output)
            except Exception as error:
                self._failed(error)
            self.seconds += perf_counter() - begin

    def _look(self, module: int, inputs: object, output: object) -> None:
        if self._lazy and (model := self._model()) is not None:
            self._find(model)
        self.called.add(module)
        z = _first_tensor(output)
        if module not in self._spoken or z is None or (node := z.grad_fn) is None or z.is_meta or z.numel() == 0:
            return
        if type(z) not in ORDINARY or _wrapped(z):
            return  # a tensor of several machines or of another kind: what it holds here is not the layer's output
        if not z.is_cpu:
            self.on_device = True
        if self._first:
            if found := behind(_first_tensor(inputs)):
                self.behind.setdefault(*found)
            mark(z, module)
        node.register_prehook(partial(self._arrived, module, z.output_nr, (self.eyes.length(z), z.numel()), []))

    # --- backward --------------------------------------------------------------------------------------------------

    def _arrived(
        self,
        module: int,
        output: int,
        activation: Part,
        before: list[bool],
        gradients: tuple[torch.Tensor | None, ...],
    ) -> None:
        if not self.measuring or (signal := gradients[output]) is None:
            return
        begin = perf_counter()
        try:
            task = _task()
            if self._open[task] if task in self._open else self._counts(task):
                part = (self.eyes.length(signal), signal.numel())
                for k in self._spoken.get(module, ()):
                    found = self.collected[k]
                    if found.closed:
                        found.across, found.signals, found.activations = True, [], []
                        continue
                    found.signals.append(part)
                    found.activations.append(activation)
                    if before:
                        found.twice = True
                before.append(True)
        except Exception as error:
            self._failed(error)
        self.seconds += perf_counter() - begin

    def _touched(self, weight: torch.Tensor) -> None:
        """The weight has got its gradient of this pass."""
        self.begun = True
        if self.measuring and not self._open.get(task := _task()):
            self._timed(partial(self._enter, task, weight))

    def _counts(self, task: int) -> bool:
        if _accumulates(self.rows):
            self._enter(task)
        else:
            self._open[task] = False
        return self._open[task]

    def _enter(self, task: int, touched: torch.Tensor | None = None) -> None:
        """A backward pass that counts has begun, unless it was known; `touched` has its gradient of it already."""
        if self._open.get(task):
            return
        if not any(self._open.values()):  # else it is a part of another pass: a checkpoint's
            self._forget_thrown_away(touched)
        self._open[task] = True

        def ended() -> None:
            self._timed(lambda: self._ended(task))

        engine = torch.autograd.Variable._execution_engine
        engine.queue_callback(partial(engine.queue_callback, ended))

    def _trained(self) -> list[torch.Tensor]:
        """The weights that want a gradient, each once."""
        weights = {id(weight): weight for row in self.rows if (weight := row.weight) is not None}
        return [weight for weight in weights.values() if weight.requires_grad and weight.is_leaf]

    def _forget_thrown_away(self, touched: torch.Tensor | None) -> None:
        used = [found for found in self.collected if found.signals or found.raw]
        if not used:
            return
        others = [weight for weight in self._trained() if weight is not touched]
        if others and all(weight.grad is None or _all_zero(weight.grad) for weight in others):
            model = self._model()
            if model is not None and any(row.part for row in self.rows) and holds_back(model):
                return
            self.thrown_away += any(_overflown(found.raw) for found in used)
            self.forget(range(len(self.rows)))
        else:  # of several optimisers one may have thrown away what the passes of another's loss gave its weights
            self.forget(k for k, row in enumerate(self.rows) if self._is_thrown_away(k, row, touched))

    def _is_thrown_away(self, k: int, row: Row, touched: torch.Tensor | None) -> bool:
        weight = row.weight
        if self.collected[k].raw is None or row.part or weight is None or weight is touched:
            return False
        return weight.grad is None or _all_zero(weight.grad)

    def _ended(self, task: int) -> None:
        self._open.pop(task, None)
        if self.measuring:
            self.measure_raw()

    @torch.no_grad()
    def measure_raw(self, of: Iterable[int] | None = None) -> None:
        """The gradients as they lie there now; `of`: of these rows alone."""
        gradients: list[torch.Tensor | None] = [None] * len(self.rows)
        for k in range(len(self.rows)) if of is None else of:
            weight, self.collected[k].raw = self.rows[k].weight, None
            gradients[k] = None if weight is None else weight.grad
        bucketed, others = self.buckets.sort(gradients)
        for bucket, some in bucketed:
            for k, one, entries, size, count in zip(bucket.rows, some, bucket.sizes, *bucket.measure(some), strict=True):
                if one is not None:
                    self.collected[k].raw = Raw(size, entries, count)
        rest = [(k, here) for k in others if (one := gradients[k]) is not None and plain(here := local(one))]
        looked = self.eyes.see([gradient for _k, gradient in rest])
        for (k, gradient), long, nonzero in zip(rest, looked.lengths, looked.nonzero, strict=True):
            self.collected[k].raw = Raw(long, gradient.numel(), nonzero)

    def _timed(self, function: Callable[[], None]) -> None:
        begin = perf_counter()
        try:
            function()
        except Exception as error:
            self._failed(error)
        self.seconds += perf_counter() - begin


def _accumulates(rows: Sequence[Row]) -> bool:
    """Whether this pass gives a gradient to any weight that is trained; `autograd.grad` does not, and says so by an error."""
    for weight in _present(rows):
        with torch.enable_grad():
            function = weight.view_as(weight).grad_fn
        node = function.next_functions[0][0] if function else None
        try:
            if node is not None and torch._C._will_engine_execute_node(node):
                return True
        except RuntimeError:
            return False
    return False


def _present(rows: Sequence[Row]) -> Iterator[torch.Tensor]:
    """What is trained and may be in this pass; first what is whole: during a pass that stands in for its part."""
    spread = []
    for row in rows:
        if (weight := row.present) is not None and weight.requires_grad and weight.is_leaf:
            if is_spread(weight):
                spread.append(weight)
            else:
                yield weight
    yield from spread


def owners(model: nn.Module) -> list[object]:
    """Who watches the net or a part of it."""
    hooks = [hook for module in callers(model) for hook in module._forward_hooks.values()]
    for weight in model.parameters():  # of a scripted net the only ones
        hooks += (weight._post_accumulate_grad_hooks or {}).values()
    mine = (hook.owner() for hook in hooks if isinstance(hook, Hook))
    found = {id(owner): owner for owner in mine if owner is not None}
    return list(found.values())


def plain(tensor: torch.Tensor) -> bool:
    """Whether its entries are those of the weight itself: no shard of it on several machines, no packed integers."""
    ordinary = type(tensor) in ORDINARY and tensor.layout in (torch.strided, torch.sparse_coo)
    return ordinary and (tensor.is_floating_point() or tensor.is_complex()) and not tensor.is_meta


def _first_tensor(output: object) -> torch.Tensor | None:
    """The output itself; of a tuple its first part, as with LSTM and attention; of a mapping its first value."""
    for _depth in range(3):
        if isinstance(output, torch.Tensor):
            return output
        if isinstance(output, (tuple, list)) and output:
            output = output[0]
        elif isinstance(output, dict) and output:
            output = next(iter(output.values()))
        else:
            return None
    return None


def _all_zero(gradient: torch.Tensor) -> bool:
    gradient = local(gradient)
    if gradient.layout == torch.sparse_coo:
        gradient = gradient.coalesce().values()
    return not bool(gradient.any())


def _overflown(found: Raw | None) -> bool:
    return found is not None and not bool(torch.isfinite(torch.as_tensor(found.length)))
