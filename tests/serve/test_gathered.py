"""What a training in a process of its own sends: few words to a busy machine, and whole."""

from __future__ import annotations

import json
import socket
import sys
from pathlib import Path

import pytest

from gradviz.lenet.config import RunConfig
from gradviz.lenet.data import Shelf
from gradviz.record.codec import FRAME
from gradviz.serve.frames import NEXT
from gradviz.serve.processes import Nursery

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="worker processes are for Linux")


def test_records_of_short_steps_come_together_and_each_once_and_in_order(tmp_path: Path) -> None:
    config = RunConfig(blocks=0, activation="relu", dataset="digits", steps=200, batch_size=16, device="cpu")
    nursery = Nursery(Shelf(tmp_path, download=False))
    line, theirs = socket.socketpair()
    line.settimeout(60)
    data, parts, headers = b"", 0, []
    with line:
        with theirs:
            nursery.bear({"config": config.to_dict(), "threads": 1}, theirs)
        line.sendall(NEXT)
        while not headers or "status" not in headers[-1]:
            part = line.recv(1 << 20)
            assert part
            data, parts = data + part, parts + 1
            while len(data) >= FRAME.size and len(data) >= FRAME.size + sum(FRAME.unpack_from(data)):
                head, body = FRAME.unpack_from(data)
                headers.append(json.loads(data[FRAME.size : FRAME.size + head]))
                data = data[FRAME.size + head + body :]
                if headers[-1].get("step") == 0:  # nobody had asked for more, and it came
                    line.sendall(NEXT * config.steps)
    nursery.close()
    assert [header["step"] for header in headers if "step" in header] == list(range(config.steps))
    assert parts < config.steps / 2
