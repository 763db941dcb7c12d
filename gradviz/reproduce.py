"""python -m gradviz reproduce: every claim of the article put to the test, written up with numbers of these runs alone."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import replace

import torch

from gradviz.config import RunConfig
from gradviz.data import Dataset
from gradviz.runs import History, Run, Status, max_columns
from gradviz.store import RunStore
from gradviz.sweep import FAILED, TRAINED, UNFINISHED, result, trained_already
from gradviz.trainer import Trainer, device_text

EARLY = "Stopped as soon as it counted as trained."


class Bench:
    """Trains one run after the other and keeps each in a store, so that a second start goes on after the last whole run."""

    def __init__(self, data: Dataset, device: torch.device, store: RunStore, say: Callable[[str], None]):
        self._data, self._device, self._store, self._say = data, device, store, say
        self.used: dict[str, RunConfig] = {}  # every run that was asked for, by id

    def run(self, config: RunConfig, early: bool = True) -> Run:
        """The kept run of this config, or a new one. `early`: enough once it counts as trained."""
        config = replace(config, dataset=self._data.name)
        self.used[config.run_id] = config
        kept = self._store.load(config.run_id)
        if kept and (not kept.status.live) and result(kept).outcome not in (UNFINISHED, FAILED):
            if early or kept.status is not Status.STOPPED:
                return kept
        run = Run(config, History(config.layers, max_columns(config.layers)), Status.RUNNING, device_text(self._device))
        trainer = Trainer(config, self._data, self._device)
        for record in trainer:
            run.history.append(record)
            run.nonfinite_layer = run.nonfinite_layer or record.nonfinite_layer
            if early and record.step + 1 < config.steps and trained_already(run):
                run.status, run.message = Status.STOPPED, EARLY
                break
        else:
            outcome = trainer.outcome
            run.status, run.test_accuracy, run.message = outcome.status, outcome.test_accuracy, outcome.message
        self._store.save(run)
        found = result(run)
        self._say(
            f"{config.summary} · seed {config.seed}: {found.outcome} after {found.steps} of {config.steps} steps, "
            f"loss {found.loss:.3g}, {found.seconds:.0f} s"
        )
        return run

    def find_border(self, base: RunConfig, depths: Sequence[int], seeds: Sequence[int]) -> list[Run]:
        """The first seed over rising depths until two of them in a row fail, then all seeds at the depths around the border."""
        runs: list[Run] = []
        trained: list[bool] = []
        for blocks in depths:
            runs.append(self.run(replace(base, blocks=blocks, seed=seeds[0])))
            trained.append(result(runs[-1]).outcome == TRAINED)
            if trained[-2:] == [False, False]:
                break
        edge = trained.index(False) if False in trained else len(trained)  # the first depth that failed
        near = range(max(0, edge - 2), min(len(trained), edge + 2))
        return runs + [self.run(replace(base, blocks=depths[place], seed=seed)) for seed in seeds[1:] for place in near]


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
