"""A run as files to take home: CSV and Parquet, made part by part, so that a long run costs no more memory than a short one.

inf and nan survive both.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Iterator

import numpy as np
import pandas as pd
import pyarrow
import pyarrow.parquet

from gradviz.record.history import History
from gradviz.record.measuring import why_missing
from gradviz.record.quantities import is_described
from gradviz.record.recipe import Recipe
from gradviz.record.run import Run

_ROWS = 10_000  # of one part: some 1.3 MB as CSV


def layer_table(run: Run[Recipe]) -> pd.DataFrame:
    """One row per kept column and layer, layers in forward order.

    `step` is the column's first step and `steps` how many it covers: each quantity is the maximum over them. `loss`
    and `accuracy` are those of the first step. `computed_with`, in each row, is Arithmetic.code or "unknown". A quantity below
    0 was not measured: files have nothing in its place.
    """
    history = run.history.snapshot()
    return _layers(history, run, 0, len(history.columns))


def step_table(run: Run[Recipe]) -> pd.DataFrame:
    """One row per step: loss (nats), accuracy of the batch, seconds since the start, test accuracy (nan: not taken).

    And `computed_with`, as in `layer_table`.
    """
    history = run.history.snapshot()
    return _steps(history, run, 0, history.steps)


def missing_table(run: Run[Recipe]) -> pd.DataFrame:
    """Why numbers of a watched net are missing in the last look: one row for each layer and quantity."""
    rows = [(layer, quantity, why_missing(run, layer, quantity)) for layer, why in run.missing.items() for quantity in why]
    return pd.DataFrame(rows, columns=["layer", "quantity", "why"])


def layer_parts(run: Run[Recipe]) -> Iterator[pd.DataFrame]:
    """`layer_table` in pieces, at least one."""
    history = run.history.snapshot()
    for first, end in _pieces(len(history.columns), max(1, _ROWS // len(run.recipe.layout))):
        yield _layers(history, run, first, end)


def step_parts(run: Run[Recipe]) -> Iterator[pd.DataFrame]:
    """`step_table` in pieces, at least one."""
    history = run.history.snapshot()
    for first, end in _pieces(history.steps, _ROWS):
        yield _steps(history, run, first, end)


def csv(table: pd.DataFrame) -> str:
    """Numbers with as many digits as bring the same number back; inf and NaN as those words: with nan, polars takes a column
    for text."""
    return b"".join(csv_parts([table])).decode()


def csv_parts(tables: Iterable[pd.DataFrame]) -> Iterator[bytes]:
    """UTF-8, with one line of headings."""
    for place, table in enumerate(tables):
        for name in _with_gaps(table):
            values = table[name].to_numpy()
            words = np.where(np.isnan(values), "NaN", values.astype(str))
            table = table.assign(**{name: np.where(values < 0, "", words)})
        yield table.to_csv(index=False, header=place == 0, na_rep="NaN").encode()


def parquet(table: pd.DataFrame) -> bytes:
    return b"".join(parquet_parts([table]))


def parquet_parts(tables: Iterable[pd.DataFrame]) -> Iterator[bytes]:
    """A group of rows for each table."""
    sink, writer = Sink(), None
    try:
        for table in tables:
            part = _arrow(table)
            writer = writer or pyarrow.parquet.ParquetWriter(pyarrow.PythonFile(sink, mode="w"), part.schema)
            writer.write_table(part)
            yield sink.take()
    finally:
        if writer:
            writer.close()
        pyarrow.default_memory_pool().release_unused()
    yield sink.take()


FILES: dict[str, tuple[Callable[[Run[Recipe]], Iterator[bytes]], str]] = {  # name -> (how it is made, media type)
    "layers.csv": (lambda run: csv_parts(layer_parts(run)), "text/csv"),
    "layers.parquet": (lambda run: parquet_parts(layer_parts(run)), "application/vnd.apache.parquet"),
    "steps.csv": (lambda run: csv_parts(step_parts(run)), "text/csv"),
    "steps.parquet": (lambda run: parquet_parts(step_parts(run)), "application/vnd.apache.parquet"),
}
MISSING = "missing.csv"  # of a watched net besides
ALL_FILES = FILES | {MISSING: (lambda run: csv_parts([missing_table(run)]), "text/csv")}


class Sink:
    """A file that one writes to and whose bytes are taken away piece by piece."""

    closed = False

    def __init__(self) -> None:
        self._buffer, self.taken = io.BytesIO(), 0  # bytes

    def write(self, data: bytes) -> int:
        return self._buffer.write(data)

    def flush(self) -> None:
        pass

    def close(self) -> None:
        pass

    def take(self) -> bytes:
        """What was written since the last time."""
        data = self._buffer.getvalue()
        self._buffer = io.BytesIO()
        self.taken += len(data)
        return data


def _layers(history: History, run: Run[Recipe], first: int, end: int) -> pd.DataFrame:
    names = run.recipe.layout.names
    columns = history.columns[first:end]
    steps = np.arange(first, first + len(columns)) * history.stride

    def each_layer(values: np.ndarray) -> np.ndarray:
        return np.repeat(values, len(names))

    head = {
        "step": each_layer(steps),
        "steps": each_layer(np.minimum(history.stride, history.steps - steps)),
        "loss": each_layer(history.loss[steps]),
        "accuracy": each_layer(history.accuracy[steps]),
        "layer": np.tile(np.array(names, dtype=object), len(columns)),
    }
    table = pd.DataFrame(head | {name: columns[:, row].ravel() for row, name in enumerate(history.quantities)})
    return table.assign(computed_with=_computed_with(run, len(table)))


def _computed_with(run: Run[Recipe], rows: int) -> np.ndarray:
    return np.full(rows, run.arithmetic.code if run.arithmetic else "unknown", dtype=object)


def _steps(history: History, run: Run[Recipe], first: int, end: int) -> pd.DataFrame:
    steps, some = np.arange(first, end), slice(first, end)
    scalars = {"step": steps, "loss": history.loss[some], "accuracy": history.accuracy[some], "seconds": history.seconds[some]}
    tests = pd.Series(dict(history.tests), dtype=float)
    return pd.DataFrame(scalars).assign(
        test_accuracy=tests.reindex(steps).to_numpy(), computed_with=_computed_with(run, len(steps))
    )


def _pieces(count: int, size: int) -> Iterator[tuple[int, int]]:
    for first in range(0, max(1, count), size):
        yield first, min(count, first + size)


def _with_gaps(table: pd.DataFrame) -> list[str]:
    """Names of the quantities of which some number was not measured."""
    names = [str(name) for name in table]
    return [name for name in names if is_described(name) and bool((table[name].to_numpy() < 0).any())]


def _arrow(table: pd.DataFrame) -> pyarrow.Table:
    # Through pandas' own to_parquet every nan would become null: a result would read as a missing one.
    gaps = _with_gaps(table)

    def column(name: str) -> pyarrow.Array:
        values = table[name].to_numpy()
        if name in gaps:
            return pyarrow.array(values, mask=values < 0)
        return pyarrow.array(values, pyarrow.string() if values.dtype == object else None)

    return pyarrow.table({str(name): column(str(name)) for name in table})
