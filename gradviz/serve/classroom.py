"""What a class shares beside its runs: names, the wall, the lock, a lesson to go to, and who may decide about them.

There are no accounts. A student is a name that he gives himself; the teacher is whoever knows the PIN.
"""

from __future__ import annotations

import hmac
import json
import logging
import re
import secrets
import threading
import time
import unicodedata
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from gradviz.lenet.config import RunConfig
from gradviz.lenet.lessons.catalogue import LESSONS
from gradviz.lenet.naming import remedy_name, setting_text
from gradviz.lenet.sweep import Sweep
from gradviz.messages import NOTHING, Message, say
from gradviz.serve import smallfile

log = logging.getLogger("gradviz")

LONGEST_NAME = 24
PIN_MINUTE = 60.0  # seconds over which wrong PINs are counted
PIN_TRIES = 5  # wrong ones of one browser session in that time
PIN_TRIES_THERE = 20  # of one address in that time; from then on it has a line, but for those who are known and have not guessed
PIN_PACE = 3.0  # seconds between two of that line: four digits fall within 4 hours on average
_MOST_GUESSERS = 4096  # clients, and addresses, that are remembered
_MOST_RUNS = 3000  # whose names are kept, the newest
_MOST_NAMES = 100  # of one run
_MOST_MARKS = 3  # on one letter of a name


def clean_name(text: str) -> str:
    """`text` as a name of at most LONGEST_NAME characters; empty if nothing of it can be shown.

    Control, format and unassigned characters go (bidirectional overrides turn the text around it about), and others that
    nobody sees; white space becomes single spaces; accents need a letter and are at most three; and what a spreadsheet would
    take for a formula may not begin it.
    """
    # Cut first: normalising is slow on long rubbish.
    text = unicodedata.normalize("NFKC", text[: 20 * LONGEST_NAME])
    text = _UNSEEN.sub("", "".join(" " if c.isspace() else c for c in text))
    kept = "".join(c for c in text if c == " " or not unicodedata.category(c).startswith("C"))
    marked = "".join(_letters(unicodedata.normalize("NFC", kept)))
    return " ".join(marked.split()).lstrip("=+-@ ")[:LONGEST_NAME].strip()


# Unicode's Default_Ignorable_Code_Point (DerivedCoreProperties.txt) beside the formats, and characters whose picture is empty:
# braille blank, musical null notehead, Khitan filler, hieroglyphic blanks, the object replacement.
_UNSEEN = re.compile(
    "[\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u202a-\u202e\u2060-\u206f\u3164"
    "\ufe00-\ufe0f\ufeff\uffa0\ufff0-\ufff8\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e0fff"
    "\u2800\ufffc\U0001d159\U00016fe4\U00013441\U00013442]"
)


def _letters(text: str) -> Iterator[str]:
    """Each character with at most three of the marks that follow it; a mark without one goes."""
    letter = ""
    for c in text:
        if not unicodedata.category(c).startswith("M"):
            yield letter
            letter = c
        elif letter.strip() and len(letter) <= _MOST_MARKS:
            letter += c
    yield letter


class PinCheck:
    """Compares PINs in constant time, and slows guessing where it comes from. Whoever types the right one enters: what others
    at the same address have guessed makes him wait for some seconds at most, and him not at all whose cookie is known.
    """

    def __init__(
        self,
        pin: str | None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ):
        self._pin = pin
        self._clock, self._sleep = clock, sleep
        self._wrong: OrderedDict[str, deque[float]] = OrderedDict()  # client -> when, the last ones
        self._wrong_there: OrderedDict[str, deque[float]] = OrderedDict()  # address -> when, the last ones
        self._next: dict[str, float] = {}  # address -> when the next of its line is heard
        self._lock = threading.Lock()

    @property
    def on(self) -> bool:
        """Whether there is a PIN at all: without one nobody is the teacher."""
        return bool(self._pin)

    def refuses(self, pin: str, client: str, address: str = "", known: bool = False) -> Message:
        """NOTHING if the PIN is right, else why not. A try that comes too early does not count.

        `known`: `client` is known by a cookie, and is not a session that costs a guesser nothing. May wait in the line of
        an address from which many wrong PINs have come, PIN_MINUTE seconds at most.
        """
        if not self._pin:
            return say("pin-off")
        with self._lock:
            now = self._clock()
            mine, there = self._recent(self._wrong, client, now), self._recent(self._wrong_there, address, now)
            if len(mine) >= PIN_TRIES:
                seconds = max(1, int(mine[0] + PIN_MINUTE - now + 0.999))
                return say("pin-wait", n=seconds)
            wait = 0.0
            if len(there) >= PIN_TRIES_THERE and (mine or not known):
                wait = max(0.0, self._next.get(address, now) - now)
                if wait >= PIN_MINUTE:
                    return say("pin-network")
                self._next = {place: when for place, when in self._next.items() if when > now} | {address: now + wait + PIN_PACE}
        if wait:
            self._sleep(wait)
        if hmac.compare_digest(_digest(pin), _digest(self._pin)):
            return NOTHING
        with self._lock:
            for wrong, who, most in ((self._wrong, client, PIN_TRIES), (self._wrong_there, address, PIN_TRIES_THERE)):
                wrong.setdefault(who, deque(maxlen=most)).append(self._clock())
                wrong.move_to_end(who)
                if len(wrong) > _MOST_GUESSERS:
                    wrong.popitem(last=False)
        log.warning("event=wrong-pin")
        return say("pin-wrong")

    @property
    def remembered(self) -> int:
        """How many clients and addresses."""
        with self._lock:
            return len(self._wrong) + len(self._wrong_there) + len(self._next)

    @staticmethod
    def _recent(wrong: OrderedDict[str, deque[float]], who: str, now: float) -> list[float]:
        return [when for when in wrong.get(who, ()) if now - when < PIN_MINUTE]

    def __repr__(self) -> str:
        return f"PinCheck(on={self.on})"


def _digest(pin: str) -> bytes:
    # Of equal length whatever was typed: compare_digest hides contents, not lengths.
    return hmac.digest(b"gradviz", pin.encode("utf-8", "replace"), "sha256")


class Classroom:
    """What one server's class shares, kept in one small file. Every method may be called from any thread.

    `wall` is the run that the teacher shows to all, `lesson` the one that all are sent to, `locked` whether only the
    teacher may start and change runs. All three are off while there is no PIN, for nobody could end them.
    """

    def __init__(self, path: Path, pin: str | None = None, clock: Callable[[], float] = time.monotonic):
        """`path`: the file, made when first needed. A damaged one is put aside, and the class begins anew."""
        self.pin = PinCheck(pin, clock)
        self.warning = NOTHING  # while the file cannot be written
        self.damage = NOTHING  # unless it could not be read at the start
        self._written = self._unkept = False  # there is a file; it is not what is true now
        self.key = secrets.token_urlsafe(24)  # to the archive; a teacher's page alone is told
        self._path = Path(path)
        self._lock = threading.RLock()
        self._names: dict[str, dict[str, str]] = {}  # run id -> client -> name, also an empty one; oldest run first
        self._wall, self._lesson, self._locked = "", "", False
        self._read()

    # Names

    def join(self, client: str, name: str, *run_ids: str) -> None:
        """Says that these runs are also `client`'s, who is called `name` (see clean_name) or nothing yet."""
        with self._lock:
            for run_id in run_ids:
                people = self._names.setdefault(run_id, {})
                if client in people or len(people) < _MOST_NAMES:
                    people[client] = clean_name(name)
            while len(self._names) > _MOST_RUNS:
                del self._names[next(iter(self._names))]
            self._keep()

    def rename(self, client: str, name: str) -> None:
        """The client's new name, on his earlier runs too."""
        name = clean_name(name)
        with self._lock:
            mine = [people for people in self._names.values() if people.get(client, name) != name]
            for people in mine:
                people[client] = name
            if mine:
                self._keep()

    def names(self, run_id: str) -> tuple[str, ...]:
        """Of all who started or joined the run, in that order, each once."""
        with self._lock:
            return tuple(dict.fromkeys(name for name in self._names.get(run_id, {}).values() if name))

    def forget(self, run_id: str) -> None:
        """The run was deleted."""
        with self._lock:
            self._names.pop(run_id, None)
            if self._wall == run_id:
                self._wall = ""
            self._keep()

    # The teacher's choices

    @property
    def wall(self) -> str:
        return self._wall if self.pin.on else ""

    @wall.setter
    def wall(self, run_id: str) -> None:
        self._set(wall=run_id)

    @property
    def lesson(self) -> str:
        """A word of LESSONS, or empty."""
        return self._lesson if self.pin.on else ""

    @lesson.setter
    def lesson(self, lesson: str) -> None:
        """Raises ValueError for what is no lesson: nobody is sent to another address."""
        if lesson and lesson not in LESSONS:
            raise ValueError(f"There is no lesson {lesson!r}.")
        self._set(lesson=lesson)

    @property
    def locked(self) -> bool:
        return self._locked and self.pin.on

    @locked.setter
    def locked(self, locked: bool) -> None:
        self._set(locked=bool(locked))

    def notice(self) -> dict[str, str | bool]:
        """What every page follows: lesson, lock and wall."""
        return {"lesson": self.lesson, "locked": self.locked, "wall": self.wall}

    # The file

    def _set(self, **values: str | bool) -> None:
        with self._lock:
            for name, value in values.items():
                setattr(self, f"_{name}", value)
            self._keep()
        log.info(" ".join(["event=classroom", *(f"{name}={json.dumps(value)}" for name, value in values.items())]))

    def tend(self) -> None:
        """Writes the file again if it is gone or could not be written, once its folder is there."""
        with self._lock:
            if self._unkept or self._written and not self._path.exists():
                if self._path.parent.is_dir():
                    self._keep()

    def _keep(self) -> None:
        values = {"names": self._names, "wall": self._wall, "lesson": self._lesson, "locked": self._locked}
        try:
            smallfile.write(self._path, values)
            self._written, self._unkept, self.warning = True, False, NOTHING
        except OSError as error:
            self._unkept = True
            self.warning = say("class-unkept", reason=error.strerror)

    def _read(self) -> None:
        try:
            values = smallfile.read(self._path)
            names = {
                str(run_id): {str(client): clean_name(name) for client, name in people.items() if isinstance(name, str)}
                for run_id, people in values["names"].items()
            }
            wall, lesson, locked = values["wall"], values["lesson"], values["locked"]
            if not (isinstance(wall, str) and isinstance(lesson, str) and isinstance(locked, bool)):
                raise ValueError("wall, lesson or locked")
        except FileNotFoundError:
            return
        except smallfile.UNREADABLE as error:
            aside = smallfile.put_aside(self._path)
            log.warning("event=classroom-unreadable aside=%s reason=%s", aside, json.dumps(str(error)))
            self.damage = say("class-unreadable", name=aside)
            return
        self._written = True
        self._names, self._wall, self._locked = names, wall, locked
        self._lesson = lesson if lesson in LESSONS else ""


class ClassSweep(Sweep):
    """The runs of a class as one picture over depth: a line per remedy, whatever else differs between its runs."""

    @classmethod
    def of(cls, configs: Iterable[RunConfig]) -> ClassSweep:
        return cls("class", tuple(dict.fromkeys(configs)))

    @property
    def axes(self) -> tuple[str, ...]:
        return ("blocks",)

    def remedy(self, config: RunConfig) -> RunConfig:
        named = ("activation", "batch_norm", "other_norm", "shortcut", "branch_scale", "init", "init_range", "treatment")
        return RunConfig(**{name: getattr(config, name) for name in named})

    def remedies(self) -> dict[RunConfig, str]:
        keys = sorted({self.remedy(config) for config in self.configs}, key=_remedy_name)
        return {key: _remedy_name(key) for key in keys}


def _remedy_name(config: RunConfig) -> str:
    range_ = "" if config.init_range is None else " + " + setting_text("init_range", config.init_range)
    return remedy_name(config) + range_
