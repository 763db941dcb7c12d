"""What a training in a process of its own sends: few words to a busy machine, and whole."""

from __future__ import annotations

import json
import socket
import sys
import threading
from pathlib import Path

import pytest
import torch

from gradviz.lenet.config import RunConfig
from gradviz.lenet.data import Shelf
from gradviz.lenet.experiment import training
from gradviz.record.codec import FRAME, pack, pack_outcome, pack_record
from gradviz.serve.frames import NEXT
from gradviz.serve.processes import Nursery, RemoteTraining
from gradviz.train.device import here

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


def test_who_has_read_all_but_a_sign_of_life_asks_for_the_next_record(tmp_path: Path) -> None:
    config = RunConfig(blocks=0, dataset="digits", steps=3, batch_size=16, device="cpu")
    trainer = training(config, Shelf(tmp_path, download=False).load("digits"), torch.device("cpu"))
    records = list(trainer)
    ours, theirs = socket.socketpair()
    theirs.settimeout(20)
    theirs.sendall(pack({"pid": 0}) + pack({"device": "cpu", "arithmetic": here(torch.device("cpu")).to_dict()}))

    def child() -> None:
        with theirs:
            for record in records:
                assert theirs.recv(1) == NEXT
                theirs.sendall(pack_record(record) + pack({"beat": 1.0}))
            assert theirs.recv(1) == NEXT
            theirs.sendall(pack_outcome(trainer.outcome))

    thread = threading.Thread(target=child)
    thread.start()
    assert [record.loss for record in RemoteTraining(ours, config, lambda: False)] == [record.loss for record in records]
    thread.join()
