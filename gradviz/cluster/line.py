"""Lines between a server and the computers that train: both ends prove that they know the host's key, which itself never
travels here (HMAC, RFC 2104), and then speak in frames of `record.codec`."""

from __future__ import annotations

import hashlib
import hmac
import json
import secrets
import socket
from collections.abc import Mapping
from typing import Any

from gradviz.record.codec import FRAME, pack

_NONCE, _PROOF = 32, 32  # bytes
_HEADER, _BODY = 1 << 20, 1 << 30  # of a frame at most; a file of a data set has some 50 MB


def tend(line: socket.socket) -> None:
    """What is sent goes out at once, and a machine at the other end that is gone without a word is noticed in some 12 s."""
    line.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    line.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in (("TCP_KEEPIDLE", 4), ("TCP_KEEPINTVL", 2), ("TCP_KEEPCNT", 4), ("TCP_USER_TIMEOUT", 12_000)):
        line.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)


def connect(address: str, port: int, key: bytes, seconds: float) -> socket.socket:
    """A line on which the host there awaits a request. Raises OSError, also if either does not know the key."""
    line = socket.create_connection((address, port), seconds)
    try:
        tend(line)
        mine = secrets.token_bytes(_NONCE)
        line.sendall(mine)
        answer = read(line, _NONCE + _PROOF)
        theirs, proof = answer[:_NONCE], answer[_NONCE:]
        if not hmac.compare_digest(proof, _proof(key, b"host", mine, theirs)):
            raise PermissionError("this is another host")
        line.sendall(_proof(key, b"server", mine, theirs))
    except BaseException:
        line.close()
        raise
    return line


def accept(line: socket.socket, key: bytes, seconds: float) -> None:
    """The host's part of `connect`. Raises OSError."""
    line.settimeout(seconds)
    tend(line)
    theirs, mine = read(line, _NONCE), secrets.token_bytes(_NONCE)
    line.sendall(mine + _proof(key, b"host", theirs, mine))
    if not hmac.compare_digest(read(line, _PROOF), _proof(key, b"server", theirs, mine)):
        raise PermissionError("whoever called does not know the key")


def send(line: socket.socket, header: Mapping[str, Any], body: bytes = b"") -> None:
    line.sendall(pack(header, body))


def receive(line: socket.socket) -> tuple[dict[str, Any], bytes]:
    """Raises OSError, also for what is no frame."""
    head, body = FRAME.unpack(read(line, FRAME.size))
    if head > _HEADER or body > _BODY:
        raise OSError(f"a frame of {head} + {body} bytes")
    try:
        header = json.loads(read(line, head))
    except ValueError as error:
        raise OSError("a header that is none") from error
    if not isinstance(header, dict):
        raise OSError("a header that is none")
    return header, read(line, body)


def read(line: socket.socket, count: int) -> bytes:
    """Raises OSError, also at the end of the line."""
    data = bytearray()
    while len(data) < count:
        if not (more := line.recv(min(count - len(data), 1 << 20))):
            raise ConnectionResetError("the line has ended")
        data += more
    return bytes(data)


def _proof(key: bytes, who: bytes, server: bytes, host: bytes) -> bytes:
    return hmac.digest(key, who + server + host, hashlib.sha256)
