"""A run from its beginning to its end."""

from __future__ import annotations

import dataclasses

import numpy as np
import odd
import pytest

from gradviz.messages import say
from gradviz.record.history import StepRecord
from gradviz.record.layout import Layout
from gradviz.record.quantities import QUANTITIES
from gradviz.record.run import Outcome, Run, Status, Summary


def record(step: int, nonfinite_layer: str | None = None, layers: int = 3) -> StepRecord:
    return StepRecord(step, 1.5, 0.25, np.ones((len(QUANTITIES), layers), np.float32), 2.0, nonfinite_layer=nonfinite_layer)


def test_a_run_keeps_the_first_layer_that_was_not_finite_and_takes_no_step_out_of_turn():
    run = Run.begun(odd.OddRecipe(), device="cpu")
    assert (run.status, run.device, run.history.layers, run.history.steps, str(run.message)) == (Status.RUNNING, "cpu", 3, 0, "")
    for step, layer in enumerate((None, "out.proj", "mixer.π/in")):
        run.take(record(step, layer))
    assert (run.nonfinite_layer, run.history.steps) == ("out.proj", 3)
    with pytest.raises(ValueError, match="step 7 came where step 3 was due"):
        run.take(record(7))


def test_a_deep_net_keeps_fewer_columns():
    deep = odd.OddRecipe(layout=Layout(tuple(f"layer {row}" for row in range(501))))
    assert (Run.begun(deep).history.max_columns, Run.begun(odd.OddRecipe()).history.max_columns) == (500, 1000)


def test_an_ended_run_has_what_its_outcome_says_and_its_line_too():
    run = Run.begun(odd.OddRecipe(), Status.QUEUED)
    run.take(record(0))
    run.end(Outcome(Status.STOPPED, 0.75, message=say("interrupted")))
    line = Summary.of(run)
    assert (run.status, run.test_accuracy, run.message) == (Status.STOPPED, 0.75, say("interrupted"))
    assert dataclasses.asdict(line) | {"recipe": None} == {
        "id": "odd-7f", "recipe": None, "status": Status.STOPPED, "created": run.created, "steps": 1, "loss": 1.5, "seconds": 2.0,
        "test_accuracy": 0.75, "device": "", "message": dataclasses.asdict(say("interrupted")),
    }  # fmt: skip
