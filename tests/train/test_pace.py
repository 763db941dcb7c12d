"""How often a watched training is measured, on a clock made by hand."""

import pytest

from gradviz.train.pace import SHARE, Pace


def played(pace: Pace, bare: float, cost: float, steps: int) -> float:
    """Plays a training; what measuring cost of its own time."""
    spent = 0.0
    for step in range(steps):
        measured = pace.due(step)
        spent += cost * measured
        pace.take(bare + cost * measured, cost * measured, measured)
    return spent / (bare * steps)


@pytest.mark.parametrize("cost, every", [(0.0001, 1), (0.005, 10), (0.012, 50), (0.02, 50), (0.4, 1000), (100.0, 1000)])
def test_the_pace_is_the_smallest_that_costs_no_more_than_its_share(cost, every):
    pace = Pace(None)
    share = played(pace, 0.1, cost, 20_000)
    assert pace.every == every
    if every < 1000:
        assert share <= SHARE * 1.1 and pace.share <= SHARE


def test_a_pace_that_was_asked_for_stays_and_still_says_what_it_costs():
    pace = Pace(1)
    assert pace.share is None
    played(pace, 0.1, 0.05, 20)
    assert pace.every == 1 and pace.share == pytest.approx(0.5)


def test_what_another_thread_spends_on_a_measured_step_counts_as_well():
    pace = Pace(1)
    pace.beside = 0.01
    played(pace, 0.1, 0.05, 20)
    assert pace.share == pytest.approx(0.6)
    free = Pace(None)
    free.beside = 0.005
    played(free, 0.1, 0.0001, 200)
    assert free.every == 20 and free.share <= SHARE


def test_measuring_that_has_become_cheap_is_done_more_often_again():
    pace = Pace(None)
    played(pace, 0.1, 0.02, 100)
    assert pace.every == 50
    played(pace, 3.0, 0.02, 200)
    assert pace.every == 5
    played(pace, 30.0, 0.02, 200)
    assert pace.every == 1
