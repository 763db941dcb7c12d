"""Queue: who waits for a worker, and who is next.

Everybody's one run before anybody's second; what somebody looks at before what nobody does; what a button was pressed for;
what has no picture yet; and then round and round, from address to address. A run that has had its slice while others wait
gives its worker away and goes to the back, its generator kept. It stays "running".
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping

from gradviz.lenet.config import RunConfig
from gradviz.messages import say
from gradviz.record.run import Run
from gradviz.serve.admission import Refused
from gradviz.serve.job import Job
from gradviz.serve.people import GUEST, Pace

_WATCHED = 10.0  # seconds after the last look; a page in front looks every second, one in the background less often
_HURRY, _HURRY_THERE = (20, 0.5), (60, 1.0)  # first pictures and presses that go before the turns of others: at once, per second
_TOGETHER = 4  # turns of one address to one of another where both have people who wait; guests, who may be one and the same, one
_SHARE, _SHARE_THERE = 0.1, 0.5  # of the places in the queue that one person, and one address, may have
_SAID_AGAIN = 0.05  # seconds for which places are not worked out again: many pages ask at once
_FIRST = 0.25  # of a slice, then a worker may go to whom it matters more: enough for a first picture of most nets


class Queue:
    """Whoever calls a method holds the lock over the jobs."""

    def __init__(self, jobs: Mapping[str, Job], places: int, slice: float, clock: Callable[[], float]):
        """`jobs`: all there are, by run id. `places`: runs that people may have in it. `slice`: seconds."""
        self.waiting: list[Job] = []
        self._jobs, self._places, self._slice, self._clock = jobs, places, slice, clock
        self._count = 0  # of waitings
        self._changes = 0  # of who waits, and for what
        self._said: tuple[float, tuple[int, int], dict[str, int]] = (-math.inf, (0, 0), {})  # when, of whom, and what
        self._round = 0.0  # of whom a worker took last; see _tag
        self._tags: dict[tuple[str, bool], float] = {}
        self._hurry, self._hurry_there = Pace(*_HURRY, clock), Pace(*_HURRY_THERE, clock)
        self._turn = slice if math.isfinite(slice) else 0.0  # seconds that a worker is taken at a time, a running mean

    def check(self, client: str, address: str) -> None:
        """Raises Refused if it is full, or the person has his share of it already, or the address that of all who are there."""
        waiting = sum(bool(job.run.clients) for job in self.waiting)  # to begin, or for another slice
        if client and waiting >= self._places:
            raise Refused("queue", say("queue-full", most=self._places))
        mine = sum(client in job.run.clients for job in self.waiting)
        if client and mine >= max(1, _SHARE * self._places):
            raise Refused("queue", say("queue-yours", n=mine))
        there = sum(address in job.addresses for job in self.waiting)
        if client and there >= max(1, _SHARE_THERE * self._places):
            raise Refused("queue", say("queue-network", n=there))

    def hurries(self, client: str, addresses: Iterable[str]) -> bool:
        """Whether this person's first picture, or what he pressed, goes before the turns of others."""
        return self._hurry.allows(client) and all([self._hurry_there.allows(address) for address in addresses])

    def add(self, job: Job, urgent: bool = False) -> None:
        self._changes += 1
        job.urgent = urgent and self.hurries(next(iter(job.run.clients), job.run.id), job.addresses)
        if job not in self.waiting:
            self._count += 1
            job.turn, job.tag = self._count, self._tag(job)
            self.waiting.append(job)

    def remove(self, job: Job) -> None:
        self._changes += 1
        if job in self.waiting:
            self.waiting.remove(job)

    def take(self, job: Job) -> None:
        """A worker takes it: its turn has come."""
        self.remove(job)
        self._round = max(self._round, job.tag)
        self._tags |= {(client, False): job.tag for client in job.run.clients}

    def had(self, seconds: float) -> None:
        """A worker was taken for so long."""
        self._turn += 0.2 * (seconds - self._turn)

    def order(self) -> list[Job]:
        """Next first."""
        rank = self.ranks()
        return sorted(self.waiting, key=lambda job: (rank(job), not job.urgent, not job.newcomer, job.tag, job.turn))

    def ranks(self) -> Callable[[Job], int]:
        """The lower rank has the worker, to the end if need be: 0 a first run that is looked at, 1 one that is not, 2 somebody's
        further run that is, 4 one that is not. Work that nobody asked for alone is as 1, but waits for 2.

        A person's first run is the newest of those that are looked at: after another try at the controls it is that.
        """
        now = self._clock()

        def unseen(job: Job) -> bool:
            return now - job.seen > _WATCHED

        firsts: dict[str, int] = {}
        live = [job for job in self._jobs.values() if (job.steps or not job.held) and job.run.status.live]
        for job in sorted(live, key=lambda job: (unseen(job), -job.number)):
            for client in job.run.clients:
                firsts.setdefault(client, job.number)
        first = set(firsts.values())
        wanted = any(job.run.clients and job.number not in first and not unseen(job) for job in live)

        def rank(job: Job) -> int:
            if not job.run.clients:
                return 0 if not unseen(job) else 3 if wanted else 1
            return (0 if job.number in first else 2) + (unseen(job) if job.number in first else 2 * unseen(job))

        return rank

    def yields(self, job: Job, other: Callable[[], Job | None]) -> bool:
        """Whether another should have the worker of this job now. `other()`: who could have it."""
        had = self._clock() - job.since
        if job.run.history.steps == job.begun:
            return False  # a net that is long in the building has its first picture all the same
        if not self.waiting or had < _FIRST * self._slice or (next_one := other()) is None:
            return False
        rank = self.ranks()
        if rank(next_one) != rank(job):
            return rank(next_one) < rank(job)
        return next_one.urgent or next_one.newcomer or had >= self._slice

    def positions(self) -> dict[str, int]:
        """Run id -> place; 1 is the next."""
        now, (then, known, places) = self._clock(), self._said
        whose = self._changes, sum(len(job.run.clients) for job in self._jobs.values())
        if known != whose or not then <= now < then + _SAID_AGAIN:
            places = {job.run.id: place for place, job in enumerate(self.order(), 1)}
            self._said = now, whose, places
        return places

    def position(self, id: str) -> int | None:
        waits = any(job.run.id == id for job in self.waiting)  # whoever trains need not know the order, which costs more
        return self.positions()[id] if waits else None

    def expected_wait(self, id: str, workers: int) -> float | None:
        """Seconds until one of so many workers takes the run; None if it does not wait, or nobody can say."""
        order, rank = self.order(), self.ranks()
        job = next((job for job in order if job.run.id == id), None)
        if job is None or not workers:
            return None
        mine = rank(job)
        before = [other for other in order[: order.index(job)] if rank(other) == mine]
        # Those of a higher rank keep their workers to the end.
        higher = [other for other in self._jobs.values() if (other.driven or other in order) and rank(other) < mine]
        left = sum(_seconds_left(other.run) for other in higher)
        busy = sum(other.driven for other in self._jobs.values()) >= workers
        seconds = left / workers + (len(before) + busy) * self._turn / workers
        return seconds if math.isfinite(seconds) else None

    def _tag(self, job: Job) -> float:
        """Its round: a person has one turn in each, an address so many, and of two the lower round goes first."""
        further, now = self.ranks()(job) in (2, 4), self._round
        self._tags = {who: tag for who, tag in self._tags.items() if tag > now}

        def after(who: str, turns: int) -> float:
            return self._tags.get((who, further), now) + 1 / turns

        guest = bool(job.run.clients) and all(client.startswith(GUEST) for client in job.run.clients)
        turns = 1 if guest else _TOGETHER
        tag = min((after(client, 1) for client in job.run.clients), default=now + 1)
        if places := [GUEST * guest + address for address in job.addresses]:
            place = min(places, key=lambda place: after(place, turns))
            self._tags[place, further] = after(place, turns)
            tag = max(tag, self._tags[place, further])
        if further:  # while a first run that another try at the controls takes the place of costs its person no turn
            self._tags |= {(client, further): tag for client in job.run.clients}
        return tag


def _seconds_left(run: Run[RunConfig]) -> float:
    """Of training, at the pace so far; nan before the first step."""
    history = run.history.snapshot()
    return (run.recipe.steps - history.steps) * float(history.seconds[-1]) / history.steps if history.steps else math.nan
