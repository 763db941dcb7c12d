"""A record and an outcome that went to another process and back are what they were, bit for bit."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from gradviz.record.codec import FRAME, outcome_of, pack_outcome, pack_record, record_of
from gradviz.record.history import StepRecord
from gradviz.record.quantities import QUANTITIES
from gradviz.record.run import Outcome, Status
from gradviz.record.sample import BlockDeletion, PackedSample


def opened(frame: bytes) -> tuple[dict[str, object], memoryview]:
    head, body = FRAME.unpack_from(frame)
    assert len(frame) == FRAME.size + head + body
    return json.loads(frame[FRAME.size : FRAME.size + head]), memoryview(frame)[FRAME.size + head :]


@pytest.mark.parametrize("sample", [None, PackedSample(7, b"numbers", b"images"), PackedSample(7, b"numbers")])
def test_a_record_comes_back_with_every_bit(sample: PackedSample | None):
    layers = np.arange(3 * len(QUANTITIES), dtype=np.float32).reshape(len(QUANTITIES), 3)
    layers[0] = 0.0, np.inf, 1e-45
    record = StepRecord(7, math.nan, 0.25, layers, 1.5, 0.75, "a.b", sample)
    back = record_of(*opened(pack_record(record)), layers=3)
    assert back.layers.tobytes() == layers.tobytes() and math.isnan(back.loss)
    assert (back.step, back.accuracy, back.seconds, back.test_accuracy) == (7, 0.25, 1.5, 0.75)
    assert (back.nonfinite_layer, back.anatomy) == ("a.b", sample)


def test_a_record_of_another_net_is_refused():
    record = StepRecord(0, 1.0, 0.0, np.zeros((len(QUANTITIES), 3), np.float32), 0.0)
    with pytest.raises(ValueError, match="reshape"):
        record_of(*opened(pack_record(record)), layers=4)


def test_an_outcome_comes_back_equal():
    for deletion in (None, BlockDeletion(100, 0.9, 0.1, (0, 2), (0.5, 0.75))):
        outcome = Outcome(Status.FINISHED, 0.5, 2.0, deletion=deletion)
        assert outcome_of(opened(pack_outcome(outcome))[0]) == outcome
