"""While a run goes on, new numbers are put into the drawing past Plotly: what then stands there is what Plotly would draw."""

import pytest

pytestmark = pytest.mark.browser

LIVE = "[data-mode=live]"
# Of each chart: the ends of its lines, the places of its points, its image.
DRAWN = """() => Object.fromEntries([...document.querySelectorAll('[data-mode=live] .gv-chart')].map(chart => [chart.className, {
  lines: [...chart.querySelectorAll('.scatterlayer path.js-line')].map(line => {
    const { x, y, width, height } = line.getBBox(), length = line.getTotalLength();
    const [from, to] = [line.getPointAtLength(0), line.getPointAtLength(length)];
    return [x, y, width, height, from.x, from.y, to.x, to.y].map(Math.round);
  }),
  points: [...chart.querySelectorAll('.points path.point')].map(
    point => point.getAttribute('transform').match(/[\\d.-]+/g).map(Number).map(Math.round)),
  image: chart.querySelector('.imagelayer image')?.getAttributeNS('http://www.w3.org/1999/xlink', 'href') ?? '',
}]))"""


def close(one: object, other: object) -> bool:
    if isinstance(one, list):
        return len(one) == len(other) and all(map(close, one, other))
    return abs(one - other) <= 1  # a pixel: Plotly leaves points out of a line that do not show


def test_a_line_patched_in_past_plotly_is_the_line_that_plotly_draws(server, page):
    page.set_viewport_size({"width": 1280, "height": 1500})
    page.goto(f"{server.url}/?activation=relu&shortcut=on&blocks=2&batch_size=16&dataset=digits&steps=20000")
    page.mouse.move(2, 2)
    page.get_by_role("button", name="Start").click(timeout=60_000)
    page.mouse.move(2, 2)
    page.wait_for_function(
        "['loss', 'accuracy', 'heatmap', 'profile'].every(name => "
        "document.querySelector(`[data-mode=live] .gv-${name}`)?.dataset.patches >= 2)",
        timeout=120_000,
    )
    both = lambda request: "/api/runs/" in request.url and "notice=1" in request.url  # noqa: E731
    asked = []
    page.wait_for_event("request", both)
    page.on("request", lambda request: asked.append(request.url))
    page.wait_for_event("request", both)
    assert not [url for url in asked if "/api/classroom" in url]  # a page that is live has one poll, which brings that too
    page.get_by_role("button", name="Pause").click()
    page.get_by_role("button", name="Resume").wait_for(timeout=60_000)
    page.mouse.move(2, 2)
    page.wait_for_function(f"(d => d.status === 'paused' && d.painted === d.columns)(document.querySelector('{LIVE}').dataset)")
    page.evaluate("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")
    patched = page.evaluate(DRAWN)
    for name in ("loss", "accuracy", "heatmap", "profile"):
        page.evaluate(f"document.querySelector('{LIVE} .gv-{name} .gv-plot').dispatchEvent(new PointerEvent('pointerenter'))")
    settled = page.evaluate(DRAWN)
    assert patched.keys() == settled.keys() and len(patched) == 4
    for name, chart in patched.items():
        assert close(chart["lines"], settled[name]["lines"]), name
        assert close(chart["points"], settled[name]["points"]), name
        assert chart["image"] == settled[name]["image"], name
    assert sum(len(chart["lines"]) for chart in settled.values()) >= 5
