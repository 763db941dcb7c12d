"""A training that somebody else runs, seen as steps: each ends in a look at what was measured, or in none."""

from __future__ import annotations

import contextlib
import functools
import os
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from time import perf_counter
from typing import Any

import torch
from torch import nn
from torch.optim.optimizer import Optimizer, register_optimizer_step_post_hook, register_optimizer_step_pre_hook
from torch.utils.hooks import RemovableHandle

from gradviz.train.hooks import Collected, Passes
from gradviz.train.missing import Circumstances, unlike
from gradviz.train.modules import order
from gradviz.train.optimizers import Optimizers, weight_ids
from gradviz.train.pace import Pace
from gradviz.train.shards import Shards
from gradviz.train.tables import Look, work_out
from gradviz.train.updates import Moved, Numbers, Room, Scale, Updates, loss_scale

_LARGE = 31 << 20  # bytes


@dataclass
class Seen:
    """One step."""

    look: Look | None  # None: not measured; worked out already if its numbers lie elsewhere than in this machine's memory
    overflows: int  # steps before it, since the last one that was measured, that a scaler left out
    held: tuple[str, ...]  # classes of the optimisers
    outputs: tuple[int, ...] = ()  # of the first step: entries of each layer's output, over all its calls; 0 if not seen


@dataclass
class _Open:
    """The step under way. It is complete when each of the optimisers has stepped."""

    stepped: set[int] = field(default_factory=set)  # ids of optimisers
    weights: set[int] = field(default_factory=set)  # ids of what they hold
    collected: dict[int, Collected] = field(default_factory=dict)  # by row
    moved: dict[int, Moved] = field(default_factory=dict)
    scales: dict[int, Scale] = field(default_factory=dict)  # by row
    updates: Updates | None = None  # of the optimiser that steps now
    called: set[int] = field(default_factory=set)
    stale: bool = False  # some of the passes that it is of were not measured


class Watcher:
    """Hooks on a net and on what trains it, until `close`. It holds neither alive.

    Without `optimizers` it takes note of every one that holds one of the net's weights. `took` gets each step; `broke` what
    went wrong here: then nothing more is measured. `owner`: who watches. `world`: processes whose mean the gradients are,
    0 if not known. `shards`: of a net that lies on several processes.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizers: Sequence[Optimizer] | None,
        pace: Pace,
        took: Callable[[Seen], None],
        broke: Callable[[Exception], None],
        owner: object,
        world: int = 1,
        shards: Shards | None = None,
    ):
        self._took, self._broke, self._pace, self._world, self._shards = took, broke, pace, world, shards
        self.dead = True  # nothing is measured before all of it stands
        self.steps = 0
        self._fresh: set[int] = set()  # ids of the optimisers that have stepped since the last pass
        self._stale: set[int] = set()  # rows that a pass has reached, unmeasured, since their optimiser's last step
        self.passes = Passes(model, self._failed, owner)
        self.order: list[int] | None = None  # of the rows, in the order of their first calls; from the first step on
        self._open, self._room = _Open(), Room()
        self.optimizers = Optimizers(optimizers, lambda: self.passes.rows)
        self._began = self._since = perf_counter()  # the last step's end; what its time here is counted from
        self._process = os.getpid()
        self._handles: list[RemovableHandle] = []
        _keep_the_heap()
        try:
            self._listen(optimizers)
        except Exception:
            self.close()
            raise
        self.dead = False

    def _listen(self, optimizers: Sequence[Optimizer] | None) -> None:
        if optimizers is None:
            self._handles.append(register_optimizer_step_pre_hook(self._before))
            self._handles.append(register_optimizer_step_post_hook(self._after))
        for each in optimizers or ():
            self._handles.append(each.register_step_pre_hook(self._before))
            self._handles.append(each.register_step_post_hook(self._after))

    @property
    def in_step(self) -> bool:
        """Whether a step is seen in part: some optimiser has stepped, another has not."""
        return bool(self._open.stepped)

    def close(self) -> None:
        """Also the end of a step that lacks one of its optimisers."""
        if self.in_step and not self.dead:
            self._guard(self._finish)
        self.dead = True
        self._let_go()
        for handle in self._handles:
            handle.remove()
        self._handles = []
        self.passes.close()

    def _let_go(self) -> None:
        """Of a step that is not seen to its end: what is open holds a copy of the weights."""
        self._open, self._room = _Open(), Room()
        self.passes.stop()
        if self._shards:
            self._shards.gone()

    def _guard(self, function: Callable[[], None]) -> None:
        """No exception of ours reaches the training."""
        if self.dead:
            return
        try:
            function()
        except Exception as error:
            self._failed(error)

    def _failed(self, error: Exception) -> None:
        if not self.dead:
            self.dead = True  # the hooks stay until `close`: some of them may be running
            self._let_go()
            self._broke(error)

    # --- the optimiser ---------------------------------------------------------------------------------------------

    def _before(self, optimizer: Optimizer, args: Any, kwargs: Any) -> tuple[Any, Any] | None:
        if os.getpid() != self._process:  # forked off, and perhaps training the same net: the run is its parent's
            self.dead = True
        if self.dead:  # or another thread has found that nothing can be written
            self._let_go()
            return None
        self._since, replaced = perf_counter(), None
        try:
            replaced = self._begin(optimizer, args, kwargs)
        except Exception as error:
            self._failed(error)
        self.passes.seconds += perf_counter() - self._since
        return replaced

    def _begin(self, optimizer: Optimizer, args: Any, kwargs: Any) -> tuple[Any, Any] | None:
        optimizers, step = self.optimizers, self._open
        if not optimizers.enters(optimizer):
            return None
        optimizers.look_again(optimizer)
        if step.stepped and (id(optimizer) in step.stepped or not step.weights.isdisjoint(weight_ids(optimizer))):
            optimizers.settled = True  # a second round has begun: these are the optimisers
            self._finish()
        if not optimizers.is_mine(optimizer):
            return None
        optimizers.begins(optimizer)
        if self.passes.begun:
            self._fresh.clear()
        self._open.updates = None  # of a step that an error has ended
        if not self.passes.measuring:
            return None
        mine, rows = optimizers.held(optimizer), self.passes.rows
        if not self._stale.isdisjoint(mine):
            self._open.stale = True
            return None
        if not self._open.stepped and len(mine) < len(rows):  # the rows that nobody trains are looked at once a step
            others = optimizers.held_by_any()
            mine = sorted({*mine, *(k for k in range(len(rows)) if k not in others)})
        updates = self._open.updates = Updates(self.passes, mine, self._room)
        updates.weights()
        closure = kwargs.get("closure") or next((each for each in args[1:] if callable(each)), None)
        if closure is None:
            self._look(optimizer)
            return None
        looking = _looking(self, optimizer, closure)
        return tuple(looking if each is closure else each for each in args), _replaced(kwargs, closure, looking)

    def _look(self, optimizer: Optimizer) -> None:
        assert self._open.updates is not None
        if torch._C._current_graph_task_id() != -1:  # it steps amid a backward pass, whose end comes too late
            self.passes.measure_raw(self.optimizers.held(optimizer))
        self._open.updates.gradients()
        scale = loss_scale(optimizer)
        self._open.scales |= dict.fromkeys(self._open.updates.moved, scale)

    def _after(self, optimizer: Optimizer, _args: Any, _kwargs: Any) -> None:
        if self.dead:
            self._let_go()
            return
        try:
            self._end(optimizer)
        except Exception as error:
            self._failed(error)

    def _end(self, optimizer: Optimizer) -> None:
        optimizers = self.optimizers
        if not optimizers.leaves(optimizer) or not optimizers.is_mine(optimizer):
            return
        if (updates := self._open.updates) is not None:
            self._timed(partial(self._measure_after, optimizer, updates))
        elif self.passes.measuring:
            self.passes.forget(optimizers.held(optimizer))
        if self.passes.measuring:
            self.passes.another_stepped(held := optimizers.held(optimizer))
            self._stale -= set(held)
        self._open.stepped.add(id(optimizer))
        self._fresh.add(id(optimizer))
        self.passes.begun = False
        if not optimizers.settled:  # one that holds all that is trained is the only one
            trained = {k for k, row in enumerate(self.passes.rows) if (w := row.weight) is not None and w.requires_grad}
            optimizers.settled = trained <= set(optimizers.held(optimizer))
        if optimizers.settled and optimizers.have_all(self._open.stepped):
            self._finish()
        else:
            self._open.weights.update(weight_ids(optimizer))

    def _measure_after(self, optimizer: Optimizer, updates: Updates) -> None:
        self._open.updates = None
        self.passes.measuring = True
        scales, held = self._open.scales, self.optimizers.held(optimizer)
        updates.after(any(scales[k].overflown for k in updates.moved if k in scales))
        self._open.moved |= updates.moved
        for k in held:
            self._open.collected[k] = self.passes.collected[k]
        self._open.called |= self.passes.called
        self.passes.forget(held)

    # --- the end of a step -----------------------------------------------------------------------------------------

    def _finish(self) -> None:
        begin = perf_counter()
        step, self._open = self._open, _Open()
        passes, optimizers = self.passes, self.optimizers
        was = passes.measuring
        measured = was and not step.stale
        if self.order is None:
            rows = passes.rows
            places = {id(row): k for k, row in enumerate(rows)}
            self.order = [places[id(row)] for row in order(rows, list(passes.calls))]
            passes.ordered()
        seen = self._seen(step) if measured else Seen(None, 0, self._classes())
        self._took(seen)
        optimizers.look_again()
        now = perf_counter()
        self._pace.take(now - self._began, passes.seconds + now - begin, measured)
        if self._shards:
            self._shards.paced(self._pace)
        self._began, self._since, passes.seconds = now, now, 0.0
        self.steps += 1
        passes.measuring = step.stale or self._pace.due(self.steps)  # a look that could not be taken is still due
        if was and not passes.measuring:
            passes.forget(range(len(passes.rows)))
        elif passes.measuring and not was:
            self._stale = optimizers.held_by_any() - optimizers.held_by_any(() if passes.begun else self._fresh)

    def _seen(self, step: _Open) -> Seen:
        rows = self.passes.rows
        held = self.optimizers.held_by_any()
        waiting = held - self.optimizers.held_by_any(step.stepped)
        collected = [
            step.collected.get(k) or (Collected() if k in waiting else found) for k, found in enumerate(self.passes.collected)
        ]
        overflown = any(scale.overflown for scale in step.scales.values())
        reached = {k for k, row in enumerate(rows) if id(row.user()) in step.called}
        at = Circumstances(bool(step.called), reached, held, self._world, overflown, waiting, unlike(rows, step.moved))
        shards = self._shards
        self.passes.touch()

        def join(sums: Numbers, wholes: Numbers) -> None:
            if shards:
                at.apart.update(shards.join(self.steps, self._pace, sums, wholes))

        look = Look(rows, self.order or (), collected, step.moved, step.scales, at)
        if shards or self.passes.on_device:  # what others wait for, and what this thread's stream alone has at hand
            work_out([look], join)
            look.collected, look.moved = (), {}  # those numbers need not stay there until the look is read
        if shards and shards.rank and shards.over:
            self.dead = True  # the first process has gone, or has never come
        overflows, self.passes.thrown_away = self.passes.thrown_away + overflown, 0
        self.passes.called.clear()
        self.passes.forget(k for k in range(len(rows)) if k not in step.collected and k not in waiting)
        outputs = () if self.steps else tuple(sum(n for _length, n in collected[k].activations) for k in self.order or ())
        return Seen(look, overflows, self._classes(), outputs)

    def _classes(self) -> tuple[str, ...]:
        return tuple(type(each).__name__ for each in self.optimizers.known())

    def _timed(self, function: Callable[[], None]) -> None:
        begin = perf_counter()
        function()
        self.passes.seconds += perf_counter() - begin


def _looking(watcher: Watcher, optimizer: Optimizer, closure: Callable[[], Any]) -> Callable[[], Any]:
    """The closure, with a look at the gradients once it has made them: those at the weights before the step."""
    mine = weakref.ref(watcher)

    @functools.wraps(closure)
    def both() -> Any:
        result = closure()
        if (watcher := mine()) is not None and watcher.passes.measuring:
            watcher._guard(partial(watcher._timed, partial(watcher._look, optimizer)))
            watcher.passes.measuring = False  # what it is called for again in this step is not the step's gradient
        return result

    return both


def _replaced(kwargs: dict[str, Any], old: object, new: object) -> dict[str, Any]:
    return {name: new if value is old else value for name, value in kwargs.items()}


def _keep_the_heap() -> None:
    """Asks for a large piece of memory and gives it back, untouched, so that the C library keeps what is free at the heap's end.

    glibc gives the system what is free there beyond twice the largest piece, up to 32 MiB, that it has ever been given back. By
    small things that a watch has to keep the heap of a ResNet-18 came to end otherwise: each step then lost 19 MB and had to have
    them anew, a tenth of its time. Without glibc this does nothing.
    """
    with contextlib.suppress(MemoryError, RuntimeError):
        torch.empty(_LARGE, dtype=torch.uint8, device="cpu")
