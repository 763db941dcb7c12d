"""Numbers that pages, verdicts and lessons read from a record."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from gradviz.record.quantities import QUANTITIES


def first_nonfinite(table: np.ndarray, names: Sequence[str]) -> str | None:
    """The layer where inf or nan first appears in time: forward pass, then backward pass, then weights' gradients."""
    for quantity, order in (("activation_rms", 1), ("signal_rms", -1), ("weight_grad_rms", -1)):
        bad = np.flatnonzero(~np.isfinite(table[list(QUANTITIES).index(quantity)]))[::order]
        if len(bad):
            return names[bad[0]]
    return None
