"""Asks an ASGI app directly, without a socket: what comes back is what the server would have sent."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Reply:
    status: int
    headers: dict[str, str]  # names in lower case
    body: bytes

    @property
    def text(self) -> str:
        return self.body.decode()


@dataclass(frozen=True)
class Question:
    path: str
    query: str = ""
    method: str = "GET"
    headers: tuple[tuple[str, str], ...] = ()
    address: str = "10.0.0.1"
    body: bytes = b""


def ask(app: Any, path: str, query: str = "", method: str = "GET", address: str = "10.0.0.1", **headers: str) -> Reply:
    """One question; `content_length="1"` stands for the header Content-Length."""
    named = tuple((name.replace("_", "-"), value) for name, value in headers.items())
    return ask_all(app, [Question(path, query, method, named, address)])[0]


def ask_all(app: Any, questions: Iterable[Question]) -> list[Reply]:
    """One after the other. Raises whatever the app raises: a server would answer 500."""

    async def run() -> list[Reply]:
        return [await _one(app, question) for question in questions]

    return asyncio.run(run())


async def _one(app: Any, question: Question) -> Reply:
    scope = {
        "type": "http", "http_version": "1.1", "method": question.method, "scheme": "http", "root_path": "",
        "path": question.path, "raw_path": question.path.encode("utf-8", "surrogatepass"),
        "query_string": question.query.encode("utf-8", "surrogatepass"),
        "headers": [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in question.headers],
        "server": ("127.0.0.1", 80), "client": (question.address, 1),
    }  # fmt: skip
    messages: list[dict[str, Any]] = []

    asked = False

    async def receive() -> dict[str, Any]:
        nonlocal asked
        if asked:
            await asyncio.Event().wait()  # the client stays
        asked = True
        return {"type": "http.request", "body": question.body, "more_body": False}

    async def send(message: dict[str, Any]) -> None:
        messages.append(message)

    await app(scope, receive, send)
    headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in messages[0]["headers"]}
    return Reply(messages[0]["status"], headers, b"".join(message.get("body", b"") for message in messages[1:]))
