"""Writing a run into the file of runs: only what is new of it."""

from __future__ import annotations

import dataclasses
import json
import sqlite3

import numpy as np

from gradviz.record.history import History
from gradviz.record.measuring import measuring
from gradviz.record.recipe import Recipe
from gradviz.record.run import Run, Status
from gradviz.store.rows import checksum, is_whole, message_text
from gradviz.store.schema import PARTS


def save(db: sqlite3.Connection, run: Run[Recipe], whole: bool, waits: bool, damaged: bool) -> bool:
    """See RunStore.save. Returns whether the run was written anew; not if it is `damaged` in the file and was read from there:
    what lies in the file is then all there is."""
    status = run.status  # before the snapshot: a run that reads as ended here has all its records there
    if waits and status in (Status.RUNNING, Status.INTERRUPTED, Status.STOPPED, Status.FAILED):
        status = Status.QUEUED
    history = run.history.snapshot()
    old = db.execute("SELECT created, steps, stride, quantities FROM runs WHERE id = ?", (run.id,)).fetchone()
    # Columns of other quantities than the run's are written anew with the row that names those.
    others = bool(old) and old["quantities"] not in (None, " ".join(history.quantities))
    if (whole or others) and old and damaged and old["created"] == run.created:
        return False
    replaced = bool(old) and (
        whole or old["created"] != run.created or not is_whole(old["steps"]) or not is_whole(old["stride"])
    )
    if replaced:
        db.execute("DELETE FROM runs WHERE id = ?", (run.id,))
        old = None
    if old is None:
        for table in PARTS:  # whoever has deleted a run by hand may have left its records, which would be in the way
            db.execute(f"DELETE FROM {table} WHERE run = ?", (run.id,))
    row = _row(run, status, history)
    # An upsert, not INSERT OR REPLACE: that would delete the row first and, with it, all its records.
    db.execute(
        f"INSERT INTO runs ({', '.join(row)}) VALUES ({', '.join(':' + name for name in row)}) "
        f"ON CONFLICT (id) DO UPDATE SET {', '.join(f'{name} = excluded.{name}' for name in row if name != 'id')}",
        row,
    )
    _save_parts(db, run.id, history, old["steps"] if old else 0, 0 if others else old["stride"] if old else history.stride)
    return replaced


def _row(run: Run[Recipe], status: Status, history: History) -> dict[str, object]:
    loss, seconds = history.latest
    return {
        "id": run.id,
        "config": json.dumps(run.recipe.to_dict()),
        "status": str(status),
        "device": run.device,
        "message": message_text(run.message),
        "nonfinite_layer": run.nonfinite_layer,
        "test_accuracy": run.test_accuracy,
        "created": run.created,
        "steps": history.steps,
        "loss": loss,
        "seconds": seconds,
        "quantities": " ".join(history.quantities),
        "max_columns": history.max_columns,
        "stride": history.stride,
        "deletion": json.dumps(dataclasses.asdict(run.deletion)) if run.deletion else None,
        "clients": json.dumps(run.clients),
        "tests": len(history.tests),
        "samples": len(history.samples),
        "arithmetic": json.dumps(run.arithmetic.to_dict()) if run.arithmetic else None,
        "measuring": json.dumps(measured) if (measured := measuring(run)) else None,
    }


def _save_parts(db: sqlite3.Connection, id: str, history: History, done: int, old_stride: int) -> None:
    """`done`: steps that are kept already, in columns of `old_stride` steps."""
    stride, steps = history.stride, history.steps
    if steps > done:
        scalars = np.column_stack((history.loss[done:], history.accuracy[done:], history.seconds[done:]))
        data = scalars.astype("<f8").tobytes()
        db.execute("INSERT INTO scalars VALUES (?, ?, ?, ?)", (id, done, data, checksum("scalars", done, data)))
    if old_stride != stride:
        db.execute("DELETE FROM columns WHERE run = ?", (id,))
        done = 0
    columns = history.columns
    db.executemany(
        "INSERT OR REPLACE INTO columns VALUES (?, ?, ?, ?)",
        # From the column that was partial at the last call: done // stride.
        (
            (id, place, data := columns[place].astype("<f4").tobytes(), checksum("columns", place, data))
            for place in range(done // stride, len(columns))
        ),
    )
    db.executemany(
        "INSERT OR IGNORE INTO tests VALUES (?, ?, ?, ?)",
        ((id, step, accuracy, checksum("tests", step, accuracy)) for step, accuracy in history.tests),
    )
    kept = {step for (step,) in db.execute("SELECT step FROM samples WHERE run = ?", (id,))}
    db.executemany(
        "INSERT INTO samples VALUES (?, ?, ?, ?, ?)",
        (
            (id, part.step, part.numbers, part.images, checksum("samples", part.step, part.numbers, part.images))
            for part in history.samples
            if part.step not in kept
        ),
    )
