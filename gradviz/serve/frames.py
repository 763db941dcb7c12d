"""What goes over the line between the server and a training in another process: letters to it, frames of plain bytes back."""

from __future__ import annotations

import traceback
from collections.abc import Mapping
from typing import Any

from gradviz.lenet.fields import ConfigError
from gradviz.lenet.idx import DataError
from gradviz.messages import Message, Told
from gradviz.record.codec import pack
from gradviz.serve.admission import Refused
from gradviz.serve.failures import WorkerError
from gradviz.train.state import StateGone

NEXT, PREVIEW, STOP = b"n", b"p", b"s"  # STOP: it keeps its state, says how it ended, and sends nothing after that


def pack_error(error: BaseException) -> bytes:
    """The message of one that is for people, of any other its text and its traceback."""
    return pack(
        {
            "error": type(error).__name__,
            "told": error.message.to_json() if isinstance(error, Told) else None,
            "words": f"{error}\n{traceback.format_exc()}",
            "field": getattr(error, "field", ""),
            "errno": getattr(error, "errno", None),
        }
    )


def error_of(header: Mapping[str, Any]) -> Exception:
    """What pack_error was given: a ConfigError, a DataError, a StateGone, a Refused, a Told, or a WorkerError for all else."""
    kind = str(header["error"])
    if header["told"] is None:
        return WorkerError(kind, str(header["words"]), header["errno"])
    message = Message.from_json(header["told"])
    if kind == "ConfigError":
        return ConfigError(str(header["field"]), message)
    if kind == "Refused":
        return Refused("memory", message)
    kinds: dict[str, type[Told]] = {"DataError": DataError, "StateGone": StateGone}
    return kinds.get(kind, Told)(message)
