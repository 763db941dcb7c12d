"""The modules of web/static/ by themselves, in a browser without a server: numbers, colours, rows, what a feed keeps."""

from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import numpy as np
import odd
import plotly
import pytest
from playwright.sync_api import Page, Route, expect
from recorded import extend, new_run

from gradviz.charts import draft
from gradviz.record import palette, raster
from gradviz.record.quantities import QUANTITIES
from gradviz.record.run import Run, Status
from gradviz.web import panels, texts, wire
from gradviz.web.scripts import PLOTLY_ID, TRACES, head, joined, lighter, plotly_url, script_url

STATIC = Path(wire.__file__).parent / "static"
PLOTLY = Path(plotly.__file__).parent / "package_data" / "plotly.min.js"
SITE = "http://modules.test/"
QUANTITY = "weight_grad_rms"
LOW, HIGH = QUANTITIES[QUANTITY].ranges[0]
WORDS = {"infinite": "infinite", "not_a_number": "not a number", "exact_zero": "exact zero", "denormal": "denormal",
         "seconds": "{n} s", "minutes": "{n} min", "hours": "{n} h", "hovered": "{step}",
         "hovered_steps": "{from}–{to}"}  # fmt: skip


def serve(route: Route) -> None:
    file = STATIC / urlsplit(route.request.url).path.removeprefix("/static/")
    if file.is_file():
        route.fulfill(body=file.read_bytes(), content_type="text/javascript")
    else:
        route.fulfill(body="<!doctype html>", content_type="text/html")


@pytest.fixture(scope="module")
def bare(browser) -> Iterator[Page]:
    """A page with nothing on it but the modules, for tests that leave nothing on it."""
    page = browser.new_page()
    page.route(f"{SITE}**", serve)
    page.goto(SITE)
    yield page
    page.close()


def called(page: Page, module: str, name: str, *calls: tuple) -> list:
    """What the function gives for each of these lists of arguments."""
    return page.evaluate(
        "([module, name, calls]) => import(`./static/${module}.js`).then((all) => calls.map((call) => all[name](...call)))",
        [module, name, [list(call) for call in calls]],
    )


@pytest.mark.parametrize("file", sorted(STATIC.glob("*.js")), ids=lambda file: file.name)
def test_a_module_can_be_loaded(bare, file):
    assert bare.evaluate("async (name) => Object.keys(await import(`./static/${name}`))", file.name)


@pytest.mark.parametrize("name", ["live.js", "classroom.js", "figure.js", "motion.js", "download.js"])
def test_what_a_page_fetches_is_one_file_that_draws(page: Page, name):
    asked: list[str] = []

    def answer(route: Route) -> None:
        asked.append(urlsplit(route.request.url).path)
        modules = {path.name: path.read_text(encoding="utf-8") for path in STATIC.glob("*.js")}
        route.fulfill(body=joined(modules, name), content_type="text/javascript") if asked[-1] != "/" else serve(route)

    page.route(f"{SITE}**", answer)
    page.goto(SITE)
    entries = "async (url) => Object.entries(await import(url)).map(([name, it]) => [name, typeof it])"
    assert page.evaluate(entries, f"/{script_url(name)}") == [["render", "function"]]
    assert asked == ["/", f"/{script_url(name)}"]


# ---- Numbers ----


def test_a_number_is_written_as_people_read_it(bare):
    tiny = float(np.float32(1e-45))
    said = {
        0: "0", None: "–", "NaN": "not a number", "Infinity": "infinite", "-Infinity": "infinite", 2.302585: "2.3", -0.5: "-0.5",
        0.001: "0.001", 0.000999: "1.0·10⁻³", 12345.6: "1.2·10⁴", 3.4e38: "3.4·10³⁸", 1.18e-38: "1.2·10⁻³⁸", tiny: "1.4·10⁻⁴⁵",
    }  # fmt: skip
    assert called(bare, "numbers", "decimal", *((value, WORDS) for value in said)) == list(said.values())
    assert called(bare, "numbers", "decimal", (2.302585, WORDS, 4), (float("inf"), WORDS), (float("nan"), WORDS)) == [
        "2.303", "infinite", "not a number"]  # fmt: skip


def test_a_measured_value_says_zero_and_denormal_in_words_and_a_share_in_per_cent(bare):
    just = np.finfo(np.float32).smallest_normal
    under = np.nextafter(just, np.float32(0))
    short = {(0, False): "exact zero", (0, True): "0.0 %", (0.1234, True): "12.3 %", (1e-30, False): "1.0·10⁻³⁰"}
    assert called(bare, "numbers", "measured", *((*each, WORDS) for each in short)) == list(short.values())
    long = {(float(just), False): "1.2·10⁻³⁸", (float(under), False): "1.2·10⁻³⁸, denormal", (0, False): "exact zero"}
    assert called(bare, "numbers", "measuredAtLength", *((*each, WORDS) for each in long)) == list(long.values())
    assert called(bare, "numbers", "percent", (None, WORDS), ("NaN", WORDS), (1, WORDS)) == ["–", "not a number", "100.0 %"]


def test_powers_times_and_steps(bare):
    assert called(bare, "numbers", "power", (-24,), (3,)) == ["10<sup>−24</sup>", "10<sup>3</sup>"]
    assert called(bare, "numbers", "superscript", (-1234567890,)) == ["⁻¹²³⁴⁵⁶⁷⁸⁹⁰"]
    seconds = {0.2: "1 s", 89: "89 s", 90: "2 min", 5399: "90 min", 5400: "1.5 h"}
    assert called(bare, "numbers", "duration", *((each, WORDS) for each in seconds)) == list(seconds.values())
    steps = [(6, {"stride": 1, "steps": 9}), (6, {"stride": 2, "steps": 9}), (8, {"stride": 4, "steps": 9})]
    assert called(bare, "numbers", "stepsText", *((*each, WORDS) for each in steps)) == ["6", "6–7", "8"]
    assert called(bare, "numbers", "fill", ("{a} of {b} {a}", {"a": 1})) == ["1 of {b} 1"]


# ---- Codes, rows and colours: as the server has them ----


def test_the_codes_are_those_that_the_server_writes(bare):
    names = ("ZERO", "BELOW", "FIRST_LEVEL", "LEVELS", "ABOVE", "ABSENT", "DENORMAL", "INFINITE", "NOT_A_NUMBER")
    assert bare.evaluate("async () => ({ ...(await import('./static/wire.js')) })").items() >= {
        name: getattr(raster, name) for name in names
    }.items()  # fmt: skip


@pytest.mark.parametrize("layers", [1, 7, 299, 300, 301, 601, 2005])
def test_a_layer_stands_in_the_row_that_the_server_pooled_it_into(bare, layers):
    first = raster.rows_of(layers)
    assert called(bare, "wire", "firstLayer", *((row, layers, len(first)) for row in range(len(first) + 1))) == [*first, layers]
    rows = called(bare, "wire", "rowOf", *((layer, layers, len(first)) for layer in range(layers)))
    np.testing.assert_array_equal(rows, np.searchsorted(first, np.arange(layers), "right") - 1)


PIXELS = """async ([columns, upwards]) => {
  const { paint } = await import("./static/look.js");
  const canvas = document.createElement("canvas");
  [canvas.width, canvas.height] = [columns.length, columns[0].length];
  paint(canvas, columns.map((codes) => Uint8Array.from(codes)), 0, upwards);
  return [...canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data];
}"""


def test_every_code_has_the_colour_that_the_charts_of_a_comparison_give_it(bare):
    shown = np.reshape(bare.evaluate(PIXELS, [[list(range(256))], False]), (256, 4))
    truth = np.array(palette.PALETTE)
    assert np.abs(shown[:, :3] - truth).max() <= 1 and (shown[:, 3] == 255).all()
    marks = [raster.ZERO, raster.BELOW, raster.ABOVE, raster.ABSENT, raster.DENORMAL, raster.INFINITE, raster.NOT_A_NUMBER]
    np.testing.assert_array_equal(shown[marks, :3], truth[marks])
    assert len({tuple(colour) for colour in shown[marks]}) == 6  # what is not finite has one mark


def test_a_picture_may_have_the_input_at_the_bottom(bare):
    codes = [[0, 1, 252], [252, 0, 0]]
    plain, turned = (np.reshape(bare.evaluate(PIXELS, [codes, upwards]), (3, 2, 4)) for upwards in (False, True))
    np.testing.assert_array_equal(plain[::-1], turned)
    np.testing.assert_array_equal(plain[:, 0, :3], np.array(palette.PALETTE)[codes[0]])


def test_the_colours_of_lines_are_those_of_the_charts(bare):
    colours = bare.evaluate("async () => (await import('./static/look.js')).COLOURS")
    assert colours == {name: getattr(draft, name.upper()) for name in colours} and len(colours) == 6


def test_plotly_is_loaded_once_and_tried_again_if_it_did_not_come(page: Page):
    asked: list[str] = []

    def library(route: Route) -> None:
        asked.append(route.request.url)
        if len(asked) == 1:
            route.abort()
        else:
            route.fulfill(body="window.Plotly = { version: 1 };", content_type="text/javascript")

    page.route(f"{SITE}**", serve)
    page.route(f"{SITE}live/plotly.js*", library)
    page.goto(SITE)
    load = "import('./static/chart.js').then(chart => Promise.all([1, 2, 3].map(() => chart.loadPlotly('live/plotly.js?v=1'))))"
    assert page.evaluate(f"{load}.then(() => 'there', () => 'missing')") == "missing"
    assert page.evaluate(f"{load}.then((all) => all.map(({{ version }}) => version))") == [1, 1, 1]
    assert len(asked) == 2


@pytest.mark.parametrize("seen", ["before it came", "after it came", "after it failed"])
def test_the_plotly_of_the_pages_head_is_taken_and_asked_for_again_only_if_it_failed(page: Page, seen: str):
    asked: list[Route] = []
    body = "window.Plotly = { version: 1 };"

    def library(route: Route) -> None:
        asked.append(route)
        if len(asked) == 1 and seen == "after it failed":
            route.abort()
        elif len(asked) > 1 or seen == "after it came":
            route.fulfill(body=body, content_type="text/javascript")

    page.route(f"{SITE}**", serve)
    page.route(f"{SITE}live/plotly.js*", library)
    page.goto(SITE)
    page.evaluate(f"() => {{ document.head.append(document.createRange().createContextualFragment({head()!r})); }}")
    if seen == "after it came":
        page.wait_for_function("window.Plotly")
    elif seen == "after it failed":
        page.wait_for_function(f"!document.getElementById({PLOTLY_ID!r})")
    page.evaluate(f"import('./static/chart.js').then(({{ loadPlotly }}) => {{ window.loaded = loadPlotly({plotly_url()!r}); }})")
    if seen == "before it came":
        asked[0].fulfill(body=body, content_type="text/javascript")
    assert page.evaluate("window.loaded.then(({ version }) => version)") == 1
    assert len(asked) == (2 if seen == "after it failed" else 1)


def test_the_plotly_that_browsers_get_draws_the_kinds_of_our_figures_and_prepares_no_others(page: Page):
    page.route(f"{SITE}**", serve)
    page.goto(SITE)
    page.add_script_tag(content=lighter(PLOTLY.read_text(encoding="utf-8")))
    assert set(page.evaluate("Object.keys(Plotly.PlotSchema.get().traces)")) == set(TRACES)
    page.evaluate(
        """() => Plotly.newPlot(document.body.appendChild(document.createElement("div")), [
          { x: [1, 2], y: [1, 10], mode: "lines+markers", error_y: { array: [1, 1] } },
          { type: "heatmap", z: [[1, 2], [3, 4]], xaxis: "x2", yaxis: "y2" },
          { type: "image", z: [[[255, 0, 0]]], xaxis: "x3", yaxis: "y3" },
        ], { grid: { rows: 1, columns: 3, pattern: "independent" }, yaxis: { type: "log" }, shapes: [{ type: "line" }] })
          .then(() => null)"""
    )
    for drawn in (".scatterlayer .js-line", ".errorbar", ".heatmaplayer image", ".imagelayer image", ".infolayer .colorbar"):
        expect(page.locator(drawn).first).to_be_attached()
    saved = page.evaluate("Plotly.toImage(document.querySelector('.js-plotly-plot'), { format: 'svg' })")
    assert saved.startswith("data:image/svg")


# ---- The heatmap's picture ----

DRAWN = """async (bytes) => {
  const { Message } = await import("./static/wire.js"), { joined } = await import("./static/feed.js");
  const { Picture } = await import("./static/heatmap.js");
  window.picture ??= new Picture();
  const message = new Message(Uint8Array.from(bytes).buffer);
  window.run = joined(window.run ?? null, message);
  picture.changed(message.header.first);
  const url = picture.draw(run, 5), { width, height } = picture.canvas;
  const image = Object.assign(new Image(), { src: url });
  await image.decode();
  const fresh = Object.assign(document.createElement("canvas"), { width, height }).getContext("2d");
  fresh.drawImage(image, 0, 0);
  return [width, height, [...fresh.getImageData(0, 0, width, height).data]];
}"""


def test_columns_that_merge_when_the_stride_doubles_are_drawn_anew(page: Page):
    page.route(f"{SITE}**", serve)
    page.goto(SITE)
    run, since, stride, strides = new_run(columns=8), 0, 0, set()
    for grown in (1, 2, 3, 1, 1, 1, 6, 1, 9, 1):
        extend(run, grown)
        width, height, data = page.evaluate(DRAWN, list(wire.delta(run, since, stride, QUANTITY, LOW, HIGH)))
        since, stride = run.history.steps, run.history.stride
        strides.add(stride)
        codes = raster.encode(run.history.quantity(QUANTITY), QUANTITY, LOW, HIGH)
        pixels = np.reshape(data, (height, width, 4))
        assert (width, height) == (max(5, len(codes)), run.history.layers)
        assert np.abs(pixels[:, : len(codes), :3] - np.array(palette.PALETTE)[codes.T]).max() <= 1
        assert (pixels[:, len(codes) :, 3] == 0).all(), "room for steps to come is empty"
    assert strides == {1, 2, 4}


# ---- The feed ----

FEED = """async ([quantity, low, high]) => {
  const { Feed } = await import("./static/feed.js");
  window.told = [];
  const tell = (name) => (what) => told.push([name, what]);
  const panel = { words: { offline: "offline", measuring: "measuring" } };
  for (const name of ["tell", "began", "took", "referred", "lost", "measured"]) panel[name] = tell(name);
  window.feed = new Feed(panel);
  feed.open("a", false);
  feed.want(quantity, [low, high]);
  feed.poll.now();
}"""
KEPT = """() => feed.run && ({ steps: feed.run.steps, stride: feed.run.stride, names: feed.run.names, losses: feed.run.losses,
  codes: feed.run.codes.map((column) => [...column]), tested: feed.run.tested.map(([step, value]) => [step, value]) })"""


class Far:
    """A page whose clock stands still, with a feed that asks `run`: what it would be sent by the routes."""

    def __init__(self, page: Page, run: Run):
        self.page, self.run, self.down = page, run, False
        self.asked: list[str] = []
        page.clock.install()
        page.route(f"{SITE}**", serve)
        page.route(f"{SITE}api/**", self.answer)
        page.goto(SITE)
        page.clock.pause_at(page.evaluate("Date.now() + 1000"))

    def answer(self, route: Route) -> None:
        url = urlsplit(route.request.url)
        self.asked.append(url.path)
        query = {name: values[0] for name, values in parse_qs(url.query).items()}
        if self.down:
            route.abort()
        elif self.run is None:
            route.fulfill(status=404, body="There is no such run on this server.")
        elif url.path.endswith("/profile"):
            route.fulfill(body=wire.profile(self.run, int(query["step"]), theory=None))
        else:
            low, high = float(query["low"]), float(query["high"])
            route.fulfill(body=wire.delta(self.run, int(query["since"]), int(query["stride"]), query["quantity"], low, high))

    def begin(self) -> None:
        self.page.evaluate(FEED, [QUANTITY, LOW, HIGH])
        self.rest()

    def rest(self) -> None:
        """Until what was asked has been answered."""
        self.page.wait_for_function("!feed.poll.asking")

    def later(self, seconds: float, step: float = 0.1) -> int:
        """Lets the time pass, step by step, and gives how often the run was asked for meanwhile."""
        before = self.polls()
        while seconds > 0:
            self.page.clock.run_for(round(1000 * min(seconds, step)))
            self.rest()
            seconds -= step
        return self.polls() - before

    def polls(self) -> int:
        return sum(not path.endswith("/profile") for path in self.asked)

    def told(self) -> list[list]:
        return self.page.evaluate("() => told.splice(0)")

    def assert_all_here(self) -> None:
        """The page keeps what the run has, column by column."""
        kept, history = self.page.evaluate(KEPT), self.run.history
        assert (kept["steps"], kept["stride"]) == (history.steps, history.stride)
        assert kept["names"] == list(self.run.recipe.layout.names)
        np.testing.assert_array_equal(kept["codes"], raster.encode(history.quantity(QUANTITY), QUANTITY, LOW, HIGH))
        starts = range(0, history.steps, history.stride)
        means = [history.loss[start : start + history.stride].astype(float).mean() for start in starts]
        np.testing.assert_allclose(kept["losses"], means, rtol=1e-5)
        assert [step for step, _ in kept["tested"]] == [step for step, _ in history.tests]
        np.testing.assert_allclose([value for _, value in kept["tested"]], [value for _, value in history.tests], rtol=1e-6)


def training(steps: int = 0, created: float = 1.0, **config: object) -> Run:
    run = new_run(columns=8, **config)
    run.status, run.created = Status.RUNNING, created
    extend(run, steps)
    return run


@pytest.fixture
def far(page: Page) -> Callable[[Run], Far]:
    return lambda run: Far(page, run)


def test_a_feed_keeps_the_run_as_it_grows_and_while_its_stride_doubles(far):
    site = far(training(3))
    site.begin()
    for grown in (1, 4, 1, 7, 2, 15):
        site.assert_all_here()
        extend(site.run, grown)
        site.later(0.4)
    site.assert_all_here()
    assert site.run.history.stride == 8
    assert [what["fresh"] for name, what in site.told() if name == "took"][:2] == [True, False]


def test_what_came_while_there_was_no_connection_is_there_after_it(far):
    site = far(training(5))
    site.begin()
    site.told()
    site.down = True
    for _ in range(3):
        extend(site.run, 2)
        site.later(1)
    assert ["tell", "offline"] in site.told()
    site.down = False
    site.later(1)
    site.assert_all_here()
    assert site.told()[-1][0] == "took"


@pytest.mark.parametrize("steps", [0, 2, 6, 30])
def test_a_run_that_was_begun_anew_replaces_the_one_before(far, steps):
    """However far it is when the page asks: behind it, at the same column, far ahead."""
    site = far(training(6))
    site.begin()
    site.page.wait_for_function("feed.reference")
    site.told()
    site.run = training(steps, created=2.0, seed=1)
    site.later(1)
    told = [name for name, _ in site.told()]
    assert told.count("began") == 1 and "took" in told[told.index("began") :]
    if steps:
        site.assert_all_here()
        site.page.wait_for_function("feed.reference")
        assert site.page.evaluate("[...feed.reference.values.weight_grad_rms]") == pytest.approx(
            site.run.history.quantity(QUANTITY)[0].tolist(), nan_ok=True)  # fmt: skip
    else:
        assert site.page.evaluate("[feed.run.steps, feed.run.codes.length, feed.reference]") == [0, 0, None]


def test_a_run_that_the_server_does_not_know_is_asked_for_every_three_seconds(far):
    site = far(None)
    site.begin()
    assert site.later(8.9, step=0.3) == 2 and [name for name, _ in site.told()].count("lost") == 3
    site.run = training(2)
    site.later(3)
    site.assert_all_here()


def test_a_feed_asks_often_at_first_then_once_a_second_and_seldom_where_drawing_is_slow(far):
    site = far(training())
    site.begin()
    assert 9 <= site.later(1) <= 11
    extend(site.run, 1)
    assert 2 <= site.later(1) <= 5
    site.later(10, step=1)
    assert 2 <= site.later(3) <= 4
    site.page.evaluate("feed.drawMs = 600")
    assert site.later(9.6, step=0.4) in (3, 4, 5)


def test_an_ended_run_is_asked_no_more_but_for_another_quantity(far):
    site = far(training(4))
    site.begin()
    site.run.status = Status.FINISHED
    site.later(1)
    assert site.later(5, step=1) == 0
    site.page.evaluate("feed.want('zero_share', [0, 1]); feed.poll.now()")
    site.rest()
    site.page.wait_for_function("feed.run.quantity === 'zero_share'")
    assert site.later(5, step=1) == 0


def test_a_page_that_nobody_sees_asks_nothing_and_asks_at_once_when_it_is_seen(far):
    site = far(training(4))
    site.begin()
    see = """(seen) => {
      Object.defineProperty(document, "hidden", { value: !seen, configurable: true });
      document.dispatchEvent(new Event("visibilitychange"));
    }"""
    site.page.evaluate(see, False)
    assert site.later(4) <= 1
    extend(site.run, 3)
    assert site.later(4, step=1) == 0
    before = site.polls()
    site.page.evaluate(see, True)
    site.rest()
    assert site.polls() == before + 1
    site.assert_all_here()


# ---- The element as a whole ----


def shown(page: Page, run: Run, after: str = "") -> None:
    """The live element with the charts of the run, drawn; the script `after` goes before it, once Plotly is there."""

    def answer(route: Route) -> None:
        path = urlsplit(route.request.url).path
        body = wire.profile(run, 0, theory=None) if path.endswith("/profile") else wire.delta(run, 0, 0, QUANTITY, LOW, HIGH)
        route.fulfill(body=body)

    page.route(f"{SITE}**", serve)
    page.route(f"{SITE}api/**", answer)
    page.route(f"{SITE}live/plotly.js*", lambda route: route.fulfill(
        body=PLOTLY.read_text(encoding="utf-8") + after, content_type="text/javascript"))  # fmt: skip
    page.goto(SITE)
    data = {"mode": "live", "id": run.id, "plotly": plotly_url(), "words": texts.words(), **panels.scales(),
            "live": run.status.live, "status": run.status, "quantity": QUANTITY, "chance": None}  # fmt: skip
    page.evaluate(
        """async (data) => {
          const { render } = await import("./static/live.js");
          const parentElement = document.body.appendChild(document.createElement("div"));
          render({}, { data, parentElement, setTriggerValue: () => {} });
        }""", data,
    )  # fmt: skip
    page.wait_for_selector("[data-mode=live][data-plots=drawn]")


def test_a_net_that_is_no_lenet_is_drawn_with_its_own_names_without_a_guess_and_without_an_end(page: Page):
    run = odd.odd_run()
    shown(page, run)
    assert page.locator("[data-figure=step] span").inner_text() == str(run.history.steps - 1)
    assert "guessing" not in page.locator(".gv").inner_text()
    labels = page.locator(".gv-heatmap .yaxislayer-above text, .gv-heatmap .ytick text").all_text_contents()
    assert set(run.recipe.layout.names) <= set(labels)
    assert page.locator(".gv-loss .scatterlayer .js-line").count() == 1


def test_a_picture_is_drawn_once_and_again_when_it_becomes_wider_but_not_when_the_page_becomes_longer(page: Page):
    frames = "new Promise((done) => { requestAnimationFrame(() => requestAnimationFrame(() => requestAnimationFrame(done))); })"
    shown(page, odd.odd_run(), """;{
      const { react } = Plotly;
      window.losses = 0;
      Plotly.react = (plot, ...rest) => { losses += Boolean(plot.closest(".gv-loss")); return react(plot, ...rest); };
    }""")  # fmt: skip
    page.evaluate(frames)
    assert page.evaluate("losses") == 1
    page.evaluate("() => { document.querySelector('.gv-notice').style.height = '500px'; }")
    page.evaluate(frames)
    assert page.evaluate("losses") == 1
    page.evaluate("document.querySelector('.gv').parentElement.style.width = '700px'")
    page.wait_for_function("losses === 2")
    assert page.evaluate("document.querySelector('.gv-loss .main-svg').clientWidth < 700")


def test_no_label_beside_a_picture_reaches_past_its_upper_or_lower_edge(page: Page):
    shown(page, odd.odd_run())
    past = page.evaluate("""[...document.querySelectorAll(".main-svg")].flatMap((picture) => {
      const { top, bottom } = picture.getBoundingClientRect();
      return [...picture.querySelectorAll(".ytick text")].filter((label) => {
        const at = label.getBoundingClientRect();
        return at.top < top || at.bottom > bottom;
      }).map((label) => label.textContent);
    })""")
    assert page.locator(".ytick text").count() > 10 and past == []
