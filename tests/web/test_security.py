"""What the server says to whoever asks too much, and what it says to a browser about itself."""

import http.client
import re
import socket

import pytest
from asgi import Question, ask, ask_all
from playwright.sync_api import Page, expect
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from timing import Clock

from gradviz.web import hosts
from gradviz.web.guard import MAX_ADDRESS, Guard, headers
from gradviz.web.routes import build_routes
from gradviz.web.scripts import plotly_url, script_url


async def _here(scope, receive, send):
    await PlainTextResponse("here")(scope, receive, send)


def test_who_asks_too_often_is_told_when_to_come_back_and_is_heard_then():
    clock = Clock()
    guard = Guard(_here, rate=0.25, burst=3, clock=clock)

    def statuses(count: int) -> list[int]:
        return [ask(guard, "/api/x").status for _ in range(count)]

    assert statuses(4) == [200, 200, 200, 429]
    refused = ask(guard, "/api/x")
    assert refused.headers["retry-after"] == "4" and re.fullmatch(r"[A-Z][^\n]+\.", refused.text)
    clock.now = 3.9
    assert statuses(1) == [429]
    clock.now = 4.1
    assert statuses(1) == [200]
    clock.now = 1e6  # a long rest fills the bucket, and no further than its rim
    assert statuses(4) == [200, 200, 200, 429]


def test_the_rate_counts_each_address_for_itself_leaves_streamlit_alone_and_forgets_the_oldest():
    guard = Guard(_here, rate=1, burst=1, clock=Clock())
    assert ask(guard, "/api/x", address="10.0.0.1").status == 200
    assert ask(guard, "/api/x", address="10.0.0.1").status == 429
    assert ask(guard, "/api/x", address="10.0.0.2").status == 200
    assert {ask(guard, "/compare", address="10.0.0.1").status for _ in range(5)} == {200}
    ask_all(guard, [Question("/api/x", address=f"10.1.{n >> 8}.{n & 255}") for n in range(4095)])
    assert ask(guard, "/api/x", address="10.1.0.0").status == 429  # remembered
    assert ask(guard, "/api/x", address="10.0.0.1").status == 200  # forgotten: what it cost is bounded


def test_an_address_beyond_the_limit_or_a_request_with_content_is_refused_with_a_sentence():
    guard = Guard(_here)
    assert ask(guard, "/api/x", "q=" + "a" * (MAX_ADDRESS - 8)).status == 200
    assert ask(guard, "/api/x", content_length="0").status == 200
    for reply, status in (
        (ask(guard, "/api/x", "q=" + "a" * (MAX_ADDRESS - 7)), 414),
        (ask(guard, "/api/" + "x" * MAX_ADDRESS), 414),
        (ask(guard, "/api/x", content_length="1"), 413),
        (ask(guard, "/api/x", transfer_encoding="chunked"), 413),
    ):
        assert reply.status == status and re.fullmatch(r"[A-Z][^\n]+\.", reply.text)
        assert reply.headers["x-content-type-options"] == "nosniff"


def test_a_class_of_thirty_behind_one_address_is_never_refused():
    clock = Clock()
    guard = Guard(_here, clock=clock)
    scripts = {script_url(f"{name}.js") for name in ("live", "classroom", "figure", "motion", "download")}
    assert {ask(guard, f"/{url}").status for _ in range(30) for url in {*scripts, plotly_url()}} == {200}  # all at once
    for tenth in range(600):  # of a second
        clock.now = tenth / 10
        # live.js: ten times a second until the first point is there (ten seconds at most), three times until then, then once.
        each = 1 if tenth < 100 else 0.1
        assert {ask(guard, "/api/runs/x").status for _ in range(round(30 * each))} == {200}


def test_readiness_is_one_word_or_one_sentence():
    problem = ""
    app = Starlette(routes=build_routes(lambda id: None, lambda id: None, lambda run: ("", ""), get_problem=lambda: problem))
    assert (ask(app, "/ready").status, ask(app, "/ready").text) == (200, "ready")
    problem = "The disk is full."
    assert (ask(app, "/ready").status, ask(app, "/ready").text) == (503, "The disk is full.")


@pytest.mark.parametrize("ruin", ["overwritten", "cut", "removed"])
def test_a_server_whose_kept_runs_are_ruined_is_not_ready(start_server, ruin):
    own = start_server()
    answer = _get(own.port, "/ready")
    assert (answer.status, answer.body) == (200, b"ready")
    (file,) = own.store.glob("*.sqlite")
    for path in [file, *own.store.glob("*.sqlite-*")]:
        if ruin == "removed":
            path.unlink()
        else:
            path.write_bytes(b"\xff" * path.stat().st_size if ruin == "overwritten" else b"")
    answer = _get(own.port, "/ready")
    assert answer.status == 503 and re.fullmatch(r"[A-Z][^\n]+\.", answer.body.decode())
    own.kill()


@pytest.fixture(scope="module")
def port(server) -> int:
    return server.port


def _get(port: int, path: str, **headers: str) -> http.client.HTTPResponse:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    connection.request("GET", path, headers=headers)
    answer = connection.getresponse()
    answer.body = answer.read()
    return answer


@pytest.mark.parametrize("path", ["/", "/compare", "/api/runs/x", "/ready", "/live/live.js", "/nowhere/at/all"])
def test_every_answer_of_the_real_server_carries_the_security_headers(port, path):
    answer, wanted = _get(port, path), headers(f"127.0.0.1:{port}")
    assert {name: answer.headers[name] for name in wanted} == wanted
    policy = answer.headers["Content-Security-Policy"]
    assert f"connect-src 'self' ws://127.0.0.1:{port} wss://127.0.0.1:{port} data: blob:;" in policy


NAMES = ("school.example", "*.uni.example")


@pytest.mark.parametrize(
    "host, called",
    [
        ("127.0.0.1:8501", True), ("192.168.1.20:8501", True), ("[::1]:8501", True), ("[fe80::1]", True),
        ("localhost:8501", True), ("LOCALHOST.", True), ("gradviz.localhost", True),
        (f"{socket.gethostname()}:80", True), ("school.example", True),
        ("School.Example.:443", True), ("lab.uni.example", True), ("", True),
        ("evil.example", False), ("evil", False), ("notschool.example", False), ("school.example.evil.example", False),
        ("uni.example", False), ("127.0.0.1.evil.example", False), ("localhost.evil.example", False),
        ("evil.example:8501", False), ("127.0.0.1@evil.example", False), ("school.example/..", False),
        ("[::1", False), ("a b", False), ("é.example", False),
        ("2130706433", False), ("0x7f.1", False), ("localhost:80:80", False), (",localhost", False), ("x" * 300, False),
    ],
)  # fmt: skip
def test_a_server_answers_to_addresses_its_own_names_and_those_of_the_setting(host, called):
    guard = Guard(_here, get_names=lambda: NAMES)
    reply = ask(guard, "/", host=host) if host else ask(guard, "/")
    assert reply.status == (200 if called else 403)
    if not called:
        assert "GRADVIZ_HOSTS" in reply.text and re.fullmatch(r"[A-Z][^\n<>]+\.", reply.text) and len(reply.text) < 500
        assert "evil" not in reply.headers["content-security-policy"]
    assert hosts.may_be_called("anything.example", {"*"})


@pytest.mark.parametrize(
    "origin, answered",
    [
        ("http://10.0.0.5:8501", True), ("https://school.example", True), ("https://a.uni.example:8443", True),
        ("http://10.0.0.5:3000", False), ("http://10.0.0.5", False), ("http://localhost:8501", False),
        ("http://evil.example", False), ("https://10.0.0.6:8501", False), ("null", False),
        ("file://", False), ("10.0.0.5:8501", False), ("http://[", False),
    ],
)  # fmt: skip
def test_a_page_of_another_origin_is_not_answered(origin, answered):
    guard = Guard(_here, get_names=lambda: {*NAMES, "localhost"})  # Streamlit's own name for the browser's address
    assert ask(guard, "/api/x", host="10.0.0.5:8501", origin=origin).status == (200 if answered else 403)
    assert ask(guard, "/", host="school.example", origin="https://school.example:443").status == 200  # behind a web server


def test_whoever_calls_the_server_by_the_computer_s_own_loop_is_on_it():
    for here in ("localhost", "localhost:8501", "LOCALHOST.", "127.0.0.1:80", "[::1]", "[::1]:8501"):
        assert hosts.is_here(here), here
    for there in ("school.example", "10.0.0.5:8501", "[::2]", "[2001:db8::1]:8501", "localhost.evil.example", "", "[::1"):
        assert not hosts.is_here(there), there


def test_another_site_gets_no_leave_to_read_and_no_websocket(port):
    for path in ("/", "/api/runs/x", "/_stcore/health"):
        assert _get(port, path, Origin="http://evil.example").headers["Access-Control-Allow-Origin"] is None
    with_host = {"Host": f"localhost:{port}", "Origin": f"http://localhost:{port}"}
    upgrade = {"Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Version": "13",
               "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ=="}  # fmt: skip
    assert _get(port, "/_stcore/stream", Origin="http://evil.example", **upgrade).status == 403
    # A name of theirs that leads here is of the same origin to the browser.
    rebound = {"Host": f"evil.example:{port}", "Origin": f"http://evil.example:{port}"}
    assert _get(port, "/_stcore/stream", **rebound, **upgrade).status == 403
    for path in ("/", "/api/runs/x", "/metrics", "/_stcore/health", "/live/live.js"):
        assert _get(port, path, Host=f"evil.example:{port}").status == 403
        assert _get(port, path, **with_host).status in (200, 404)
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    connection.request("GET", "/_stcore/stream", headers={**with_host, **upgrade})
    assert connection.getresponse().status == 101


def test_nothing_can_be_uploaded_nor_sent_to_any_address_of_the_real_server(port):
    cookie = {"Cookie": "_streamlit_xsrf=x", "X-Xsrftoken": "x"}  # whoever sends both has Streamlit's leave
    for method, path, status in (
        ("PUT", "/_stcore/upload_file/a/b", 403), ("DELETE", "/_stcore/upload_file/a/b", 403), ("POST", "/_stcore/health", 413),
        ("POST", "/_stcore/agent/interact", 413), ("PUT", "/", 413), ("POST", "/component/x/y", 413),
    ):  # fmt: skip
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
        connection.request(method, path, body=b"x" * (method != "DELETE"), headers=cookie)
        answer = connection.getresponse()
        assert answer.status == status and re.fullmatch(rb"[A-Z][^\n]+\.", answer.read()), path


@pytest.mark.parametrize("path", ["/", "/compare", "/_stcore/health", "/static/x", "/api/runs/x"])
def test_what_a_client_chooses_is_bounded_on_every_address(port, path):
    assert _get(port, path, Cookie="a" * 10_000).status in (200, 404)
    for answer, status in ((_get(port, path, Cookie="a" * 40_000), 431), (_get(port, f"{path}?step={'9' * 9000}"), 414)):
        assert answer.status == status and re.fullmatch(rb"[A-Z][^\n]+\.", answer.body)


def test_every_page_works_under_its_content_policy_and_asks_nobody_else(page: Page, server):
    problems, elsewhere = [], []
    page.on("console", lambda message: problems.append(message.text) if "Content Security Policy" in message.text else None)
    page.on("request", lambda r: None if r.url.startswith((server.url, "blob:", "data:", "ws")) else elsewhere.append(r.url))
    page.goto(f"{server.url}/?activation=relu&blocks=1&batch_size=8&dataset=digits&steps=20")
    page.get_by_role("button", name="Start").click(timeout=60_000)
    page.wait_for_function("document.querySelector('[data-mode=live]')?.dataset.status === 'finished'", timeout=60_000)
    expect(page.locator(".gv-heatmap .nsewdrag").first).to_be_visible()
    for path in ("anatomy", "lessons", "compare", "sweep"):
        page.goto(f"{server.url}/{path}")
        expect(page.locator("h1").first).to_be_visible(timeout=60_000)
        page.wait_for_function("document.querySelector('[data-testid=stApp]').dataset.testScriptState === 'notRunning'")
    assert not problems and not elsewhere
