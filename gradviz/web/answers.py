"""How routes of ours answer."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping

from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

from gradviz.serve.desk import RETRY

NEVER = {"Cache-Control": "no-store"}  # the next answer to the same question may be another


def binary(body: bytes, status: int = 200) -> Response:
    return Response(body, status, media_type="application/octet-stream", headers=NEVER)


def refuse(status: int, sentence: str) -> Response:
    later = {"Retry-After": str(RETRY)} if status == 503 else {}
    return PlainTextResponse(sentence, status, headers={**NEVER, **later})


def noticed(response: Response, request: Request, get_notice: Callable[[], Mapping[str, str | bool]]) -> Response:
    """With the notice that every page follows as a header, JSON in ASCII, where it is asked for (`notice=1`): a page that polls
    something else then asks one question and not two."""
    if request.query_params.get("notice") == "1":
        response.headers["Gradviz-Notice"] = json.dumps(get_notice(), separators=(",", ":"))
    return response


def takes_gzip(request: Request) -> bool:
    return "gzip" in request.headers.get("Accept-Encoding", "")
