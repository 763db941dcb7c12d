"""Sweeps on the server: whose turn it is, what is live, and the files that outlive a restart."""

from __future__ import annotations

import json
import logging
import threading
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

from gradviz.lenet.config import RunConfig
from gradviz.lenet.outcome import TRAINED, UNFINISHED, Result, looked, result, trained_already
from gradviz.lenet.sweep import Sweep
from gradviz.messages import NOTHING, Message, say
from gradviz.record.run import Run, Status
from gradviz.serve import smallfile
from gradviz.serve.admission import Refused
from gradviz.serve.manager import RunManager
from gradviz.serve.people import GUEST, owner, with_one_more

log = logging.getLogger("gradviz")

LESSON = "lesson "  # begins the name of a lesson's sweep
_MOST_AT_ONCE = 8  # live runs of sweeps, when so many people have one
_MOST_OF_ONE = 8  # active sweeps of one person
_LOST = ("computer-lost", "cluster-empty", "cluster-away", "cluster-begins")  # codes with which a run ends that had no computer
_AGAIN = 2  # times that a run starts again whose computer was lost
_MOST_KEPT = 300  # definitions; see _surplus


class _Turns:
    """Whose sweep launches the next run. A line, (whose it is, whether it is a lesson), is what takes turns."""

    def __init__(self) -> None:
        self._flying: dict[str, tuple[str, bool]] = {}  # run id -> the line that has launched it
        self._served: dict[tuple[str, bool], int] = {}  # line -> when it last launched one, counted
        self._count = 0

    def order(self, line: tuple[str, bool]) -> tuple[bool, int, int]:
        """Lessons first; then who has fewest live runs; then who has waited longest."""
        return not line[1], self._of(line), self._served.get(line, 0)

    def may_launch(self, line: tuple[str, bool], at_once: int) -> bool:
        return len(self._flying) < at_once or len(self._flying) < _MOST_AT_ONCE and not self._of(line)

    def launched(self, run_id: str, line: tuple[str, bool]) -> None:
        self._flying[run_id] = line
        self._count += 1
        self._served[line] = self._count
        if len(self._served) > _MOST_KEPT:
            del self._served[min(self._served, key=lambda line: self._served[line])]

    def landed(self, run_id: str) -> None:
        self._flying.pop(run_id, None)

    def _of(self, line: tuple[str, bool]) -> int:
        return list(self._flying.values()).count(line)


class _Results:
    """What ended runs say. Each is judged once."""

    def __init__(self, manager: RunManager):
        self._manager = manager
        self._found: dict[str, Result] = {}  # by run id
        self._lost = Counter[str]()  # run id -> times that its computer was lost under it
        self._mute: dict[str, float] = {}  # run id -> created, of ended runs that have no result

    def known(self, config: RunConfig, early: bool) -> Result | None:
        """Its result, if there is one that is enough: a run that was stopped once trained says nothing of its later steps."""
        found = self._found.get(config.id)
        return None if found and found.outcome == TRAINED and found.steps < config.steps and not early else found

    def judge(self, config: RunConfig) -> None:
        """Keeps the result of an ended run, if it has one: a run that was cut short has none."""
        run = self._manager.get(config.id)
        if run is not None and not run.status.live:
            found = result(run)
            if found.outcome != UNFINISHED:
                self._found[config.id] = found
            else:
                self._mute[config.id] = run.created

    def look_for(self, configs: Iterable[RunConfig]) -> None:
        """Judges those of them that have ended, which takes a while if it is a hundred. Those that say nothing are read once."""
        missing = {config.id: config for config in configs if config.id not in self._found}
        for summary in self._manager.list() if missing else ():
            if summary.id in missing and not summary.status.live and self._mute.get(summary.id) != summary.created:
                self.judge(missing[summary.id])

    def lost(self, run: Run[RunConfig] | None) -> bool:
        """Whether it ended because its computer was lost, and has not for too often: then it starts again."""
        if run is None or run.message.code not in _LOST or self._lost[run.id] >= _AGAIN:
            return False
        self._lost[run.id] += 1
        return True

    def forget(self, run_id: str) -> None:
        self._found.pop(run_id, None)


class SweepRunner:
    """Leads sweeps through the run manager, a few runs at a time, so that somebody's single run never waits behind a whole sweep.
    Lessons go first, and whoever has a sweep has one live run, whatever others have begun.

    Definitions lie as small JSON files in `folder`; those that were going on when the server ended go on when it
    starts. Every method may be called from any thread.
    """

    def __init__(self, manager: RunManager, folder: Path, at_once: int = 1, tick: float = 0.3):
        """`at_once`: live runs of all sweeps together, unless more people have sweeps. `tick`: seconds between two looks."""
        self.at_once = at_once
        self.warning = NOTHING  # while definitions cannot be kept or after a run was refused
        self._refusal = NOTHING
        self._unread = NOTHING  # why a kept run could not be read at the last look: mostly too little memory, for a while
        self._manager, self._folder = manager, folder
        self._sweeps: dict[str, Sweep] = {}
        self._active: list[str] = []  # ids, first come first served
        self._people: dict[str, tuple[str, ...]] = {}  # sweep id -> who asked for it, the first first
        self._flying: dict[str, RunConfig] = {}  # run id -> config, of the runs that a sweep waits for
        self._turns = _Turns()
        self._ours: set[str] = set()  # of these, the ones that a sweep started
        self._tried: set[str] = set()  # run ids that were started once; a run that somebody stops is not forced on him again
        self._results = _Results(manager)
        self._lock, self._ended = threading.RLock(), threading.Event()
        known, self.damage = _read(folder)  # NOTHING unless definitions could not be read
        for sweep, active, people in known:
            self._sweeps[sweep.id], self._people[sweep.id] = sweep, people
            self._active += [sweep.id] * active
        threading.Thread(target=self._work, args=(tick,), name="sweeps", daemon=True).start()

    def start(self, sweep: Sweep, client: str = "") -> None:
        """Begins or resumes it, for `client` too. Runs that exist count as they are; those stopped midway are trained afresh.

        Raises Refused if this person has too many going on.
        """
        with self._lock:
            mine = [id for id in self._active if client and client in self.people(id)]
            if len(mine) >= _MOST_OF_ONE and sweep.id not in mine:
                raise Refused("queue", say("sweeps-yours", count=len(mine)))
            resting = {id: self.people(id) for id in self._sweeps if id not in self._active}
            for id in _surplus(resting, len(self._sweeps) - _MOST_KEPT):
                self.forget(id)
            self._sweeps[sweep.id] = sweep
            self._people[sweep.id] = with_one_more(self.people(sweep.id), client)
            self._tried -= {config.id for config in sweep.configs}
            self._refusal = NOTHING
            if sweep.id not in self._active:
                self._active.append(sweep.id)
            self._keep(sweep)
        log.info("event=sweep-started sweep=%s runs=%d", sweep.id, len(sweep.configs))

    def join(self, id: str, client: str) -> None:
        """The active sweep is this person's too."""
        with self._lock:
            if id in self._active and (people := with_one_more(self.people(id), client)) != self.people(id):
                self._people[id] = people
                self._keep(self._sweeps[id])

    def leave(self, id: str, client: str) -> bool:
        """The sweep is no longer this person's; once it is nobody's it is stopped. Whether it goes on."""
        with self._lock:
            people = self.people(id)
            if people == (client,):
                self.stop(id)  # and stays his: he may go on with it
            elif client in people:
                self._people[id] = tuple(other for other in people if other != client)
                self._keep(self._sweeps[id])
            return id in self._active

    def people(self, id: str) -> tuple[str, ...]:
        """Who asked for the sweep; empty for one of an earlier version."""
        with self._lock:
            return self._people.get(id, ())

    def people_of_run(self, run_id: str) -> set[str]:
        """Those of all active sweeps that wait for this run."""
        with self._lock:
            if run_id not in self._flying:
                return set()
            config = self._flying[run_id]
            return {person for id in self._active if config in self._sweeps[id].configs for person in self.people(id)}

    def stop(self, id: str) -> None:
        """Stops what it has live, unless another sweep wants that too. What is done stays done."""
        with self._lock:
            if id not in self._active:
                return
            self._active.remove(id)
            wanted = {config.id for other in self._active for config in self._sweeps[other].configs}
            for run_id in {config.id for config in self._sweeps[id].configs} - wanted:
                self._turns.landed(run_id)
                if self._flying.pop(run_id, None) and run_id in self._ours:
                    if (run := self._manager.get(run_id)) and not run.clients:
                        self._manager.stop(run_id)
            self._keep(self._sweeps[id])

    def forget(self, id: str) -> None:
        """Stops the sweep and removes its definition; the runs stay."""
        self.stop(id)
        with self._lock:
            self._sweeps.pop(id, None)
            self._people.pop(id, None)
            self.warning = _remove(self._folder, id) or self._refusal

    def get(self, id: str) -> Sweep | None:
        with self._lock:
            return self._sweeps.get(id)

    def active(self, id: str) -> bool:
        with self._lock:
            return id in self._active

    def results(self, sweep: Sweep) -> dict[RunConfig, Result]:
        """Of its ended runs, whoever started them; also of a sweep that was never started."""
        if not self.active(sweep.id):  # an active one is looked after by the thread
            self._results.look_for(sweep.configs)  # not under the lock
        return {config: found for config in sweep.configs if (found := self._results.known(config, sweep.early))}

    def live(self, sweep: Sweep) -> list[Run[RunConfig]]:
        """Its runs that are live now."""
        with self._lock:
            flying = [config for config in sweep.configs if config.id in self._flying]
        runs = [self._manager.get(config.id) for config in flying]
        return [run for run in runs if run is not None and run.status.live]

    def list(self) -> list[Sweep]:
        with self._lock:
            return list(self._sweeps.values())

    def waits_for(self, id: str) -> Message:
        """Why an active sweep does not get on now; NOTHING if it does."""
        with self._lock:
            if id not in self._active:
                return NOTHING
            mine = [config for config in self._sweeps[id].configs if config.id in self._flying]
        if not mine:
            return self._unread or say("sweep-turn")
        runs = [self._manager.at_hand(config.id) for config in mine]
        if all(run is not None and run.status is Status.PAUSED for run in runs):
            return say("sweep-paused")
        if all(self._manager.position(config.id) is not None for config in mine):
            return say("sweep-worker")
        return NOTHING

    def close(self) -> None:
        """Ends the thread; active sweeps stay active for the next start."""
        self._ended.set()

    # The thread

    def _work(self, tick: float) -> None:
        while not self._ended.wait(tick):
            try:
                read: dict[str, Run[RunConfig] | None] = {}  # what was read in this look; the latest last, the others given back
                while (wanted := self._look(read)) is not None:
                    run = self._manager.get(wanted)  # not under the lock: it may take long, and pages ask meanwhile
                    # Taken out before it is put in: a key that is there keeps its place, and would be wanted for ever.
                    read = {**dict.fromkeys(id for id in read if id != wanted), wanted: run}
                self._unread = NOTHING
            except Refused as refusal:
                self._unread = refusal.message
            except Exception:  # the next look may go better; a sweep must not die of one bad moment
                log.exception("event=sweep-error")

    def _look(self, read: dict[str, Run[RunConfig] | None]) -> str | None:
        """Launches what has its turn; the id of a kept run that must be read before it goes on."""
        with self._lock:
            wanted, ids = self._advance(read), [*self._sweeps]
        if wanted is None and (gone := _gone(self._folder, ids)):
            with self._lock:
                for id in gone & self._sweeps.keys():
                    self._keep(self._sweeps[id])
        return wanted

    def _advance(self, read: dict[str, Run[RunConfig] | None]) -> str | None:
        for run_id, config in list(self._flying.items()):
            run = self._manager.get(run_id)
            if run is None or not run.status.live:
                del self._flying[run_id]
                self._ours.discard(run_id)
                self._turns.landed(run_id)
                self._results.judge(config)
                if self._results.lost(run):
                    self._tried.discard(run_id)
            elif run_id in self._ours and not run.clients and (looked(run) or (self._early(config) and trained_already(run))):
                self._manager.stop(run_id)  # but who has joined it wants all of it
        for run_id, config in self._flying.items():
            if any(self._line(id)[1] and config in self._sweeps[id].configs for id in self._active):
                self._manager.watched(run_id)  # a class waits for it
        rest: dict[str, Iterator[RunConfig]] = {id: iter(self._sweeps[id].configs) for id in self._active}
        while rest and not self._ended.is_set():
            id = min(rest, key=lambda id: self._turns.order(self._line(id)))
            if not self._turns.may_launch(self._line(id), self.at_once):
                del rest[id]
                continue
            early = self._sweeps[id].early
            undone = (config for config in rest[id] if not self._results.known(config, early))
            wanted = (config for config in undone if config.id not in self._flying)
            if (next_one := next(wanted, None)) is not None:
                if (unread := self._launch(next_one, id, read)) is not None:
                    return unread
                continue
            del rest[id]
            if not any(config.id in self._flying for config in self._sweeps[id].configs):
                self._active.remove(id)
                self._keep(self._sweeps[id])
                log.info("event=sweep-ended sweep=%s", id)
        return None

    def _line(self, id: str) -> tuple[str, bool]:
        """(whose it is, a lesson): what takes turns."""
        return next(iter(self.people(id)), ""), self._sweeps[id].name.startswith(LESSON)

    def _early(self, config: RunConfig) -> bool:
        """Whether all active sweeps that want this run are content once it has trained."""
        return all(self._sweeps[id].early for id in self._active if config in self._sweeps[id].configs)

    def _launch(self, config: RunConfig, id: str, read: dict[str, Run[RunConfig] | None]) -> str | None:
        """The id of its run if that must be read first."""
        early = self._sweeps[id].early
        run = self._manager.at_hand(config.id) or read.get(config.id)
        if run is None and config.id != next(reversed(read), None):
            return None if config.id in self._tried and config.id in read else config.id
        if run is not None and not run.status.live:
            self._results.judge(config)
            if self._results.known(config, early):
                return None
        if run is None or not run.status.live:
            if config.id in self._tried:
                return None
            self._tried.add(config.id)
            self._ours.add(config.id)
            self._results.forget(config.id)
            try:
                run = self._manager.start(config, again=run is not None)
            except Refused as refusal:  # the others may still fit
                self._ours.discard(config.id)
                self._refusal = self.warning = refusal.message
                return None
            except RuntimeError:  # the manager is closing
                self._ended.set()
                return None
        if run.status is Status.PAUSED:
            self._manager.resume(run.id, firmly=False)  # who paused it was alone then
        self._flying[config.id] = config
        self._turns.launched(config.id, self._line(id))
        return None

    def _keep(self, sweep: Sweep) -> None:
        self.warning = _write(self._folder, sweep, sweep.id in self._active, self.people(sweep.id)) or self._refusal


def _surplus(resting: dict[str, tuple[str, ...]], count: int) -> Iterator[str]:
    """So many ids of these, sweep id -> whose it is, oldest first: each time the oldest of who has most of them. Guests, who
    may be one and the same, are one."""
    owners = {id: owner(people) or GUEST for id, people in resting.items()}
    for _number in range(min(count, len(owners))):
        of = Counter(owners.values())
        most = of.most_common(1)[0][0]  # of equals the first
        id = next(id for id, whose in owners.items() if whose == most)
        del owners[id]
        yield id


# The definitions, as files


def _write(folder: Path, sweep: Sweep, active: bool, people: tuple[str, ...]) -> Message:
    """Why it is not kept; NOTHING if it is."""
    path = folder / f"{sweep.id}.json"
    values = {**sweep.to_dict(), "active": active, "created": time.time(), "people": people}
    try:
        smallfile.write(path, values)
        return NOTHING
    except OSError as error:
        return say("sweep-unkept", reason=error.strerror)


def _remove(folder: Path, id: str) -> Message:
    """Why it will be back; NOTHING if it will not."""
    try:
        (folder / f"{id}.json").unlink(missing_ok=True)
        return NOTHING
    except OSError as error:
        return say("sweep-back", reason=error.strerror)


def _gone(folder: Path, ids: Iterable[str]) -> set[str]:
    """Of these sweeps, those whose file is gone while there is a folder for it."""
    return {id for id in ids if not (folder / f"{id}.json").exists()} if folder.parent.is_dir() else set()


def _read(folder: Path) -> tuple[list[tuple[Sweep, bool, tuple[str, ...]]], Message]:
    """(sweep, active, people) of each that can be read, oldest first, and what is said if there are others."""
    known, unreadable = [], []
    for path in sorted(folder.glob("*.json"), key=lambda path: path.lstat().st_mtime):  # a link may lead nowhere
        try:
            values = smallfile.read(path)
            sweep, people = Sweep.from_dict(values), values.get("people")
            if not sweep.configs:
                raise ValueError("it has no runs")
        except smallfile.UNREADABLE as error:  # ConfigError is a ValueError
            unreadable.append(path.name)
            log.warning("event=sweep-unreadable file=%s reason=%s", path.name, json.dumps(str(error)))
            continue
        known.append((sweep, bool(values.get("active")), tuple(map(str, people)) if isinstance(people, list) else ()))
    if not unreadable:
        return known, NOTHING
    return known, say("sweeps-unreadable", n=len(unreadable), which=", ".join(unreadable[:5]))
