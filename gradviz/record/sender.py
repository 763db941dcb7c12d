"""Brings the file of a watched run to a server on another machine while it grows, by offset: what has arrived is sent once."""

from __future__ import annotations

import hashlib
import http.client
import json
import os
import threading
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import IO

from gradviz.messages import Message, Told, say
from gradviz.record.spool import EVERY, HEAD, whole_frames
from gradviz.settings import ingest_token

ROUTE = "api/watched"  # of a server; the run's id follows
LEAST_PART = 1_000_000  # bytes of whole frames that go together, if there are so many
ALIVE = 20.0  # seconds after which a training that has nothing new says that it lives
_TIMEOUT = 10.0  # seconds for one answer
_LONGEST_WAIT = 60.0  # seconds between two tries while the server is away
_CORRECTED = 3  # times in a row that a server may say it has something else


def head_hash(line: bytes) -> str:
    """By which sender and server know that they speak of the same file: of its first line."""
    return hashlib.sha256(line).hexdigest()[:32]


def is_address(to: str) -> bool:
    """Whether it may be the address of a server: http or https, a host, and no more than a path."""
    try:
        if not (to.isascii() and to.isprintable()) or " " in to:
            return False
        parts = urllib.parse.urlsplit(to)
        plain = not (parts.query or parts.fragment or parts.username)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and plain
    except ValueError:  # of brackets that do not fit
        return False


class NotSent(Told):
    """Why a file has not arrived at another machine's server."""


class Rejected(NotSent):
    """The server will not have the run: another try would be answered the same."""


def receiver(to: object) -> tuple[str, str]:
    """(address, token) of a server that is to get runs. Raises NotSent or SettingsError."""
    if not isinstance(to, str) or not is_address(to):
        raise NotSent(say("watch-to", to=str(to)[:100]))
    if not (token := ingest_token()):
        raise NotSent(say("watch-to-token"))
    return to, token


class Sender:
    """From a thread of its own until `close`. A server that is away is asked again, ever more seldom; the file waits."""

    def __init__(self, path: Path, to: str, token: str, run_id: str, said: Callable[[Message], None]):
        """`said` is told, from that thread, what keeps the run from arriving."""
        self._delivery = Delivery(path, to, token, run_id)
        self._said, self._away = said, False
        self._ending = threading.Event()
        self._pid = os.getpid()
        self._thread = threading.Thread(target=self._work, name="gradviz-send", daemon=True)
        self._thread.start()

    def close(self, patience: float = 2 * _TIMEOUT) -> None:
        """With all sent, if the server takes it within so many seconds. One that was away is not waited for."""
        if os.getpid() == self._pid:
            self._ending.set()
            if threading.current_thread() is not self._thread:
                self._thread.join(0.5 if self._away else patience)

    def _work(self) -> None:
        wait = EVERY
        while True:
            ending = self._ending.wait(wait)
            try:
                self._delivery.bring()
                wait, self._away = EVERY, False
            except Rejected as rejected:
                self._said(rejected.message)
                return
            except Exception as error:  # of the network, and of a file that is not there yet: none may reach the training
                if not isinstance(error, FileNotFoundError):
                    self._said(say("send-away", to=self._delivery.to, error=reason(error)))
                    self._away = True
                    wait = min(_LONGEST_WAIT, 2 * max(wait, 1.0))
            if ending:
                return


class Delivery:
    """How far a file has arrived. `bring` may be called from any one thread at a time."""

    def __init__(self, path: Path, to: str, token: str, run_id: str):
        self.to = to.rstrip("/")
        self._path, self._token, self._run_id = path, token, run_id
        self._inode = 0
        self._head, self._sent = "", 0
        self._silent = 0.0  # seconds, as counted in looks

    def bring(self) -> int:
        """Sends what is new in the file; returns the bytes that have arrived of it in all. Raises OSError or
        http.client.HTTPException for a server that is away, Rejected for one that will not have it."""
        with self._path.open("rb") as file:
            if (inode := os.fstat(file.fileno()).st_ino) != self._inode:
                self._head, self._sent, self._inode = head_hash(file.readline(HEAD)), 0, inode
            fresh, corrected = True, 0
            while True:
                if self._sent > os.fstat(file.fileno()).st_size or corrected > _CORRECTED:
                    self._sent = 0
                    raise http.client.HTTPException("no answer of gradviz")
                file.seek(self._sent)
                part = _next_part(file, first=self._sent == 0)
                if not part and not (fresh and self._is_time()):
                    return self._sent
                self._silent, fresh = 0.0, False
                corrected += not self._put(part)

    def _is_time(self) -> bool:
        self._silent += EVERY
        return self._silent > ALIVE

    def _put(self, part: bytes) -> bool:
        """Whether it was taken; if not, the server has said what it has."""
        query = urllib.parse.urlencode({"head": self._head, "offset": self._sent})
        address = f"{self.to}/{ROUTE}/{self._run_id}?{query}"
        headers = {"Authorization": f"Bearer {self._token}", "Content-Type": "application/octet-stream"}
        request = urllib.request.Request(address, part, headers, method="PUT")
        try:
            with urllib.request.urlopen(request, timeout=_TIMEOUT) as answer:
                self._sent = _size(answer.read(1000))
                return True
        except urllib.error.HTTPError as error:
            words = error.read(1000)
            if error.code == 409:  # it has less of the file, or more: a server that was set up anew, an answer that was lost
                before, self._sent = self._sent, _size(words)
                if self._sent == before:
                    raise Rejected(say("send-refused", to=self.to, answer=_words(words))) from None
                return False
            if error.code in (408, 425, 429) or error.code >= 500:
                raise OSError(f"HTTP {error.code}: {_words(words)}") from None
            raise Rejected(say("send-refused", to=self.to, answer=_words(words) or f"HTTP {error.code}")) from None


def _next_part(file: IO[bytes], first: bool) -> bytes:
    """Whole frames from where the file stands, of some LEAST_PART bytes or one that is larger; the first line before them."""
    head = file.readline(HEAD) if first else b""
    most = LEAST_PART
    at = file.tell()
    while True:
        file.seek(at)
        content = file.read(most)
        if (size := whole_frames(content)) or len(content) < most:
            return head + content[:size] if size or not first else b""
        most *= 4


def _size(answer: bytes) -> int:
    try:
        size = json.loads(answer)["size"]
    except (ValueError, KeyError, TypeError, RecursionError):
        raise http.client.HTTPException("no answer of gradviz") from None
    if type(size) is not int or size < 0:
        raise http.client.HTTPException("no answer of gradviz")
    return size


def _words(answer: bytes) -> str:
    return " ".join(answer.decode("utf-8", "replace").split())[:300]


def reason(error: Exception) -> str:
    """Of a server that is away, in the words of the system."""
    inner = getattr(error, "reason", error)
    return str(getattr(inner, "strerror", None) or inner or type(error).__name__)[:200]
