"""A watched run as another process would write it, step by step, by a test's hand."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from gradviz.messages import NOTHING, Message
from gradviz.record.history import History, StepRecord
from gradviz.record.layout import Layout
from gradviz.record.run import Status
from gradviz.record.spool import SUFFIX, SpoolWriter
from gradviz.record.watched import ABSENT, MEASURED, Watched, new_id

READERS = {"watched": Watched.from_dict}
NAMES = ("stem.conv", "blocks.0.conv1", "blocks.0.conv2", "head")


def table(layers: int, step: int = 0) -> np.ndarray:
    """float32 (len(MEASURED), layers): the weight gradient 10⁻³ … 10⁻², the row 1 without a signal, the row 2 exactly 0."""
    numbers = np.full((len(MEASURED), layers), 0.25, np.float32)
    numbers[MEASURED.index("weight_grad_rms")] = np.geomspace(1e-3, 1e-2, layers) * (1 + step % 3)
    numbers[MEASURED.index("signal_rms"), 1] = ABSENT
    numbers[MEASURED.index("weight_grad_rms"), 2] = 0
    numbers[MEASURED.index("still_share")] = np.linspace(0, 1, layers)
    return numbers


class Spooled:
    """Writes `<folder>/watched/<id>.spool`; holds the file's lock until `end` or `kill`, as a living writer does."""

    def __init__(
        self, folder: Path, names: Sequence[str] = NAMES, title: str = "A net, SGD", columns: int = 1000, **more: object
    ):
        self.recipe = Watched(new_id(), title, Layout(tuple(names)), optimizers=("SGD",), **more)
        self.id = self.recipe.id
        self.history = History(len(names), columns, MEASURED)
        self.state = {
            "status": "running", "message": NOTHING.to_json(), "every": 2, "share": 0.02, "overflows": 3,
            "missing": {names[1]: {"signal_rms": "watch-frozen"}},
        }  # fmt: skip
        self.path = Path(folder) / "watched" / (self.id + SUFFIX)
        self.writer = SpoolWriter(self.path, {"recipe": self.recipe.to_dict(), "created": 1.7e9, "device": "cpu"})

    def steps(self, count: int, every: int = 1, loss: float | None = 2.0) -> None:
        """So many more; of each `every` one is measured."""
        for _ in range(count):
            step, layers = self.history.steps, self.history.layers
            numbers = table(layers, step) if step % every == 0 else np.full((len(MEASURED), layers), ABSENT, np.float32)
            told = math.nan if loss is None else loss / (1 + step)
            self.history.append(StepRecord(step, told, math.nan, numbers, step / 10))
        self.writer.write(self.history, self.state)

    def end(self, status: Status = Status.FINISHED, message: Message = NOTHING) -> None:
        self.state |= {"status": str(status), "message": message.to_json()}
        self.writer.write(self.history, self.state)
        self.writer.close()

    def kill(self) -> None:
        """The process is gone, and has said nothing."""
        self.writer.close()


# The file by itself, for who reads it or carries it.

KINDS = ("Conv2d", "Linear", "Linear")
BEHIND, PRECISIONS = ("relu", "", ""), ("float32", "bfloat16", "bfloat16")
NET = Watched(
    new_id(), "A net, SGD", Layout(("a.b", "c", "d#2")), KINDS, (9, 4, 4), (("d#2", "c"),), ("SGD",), (64, 8, 0), BEHIND,
    PRECISIONS,
)  # fmt: skip


def steps(history: History, count: int, seed: int = 0) -> None:
    """Takes random steps; the second layer is not measured."""
    random = np.random.default_rng(seed)
    for _ in range(count):
        table = random.random((len(MEASURED), 3)).astype(np.float32)
        table[:, 1] = ABSENT
        step = history.steps
        history.append(StepRecord(step, random.random(), random.random(), table, step / 10))


def started(folder: Path, columns: int = 1000) -> tuple[SpoolWriter, History]:
    """A file of NET in `folder`, not written yet, and what is to be written into it."""
    writer = SpoolWriter(folder / (NET.id + SUFFIX), {"recipe": NET.to_dict(), "created": 1.0e9, "device": "cpu"})
    return writer, History(3, columns, MEASURED)
