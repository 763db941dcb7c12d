"""The figures of the server, read as another program reads them."""

import os
import re
import subprocess
import sys

from asgi import ask
from starlette.applications import Starlette

from gradviz.record.run import Status
from gradviz.serve.manager import Statistics
from gradviz.web.metrics import Metrics, resident_memory
from gradviz.web.routes import build_routes


def read(text: str) -> dict[str, float]:
    """The samples; checks that each stands after the HELP and TYPE of its family (Prometheus' text format)."""
    found, family = {}, None
    for line in text.splitlines():
        if line.startswith("# HELP "):
            family = line.split()[2]
        elif line.startswith("# TYPE "):
            assert line.split()[2] == family and line.split()[3] in ("gauge", "counter")
        else:
            match = re.fullmatch(r'([a-z_]+)(\{[a-z]+="[a-z_]+"\})? (\S+)', line)
            assert match and match[1] == family, line
            assert line.split("{")[0].split()[0].endswith("_total") == (f"# TYPE {family} counter" in text)
            found[f"{match[1]}{match[2] or ''}"] = float(match[3])
    assert text.endswith("\n")
    return found


def some(steps: int = 100) -> Statistics:
    return Statistics(started=1.7e9, workers=2, live={Status.RUNNING: 2, Status.QUEUED: 5}, queue=5, steps=steps,
                      ended={Status.FINISHED: 7, Status.DIVERGED: 1}, refused={"blocks": 3, "memory": 1}, crashes=1)  # fmt: skip


def test_the_figures_of_the_manager_arrive_under_their_names():
    found = read(Metrics(some, memory=lambda: {"server": 123, "workers": 45})())
    assert found['gradviz_runs{status="running"}'] == 2
    assert found['gradviz_runs{status="queued"}'] == 5
    assert found["gradviz_queue_length"] == 5
    assert found["gradviz_steps_total"] == 100
    assert found['gradviz_runs_ended_total{status="diverged"}'] == 1
    assert found['gradviz_refusals_total{reason="blocks"}'] == 3
    assert found["gradviz_worker_crashes_total"] == 1
    assert found['gradviz_resident_memory_bytes{process="workers"}'] == 45
    assert found["gradviz_start_time_seconds"] == 1.7e9


def test_pages_computers_and_disk_are_there_where_somebody_counts_them():
    counted = Metrics(some, memory=dict, computers=lambda: {"ready": 2}, pages=lambda: 28, disk=lambda: {"runs": 5, "free": 7})
    found = read(counted())
    assert found["gradviz_pages_open"] == 28 and found['gradviz_computers{state="ready"}'] == 2
    assert (found['gradviz_disk_bytes{of="runs"}'], found['gradviz_disk_bytes{of="free"}']) == (5, 7)
    assert not any("pages" in name or "disk" in name for name in read(Metrics(some, memory=dict)()))


def test_steps_per_second_are_those_of_the_last_half_minute_however_often_somebody_asks():
    now, steps = 0.0, 0
    metrics = Metrics(lambda: some(steps), clock=lambda: now, memory=dict)
    for tenth in range(1, 1001):  # 10 steps a second for a minute, then 50
        now = tenth / 10
        steps += 1 if now <= 60 else 5
        text = metrics()
    assert abs(read(text)["gradviz_steps_per_second"] - 50) < 0.5
    assert len(metrics.seen) <= 32
    now += 1000  # nothing happens for long
    read(metrics())
    now += 31
    assert read(metrics())["gradviz_steps_per_second"] == 0


def test_the_memory_is_that_of_this_process_and_of_all_that_descend_from_it():
    grandchild = "x = bytearray(50_000_000); print(flush=True); input()"
    mother = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {grandchild!r}])"
    child = subprocess.Popen([sys.executable, "-c", mother], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    child.stdout.readline()
    with_child = resident_memory()
    child.communicate(b"\n")
    if not with_child:
        assert not os.path.exists("/proc/self/statm")
        return
    own = int(re.search(r"VmRSS:\s+(\d+)", open("/proc/self/status").read())[1]) * 1024
    assert abs(with_child["server"] - own) < 0.2 * own
    assert with_child["workers"] - resident_memory()["workers"] > 50_000_000


def test_the_route_hands_out_the_figures():
    routes = build_routes(lambda id: None, lambda id: None, lambda run: ("", ""), get_metrics=Metrics(some))
    reply = ask(Starlette(routes=routes), "/metrics")
    assert reply.status == 200 and reply.headers["content-type"].startswith("text/plain; version=0.0.4")
    assert read(reply.text)["gradviz_workers"] == 2
