"""What can still be read of a damaged SQLite file: its tables as far as SQL goes, and whatever rows lie whole on any page.

One damaged page can hide a whole table from SQL, since a table is a tree of pages. The rows themselves are mostly
unharmed: they lie on leaf pages, which say how they are to be read (sqlite.org/fileformat2.html).
"""

from __future__ import annotations

import mmap
import os
import sqlite3
import struct
from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from gradviz.record.recipe import Recipe
from gradviz.store.rows import Recipes, Sound, Unsound, is_number, is_right, is_whole
from gradviz.store.schema import PARTS, bring_up_to_date

_FEWEST = 14  # values of a row of `runs` in its first version
_NEEDED = {"runs": {"id", "config", "status", "created", "steps"}}  # without which SQL gives no run; of its records all
_LEAF = 0x0D  # first byte of a page that holds a table's rows
_SAMPLE = 2**22  # bytes that are looked at to find the size of a page
_HEADER = 100  # bytes before the first page's content
_MOST_PAGES = 2**20  # of one row: no chain of pages may go round and round
_SIZES = {5: 6, 6: 8, 7: 8, 8: 0, 9: 0}  # serial type -> bytes, where they differ


@dataclass(frozen=True)
class Salvaged:
    """Numbers of runs."""

    whole: int
    gaps: int  # whose records are there in part
    lost: int  # of which there are records, but not what they belong to
    complete: bool  # the list of runs was read to its end; else more may be lost without a trace


def salvaged(path: Path, into: Path, recipes: Recipes[Recipe]) -> Salvaged:
    """Writes what can be read of the damaged file of runs `path` into a new one. Raises OSError, sqlite3.Error."""
    into.touch()
    with closing(sqlite3.connect(into, isolation_level=None)) as db:
        db.row_factory = sqlite3.Row
        for pragma in ("auto_vacuum = INCREMENTAL", "journal_mode = OFF", "synchronous = OFF"):
            db.execute(f"PRAGMA {pragma}")  # it counts only once it is whole
        bring_up_to_date(db)
        db.execute("BEGIN")
        whole = _by_sql(path, db)
        if not (complete := whole.pop("runs")):
            for values in _best_runs(path, db, recipes):
                _put(db, "runs", values)
        sizes = _column_sizes(db, recipes)
        if not all(whole.values()):
            for values in loose_rows(path):
                if (table := _table_of(values, sizes)) and not whole[table]:
                    _put(db, table, values)
        orphans = "FROM {} WHERE run NOT IN (SELECT id FROM runs)"
        lost = db.execute(f"SELECT count(*) FROM ({' UNION '.join('SELECT run ' + orphans.format(table) for table in PARTS)})")
        lost = lost.fetchone()[0]
        for table in PARTS:
            db.execute(f"DELETE {orphans.format(table)}")
        gaps = _with_gaps(db)
        count = db.execute("SELECT count(*) FROM runs").fetchone()[0]
        db.execute("COMMIT")
    with into.open("rb+") as file:
        os.fsync(file.fileno())
    return Salvaged(count - gaps, gaps, lost, complete)


def _by_sql(path: Path, db: sqlite3.Connection) -> dict[str, bool]:
    """Copies what SQL reaches. Returns for each table whether that was all."""
    whole = dict.fromkeys(("runs", *PARTS), False)
    if path.stat().st_size < 512:
        return whole  # SQLite would take it for a new file, and remove its log
    try:
        with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, isolation_level=None)) as old:
            old.row_factory = sqlite3.Row
            old.text_factory = lambda data: data.decode("utf-8", "replace")
            for table in whole:
                known = [name for name in _names(old, table) if name in _names(db, table)]
                if set(known) >= _NEEDED.get(table, {*_names(db, table)} - {"crc"}):
                    whole[table] = _taken(rows(old, table), partial(_copy, db, table, known))
                else:
                    whole[table] = False
    except (sqlite3.Error, UnicodeDecodeError):
        pass  # the pages are read one by one then
    return whole


def _taken(given: Generator[sqlite3.Row, None, bool], take: Callable[[sqlite3.Row], bool]) -> bool:
    """Whether the generator gave all that there is, and each was taken."""
    taken = True
    while True:
        try:
            taken = take(next(given)) and taken
        except StopIteration as end:
            return bool(end.value) and taken


def _copy(db: sqlite3.Connection, table: str, names: list[str], row: sqlite3.Row) -> bool:
    values = [row[name] for name in names]
    if table != "runs" and not is_right(table, *values[1:], *[None] * ("crc" not in names)):
        return False
    holes = ", ".join("?" * (1 + len(names)))
    db.execute(f"INSERT OR IGNORE INTO {table} (rowid, {', '.join(names)}) VALUES ({holes})", [row["number_"], *values])
    return True


def _names(db: sqlite3.Connection, table: str) -> list[str]:
    return [row["name"] for row in db.execute(f"PRAGMA table_info({table})")]


def _put(db: sqlite3.Connection, table: str, values: list[Any]) -> None:
    """A row as it lies on its page: columns that were added after it was written are missing at its end."""
    if table != "runs" and not is_right(table, *values[1:], *[None] * (len(values) < len(_names(db, table)))):
        return
    names = _names(db, table)[: len(values)]
    db.execute(f"INSERT OR IGNORE INTO {table} ({', '.join(names)}) VALUES ({', '.join('?' * len(names))})", values)


def _best_runs(path: Path, db: sqlite3.Connection, recipes: Recipes[Recipe]) -> list[list[Any]]:
    """Of each run the row with the most steps: an older one may lie on another page."""
    names = _names(db, "runs")
    steps = names.index("steps")
    best: dict[str, list[Any]] = {}
    for values in loose_rows(path):
        if not _FEWEST <= len(values) <= len(names) or not isinstance(values[0], str):
            continue
        try:
            Sound.of(dict(zip(names, [*values, *[None] * (len(names) - len(values))], strict=True)), recipes)
        except Unsound:
            continue
        known = best.get(values[0])
        if known is None or known[steps] < values[steps]:
            best[values[0]] = values
    return list(best.values())


def _column_sizes(db: sqlite3.Connection, recipes: Recipes[Recipe]) -> dict[str, int]:
    """Run -> bytes of one of its columns."""
    sizes = {}
    for row in db.execute("SELECT * FROM runs"):
        try:
            layers = len(Sound.of(row, recipes).recipe.layout)
        except Unsound:
            continue
        sizes[row["id"]] = 4 * layers * len(str(row["quantities"]).split())
    return sizes


def _table_of(values: list[Any], sizes: dict[str, int]) -> str | None:
    """The table of a row of a run's records, by what is in it."""
    kinds = [type(value) for value in values]
    if kinds[:2] != [str, int] or values[0] not in sizes:
        return None
    if kinds[2:4] == [bytes, bytes]:
        return "samples"
    if kinds[2:3] == [bytes]:
        for table in ("scalars", "columns"):
            if len(values) == 4 and values[3] is not None and is_right(table, *values[1:]):
                return table
        size = len(values[2])
        return "columns" if size == sizes[values[0]] else "scalars" if size and size % 24 == 0 else None
    return "tests" if len(values) in (3, 4) and is_number(values[2]) else None


def _with_gaps(db: sqlite3.Connection) -> int:
    """Runs whose steps or columns are not all there."""
    query = ("SELECT steps, stride, (SELECT coalesce(sum(length(data)), 0) / 24 FROM scalars WHERE run = id) AS scalars, "
             "(SELECT count(*) FROM columns WHERE run = id) AS columns, coalesce(tests, 0) + coalesce(samples, 0) AS counts, "
             "(SELECT count(*) FROM tests WHERE run = id) + (SELECT count(*) FROM samples WHERE run = id) AS there FROM runs")
    return sum(
        not (is_whole(row["steps"]) and is_whole(row["stride"]) and row["stride"] > 0)
        or row["scalars"] < row["steps"]
        or row["columns"] < -(-row["steps"] // row["stride"])
        or row["there"] < row["counts"]
        for row in db.execute(query)
    )


def rows(db: sqlite3.Connection, table: str) -> Generator[sqlite3.Row, None, bool]:
    """Each row of the table that SQL can reach, with its rowid as `number_`: from the front to the damage, then from the back.

    Returns whether it was the whole table.
    """
    whole, last = True, None
    for direction in ("", " DESC"):
        try:
            for (number,) in db.execute(f"SELECT rowid FROM {table} ORDER BY rowid{direction}"):
                if last is not None and number <= last:
                    whole = False  # or the pages go round in a circle
                    break
                try:
                    row = db.execute(f"SELECT rowid AS number_, * FROM {table} WHERE rowid = ?", (number,)).fetchone()
                except sqlite3.Error:
                    row = None
                whole = whole and row is not None
                last = last if direction else number
                if row is not None:
                    yield row
            break
        except sqlite3.Error:
            whole = False
    return whole


def loose_rows(path: Path) -> Iterator[list[Any]]:
    """The values of each row that lies whole on a leaf page, of whatever table, in no order; those in freed pages left out.

    Raises OSError. The file is not changed; what its write-ahead log holds counts.
    """
    with path.open("rb") as file:
        size = path.stat().st_size
        with closing(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) if size else mmap.mmap(-1, 1)) as data:
            pages = _Pages(data, Path(f"{path}-wal"))
            freed = pages.freed()
            for number in range(1, pages.count + 1):
                if number not in freed:
                    yield from pages.rows(number)


class _Pages:
    """The pages of a file, 1 … count, each as of its latest commit."""

    def __init__(self, data: mmap.mmap, log: Path):
        self._data = data
        try:
            content = log.read_bytes()
        except OSError:
            content = b""  # there is none
        said = 256 * data[16] + 65536 * data[17] if len(data) >= 512 else int.from_bytes(content[8:12], "big")
        self._newer: dict[int, bytes] = {}
        sizes = sorted((512 << power for power in range(8)), key=lambda size: size != said)
        self._divide(max(sizes, key=self._found))  # the header may be what is damaged: where most rows are found
        self._read_log(content)
        self.count = max(len(data) // self.size, *self._newer, 0)

    def _divide(self, size: int) -> None:
        data = self._data
        self.size, self.count = size, len(data) // size
        self._usable = size - (data[20] if len(data) > 20 and data[20] < 64 else 0)

    def _found(self, size: int) -> int:
        """Rows in the first pages, if they are of this size."""
        self._divide(size)
        return sum(1 for number in range(1, min(self.count, _SAMPLE // size) + 1) for _row in self.rows(number))

    def _read_log(self, log: bytes) -> None:
        salt, pending = log[16:24], {}
        for at in range(32, len(log) - 24 - self.size + 1, 24 + self.size):
            number, commit = struct.unpack_from(">II", log, at)
            if log[at + 8 : at + 16] != salt:
                break  # left over from an earlier round
            pending[number] = log[at + 24 : at + 24 + self.size]
            if commit:
                self._newer |= pending
                pending = {}

    def page(self, number: int) -> bytes:
        return self._newer.get(number) or self._data[(number - 1) * self.size : number * self.size]

    def freed(self) -> set[int]:
        freed: set[int] = set()
        trunk = int.from_bytes(self.page(1)[32:36], "big")
        while 0 < trunk <= self.count and trunk not in freed:
            freed.add(trunk)
            page = self.page(trunk)
            trunk, leaves = struct.unpack_from(">II", page)
            freed |= set(struct.unpack_from(f">{min(leaves, self.size // 4 - 2)}I", page, 8))
        return freed

    def rows(self, number: int) -> Iterator[list[Any]]:
        page = self.page(number)
        head = _HEADER if number == 1 else 0
        if len(page) < self.size or page[head] != _LEAF:
            return
        for place in range(int.from_bytes(page[head + 3 : head + 5], "big")):
            try:
                (at,) = struct.unpack_from(">H", page, head + 8 + 2 * place)
                yield _values(self._payload(page, at))
            except (ValueError, IndexError, struct.error):
                continue  # this row only

    def _payload(self, page: bytes, at: int) -> bytes:
        length, at = _varint(page, at)
        _rowid, at = _varint(page, at)
        most = self._usable - 35
        if length <= most:
            return _exactly(page[at : at + length], length)
        least = (self._usable - 12) * 32 // 255 - 23
        local = least + (length - least) % (self._usable - 4)
        local = local if local <= most else least
        parts, left = [_exactly(page[at : at + local], local)], length - local
        (number,) = struct.unpack_from(">I", page, at + local)
        for _ in range(_MOST_PAGES):
            if left <= 0:
                return b"".join(parts)
            if not 0 < number <= self.count:
                break
            overflow = self.page(number)
            number = int.from_bytes(overflow[:4], "big")
            part = overflow[4 : min(self._usable, 4 + left)]
            parts.append(part)
            left -= len(part)
            if not part:
                break
        raise ValueError("the row goes on nowhere")


def _values(payload: bytes) -> list[Any]:
    """Raises ValueError if this is no row."""
    head, at = _varint(payload, 0)
    place = head
    values: list[Any] = []
    while at < head:
        kind, at = _varint(payload, at)
        size = (kind - 12) // 2 if kind >= 12 else _SIZES.get(kind, kind)
        part = _exactly(payload[place : place + size], size)
        place += size
        if kind in (10, 11):
            raise ValueError("a kind of value that is not used")
        if kind >= 12:
            values.append(part.decode() if kind % 2 else part)
        elif kind == 7:
            values.append(struct.unpack(">d", part)[0])
        else:
            values.append(None if kind == 0 else kind - 8 if kind in (8, 9) else int.from_bytes(part, "big", signed=True))
    if at != head or place != len(payload):
        raise ValueError("the row is not as long as it says")
    return values


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """A number of 1 to 9 bytes, and where it ends."""
    value = 0
    for place in range(8):
        value = value << 7 | data[at + place] & 0x7F
        if data[at + place] < 0x80:
            return value, at + place + 1
    return value << 8 | data[at + 8], at + 9


def _exactly(part: bytes, length: int) -> bytes:
    if len(part) != length:
        raise ValueError("cut off")
    return part
