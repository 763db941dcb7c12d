"""How old kept runs are, by a clock that nobody sets, and which of them give way to new ones."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable

from gradviz import machine
from gradviz.serve.people import owner

_PRESENT = 24 * 3600.0  # seconds: what is younger is not deleted to make room, somebody may be working with it
_SHARE, _FEW = 0.1, 10  # of the runs kept, and so many at least, that one person has without losing today's to others


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


def giving_way(
    ended: Iterable[tuple[str, float, tuple[str, ...]]], count: int, dates: Dates, client: str, most: int
) -> list[str]:
    """Ids of at most `count` kept runs that make place for one of `client`: the oldest that are a day old.

    Where there are none, one person must not have all the places: then it is the oldest of who has most, if that is a good
    share of the `most` that are kept and more than `client` has, without the old ones that go. `ended`: (id, when it was
    created, whose it is), oldest first.
    """
    runs = {id: (created, owner(people)) for id, created, people in ended}
    old = [id for id, (created, _whose) in runs.items() if dates.is_old(created)][:count]
    given = set(old)
    of = Counter(whose for id, (_created, whose) in runs.items() if id not in given)
    mine, least = owner([client]), max(_FEW, _SHARE * most)
    while len(old) < count and of:
        whose, has = of.most_common(1)[0]
        if has < least or has <= of[mine]:
            break
        id = next(id for id, (_created, other) in runs.items() if other == whose and id not in old)
        old.append(id)
        of[whose] -= 1
    return old
