"""The tables of the file of runs, and the steps that bring an older file's tables up to date."""

from __future__ import annotations

import sqlite3
from contextlib import closing

VERSION = 7  # PRAGMA user_version
_SINCE_1 = """
CREATE TABLE IF NOT EXISTS runs (
    id TEXT PRIMARY KEY, config TEXT, status TEXT, device TEXT, message TEXT, nonfinite_layer TEXT,
    test_accuracy REAL, created REAL, steps INTEGER, loss REAL, seconds REAL,
    quantities TEXT, max_columns INTEGER, stride INTEGER
);
CREATE TABLE IF NOT EXISTS scalars ( -- data: float64 (n, 3), the loss, accuracy and seconds of steps first … first + n − 1
    run TEXT REFERENCES runs (id) ON DELETE CASCADE ON UPDATE CASCADE, first INTEGER, data BLOB, PRIMARY KEY (run, first)
);
CREATE TABLE IF NOT EXISTS columns ( -- data: float32 (quantities, layers)
    run TEXT REFERENCES runs (id) ON DELETE CASCADE ON UPDATE CASCADE, place INTEGER, data BLOB, PRIMARY KEY (run, place)
);
CREATE TABLE IF NOT EXISTS tests (
    run TEXT REFERENCES runs (id) ON DELETE CASCADE ON UPDATE CASCADE, step INTEGER, accuracy REAL, PRIMARY KEY (run, step)
);
"""
_SINCE_2 = """
ALTER TABLE runs ADD COLUMN deletion TEXT;
CREATE TABLE IF NOT EXISTS samples ( -- numbers, images: .npz, as in anatomy.PackedSample
    run TEXT REFERENCES runs (id) ON DELETE CASCADE ON UPDATE CASCADE, step INTEGER, numbers BLOB, images BLOB,
    PRIMARY KEY (run, step)
);
"""
_SINCE_3 = "ALTER TABLE runs ADD COLUMN clients TEXT;"  # as JSON
_SINCE_4 = "ALTER TABLE runs ADD COLUMN arithmetic TEXT;"  # as JSON
_SINCE_5 = """
ALTER TABLE scalars ADD COLUMN crc INTEGER; -- of the row, as rows.checksum gives it, NULL in rows of earlier versions
ALTER TABLE columns ADD COLUMN crc INTEGER;
ALTER TABLE tests ADD COLUMN crc INTEGER;
ALTER TABLE samples ADD COLUMN crc INTEGER;
"""
_SINCE_6 = """
ALTER TABLE runs ADD COLUMN tests INTEGER; -- how many rows it has in the table of this name, as it has steps and columns
ALTER TABLE runs ADD COLUMN samples INTEGER;
"""
_SINCE_7 = "ALTER TABLE runs ADD COLUMN measuring TEXT;"  # as JSON, of a run that was watched
_STEPS = (_SINCE_1, _SINCE_2, _SINCE_3, _SINCE_4, _SINCE_5, _SINCE_6, _SINCE_7)
PARTS = ("scalars", "columns", "tests", "samples")  # what belongs to a run: its id, its place, its values, its checksum


def bring_up_to_date(db: sqlite3.Connection) -> None:
    """Takes the steps that are missing. The columns of a table are only ever added at its end."""
    version = db.execute("PRAGMA user_version").fetchone()[0]
    if version >= VERSION:
        return
    db.execute("BEGIN IMMEDIATE")
    try:
        for statement in filter(str.strip, ";".join(_STEPS[version:]).split(";")):
            try:
                db.execute(statement)
            except sqlite3.OperationalError as error:
                if "duplicate column name" not in str(error):
                    raise  # else it was taken already, and the number of the version is what is wrong
        db.execute(f"PRAGMA user_version = {VERSION}")
        db.execute("COMMIT")
    except BaseException:
        if db.in_transaction:
            db.execute("ROLLBACK")
        raise


def is_complete(db: sqlite3.Connection) -> bool:
    """Whether all the tables are there."""
    return {"runs", *PARTS} <= {name for (name,) in db.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")}


def is_ours(db: sqlite3.Connection) -> bool:
    """Whether the tables are as this version makes them, and nothing acts when they are written: somebody may have been in it."""
    with closing(sqlite3.connect(":memory:")) as model:
        model.isolation_level = None
        bring_up_to_date(model)
        return _shape(db) == _shape(model)


def _shape(db: sqlite3.Connection) -> list[list[tuple[object, ...]]]:
    triggers = db.execute("SELECT name FROM sqlite_schema WHERE type = 'trigger'")
    shape: list[list[tuple[object, ...]]] = [[tuple(row) for row in triggers]]
    for table in ("runs", *PARTS):
        query = "SELECT name, pk, \"notnull\" FROM pragma_table_xinfo(?) ORDER BY cid"
        shape.append([tuple(row) for row in db.execute(query, (table,))])
        query = 'SELECT "from", "to", "table", on_delete, on_update FROM pragma_foreign_key_list(?)'
        shape.append([tuple(row) for row in db.execute(query, (table,))])
        shape.append([tuple(row) for row in db.execute('SELECT origin FROM pragma_index_list(?) WHERE "unique"', (table,))])
    return shape
