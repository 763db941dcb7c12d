"""What a student downloads is what was measured, read back by other means than it was written."""

import csv as csv_reader
import io
import math
import re

import numpy as np
import pandas as pd
import pyarrow.parquet
import pytest

from gradviz.lenet.config import RunConfig
from gradviz.record import export
from gradviz.record.arithmetic import Arithmetic
from gradviz.record.history import History, StepRecord
from gradviz.record.quantities import QUANTITIES
from gradviz.record.run import Run

CONFIG = RunConfig(blocks=1, steps=10)  # 7 layers


def measured(steps, max_columns=1000):
    """A run of random records with inf, nan, exact zero and a denormal number in known places, and the records."""
    numbers = np.random.default_rng(0)
    run = Run(CONFIG, History(CONFIG.layers, max_columns))
    records = []
    for step in range(steps):
        layers = numbers.lognormal(-30, 30, (len(QUANTITIES), CONFIG.layers)).astype(np.float32)
        layers[0, :4] = math.inf, math.nan, 0, 1e-42
        loss = math.inf if step == steps - 1 else numbers.random()
        records.append(StepRecord(step, loss, numbers.random(), layers, step / 3, 0.5 if step == 2 else None))
        run.history.append(records[-1])
    return run, records


def test_csv_gives_every_number_back_exactly():
    run, records = measured(4)
    rows = list(csv_reader.DictReader(io.StringIO(export.csv(export.layer_table(run)))))
    assert [(row["step"], row["layer"]) for row in rows[:8]] == [*(("0", name) for name in CONFIG.layout.names), ("1", "conv1")]
    for number, row in enumerate(rows):
        record, layer = records[number // 7], number % 7
        assert (float(row["loss"]), float(row["accuracy"])) == (record.loss, record.accuracy)
        written = np.array([row[name] for name in QUANTITIES], np.float32)
        np.testing.assert_array_equal(written, record.layers[:, layer])
    assert [row["weight_grad_rms"] for row in rows[:3]] == ["inf", "NaN", "0.0"]


def test_every_number_of_a_csv_is_one_to_the_readers_of_csv():
    """polars takes a column for numbers if each of them matches this; R and pandas read these words too."""
    run, records = measured(4)
    text, words = export.csv(export.layer_table(run)), ["layer", "computed_with"]
    polars = re.compile(r"[-+]?((\d*\.\d+)([eE][-+]?\d+)?|inf|NaN|(\d+)[eE][-+]?\d+|\d+\.|\d+)")
    for row in csv_reader.DictReader(io.StringIO(text)):
        assert all(polars.fullmatch(value) for name, value in row.items() if name not in words), row
    table = pd.read_csv(io.StringIO(text))
    assert [name for name in table if table[name].dtype == object or table[name].dtype == "str"] == words
    steps = export.csv(export.step_table(run))
    assert [row["test_accuracy"] for row in csv_reader.DictReader(io.StringIO(steps))] == ["NaN", "NaN", "0.5", "NaN"]


def test_parquet_gives_every_number_back_exactly():
    run, records = measured(4)
    table = pyarrow.parquet.read_table(io.BytesIO(export.parquet(export.layer_table(run))))
    for name, row in zip(QUANTITIES, range(len(QUANTITIES)), strict=True):
        expected = np.concatenate([record.layers[row] for record in records])
        np.testing.assert_array_equal(table[name].to_numpy(), expected)
    assert table["weight_grad_rms"].null_count == 0  # nan is a result, not a gap
    assert table["layer"].to_pylist()[:7] == list(CONFIG.layout.names)
    assert table["loss"].to_pylist()[-1] == math.inf


def test_a_merged_column_says_which_steps_it_covers():
    run, records = measured(7, max_columns=4)  # stride 2: steps 0-1, 2-3, 4-5, 6
    table = export.layer_table(run)
    first_layer = table[table.layer == "conv1"]
    assert list(first_layer.step) == [0, 2, 4, 6] and list(first_layer.steps) == [2, 2, 2, 1]
    assert list(first_layer.loss) == [records[step].loss for step in (0, 2, 4, 6)]
    assert first_layer.signal_rms.iloc[1] == max(records[2].layers[1, 0], records[3].layers[1, 0])


def test_the_step_table_keeps_every_step_however_columns_were_merged():
    run, records = measured(7, max_columns=4)
    table = export.step_table(run)
    assert list(table.loss) == [record.loss for record in records]
    assert list(table.seconds) == pytest.approx([step / 3 for step in range(7)])
    assert table.test_accuracy[2] == 0.5 and table.test_accuracy.isna().sum() == 6
    back = pyarrow.parquet.read_table(io.BytesIO(export.parquet(table))).to_pydict()
    assert back["step"] == list(range(7)) and back["loss"][-1] == math.inf


@pytest.mark.parametrize("name", export.FILES)
def test_each_file_says_in_each_row_what_the_run_was_computed_with(name):
    run, _records = measured(3)
    for run.arithmetic, said in (
        (None, "unknown"),
        (Arithmetic("cpu", "AVX2 x86_64", "ONEDNN_MAX_CPU_ISA=SSE41", 2, "2.13.0"),
         "cpu AVX2 x86_64 ONEDNN_MAX_CPU_ISA=SSE41 threads=2 torch=2.13.0"),
    ):  # fmt: skip
        data = b"".join(export.FILES[name][0](run))
        if name.endswith(".csv"):
            rows = [row["computed_with"] for row in csv_reader.DictReader(io.StringIO(data.decode()))]
        else:
            rows = pyarrow.parquet.read_table(io.BytesIO(data))["computed_with"].to_pylist()
        assert rows == [said] * (3 * (7 if name.startswith("layers") else 1))


def test_a_run_without_a_record_gives_tables_with_headings_only():
    run = Run(CONFIG, History(CONFIG.layers))
    assert export.csv(export.layer_table(run)).strip() == ",".join(
        ["step", "steps", "loss", "accuracy", "layer", *QUANTITIES, "computed_with"])
    assert export.csv(export.step_table(run)).strip() == "step,loss,accuracy,seconds,test_accuracy,computed_with"
    assert pyarrow.parquet.read_table(io.BytesIO(export.parquet(export.layer_table(run)))).num_rows == 0
