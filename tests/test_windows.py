"""What Windows reaches, as far as Linux can play it (tests/windows.py): no name that only POSIX has, no open file renamed."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from running import ROOT

from gradviz.record.spool import read_spool

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="it is Linux that plays Windows")


def command(folder: Path, *words: str) -> dict:
    """For subprocess: in the folder, whose files cannot be renamed while they are open."""
    hidden = {name: value for name, value in os.environ.items() if not name.startswith("GRADVIZ_")}
    variables = {**hidden, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "GRADVIZ_DOWNLOAD": "off"}
    return dict(args=[sys.executable, str(ROOT / "tests" / "windows.py"), str(folder), *words], cwd=folder, env=variables)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    place = tmp_path / "Eigene Dateien # größe 数据"
    place.mkdir()
    return place


def test_the_stand_in_hides_what_windows_has_not_and_keeps_open_files_in_their_place(folder):
    script = folder / "app.py"
    script.write_text(
        "__name__ = 'app'\n"
        "import os, signal, sys\n"
        "print(sys.platform, hasattr(os, 'fork'), hasattr(signal, 'SIGPIPE'), hasattr(signal, 'SIGINT'))\n"
        "try:\n    import fcntl\nexcept ImportError as error:\n    print(error)\n"
        "try:\n    with open('held', 'w'):\n        os.replace('held', 'other')\n"
        "except PermissionError as error:\n    print(error.errno)\n"
        "os.replace('held', 'other')\n"
    )
    ended = subprocess.run(**command(folder, str(script)), capture_output=True, text=True)
    assert ended.stdout.splitlines() == ["win32 False False True", "No module named 'fcntl'", "13"], ended.stderr
    assert (folder / "other").exists()


def test_a_net_is_trained_and_a_reader_that_leaves_ends_it_quietly(folder):
    small = ["--dataset", "digits", "--blocks", "1", "--batch-size", "8", "--json"]
    process = subprocess.Popen(
        **command(folder, "train", *small, "--steps", "100000"), stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdout and process.stderr
    assert json.loads(process.stdout.readline())["step"] == 0
    process.stdout.close()
    assert (process.stderr.read(), process.wait(60)) == (b"", 141)


@pytest.mark.trains
def test_a_watch_is_recorded_and_read(folder):
    example = str(ROOT / "examples" / "watch_digits.py")
    process = subprocess.Popen(**command(folder, example, "40"), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    said, error = process.communicate(timeout=110)
    assert process.returncode == 0 and "40 steps, loss" in said, error
    (path,) = (folder / "runs" / "watched").glob("*")
    assert read_spool(path).history.steps == 40 and path.suffix == ".spool"
    told = subprocess.run(**command(folder, "watched"), capture_output=True, text=True)
    assert told.returncode == 0 and "ResNet on the digits" in told.stdout, told.stderr


@pytest.fixture
def address(folder: Path) -> Iterator[str]:
    process = subprocess.Popen(
        **command(folder, "open", "--no-browser"), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        start_new_session=True,
    )  # fmt: skip
    assert process.stdout
    try:
        said = ""
        for line in process.stdout:
            said += line
            if found := re.search(r"http://\S+", line):
                break
        else:
            pytest.fail(said)
        yield found[0]
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def test_the_pages_open_and_a_run_is_started_and_kept(address, folder, page):
    page.goto(f"{address}?dataset=digits&blocks=1&steps=3&batch_size=8")
    page.get_by_role("button", name="Start").first.click(timeout=60_000)
    page.get_by_text("finished").first.wait_for(timeout=60_000)
    assert (folder / "runs" / "runs.sqlite").exists()
