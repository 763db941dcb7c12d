"""With how many threads a training computes that has a process of its own: those that are free, while more make it faster.

More threads than free cores make a step many times slower: they wait for each other in every operation, spinning. So a
training begins with one, looks at what other processes use of the machine, and tries 2, 4, 8 … while cores are free. It
keeps what made its steps shorter, and gives cores back at once when others want them or its steps are no shorter any more.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median

from gradviz import machine
from gradviz.train.device import limit_threads

_LOOK, _OLD = 0.5, 3.0  # seconds between two looks at the machine, and until the last one says nothing of now
_LOOKS = 2  # of which it thinks: a page that draws needs a core for a moment, once a second
_LEFT = 0.6  # of a core that others may take without our giving it up: the page that shows the training
_KEPT = 25  # steps of one number of threads that are thought of
_ENOUGH, _LONG = 5, 0.4  # steps and seconds of steps before it is judged: what a page draws each second holds up one or two
_GAIN = 0.97  # of the time of a step: what is not at least so much faster is no gain
_STUCK = 6.0, 0.3  # steps and seconds more than fewer threads would have taken: they wait for each other
_RESTS = 4.0, 320.0  # seconds until what did not help is tried again: doubled each time
_COSTS = 0.05  # of a training's time, at most, that trials may take from it: what has lost more rests the longer
_BACK = 2.0  # seconds for which cores that were given back are left alone
MOST_CHANGES = 50  # then it stays with one: each is noted, so that the run can be computed again to the digit


@dataclass(frozen=True)
class Had:
    """What a run had that is done again: from these steps on so many threads, (step, threads) rising, and the steps it had."""

    threads: tuple[tuple[int, int], ...] = ()
    steps: int = 0

    def at(self, step: int) -> int | None:
        """None where it says nothing."""
        return next((threads for at, threads in reversed(self.threads) if at <= step), None) if step < self.steps else None


class Cores:
    """Of one training. `threads` is the present number, set in the calling thread; `took` is told of each step."""

    def __init__(
        self,
        cores: float | None = None,
        set_threads: Callable[[int], None] = limit_threads,
        clock: Callable[[], float] = time.monotonic,
        used: Callable[[], tuple[float, float] | None] = machine.used_by_others,
        had: Had = Had(),
    ):
        """`cores`: by default those that the machine grants. `used`: see there. `had`: what is repeated, for the same digits, as
        long as cores are free for it."""
        self.threads = 1
        self._cores = machine.cores() if cores is None else cores
        self._set, self._clock, self._used = set_threads, clock, used
        self._looked: deque[tuple[float, float]] = deque(maxlen=_LOOKS)  # when others had used how many seconds
        self._free: int | None = None  # cores, ours included; None: not known
        self._times: dict[int, deque[float]] = {}  # threads -> seconds of its last steps
        self._proven = 1  # the number that another is being tried in the place of
        self._first = True  # the next step is the first with this number, and makes its threads
        self._made = 0.0  # seconds of that step
        self._rest, self._again, self._changes = _RESTS[0], -math.inf, 0
        self._had, self._step = had, 0
        set_threads(1)

    def begin(self, step: int) -> None:
        """This is the first step."""
        self._step = step
        self._repeat(int(self._cores))

    def took(self, seconds: float, routine: bool = True) -> None:
        """Not `routine`: a step that did more than others, and says nothing of the number."""
        self._step += 1
        if self._cores < 2:
            return
        now = self._clock()
        self._look(now)
        times = self._times.setdefault(self.threads, deque(maxlen=_KEPT))
        says = routine and not self._first
        if says:
            times.append(seconds)
        elif routine:
            self._made = seconds
        self._first &= not routine
        if self._had.threads and routine and self._stuck(times, self._known(1)):
            self._had = Had()
        if self._repeat(int(self._cores) if self._free is None else self._free):
            return
        free = self.threads if self._free is None else self._free
        if self.threads > free:
            self._times = {1: self._times[1]} if 1 in self._times else {}
            self._again, self._rest = now + _BACK, _RESTS[0]
            self._change(max(count for count in self._choices if count <= free), proven=True)
        elif routine:
            self._judge(times, now, free)

    def _repeat(self, free: int) -> bool:
        """Whether the next step has the number of threads that it had."""
        if (wanted := self._had.at(self._step)) is None:
            return False
        if wanted > free:  # from here on the digits are others, and the run says so
            self._had = Had()
            return False
        self._change(wanted, proven=True)
        return True

    def _known(self, threads: int) -> float:
        """Seconds of a step with so many."""
        return median(self._times.get(threads) or [math.inf])

    def _lost(self, times: deque[float], known: float) -> float:
        """Seconds that these steps, and the first while it is thought of, took longer than as many of `known` seconds."""
        first = self._made - known if len(times) < _KEPT else 0.0
        return first + sum(one - known for one in times)

    def _stuck(self, times: deque[float], known: float) -> bool:
        return self.threads > 1 and self._lost(times, known) > _STUCK[0] * known + _STUCK[1]

    @property
    def _choices(self) -> list[int]:
        most = int(self._cores)
        return sorted({most, *(1 << power for power in range(most.bit_length()))})

    def _look(self, now: float) -> None:
        looked = self._looked
        if looked and now - looked[-1][0] < _LOOK:
            return
        if looked and now - looked[-1][0] >= _OLD:
            looked.clear()
        used, self._free = self._used(), None
        if used is None:  # nobody can say: the times of the steps must
            self._free = int(self._cores)
        elif looked:
            then, had = looked[0]
            # What the machine's other cores can bear is not missed here.
            others = max(0.0, (used[0] - had) / (now - then) - (used[1] - self._cores))
            self._free = max(1, int(min(self._cores, self._cores - others + _LEFT)))
        looked.append((now, used[0] if used else 0.0))

    def _judge(self, times: deque[float], now: float, free: int) -> None:
        tried = self.threads != self._proven
        enough = len(times) == _KEPT or len(times) >= _ENOUGH and sum(times) >= _LONG
        known = self._known(self._proven if tried else 1)
        useless = enough and self.threads > 1 and median(times) > known * (_GAIN if tried else 1)
        if useless or self._stuck(times, known):
            self._again = now + max(self._rest, self._lost(times, known) / _COSTS)
            self._rest = min(2 * self._rest, _RESTS[1])
            self._change(self._proven if tried else 1, proven=True)
        elif enough:
            self._proven = self.threads
            more = next((count for count in self._choices if self.threads < count <= free), None)
            if more and now >= self._again and self._changes < MOST_CHANGES - 1:
                self._times.pop(more, None)
                self._change(more)

    def _change(self, threads: int, proven: bool = False) -> None:
        if proven:
            self._proven = threads
        if threads != self.threads:
            self.threads, self._first = threads, True
            self._changes += 1
            self._set(threads)
