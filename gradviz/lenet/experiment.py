"""The article's experiment: a config and a data set become a training."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch import nn

from gradviz.lenet.activations import ACTIVATIONS
from gradviz.lenet.changes import Knobs
from gradviz.lenet.config import RunConfig
from gradviz.lenet.data import Dataset, Shelf
from gradviz.lenet.fields import ConfigError
from gradviz.lenet.idx import DataError
from gradviz.lenet.net import DeepLeNet, initialise
from gradviz.messages import say
from gradviz.record.arithmetic import Arithmetic
from gradviz.record.layout import Layout
from gradviz.record.sample import BlockDeletion, deleted_blocks
from gradviz.train.ahead import Capture
from gradviz.train.device import NoDevice, find_device, here, keep_float32
from gradviz.train.task import Accuracy, Examples, Shortcut, Task
from gradviz.train.trainer import Trainer
from gradviz.train.training import Interrupted, Train, never, stop_if_asked
from gradviz.train.treatment import Treat, steer, treat

_DELETION_IMAGES = 250  # of the test subset


def resolve_device(word: str) -> torch.device:
    """The device of the setting on this machine. Raises ConfigError if it has none."""
    try:
        return find_device(word)
    except NoDevice as error:
        raise ConfigError("device", error.message) from None


def arithmetic_of(config: RunConfig, threads: int | None = None) -> Arithmetic | None:
    """What a training of this config would be computed with here; None if its device is not on this machine."""
    try:
        return here(find_device(config.device), threads)
    except NoDevice:
        return None


def preview_images(config: RunConfig) -> int:
    """Batch of the preview: the run's own, or smaller where a thousand blocks would keep the reader waiting."""
    return min(config.batch_size, max(8, 16_000 // max(1, config.blocks)))


def task(config: RunConfig, data: Dataset, device: torch.device, interrupt: Callable[[], bool] = never) -> Task:
    """The net as initialised, on the device with its data. All randomness comes from one generator, seeded by the config.

    Raises Interrupted; ConfigError if the data set has fewer images than a batch: no epoch would ever have one.
    """
    if config.batch_size > (images := len(data.train_labels)):
        raise ConfigError("batch_size", say("batch-too-large", images=images, size=config.batch_size))
    data, layout = data.to(device), config.layout
    generator = torch.Generator().manual_seed(config.seed)
    model = DeepLeNet(config)
    look = partial(stop_if_asked, interrupt)
    initialise(model, config.init_range or config.init, generator, data.train_images, look)
    model.to(device)
    if device.type == "cpu":  # suits the CPU's convolution kernels for 16 channels: ×0.9 of the time (benchmarks/)
        model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # PyTorch's stubs leave it out
    # 250 or fewer in deep nets: more would keep the first point from the screen.
    hand = _Hand(config, model, layout)
    count = min(250, max(64, 12_000 // max(1, config.blocks)), len(data.test_labels))
    subset = data.test_images[:count], data.test_labels[:count]
    return Task(
        layout=layout,
        model=model,
        weights=[layer.weight for layer in model.weight_layers],
        optimizer=hand.optimizer,
        examples=(data.train_images, data.train_labels),
        batches=_batches(images, config.batch_size, generator, device),
        batch_size=config.batch_size,
        steps=config.steps,
        subset=subset,
        test=(data.test_images, data.test_labels),
        preview=preview_images(config),
        treat=hand.treat,
        before=hand.before,
        lost=_lost(config),
        shortcuts=[Shortcut(block, block.conv1) for block in model.each_block] if config.shortcut else [],
        deletion=partial(_deletion, config, model, subset) if config.shortcut else None,
    )


def training(
    config: RunConfig,
    data: Dataset,
    device: torch.device,
    interrupt: Callable[[], bool] = never,
    capture: Capture | None = None,
) -> Trainer:
    """See `task` and Trainer."""
    if device.type == "cuda":
        keep_float32()
    return Trainer(task(config, data, device, interrupt), interrupt, capture)


def trainer_on(shelf: Shelf) -> Train[RunConfig]:
    """Trains in the calling thread, on the data sets of `shelf`."""

    def train(config: RunConfig, interrupt: Callable[[], bool]) -> Trainer:
        state = shelf.request(config.dataset)
        if state.status != "ready":
            raise DataError(state.message)
        return training(config, shelf.load(config.dataset), resolve_device(config.device), interrupt)

    return train


def _lost(config: RunConfig) -> list[str | None]:
    """How each layer loses units; stem and head have relu, the logits have nothing."""
    inside = ACTIVATIONS[config.activation].lost
    outside = inside if config.activation_everywhere else ACTIVATIONS["relu"].lost
    rows = range(config.layers)
    return [inside if row in config.layout.inside else outside if row < rows[-1] else None for row in rows]


def _batches(count: int, size: int, generator: torch.Generator, device: torch.device) -> Iterator[torch.Tensor]:
    """Places of `size` examples: shuffled epochs without end; what is left over at an epoch's end is dropped."""
    while count >= size:  # an epoch without a batch would be asked for another for ever
        order = torch.randperm(count, generator=generator)
        order = order.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else order.to(device)
        for start in range(0, count - size + 1, size):
            yield order[start : start + size]


class _Hand:
    """At the knobs of a training: before each step it turns them to what the config says of it.

    Another optimiser begins without a memory, another treatment with gains of 0; a learning rate or a threshold alone leaves
    alone what has been gathered.
    """

    def __init__(self, config: RunConfig, model: DeepLeNet, layout: Layout):
        self._config, self._model, self._layout, self._knobs = config, model, layout, config.knobs(0)
        self._steps = {change.step for change in config.changes}
        self.optimizer = _optimizer(self._knobs, list(model.parameters()))
        self.treat, self._undo = self._treatment(afresh=True)

    def before(self, task: Task, step: int) -> bool:
        if step not in self._steps:
            return False
        old, self._knobs = self._knobs, self._config.knobs(step)
        if self._knobs.optimizer != old.optimizer:
            self.optimizer = _optimizer(self._knobs, list(self._model.parameters()))
        for group in self.optimizer.param_groups:
            group["lr"] = self._knobs.lr
        if (self._knobs.treatment, self._knobs.threshold) != (old.treatment, old.threshold):
            self._undo()
            self.treat, self._undo = self._treatment(afresh=self._knobs.treatment != old.treatment)
        task.optimizer, task.treat = self.optimizer, self.treat
        return True

    def _treatment(self, afresh: bool) -> tuple[Treat | None, Callable[[], None]]:
        """What is done before each step, and what undoes what is done on the way back."""
        word, threshold = self._knobs.treatment, self._knobs.threshold
        undo = steer(word, threshold, self._model.weight_layers, self._layout, afresh)
        return (partial(treat, word, threshold) if word != "none" else None), undo


def _optimizer(config: Knobs, parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
    """Adam (Kingma & Ba 2015) or SGD with PyTorch's defaults, in their fused form: one kernel for all parameters."""
    device = parameters[0].device.type
    fused = device in ("cpu", "cuda")
    if config.optimizer == "adam":
        return torch.optim.Adam(parameters, lr=config.lr, fused=fused, capturable=device == "cuda")
    return torch.optim.SGD(parameters, lr=config.lr, momentum=0.9 if config.optimizer == "momentum" else 0.0, fused=fused)


def _deletion(config: RunConfig, model: DeepLeNet, subset: Examples, accuracy: Accuracy) -> BlockDeletion | None:
    """The accuracy without single blocks, on the test subset; None without blocks, or if asked to stop."""
    images, labels = (part[:_DELETION_IMAGES] for part in subset)
    count, blocks = len(labels), model.blocks
    chosen = deleted_blocks(config.blocks, count, config.steps, config.batch_size).tolist()
    if not chosen:
        return None
    inputs: dict[int, torch.Tensor] = {}

    def keep(number: int, _module: nn.Module, arguments: tuple[Any, ...]) -> None:
        inputs[number] = arguments[0]

    handles = [blocks[number].register_forward_pre_hook(partial(keep, number)) for number in chosen]
    try:
        full = accuracy(images, labels)
        for handle in handles:
            handle.remove()
        model.blocks = nn.ModuleList()
        without_all = accuracy(images, labels)
        accuracies = []
        for number in chosen:
            model.blocks = nn.ModuleList([_Given(inputs[number]), *blocks[number + 1 :]])
            accuracies.append(accuracy(images, labels))
    except Interrupted:
        return None
    finally:
        model.blocks = blocks
    return BlockDeletion(count, full, without_all, tuple(chosen), tuple(accuracies))


class _Given(nn.Module):
    """Stands for the blocks below, whose output is known already."""

    def __init__(self, output: torch.Tensor):
        super().__init__()
        self._output = output

    def forward(self, *_: object) -> torch.Tensor:
        return self._output
