"""The app under a path of its own (`--server.baseUrlPath`), and a page whose scripts do not come."""

import http.client
import re

import pytest
from playwright.sync_api import Page, expect

SMALL = "activation=relu&blocks=1&batch_size=8&dataset=digits&steps=20"
UNLOADED = "A script of this page could not be loaded"


@pytest.fixture(scope="module")
def based(start_server):
    return start_server(STREAMLIT_SERVER_BASE_URL_PATH="school/gradviz")


def _get(server, path: str, **headers: str) -> tuple[int, str, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)
    connection.request("GET", path, headers=headers)
    answer = connection.getresponse()
    return answer.status, answer.headers.get_content_type(), answer.read()


def test_every_route_of_ours_stands_under_the_base_path_and_nowhere_else(based):
    assert _get(based, "/school/gradviz/ready") == (200, "text/plain", b"ready")
    assert _get(based, "/school/gradviz/metrics")[1] == "text/plain" and b"gradviz_" in _get(based, "/school/gradviz/metrics")[2]
    for script in ("live.js", "classroom.js", "plotly.js"):
        assert _get(based, f"/school/gradviz/live/{script}")[:2] == (200, "text/javascript")
        assert _get(based, f"/live/{script}")[0] == 404
    assert _get(based, "/school/gradviz/api/runs/none")[:2] == (404, "text/plain")
    assert _get(based, "/school/gradviz/api/classroom")[0] == _get(based, "/school/gradviz/api/classroom/notice")[0] == 200
    assert _get(based, "/ready")[0] == _get(based, "/gradviz/ready")[0] == 404
    assert _get(based, "/school/gradviz/compare")[:2] == (200, "text/html")  # a page of Streamlit's


def test_the_limits_of_our_routes_follow_the_base_path(based):
    status, _, sentence = _get(based, f"/school/gradviz/api/runs/x?q={'a' * 3000}")
    assert status == 414 and sentence == b"The address is too long: 2000 characters at most."


def test_pages_under_a_base_path_are_live(page: Page, based):
    failed = []
    page.on("response", lambda answer: failed.append(answer.url) if answer.status >= 400 else None)
    page.goto(f"{based.url}?{SMALL}")
    page.get_by_role("button", name="Start").click(timeout=60_000)
    page.wait_for_function("document.querySelector('[data-mode=live]')?.dataset.status === 'finished'", timeout=60_000)
    expect(page.locator(".gv-heatmap .nsewdrag").first).to_be_visible()
    run = page.locator("[data-mode=live]").get_attribute("data-id")
    page.goto(f"{based.url}/anatomy?run={run}")
    expect(page.locator(".gv-figure .main-svg").first).to_be_visible(timeout=60_000)
    page.goto(f"{based.url}/classroom")
    expect(page.locator("[data-action=open]").first).to_be_visible(timeout=60_000)
    assert not [url for url in failed if "/_stcore/" not in url]  # Streamlit finds out by trying where it is


def test_a_script_that_cannot_be_loaded_says_so_in_the_place_of_its_element(page: Page, server):
    page.route(re.compile(r"/live/\w+/live\.js"), lambda route: route.abort())
    page.goto(f"{server.url}/?{SMALL}")
    expect(page.get_by_text(UNLOADED).first).to_be_visible(timeout=60_000)
    page.unroute_all()
    page.route(re.compile(r"/live/\w+/classroom\.js"), lambda route: route.fulfill(content_type="text/html", body="<html>"))
    page.goto(f"{server.url}/classroom")
    expect(page.get_by_text(UNLOADED).first).to_be_visible(timeout=60_000)
    page.goto(f"{server.url}/?{SMALL}")  # there it draws nothing, but follows the teacher
    expect(page.locator("[data-mode=preview]")).to_be_visible(timeout=60_000)
    expect(page.get_by_text(UNLOADED)).to_be_visible()


def test_a_figure_without_its_library_says_so(page: Page, server):
    page.goto(f"{server.url}/?{SMALL}")
    page.get_by_role("button", name=re.compile("Start|Show the run")).first.click(timeout=60_000)
    page.wait_for_function("document.querySelector('[data-mode=live]')?.dataset.status === 'finished'", timeout=60_000)
    run = page.locator("[data-mode=live]").get_attribute("data-id")
    page.route(re.compile(r"/live/plotly\.js"), lambda route: route.abort())
    page.goto(f"{server.url}/anatomy?run={run}")
    expect(page.get_by_text(UNLOADED).first).to_be_visible(timeout=60_000)
