"""Who is known again, by what, and for how long."""

import stat

import pytest
from asgi import ask
from starlette.responses import HTMLResponse, PlainTextResponse
from timing import Clock

from gradviz.serve.people import AWAY, COOKIE, GUEST, People, place
from gradviz.web.badge import Badge
from gradviz.web.guard import Guard


@pytest.fixture
def people(tmp_path, clock) -> People:
    return People(tmp_path / "people.secret", clock)


def test_a_cookie_is_known_after_a_restart_and_a_changed_or_foreign_one_is_not(tmp_path):
    path = tmp_path / "runs" / "people.secret"
    cookie = People(path).cookie("10.0.0.1")
    person = People(path).person(cookie)
    assert person and People(path).person(cookie) == person
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    foreign = People(tmp_path / "another").cookie("10.0.0.1")
    for rubbish in (None, "", ".", person, cookie[:-1], "0" + cookie, foreign, "\udc80.x", "a" * 10_000):
        assert People(path).person(rubbish) == ""


def test_an_address_that_wants_ever_new_cookies_gets_no_more_for_a_while_and_others_do(people, clock):
    got = [people.cookie("10.0.0.1") for _ in range(1000)]
    assert 30 <= sum(cookie is not None for cookie in got) <= 200 and len(set(got)) > 30
    assert people.cookie("10.0.0.2")
    clock.now = 60
    assert people.cookie("10.0.0.1")


def test_somebody_is_elsewhere_for_half_an_hour_after_his_last_click_at_another_address(people, clock):
    people.seen("bob", "10.0.0.2")
    assert people.elsewhere("bob", "10.0.0.1") and not people.elsewhere("bob", "10.0.0.2")
    clock.now = AWAY + 1
    assert not people.elsewhere("bob", "10.0.0.1")
    people.seen("bob", "10.0.0.1")
    assert not people.elsewhere("bob", "10.0.0.1") and people.elsewhere("bob", "10.0.0.3")


def test_after_a_restart_everybody_may_be_elsewhere_but_guests_and_only_if_somebody_is(people, clock):
    people.seen("ann", "10.0.0.1")
    assert not people.elsewhere("bob", "10.0.0.1")  # as far as the server knows, she is alone
    people.seen("eve", "10.0.0.5")
    assert people.elsewhere("bob", "10.0.0.1") and not people.elsewhere(GUEST + "1", "10.0.0.1")
    clock.now = AWAY + 1
    assert not people.elsewhere("bob", "10.0.0.1")


def test_a_flood_of_guests_makes_nobody_forgotten_who_is_known(people, clock):
    clock.now = AWAY + 1
    people.seen("ann", "10.0.0.1")
    for n in range(10_000):
        people.seen(f"{GUEST}{n}", "10.0.0.2")
    assert people.elsewhere("ann", "10.0.0.2") and people.remembered <= 4096


@pytest.mark.parametrize(
    "one, other, same",
    [
        ("2001:db8::1", "2001:db8::ffff:1", True), ("2001:db8::1", "2001:db8:0:1::1", False),
        ("::ffff:10.0.0.1", "10.0.0.1", True),
        ("10.0.0.1", "10.0.0.2", False), ("fe80::1%eth0", "fe80::2", True), ("", "testclient", False),
    ],
)  # fmt: skip
def test_a_computer_with_as_many_addresses_as_it_likes_is_in_one_place(people, one, other, same):
    assert (place(one) == place(other)) is same


def test_ever_new_addresses_of_one_network_get_no_more_cookies_than_one_and_are_asked_to_wait_as_one(people):
    async def app(scope, receive, send):
        await HTMLResponse("x")(scope, receive, send)

    badge = Badge(app, lambda: people)
    given = [ask(badge, "/", address=f"2001:db8::{n:x}", accept="text/html").headers.get("set-cookie") for n in range(300)]
    assert sum(cookie is not None for cookie in given) < 200
    guard = Guard(app, rate=1, burst=10, clock=Clock())
    assert [ask(guard, "/api/x", address=f"2001:db8::{n:x}").status for n in range(20)].count(429) == 10


def page(people: People, path: str = "/", **headers: str):
    async def app(scope, receive, send):
        await (HTMLResponse("x") if path != "/gone" else PlainTextResponse("x", 404))(scope, receive, send)

    return ask(Badge(app, lambda: people), path, **headers)


def test_whoever_opens_a_page_gets_one_cookie_that_scripts_cannot_read_and_other_sites_do_not_send(people):
    words = page(people, accept="text/html").headers["set-cookie"].split("; ")
    name, _, value = words[0].partition("=")
    assert name == COOKIE and people.person(value) and {"HttpOnly", "SameSite=Lax"} <= set(words)
    assert "set-cookie" not in page(people, accept="text/html", cookie=words[0]).headers
    assert "set-cookie" in page(people, accept="text/html", cookie=f"{COOKIE}=forged.abc").headers
    for other in (page(people), page(people, "/api/runs/x", accept="text/html"), page(people, "/gone", accept="text/html")):
        assert "set-cookie" not in other.headers
