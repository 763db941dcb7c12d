"""Begins: where a training may begin in the middle, from a kept state of a run that is the same up to there."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

from gradviz.lenet.branch import same_until, taken_over
from gradviz.lenet.config import RunConfig
from gradviz.record.arithmetic import differences
from gradviz.record.history import History
from gradviz.record.run import Run, Status
from gradviz.store.states import States
from gradviz.train.state import StateGone
from gradviz.train.training import TrainFrom, Training

log = logging.getLogger("gradviz")


class Begins:
    """Nothing here takes a lock. Every method may be called from any thread."""

    def __init__(self, states: States, train: TrainFrom[RunConfig]):
        self.states, self._train = states, train

    def steps(self, run: Run[RunConfig], config: RunConfig | None = None) -> list[int]:
        """The steps, rising, before which a state is kept that a training of this config can begin from, with the records of
        `run` until there; without a config those of any that is the same until there."""
        until = run.recipe.steps if config is None else same_until(run.recipe, config)
        # The last step of a run that diverged has not been learnt from.
        until = min(until, run.history.steps - (run.status is Status.DIVERGED))
        return [step for step in self.states.steps(run.id) if 0 < step <= until]

    def final(self, run: Run[RunConfig]) -> Path | None:
        """The file with the state of the net after the run's last step, if it is kept: `weights` of gradviz/train/state.py
        reads it."""
        steps = self.steps(run)
        return self.states.path(run.id, steps[-1]) if steps and steps[-1] == run.history.steps else None

    def training(
        self, origin: Run[RunConfig], config: RunConfig, interrupt: Callable[[], bool]
    ) -> tuple[Training, History] | None:
        """A training of this config that begins as late as can be, and the records until there, which are those of `origin`;
        None if it cannot begin with any. Raises what the Train does."""
        for step in reversed(self.steps(origin, config)):
            if (history := taken_over(origin.history, config, step)) is None:
                continue
            try:
                training = self._train(config, interrupt, self.states.path(origin.id, step))
            except StateGone:
                log.info("event=state-gone run=%s step=%d", origin.id, step)
                continue
            if not differences(training.arithmetic, origin.arithmetic):
                self.states.share(origin.id, config.id, step)
                return training, history
        return None
