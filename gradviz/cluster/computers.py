"""What a server knows of the computers of its cluster, and on which of them a training goes."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol
from weakref import WeakSet

from gradviz.lenet.config import RunConfig
from gradviz.messages import NOTHING, Message, say
from gradviz.serve.admission import history_bytes, memory_needed

_DEEP = 100  # blocks from which "auto" goes to a card, where one is (docs/cluster.md)
_FLAPS, _WINDOW = 3, 120.0  # comings of one computer within so many seconds, from which it is said
_REMEMBERED = 60.0  # seconds for which what went wrong on a computer is said


@dataclass(frozen=True)
class Computer:
    """As its bridge saw it last."""

    id: str
    name: str
    slots: int
    cards: float = 0.0
    ready: bool = False
    trouble: Message = NOTHING
    address: str = ""
    port: int = 0
    key: bytes = b""
    cores: float = 0.0
    memory: float | None = None  # bytes left; None if that cannot be known
    trainings: int = 0  # of all servers

    @classmethod
    def from_dict(cls, said: Mapping[str, Any]) -> Computer:
        """What a bridge says. Raises KeyError, TypeError or ValueError."""
        return cls(
            id=str(said["id"]), name=str(said["name"]), slots=int(said["slots"]), cards=float(said.get("cards", 0)),
            ready=bool(said["ready"]), trouble=Message.from_json(said["trouble"]) if said.get("trouble") else NOTHING,
            address=str(said.get("address", "")), port=int(said.get("port", 0)), key=bytes.fromhex(said.get("key", "")),
            cores=float(said.get("cores", 0)), memory=said.get("memory"), trainings=int(said.get("trainings", 0)),
        )  # fmt: skip


class AtWork(Protocol):
    """A training of this server, as far as its computer is concerned."""

    @property
    def at_work(self) -> bool:
        """Whether it is asked for steps now, and not paused or waiting for its turn."""


class Computers:
    """Every method may be called from any thread."""

    def __init__(self, most: int, clock: Callable[[], float] = time.monotonic):
        """`most`: trainings of this server at once, on however many computers. `clock`: seconds."""
        self._most, self._clock = most, clock
        self._there: dict[str, Computer] = {}
        self._comings: dict[str, deque[float]] = {}  # by name
        self._troubles: dict[tuple[str, str], tuple[Message, float]] = {}  # (computer's id, of what) -> since when
        self._mine: dict[str, WeakSet[AtWork]] = {}  # by computer
        self._changed = threading.Condition()

    def know(self, computers: list[Computer]) -> tuple[list[Computer], list[Computer]]:
        """Takes what the bridge has said; (who has come, who has gone)."""
        with self._changed:
            there = {each.id: each for each in computers}
            come = [each for id, each in there.items() if id not in self._there]
            gone = [each for id, each in self._there.items() if id not in there]
            for each in come:
                self._comings.setdefault(each.name, deque(maxlen=_FLAPS)).append(self._clock())
            self._there = there
            self._changed.notify_all()
        return come, gone

    @property
    def all(self) -> list[Computer]:
        with self._changed:
            return sorted(self._there.values(), key=lambda each: each.name)

    def is_there(self, id: str) -> bool:
        with self._changed:
            return id in self._there

    @property
    def slots(self) -> int:
        return min(self._most, sum(each.slots for each in self.all if each.ready))

    @property
    def memory(self) -> float | None:
        """Bytes left on the computer that has most of them, or None if no one says."""
        left = [each.memory for each in self.all if each.ready and each.memory is not None]
        return max(left, default=None)

    def add(self, id: str, training: AtWork) -> None:
        """It is there as long as somebody holds it, or until `remove`."""
        with self._changed:
            self._mine.setdefault(id, WeakSet()).add(training)

    def remove(self, id: str, training: AtWork) -> None:
        with self._changed:
            self._mine.get(id, WeakSet[AtWork]()).discard(training)

    def doubt(self, id: str) -> None:
        """Nobody answers there: it counts as not ready until the bridge says more of it."""
        with self._changed:
            if id in self._there:
                self._there[id] = replace(self._there[id], ready=False)

    def complain(self, id: str, of: str, message: Message) -> None:
        """Something went wrong there, for a while."""
        with self._changed:
            self._troubles[id, of] = message, self._clock()

    @property
    def troubles(self) -> list[Message]:
        """What is wrong with single computers now."""
        now = self._clock()
        with self._changed:
            self._troubles = {key: found for key, found in self._troubles.items() if now - found[1] < _REMEMBERED}
            said = [each.trouble for each in self._there.values() if each.trouble]
            said += [message for message, _when in self._troubles.values()]
            said += [
                say("node-flaps", name=name, n=len(times), minutes=_WINDOW / 60)
                for name, times in self._comings.items() if len(times) == _FLAPS and now - times[0] < _WINDOW
            ]  # fmt: skip
        return list({str(message): message for message in said}.values())

    def best_for(self, config: RunConfig) -> list[Computer]:
        """Those that may train this, the best first: with the device and the memory, and the fewest trainings at work for
        its slots. Where none has the memory, the one with most, which will say so."""
        with self._changed:
            ready = [each for each in self._there.values() if each.ready]
            deep = config.blocks >= _DEEP

            def rank(each: Computer) -> tuple[object, ...]:
                mine = list(self._mine.get(each.id, ()))
                others = max(0, each.trainings - len(mine))
                load = (sum(training.at_work for training in mine) + others) / each.slots
                # A card is for whom it helps: without need of one, a computer without goes first.
                card = bool(each.cards)
                suits = card == deep if config.device == "auto" else card == (config.device == "cuda")
                return not self._fits(each, config), load >= 1, not suits, load, len(mine) / each.slots, each.name

            able = [each for each in ready if config.device != "cuda" or each.cards]
            return sorted(able or ready, key=rank)

    @staticmethod
    def _fits(each: Computer, config: RunConfig) -> bool:
        return each.memory is None or memory_needed(config) - history_bytes(config) <= each.memory

    def await_change(self, seconds: float) -> None:
        with self._changed:
            self._changed.wait(seconds)

    def __iter__(self) -> Iterator[Computer]:
        return iter(self.all)
