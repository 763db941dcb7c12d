"""What a look, a page, a rerun and a record cost the server, for benchmarks/simulation.py; and how long 30 and 100 pages at
once take.

    python -m benchmarks.unit_costs

The real server on an empty store with the built-in digits, nets of 12 blocks in processes of their own, and simulated browsers
(benchmarks/classroom.py) in this process. Costs are processor time of the server's process, all its threads: what one pays for
it, and at least the time that it holds the interpreter's lock. Some two minutes.
"""

from __future__ import annotations

import asyncio
import random
import statistics
import time
from urllib.parse import urlencode

from benchmarks.classroom import Tab, Tally, Viewer, settings, start_all, usage, work
from benchmarks.common import running_app
from gradviz.record.run import Status
from tests.running import Server

RECORDS, LOOKS = 20.0, 20.0  # seconds
PAGES = 24
AT_ONCE = (30, 100)
RUNS, STEPS = 3, 300  # that are kept
REFILL = 10.0  # seconds after which one address may open a hundred pages at once again


class Browser:
    """Somebody who has never been here."""

    def __init__(self, url: str, config: dict[str, str]):
        self.tally, self._query = Tally(), urlencode(config)
        self._viewer = Viewer(url, config, self.tally, random.Random(1), 1e9, (1e9, 1e9))
        self.tab = Tab(url, self.tally)

    async def open(self) -> float:
        """Seconds until its page is there."""
        await self._viewer.open(self.tab, "", self._query)
        assert not self.tally.errors, self.tally.errors
        return self.tally.page[-1]

    async def look(self, run: str, seconds: float) -> int:
        """How often it has asked for what is new, as a page does that is open."""
        await self._viewer.watch(self.tab, run, None, time.monotonic() + seconds)
        return len(self.tally.live)


class Costs:
    """Processor time of the server, less that for the records that came meanwhile."""

    def __init__(self, server: Server, runs: dict[str, str], record: float):
        self._server, self._runs, self._record = server, runs, record

    async def _now(self) -> float:
        steps = sum(each[0] for each in (await work(self._server.url, self._runs)).values())
        return usage(self._server.process.pid)[0] - self._record * steps

    async def of(self, what) -> float:
        """Seconds of each; `what` gives how many it were."""
        before = await self._now()
        count = await what
        return (await self._now() - before) / count


async def run_of(server: Server, configs: list[dict[str, str]]) -> dict[str, str]:
    """Has them trained, and returns once they have ended."""
    runs = await start_all(server.url, configs, Tally())
    while any(Status(status).live for _steps, _ms, status in (await work(server.url, runs)).values()):
        await asyncio.sleep(0.2)
    return runs


async def record(server: Server, config: dict[str, str]) -> float:
    """Seconds for one record that comes and is kept while nobody looks on."""
    await run_of(server, [config | {"steps": "20"}])
    await asyncio.sleep(5.0)
    idle = usage(server.process.pid)[0]
    await asyncio.sleep(RECORDS)
    idle = usage(server.process.pid)[0] - idle
    runs = await start_all(server.url, [config | {"seed": seed, "batch_size": "8"} for seed in ("7", "8")], Tally())

    async def steps() -> list[int]:
        return [each[0] for each in (await work(server.url, runs)).values()]

    while min(await steps()) < 60:  # the distributions of the first steps are over
        await asyncio.sleep(0.2)
    done, before = sum(await steps()), usage(server.process.pid)[0]
    await asyncio.sleep(RECORDS)
    return (usage(server.process.pid)[0] - before - idle) / (sum(await steps()) - done)


async def others(server: Server, config: dict[str, str], record: float) -> dict[str, float]:
    """Seconds of a page, of a rerun and of a look, with its part of an open page's websocket, while a run trains."""
    runs = await start_all(server.url, [config], Tally())
    (run,) = runs.values()
    costs, browsers = Costs(server, runs, record), [Browser(server.url, {**config, "run": run}) for _ in range(PAGES + 1)]
    await browsers.pop().open()  # the first of all is dearer

    async def pages() -> int:
        for browser in browsers:
            await browser.open()
        return len(browsers)

    async def reruns() -> int:
        for browser in browsers:
            await browser.tab.rerun()
        return len(browsers)

    async def looks() -> int:
        return sum(await asyncio.gather(*(browser.look(run, LOOKS) for browser in browsers)))

    found = {"page": await costs.of(pages()), "rerun": await costs.of(reruns()), "look": await costs.of(looks())}
    for browser in browsers:
        await browser.tab.close()
    return found


async def at_once(server: Server, config: dict[str, str], count: int) -> list[float]:
    """Seconds of so many pages that are opened at the same moment, nothing else to do."""
    browsers = [Browser(server.url, config) for _ in range(count)]
    seconds = await asyncio.gather(*(browser.open() for browser in browsers))
    for browser in browsers:
        await browser.tab.close()
    return sorted(seconds)


def main() -> None:
    config = settings(1, "digits", 12)[0] | {"activation": "relu", "shortcut": "on"}
    with running_app(GRADVIZ_WORKERS="2", GRADVIZ_TRAIN_IN="process") as server:
        short = [config | {"seed": str(seed), "steps": str(STEPS), "batch_size": "8"} for seed in range(RUNS)]
        asyncio.run(run_of(server, short))
        server.stop()
        held = (server.store / "runs.sqlite").stat().st_size
        print(f"a run of {STEPS} steps: {held / RUNS / 1e6:.2f} MB on disk beside its states", flush=True)
    with running_app(GRADVIZ_WORKERS="2", GRADVIZ_TRAIN_IN="process") as server:
        each = asyncio.run(record(server, config))
        print(f"record {1e3 * each:.3f} ms", flush=True)
    with running_app(GRADVIZ_WORKERS="1", GRADVIZ_TRAIN_IN="process") as server:
        for name, seconds in asyncio.run(others(server, config, each)).items():
            print(f"{name} {1e3 * seconds:.2f} ms", flush=True)
    with running_app(GRADVIZ_TRAIN_IN="process") as server:
        asyncio.run(at_once(server, config, 1))
        for count in AT_ONCE:
            time.sleep(REFILL)
            found = asyncio.run(at_once(server, config, count))
            print(f"{count} pages at once: median {statistics.median(found):.2f} s, last {found[-1]:.2f} s", flush=True)


if __name__ == "__main__":
    main()
