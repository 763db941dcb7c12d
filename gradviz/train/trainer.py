"""Trainer: training is something you iterate. Each step yields one StepRecord; to stop, stop asking."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterator
from contextlib import closing, nullcontext
from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F

from gradviz.lenet.config import ConfigError, RunConfig
from gradviz.lenet.data import Dataset
from gradviz.lenet.net import DeepLeNet, initialise
from gradviz.record.history import StepRecord
from gradviz.record.quantities import QUANTITIES
from gradviz.record.reading import first_nonfinite
from gradviz.record.run import Outcome, Status
from gradviz.record.sample import AnatomySample, BlockDeletion, deleted_blocks, sampled_steps
from gradviz.train.ahead import Capture, Lane, cuda_graph
from gradviz.train.anatomy_probe import AnatomyProbe
from gradviz.train.device import device_text, here
from gradviz.train.layer_probe import LayerProbe
from gradviz.train.training import Interrupted, never
from gradviz.train.treatment import steer, treat
from gradviz.words import gettext as _

_log = logging.getLogger(__name__)

_TESTS = 20  # looks at the test subset over a run, the first at step 0
_TEST_EVERY = 10  # steps between two looks, at least
_TEST_BATCH = 250


_CHUNK = 64  # steps of a GPU whose numbers come over together, at most, and
_CHUNK_SECONDS = 0.05  # how long they may have taken
_WARM = 3  # steps before one is captured
# Of the replay's numbers so many must be the same, relatively, or be as small: a kernel may add up in another order each time.
_SAME, _TINY, _MOST = 0.01, 1e-30, 0.95


def preview_images(config: RunConfig) -> int:
    """Batch of the preview: the run's own, or smaller where a thousand blocks would keep the reader waiting."""
    return min(config.batch_size, max(8, 16_000 // max(1, config.blocks)))


class Trainer:
    """One training of a DeepLeNet, measured at every step.

    Iterating yields the StepRecords of steps 0 … steps−1; the gradients of step 0 are those of the net as
    initialised. Then `outcome` says how it ended. All randomness comes from one generator seeded by the config: the
    same config gives the same numbers on the same `arithmetic`, whatever else runs (but see Arithmetic.repeatable).
    """

    def __init__(
        self,
        config: RunConfig,
        data: Dataset,
        device: torch.device,
        interrupt: Callable[[], bool] = never,
        capture: Capture | None = None,
    ):
        """`capture` is what makes a step into its own repetition, on CUDA by default a CUDA graph; see gradviz/ahead.py.

        Raises ConfigError if the data set has fewer images than a batch: no epoch would ever have one.
        """
        if config.batch_size > (images := len(data.train_labels)):
            text = _("Batch size (batch_size) must be at most {images}, the training images of this data set; {size} is not.")
            raise ConfigError("batch_size", text.format(images=images, size=config.batch_size))
        self.config = config
        self.data = data.to(device)
        self.device = device_text(device)
        self.arithmetic = here(device)
        self.outcome: Outcome | None = None
        self._interrupt = interrupt
        self._capture = cuda_graph if capture is None and device.type == "cuda" else capture
        self._looks = device.type == "cpu" and capture is None  # at each step before the next is begun
        self._generator = torch.Generator().manual_seed(config.seed)
        self.model = DeepLeNet(config)
        initialise(self.model, config.init_range or config.init, self._generator, self.data.train_images, self._stop_if_asked)
        steer(config.treatment, config.threshold, self.model.weight_layers)
        # channels_last suits the CPU's convolution kernels for 16 channels: ×0.9 of the time (benchmarks/).
        self.model.to(device, memory_format=torch.channels_last if device.type == "cpu" else torch.preserve_format)
        self._parameters = list(self.model.parameters())
        self._optimizer = _optimizer(config, self._parameters)
        self._probe = LayerProbe(self.model, interrupt, deferred=not self._looks)
        self._anatomy = AnatomyProbe(self.model, config)
        self._sampled = frozenset(sampled_steps(config.steps))
        self._batches = _batches(len(self.data.train_labels), config.batch_size, self._generator, device)
        self._indices = torch.empty(config.batch_size, dtype=torch.long, device=device)  # of the step that is launched
        self._scores = torch.empty(2, device=device)  # its loss and accuracy
        self._replay: Callable[[], None] | None = None

    def __iter__(self) -> Iterator[StepRecord]:
        seconds = 0.0
        try:
            with closing(self._each() if self._looks else self._ahead()) as records:
                for record in records:
                    seconds = record.seconds
                    yield record
                    if not math.isfinite(record.loss):
                        self.outcome = Outcome(Status.DIVERGED, None, seconds, _diverged(record))
                        return
            begin = time.perf_counter()  # what was between the steps was not training: pauses, and turns of others
            final, deletion = self._accuracy(self.data.test_images, self.data.test_labels), self._deletion()
            self.outcome = Outcome(Status.FINISHED, final, seconds + time.perf_counter() - begin, deletion=deletion)
        except Interrupted:
            self.outcome = Outcome(Status.STOPPED, None, seconds)

    def preview(self) -> StepRecord:
        """Step 0 without its update, on `preview_images(config)` images; `seconds` estimates one full step on this machine.

        Raises Interrupted if asked to stop meanwhile.
        """
        images = preview_images(self.config)
        begin = time.perf_counter()
        scores = self._backward(next(self._batches)[:images])
        record = self._record(0, scores.tolist(), self._probe.read())
        return replace(record, seconds=(time.perf_counter() - begin) * self.config.batch_size / images)

    def _each(self) -> Iterator[StepRecord]:
        """One step after the other; `seconds` leaves out what a consumer does between two of them."""
        seconds = 0.0
        for step in range(self.config.steps):
            begin = time.perf_counter()
            tested = self._accuracy(*self._test_subset) if step % self._test_interval == 0 else None
            anatomy = self._anatomy_of(step)
            scores = self._backward(next(self._batches), anatomy).tolist()
            if math.isfinite(scores[0]):  # else there is nothing to learn from it: the weights stay as they were
                self._learn(anatomy)
            record = self._record(step, scores, self._probe.read(), tested, anatomy.read() if anatomy else None)
            seconds += time.perf_counter() - begin
            yield replace(record, seconds=seconds)
            if self._interrupt():
                raise Interrupted

    def _ahead(self) -> Iterator[StepRecord]:
        """The same for a GPU: one more chunk of steps is launched before the numbers of the last one are looked at."""
        lane = Lane(self._scores.device, _CHUNK, len(self._scores) + self._probe.numbers.numel())
        step, length, seconds = 0, 1, 0.0
        waiting: _Chunk | None = None
        ended: Exception | None = None
        try:
            while waiting or (step < self.config.steps and not ended):
                begin = time.perf_counter()
                launched = None
                # The numbers of a sampled step are here already: whoever waits for them need not wait for the next step.
                here = waiting and (waiting.anatomy or not lane.overlaps)
                if step < self.config.steps and not ended and not here:
                    launched = self._launch(lane, step, min(length, self.config.steps - step))
                    step, ended = step + launched.steps, launched.ended
                records = self._arrived(waiting) if waiting else []
                spent = time.perf_counter() - begin
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
        """So many steps at most: the chunk ends with a sampled one, and where somebody asks to stop or something fails."""
        chunk = _Chunk(first)
        with lane.open():
            try:
                while chunk.steps < length and not chunk.anatomy:
                    self._stop_if_asked()
                    step = first + chunk.steps
                    if step % self._test_interval == 0:
                        chunk.tested[step] = self._right(*self._test_subset)
                    self._indices.copy_(next(self._batches))
                    anatomy = self._anatomy_of(step)
                    if anatomy or step < _WARM or self._capture is None:
                        self._advance(anatomy)
                    else:
                        self._repeat()
                    lane.keep(chunk.steps, self._scores, self._probe.numbers)
                    chunk.steps += 1
                    chunk.anatomy = anatomy.read() if anatomy else None
            except Exception as error:
                chunk.ended = error
            chunk.numbers = lane.send(chunk.steps)
        return chunk

    def _arrived(self, chunk: _Chunk) -> list[StepRecord]:
        records = []
        for step, row in enumerate(chunk.numbers(), chunk.first):
            scores, layers = row[:2].tolist(), LayerProbe.table(row[2:].reshape(len(QUANTITIES), -1))
            if not math.isfinite(scores[0]):  # such a step has learnt nothing, whatever the launched ones did to the weights
                layers = LayerProbe.without_update(layers)
            tested = int(chunk.tested[step]) / len(self._test_subset[1]) if step in chunk.tested else None
            last = len(records) == chunk.steps - 1
            records.append(self._record(step, scores, layers, tested, chunk.anatomy if last else None))
        return records

    def _advance(self, anatomy: AnatomyProbe | None = None) -> None:
        """One whole step on the batch of `_indices`, without a look at its numbers unless it is sampled."""
        self._scores.copy_(self._backward(self._indices, anatomy))
        if anatomy and not math.isfinite(self._scores[0]):
            return  # as on a CPU; a routine step finds out later, when nobody asks any more what it has learnt
        self._learn(anatomy)

    def _repeat(self) -> None:
        if self._replay is None:
            self._replay = self._captured()
        else:
            self._replay()

    def _captured(self) -> Callable[[], None]:
        """Takes a step twice, as it is and by its capture; what comes next is repeated the second way if both gave the same."""
        state = [*self._parameters, *self.model.buffers(), *self._probe.state]
        state += [value for values in self._optimizer.state.values() for value in values.values() if torch.is_tensor(value)]
        before = [tensor.detach().clone() for tensor in state]

        @torch.no_grad()
        def put_back() -> None:
            for tensor, old in zip(state, before, strict=True):
                tensor.copy_(old)

        self._advance()
        expected = torch.cat((self._scores, self._probe.numbers.flatten()))
        self._scores.fill_(-1)  # a replay that does nothing would leave them
        self._probe.numbers.fill_(-1)
        put_back()
        try:
            replay = self._capture(self._advance)
            replay()
            got = torch.cat((self._scores, self._probe.numbers.flatten()))
            same = torch.isclose(got, expected, rtol=_SAME, atol=_TINY, equal_nan=True).float().mean()
            if same >= _MOST:
                return replay
            _log.warning("The training step is not replayed, %.0f %% of its numbers come out other.", 100 * (1 - same))
        except RuntimeError:
            _log.warning("The training step is not captured; its kernels are launched one by one.", exc_info=True)
        put_back()
        self._advance()
        return self._advance

    def _anatomy_of(self, step: int) -> AnatomyProbe | None:
        if step not in self._sampled:
            return None
        self._anatomy.begin(step)
        return self._anatomy

    def _backward(self, indices: torch.Tensor, anatomy: AnatomyProbe | None = None) -> torch.Tensor:
        """Forward and backward pass, measured; (2,): loss and accuracy."""
        if not self.model.training:  # after a look at the test images
            self.model.train()
        self._optimizer.zero_grad(set_to_none=True)
        labels = self.data.train_labels[indices]
        watch = anatomy.watching(self._probe.watch) if anatomy else self._probe.watch
        with anatomy.on_the_paths() if anatomy else nullcontext():
            logits = self.model(self.data.train_images[indices], watch)
            loss = F.cross_entropy(logits, labels)
            loss.backward()
        self._probe.after_backward()
        if anatomy:
            anatomy.after_backward()
        return torch.stack((loss.detach(), (logits.detach().argmax(1) == labels).float().mean()))

    def _learn(self, anatomy: AnatomyProbe | None) -> None:
        if self.config.treatment != "none":
            treat(self.config.treatment, self.config.threshold, self._parameters)
            self._probe.after_treatment()
            if anatomy:
                anatomy.after_treatment()
        self._optimizer.step()
        self._probe.after_step()
        if anatomy:
            anatomy.after_step(self._probe.undone)

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
        where = None if math.isfinite(loss) else first_nonfinite(layers, self.config.layout.names)
        return StepRecord(step, loss, accuracy, layers, 0.0, test_accuracy=tested, nonfinite_layer=where, anatomy=anatomy)

    @property
    def _test_interval(self) -> int:
        return max(_TEST_EVERY, -(-self.config.steps // _TESTS))

    @property
    def _test_subset(self) -> tuple[torch.Tensor, torch.Tensor]:
        """The first test images, 250 or fewer in deep nets, and their labels: more would keep the first point from the screen."""
        count = min(250, max(64, 12_000 // max(1, self.config.blocks)), len(self.data.test_labels))
        return self.data.test_images[:count], self.data.test_labels[:count]

    def _deletion(self) -> BlockDeletion | None:
        """The accuracy without single blocks, on the test subset; None without shortcut, or if asked to stop."""
        images, labels = (part[:_TEST_BATCH] for part in self._test_subset)
        count, blocks = len(labels), self.model.blocks
        chosen = deleted_blocks(self.config.blocks, count, self.config.steps, self.config.batch_size).tolist()
        if not (self.config.shortcut and chosen):
            return None
        inputs: dict[int, torch.Tensor] = {}

        def keep(number: int, _module: torch.nn.Module, arguments: tuple) -> None:
            inputs[number] = arguments[0]

        handles = [blocks[number].register_forward_pre_hook(partial(keep, number)) for number in chosen]
        try:
            full = self._accuracy(images, labels)
            for handle in handles:
                handle.remove()
            self.model.blocks = torch.nn.ModuleList()
            without_all = self._accuracy(images, labels)
            accuracies = []
            for number in chosen:
                self.model.blocks = torch.nn.ModuleList([_Given(inputs[number]), *blocks[number + 1 :]])
                accuracies.append(self._accuracy(images, labels))
        except Interrupted:
            return None
        finally:
            self.model.blocks = blocks
        return BlockDeletion(count, full, without_all, tuple(chosen), tuple(accuracies))

    def _accuracy(self, images: torch.Tensor, labels: torch.Tensor) -> float:
        return int(self._right(images, labels)) / len(labels)

    @torch.no_grad()
    def _right(self, images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """(), on the device: how many are classified right."""
        self.model.eval()
        right = labels.new_zeros(())
        for start in range(0, len(labels), _TEST_BATCH):
            logits = self.model(images[start : start + _TEST_BATCH], self._stop_if_asked)
            right += (logits.argmax(1) == labels[start : start + _TEST_BATCH]).sum()
        return right

    def _stop_if_asked(self, *_: object) -> None:
        if self._interrupt():
            raise Interrupted


@dataclass
class _Chunk:
    """Steps of a GPU that are launched together."""

    first: int
    steps: int = 0
    ended: Exception | None = None  # why no step can follow: Interrupted, or what went wrong
    numbers: Callable[[], np.ndarray] | None = None  # waits for them: (steps, 2 + quantities · layers)
    tested: dict[int, torch.Tensor] = field(default_factory=dict)  # step -> how much of the test subset was right before it
    anatomy: AnatomySample | None = None  # of the last step


class _Given(torch.nn.Module):
    """Stands for the blocks below, whose output is known already."""

    def __init__(self, output: torch.Tensor):
        super().__init__()
        self._output = output

    def forward(self, *_: object) -> torch.Tensor:
        return self._output


def _batches(count: int, size: int, generator: torch.Generator, device: torch.device) -> Iterator[torch.Tensor]:
    """Places of `size` examples: shuffled epochs without end; what is left over at an epoch's end is dropped."""
    while count >= size:  # an epoch without a batch would be asked for another for ever
        order = torch.randperm(count, generator=generator)
        order = order.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else order.to(device)
        for start in range(0, count - size + 1, size):
            yield order[start : start + size]


def _optimizer(config: RunConfig, parameters: list[torch.nn.Parameter]) -> torch.optim.Optimizer:
    """Adam (Kingma & Ba 2015) or SGD with PyTorch's defaults, in their fused form: one kernel for all parameters."""
    device = parameters[0].device.type
    fused = device in ("cpu", "cuda")
    if config.optimizer == "adam":
        return torch.optim.Adam(parameters, lr=config.lr, fused=fused, capturable=device == "cuda")
    return torch.optim.SGD(parameters, lr=config.lr, momentum=0.9 if config.optimizer == "momentum" else 0.0, fused=fused)


def _diverged(record: StepRecord) -> str:
    where = f"inf or nan first appears in {record.nonfinite_layer}" if record.nonfinite_layer else "all layers are still finite"
    return f"The loss is {record.loss} at step {record.step}; {where}."
