"""Which computer a training goes to, and what is said of computers that come and go. No Ray is needed here."""

from __future__ import annotations

import socket
import threading
from dataclasses import replace

import pytest
from puppets import SMALL
from timing import Clock

from gradviz.cluster import line
from gradviz.cluster.computers import Computer, Computers
from gradviz.messages import say
from gradviz.serve.admission import history_bytes, memory_needed

ONE = Computer("1", "one", slots=2, ready=True, memory=8e9)
TWO = Computer("2", "two", slots=2, ready=True, memory=8e9)
CARD = Computer("3", "card", slots=2, ready=True, memory=8e9, cards=1)


class Played:
    def __init__(self, at_work: bool = True):
        self.at_work = at_work


def names(computers: Computers, config=SMALL) -> list[str]:
    return [each.name for each in computers.best_for(config)]


def of(*computers: Computer, most: int = 64) -> Computers:
    known = Computers(most)
    known.know(list(computers))
    return known


def test_a_training_goes_where_fewest_are_at_work_for_the_slots():
    known = of(ONE, replace(TWO, slots=4))
    mine = [Played(), Played()]
    known.add("1", mine[0])
    known.add("2", mine[1])
    assert names(known) == ["two", "one"]
    mine[0].at_work = False  # paused: it has its memory there, and no slot
    assert names(known) == ["one", "two"]
    known.remove("1", mine[0])
    assert names(known)[0] == "one"


def test_trainings_of_other_servers_count_too():
    assert names(of(replace(ONE, trainings=1), TWO)) == ["two", "one"]


def test_memory_goes_before_everything_else_and_the_history_needs_none_there():
    large = replace(SMALL, blocks=1000, batch_size=64, steps=100_000)
    there = memory_needed(large) - history_bytes(large)
    assert names(of(replace(ONE, memory=there - 1), replace(TWO, memory=there, trainings=5)), large) == ["two", "one"]
    assert of(replace(ONE, memory=5.0), replace(TWO, memory=9.0)).memory == 9.0
    assert of(replace(ONE, memory=None)).memory is None


@pytest.mark.parametrize(
    "changes, first",
    [(dict(device="cuda"), "card"), (dict(device="cpu"), "one"), (dict(device="auto"), "one"),
     (dict(device="auto", blocks=400), "card")],
)  # fmt: skip
def test_a_card_is_for_whom_it_helps(changes: dict, first: str):
    found = names(of(ONE, CARD), replace(SMALL, **changes))
    assert found[0] == first and (found == ["card"]) == (changes["device"] == "cuda")


def test_slots_are_those_of_computers_that_are_ready_and_at_most_the_share():
    assert of(ONE, replace(TWO, ready=False)).slots == 2
    assert of(ONE, TWO).slots == 4 and of(ONE, TWO, most=3).slots == 3 and of().slots == 0
    known = of(ONE, TWO)
    known.doubt("1")
    assert known.slots == 2 and names(known) == ["two"]


def test_a_computer_that_comes_and_goes_is_named_for_a_while(clock: Clock):
    known = Computers(64, clock)
    for number in range(3):
        assert not known.troubles
        come, _gone = known.know([replace(ONE, id=str(number))])
        assert [each.name for each in come] == ["one"]
        clock.now += 10
        _come, gone = known.know([])
        assert [each.name for each in gone] == ["one"]
    assert [(message.code, message.arguments["n"]) for message in known.troubles] == [("node-flaps", 3)]
    clock.now += 120
    assert not known.troubles


def test_each_trouble_is_said_once():
    known = of(replace(ONE, trouble=say("node-silent", name="one")))
    for _time in range(2):
        known.complain("1", "mnist", say("node-disk", name="one"))
    assert [message.code for message in known.troubles] == ["node-silent", "node-disk"]


@pytest.mark.parametrize("right", [True, False])
def test_a_host_takes_requests_from_whoever_knows_its_key_and_from_nobody_else(right: bool):
    key = b"k" * 32
    heard: list[object] = []
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def host() -> None:
            caller, _address = listener.accept()
            with caller:
                try:
                    line.accept(caller, key, 5.0)
                    heard.append(line.receive(caller))
                except OSError as error:
                    heard.append(error)

        thread = threading.Thread(target=host)
        thread.start()
        port = listener.getsockname()[1]
        if right:
            with line.connect("127.0.0.1", port, key, 5.0) as ours:
                line.send(ours, {"end": 5}, b"body")
        else:
            with pytest.raises(PermissionError):  # nor does it prove itself to a server with another key
                line.connect("127.0.0.1", port, b"x" * 32, 5.0)
        thread.join(10)
    assert heard == [({"end": 5}, b"body")] if right else isinstance(heard[0], OSError)
