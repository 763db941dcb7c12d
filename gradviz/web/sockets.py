"""How many websockets one person and one address may hold, how often they open new ones, and how much of each is heard.

Each costs the server a session, which outlives it by two minutes, and each message a run of a page's script. Who says too
much is not cut off but heard later: what he sends waits on his side of the line.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from gradviz.serve.people import Pace

# Each of one person, of all guests of an address, and of all who are there. Websockets at a time:
OPEN, OPEN_GUESTS, OPEN_THERE = 40, 300, 400
# At once, and per second in the long run. New websockets, which a reload is too; messages, of which a page that follows a
# training says one a second; and of these what has a whole page run, some hundredths of a second.
_NEW = (60, 1.0), (300, 8.0), (400, 10.0)
_ANY = (60, 6.0), (300, 60.0), (600, 90.0)
_WHOLE = (20, 3.0), (80, 10.0), (120, 15.0)
_LOOK = 0.05  # seconds


class Sockets:
    """To be used from one event loop. `person` is empty for a guest; nothing tells the guests of one address from each other."""

    def __init__(self, clock: Callable[[], float] = time.monotonic):
        self._open: Counter[tuple[str, str]] = Counter()
        self._all = 0
        self._new, self._any, self._whole = ([Pace(*pace, clock) for pace in paces] for paces in (_NEW, _ANY, _WHOLE))

    @property
    def open(self) -> int:
        """How many are open; to be asked from any thread."""
        return self._all

    @contextmanager
    def one(self, person: str, address: str) -> Iterator[bool]:
        """Holds one more, if that may be: gives whether it may."""
        mine, there = ("person", person) if person else ("guests", address), ("address", address)
        may = self._open[mine] < (OPEN if person else OPEN_GUESTS) and self._open[there] < OPEN_THERE
        may = may and all(pace.allows(who) for pace, who in _of(self._new, person, address))
        held = [mine, there] if may else []
        self._open.update(held)
        self._all += may
        try:
            yield may
        finally:
            self._all -= may
            self._open -= Counter(held)

    async def heard(self, person: str, address: str, whole: bool) -> None:
        """Returns once a message may be heard. `whole`: it asks for a whole page."""
        for paces in (self._any, self._whole) if whole else (self._any,):
            for pace, who in _of(paces, person, address):
                while not pace.allows(who):
                    await asyncio.sleep(_LOOK)


def _of(paces: list[Pace], person: str, address: str) -> tuple[tuple[Pace, str], tuple[Pace, str]]:
    """What counts for him, and under which key."""
    own, guests, there = paces
    return (own, person) if person else (guests, address), (there, address)
