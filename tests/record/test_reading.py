"""Numbers that are read from a record, against numbers worked out by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from gradviz.record import reading
from gradviz.record.history import History, StepRecord
from gradviz.record.layout import Layout
from gradviz.record.quantities import QUANTITIES
from gradviz.record.run import Run


class Net:
    """A recipe of which only the layout is asked."""

    def __init__(self, layout: Layout):
        self.id, self.title, self.layout, self.steps = "net", "a net", layout, None

    def to_dict(self) -> dict[str, object]:
        return {}


def run_of(layout: Layout, *gradients: list[float]) -> Run:
    """A run whose weight gradients are these, step by step; all its other numbers are 1."""
    history = History(len(layout))
    for step, gradient in enumerate(gradients):
        layers = np.ones((len(QUANTITIES), len(layout)), np.float32)
        layers[list(QUANTITIES).index("weight_grad_rms")] = gradient
        history.append(StepRecord(step, 1.0, 0.5, layers, float(step)))
    return Run(Net(layout), history)


STEM_AND_INSIDE = Layout(("stem", "a", "b", "c", "d", "head"), range(1, 5))


def test_the_ends_are_those_of_the_part_that_repeats_and_else_of_the_whole_net():
    run = run_of(STEM_AND_INSIDE, [9, 1, 2, 3, 4, 9], [9, 5, 6, 7, 8, 9])
    assert reading.ends(run) == (1, 4) and reading.ends(run, last=True) == (5, 8)
    assert reading.ends(run, "weight_rms") == (1, 1)
    assert reading.judged(run, "weight_grad_rms").tolist() == [1, 2, 3, 4]
    assert reading.quantity_at(run, "weight_grad_rms", last=True).tolist() == [9, 5, 6, 7, 8, 9]
    assert reading.ends(run_of(Layout(("one", "two", "three")), [1, 2, 3])) == (1, 3)
    assert reading.ends(run_of(Layout(("one", "two", "three"), between=(0, 1)), [1, 2, 3])) == (1, 2)


def test_a_net_of_one_layer_is_its_own_ends():
    assert reading.ends(run_of(Layout(("only",)), [7])) == (7, 7)


def test_the_factor_is_per_layer_on_the_way_back_and_leaves_out_what_float32_has_no_digits_for():
    assert reading.factor(run_of(STEM_AND_INSIDE, [5, 1, 10, 100, 1000, 5])) == pytest.approx(0.1)
    assert reading.factor(run_of(STEM_AND_INSIDE, [5, 8, 4, 2, 1, 5])) == pytest.approx(2)
    assert reading.factor_of(np.array([0, 1e-40, np.inf, 1e-6, 1e-4, 1e-2, np.nan])) == pytest.approx(0.01)
    assert math.isnan(reading.factor_of(np.array([1.0, 2.0, 0.0])))  # a line through two points says nothing
    assert reading.factor_of(np.array([4.0, 2.0, 1.0])) == pytest.approx(2)


def test_a_size_of_0_counts_as_the_smallest_number_of_float32():
    assert reading.decades(1e-9, 1e-3) == pytest.approx(-6)
    assert reading.decades(0, 1) == reading.log_size(0) == pytest.approx(math.log10(1.401298464324817e-45))
    assert reading.decades(0, 0) == 0
    assert math.isnan(reading.log_size(math.nan)) and reading.log_size(math.inf) == math.inf


def test_the_ratio_of_two_float32_neither_overflows_nor_divides_by_0():
    assert reading.ratio(3e38, 1e-38) == pytest.approx(3e76)
    assert math.isnan(reading.ratio(1, 0)) and reading.ratio(0, 1) == 0


def test_ends_that_are_no_rows_are_refused():
    with pytest.raises(ValueError, match="3 layers"):
        Layout(("one", "two", "three"), between=(0, 3))
    with pytest.raises(ValueError, match="rows of 3 layers"):
        Layout(("one", "two", "three"), between=(2, 1))
    with pytest.raises(ValueError, match="at least one layer"):
        Layout(())


def test_a_length_is_the_root_mean_square_times_the_root_of_the_entries_and_nothing_where_these_are_not_known():
    rows = [np.full(7, 0.5), np.arange(3.0)]
    rms = np.array([math.sqrt(float((row**2).mean())) for row in rows])
    np.testing.assert_allclose(reading.length_of(rms, [7, 3]), [np.linalg.norm(row) for row in rows])
    assert np.isnan(reading.length_of(rms, [0, 3])[0]) and np.isinf(reading.length_of(np.array([np.inf]), [3]))[0]
