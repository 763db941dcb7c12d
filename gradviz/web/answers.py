"""How routes of ours answer."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

from gradviz.serve.desk import RETRY

NEVER = {"Cache-Control": "no-store"}  # the next answer to the same question may be another


def binary(body: bytes) -> Response:
    return Response(body, media_type="application/octet-stream", headers=NEVER)


def refuse(status: int, sentence: str) -> Response:
    later = {"Retry-After": str(RETRY)} if status == 503 else {}
    return PlainTextResponse(sentence, status, headers={**NEVER, **later})


def takes_gzip(request: Request) -> bool:
    return "gzip" in request.headers.get("Accept-Encoding", "")
