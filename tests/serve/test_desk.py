"""Heavy work waits for its place: so much at once, everybody's first before anybody's second, nothing while memory is short."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable
from dataclasses import replace

import pytest
from asgi import ask
from recorded import finished_run
from starlette.applications import Starlette
from timing import until
from viewing import in_shell, opened

from gradviz.lenet.config import RunConfig
from gradviz.messages import text
from gradviz.serve.admission import Refused
from gradviz.serve.desk import Desk, Ticket
from gradviz.web.routes import build_routes


def desk(left: Callable[[], float | None] = lambda: None, **options: object) -> Desk:
    return Desk(memory_left=left, **options)


def served(desk: Desk, tickets: list[Ticket]) -> list[str]:
    """Who has a place."""
    return [ticket.who for ticket in tickets if desk.serve(ticket)]


def test_so_many_have_a_place_and_the_rest_are_told_theirs_in_the_line():
    it, begin, now, most, told = desk(places=2), threading.Event(), set(), [], {}

    def work(number: int) -> None:
        with it.place(f"person {number}", said=lambda place: told.setdefault(number, []).append(place)):
            now.add(number)
            most.append(len(now))
            assert begin.wait(60)
            now.remove(number)

    people = [threading.Thread(target=work, args=(number,)) for number in range(7)]
    for person in people:
        person.start()
    until(lambda: it.busy == 7 and len(told) == 5)
    begin.set()
    for person in people:
        person.join(60)
    assert max(most) == 2 and len(most) == 7 and it.busy == 0
    assert sorted(places[0] for places in told.values()) == [1, 2, 3, 4, 5]


def test_whoever_gathers_cookies_to_be_many_has_the_places_of_his_address_and_no_more():
    it = desk(places=1)
    many = []
    with pytest.raises(Refused, match="busy"):
        for number in range(100):
            many.append(it.line_up(f"cookie {number}", there="10.0.0.2"))
    ann = it.line_up("ann", there="10.0.0.1")
    before = []
    while not it.serve(ann):
        before += [ticket for ticket in many if ticket not in before and it.serve(ticket)]
        it.leave(before[-1])
        with pytest.raises(Refused) if len(many) - len(before) >= 60 else contextlib.nullcontext():
            many.append(it.line_up(f"cookie {len(many)}", there="10.0.0.2"))
    assert len(before) <= 8
    it.leave(ann)
    again = it.line_up("ann", there="10.0.0.1")  # who was here before does not wait for all who say they are new
    assert it.position(again) <= 8
    students = [it.line_up(f"student {number}", there="10.0.0.3") for number in range(30)]  # behind one address
    assert it.position(students[-1]) < 75


def test_everybodys_first_wish_goes_before_anybodys_second():
    it = desk(places=1)
    greedy = [it.line_up("greedy") for _ in range(13)]
    assert served(it, greedy) == ["greedy"]
    ann, bob = it.line_up("ann"), it.line_up("bob")
    assert (it.position(ann), it.position(bob), it.position(greedy[1])) == (1, 2, 3)
    order = []
    it.leave(greedy[0])
    for _ in range(4):
        order += [ticket for ticket in (*greedy, ann, bob) if ticket not in [greedy[0], *order] and it.serve(ticket)]
        it.leave(order[-1])
    assert order == [ann, bob, greedy[1], greedy[2]]


def test_one_person_has_a_share_of_the_places_and_no_more():
    it = desk(places=4, share=2)
    tickets = [it.line_up("greedy") for _ in range(13)]
    assert served(it, tickets) == ["greedy", "greedy"]
    others = [it.line_up("ann"), it.line_up("bob")]
    assert served(it, others) == ["ann", "bob"]


def test_nothing_new_begins_while_memory_is_short_and_the_sentence_says_how_much_is_left():
    left = 1e9
    it = desk(lambda: left, places=3, reserve=100e6)
    first = it.line_up("ann", need=200e6)
    assert it.serve(first)
    left = 150e6
    second = it.line_up("bob", need=200e6)
    assert not it.serve(second)  # the first gives some back
    it.leave(first)
    with pytest.raises(Refused, match="too little memory left for this now: 150 MB, .* 200 MB and 100 MB stay free") as refusal:
        it.serve(second)
    it.leave(second)
    assert refusal.value.reason == "memory" and it.busy == 0
    with pytest.raises(Refused), it.place("carl", need=200e6):
        raise AssertionError
    assert it.busy == 0


def test_memory_that_others_may_give_back_is_waited_for():
    now, left = 0.0, 1e6
    it = Desk(memory_left=lambda: left, hope=15, clock=lambda: now)
    ann, bob = it.line_up("ann"), it.line_up("bob")
    assert not it.serve(ann)
    left, now = 1e9, 14.0
    assert it.serve(ann)
    it.leave(ann)
    left, now = 1e6, 15.0
    with pytest.raises(Refused, match="too little memory"):
        it.serve(bob)


def test_who_waits_too_long_and_who_wishes_too_much_is_told_so():
    now = 0.0
    it = Desk(places=1, memory_left=lambda: None, patience=60, clock=lambda: now)
    assert it.serve(it.line_up("ann"))
    late = it.line_up("bob")
    assert not it.serve(late)
    now = 61.0
    with pytest.raises(Refused, match="Try again in 10 s"):
        it.serve(late)
    with pytest.raises(Refused, match="wishes like this one wait already") as refusal:
        for _ in range(50):
            it.line_up("greedy")
    assert refusal.value.reason == "busy"
    it.line_up("carl")  # another still may


def test_who_leaves_while_he_waits_leaves_no_gap():
    class Gone(Exception):
        pass

    def gone(_place: int) -> None:
        raise Gone

    it = desk(places=1)
    first = it.line_up("ann")
    assert it.serve(first)
    with pytest.raises(Gone), it.place("bob", said=gone):
        raise AssertionError
    assert it.busy == 1


def test_a_run_that_there_is_no_memory_to_read_is_answered_503_with_the_sentence_and_when_to_come_back():
    def refuse(id: str) -> None:
        raise Refused("memory", text("The server has too little memory left for this now."))

    app = Starlette(routes=build_routes(refuse, lambda id: None, lambda run: ("", "")))
    for path in ("/api/runs/abc", "/api/runs/abc/profile"):
        reply = ask(app, path)
        assert (reply.status, reply.headers["retry-after"]) == (503, "10") and "too little memory" in reply.text


@pytest.mark.parametrize("path", ["compare", "anatomy", "sweep", "lessons"])
def test_a_page_says_why_it_draws_nothing_when_memory_is_short(page_server, path):
    config = RunConfig(activation="relu", blocks=1, batch_size=4, steps=20, dataset="digits")
    runs = [finished_run(replace(config, seed=seed)) for seed in (0, 1)]
    page_server.store.save(*runs)
    object.__setattr__(page_server, "desk", Desk(memory_left=lambda: 1e6))
    query = {"compare": {"runs": ",".join(run.id for run in runs)}, "anatomy": {"run": runs[0].id}, "sweep": {},
             "lessons": {"lesson": "float32", "prediction": "20"}}  # fmt: skip
    page = opened(path, **query[path])
    assert any("too little memory left for this now: 1 MB" in warning.value for warning in page.warning)
    again = next(button for button in page.button if button.label == "Try again")
    object.__setattr__(page_server, "desk", Desk(memory_left=lambda: None))
    again.click().run()
    assert not page.exception and not any("too little memory" in warning.value for warning in page.warning)


def test_any_page_is_one_sentence_while_hardly_any_memory_is_left(page_server):
    object.__setattr__(page_server, "desk", Desk(memory_left=lambda: 30e6))
    page = in_shell("lab")
    assert [warning.value for warning in page.warning][0].startswith("The server has too little memory left for this now: 30 MB")
    assert not page.title


def test_nobody_waits_while_memory_that_is_no_longer_used_is_looked_for(clock):
    waited = []

    def tidy() -> None:
        asks = threading.Thread(target=lambda: it.busy, daemon=True)
        asks.start()
        asks.join(10)
        waited.append(asks.is_alive())

    it = desk(lambda: 1e6, clock=clock, tidy=tidy)
    assert "too little memory" in str(it.short())
    clock.now += 10
    with pytest.raises(Refused, match="too little memory"):
        it.forecast("ann")
    clock.now += 10
    with pytest.raises(Refused, match="too little memory"), it.place("ann"):
        pass
    assert waited == [False, False, False]
