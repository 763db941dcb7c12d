"""The simulation of benchmarks/simulation.py against queues whose waiting times are known in closed form."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from statistics import mean

import pytest

from benchmarks.simulation import Cell, House, Interpreter, Line, Then, Time, cell, pages_at_once

Work = Callable[[float, Then], object]


def sojourns(time: Time, work: Work, rate: float, seconds: Callable[[random.Random], float], count: int = 120_000) -> list[float]:
    """Of jobs that come at random, `rate` in a second: how long each was there. The first tenth is left out."""
    chance, found = random.Random(7), list[float]()

    def come() -> None:
        began = time.now
        work(seconds(chance), lambda: found.append(time.now - began))
        if len(found) < count:
            time.after(chance.expovariate(rate), come)

    come()
    time.run()
    return found[count // 10 :]


@pytest.mark.parametrize("load", [0.4, 0.7])
def test_looks_wait_as_long_as_in_a_queue_with_one_server_and_equal_work(load: float) -> None:
    """M/D/1: ρ s / 2 (1 - ρ), by Pollaczek and Khinchine."""
    time, cost = Time(), 0.002
    found = sojourns(time, Line(Interpreter(time).work).work, load / cost, lambda _chance: cost)
    assert mean(found) - cost == pytest.approx(load * cost / (2 * (1 - load)), rel=0.04)


def test_pages_share_the_interpreter_as_processors_are_shared() -> None:
    """M/G/1 with processor sharing: s / (1 - ρ), however the work is spread."""
    time = Time()
    found = sojourns(time, Interpreter(time, slice=0.002).work, 10.0, lambda chance: chance.choice((0.02, 0.08)), 40_000)
    assert mean(found) == pytest.approx(0.05 / (1 - 0.5), rel=0.04)


def test_runs_wait_for_slots_as_callers_wait_for_lines() -> None:
    """M/M/c, by Erlang's formula C."""
    time, slots, load = Time(), 6, 4.2
    found = sojourns(time, Line(time.after, slots).work, load, lambda chance: chance.expovariate(1.0))
    busy = load**slots / math.factorial(slots) / (1 - load / slots)
    waits = busy / (sum(load**k / math.factorial(k) for k in range(slots)) + busy)
    assert mean(found) - 1.0 == pytest.approx(waits / (slots - load), rel=0.05)


def test_the_last_of_many_pages_at_once_has_waited_for_all() -> None:
    half, last = pages_at_once(House(page=120), 30)
    assert last == pytest.approx(30 * 0.12) and 0.9 * last < half < last


def test_a_cell_has_as_much_to_do_as_its_students_ask_for() -> None:
    """While it is far from full, next to nobody waits, so that what is asked for in a second can be counted."""
    costs = dict(look=1.0, page=50, rerun=20, record=0.2)
    house = House(**costs, every=1.0, stays=100, thinks=50, turns=1, distinct=0.5, steps=200, pace=20)
    runs = 40 * 0.5 / (50 + 0.04)
    expected = 40 * (0.001 / 1.001 + 0.05 / 100.05 + 0.04 / 50.04) + runs * 200 * 0.0002
    found = cell(house, students=40, slots=40, seconds=3000.0)
    assert found.busy == pytest.approx(expected, rel=0.05) and found.runs == pytest.approx(runs, rel=0.1)
    assert found.start == (0.0, 0.0) and found.page[0] < 0.08 and found.is_quick
    assert not cell(house, students=1500, slots=200, seconds=60.0).is_quick


def test_a_sweep_in_all_slots_is_recorded_all_the_while() -> None:
    there = Cell(House(record=1.0, pace=20), students=0, slots=10, full=True)
    there.time.run(100.0)
    assert there.server.busy == pytest.approx(100 * 10 * 20 * 0.001, rel=0.01)
