"""What Adam's first step moves, before it has an average to go by."""

from __future__ import annotations

import math

from gradviz.lenet.activations import critical_start
from gradviz.lenet.config import RunConfig

_BLOCK_FAN_IN = 16 * 5 * 5


def first_move(config: RunConfig) -> float | None:
    """Update : weight of a block's convolution at step 0; None without blocks, for another optimiser, and for an initialisation
    whose spread is not one number.

    Adam's averages are corrected for their beginning at 0 (Kingma & Ba 2015, section 3), so after one gradient they are that
    gradient and its square: each weight moves by the learning rate, whatever its gradient, if that is far above eps. The rms of
    U(−a, a) is a/√3.
    """
    if config.optimizer != "adam" or not config.blocks or config.init not in ("default", "critical"):
        return None
    spread = config.init_range or 1 / math.sqrt(_BLOCK_FAN_IN)
    if config.init == "critical":
        spread = critical_start(config.activation)
    return config.rate(0) * math.sqrt(3) / spread
