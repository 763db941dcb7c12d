"""watch: somebody's own training, seen layer by layer. What is measured and what is not: docs/watch.md."""

from __future__ import annotations

import atexit
import builtins
import contextlib
import logging
import math
import os
import sys
import time
import weakref
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

import numpy as np
import torch
from torch import nn
from torch.optim.optimizer import Optimizer

from gradviz.messages import NOTHING, Message, Told, say
from gradviz.record.arithmetic import Arithmetic
from gradviz.record.history import History, StepRecord
from gradviz.record.layout import Layout
from gradviz.record.reading import first_nonfinite
from gradviz.record.run import Run, Status
from gradviz.record.sender import NotSent, Sender, receiver
from gradviz.record.spool import FOLDER, SUFFIX, Recorder, SpoolWriter, max_columns
from gradviz.record.watched import ABSENT, MEASURED, Watched, as_text, is_chance, last_measured, new_id
from gradviz.settings import SettingsError, store_folder
from gradviz.train import notebook
from gradviz.train.backlog import Backlog
from gradviz.train.device import here
from gradviz.train.hooks import owners
from gradviz.train.modules import Row, find_rows, is_lazy_net
from gradviz.train.optimizers import weight_ids
from gradviz.train.pace import Pace
from gradviz.train.scores import Score, Scores
from gradviz.train.shards import Shards
from gradviz.train.tables import Look
from gradviz.train.watcher import Seen, Watcher

_log = logging.getLogger("gradviz.watch")

_SCORES = ("loss", "accuracy")

# Engines that put the weights of many layers into one tensor, or do the optimiser's work out of sight.
_ENGINES = ("FullyShardedDataParallel", "DeepSpeedEngine", "DeepSpeedZeroOptimizer", "DeepSpeedZeroOptimizer_Stage3")


class WatchError(Told, ValueError):
    """What watch was given cannot be watched. Only `watch` itself raises it."""


def watch(
    model: nn.Module,
    optimizer: Optimizer | Sequence[Optimizer] | None = None,
    *,
    every: int | Literal["auto"] = "auto",
    folder: str | os.PathLike[str] | None = None,
    title: str | None = None,
    to: str | None = None,
    chance: float | None = None,
) -> WatchedRun:
    """Measures every layer of `model` while your own loop trains it, and changes no number of the training.

    `optimizer`: one, several, or none; without one each that holds a weight of the net is taken note of. `every`: measure each
    so-manieth step; "auto" as often as keeps what it counts itself under half a per cent of the training's time. `folder`: that
    of the kept runs, by default GRADVIZ_STORE or `runs`; the run becomes one file in its folder `watched`. `to`: the address of
    a server that gets the run as well, if its GRADVIZ_INGEST_TOKEN is this process's too. `chance`: the share that a guess gets
    right, 1/10 of ten classes; the pages then show how far loss (a cross-entropy) and accuracy are from it. Called again on the
    same net it replaces the watch before. Raises WatchError, in one sentence; what `watch` has returned raises nothing.
    """
    if not isinstance(model, nn.Module):
        raise WatchError(say("watch-model", kind=type(model).__name__))
    if every != "auto" and (isinstance(every, bool) or not isinstance(every, int) or every < 1):
        raise WatchError(say("watch-every", every=repr(every)[:60]))
    if chance is not None and not is_chance(chance):
        raise WatchError(say("watch-chance", chance=repr(chance)[:60]))
    optimizers = _optimizers(optimizer)
    inner, world, rank = _unwrapped(model)
    quiet = _quiet(model, optimizers or (), rank)
    if not quiet:
        _refuse(inner, optimizers)
    try:
        place = store_folder() if folder is None else Path(folder)
        to_whom = None if to is None else receiver(to)
    except (SettingsError, NotSent) as error:
        raise WatchError(error.message) from None
    for before in owners(inner):
        if isinstance(before, WatchedRun) and before.watches(inner):
            before.replaced()
    pace = Pace(None if every == "auto" else every)
    shards = Shards.of(inner, pace) if not quiet or quiet == say("watch-rank") else None
    if rank:
        pace = Pace(pace.every)  # and then that of the first process
    world = shards.world or world if shards else world
    return WatchedRun(inner, optimizers, pace, place, title, world, quiet, to_whom, chance, shards)


class WatchedRun:
    """A training that is watched. None of its methods raises an error.

    `with watch(…) as run:` closes it; so do the end of the program and the end of the net.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizers: Sequence[Optimizer] | None,
        pace: Pace,
        folder: Path,
        title: str | None,
        world: int,
        quiet: Message,
        receiver: tuple[str, str] | None,
        chance: float | None,
        shards: Shards | None = None,
    ):
        self.id = new_id()
        self.path = folder.absolute() / FOLDER / (self.id + SUFFIX)
        self.status = Status.RUNNING
        self.message = quiet  # one sentence about how it ended, or why it records nothing
        self._run: Run[Watched] | None = None  # once a step was taken
        self._backlog: Backlog | None = None
        self._net = weakref.ref(model)
        self._title, self._chance = title, chance
        self._kind = type(model).__name__
        self._pace = pace
        self._created, self._begin, self._pid = time.time(), time.perf_counter(), os.getpid()
        self._scores = Scores()
        self._nothing = np.empty((0, 0), np.float32)  # the table of a step of which nothing is known yet
        self._said: set[str] = set()
        self._earlier = id(getattr(sys, "last_value", None))  # an error of before the watch; not held, it holds its frames
        self._receiver = receiver  # (address, token)
        self._sender: Sender | None = None
        self._recorder: Recorder | None = None
        self._watcher: Watcher | None = None
        if quiet:
            self.status = Status.STOPPED
            if not shards:
                return
        take = self._take if not quiet else lambda _seen: None  # its part goes to the first process
        try:
            self._watcher = Watcher(model, optimizers, pace, take, self._broke, self, world, shards)
        except Exception as error:  # of a module that takes no hooks
            raise WatchError(say("watch-refused", error=_told(error))) from error
        self._gone = weakref.finalize(model, partial(WatchedRun._end, self, Status.FINISHED, say("watch-gone-net")))
        self._gone.atexit = False
        atexit.register(self._at_exit)

    # --- what the training calls -----------------------------------------------------------------------------------

    def log(self, **scores: object) -> None:
        """`loss` and `accuracy` of the step, before or after the optimiser's; tensors on a GPU are not waited for."""
        if self._watcher is None or not self.status.live:
            if self.status is not Status.STOPPED or not self.message:
                self._say_once(say("watch-closed"))
            return
        for name, value in scores.items():
            number: Score | None = None
            with contextlib.suppress(Exception):  # of whatever was given
                number = _number(value) if name in _SCORES else None
            if number is None:
                self._say_once(say("watch-log" if name in _SCORES else "watch-log-name", name=name[:60]))
            else:
                self._log(name, number)

    def close(self) -> None:
        """The training is over; the hooks are gone, and the last numbers are written."""
        self._end(Status.FINISHED, NOTHING)

    def __enter__(self) -> WatchedRun:
        return self

    def __exit__(self, kind: type[BaseException] | None, _error: object, _trace: TracebackType | None) -> None:
        self._close_after(kind)

    # --- what it is asked ------------------------------------------------------------------------------------------

    @property
    def every(self) -> int:
        """Steps from one that is measured to the next, at present."""
        return self._pace.every

    @property
    def share(self) -> float | None:
        """What measuring costs at present, as a share of the training's own time; None before that is known."""
        return self._pace.share

    @property
    def run(self) -> Run[Watched] | None:
        """All that is recorded; None before the first step. What was measured since it was last asked for is worked out now."""
        if self._backlog and os.getpid() == self._pid:  # else another thread may have been amid it
            self._backlog.settle()
        return self._run

    @property
    def missing(self) -> Mapping[str, Mapping[str, str]]:
        """Layer -> quantity -> code of why it was not measured in the last look."""
        return run.missing if (run := self.run) else {}

    @property
    def overflows(self) -> int:
        """Steps that a scaler left out, as far as they were measured."""
        return self._run.overflows if self._run else 0

    @property
    def layers(self) -> tuple[str, ...]:
        """Names, in the order of their first calls; empty before the first step."""
        return self._run.recipe.layout.names if self._run else ()

    def quantity(self, name: str) -> np.ndarray[Any, np.dtype[np.float32]]:
        """float32 (columns, layers) of one of MEASURED; below 0 where it was not measured, see `missing`. Empty for another."""
        return run.history.quantity(name) if name in MEASURED and (run := self.run) else np.empty((0, 0), np.float32)

    def __str__(self) -> str:
        """The last step that was measured, a line for each layer."""
        sentence = f"{self._title or self._kind}: {self.status}" + (f". {self.message}" if self.message else "")
        table = last_measured(run.history) if (run := self.run) else None
        return sentence if table is None else f"{sentence}\n{as_text(self.layers, table)}"

    def _repr_html_(self) -> str:
        return notebook.as_html(self)

    def _ipython_display_(self) -> None:
        notebook.show(self)

    def watches(self, model: nn.Module) -> bool:
        return self._net() is model

    def replaced(self) -> None:
        """Another watch of the same net begins."""
        self._end(Status.STOPPED, say("watch-replaced"))

    # --- inside ----------------------------------------------------------------------------------------------------

    def _log(self, name: str, number: Score) -> None:
        watcher, run = self._watcher, self._run
        assert watcher is not None
        passes = watcher.passes
        self._scores.log(name, number, run.history if run else None, watcher.in_step, passes.begun, passes.forwards)

    def _take(self, seen: Seen) -> None:
        run = self._run or self._started(seen)
        history = run.history
        assert self._backlog is not None
        step, scores = history.steps, self._scores.take(history, self._watcher.passes.forwards if self._watcher else 0)
        loss, accuracy = scores.get("loss", math.nan), scores.get("accuracy", math.nan)
        if seen.look is not None:
            run.every, run.share = self.every, self.share
            run.overflows += seen.overflows
        self._backlog.append(StepRecord(step, loss, accuracy, self._nothing, time.perf_counter() - self._begin), seen.look)
        self._pace.beside = self._backlog.seconds
        if seen.look is not None or self._scores.crowded:
            self._scores.settle(history)

    def _worked_out(self, look: Look) -> None:
        run = self._run
        assert run is not None and look.table is not None
        run.missing = look.missing
        if run.nonfinite_layer is None and not np.isfinite(look.table).all():
            run.nonfinite_layer = first_nonfinite(look.table, run.recipe.layout.names)

    def _started(self, seen: Seen) -> Run[Watched]:
        watcher = self._watcher
        assert watcher is not None and watcher.order is not None
        rows = [watcher.passes.rows[k] for k in watcher.order]
        title = str(self._title or ", ".join((self._kind, *seen.held)))[:300]
        recipe = _recipe(self.id, title, self._chance, rows, seen, watcher.passes.behind)
        history = History(len(rows), max_columns(len(rows)), MEASURED)
        self._nothing = np.full((len(MEASURED), len(rows)), ABSENT, np.float32)
        run = self._run = Run(recipe, history, Status.RUNNING, created=self._created)
        device = next((weight.device for row in rows if (weight := row.weight) is not None), torch.device("cpu"))
        run.device, run.arithmetic = str(device), _arithmetic(device)
        head = {"recipe": recipe.to_dict(), "created": self._created, "device": run.device}
        head["arithmetic"] = run.arithmetic.to_dict() if run.arithmetic else None
        self._backlog = Backlog(history, self._worked_out, self._broke)
        self._recorder = Recorder(SpoolWriter(self.path, head), self._backlog.view, self._state, self._not_written)
        if self._receiver:
            self._sender = Sender(self.path, *self._receiver, self.id, self._say_once)
        return run

    def _state(self) -> dict[str, Any]:
        """As the spool keeps it."""
        run = self._run
        assert run is not None
        return {
            "status": str(self.status), "message": self.message.to_json(), "nonfinite_layer": run.nonfinite_layer,
            "missing": run.missing, "every": self.every, "share": self.share and float(f"{self.share:.1g}"),
            "overflows": run.overflows,
        }  # fmt: skip

    def _end(self, status: Status, message: Message) -> None:
        if self._watcher is None or os.getpid() != self._pid:
            return
        self._watcher.close()
        self._gone.detach()
        atexit.unregister(self._at_exit)
        if not self.status.live:
            return
        try:
            if self._run:
                self._scores.settle(self._run.history, ended=True)
        except Exception as error:  # of a device that is broken
            self._broke(error)
        self.status, self.message = status, message or self.message
        if self._run:
            self._run.message, self._run.status = self.message, status
        if self._backlog and self._recorder and self._backlog.busy_here and not self._recorder.here:
            self._backlog.let_in(self._close_file)  # the recorder waits for what this thread was called away from
        else:
            self._close_file()

    def _close_file(self) -> None:
        if self._recorder:
            self._recorder.close()
        if self._sender:
            self._sender.close()

    def _close_after(self, kind: type[BaseException] | None) -> None:
        if kind is None:
            self.close()
        elif issubclass(kind, KeyboardInterrupt):
            self._end(Status.STOPPED, NOTHING)
        else:
            self._end(Status.FAILED, say("watch-failed", kind=kind.__name__))

    def _at_exit(self) -> None:
        error = getattr(sys, "last_value", None)  # what no one caught has ended the program
        new = id(error) != self._earlier and not _is_interactive()
        self._close_after(type(error) if new and isinstance(error, BaseException) else None)

    def _broke(self, error: Exception) -> None:
        self._stop_recording(say("watch-broken", error=_told(error)))

    def _not_written(self, error: Exception) -> None:
        why = getattr(error, "strerror", None) or str(error)
        self._stop_recording(say("watch-disk", path=str(self.path), error=str(why)[:200]))

    def _stop_recording(self, message: Message) -> None:
        if self._watcher:  # before it is said: whoever reads that finds nothing measured any more
            self._watcher.dead = True
        self.message = message
        self._say_once(message)

    def _say_once(self, message: Message) -> None:
        if str(message) not in self._said and len(self._said) < 20:
            self._said.add(str(message))
            _log.warning("%s", message)


def _recipe(
    run_id: str, title: str, chance: float | None, rows: Sequence[Row], seen: Seen, behind: Mapping[int, str]
) -> Watched:
    """`behind`: id of a module -> what stands behind it."""
    return Watched(
        run_id, title, Layout(tuple(row.name for row in rows)),
        kinds=tuple(type(row.owner()).__name__ for row in rows),
        entries=tuple(0 if row.weight is None else row.weight.numel() for row in rows),
        tied=tuple((row.name, row.tied) for row in rows if row.tied),
        optimizers=seen.held,
        chance=chance,
        outputs=seen.outputs,
        behind=tuple(behind.get(id(row.user()), "") if not row.why else "" for row in rows),
        precisions=tuple("" if row.weight is None else str(row.weight.dtype).removeprefix("torch.") for row in rows),
    )  # fmt: skip


def _is_interactive() -> bool:
    """Whether somebody types the program: an error ends a line of his then, and not the program."""
    return bool(sys.flags.interactive) or hasattr(sys, "ps1") or hasattr(builtins, "__IPYTHON__")


def _told(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"[:300]


def _optimizers(given: object) -> list[Optimizer] | None:
    if given is None:
        return None
    several = list(given) if isinstance(given, (list, tuple)) else [given]
    found = []
    for each in several:
        inner = getattr(each, "optimizer", None)  # of a library's wrapper
        each = inner if isinstance(inner, Optimizer) else each
        if not isinstance(each, Optimizer):
            raise WatchError(say("watch-optimizer", kind=type(each).__name__))
        found.append(each)
    return found or None


def _unwrapped(model: nn.Module) -> tuple[nn.Module, int, int]:
    """(the net inside its wrappers, processes whose mean a gradient is or 0 if not known, number of this process)"""
    world, rank = 1, 0
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        rank = torch.distributed.get_rank()
        world = 1 if torch.distributed.get_world_size() == 1 else 0
    while True:
        if isinstance(model, nn.parallel.DistributedDataParallel):
            group = model.process_group
            world, rank = torch.distributed.get_world_size(group), torch.distributed.get_rank(group)
            model = model.module
        elif isinstance(model, nn.DataParallel):
            model = model.module
        elif isinstance(inner := getattr(model, "_orig_mod", None), nn.Module):
            model = inner
        else:
            return model, world, rank


def _quiet(model: nn.Module, optimizers: Sequence[Optimizer], rank: int) -> Message:
    """Why nothing is recorded, though nothing is wrong; else NOTHING."""
    for each in (*model.modules(), *optimizers):
        if type(each).__name__ in _ENGINES:
            message = say("watch-engine", engine=type(each).__name__)
            _log.warning("%s", message)
            return message
    return say("watch-rank") if rank else NOTHING


def _refuse(model: nn.Module, optimizers: Sequence[Optimizer] | None) -> None:
    rows = find_rows(model)
    if is_lazy_net(model):
        return
    if not rows:
        raise WatchError(say("watch-no-weights"))
    weights = {id(row.weight) for row in rows}
    held = [weight_ids(each) for each in optimizers or ()]
    if held and weights.isdisjoint(set().union(*held)):
        raise WatchError(say("watch-not-its"))
    weights |= {id(parameter) for parameter in model.parameters()}  # one of several may have the vectors alone
    if any(each.isdisjoint(weights) for each in held):
        raise WatchError(say("watch-not-its"))


def _number(value: object) -> Score | None:
    """None, or an error, for what is no number."""
    if isinstance(value, torch.Tensor):
        if value.numel() != 1 or value.is_complex():
            return None
        if value.device.type == "cpu":
            return float(value.item())
        return value.detach().reshape(()).clone()  # what it is now, whatever is done to it later
    return float(value)  # type: ignore[arg-type]


def _arithmetic(device: torch.device) -> Arithmetic | None:
    try:
        return here(device)
    except (RuntimeError, AssertionError):
        return None
