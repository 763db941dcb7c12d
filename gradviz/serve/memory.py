"""Memory: what trainings take of it, whether there is some for another, and who gives his back."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable

from gradviz.lenet.config import RunConfig
from gradviz.messages import say
from gradviz.serve.admission import check_memory, memory_needed
from gradviz.serve.job import Job
from gradviz.serve.jobs import Jobs

_GRACE = 60.0  # seconds for which a paused training is given up for nobody
_ROOM_EVERY = 5.0  # seconds between two that are: their memory takes a moment to come back


class Memory:
    """Whoever calls a method holds the lock over the jobs, but for `check`."""

    def __init__(self, jobs: Jobs, left: Callable[[], float | None], hold: float):
        """`left()`: bytes, or None if that cannot be known. `hold`: seconds for which a paused training keeps its memory."""
        self._jobs, self._left, self._hold = jobs, left, hold
        self._room_made = -math.inf  # when a paused training was last given up for its memory

    def check(self, config: RunConfig) -> None:
        """Raises Refused if it does not fit even once the trainings that have taken their memory have given it back. Takes
        the lock."""
        with self._jobs.lock:  # what is paused is given up if need be
            jobs = [job for job in self._jobs.all.values() if job.training is not None and job.run.history.steps]
        check_memory(config, self._left(), [job.run.recipe for job in jobs])

    def first_that_fits(self) -> Job | None:
        """The first in the queue whose memory is there. A smaller net may thus overtake a large one."""
        room = None
        for job in self._jobs.queue.order() if self._jobs.queue.waiting else []:
            if job.training is not None:
                return job
            room = self._room() if room is None else room
            if memory_needed(job.run.recipe) <= room:
                return job
        return None

    def make_room(self) -> None:
        """Gives one paused training up, if the first in the queue would else not fit whatever ends."""
        left, now = self._left(), self._jobs.clock()
        if left is None or now - self._room_made < _ROOM_EVERY or not (resting := self._resting(_GRACE)):
            return
        passing = [job for job in self._jobs.all.values() if job.training is not None and not job.held]
        needed = memory_needed(self._jobs.queue.order()[0].run.recipe)
        if needed > left + sum(memory_needed(job.run.recipe) for job in passing):
            self._room_made = now
            self._jobs.stop(resting[0], say("pause-memory"))

    def end_long_rests(self) -> None:
        for job in self._resting(self._hold):
            self._jobs.stop(job, say("pause-long", minutes=self._hold / 60))

    def _resting(self, seconds: float) -> list[Job]:
        """Paused for so long and with its memory; first the one whose person has most of them, of these the longest paused."""
        now = self._jobs.clock()
        resting = [job for job in self._jobs.all.values() if job.resting]
        of = Counter(client for job in resting for client in job.run.clients)
        most = {job: max((of[client] for client in job.run.clients), default=0) for job in resting}
        return sorted((job for job in resting if now - job.rests >= seconds), key=lambda job: (-most[job], job.rests))

    def _room(self) -> float:
        """Bytes for one more training. What is alone need not wait: its worker looks whether it fits at all."""
        others = [job for job in self._jobs.all.values() if job.driven or job.training is not None]
        left = self._left() if others else None
        if left is None:
            return math.inf
        # Those that have just begun have not taken their memory yet.
        return left - sum(memory_needed(job.run.recipe) for job in others if not job.run.history.steps)
