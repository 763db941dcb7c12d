"""The way of a GPU's steps, tried on a CPU: a tape of operations stands for the CUDA graph.

The tape does what a graph does: it writes down what is launched, without its taking place, and repeats that on the same
memory. So it finds whatever a step leaves to Python that should be on the device: a number looked at, a buffer exchanged,
a counter kept in a variable.
"""

import gc
import itertools
import logging
import math
import time
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from ways import WAYS

from gradviz.lenet.config import TREATMENTS, RunConfig
from gradviz.lenet.data import Dataset, Shelf
from gradviz.lenet.experiment import task, training
from gradviz.record.history import StepRecord
from gradviz.record.quantities import QUANTITIES
from gradviz.record.run import Status
from gradviz.record.sample import sampled_steps
from gradviz.train.step import Step
from gradviz.train.trainer import Trainer
from gradviz.train.training import never

pytestmark = pytest.mark.trains
CPU = torch.device("cpu")
aten = torch.ops.aten
ROW = {name: row for row, name in enumerate(QUANTITIES)}


def tensors(tree: object) -> list[torch.Tensor]:
    return [leaf for leaf in tree_leaves(tree) if torch.is_tensor(leaf)]


class Tape(TorchDispatchMode):
    """What a step launches, in order; `replay` does it again, each result in the memory of the first time."""

    def __init__(self, fails_at: int | None = None) -> None:
        super().__init__()
        self.fails_at = fails_at
        self.operations: list[tuple] = []
        self.replays = 0
        self.from_outside: list[StorageWeakRef] = []
        self._made: set[int] = set()  # addresses of memory
        self._outside: set[int] = set()
        self._changed: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}

    def __call__(self, step: Callable[[], None]) -> Callable[[], None]:
        with self:
            step()
        for tensor, before in self._changed.values():
            with torch.no_grad():
                tensor.copy_(before)
        self._changed.clear()
        return self.replay

    def __torch_dispatch__(self, function, types, arguments=(), options=None):
        options = options or {}
        # A look at a number, and a number of Python's made into a tensor, which on a GPU is a copy that is waited for.
        if function in (aten._local_scalar_dense.default, aten.nonzero.default, aten.lift_fresh.default):
            raise RuntimeError(f"{function} is not permitted in a capture")
        if len(self.operations) == self.fails_at:
            raise RuntimeError("operation not permitted when stream is capturing")
        for declared, given in zip(function._schema.arguments, arguments, strict=False):
            for tensor in tensors(given):
                written = bool(declared.alias_info and declared.alias_info.is_write)
                self._seen(tensor, written or declared.name in ("running_mean", "running_var", "state_steps"))
        for name, given in options.items():
            for tensor in tensors(given):
                self._seen(tensor, name == "out")
        result = function(*arguments, **options)
        self._made |= {tensor.untyped_storage().data_ptr() for tensor in tensors(result)} - self._outside
        self.operations.append((function, arguments, options, result))
        return result

    def _seen(self, tensor: torch.Tensor, written: bool) -> None:
        place = tensor.untyped_storage().data_ptr()
        if place in self._made:
            return
        self._outside.add(place)
        self.from_outside.append(StorageWeakRef(tensor.untyped_storage()))
        if written and place not in self._changed:
            whole = tensor.detach().new_empty(0).set_(tensor.untyped_storage())
            self._changed[place] = whole, whole.clone()

    @torch.no_grad()
    def replay(self) -> None:
        self.replays += 1
        for function, arguments, options, result in self.operations:
            for old, new in zip(tensors(result), tensors(function(*arguments, **options)), strict=True):
                if old.data_ptr() != new.data_ptr():
                    old.copy_(new)


@pytest.fixture(scope="module")
def digits(tmp_path_factory) -> Dataset:
    return Shelf(tmp_path_factory.mktemp("data"), download=False).load("digits")


def config(**changes) -> RunConfig:
    return RunConfig(**{**dict(activation="relu", blocks=2, dataset="digits", batch_size=16, steps=24), **changes})


def assert_same(got: list[StepRecord], expected: list[StepRecord]) -> None:
    assert [record.step for record in got] == [record.step for record in expected]
    assert [record.loss for record in got] == pytest.approx([record.loss for record in expected], rel=1e-4, nan_ok=True)
    assert [record.accuracy for record in got] == [record.accuracy for record in expected]
    assert [record.test_accuracy for record in got] == [record.test_accuracy for record in expected]
    assert [record.nonfinite_layer for record in got] == [record.nonfinite_layer for record in expected]
    for one, other in zip(got, expected, strict=True):
        np.testing.assert_allclose(one.layers, other.layers, rtol=2e-3, err_msg=f"step {one.step}")
        assert (one.anatomy is None) == (other.anatomy is None)
        assert one.anatomy is None or one.anatomy.kinds == other.anatomy.kinds


@pytest.mark.parametrize("changes", WAYS, ids=str)
def test_replayed_steps_give_the_records_of_steps_that_are_waited_for(digits, changes):
    tape = Tape()
    ahead, waited_for = training(config(**changes), digits, CPU, capture=tape), training(config(**changes), digits, CPU)
    assert_same(list(ahead), list(waited_for))
    assert tape.replays == 24 - len([0, 1, 2, 5, 10, 20, 23])  # the sampled steps are taken apart, and cannot be routine
    assert ahead.outcome.test_accuracy == waited_for.outcome.test_accuracy
    for one, other in zip(ahead.model.parameters(), waited_for.model.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("treatment", TREATMENTS)
@pytest.mark.parametrize("norm", [dict(batch_norm=True), dict(other_norm="group", activation="sigmoid"), dict(shortcut=True)])
def test_a_step_looks_at_none_of_its_numbers(digits, treatment, norm):
    """On the meta device tensors have shapes and no numbers; nor can what lies there be mixed with what lies elsewhere."""
    meta = torch.device("meta")
    with pytest.raises(RuntimeError):
        torch.empty((), device=meta).item()
    todo = task(config(treatment=treatment, **norm), digits, meta)
    step = Step(todo, never, deferred=True)
    for _ in range(2):
        step.indices.copy_(next(todo.batches))
        step.advance()
    assert step.numbers.device == meta


def test_all_that_a_captured_step_reads_outlives_the_capture(digits):
    """A graph's replay would read memory that something else has got meanwhile."""
    tape = Tape()
    trainer = training(config(treatment="feedback", threshold=1e-4, batch_norm=True, shortcut=True), digits, CPU, capture=tape)
    records = iter(trainer)
    while not tape.replays:
        next(records)
    tape.operations.clear()
    gc.collect()
    assert len(tape.from_outside) > 50
    assert not any(storage.expired() for storage in tape.from_outside)


@pytest.mark.parametrize("later", [False, True], ids=["at step 0", "in the middle of a chunk"])
def test_a_divergence_is_found_at_its_step_though_later_ones_were_launched(digits, later):
    tape = Tape()
    changes = dict(optimizer="momentum", lr=3.0, blocks=12, shortcut=True) if later else dict(blocks=40, init_range=0.5)
    ahead, waited_for = training(config(**changes), digits, CPU, capture=tape), training(config(**changes), digits, CPU)
    got, expected = list(ahead), list(waited_for)
    assert not math.isfinite(got[-1].loss)
    if later:
        until_then = set(range(3, got[-1].step + 1)) - set(sampled_steps(24))
        assert 3 < got[-1].step and tape.replays > len(until_then)
    else:
        assert got[-1].step == 0
    assert np.isnan(got[-1].layers[ROW["update_ratio"]]).all()
    assert ahead.outcome.status == waited_for.outcome.status == Status.DIVERGED
    messages = ahead.outcome.message, waited_for.outcome.message
    assert messages[0].code == messages[1].code and messages[0].arguments.get("layer") == messages[1].arguments.get("layer")
    if not later:  # chaos: rounding decides in which step it leaves float32
        assert_same(got, expected)


def refused(step: Callable[[], None]) -> Callable[[], None]:
    raise RuntimeError("operation not permitted")


def idle(step: Callable[[], None]) -> Callable[[], None]:
    Tape()(step)
    return lambda: None


def double(step: Callable[[], None]) -> Callable[[], None]:
    replay = Tape()(step)

    def twice() -> None:
        replay()
        replay()

    return twice


@pytest.mark.parametrize("capture, reason", [
    (refused, "not captured"), (idle, "not replayed"), (double, "not replayed"),
    *[(Tape(fails_at=place), "not captured") for place in (0, 40, 150, 250)],
], ids=["refused", "idle", "double", "first operation", "forward", "backward", "later"])  # fmt: skip
def test_a_step_that_cannot_be_captured_is_launched_as_it_is(digits, capture, reason, caplog):
    with caplog.at_level(logging.WARNING):
        records = list(training(config(batch_norm=True), digits, CPU, capture=capture))
    assert_same(records, list(training(config(batch_norm=True), digits, CPU)))
    assert len(caplog.records) == 1 and reason in caplog.text


def test_when_a_step_fails_the_steps_before_it_are_still_given(digits):
    routine = []

    def failing(step: Callable[[], None]) -> Callable[[], None]:
        replay = Tape()(step)

        def repeat() -> None:
            routine.append(1)
            if len(routine) == 8:
                raise RuntimeError("out of memory")
            replay()

        return repeat

    records = []
    with pytest.raises(RuntimeError, match="out of memory"):
        for record in training(config(), digits, CPU, capture=failing):
            records.append(record)
    assert [record.step for record in records] == list(range(12))  # 0, 1, 2, 5 and 10 are sampled: the eighth other is 12


@pytest.mark.parametrize("asked_at", [1, 40, 110, 130, 200])
def test_when_asked_to_stop_the_steps_that_are_complete_are_still_given(digits, asked_at):
    asked = None

    def interrupt() -> bool:
        nonlocal asked
        asked = asked and asked - 1
        return asked == 0

    trainer = training(config(), digits, CPU, interrupt, capture=Tape())
    asked = asked_at  # from here on: a net that is still being made has no steps to give
    records = list(trainer)
    assert trainer.outcome.status is Status.STOPPED
    expected = []
    for record in training(config(), digits, CPU):
        if len(expected) < len(records):
            expected.append(record)
    assert len(records) < 24
    assert_same(records, expected)


def test_time_is_counted_from_step_to_step_without_the_readers_own(digits):
    lost = [0.0]  # seconds that the reader of the records took for himself
    seconds = []
    for record in Trainer(task(config(), digits, CPU), capture=Tape(), clock=lambda: time.perf_counter() + lost[0]):
        seconds.append(record.seconds)
        lost[0] += 1000
    assert seconds[0] > 0 and all(a < b for a, b in itertools.pairwise(seconds))
    assert seconds[-1] < 1000
