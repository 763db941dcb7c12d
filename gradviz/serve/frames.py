"""What goes over the line between the server and a training in another process: letters to it, frames of plain bytes back."""

from __future__ import annotations

import dataclasses
import json
import struct
import traceback
from typing import Any

import numpy as np

from gradviz.lenet.config import ConfigError
from gradviz.lenet.data import DataError
from gradviz.record.history import StepRecord
from gradviz.record.quantities import QUANTITIES
from gradviz.record.run import Outcome, Status
from gradviz.record.sample import BlockDeletion, PackedSample

NEXT, PREVIEW = b"n", b"p"
FRAME = struct.Struct("<II")  # bytes of the header, bytes of the body


def pack(header: dict[str, Any], *parts: bytes) -> bytes:
    text = json.dumps(header).encode()  # nan and inf pass: Python reads what it writes
    return b"".join([FRAME.pack(len(text), sum(map(len, parts))), text, *parts])


def pack_record(record: StepRecord) -> bytes:
    sample = record.anatomy.packed() if record.anatomy else None
    header = {
        "step": record.step,
        "loss": record.loss,
        "accuracy": record.accuracy,
        "seconds": record.seconds,
        "test_accuracy": record.test_accuracy,
        "nonfinite_layer": record.nonfinite_layer,
        "sample": [len(sample.numbers), len(sample.images)] if sample else None,
    }
    layers = np.ascontiguousarray(record.layers, "<f4").tobytes()
    return pack(header, layers, *((sample.numbers, sample.images) if sample else ()))


def record_of(header: dict[str, Any], body: memoryview, layers: int) -> StepRecord:
    size = 4 * len(QUANTITIES) * layers
    numbers = np.frombuffer(body[:size], "<f4").reshape(len(QUANTITIES), layers)
    lengths, sample = header.pop("sample"), None
    if lengths:
        middle = size + lengths[0]
        sample = PackedSample(header["step"], bytes(body[size:middle]), bytes(body[middle : middle + lengths[1]]))
    return StepRecord(layers=numbers, anatomy=sample, **header)


def pack_outcome(outcome: Outcome) -> bytes:
    return pack(dataclasses.asdict(outcome))


def outcome_of(header: dict[str, Any]) -> Outcome:
    deletion = header.pop("deletion")
    if deletion:
        deletion = BlockDeletion(**deletion | {name: tuple(deletion[name]) for name in ("blocks", "accuracies")})
    return Outcome(Status(header.pop("status")), deletion=deletion, **header)


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
