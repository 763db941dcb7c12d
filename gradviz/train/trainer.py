"""Trainer: training is something you iterate. Each step yields one StepRecord; to stop, stop asking."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Collection, Generator, Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch

from gradviz.messages import NOTHING, Message, say
from gradviz.record.history import StepRecord
from gradviz.record.quantities import QUANTITIES
from gradviz.record.reading import first_nonfinite
from gradviz.record.run import Outcome, Status
from gradviz.record.sample import AnatomySample, sampled_steps
from gradviz.train.ahead import Capture, Lane, cuda_graph, repeated
from gradviz.train.anatomy_probe import AnatomyProbe
from gradviz.train.cores import Cores
from gradviz.train.device import cpu_text, device_text, here
from gradviz.train.layer_probe import LayerProbe
from gradviz.train.step import Step
from gradviz.train.task import Task
from gradviz.train.training import Interrupted, Keeping, never, stop_if_asked

_TESTS = 20  # looks at the test subset over a run at most, the first at step 0
_TEST_EVERY = 10  # steps between two looks, at least
_TEST_BATCH = 250

_CHUNK = 64  # steps of a GPU whose numbers come over together, at most, and
_CHUNK_SECONDS = 0.05  # how long they may have taken
_WARM = 3  # steps before one is captured


class Trainer:
    """One training in the calling thread, measured at every step: a Training (gradviz/train/training.py).

    Iterating yields the StepRecords of steps 0 … steps−1; the gradients of the first are those of the net as it was handed
    in. Then `outcome` says how it ended. It draws nothing at random: the same task gives the same numbers on the same
    `arithmetic`, whatever else runs (but see Arithmetic.repeatable).
    """

    def __init__(
        self,
        task: Task,
        interrupt: Callable[[], bool] = never,
        capture: Capture | None = None,
        sampled: Collection[int] | None = None,
        clock: Callable[[], float] = time.perf_counter,
        begin: int = 0,
        keeping: Keeping | None = None,
        cores: Cores | None = None,
    ):
        """`capture` is what makes a step into its own repetition, on CUDA by default a CUDA graph; see gradviz/train/ahead.py.

        `sampled`: steps that are taken apart, by default those of `sample.sampled_steps`. `clock`: seconds, rising.

        `begin`: the first step, if the task is one in the state before that.
        `cores`: how many threads each step is given on the processor, by default those of the calling thread.
        """
        device = task.weights[0].device
        self.task, self.model = task, task.model
        self.device, self.arithmetic = device_text(device), here(device)
        self._cores = cores if device.type == "cpu" else None
        if self._cores:
            self._cores.begin(begin)
            self.device = cpu_text(self._cores.threads)
            self.arithmetic = self.arithmetic.changed(begin, self._cores.threads)
        self.outcome: Outcome | None = None
        self._stop_if_asked = partial(stop_if_asked, interrupt)
        self.looks_per_step = 2 * len(task.weights)  # times that a step asks `interrupt` on its way
        self._clock = clock
        self._capture = cuda_graph if capture is None and device.type == "cuda" else capture
        self._looks = device.type == "cpu" and capture is None  # at each step before the next is begun
        self._step = Step(task, interrupt, deferred=not self._looks)
        self._begin, self._keeping = begin, keeping
        self._sampled = frozenset(sampled_steps(task.steps) if sampled is None else sampled)
        self._replay: Callable[[], None] | None = None
        self._warm = begin + _WARM  # the first step that may be captured

    def __iter__(self) -> Iterator[StepRecord]:
        task, seconds = self.task, 0.0
        try:
            with closing(self._each() if self._looks else self._ahead()) as records:
                for record in records:
                    seconds = record.seconds
                    yield record
                    if not math.isfinite(record.loss):
                        self.outcome = Outcome(Status.DIVERGED, None, seconds, self._with_trouble(_diverged(record)))
                        return
            if self._keeping:
                self._keeping.keep(task.steps)
            begin = self._clock()  # what was between the steps was not training: pauses, and turns of others
            final = self._accuracy(*task.test)
            deletion = task.deletion(self._accuracy) if task.deletion else None
            seconds += self._clock() - begin
            self.outcome = Outcome(Status.FINISHED, final, seconds, self._with_trouble(), deletion)
        except Interrupted:
            if self._keeping:
                self._keeping.stopped()
            self.outcome = Outcome(Status.STOPPED, None, seconds, self._with_trouble())

    def preview(self) -> StepRecord:
        """Step 0 without its update, on `task.preview` examples; `seconds` estimates one full step on this machine.

        Raises Interrupted if asked to stop meanwhile.
        """
        images = self.task.preview
        begin = self._clock()
        scores = self._step.backward(next(self.task.batches)[:images])
        record = self._record(0, scores.tolist(), self._step.probe.read())
        return replace(record, seconds=(self._clock() - begin) * self.task.batch_size / images)

    def _each(self) -> Generator[StepRecord, None, None]:
        """One step after the other; `seconds` leaves out what a consumer does between two of them."""
        seconds, keeping = 0.0, self._keeping
        for step in range(self._begin, self.task.steps):
            if keeping:
                self._keep(step)
                keeping.begin(step)
            begin = self._clock()
            self._turn(step)
            tested = self._accuracy(*self.task.subset) if step % self._test_interval == 0 else None
            anatomy = self._anatomy_of(step)
            scores = self._step.backward(next(self.task.batches), anatomy).tolist()
            if math.isfinite(scores[0]):  # else there is nothing to learn from it: the weights stay as they were
                self._step.learn(anatomy)
            record = self._record(step, scores, self._step.probe.read(), tested, anatomy.read() if anatomy else None)
            seconds += self._clock() - begin
            if keeping:
                keeping.end()
            if self._cores:
                self._share(self._cores, step, self._clock() - begin, anatomy is None and tested is None)
            yield replace(record, seconds=seconds)
            self._stop_if_asked()

    def _share(self, cores: Cores, step: int, seconds: float, routine: bool) -> None:
        """What this step shows about the number of threads, and what is said of it if it changes."""
        before = cores.threads
        cores.took(seconds, routine)
        if cores.threads != before:
            self.device = cpu_text(cores.threads)
            self.arithmetic = self.arithmetic.changed(step + 1, cores.threads)

    def _ahead(self) -> Generator[StepRecord, None, None]:
        """The same for a GPU: one more chunk of steps is launched before the numbers of the last one are looked at."""
        lane = Lane(self._step.scores.device, _CHUNK, self._step.numbers.numel())
        step, length, seconds = self._begin, 1, 0.0
        waiting: _Chunk | None = None
        ended: Exception | None = None
        try:
            while waiting or (step < self.task.steps and not ended):
                begin = self._clock()
                launched = None
                # The numbers of a sampled step are here already: whoever waits for them need not wait for the next step.
                here = waiting and (waiting.anatomy or not lane.overlaps)
                if step < self.task.steps and not ended and not here:
                    launched = self._launch(lane, step, min(length, self.task.steps - step))
                    step, ended = step + launched.steps, launched.ended
                records = self._arrived(waiting) if waiting else []
                spent = self._clock() - begin
                for place, record in enumerate(records, 1):
                    yield replace(record, seconds=seconds + spent * place / len(records))
                seconds += spent
                steps = max(len(records), launched.steps if launched else 0)
                length = max(1, min(_CHUNK, 2 * length, int(_CHUNK_SECONDS * steps / spent)))
                waiting = launched
            if ended:
                raise ended
        finally:
            lane.close()
            self._replay = None  # and with it the memory that a graph keeps for itself

    def _launch(self, lane: Lane, first: int, length: int) -> _Chunk:
        """So many steps at most: the chunk ends with a sampled one, before one whose state is to be kept, and where somebody asks
        to stop or something fails."""
        steps, kept = 0, self._keeping.steps if self._keeping else ()
        ended, sample, tested = None, None, {}
        with lane.open():
            try:
                self._keep(first)
                while steps < length and not sample and not (steps and first + steps in kept):
                    self._stop_if_asked()
                    self._turn(first + steps)
                    if (first + steps) % self._test_interval == 0:
                        tested[first + steps] = self._right(*self.task.subset)
                    self._step.indices.copy_(next(self.task.batches))
                    anatomy = self._anatomy_of(first + steps)
                    if anatomy or first + steps < self._warm or self._capture is None:
                        self._step.advance(anatomy)
                    elif self._replay is None:
                        self._replay = repeated(self._step, self._capture)
                    else:
                        self._replay()
                    lane.keep(steps, self._step.numbers)
                    steps += 1
                    sample = anatomy.read() if anatomy else None
            except Exception as error:
                ended = error
            return _Chunk(first, steps, lane.send(steps), tested, sample, ended)

    def _arrived(self, chunk: _Chunk) -> list[StepRecord]:
        records: list[StepRecord] = []
        for step, row in enumerate(chunk.numbers(), chunk.first):
            scores, layers = row[:2].tolist(), LayerProbe.table(row[2:].reshape(len(QUANTITIES), -1))
            if not math.isfinite(scores[0]):  # such a step has learnt nothing, whatever the launched ones did to the weights
                layers = LayerProbe.without_update(layers)
            tested = int(chunk.tested[step]) / len(self.task.subset[1]) if step in chunk.tested else None
            last = len(records) == chunk.steps - 1
            records.append(self._record(step, scores, layers, tested, chunk.anatomy if last else None))
        return records

    def _turn(self, step: int) -> None:
        """What changes before this step."""
        if self.task.before and self.task.before(self.task, step):
            self._replay, self._warm = None, step + _WARM

    def _keep(self, step: int) -> None:
        if self._keeping and step in self._keeping.steps and step != self._begin:
            self._keeping.keep(step)

    def _with_trouble(self, message: Message = NOTHING) -> Message:
        """The message, and why a state of the training was not kept."""
        trouble = self._keeping.trouble if self._keeping else NOTHING
        return say("sentences", first=message, second=trouble) if message and trouble else message or trouble

    def _anatomy_of(self, step: int) -> AnatomyProbe | None:
        if step not in self._sampled:
            return None
        self._step.anatomy.begin(step)
        return self._step.anatomy

    def _record(
        self,
        step: int,
        scores: list[float],
        layers: np.ndarray,
        tested: float | None = None,
        anatomy: AnatomySample | None = None,
    ) -> StepRecord:
        """Without its time."""
        loss, accuracy = scores
        where = None if math.isfinite(loss) else first_nonfinite(layers, self.task.layout.names)
        return StepRecord(step, loss, accuracy, layers, 0.0, test_accuracy=tested, nonfinite_layer=where, anatomy=anatomy)

    @property
    def _test_interval(self) -> int:
        return test_interval(self.task.steps)

    def _accuracy(self, images: torch.Tensor, labels: torch.Tensor) -> float:
        return int(self._right(images, labels)) / len(labels)

    @torch.no_grad()
    def _right(self, images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """(), on the device: how many are classified right."""
        self.model.eval()
        right = labels.new_zeros(())
        for start in range(0, len(labels), _TEST_BATCH):
            logits = self.model(images[start : start + _TEST_BATCH], lambda *_: self._stop_if_asked())
            right += (logits.argmax(1) == labels[start : start + _TEST_BATCH]).sum()
        return right


@dataclass(frozen=True, eq=False)
class _Chunk:
    """Steps of a GPU that are launched together."""

    first: int
    steps: int
    numbers: Callable[[], np.ndarray]  # waits for them: (steps, 2 + quantities · layers)
    tested: dict[int, torch.Tensor]  # step -> how much of the test subset was right before it
    anatomy: AnatomySample | None  # of the last step
    ended: Exception | None  # why no step can follow: Interrupted, or what went wrong


def test_interval(steps: int) -> int:
    """Steps between two looks at the test subset: a longer run looks only where a shorter one of the same settings does."""
    interval = _TEST_EVERY
    while steps > _TESTS * interval:
        interval *= 2
    return interval


def _diverged(record: StepRecord) -> Message:
    if record.nonfinite_layer:
        return say("loss-not-finite", loss=str(record.loss), step=record.step, layer=record.nonfinite_layer)
    return say("loss-alone-not-finite", loss=str(record.loss), step=record.step)
