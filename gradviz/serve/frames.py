"""What goes over the line between the server and a training in another process: letters to it, frames of plain bytes back."""

from __future__ import annotations

import traceback

from gradviz.lenet.config import ConfigError
from gradviz.lenet.data import DataError
from gradviz.record.codec import pack

NEXT, PREVIEW = b"n", b"p"


def pack_error(error: BaseException) -> bytes:
    plain = isinstance(error, (ConfigError, DataError))
    return pack(
        {
            "error": type(error).__name__,
            "message": str(error) if plain else f"{error}\n{traceback.format_exc()}",
            "field": getattr(error, "field", ""),
            "errno": getattr(error, "errno", None),
        }
    )
