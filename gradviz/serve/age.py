"""How old kept runs are, by a clock that nobody sets, and which of them give way to new ones."""

from __future__ import annotations

import time

from gradviz import machine

_PRESENT = 24 * 3600.0  # seconds: what is younger is not deleted to make room, somebody may be working with it


class Dates:
    """Says when runs are created. Any thread may ask."""

    def __init__(self, newest: float):
        """`newest`: when the newest kept run was created, Unix time; 0 if there is none."""
        self.started, self._steady = time.time(), machine.steady()
        self._newest = newest
        self._first = max(self.started, newest + 0.001)  # what is begun now is newer than all that is kept

    def now(self) -> float:
        """Unix time, by a clock that nobody sets while the server runs: a jump makes no run of minutes ago an old one."""
        return self._first + machine.steady() - self._steady

    def is_old(self, created: float) -> bool:
        """Whether a run is surely a day old. How long ago the last server ran only a clock could say that may have been set."""
        if created >= self._first:
            return self.now() - created > _PRESENT
        return self.now() - self._first + max(0.0, (self._newest or self._first) - created) > _PRESENT
