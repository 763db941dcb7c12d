"""`Trainer(callbacks=[gradviz.transformers.WatchCallback()])`: a training of Hugging Face's, watched."""

from __future__ import annotations

import inspect
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from gradviz.train.watch import WatchedRun, watch


class WatchCallback(TrainerCallback):
    """Watches the model while the Trainer trains it; `how` (every, folder, title, to) is that of gradviz.watch.

    The Trainer tells its callbacks the mean loss of `logging_steps` steps: it is the loss of a step with `logging_steps=1`, and
    otherwise none is noted. `run` is the watch, of the last training too; None before the first.
    """

    def __init__(self, **how: Any):
        inspect.signature(watch).bind(None, **how)  # a word that it does not know is an error here, not in the training
        self.run: WatchedRun | None = None
        self._how = how
        self._told = 0  # the step of which the last loss was told

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, model: Any = None, optimizer: Any = None,
        **kwargs: Any,
    ) -> None:  # fmt: skip
        self.run = watch(model, optimizer, **self._how)
        self._told = state.global_step

    def on_log(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, logs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:  # fmt: skip
        if self.run and logs and "loss" in logs:
            if state.global_step == self._told + 1:
                self.run.log(loss=logs["loss"])
            self._told = state.global_step

    def on_train_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if self.run:
            self.run.close()
