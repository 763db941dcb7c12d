"""A run as tables to take home: CSV text and Parquet bytes. inf and nan survive both."""

from __future__ import annotations

import io

import numpy as np
import pandas as pd
import pyarrow
import pyarrow.parquet

from gradviz.record.quantities import QUANTITIES
from gradviz.runs import Run


def layer_table(run: Run) -> pd.DataFrame:
    """One row per kept column and layer, layers in forward order.

    `step` is the column's first step and `steps` how many it covers: each quantity is the maximum over them. `loss`
    and `accuracy` are those of the first step.
    """
    history = run.history.snapshot()
    names = run.config.layer_names
    columns = history.columns
    first = np.arange(len(columns)) * history.stride

    def each_layer(values: np.ndarray) -> np.ndarray:
        return np.repeat(values, len(names))

    head = {
        "step": each_layer(first),
        "steps": each_layer(np.minimum(history.stride, history.steps - first)),
        "loss": each_layer(history.loss[first]),
        "accuracy": each_layer(history.accuracy[first]),
        "layer": np.tile(np.array(names, dtype=object), len(columns)),
    }
    return pd.DataFrame(head | {name: columns[:, row].ravel() for row, name in enumerate(QUANTITIES)})


def step_table(run: Run) -> pd.DataFrame:
    """One row per step: loss (nats), accuracy of the batch, seconds since the start, test accuracy (nan: not taken)."""
    history = run.history.snapshot()
    steps = np.arange(history.steps)
    scalars = {"step": steps, "loss": history.loss, "accuracy": history.accuracy, "seconds": history.seconds}
    tests = pd.Series(dict(history.tests), dtype=float)
    return pd.DataFrame(scalars).assign(test_accuracy=tests.reindex(steps).to_numpy())


def csv(table: pd.DataFrame) -> str:
    """Numbers with as many digits as bring the same number back; inf and nan as those words."""
    return table.to_csv(index=False, na_rep="nan")


def parquet(table: pd.DataFrame) -> bytes:
    # Through pandas' own to_parquet every nan would become null: a result would read as a missing one.
    buffer = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.table({name: table[name].to_numpy() for name in table}), buffer)
    return buffer.getvalue()
