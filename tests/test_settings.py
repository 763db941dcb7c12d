"""Settings from the environment, and what of the machine is ours, against files as the kernel writes them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from running import ROOT

from gradviz import machine
from gradviz.lenet.config import RunConfig
from gradviz.lenet.data import Shelf
from gradviz.serve.processes import Nursery
from gradviz.settings import Limits, Settings, SettingsError

MINE = float(len(os.sched_getaffinity(0))) if hasattr(os, "sched_getaffinity") else float(os.cpu_count() or 1)
GIB = 2**30


def kernel(folder: Path, files: dict[str, str]) -> dict[str, Path]:
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n")
    return {"root": folder / "cgroup", "proc": folder / "proc"}


@pytest.mark.parametrize(
    "files, cores",
    [
        ({}, MINE),
        ({"cgroup/cpu.max": "max 100000"}, MINE),
        ({"cgroup/cpu.max": "50000 100000"}, 0.5),
        ({"proc/self/cgroup": "0::/a/b", "cgroup/a/cpu.max": "30000 100000", "cgroup/a/b/cpu.max": "90000 100000"}, 0.3),
        ({"cgroup/cpu/cpu.cfs_quota_us": "-1", "cgroup/cpu/cpu.cfs_period_us": "100000"}, MINE),
        ({"cgroup/cpu/cpu.cfs_quota_us": "75000", "cgroup/cpu/cpu.cfs_period_us": "100000"}, 0.75),
        (
            {
                "proc/self/cgroup": "4:memory:/m\n1:cpu,cpuacct:/c",
                "cgroup/cpu/c/cpu.cfs_quota_us": "25000",
                "cgroup/cpu/c/cpu.cfs_period_us": "100000",
            },
            0.25,
        ),
        ({"cgroup/cpu.max": "99999999 100000"}, MINE),  # more than the machine has
        ({"cgroup/cpu.max": "rubbish"}, MINE),
        ({"cgroup/cpu.max": "50000 0"}, MINE),
    ],
)
def test_the_cores_are_those_really_granted(tmp_path: Path, files: dict[str, str], cores: float) -> None:
    assert machine.cores(**kernel(tmp_path, files)) == pytest.approx(min(cores, MINE))


@pytest.mark.parametrize(
    "files, left",
    [
        ({}, None),
        ({"proc/meminfo": "MemTotal: 8388608 kB\nMemAvailable: 4194304 kB"}, 4 * GIB),
        ({"proc/meminfo": "MemAvailable: 4194304 kB", "cgroup/memory.max": "max", "cgroup/memory.current": "1"}, 4 * GIB),
        ({"proc/meminfo": "MemAvailable: 4194304 kB", "cgroup/memory.max": str(2 * GIB), "cgroup/memory.current": str(GIB)}, GIB),
        (
            {
                "cgroup/memory.max": str(2 * GIB),
                "cgroup/memory.current": str(2 * GIB),
                "cgroup/memory.stat": f"anon 7\ninactive_file {GIB // 2}",
            },
            GIB // 2,
        ),
        (
            {
                "proc/self/cgroup": "4:memory:/m",
                "cgroup/memory/m/memory.limit_in_bytes": str(GIB),
                "cgroup/memory/m/memory.usage_in_bytes": str(GIB // 4),
            },
            3 * GIB // 4,
        ),
        ({"cgroup/memory.max": "100", "cgroup/memory.current": "300"}, 0),
    ],
)
def test_the_memory_left_is_the_least_of_what_the_machine_and_its_groups_leave(
    tmp_path: Path, files: dict[str, str], left: float | None
) -> None:
    assert machine.memory_left(**kernel(tmp_path, files)) == left


@pytest.mark.parametrize(
    "cores, workers, threads",
    [(0.5, 1, 1), (1.9, 1, 1), (2, 2, 1), (6, 6, 1), (8, 8, 1), (16, 8, 1), (17, 8, 2), (48, 8, 5), (500, 8, 62)],
)
def test_the_workers_follow_the_cores(cores: float, workers: int, threads: int) -> None:
    settings = Settings.from_environment({}, cores)
    assert (settings.workers, settings.threads) == (workers, threads)


def test_fewer_workers_have_more_threads_and_one_core_is_left_to_the_pages() -> None:
    for cores, workers, threads in ((2, 1, 1), (4, 1, 3), (8, 2, 3)):
        assert Settings.from_environment({"GRADVIZ_WORKERS": str(workers)}, cores).threads == threads


def test_without_variables_everything_the_controls_allow_is_allowed() -> None:
    settings = Settings.from_environment({}, 2)
    assert settings == Settings(workers=2, train_in="process" if sys.platform == "linux" else "thread")
    assert settings.limits == Limits(blocks=1000, steps=100_000, batch=1024, queue=200, runs=5000, disk=20)
    assert settings.pin == "" and not settings.fixed and Settings.from_environment({"GRADVIZ_THREADS": "1"}, 2).fixed


def test_processes_are_for_linux(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.platform", "darwin")
    with pytest.raises(SettingsError, match="GRADVIZ_TRAIN_IN must be thread here"):
        Settings.from_environment({"GRADVIZ_TRAIN_IN": "process"}, 2)


@pytest.mark.parametrize(
    "variables, platform, words",
    [
        (dict(GRADVIZ_RAY="10.0.0.5"), "linux", "GRADVIZ_RAY must be auto or the address"),
        (dict(GRADVIZ_RAY="ray://10.0.0.5:10001"), "linux", "GRADVIZ_RAY must be auto or the address"),
        (dict(GRADVIZ_RAY="auto", GRADVIZ_TRAIN_IN="process"), "linux", "GRADVIZ_TRAIN_IN and GRADVIZ_RAY exclude each other"),
        (dict(GRADVIZ_RAY="auto"), "darwin", "need Linux"),
        (dict(GRADVIZ_RAY="auto"), "linux", "requirements-ray.txt"),
    ],
)
def test_a_cluster_that_cannot_be_used_is_refused_in_a_sentence(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], platform: str, words: str
) -> None:
    monkeypatch.setattr("sys.platform", platform)
    monkeypatch.setattr("gradviz.settings.find_spec", lambda name: None)
    with pytest.raises(SettingsError, match=words):
        Settings.from_environment(variables, 2)


def test_on_a_cluster_the_workers_are_slots_and_by_default_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.platform", "linux")
    monkeypatch.setattr("gradviz.settings.find_spec", lambda name: name == "ray")
    settings = Settings.from_environment({"GRADVIZ_RAY": "head.school.example:6379"}, 2)
    assert settings.ray == "head.school.example:6379" and settings.workers == 1024 and settings.threads == 1
    assert Settings.from_environment({"GRADVIZ_RAY": "auto", "GRADVIZ_WORKERS": "100"}, 2).workers == 100


def test_without_a_cluster_nothing_of_ray_is_imported() -> None:
    program = "import gradviz.ui.server, gradviz.__main__, sys; print({n for n in sys.modules if n.split('.')[0] == 'ray'})"
    program += "; print('gradviz.cluster.cluster' in sys.modules)"
    said = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert said.split() == ["set()", "False"]


def test_every_variable_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.platform", "linux")
    names = dict(BLOCKS="40", STEPS="500", BATCH="64", QUEUE="30", RUNS="100", DISK="2", STATES="0")
    variables = {f"GRADVIZ_MAX_{name}": value for name, value in names.items()}
    variables |= dict(GRADVIZ_TRAIN_IN="process", GRADVIZ_WORKERS="3", GRADVIZ_THREADS="2", GRADVIZ_DOWNLOAD="off")
    settings = Settings.from_environment({**variables, "GRADVIZ_DATA": "/d", "GRADVIZ_STORE": "/s", "GRADVIZ_PIN": "2718"}, 64)
    assert settings == Settings(Path("/d"), Path("/s"), 3, 2, False, "process", Limits(40, 500, 64, 30, 100, 2, 0), "2718")


@pytest.mark.parametrize(
    "name, value, words",
    [
        ("GRADVIZ_WORKERS", "0", "from 1 to 64"),
        ("GRADVIZ_WORKERS", "²", "from 1 to 64"),
        ("GRADVIZ_THREADS", "many", "from 1 to 64"),
        ("GRADVIZ_MAX_BLOCKS", "1001", "from 0 to 1000"),
        ("GRADVIZ_MAX_STEPS", "-1", "from 1 to 100000"),
        ("GRADVIZ_MAX_BATCH", "9" * 5000, "from 1 to 1024"),
        ("GRADVIZ_MAX_QUEUE", "", "from 1 to 10000"),
        ("GRADVIZ_TRAIN_IN", "cloud", "thread or process"),
        ("GRADVIZ_DOWNLOAD", "yes", "on or off"),
    ],
)
def test_a_bad_value_is_named_with_what_is_allowed(name: str, value: str, words: str) -> None:
    with pytest.raises(SettingsError, match=f"{name} must be .*{words}") as caught:
        Settings.from_environment({name: value}, 2)
    assert len(str(caught.value)) < 200


@pytest.mark.parametrize("pin", ["314", "x" * 65])
def test_the_pin_is_neither_shown_nor_repeated(pin: str) -> None:
    with pytest.raises(SettingsError, match="GRADVIZ_PIN must have 4 to 64 characters") as caught:
        Settings.from_environment({"GRADVIZ_PIN": pin}, 2)
    assert pin not in str(caught.value)
    assert "s3cret" not in repr(Settings.from_environment({"GRADVIZ_PIN": "s3cret"}, 2))


def test_the_names_of_the_server_are_a_setting():
    def named(text: str) -> tuple[str, ...]:
        return Settings.from_environment({"GRADVIZ_HOSTS": text}, 2).hosts

    assert named("") == () and named(" School.example., *.uni.example ,,") == ("school.example", "*.uni.example")
    assert named("*") == ("*",) and named("teacher-pc") == ("teacher-pc",)


@pytest.mark.parametrize("text", ["http://school.example", "school.example:80", "a b", "school..example", "*x.example", "é"])
def test_what_is_no_name_of_a_server_is_refused(text):
    with pytest.raises(SettingsError, match="GRADVIZ_HOSTS must be names such as school.example"):
        Settings.from_environment({"GRADVIZ_HOSTS": text}, 2)


@pytest.mark.parametrize("process", ["download", pytest.param("nursery", marks=pytest.mark.skipif(
    sys.platform != "linux", reason="worker processes are for Linux"))])  # fmt: skip
def test_the_pin_is_not_inherited_by_what_the_server_starts(process, tmp_path, monkeypatch):
    (tmp_path / "sitecustomize.py").write_text(
        "import json, os, pathlib\n"
        f"pathlib.Path({str(tmp_path)!r}, f'{{os.getpid()}}.json').write_text(json.dumps(dict(os.environ)))\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setenv("GRADVIZ_PIN", "s3cret")
    monkeypatch.setenv("STREAMLIT_SERVER_COOKIE_SECRET", "s3cret too")
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")  # where nobody answers: nothing is downloaded
    if process == "download":
        assert Shelf(tmp_path / "data").wait("kmnist").status == "unreachable"
    else:
        nursery = Nursery(Shelf(tmp_path / "data", download=False))
        list(nursery(RunConfig(blocks=0, steps=1, batch_size=8, dataset="digits"), lambda: False))
        nursery.close()
    children = [json.loads(file.read_text()) for file in tmp_path.glob("*.json")]
    assert children and all(child["GRADVIZ_DOWNLOAD"] for child in children)  # the rest they have
    assert not any("s3cret" in value for child in children for value in child.values())


@pytest.mark.parametrize(
    "text, own", [("127.0.0.1", True), ("203.0.113.9", False), ("localhost", False), ("", False), ("::g", False)]
)
def test_an_address_is_the_machines_own_or_not(text: str, own: bool) -> None:
    assert machine.has_address(text) is own


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="Linux counts it")
def test_what_others_use_of_our_processors_is_counted_without_their_rest_and_without_ours(tmp_path: Path) -> None:
    def used(seconds: int) -> float:
        mine = [f"cpu{number} {100 * seconds} 0 0 987654 4321 0 0 0 0 0" for number in sorted(os.sched_getaffinity(0))]
        lines = ["cpu 1 2 3 4 5 6 7 8 9 10", *mine, "cpu9999 7 7 7 7 7 7 7 7", "intr 5"]
        proc = kernel(tmp_path, {"proc/stat": "\n".join(lines)})["proc"]
        found, processors = machine.used_by_others(proc)
        assert processors == MINE
        return found

    ticks = os.sysconf("SC_CLK_TCK") / 100
    assert used(50) - used(20) == pytest.approx(30 * MINE / ticks, abs=1)
    assert machine.used_by_others(tmp_path / "nothing") is None
