"""How many students a server bears, and what a thousand need: a simulation of discrete events from measured unit costs.

    python -m benchmarks.simulation                       # pages at once, and the table of docs/cluster.md
    python -m benchmarks.simulation --look 2 --thinks 30  # every cost and every habit is an option

A server is one Python interpreter, whose lock its threads have in turns of 5 ms: one thread answers all looks, each page or
rerun has one of its own, and what the trainings record is taken in between. Trainings run elsewhere, one to a slot. A cell is a
server with its share of the students and of the slots; all are alike, so that one is simulated.
"""

from __future__ import annotations

import argparse
import heapq
import math
import random
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, fields
from functools import partial

from benchmarks.common import table

SLICE = 0.005  # seconds: sys.getswitchinterval()
OPENING = 60.0  # seconds in which all come in; what is measured begins after twice that
PAGE, LOOK, START = 1.0, 0.1, 2.0  # seconds that 95 % of pages, looks and runs may wait
SIZES = range(500, 0, -25)  # of a cell
ROWS = (30, 100, 200, 1000, 10_000)  # students
TAKEN = 0.25  # seconds of records that are taken at once, in the simulation alone

Then = Callable[[], object]


@dataclass(frozen=True)
class House:
    """Costs are ms of the interpreter, from `python -m benchmarks.unit_costs`; habits are assumed."""

    look: float = 1.43  # of a live page for what is new
    page: float = 50.4  # opened, with its scripts
    rerun: float = 22.5  # of a page, after something has been pressed or turned
    record: float = 0.23  # of a training, taken and kept
    megabytes: float = 2.2  # that a run of 300 steps leaves on the disk
    every: float = 1.0  # seconds from an answer until the next look
    stays: float = 300.0  # seconds until a student opens another page, on average
    thinks: float = 90.0  # seconds until he presses Start again, on average
    turns: float = 2.0  # reruns before it, for what he changes
    distinct: float = 0.6  # of the runs that are asked for; the others are there already
    steps: float = 300.0  # of a run
    pace: float = 23.0  # steps a second: 12 blocks on one core


class Time:
    """What comes when."""

    def __init__(self) -> None:
        self.now = 0.0
        self._coming: list[tuple[float, int, Then]] = []
        self._count = 0

    def after(self, seconds: float, then: Then) -> None:
        self._count += 1
        heapq.heappush(self._coming, (self.now + seconds, self._count, then))

    def run(self, until: float = math.inf) -> None:
        while self._coming and self._coming[0][0] <= until:
            self.now, _count, then = heapq.heappop(self._coming)
            then()


class Interpreter:
    """Its threads have the lock in turns of a slice, or for as long as they need."""

    def __init__(self, time: Time, slice: float = SLICE):
        self._time, self._slice, self.busy = time, slice, 0.0
        self._ready: deque[tuple[float, Then]] = deque()
        self._held = False

    def work(self, seconds: float, then: Then) -> None:
        """So much of a thread of its own; `then()` once it is done."""
        self._ready.append((seconds, then))
        if not self._held:
            self._next()

    def _next(self) -> None:
        if self._ready:
            seconds, then = self._ready.popleft()
            turn = min(seconds, self._slice)
            self._held = True
            self._time.after(turn, partial(self._over, turn, seconds - turn, then))

    def _over(self, turn: float, left: float, then: Then) -> None:
        self._held = False
        self.busy += turn
        if left > 1e-9:
            self._ready.append((left, then))
        else:
            then()
        if not self._held:
            self._next()


class Line:
    """So many at once, in the order in which they came: the thread that answers, or the slots of trainings.
    `do(seconds, over)` does it and calls `over`."""

    def __init__(self, do: Callable[[float, Then], None], places: int = 1):
        self._do, self._free = do, places
        self._waiting: deque[tuple[float, Then, Then]] = deque()

    def work(self, seconds: float, then: Then, begun: Then = lambda: None) -> None:
        self._waiting.append((seconds, then, begun))
        self._next()

    def _next(self) -> None:
        while self._free and self._waiting:
            seconds, then, begun = self._waiting.popleft()
            self._free -= 1
            begun()
            self._do(seconds, partial(self._over, then))

    def _over(self, then: Then) -> None:
        self._free += 1
        then()
        self._next()


class Cell:
    """A server with its students and slots. Times are lists of seconds, of what began after everybody had come in."""

    def __init__(self, house: House, students: int, slots: int, full: bool = False, seed: int = 1):
        """`full`: a sweep takes every slot that is free."""
        self.house, self.chance, self.time = house, random.Random(seed), Time()
        self.server = Interpreter(self.time)
        self._answers, self._slots = Line(self.server.work), Line(self._train, slots)
        self.looks, self.pages, self.starts = list[float](), list[float](), list[float]()
        self.runs = 0
        self._full = full
        for _ in range(slots * full):
            self._record(always=True)
        for _ in range(students):
            self.time.after(self.chance.uniform(0, OPENING), self._come)

    def _soon(self, mean: float, then: Then) -> None:
        self.time.after(self.chance.expovariate(1 / mean), then)

    def _timed(self, found: list[float], then: Then = lambda: None) -> Then:
        began = self.time.now

        def over() -> None:
            if began >= 2 * OPENING:
                found.append(self.time.now - began)
            then()

        return over

    def _come(self) -> None:
        self._open()
        self._soon(self.house.thinks, self._start)
        self._look()

    def _open(self) -> None:
        self.server.work(self.house.page / 1e3, self._timed(self.pages, partial(self._soon, self.house.stays, self._open)))

    def _look(self) -> None:
        over = self._timed(self.looks, lambda: self.time.after(self.house.every, self._look))
        self._answers.work(self.house.look / 1e3, over)

    def _start(self) -> None:
        self.server.work((1 + self.house.turns) * self.house.rerun / 1e3, self._started)

    def _started(self) -> None:
        self._soon(self.house.thinks, self._start)
        if self.chance.random() < self.house.distinct:
            self.runs += self.time.now >= 2 * OPENING
            self._slots.work(self.house.steps / self.house.pace, lambda: None, begun=self._timed(self.starts))

    def _train(self, seconds: float, over: Then) -> None:
        if seconds <= 0:
            return over()
        if not self._full:
            self._record()
        self.time.after(TAKEN, partial(self._train, seconds - TAKEN, over))

    def _record(self, always: bool = False) -> None:
        self.server.work(self.house.record / 1e3 * self.house.pace * TAKEN, lambda: None)
        if always:
            self.time.after(TAKEN, partial(self._record, True))


@dataclass(frozen=True)
class Found:
    """Of one cell: the share of the lock that was taken, medians and 95th percentiles in seconds, runs per second."""

    busy: float
    page: tuple[float, float]
    look: tuple[float, float]
    start: tuple[float, float]
    runs: float

    @property
    def is_quick(self) -> bool:
        return self.page[1] <= PAGE and self.look[1] <= LOOK


def spread(values: list[float]) -> tuple[float, float]:
    ordered = sorted(values) or [math.nan]
    return ordered[len(ordered) // 2], ordered[int(0.95 * len(ordered))]


def cell(house: House, students: int, slots: int, full: bool = False, seconds: float = 300.0) -> Found:
    there = Cell(house, students, slots, full)
    there.time.run(2 * OPENING)
    before = there.server.busy
    there.time.run(2 * OPENING + seconds)
    busy = (there.server.busy - before) / seconds
    return Found(busy, spread(there.pages), spread(there.looks), spread(there.starts), there.runs / seconds)


def pages_at_once(house: House, count: int) -> tuple[float, float]:
    """Seconds until half of them are there, and all."""
    time, ends = Time(), list[float]()
    server = Interpreter(time)
    for _ in range(count):
        server.work(house.page / 1e3, lambda: ends.append(time.now))
    time.run()
    return ends[len(ends) // 2], ends[-1]


def largest(house: House) -> int:
    """Students of whom one server answers 95 % in time, while a sweep takes what slots they leave. Raises ValueError."""
    for students in SIZES:
        if cell(house, students, slots_for(house, students), full=True).is_quick:
            return students
    raise ValueError(f"not even {SIZES[-1]} students are served in time")


def slots_for(house: House, students: int) -> int:
    """So many that 95 % of the runs begin in time."""
    slots = max(1, math.floor(students * house.distinct / house.thinks * house.steps / house.pace))
    while not cell(house, students, slots).start[1] <= START:
        slots += 1
    return slots


def needs(house: House, students: int, size: int) -> list[object]:
    """A row: so many students in as many cells as are needed. Of disk, what they write alone and with a sweep in all slots."""
    cells = math.ceil(students / size)
    each = math.ceil(students / cells)
    slots = slots_for(house, each)
    found, alone = cell(house, each, slots, full=True), cell(house, each, slots)
    disk = [3.6 * house.megabytes * cells * runs for runs in (alone.runs, slots * house.pace / house.steps)]
    return [
        f"{students:,}", cells, f"{cells * slots:,}", f"{cells * (slots + 1):,}", f"{disk[0]:,.0f} … {disk[1]:,.0f} GB",
        f"{100 * found.busy:.0f} %", f"{found.page[0]:.2f}, {found.page[1]:.2f} s", f"{1e3 * found.look[1]:.0f} ms",
        f"{alone.start[1]:.1f} s",
    ]  # fmt: skip


HEAD = ("students", "cells", "slots", "cores", "disk an hour", "lock taken", "page, median and 95 %", "look, 95 %", "start, 95 %")


def main(words: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for field in fields(House):
        parser.add_argument(f"--{field.name}", type=float, default=field.default)
    parser.add_argument("--students", type=int, nargs="+", default=ROWS)
    given = vars(parser.parse_args(words))
    students = given.pop("students")
    house = House(**given)
    for count in (30, 100):
        half, last = pages_at_once(house, count)
        print(f"{count} pages at once: median {half:.2f} s, last {last:.2f} s")
    size = largest(house)
    print(f"a server bears {size} students\n")
    print(table(HEAD, [needs(house, count, size) for count in students]))


if __name__ == "__main__":
    main()
