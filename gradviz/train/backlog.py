"""What was measured of the last steps and is not worked out yet: the training goes on meanwhile."""

from __future__ import annotations

import contextlib
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence

from gradviz.record.history import History, StepRecord
from gradviz.train.tables import Look, work_out

_MOST = 64  # steps that wait
_AT_ONCE = 16  # of them, worked out while others who want to read have to wait
_LAYERS = 4000  # of all the steps that wait
_PATIENCE = 20.0  # seconds that `let_in` waits for what it calls


class Backlog:
    """Brings the steps of a training into its history: the scores at once, what was measured when somebody reads it.

    The training has had the processor's cache between one step and the next, so that a step's table by itself takes several
    times as long as one of many: right after each step they were 2 % of the time of an LSTM.
    """

    def __init__(self, history: History, took: Callable[[Look], None], failed: Callable[[Exception], None]):
        """`took` gets each look once it is worked out; `failed` the error of one that cannot be."""
        self.seconds = 0.0  # of a processor, for one look
        self._history, self._took, self._failed = history, took, failed
        self._late: deque[tuple[int, Look]] = deque()  # the training's thread appends; who holds the lock takes away what is done
        self._most = min(_MOST, _LAYERS // max(1, history.layers))
        self._lock = threading.Condition()

    @property
    def busy_here(self) -> bool:
        """Whether this very thread works on it, and was called away from that: by the garbage collector, or a signal."""
        try:
            self._lock.notify()
        except RuntimeError:  # the lock is not this thread's
            return False
        return True

    def append(self, record: StepRecord, look: Look | None) -> None:
        """From the training's thread. The record's layers are below all that a look finds."""
        if look:
            self._late.append((record.step, look))  # before its step: whoever sees that knows that something is missing
        self._history.append(record)
        if len(self._late) > self._most:
            self.settle()

    def settle(self) -> None:
        """Works out all that waits; in any thread. What is called away from it, and comes to it again, does it a second time."""
        while self._late:
            with self._lock:  # for a few looks at a time: others may wait
                if not (some := self._next()):
                    return
                begin = time.thread_time()
                self._work_out(some)
                self.seconds = (time.thread_time() - begin) / len(some)

    def view(self) -> History:
        """Of all steps so far, with everything worked out."""
        while True:
            self.settle()
            with self._lock:
                seen = self._history.snapshot()
                if not self._late or self._late[0][0] >= seen.steps:
                    return seen

    def let_in(self, function: Callable[[], None]) -> None:
        """Calls it in a thread of its own while this one, which is `busy_here`, lets others come to the work."""
        done: list[bool] = []

        def work() -> None:
            function()
            with self._lock:
                done.append(True)
                self._lock.notify_all()

        with contextlib.suppress(RuntimeError):  # a program that ends begins no thread
            threading.Thread(target=work, name="gradviz-watch-end").start()
            self._lock.wait_for(lambda: done, _PATIENCE)

    def _next(self) -> list[tuple[int, Look]]:
        """Those that can be worked out at once: of a net whose layers are made late, the rows become more."""
        some: list[tuple[int, Look]] = []
        for _ in range(min(_AT_ONCE, len(self._late))):
            step, look = one = self._late[len(some)]
            if step >= self._history.steps or (some and len(look.rows) != len(some[0][1].rows)):
                break
            some.append(one)
        return some

    def _work_out(self, some: Sequence[tuple[int, Look]]) -> None:
        try:
            if waiting := [look for _step, look in some if look.table is None]:
                work_out(waiting)
            for one in some:
                if self._is_next(one):  # else done already, while this thread was called away
                    step, look = one
                    assert look.table is not None
                    self._history.fill(step, look.table)
                    self._took(look)
                    self._late.popleft()
        except Exception as error:
            if len(some) == 1:
                if self._is_next(some[0]):
                    self._late.popleft()
                self._failed(error)
            else:  # the others may be right
                for one in some:
                    self._work_out([one])

    def _is_next(self, one: tuple[int, Look]) -> bool:
        return bool(self._late) and self._late[0] is one
