"""The article's experiment: a config and a data set become a training."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from gradviz.lenet.activations import ACTIVATIONS
from gradviz.lenet.branch import same_until
from gradviz.lenet.changes import Knobs
from gradviz.lenet.config import RunConfig
from gradviz.lenet.data import Dataset, Shelf
from gradviz.lenet.fields import ConfigError
from gradviz.lenet.idx import DataError
from gradviz.lenet.keeping import Keeper
from gradviz.lenet.net import DeepLeNet, initialise
from gradviz.messages import Told, say
from gradviz.record.arithmetic import Arithmetic
from gradviz.record.layout import Layout
from gradviz.record.sample import BlockDeletion, deleted_blocks
from gradviz.store.states import States
from gradviz.train.adam import Adam
from gradviz.train.ahead import Capture
from gradviz.train.cores import Cores
from gradviz.train.device import NoDevice, find_device, here, keep_float32
from gradviz.train.epochs import Epochs
from gradviz.train.state import State, StateGone, put, read
from gradviz.train.task import Accuracy, Examples, Shortcut, Task
from gradviz.train.trainer import Trainer
from gradviz.train.training import Interrupted, TrainFrom, never, stop_if_asked
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


def task(
    config: RunConfig,
    data: Dataset,
    device: torch.device,
    interrupt: Callable[[], bool] = never,
    state: State | None = None,
) -> Task:
    """The net as initialised, on the device with its data. All randomness comes from one generator, seeded by the config.

    With `state` the net and all else as they were then. Raises Interrupted; StateGone if it is not one of this net; ConfigError
    if the data set has fewer images than a batch: no epoch would ever have one.
    """
    if config.batch_size > (images := len(data.train_labels)):
        raise ConfigError("batch_size", say("batch-too-large", images=images, size=config.batch_size))
    data, layout = data.to(device), config.layout
    generator = torch.Generator().manual_seed(config.seed)
    model = DeepLeNet(config)
    look = partial(stop_if_asked, interrupt)
    if state is None:
        initialise(model, config.init_range or config.init, generator, data.train_images, look)
    model.to(device)
    if device.type == "cpu":  # suits the CPU's convolution kernels for 16 channels: ×0.9 of the time (benchmarks/)
        model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # PyTorch's stubs leave it out
        model.overwrite()
    # 250 or fewer in deep nets: more would keep the first point from the screen.
    hand = _Hand(config, model, layout, state.step if state else 0)
    count = min(250, max(64, 12_000 // max(1, config.blocks)), len(data.test_labels))
    subset = data.test_images[:count], data.test_labels[:count]
    made = Task(
        layout=layout,
        model=model,
        weights=[layer.weight for layer in model.weight_layers],
        optimizer=hand.optimizer,
        examples=(data.train_images, data.train_labels),
        batches=Epochs(images, config.batch_size, generator, device),
        batch_size=config.batch_size,
        steps=config.steps,
        subset=subset,
        test=(data.test_images, data.test_labels),
        preview=preview_images(config),
        treat=hand.treat,
        before=hand.before,
        recipe=hand.recipe,
        lost=_lost(config),
        shortcuts=[Shortcut(block, block.conv1) for block in model.each_block] if config.shortcut else [],
        deletion=partial(_deletion, config, model, subset) if config.shortcut else None,
    )
    if state is not None:
        put(made, state)
    return made


def training(
    config: RunConfig,
    data: Dataset,
    device: torch.device,
    interrupt: Callable[[], bool] = never,
    capture: Capture | None = None,
    states: States | None = None,
    begin: Path | None = None,
    cores: Cores | None = None,
) -> Trainer:
    """See `task` and Trainer. `states`: where to keep states on the way. `begin`: a kept one of a training that was the same up
    to there, with the same arithmetic; raises StateGone if it cannot be used."""
    if device.type == "cuda":
        keep_float32()
    state = read(begin) if begin else None
    arithmetic = here(device)
    if state and not (state.about.get("arithmetic") == arithmetic.to_dict() and _begins(config, state)):
        raise StateGone(say("state-gone"))
    made = task(config, data, device, interrupt, state)
    keeping = Keeper(made, states, arithmetic) if states else None
    return Trainer(made, interrupt, capture, begin=state.step if state else 0, keeping=keeping, cores=cores)


def _begins(config: RunConfig, state: State) -> bool:
    """Whether the state is one that a training of this config comes by."""
    try:
        return same_until(RunConfig.from_dict(state.about["config"]), config) >= state.step
    except (Told, TypeError, KeyError, AttributeError):
        return False


def trainer_on(shelf: Shelf, states: States | None = None) -> TrainFrom[RunConfig]:
    """Trains in the calling thread, on the data sets of `shelf`; keeps states in `states`."""

    def train(config: RunConfig, interrupt: Callable[[], bool], begin: Path | None = None) -> Trainer:
        state = shelf.request(config.dataset)
        if state.status != "ready":
            raise DataError(state.message)
        data, device = shelf.load(config.dataset), resolve_device(config.device)
        return training(config, data, device, interrupt, states=states, begin=begin)

    return train


def _lost(config: RunConfig) -> list[str | None]:
    """How each layer loses units; stem and head have relu, the logits have nothing."""
    inside = ACTIVATIONS[config.activation].lost
    outside = inside if config.activation_everywhere else ACTIVATIONS["relu"].lost
    rows = range(config.layers)
    return [inside if row in config.layout.inside else outside if row < rows[-1] else None for row in rows]


class _Hand:
    """At the knobs of a training: before each step it turns them to what the config says of it.

    Another optimiser begins without a memory, another treatment with gains of 0; a learning rate or a threshold alone leaves
    alone what has been gathered. A schedule takes its share of the learning rate that is in force.
    """

    def __init__(self, config: RunConfig, model: DeepLeNet, layout: Layout, begin: int = 0):
        """`begin`: the first step, before which the knobs stand as after the last one."""
        self._config, self._model, self._layout, self._knobs = config, model, layout, config.knobs(max(0, begin - 1))
        self._steps = {change.step for change in config.changes}
        self._rate = self._knobs.lr  # that of the optimiser
        self.optimizer = _optimizer(self._knobs, list(model.parameters()))
        self.treat, self._undo = self._treatment(afresh=True)

    def recipe(self) -> RunConfig:
        return self._config

    def before(self, task: Task, step: int) -> bool:
        old, knobs = self._knobs, self._config.knobs(step) if step in self._steps else self._knobs
        rate = knobs.lr * self._config.share(step)
        if knobs == old and rate == self._rate:
            return False
        self._knobs, self._rate = knobs, rate
        if self._knobs.optimizer != old.optimizer:
            self.optimizer = _optimizer(self._knobs, list(self._model.parameters()))
        for group in self.optimizer.param_groups:
            group["lr"] = rate
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
    if config.optimizer == "adam" and device == "cpu":
        return Adam(parameters, config.lr)
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
