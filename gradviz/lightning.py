"""`Trainer(callbacks=[gradviz.lightning.WatchCallback()])`: a training of Lightning's, watched."""

from __future__ import annotations

import inspect
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback

from gradviz.train.watch import WatchedRun, watch


class WatchCallback(Callback):
    """Watches the module while `fit` trains it; `how` (every, folder, title, to) is that of gradviz.watch.

    `run` is the watch, of the last `fit` too; None before the first.
    """

    def __init__(self, **how: Any):
        inspect.signature(watch).bind(None, **how)  # a word that it does not know is an error here, not in the training
        self.run: WatchedRun | None = None
        self._how = how
        self._losses: list[torch.Tensor] = []  # of the batches since the last step of an optimiser
        self._step = 0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        net = trainer.strategy.model or pl_module  # within its wrapper, which says what a gradient is the mean of
        self.run = watch(net, trainer.optimizers, **self._how)
        self._losses, self._step = [], trainer.global_step

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        loss = outputs.get("loss") if isinstance(outputs, dict) else outputs
        if isinstance(loss, torch.Tensor):
            self._losses.append(loss.detach())
        if self.run and trainer.global_step != self._step:
            if self._losses:
                self.run.log(loss=torch.stack(self._losses).sum())  # each is divided by their number already
            self._losses, self._step = [], trainer.global_step

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.run:
            self.run.close()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        if self.run:
            self.run.__exit__(type(exception), exception, exception.__traceback__)
