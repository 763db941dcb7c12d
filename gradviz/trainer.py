"""Trainer: training is something you iterate. Each step yields one StepRecord; to stop, stop asking."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import replace
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F

from gradviz.anatomy import BlockDeletion, deleted_blocks, sampled_steps
from gradviz.config import ConfigError, RunConfig
from gradviz.data import Dataset
from gradviz.model import DeepLeNet, initialise
from gradviz.probe import AnatomyProbe, Interrupted, LayerProbe, first_nonfinite
from gradviz.runs import Outcome, Status, StepRecord
from gradviz.treatment import steer, treat

_TESTS = 20  # looks at the test subset over a run, the first at step 0
_TEST_EVERY = 10  # steps between two looks, at least
_TEST_BATCH = 250


_UNREAD = np.empty((0, 0), np.float32)  # of a step whose numbers are not complete yet


def never() -> bool:
    return False


def resolve_device(word: str) -> torch.device:
    """The device of config.DEVICES on this machine. Raises ConfigError if it has none."""
    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if word == "auto":
        word = next(name for name, available in there.items() if available)
    if not there[word]:
        have = ", ".join(name for name, available in there.items() if available)
        raise ConfigError("device", f"Device (device) {word} is not on this machine; it has {have}.")
    return torch.device(word)


def device_text(device: torch.device) -> str:
    """What the run got, in words: 'cpu, 1 thread' or 'cuda, NVIDIA H100'."""
    if device.type == "cpu":
        threads = torch.get_num_threads()
        return f"cpu, {threads} thread{'s' * (threads != 1)}"
    return f"cuda, {torch.cuda.get_device_name(device)}" if device.type == "cuda" else device.type


def preview_images(config: RunConfig) -> int:
    """Batch of the preview: the run's own, or smaller where a thousand blocks would keep the reader waiting."""
    return min(config.batch_size, max(8, 16_000 // max(1, config.blocks)))


class Trainer:
    """One training of a DeepLeNet, measured at every step.

    Iterating yields the StepRecords of steps 0 … steps−1; the gradients of step 0 are those of the net as
    initialised. Then `outcome` says how it ended. All randomness comes from one generator seeded by the config: the
    same config gives the same numbers on the same device with the same number of threads, whatever else runs.
    """

    def __init__(
        self, config: RunConfig, data: Dataset, device: torch.device, interrupt: Callable[[], bool] = never
    ):
        self.config = config
        self.data = data.to(device)
        self.device = device
        self.outcome: Outcome | None = None
        self._interrupt = interrupt
        self._generator = torch.Generator().manual_seed(config.seed)
        self.model = DeepLeNet(config)
        initialise(self.model, config.init_range or config.init, self._generator, self.data.train_images)
        steer(config.treatment, config.threshold, self.model.weight_layers)
        # channels_last suits the CPU's convolution kernels for 16 channels: ×0.9 of the time (benchmarks/).
        self.model.to(device, memory_format=torch.channels_last if device.type == "cpu" else torch.preserve_format)
        self._parameters = list(self.model.parameters())
        self._optimizer = _optimizer(config, self._parameters)
        self._probe = LayerProbe(self.model, interrupt, deferred=device.type != "cpu")
        self._anatomy = AnatomyProbe(self.model, config)
        self._sampled = frozenset(sampled_steps(config.steps))
        self._batches = self._batch_indices()

    def __iter__(self) -> Iterator[StepRecord]:
        started = time.perf_counter()
        seconds = 0.0  # a consumer that pauses between two records is not training time
        try:
            for step in range(self.config.steps):
                begin = time.perf_counter()
                tested = self._subset_accuracy() if step % self._test_interval == 0 else None
                record = self._step(step)
                seconds += time.perf_counter() - begin
                yield replace(record, test_accuracy=tested, seconds=seconds)
                if not math.isfinite(record.loss):
                    self.outcome = Outcome(Status.DIVERGED, None, seconds, _diverged(record))
                    return
                if self._interrupt():
                    raise Interrupted
            final = self._accuracy(self.data.test_images, self.data.test_labels)
            self.outcome = Outcome(Status.FINISHED, final, time.perf_counter() - started, deletion=self._deletion())
        except Interrupted:
            self.outcome = Outcome(Status.STOPPED, None, seconds)

    def preview(self) -> StepRecord:
        """Step 0 without its update, on `preview_images(config)` images; `seconds` estimates one full step on this machine.

        Raises Interrupted if asked to stop meanwhile.
        """
        images = preview_images(self.config)
        begin = time.perf_counter()
        record = self._measure(0, next(self._batches)[:images])
        estimate = (time.perf_counter() - begin) * self.config.batch_size / images
        return replace(record, layers=self._probe.read(), seconds=estimate)

    def _step(self, step: int) -> StepRecord:
        anatomy = self._anatomy if step in self._sampled else None
        record = self._measure(step, next(self._batches), anatomy)
        if not math.isfinite(record.loss):
            # Nothing to learn from it: the weights stay as they were.
            return replace(record, anatomy=anatomy.read()) if anatomy else record
        if self.config.treatment != "none":
            treat(self.config.treatment, self.config.threshold, self._parameters)
            self._probe.after_treatment()
            if anatomy:
                anatomy.after_treatment()
        self._optimizer.step()
        self._probe.after_step()
        if anatomy:
            anatomy.after_step(self._probe.undone)
        return replace(record, layers=self._probe.read(), anatomy=anatomy.read() if anatomy else None)

    def _measure(self, step: int, indices: torch.Tensor, anatomy: AnatomyProbe | None = None) -> StepRecord:
        if not self.model.training:  # after a look at the test images
            self.model.train()
        self._optimizer.zero_grad(set_to_none=True)
        labels = self.data.train_labels[indices]
        watch = self._probe.watch
        if anatomy:
            anatomy.begin(step)
            watch = anatomy.watching(watch)
        with anatomy.on_the_paths() if anatomy else nullcontext():
            logits = self.model(self.data.train_images[indices], watch)
            loss = F.cross_entropy(logits, labels)
            loss.backward()
        self._probe.after_backward()
        if anatomy:
            anatomy.after_backward()
        accuracy = (logits.detach().argmax(1) == labels).float().mean()
        if math.isfinite(loss.item()):
            return StepRecord(step, loss.item(), accuracy.item(), _UNREAD, 0.0)
        layers = self._probe.read()
        where = first_nonfinite(layers, self.config.layer_names)
        return StepRecord(step, loss.item(), accuracy.item(), layers, 0.0, nonfinite_layer=where)

    def _batch_indices(self) -> Iterator[torch.Tensor]:
        """Shuffled epochs without end; what is left over at an epoch's end is dropped."""
        count, batch = len(self.data.train_labels), self.config.batch_size
        while True:
            order = torch.randperm(count, generator=self._generator).to(self.device)
            for start in range(0, count - batch + 1, batch):
                yield order[start : start + batch]

    @property
    def _test_interval(self) -> int:
        return max(_TEST_EVERY, -(-self.config.steps // _TESTS))

    def _subset_accuracy(self) -> float:
        """On the first test images: 250, or fewer in deep nets; more would keep the first point from the screen."""
        count = self._subset
        return self._accuracy(self.data.test_images[:count], self.data.test_labels[:count])

    @property
    def _subset(self) -> int:
        return min(250, max(64, 12_000 // max(1, self.config.blocks)), len(self.data.test_labels))

    def _deletion(self) -> BlockDeletion | None:
        """The accuracy without single blocks, on the test subset; None without shortcut, or if asked to stop."""
        count, blocks = min(_TEST_BATCH, self._subset), self.model.blocks
        chosen = deleted_blocks(self.config.blocks, count, self.config.steps, self.config.batch_size).tolist()
        if not (self.config.shortcut and chosen):
            return None
        images, labels = self.data.test_images[:count], self.data.test_labels[:count]
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

    @torch.no_grad()
    def _accuracy(self, images: torch.Tensor, labels: torch.Tensor) -> float:
        self.model.eval()
        right = 0
        for start in range(0, len(labels), _TEST_BATCH):
            logits = self.model(images[start : start + _TEST_BATCH], self._stop_if_asked)
            right += int((logits.argmax(1) == labels[start : start + _TEST_BATCH]).sum())
        return right / len(labels)

    def _stop_if_asked(self, index: int, z: torch.Tensor, h: torch.Tensor) -> None:
        if self._interrupt():
            raise Interrupted


class _Given(torch.nn.Module):
    """Stands for the blocks below, whose output is known already."""

    def __init__(self, output: torch.Tensor):
        super().__init__()
        self._output = output

    def forward(self, *_: object) -> torch.Tensor:
        return self._output


def _optimizer(config: RunConfig, parameters: list[torch.nn.Parameter]) -> torch.optim.Optimizer:
    """Adam (Kingma & Ba 2015) or SGD with PyTorch's defaults, in their fused form: one kernel for all parameters."""
    fused = parameters[0].device.type in ("cpu", "cuda")
    if config.optimizer == "adam":
        return torch.optim.Adam(parameters, lr=config.lr, fused=fused)
    return torch.optim.SGD(parameters, lr=config.lr, momentum=0.9 if config.optimizer == "momentum" else 0.0, fused=fused)


def _diverged(record: StepRecord) -> str:
    where = f"inf or nan first appears in {record.nonfinite_layer}" if record.nonfinite_layer else "all layers are still finite"
    return f"The loss is {record.loss} at step {record.step}; {where}."
