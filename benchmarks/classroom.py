"""Plays a class against a real server, over real websockets and HTTP, and prints what the class would feel.

    python benchmarks/classroom.py                          # 30 viewers, 10 settings, 3 minutes, after a minute without viewers
    python benchmarks/classroom.py --configs 2 --stay       # two runs train, everybody looks on and nobody reloads
    python benchmarks/classroom.py --viewers 100 --chaos    # and the server is killed in the middle
    python benchmarks/classroom.py --hostile                # and one more client does all it can against the others
    python benchmarks/classroom.py --url http://127.0.0.1:8501   # one that runs already, or a cell: no baseline, no kill

Every viewer does what a browser does: loads the page and its scripts, opens Streamlit's websocket, presses Start, and asks
the live route as feed.js does; now and then it reloads, wanders to another page, or (--chaos) is closed. The server gets
whatever GRADVIZ_* settings this command has, such as GRADVIZ_TRAIN_IN and GRADVIZ_DATA.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import gzip
import json
import os
import random
import re
import shutil
import sqlite3
import statistics
import struct
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlencode, urlsplit

from streamlit.proto.BackMsg_pb2 import BackMsg
from streamlit.proto.ForwardMsg_pb2 import ForwardMsg
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import WebSocketException

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.hostile import Hostile  # noqa: E402
from gradviz.web.scripts import plotly_url, script_url  # noqa: E402
from tests.running import Server  # noqa: E402

PAGES = ("lessons", "compare", "sweep", "anatomy", "classroom")
START = ("Start", "Start afresh", "Show the run of these settings")  # whichever the page shows, a student presses it
RUBBISH = (
    "/api/runs/%00", "/api/runs/../../etc/passwd", "/api/runs/x?since=-1", "/api/runs/x?low=nan", "/api/previews/'--",
    "/api/runs/" + "a" * 3000, "/?blocks=-1&activation=%3Cscript%3E", "/lessons?lesson=none", "/nowhere", "/live/../app.py",
)  # fmt: skip
BROKEN = (OSError, EOFError, WebSocketException, asyncio.IncompleteReadError, TimeoutError)


class Refused(EOFError):
    """An answer that is none, and has been counted."""


def settings(count: int, dataset: str, blocks: int) -> list[dict[str, str]]:
    """Distinct configs as their links; steps that outlast the class, so that the work is the same from beginning to end."""
    kinds = [{"activation": activation, **more} for activation in ("relu", "sigmoid")
             for more in ({}, {"shortcut": "on"}, {"batch_norm": "on"}, {"batch_norm": "on", "shortcut": "on"})]  # fmt: skip
    common = {"blocks": str(blocks), "steps": "100000", "dataset": dataset}
    return [{**kinds[i % len(kinds)], **common, "seed": str(1 + i // len(kinds))} for i in range(count)]


@dataclass
class Tally:
    """What the class has seen."""

    page: list[float] = field(default_factory=list)  # seconds from opening to the end of the page's script
    live: list[tuple[float, float]] = field(default_factory=list)  # (when, seconds) of each answer of the live route
    first: list[float] = field(default_factory=list)  # seconds from Start to the first point
    errors: Counter[str] = field(default_factory=Counter)
    seen: dict[str, tuple[float, int, float]] = field(default_factory=dict)  # run -> (when, steps, steps per second)
    bytes: int = 0
    down: bool = False  # the server is being killed: what breaks now is not an error


# ---- HTTP and websocket, as a browser speaks them -------------------------------------------------------------------


class Http:
    """One connection that is kept open; opened again when the server closed it. It keeps the cookies that it is given."""

    def __init__(self, url: str):
        """`url`: of the server, under a path of its own perhaps."""
        place = urlsplit(url)
        self._place, self._base, self._streams = (place.hostname, place.port), place.path, None
        self._cookies: dict[str, str] = {}

    @property
    def cookie(self) -> str:
        return "; ".join(f"{name}={value}" for name, value in self._cookies.items())

    async def get(self, path: str, page: bool = False) -> tuple[int, bytes, int]:
        """Status, content, and bytes on the wire. `page`: asked for as a browser opens a page."""
        for attempt in (0, 1):
            fresh = self._streams is None
            try:
                return await asyncio.wait_for(self._get(path, page), 30)
            except BROKEN:
                self.close()
                if fresh or attempt:
                    raise
        raise AssertionError

    async def _get(self, path: str, page: bool) -> tuple[int, bytes, int]:
        if self._streams is None:
            self._streams = await asyncio.open_connection(*self._place)
        reader, writer = self._streams
        asks = [f"GET {self._base}{path} HTTP/1.1", f"Host: {self._place[0]}:{self._place[1]}", "Accept-Encoding: gzip"]
        asks += ["Accept: text/html"] * page + [f"Cookie: {self.cookie}"] * bool(self._cookies)
        writer.write("\r\n".join([*asks, "", ""]).encode())
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        lines = head.split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines[1:])}
        if "set-cookie" in headers:
            name, _, value = headers["set-cookie"].partition(";")[0].partition("=")
            self._cookies[name] = value
        if headers.get("transfer-encoding") == "chunked":
            body = b""
            while size := int(await reader.readline(), 16):
                body += await reader.readexactly(size)
                await reader.readexactly(2)
            await reader.readline()
        else:
            body = await reader.readexactly(int(headers.get("content-length", 0)))
        if headers.get("connection", "").lower() == "close":
            self.close()
        plain = gzip.decompress(body) if headers.get("content-encoding") == "gzip" else body
        return int(lines[0].split()[1]), plain, len(head) + len(body)

    def close(self) -> None:
        if self._streams:
            self._streams[1].close()
        self._streams = None


class Tab:
    """One open page: what its script has drawn, and its buttons."""

    def __init__(self, url: str, tally: Tally):
        self._url, self._tally = url, tally
        self._socket: ClientConnection | None = None
        self._tasks: set[asyncio.Task] = set()
        self._ended = asyncio.Event()
        self.buttons: dict[str, str] = {}
        self.query = ""

    async def open(self, page: str = "", query: str = "", cookie: str = "") -> None:
        """Returns when the page's script has ended."""
        self.query = query
        address = self._url.replace("http", "ws", 1) + "/_stcore/stream"
        self._socket = await connect(
            address, subprotocols=["streamlit"], origin=self._url, max_size=None, compression=None,
            additional_headers={"Cookie": cookie} if cookie else None,
        )  # fmt: skip
        self._keep(self._listen(self._socket))
        await self.rerun(page=page)

    async def rerun(self, press: str = "", page: str = "", fragment: str = "") -> None:
        message = BackMsg()
        state = message.rerun_script
        state.query_string, state.page_name, state.fragment_id = self.query, page, fragment
        state.is_auto_rerun = bool(fragment)
        if press:
            widget = state.widget_states.widgets.add()
            widget.id, widget.trigger_value = self.buttons[press], True
        if not fragment:
            self.buttons.clear()
        self._ended.clear()
        await self._socket.send(message.SerializeToString())
        if not fragment:
            await asyncio.wait_for(self._ended.wait(), 60)
            if self._socket.close_code is not None:
                raise EOFError("the websocket closed")

    async def _listen(self, stream: ClientConnection) -> None:
        try:
            async for raw in stream:
                self._tally.bytes += len(raw)
                self._take(ForwardMsg.FromString(raw))
        finally:
            self._ended.set()

    def _take(self, message: ForwardMsg) -> None:
        kind = message.WhichOneof("type")
        if kind == "script_finished":
            if message.script_finished in (ForwardMsg.FINISHED_SUCCESSFULLY, ForwardMsg.FINISHED_WITH_COMPILE_ERROR):
                self._ended.set()
        elif kind == "page_info_changed":
            self.query = message.page_info_changed.query_string
        elif kind == "auto_rerun":
            self._keep(self._every(message.auto_rerun.interval, message.auto_rerun.fragment_id))
        elif kind == "delta" and message.delta.WhichOneof("type") == "new_element":
            element = message.delta.new_element
            what = element.WhichOneof("type")
            if what == "button":
                self.buttons[element.button.label] = element.button.id
            elif what == "exception":
                self._tally.errors[f"exception shown: {element.exception.type}"] += 1
            elif what == "alert" and element.alert.format == element.alert.ERROR:
                self._tally.errors[f"error shown: {element.alert.body[:90]}"] += 1

    async def _every(self, seconds: float, fragment: str) -> None:
        while True:
            await asyncio.sleep(seconds)
            await self.rerun(fragment=fragment)

    def _keep(self, work) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(lambda done: (self._tasks.discard(done), done.cancelled() or done.exception()))

    async def close(self) -> None:
        for task in list(self._tasks):
            task.cancel()
        if self._socket:
            with contextlib.suppress(*BROKEN):
                await asyncio.wait_for(self._socket.close(), 2)


# ---- A student ------------------------------------------------------------------------------------------------------


class Viewer:
    """One student with one browser, who closes the page after some seconds between the two of `patience` and comes back.

    `until` is when the class ends, on time.monotonic().
    """

    def __init__(self, url: str, config: dict[str, str], tally: Tally, chance: random.Random, until: float,
                 patience: tuple[float, float]):  # fmt: skip
        self._url, self.config, self._tally, self._chance = url, config, tally, chance
        self.until, self._patience = until, patience
        self._http = Http(url)
        self._scripts: set[str] = set()  # in the browser's cache
        self.run: str | None = None

    async def play(self, delay: float) -> None:
        await asyncio.sleep(delay)
        while time.monotonic() < self.until:
            tab = Tab(self._url, self._tally)
            try:
                await self._visit(tab)
            except BROKEN as error:
                if not (self._tally.down or isinstance(error, Refused)):
                    self._tally.errors[f"connection: {type(error).__name__}"] += 1
                await asyncio.sleep(1)
            finally:
                await tab.close()
        self._http.close()

    async def _visit(self, tab: Tab) -> None:
        """Opens the page, presses Start, and looks on for a while. Then the tab is closed."""
        if self.run and self._chance.random() < 0.2:  # wanders
            await self._wander(tab, self._chance.choice(PAGES))
            return
        await self.open(tab, "", urlencode(self.config))
        began = None
        if wanted := next((label for label in START if label in tab.buttons), None):
            began = time.monotonic()
            await tab.rerun(press=wanted)
        found = re.search(r"run=([0-9a-f]{12})", tab.query)
        if not found:
            self._tally.errors["no run after Start"] += 1
            await asyncio.sleep(2)
            return
        self.run = found[1]
        until = time.monotonic() + self._chance.uniform(*self._patience)
        await self.watch(tab, self.run, began if wanted != START[2] else None, until)

    async def _wander(self, tab: Tab, page: str) -> None:
        """Looks at another page for a while, as classroom.js does: the notice, and on the Classroom page all cards."""
        await self.open(tab, page, "")
        seen, leave = "", min(self.until, time.monotonic() + 5)
        while time.monotonic() < leave:
            if page != "classroom":
                await self._get("/api/classroom/notice")
            elif body := await self._get(f"/api/classroom?{urlencode({'seen': seen, 'notice': 1})}"):
                seen = json.loads(body[4 : 4 + struct.unpack_from("<I", body)[0]])["seen"]
            await asyncio.sleep(1)

    async def open(self, tab: Tab, page: str, query: str) -> None:
        began = time.monotonic()
        index = await self._get(f"/{page}?{query}", page=True)
        if index is None:
            raise Refused
        own = [script_url("classroom.js"), script_url("figure.js" if page else "live.js"), plotly_url()]
        for script in re.findall(r'(?:src|href)="\./([^"]+\.(?:css|js|woff2))"', index.decode()) + own:
            if script not in self._scripts:
                await self._get(f"/{script}")
                self._scripts.add(script)
        await tab.open(page, query, self._http.cookie)
        self._tally.page.append(time.monotonic() - began)

    async def watch(self, tab: Tab, run: str, began: float | None, until: float) -> None:
        """As feed.js does: often at first, then once a second, only what is new."""
        opened, since, stride, status, noticed = time.monotonic(), 0, 0, None, 0.0
        while time.monotonic() < min(until, self.until):
            asked = time.monotonic()
            query = {"since": since, "stride": stride, "quantity": "weight_grad_rms", "low": -30, "high": 15}
            if asked > noticed + 2:  # what the page is told of the class comes along
                query["notice"], noticed = 1, asked
            body = await self._get(f"/api/runs/{run}?{urlencode(query)}")
            now = time.monotonic()
            if body is None:
                if self._status == 404:  # the page is run again, as the element asks for
                    await tab.rerun()
                    return
                await asyncio.sleep(3)
                continue
            self._tally.live.append((now, now - asked))
            header = json.loads(body[4 : 4 + struct.unpack_from("<I", body)[0]])
            since, stride = header["steps"], header["stride"]
            pace = 1000 / header["ms_per_step"] if header["ms_per_step"] else 0.0
            self._tally.seen[run] = (now, since, pace)
            if began is not None and since:
                self._tally.first.append(now - began)
                began = None
            if status not in (None, header["status"]):
                await tab.rerun()  # the element's trigger "done"
            status = header["status"]
            if not header["live"]:
                await asyncio.sleep(min(5, max(0, self.until - now)))
                return
            fresh, rests = now - opened < 10, status == "paused" or (header["place"] or 0) > 1
            await asyncio.sleep(0.1 if fresh and status == "running" and not since else 0.3 if fresh else 2.5 if rests else 1.0)
        if began is not None and time.monotonic() < self.until:
            self._tally.first.append(time.monotonic() - began)  # left without a point: it took at least that

    async def _get(self, path: str, page: bool = False) -> bytes | None:
        """The body; None if it was refused, which is counted, and why is in `_status`."""
        self._status, body, size = await self._http.get(path, page)
        self._tally.bytes += size
        if self._status == 200:
            return body
        if not self._tally.down:
            self._tally.errors[f"HTTP {self._status}: {path.partition('?')[0][:20]}"] += 1
        return None


# ---- The server -----------------------------------------------------------------------------------------------------


def a_server(folder: Path) -> Server:
    """Not begun. What this command's environment does not say: no network, and a teacher."""
    folder.mkdir(parents=True)
    defaults = {"GRADVIZ_DOWNLOAD": "off", "GRADVIZ_PIN": "benchmark"}
    return Server(folder, {name: os.environ.get(name, value) for name, value in defaults.items()})


def tracebacks(server: Server) -> int:
    """How many the log of the server has; the last one is shown."""
    log, words = server.log.read_text(errors="replace"), "Traceback (most recent call last)"
    if words in log:
        print(words + log.rpartition(words)[2][:4000], file=sys.stderr)
    return log.count(words)


def usage(pid: int) -> tuple[float, float, int, float]:
    """CPU seconds of the server, of its workers, and of the viewers in this process since they began; bytes in memory of the
    first two, of what processes share each its part."""
    tick, page = os.sysconf("SC_CLK_TCK"), os.sysconf("SC_PAGE_SIZE")
    own = workers = 0.0
    memory = 0
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError, IndexError):
            words = (folder / "stat").read_text().rpartition(")")[2].split()
            if int(words[3]) == pid:  # its session
                seconds = (int(words[11]) + int(words[12])) / tick
                shares = re.search(r"^Pss:\s+(\d+) kB", (folder / "smaps_rollup").read_text(), re.MULTILINE)
                memory += 1024 * int(shares[1]) if shares else int((folder / "statm").read_text().split()[1]) * page
                own, workers = (own + seconds, workers) if int(folder.name) == pid else (own, workers + seconds)
    return own, workers, memory, time.process_time()


async def answer(http: Http, path: str) -> tuple[int, bytes]:
    """Status and content; 0 if nobody is there."""
    try:
        return (await http.get(path))[:2]
    except BROKEN:
        return 0, b""


async def figures(url: str) -> dict[str, float]:
    http = Http(url)
    text = (await http.get("/metrics"))[1].decode()
    http.close()
    return {line.rpartition(" ")[0]: float(line.rpartition(" ")[2]) for line in text.splitlines() if not line.startswith("#")}


async def work(url: str, runs: dict[str, str]) -> dict[str, tuple[int, float, str]]:
    """Steps, milliseconds per step and status of each run now."""
    found = {}
    http = Http(url)
    for config, run in runs.items():
        status, body = await answer(http, f"/api/runs/{run}?since=999999999&stride=1")
        if status == 200:
            header = json.loads(body[4 : 4 + struct.unpack_from("<I", body)[0]])
            found[config] = (header["steps"], header["ms_per_step"] or 0.0, header["status"])
    http.close()
    return found


async def kept(url: str, runs: Iterable[str]) -> dict[str, tuple[float, int, str]]:
    """When it was created, steps and status of each run now."""
    found = {}
    http = Http(url)
    for run in list(runs):
        status, body = await answer(http, f"/api/runs/{run}")
        if status == 200:
            header = json.loads(body[4 : 4 + struct.unpack_from("<I", body)[0]])
            found[run] = (header["created"], header["steps"], header["status"])
    http.close()
    return found


def steps_on_disk(store: Path) -> dict[str, int]:
    """Run -> steps, of a server that does not run."""
    with contextlib.closing(sqlite3.connect(f"{(store / 'runs.sqlite').absolute().as_uri()}?mode=ro", uri=True)) as db:
        return dict(db.execute("SELECT id, steps FROM runs"))


async def start_all(url: str, configs: list[dict[str, str]], tally: Tally) -> dict[str, str]:
    """Somebody starts every config and closes the page: config's link -> run."""
    runs = {}
    for config in configs:
        tab = Tab(url, tally)
        await tab.open("", urlencode(config))
        if wanted := next((label for label in START if label in tab.buttons), None):
            await tab.rerun(press=wanted)
        if found := re.search(r"run=([0-9a-f]{12})", tab.query):
            runs[urlencode(config)] = found[1]
        await tab.close()
    return runs


async def pace(url: str, runs: dict[str, str], seconds: float) -> dict[str, float]:
    """Steps per second of each config over that time."""
    before, began = await work(url, runs), time.monotonic()
    await asyncio.sleep(seconds)
    after, took = await work(url, runs), time.monotonic() - began
    # Started afresh meanwhile, a run counts from 0 again.
    return {config: max(0, after[config][0] - before[config][0]) / took for config in after if config in before}


# ---- The class ------------------------------------------------------------------------------------------------------


async def play(options: argparse.Namespace, url: str, server: Server | None, baseline: dict[str, tuple[float, float]]) -> dict:
    tally, configs = Tally(), settings(options.configs, options.dataset, options.blocks)
    seconds = 60 * options.minutes
    began = time.monotonic()
    until = began + seconds
    opening = min(60.0, seconds / 4)  # thirty browsers open within a minute
    chance = random.Random(1)
    patience = (5.0, 15.0) if options.chaos else (1e9, 1e9) if options.stay else (40.0, 80.0)
    viewers = [
        Viewer(url, configs[number % len(configs)], tally, random.Random(number), until, patience)
        for number in range(options.viewers)
    ]
    tasks = [asyncio.create_task(viewer.play(chance.uniform(0, opening))) for viewer in viewers]
    samples: list[tuple[float, float, float, int]] = []  # (when, server CPU s, workers' CPU s, bytes)
    outcome: dict = {}

    async def sample() -> None:
        while time.monotonic() < until:
            if server and not tally.down and Path("/proc").exists():
                samples.append((time.monotonic() - began, *usage(server.process.pid)))
            await asyncio.sleep(1)

    async def rubbish() -> None:
        http = Http(url)
        for number in range(200):
            await asyncio.sleep(seconds / 220)
            with contextlib.suppress(*BROKEN):
                status, _, _ = await http.get(RUBBISH[number % len(RUBBISH)])
                if status >= 500:
                    tally.errors[f"HTTP {status} to rubbish"] += 1

    async def kill() -> None:
        nonlocal until
        await asyncio.sleep(seconds / 2)
        for _ in range(120):  # on a machine too busy to have shown anything yet
            if tally.seen:
                break
            await asyncio.sleep(0.5)
        before, tally.down = dict(tally.seen), True
        known = await figures(url)
        now = time.monotonic()
        before_kill = await work(url, {run: run for run in before})
        server.kill()
        # As it lies on the disk: a run that waited for its slice is trained again, and shows fewer steps for a while.
        there = steps_on_disk(server.store)
        outcome["restart_seconds"] = await asyncio.to_thread(server.start, 120)
        after = await work(url, {run: run for run in before})
        outcome["runs_before_kill"], outcome["runs_lost"] = len(before_kill), len(set(before_kill) - set(after))
        lost = [(before_kill[run][0] - there.get(run, 0)) * before_kill[run][1] / 1000 for run in before_kill]
        outcome["most_seconds_of_records_lost"] = max([0.0, *lost])
        outcome["queued_runs_dropped"] = sum(
            status == "queued" and not steps and after.get(run, (0, 0, "lost"))[2] not in ("queued", "running")
            for run, (steps, _, status) in before_kill.items()
        )
        outcome["queued_before_kill"] = known.get('gradviz_runs{status="queued"}')
        outcome["live_after_restart"] = sum(v for k, v in (await figures(url)).items() if k.startswith("gradviz_runs{"))
        outcome["killed_at"] = now - began
        samples.clear()  # of another process
        await asyncio.sleep(2)  # browsers notice
        tally.down = False
        found.update(await kept(url, found))  # from here on: what is trained again has begun again
        late = time.monotonic() - (began + seconds / 2)  # the second half is as long as the first
        until += late
        for viewer in viewers:
            viewer.until += late

    hostile = Hostile(url, lambda: sorted(tally.seen), configs)
    found: dict[str, tuple[float, int, str]] = {}  # run -> created, steps and status, before anybody plays against it

    async def against() -> None:
        await asyncio.sleep(opening)
        found.update(await kept(url, tally.seen))
        await hostile.play(until)

    extra = [asyncio.create_task(sample())]
    if options.hostile:
        extra.append(asyncio.create_task(against()))
    if options.chaos:
        extra.append(asyncio.create_task(rubbish()))
    if options.chaos and server:
        await kill()
        await asyncio.sleep(seconds / 8)
    else:
        await asyncio.sleep(opening)
    settled = time.monotonic() - began
    runs = {urlencode(config): run for config in configs if (run := _run_of(config, viewers))}
    steps = await pace(url, runs, max(1.0, until - time.monotonic() - 1))
    await asyncio.gather(*tasks, *extra)
    live = [latency for when, latency in tally.live if when - began > settled]
    if options.hostile:
        after = await kept(url, found)
        outcome["hostile_wishes"] = hostile.wishes
        outcome["hostile_ms"] = {
            way: quantiles([1000 * latency for when, latency in tally.live if first < when < last])["median"]
            for way, first, last in hostile.times
        }
        outcome["others_runs_lost"] = sum(
            run not in after or after[run][0] != created or after[run][1] < steps for run, (created, steps, _) in found.items()
        )
        outcome["others_runs_stopped"] = sum(after[run][2] in ("stopped", "paused") for run in found if run in after)
    late = [s for s in samples if s[0] >= max(settled, until - began - 120)]
    memory = [s[3] for s in late]
    tenth = max(1, len(memory) // 10)
    shared = [config for config in steps if config in baseline]
    share, alone = None, {}
    if shared:  # without viewers again: the machine may have become faster or slower meanwhile
        await asyncio.sleep(min(12, 6 * options.minutes))
        alone = await pace(url, {config: runs[config] for config in shared}, seconds / 3)

        # Each step weighs what it cost without viewers, so that another mix of runs is not another speed.
        def worth(speeds: dict[str, float]) -> float:
            return sum(speeds.get(config, 0.0) * baseline[config][1] for config in shared)

        before, after = worth({config: speed for config, (speed, _cost) in baseline.items()}), worth(alone)
        share = 2 * worth(steps) / (before + after) if before + after else None
        outcome["throughput_after_over_before"] = after / before if before else None
    workers, browsers, cores = rate(late, 2) or 0.0, rate(late, 4) or 0.0, 100.0 * len(os.sched_getaffinity(0))
    return {
        "viewers": options.viewers, "configs": options.configs, "minutes": options.minutes, "chaos": options.chaos,
        "cores": len(os.sched_getaffinity(0)), "dataset": options.dataset, "blocks": options.blocks,
        "train_in": os.environ.get("GRADVIZ_TRAIN_IN", "thread"),
        "page_s": quantiles(tally.page), "live_ms": quantiles([1000 * x for x in live]), "first_point_s": quantiles(tally.first),
        "live_answers": len(live), "bytes_per_second": tally.bytes / seconds,
        "server_cpu_percent": rate(late, 1), "workers_cpu_percent": rate(late, 2),
        "viewers_cpu_percent": rate(late, 4),
        "memory_mb": memory[-1] / 1e6 if memory else None,
        "memory_growth_percent": (
            100 * (statistics.median(memory[-tenth:]) / statistics.median(memory[:tenth]) - 1) if memory else None
        ),
        "memory_window_s": late[-1][0] - late[0][0] if late else 0.0,
        "steps_per_second": sum(steps.values()),
        "throughput_against_no_viewers": share,
        "throughput_with_browsers_elsewhere": share * min(cores, (workers + browsers)) / workers if share and workers else None,
        "runs_seen": sorted(tally.seen), "errors": dict(tally.errors),
        "tracebacks_in_log": tracebacks(server) if server else None, **outcome,
    }  # fmt: skip


def _run_of(config: dict[str, str], viewers: list[Viewer]) -> str | None:
    return next((viewer.run for viewer in viewers if viewer.config == config and viewer.run), None)


def quantiles(values: list[float]) -> dict[str, float | None]:
    if not values:
        return {"median": None, "p95": None, "max": None, "count": 0}
    ordered = sorted(values)
    return {"median": statistics.median(ordered), "p95": ordered[min(len(ordered) - 1, int(0.95 * len(ordered)))],
            "max": ordered[-1], "count": len(ordered)}  # fmt: skip


def rate(samples: list[tuple], column: int) -> float | None:
    """Percent of one core."""
    if len(samples) < 2:
        return None
    return 100 * (samples[-1][column] - samples[0][column]) / (samples[-1][0] - samples[0][0])


async def without_viewers(options: argparse.Namespace, server: Server) -> tuple[dict[str, tuple[float, float]], float]:
    """Steps per second and seconds per step of each config while nobody looks, and the trainings' percent of a core."""
    url = server.url
    configs, tally = settings(options.configs, options.dataset, options.blocks), Tally()
    runs = await start_all(url, configs, tally)
    if tally.errors:
        print("while starting the runs:", dict(tally.errors), file=sys.stderr)
    patience = time.monotonic() + 120
    while any(steps == 0 for steps, *_ in (await work(url, runs)).values()) and time.monotonic() < patience:
        await asyncio.sleep(0.5)
    await asyncio.sleep(min(10, 6 * options.minutes))
    before, began = usage(server.process.pid), time.monotonic()
    speed = await pace(url, runs, 60 * options.minutes / 3)
    after, took = usage(server.process.pid), time.monotonic() - began
    cost = await work(url, runs)
    return {config: (speed[config], cost[config][1] / 1000) for config in speed}, 100 * (after[1] - before[1]) / took


def run(options: argparse.Namespace) -> dict:
    if options.url:
        if urlsplit(options.url).hostname not in ("127.0.0.1", "localhost", "::1"):
            raise SystemExit("Only a server on this machine: 127.0.0.1 or localhost.")
        return asyncio.run(play(options, options.url.rstrip("/"), None, {}))
    folder = Path(tempfile.mkdtemp(prefix="classroom-"))
    server = None
    try:
        baseline, alone = {}, None
        if not options.no_baseline:
            server = a_server(folder / "baseline")
            server.start(120)
            baseline, alone = asyncio.run(without_viewers(options, server))
            server.kill()
        server = a_server(folder / "class")
        seconds = server.start(120)
        result = asyncio.run(play(options, server.url, server, baseline))
        return {**result, "workers_cpu_percent_without_viewers": alone, "start_seconds": seconds}
    finally:
        if server:
            server.kill()
        if options.keep:
            print(f"the server's store and log are in {folder}", file=sys.stderr)
        else:
            shutil.rmtree(folder, ignore_errors=True)


def table(result: dict) -> str:
    def figure(value: float | None, unit: str = "") -> str:
        return "–" if value is None else f"{value:.3g}{unit}" if abs(value) < 1000 else f"{value:,.0f}{unit}"

    def spread(name: str, unit: str) -> str:
        values = result[name]
        return f"{figure(values['median'], unit)} median, {figure(values['p95'], unit)} 95th percentile ({values['count']:,})"

    share, elsewhere = result["throughput_against_no_viewers"], result["throughput_with_browsers_elsewhere"]
    lines = [
        ("class", f"{result['viewers']} viewers, {result['configs']} settings, {result['minutes']:g} min, "
                  f"{'with' if result['chaos'] else 'without'} chaos; {result['cores']} core(s), "
                  f"training in a {result['train_in']}"),
        ("live update", spread("live_ms", " ms") + ", after the opening minute or the restart"),
        ("Start to first point", spread("first_point_s", " s")),
        ("page", spread("page_s", " s")),
        ("server's CPU", f"{figure(result['server_cpu_percent'], ' %')} of a core; "
                         f"these simulated browsers, on the same cores, {figure(result['viewers_cpu_percent'], ' %')}"),
        ("memory", f"{figure(result['memory_mb'], ' MB')}, growth {figure(result['memory_growth_percent'], ' %')} "
                   f"in the last {result['memory_window_s']:.0f} s"),
        ("training", f"{figure(result['steps_per_second'])} steps/s, {figure(share)} of the same runs' without viewers before "
                     f"and after; computed, had the trainings the browsers' time too: {figure(elsewhere)}"),
        ("trainings' CPU", f"{figure(result['workers_cpu_percent'], ' %')} of a core, without viewers "
                           f"{figure(result.get('workers_cpu_percent_without_viewers'), ' %')}"),
        ("network", f"{figure(result['bytes_per_second'] / 1000, ' kB/s')}"),
        ("errors shown", json.dumps(result["errors"]) if result["errors"] else "0"),
        ("tracebacks in the log", figure(result["tracebacks_in_log"])),
    ]  # fmt: skip
    if "runs_lost" in result:
        lines += [
            ("kill -9", f"{result['runs_lost']} of {result['runs_before_kill']} runs lost, at most "
                        f"{result['most_seconds_of_records_lost']:.2f} s of records; ready again after "
                        f"{result['restart_seconds']:.1f} s with {figure(result['live_after_restart'])} live runs"),
        ]  # fmt: skip
    if "hostile_ms" in result:
        ways = ", ".join(f"{way.replace('_', ' ')} {figure(ms)}" for way, ms in result["hostile_ms"].items())
        lines += [
            ("hostile client", f"{result['hostile_wishes']:,} wishes; of the others' runs {result['others_runs_lost']} lost or "
                               f"replaced, {result['others_runs_stopped']} stopped or paused"),
            ("live, median ms", ways),
        ]  # fmt: skip
    width = max(len(name) for name, _ in lines)
    return "\n".join(f"{name:{width}}  {text}" for name, text in lines)


def main(arguments: list[str] | None = None) -> dict:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--viewers", type=int, default=30, choices=range(1, 201), metavar="1..200")
    parser.add_argument("--configs", type=int, default=10, choices=range(1, 41), metavar="1..40")
    parser.add_argument("--minutes", type=float, default=3.0)
    parser.add_argument("--blocks", type=int, default=12)
    parser.add_argument("--dataset", default="digits", choices=("digits", "mnist"))
    parser.add_argument("--chaos", action="store_true", help="tabs close, rubbish arrives, and the server is killed half-way")
    parser.add_argument("--hostile", action="store_true", help="one more client tries twenty ways to disturb the others")
    parser.add_argument("--stay", action="store_true", help="nobody reloads or looks at another page")
    parser.add_argument("--short", action="store_true", help="half a minute with few viewers and small nets")
    parser.add_argument("--url", help="a server that runs already, on this machine")
    parser.add_argument("--no-baseline", action="store_true", help="leave out the measurement without viewers")
    parser.add_argument("--json", type=Path, help="write the result here as well")
    parser.add_argument("--keep", action="store_true", help="keep the server's store and log")
    options = parser.parse_args(arguments)
    if options.short:
        options.viewers, options.configs, options.minutes, options.blocks = min(options.viewers, 4), 2, 0.5, 2
    if not 0 < options.minutes <= 30:
        parser.error("--minutes must be above 0 and at most 30")
    result = run(options)
    if options.json:
        options.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(table(result))
    return result


if __name__ == "__main__":
    main()
