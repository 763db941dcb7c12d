"""Files of watched runs that never trained."""

from pathlib import Path

import numpy as np

from gradviz.record.history import History, StepRecord
from gradviz.record.layout import Layout
from gradviz.record.spool import SUFFIX, SpoolWriter
from gradviz.record.watched import ABSENT, MEASURED, Watched, new_id

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
