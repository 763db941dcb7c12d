"""How often a watched training is measured: at every so-manieth step, or so seldom that it costs little."""

from __future__ import annotations

from collections import deque
from statistics import median

SHARE = 0.005  # of the training's own time, at most; what else a watch costs, one or two per cent, is not in its hooks' time
_CHOICES = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)
_KEPT = 7  # steps of each kind that are thought of


class Pace:
    """`every` is the present choice. Without `fixed` it follows what the measuring costs, once three steps have shown it."""

    def __init__(self, fixed: int | None):
        self.every = fixed or 1
        self._free = fixed is None
        self._costs: deque[float] = deque(maxlen=_KEPT)  # seconds spent measuring, of measured steps
        self.beside = 0.0  # seconds that another thread spends on a measured step
        self._bare: deque[float] = deque(maxlen=_KEPT)  # seconds of a step without that

    @property
    def share(self) -> float | None:
        """What measuring costs at this pace, as a share of the training's own time; None before that is known."""
        if len(self._bare) < 3 or not self._costs or median(self._bare) <= 0:
            return None
        return (median(self._costs) + self.beside) / self.every / median(self._bare)

    def due(self, step: int) -> bool:
        return step % self.every == 0

    def take(self, seconds: float, spent: float, measured: bool) -> None:
        """A step took `seconds` with all, of which `spent` went into measuring."""
        self._bare.append(max(seconds - spent, 0.0))
        if measured:
            self._costs.append(spent)
        if self._free and (share := self.share) is not None:
            whole = share * self.every
            # Down only where there is room: a pace that went up and down with the noise would be no pace.
            self.every = max(_smallest(whole, SHARE), min(self.every, _smallest(whole, SHARE / 2)))


def _smallest(whole: float, share: float) -> int:
    """The smallest choice at which measuring, `whole` at every step, costs no more than the share."""
    return next((choice for choice in _CHOICES if whole / choice <= share), _CHOICES[-1])
