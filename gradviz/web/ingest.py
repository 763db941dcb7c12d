"""The route by which `gradviz.watch(…, to=…)` brings runs from other machines. Without a token there is none."""

from __future__ import annotations

import hmac
import json
from collections.abc import Callable

import anyio
import anyio.to_thread
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from gradviz.messages import say
from gradviz.record.sender import ROUTE
from gradviz.serve.inbox import MOST_PART, Inbox, Rejected
from gradviz.web.answers import NEVER, refuse

_AT_ONCE = 2  # parts that lie in memory
_PATIENCE = 60.0  # seconds for one part


def ingest_routes(get_inbox: Callable[[], Inbox], get_token: Callable[[], str]) -> list[Route]:
    """A request says by `head` and `offset` what it follows on; 409 says what is here instead. 404 where there is no token."""
    few = anyio.CapacityLimiter(_AT_ONCE)

    async def put(request: Request) -> Response:
        if not (token := get_token()):
            return refuse(404, str(say("inbox-off")))
        if not hmac.compare_digest(request.headers.get("authorization", "").encode(), f"Bearer {token}".encode()):
            return refuse(401, str(say("inbox-token")))
        head, offset = request.query_params.get("head", ""), request.query_params.get("offset", "")
        length = request.headers.get("content-length", "")
        for number in (offset, length):
            if not (number.isascii() and number.isdecimal() and len(number) < 13):
                return refuse(400, str(say("inbox-numbers")))
        if int(length) > MOST_PART:
            return refuse(413, str(say("inbox-part", most=MOST_PART // 1_000_000)))
        try:
            async with few:
                with anyio.fail_after(_PATIENCE):
                    content = await _content(request, int(length))
                taken, size = await anyio.to_thread.run_sync(
                    get_inbox().take, request.path_params["id"], head, int(offset), content
                )
        except Rejected as rejected:
            return refuse(rejected.status, str(rejected))
        except (TimeoutError, ClientDisconnect):
            return refuse(408, str(say("inbox-numbers")))
        return Response(json.dumps({"size": size}), 200 if taken else 409, NEVER, "application/json")

    return [Route(f"/{ROUTE}/{{id}}", put, methods=["PUT"])]


async def _content(request: Request, length: int) -> bytes:
    parts, size = [], 0
    async for part in request.stream():
        parts.append(part)
        if (size := size + len(part)) > length:
            raise Rejected(400, say("inbox-numbers"))
    if size != length:
        raise Rejected(400, say("inbox-numbers"))
    return b"".join(parts)
