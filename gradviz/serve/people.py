"""Who somebody is, as far as a server without accounts can tell: a signed cookie of his browser, and his address as a backstop.

A cookie outlives a reload, a closed tab and a restart of the server. It says nothing but that the same browser is back.
"""

from __future__ import annotations

import ipaddress
import logging
import secrets
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path

from itsdangerous import BadSignature, Signer

from gradviz.serve import smallfile

log = logging.getLogger("gradviz")

COOKIE = "gradviz_person"
GUEST = "guest-"  # begins the id of a session without a cookie, which lasts as long as the session
AWAY = 1800.0  # seconds without a click or a page, after which somebody counts as gone
_MOST = 4096  # keys remembered at a time
_TOGETHER, _GUESTS = 200, 50  # people of one run or sweep: known ones, and guests, of whom each reload makes another
# New cookies of one address: a class that opens its pages at once behind one, and then one every ten seconds. Whoever clears
# his cookies to be somebody else has as many names, and no more.
_COOKIES, _COOKIES_PER_SECOND = 100, 0.1


def with_one_more(people: tuple[str, ...], person: str) -> tuple[str, ...]:
    """`people` and this one too, unless he is nobody or there are so many of his kind already."""
    guest = person.startswith(GUEST)
    alike = sum(other.startswith(GUEST) == guest for other in people)
    return people if not person or person in people or alike >= (_GUESTS if guest else _TOGETHER) else (*people, person)


def owner(people: Iterable[str]) -> str:
    """The first of them, to whom counts what he and others have; guests, who may be one and the same, are one. Empty for none."""
    first = next(iter(people), "")
    return GUEST if first.startswith(GUEST) else first


def place(address: str) -> str:
    """What counts as one address where it is a backstop: of IPv6 the network of 64 bits, of whose addresses one computer has
    as many as it likes."""
    try:
        ip = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if isinstance(ip, ipaddress.IPv4Address):
        return address
    return str(ip.ipv4_mapped or ipaddress.ip_network((ip, 64), strict=False))


class Pace:
    """For each key a bucket that holds `burst` and fills with `rate` per second; the keys quiet longest are forgotten."""

    def __init__(self, burst: float, rate: float, clock: Callable[[], float] = time.monotonic):
        self._burst, self._rate, self._clock = burst, rate, clock
        self._left: OrderedDict[str, tuple[float, float]] = OrderedDict()  # key -> what was left, and when
        self._lock = threading.Lock()

    def allows(self, key: str) -> bool:
        """Takes one out of the bucket of `key`, if there is one."""
        return not self.wait(key)

    def wait(self, key: str) -> float:
        """0 if one was taken out of the bucket of `key`, else the seconds until there is one."""
        with self._lock:
            now = self._clock()
            left, then = self._left.pop(key, (self._burst, now))
            left = min(self._burst, left + (now - then) * self._rate)
            self._left[key] = (left - (left >= 1), now)
            if len(self._left) > _MOST:
                self._left.popitem(last=False)
            return 0.0 if left >= 1 else (1 - left) / self._rate


class People:
    """Gives cookies and knows them again. Every method may be called from any thread."""

    def __init__(self, secret: Path, clock: Callable[[], float] = time.monotonic):
        """`secret`: the file of what signs the cookies, made where there is none, for the server's own user alone to read."""
        self._signer = Signer(_secret(Path(secret)), salt="gradviz.person")
        self._clock, self._begun = clock, clock()
        self._cookies = Pace(_COOKIES, _COOKIES_PER_SECOND, clock)
        self._seen: OrderedDict[str, tuple[float, str]] = OrderedDict()  # person -> when he was here last, and where
        self._lock = threading.Lock()

    def cookie(self, address: str) -> str | None:
        """The value of a new cookie; None if this address has had too many of late: its next visitors are guests for a while."""
        return self._signer.sign(secrets.token_hex(16)).decode() if self._cookies.allows(address) else None

    def person(self, cookie: str | None) -> str:
        """Whose cookie this is, empty for none that this server has given."""
        try:
            return self._signer.unsign(cookie or "").decode()
        except (BadSignature, UnicodeError):
            return ""

    def seen(self, person: str, address: str = "") -> None:
        """He has just opened a page or clicked something, at this address."""
        with self._lock:
            self._seen[person] = (self._clock(), address)
            self._seen.move_to_end(person)
            if len(self._seen) > _MOST:  # guests first: each reload makes another, and who is forgotten has no say in his runs
                guest = next((who for who in self._seen if who.startswith(GUEST)), None)
                self._seen.pop(guest or next(iter(self._seen)))

    @property
    def remembered(self) -> int:
        """How many people."""
        with self._lock:
            return len(self._seen)

    def elsewhere(self, person: str, address: str) -> bool:
        """Whether he was seen within AWAY seconds, and at another address than this one.

        The start of the server counts as the last that it knows of everybody, in a place that it does not know, as soon as
        people are there from more than this address. A guest of an earlier server never comes back.
        """
        with self._lock:
            when, where = self._seen.get(person, (self._begun, None))
            if self._clock() - when >= AWAY:
                return False
            if where is None:
                return not person.startswith(GUEST) and any(other != address for _when, other in self._seen.values())
            return where != address


def _secret(path: Path) -> bytes:
    with suppress(OSError):
        if path.is_file() and len(kept := path.read_bytes()) >= 32:  # nobody may ever write into a pipe
            return kept
    fresh = secrets.token_bytes(32)
    try:
        smallfile.write_bytes(path, fresh, mode=0o600)
    except OSError as error:  # people are known until the server ends
        log.warning("event=secret-not-kept reason=%s", error.strerror)
    return fresh
