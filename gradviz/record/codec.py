"""Records as plain bytes and back, for who sends them to another process: a header in JSON, then the numbers as they are."""

from __future__ import annotations

import dataclasses
import json
import struct
from collections.abc import Mapping
from typing import Any

import numpy as np

from gradviz.messages import NOTHING, Message
from gradviz.record.history import StepRecord
from gradviz.record.quantities import QUANTITIES
from gradviz.record.run import Outcome, Status
from gradviz.record.sample import BlockDeletion, PackedSample

FRAME = struct.Struct("<II")  # bytes of the header, bytes of the body


def pack(header: Mapping[str, Any], *parts: bytes) -> bytes:
    """One frame: FRAME, the header, the parts one after the other."""
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


def record_of(header: Mapping[str, Any], body: memoryview, layers: int) -> StepRecord:
    """What `pack_record` packed of a net of so many layers. Raises KeyError, TypeError or ValueError if it is none."""
    size = 4 * len(QUANTITIES) * layers
    numbers = np.frombuffer(body[:size], "<f4").reshape(len(QUANTITIES), layers)
    sample = None
    if lengths := header["sample"]:
        middle = size + lengths[0]
        sample = PackedSample(header["step"], bytes(body[size:middle]), bytes(body[middle : middle + lengths[1]]))
    rest = {name: value for name, value in header.items() if name != "sample"}
    return StepRecord(layers=numbers, anatomy=sample, **rest)


def pack_outcome(outcome: Outcome) -> bytes:
    header = dataclasses.asdict(dataclasses.replace(outcome, message=NOTHING))
    return pack(header | {"message": outcome.message.to_json()})


def outcome_of(header: Mapping[str, Any]) -> Outcome:
    """What `pack_outcome` packed. Raises KeyError, TypeError or ValueError if it is none."""
    deletion = header["deletion"] and BlockDeletion.from_dict(header["deletion"])
    message = Message.from_json(header["message"])
    return Outcome(**{**header, "status": Status(header["status"]), "message": message, "deletion": deletion})
