"""What was measured of the last steps and is not worked out yet: the training goes on meanwhile."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence

from gradviz.record.history import History, StepRecord
from gradviz.train.tables import Look, work_out

_MOST = 64  # steps that wait
_AT_ONCE = 16
_LAYERS = 4000  # of all the steps that wait


class Backlog:
    """Brings the steps of a training into its history: the scores at once, what was measured when somebody reads it.

    The training has had the processor's cache between one step and the next, so that a step's table by itself takes several
    times as long as one of many: right after each step they were 2 % of the time of an LSTM.
    """

    def __init__(self, history: History, took: Callable[[Look], None], failed: Callable[[Exception], None]):
        """`took` gets each look once it is worked out; `failed` the error of one, and the looks that waited are dropped."""
        self._history, self._took, self._failed = history, took, failed
        self._late: deque[tuple[int, Look]] = deque()
        self._most = min(_MOST, _LAYERS // max(1, history.layers))
        self._lock = threading.RLock()
        self._worker = 0  # the thread that works out a look now

    @property
    def busy_here(self) -> bool:
        """Whether this very thread works out a look, and was called away from it: by the garbage collector, say."""
        return self._worker == threading.get_ident()

    def append(self, record: StepRecord, look: Look | None) -> None:
        """From the training's thread. The record's layers are below all that a look finds."""
        with self._lock:
            self._history.append(record)
            if look:
                self._late.append((record.step, look))
        if len(self._late) > self._most:
            self.view()

    def view(self) -> History:
        """Of all steps so far, with everything worked out; for any thread."""
        while True:
            with self._lock:  # for a few looks at a time: the training may wait for it
                if not self._late or self.busy_here:
                    return self._history.snapshot()
                self._work_out([self._late.popleft() for _ in range(min(_AT_ONCE, len(self._late)))])

    def _work_out(self, some: Sequence[tuple[int, Look]]) -> None:
        self._worker = threading.get_ident()
        try:
            if waiting := [look for _step, look in some if look.table is None]:
                work_out(waiting)
            for step, look in some:
                assert look.table is not None
                self._history.fill(step, look.table)
                self._took(look)
        except Exception as error:
            self._late.clear()
            self._failed(error)
        finally:
            self._worker = 0
