"""Desk: where heavy work of the server waits for its place. Loads of runs, pictures of many runs, exports.

Each takes memory and a core for a while, and anybody may ask for any number of them. So many are done at once; the rest
wait in a line in which a person's second wish stands behind everybody's first. Nothing new is begun while the system has
too little memory left, for it would end the whole server, with everybody's runs: a refusal is one sentence.
"""

from __future__ import annotations

import ctypes
import gc
import math
import sys
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from gradviz import machine
from gradviz.messages import NOTHING, Message, say
from gradviz.serve.admission import Refused

RESERVE = 150e6  # bytes that stay free for what is not heavy: the pages, and the steps of the trainings
PATIENCE = 60.0  # seconds in the line
RETRY = 10  # seconds after which it is worth while to ask again
_LONGEST = 100  # of all who wait
_LONGEST_OF_ONE = 30  # of one person; a class behind one address counts as one where nothing else is known
_LONGEST_THERE = 60  # of one address: whoever gathers cookies to be many does not take the line of the others
_REMEMBERED = 1000  # people
_TOGETHER = 4  # places of one address to one of another where both have people who wait
_LOOK = 0.2  # seconds between two looks at the memory
_LARGE = 50e6  # bytes, after whose use the system gets back what was freed
_TIDY = 5.0  # seconds between two tries to give memory back


@dataclass(eq=False)
class Ticket:
    """One wish at the desk."""

    who: str
    number: int  # counts the wishes
    need: float  # bytes
    came: float  # when it came
    there: str = ""  # his address, as far as it is known
    round: float = 0.0  # in which his address has its turn
    taken: bool = False  # has a place


class Desk:
    """At most `places` at once. Every method may be called from any thread."""

    def __init__(
        self,
        places: int = 2,
        share: int | None = None,
        memory_left: Callable[[], float | None] = machine.memory_left,
        reserve: float = RESERVE,
        patience: float = PATIENCE,
        hope: float = 0.0,
        clock: Callable[[], float] = time.monotonic,
        tidy: Callable[[], None] | None = None,
    ):
        """`share`: places that one person may have. `memory_left`: bytes, or None if that cannot be known.

        `hope`: seconds to wait for memory where nobody who has a place here will give any back, but others may. `tidy`: looks
        for memory that is no longer used, which may take a second; `give_back` by default.
        """
        self._places, self._share = places, share or places
        self._memory_left, self._reserve = memory_left, reserve
        self._patience, self._hope, self._clock, self._give_back = patience, hope, clock, tidy or give_back
        self._changed = threading.Condition()
        self._waiting: list[Ticket] = []
        self._taken: list[Ticket] = []
        self._count = 0
        self._last: OrderedDict[str, int] = OrderedDict()  # who -> when he last had a place, counted in tickets
        self._round = 0.0  # of whom had a place last
        self._rounds: dict[str, float] = {}  # address -> of its newest wish
        self._tidied = -_TIDY

    @contextmanager
    def place(
        self, who: str = "", need: float = 0.0, said: Callable[[int], None] = lambda _place: None, there: str = ""
    ) -> Iterator[None]:
        """Waits for a place and holds it. `need`: bytes that the work takes. `said(place)`: told the place in the line while
        it waits, every second and when it changes; what it raises ends the waiting. Raises Refused."""
        ticket = self.line_up(who, need, there)
        try:
            spoke, place = -1.0, None
            while not self.serve(ticket):
                if (now := self.position(ticket)) != place or self._clock() - spoke >= 1.0:
                    said(place := now)
                    spoke = self._clock()
                with self._changed:
                    self._changed.wait(_LOOK)
            yield
        finally:
            self.leave(ticket)
            if need >= _LARGE:
                trim()

    def line_up(self, who: str = "", need: float = 0.0, there: str = "") -> Ticket:
        """Ask `serve` until it is true, and `leave` in any case. `there`: his address. Raises Refused if too many wait."""
        with self._changed:
            mine = who and sum(ticket.who == who for ticket in self._waiting) >= _LONGEST_OF_ONE
            if mine or len(self._waiting) >= _LONGEST or there and self._there(there) >= _LONGEST_THERE:
                raise Refused("busy", say("desk-full", count=len(self._waiting), seconds=RETRY))
            self._count += 1
            ticket = Ticket(who, self._count, need, self._clock(), there, self._round)
            if there:
                ticket.round = max(self._round, self._rounds.get(there, 0.0)) + 1 / _TOGETHER
                self._rounds = {at: round for at, round in self._rounds.items() if round > self._round} | {there: ticket.round}
            self._waiting.append(ticket)
            return ticket

    def serve(self, ticket: Ticket) -> bool:
        """Whether it has a place now. Raises Refused if that will not be, for want of memory or of patience."""
        with self._changed:
            if ticket.taken:
                return True
            mine = self._may_have_one(ticket)
        if mine:
            self._tidy(ticket.need)
        with self._changed:
            others = len(self._taken)
            if self._may_have_one(ticket):
                left = self._memory_left()
                if left is None or left >= self._reserve + ticket.need:
                    self._waiting.remove(ticket)
                    self._taken.append(ticket)
                    ticket.taken = True
                    self._count += 1
                    self._round = max(self._round, ticket.round)
                    self._last[ticket.who] = self._count
                    self._last.move_to_end(ticket.who)
                    while len(self._last) > _REMEMBERED:
                        self._last.popitem(last=False)
                    return True
                if self._clock() - ticket.came >= (self._patience if others else self._hope):
                    raise Refused("memory", too_little(left, ticket.need, self._reserve))
            elif self._clock() - ticket.came > self._patience:
                raise Refused("busy", say("desk-slow", seconds=RETRY))
            return False

    def leave(self, ticket: Ticket) -> None:
        """Gives the place back, or the one in the line. A second time does nothing."""
        with self._changed:
            for tickets in (self._waiting, self._taken):
                if ticket in tickets:
                    tickets.remove(ticket)
            self._changed.notify_all()

    def position(self, ticket: Ticket) -> int:
        """1 for the next in the line; 0 for who has a place."""
        with self._changed:
            if ticket.taken:
                return 0
            return self._order().index(ticket) + 1

    def forecast(self, who: str = "", need: float = 0.0, there: str = "") -> int:
        """The place in the line that a wish would have now; 0: none is needed. Raises Refused if it would be refused at once."""
        ticket = self.line_up(who, need, there)
        try:
            self._tidy(need)
            with self._changed:
                if (left := self._memory_left()) is not None and left < self._reserve + need and not self._taken:
                    raise Refused("memory", too_little(left, need, self._reserve))
                return 0 if self._may_have_one(ticket) else self._order().index(ticket) + 1
        finally:
            self.leave(ticket)

    def short(self) -> Message:
        """Says so while hardly any memory is left, for any page at all, else NOTHING."""
        self._tidy(0.0)
        left = self._memory_left()
        return NOTHING if left is None or left >= self._reserve / 3 else too_little(left, self._reserve / 3, 0.0)

    @property
    def busy(self) -> int:
        """Who has a place or waits for one."""
        with self._changed:
            return len(self._waiting) + len(self._taken)

    def _order(self) -> list[Ticket]:
        """Who waits, next first: everybody's first before anybody's second, and among these round by round, of one address
        so many in each, and then who had a place longest ago."""
        had = [ticket.who for ticket in self._taken]
        ranked: list[tuple[int, int, int, int, Ticket]] = []
        for ticket in self._waiting:  # in the order of coming
            last = self._last.get(ticket.who, 0)
            ranked.append((had.count(ticket.who), math.ceil(ticket.round), last, ticket.number, ticket))
            had.append(ticket.who)
        ranked.sort(key=lambda entry: entry[:4])
        return [ticket for *_rank, ticket in ranked]

    def _there(self, address: str) -> int:
        return sum(ticket.there == address for ticket in self._waiting)

    def _next(self) -> Ticket | None:
        taken = [ticket.who for ticket in self._taken]
        return next((ticket for ticket in self._order() if taken.count(ticket.who) < self._share), None)

    def _may_have_one(self, ticket: Ticket) -> bool:
        return len(self._taken) < self._places and ticket is self._next()

    def _tidy(self, need: float) -> None:
        """Has memory given back where too little is left. Not under the lock: everybody would wait for it."""
        left = self._memory_left()
        with self._changed:
            due = left is not None and left < self._reserve + need and self._clock() - self._tidied >= _TIDY
            if due:
                self._tidied = self._clock()
        if due:
            self._give_back()


def too_little(left: float, need: float, reserve: float = RESERVE) -> Message:
    """Why something is refused for want of memory; all in bytes."""
    return say("little-memory", left=left / 1e6, need=need / 1e6, reserve=reserve / 1e6)


def give_back() -> None:
    """Looks for what is no longer used and has the system take it back, which counts it as taken until then."""
    gc.collect()
    trim()


def trim() -> None:
    """Gives freed memory to the system: the C library keeps it, so that one large drawing after the other adds up."""
    if sys.platform == "linux":
        try:
            ctypes.CDLL(None).malloc_trim(0)
        except (OSError, AttributeError):
            pass  # another C library
