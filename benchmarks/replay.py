"""`python -m benchmarks.replay run app.py …` is `streamlit run app.py …` with made-up records in place of training.

For measuring the path from a record to the eye alone: nets of any depth give five hundred columns at once, then RATE records
a second, at no cost. Never for lessons: the numbers are random.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from functools import partial

import numpy as np
from streamlit.web import cli

from gradviz.lenet.config import RunConfig
from gradviz.record.history import StepRecord
from gradviz.record.quantities import QUANTITIES
from gradviz.record.run import Outcome, Status
from gradviz.ui.server import build, server

HISTORY, RATE = 500, 4


def record(step: int, layers: int, random: np.random.Generator) -> StepRecord:
    numbers = 10 ** random.uniform(-20, 0, (len(QUANTITIES), layers))
    return StepRecord(step, float(random.uniform(1, 2)), 0.5, numbers.astype(np.float32), step / RATE)


class Replay:
    device, arithmetic = "cpu", None
    outcome = Outcome(Status.FINISHED)

    def __init__(self, config: RunConfig, interrupt: Callable[[], bool]):
        self._config, self._interrupt = config, interrupt

    def __iter__(self) -> Iterator[StepRecord]:
        random = np.random.default_rng(0)
        for step in range(self._config.steps):
            if self._interrupt():
                self.outcome = Outcome(Status.STOPPED)
                return
            if step >= HISTORY:
                threading.Event().wait(1 / RATE)
            yield record(step, self._config.layers, random)

    def preview(self) -> StepRecord:
        return record(0, self._config.layers, np.random.default_rng(0))


if __name__ == "__main__":
    server.build = partial(build, train=Replay)
    cli.main()
