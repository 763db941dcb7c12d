"""What is kept of a run that has more steps than columns."""

import numpy as np
import pytest

from gradviz.record.history import History, StepRecord
from gradviz.record.quantities import QUANTITIES


def test_a_full_history_merges_neighbours_by_maximum_and_keeps_every_loss():
    history = History(layers=2, max_columns=4)
    peaks = np.random.default_rng(0).random((23, len(QUANTITIES), 2)).astype(np.float32)
    peaks[13, 0, 1], peaks[14, 0, 0] = np.inf, np.nan
    for step in range(23):
        history.append(StepRecord(step, float(step), 0.5, peaks[step], step * 0.1))
    assert history.stride == 8 and len(history.columns) == 3
    for column in range(3):
        np.testing.assert_array_equal(history.columns[column], peaks[column * 8 : column * 8 + 8].max(0))
    assert history.loss.tolist() == list(range(23))
    assert np.isnan(history.quantity("weight_grad_rms")[1, 0]) and np.isinf(history.quantity("weight_grad_rms")[1, 1])
    with pytest.raises(ValueError, match="step 5 came where step 23 was due"):
        history.append(StepRecord(5, 0.0, 0.0, peaks[0], 0.0))
