"""The wheel: what it carries, what it needs, and that it works where the repository is not."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import sysconfig
import tomllib
import venv
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.version import Version
from running import ROOT

NO_CACHE = shutil.ignore_patterns("__pycache__", "*.pyc", "*.mo")
HEAVY = """streamlit plotly pandas pyarrow sklearn scipy torchvision PIL itsdangerous babel lightning transformers
    accelerate numba llvmlite""".split()
# A net that is watched where only torch and numpy can be had, from the first line to the verdict as text.
CORE = f"""
import sys
sys.modules |= dict.fromkeys({HEAVY!r})
import gradviz
assert "torch" not in sys.modules
import torch
net = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.ReLU(), torch.nn.Linear(4, 2))
optimizer = torch.optim.SGD(net.parameters(), 0.1)
with gradviz.watch(net, optimizer, every=1, folder=sys.argv[1], title="Core") as run:
    for _ in range(3):
        loss = net(torch.randn(8, 4)).square().mean()
        optimizer.zero_grad(); loss.backward(); optimizer.step(); run.log(loss=loss)
print(run)
from gradviz.__main__ import main
assert main(["watched", sys.argv[1]]) == 0
assert main(["open", sys.argv[1]]) == 1
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy, since setuptools leaves its own files there; by what is installed, without network."""
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for name in ("gradviz", "pages", "deploy", ".streamlit"):
        shutil.copytree(ROOT / name, source / name, ignore=NO_CACHE)
    for name in ("app.py", "pyproject.toml", "README.md", "THIRD_PARTY.md"):
        shutil.copy(ROOT / name, source)
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(out), str(source)]
    built = subprocess.run(command, capture_output=True, text=True)
    assert built.returncode == 0, built.stdout + built.stderr
    assert "will be ignored" not in built.stdout + built.stderr
    (found,) = out.glob("*.whl")
    return found


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The programs of a new environment that has the wheel, and beside it what this one has."""
    place = tmp_path_factory.mktemp("größe # 数据") / "env"
    venv.create(place, with_pip=False, symlinks=os.name == "posix")
    programs = place / ("Scripts" if os.name == "nt" else "bin")
    pip = [sys.executable, "-m", "pip", "--python", str(programs / "python"), "install", "--quiet"]
    subprocess.run([*pip, "--no-deps", "--no-index", str(wheel)], check=True)
    (site,) = place.rglob("site-packages")
    (site / "beside.pth").write_text(sysconfig.get_path("purelib") + "\n", encoding="utf-8")
    return programs


def environment(folder: Path, **more: str) -> dict[str, str]:
    hidden = {name: value for name, value in os.environ.items() if name != "PYTHONPATH" and not name.startswith("GRADVIZ_")}
    return {**hidden, "OMP_NUM_THREADS": "1", "GRADVIZ_DOWNLOAD": "off", "HOME": str(folder), **more}


def test_the_wheel_carries_every_file_of_the_package_the_app_and_its_pages_and_nothing_else(wheel):
    names = {name for name in zipfile.ZipFile(wheel).namelist() if not name.startswith("gradviz_lab-")}
    there = (path.relative_to(ROOT) for path in (ROOT / "gradviz").rglob("*") if path.is_file())
    files = [path for path in there if "__pycache__" not in path.parts]
    expected = {path.as_posix() for path in files if path.suffix not in (".po", ".pot", ".mo")}
    expected |= {path.with_suffix(".mo").as_posix() for path in files if path.suffix == ".po"}
    expected |= {f"gradviz/app/pages/{path.name}" for path in (ROOT / "pages").glob("*.py")}
    expected |= {"gradviz/app/app.py", "gradviz/app/.streamlit/config.toml", "gradviz/app/THIRD_PARTY.md"}
    assert sorted(expected - names) == [], "a package or a kind of file that pyproject.toml does not name"
    assert sorted(names - expected) == []


def test_a_net_is_watched_with_torch_and_numpy_alone_and_the_pages_say_what_they_lack(tmp_path):
    ended = subprocess.run(
        [sys.executable, "-c", CORE, str(tmp_path)], cwd=ROOT, env=environment(tmp_path), capture_output=True, text=True
    )
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.startswith("Core: finished") and "3 steps" in ended.stdout
    assert "streamlit is missing" in ended.stderr and "gradviz-lab[app]" in ended.stderr and ended.stderr.count("\n") == 1


def test_what_the_wheel_asks_for_is_what_the_repository_is_tested_with():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    pinned = dict(re.findall(r"^([\w-]+)==([\w.]+)", (ROOT / "requirements.txt").read_text(encoding="utf-8"), re.MULTILINE))
    needed = [Requirement(text) for text in project["dependencies"] + extras["app"]]
    assert {wish.name for wish in needed} == set(pinned)
    assert [wish.name for wish in needed if not wish.specifier.contains(pinned[wish.name])] == []
    assert {wish.name for wish in needed if "==" in str(wish)} == {"streamlit", "plotly"}
    text = (ROOT / "requirements-dev.txt").read_text(encoding="utf-8")
    tried = {name: Version(version) for name, version in re.findall(r"^([\w-]+)==([\w.]+)", text, re.MULTILINE)}
    for wish in map(Requirement, extras["lightning"] + extras["transformers"]):
        assert wish.specifier.contains(tried[wish.name])


def test_the_command_of_the_wheel_is_that_of_the_environment_it_is_installed_in(installed, tmp_path):
    run = dict(cwd=tmp_path, env=environment(tmp_path), capture_output=True, text=True)
    told = subprocess.run([installed / "gradviz", "watched"], **run)
    assert told.returncode == 0 and told.stdout, told.stderr
    where = subprocess.run([installed / "python", "-c", "import gradviz; print(gradviz.__file__)"], **run).stdout
    assert Path(where.strip()).is_relative_to(installed.parent)


@pytest.fixture
def opened(installed: Path, tmp_path: Path) -> Iterator[str]:
    """The last two of the README's three commands, with the wheel and a folder of an awkward name: the address that the browser
    was asked for."""
    section = (ROOT / "README.md").read_text(encoding="utf-8").split("\n## A watched ResNet in three commands\n")[1]
    assert re.findall("^    (.*)$", section.split("\n## ")[0], re.MULTILINE) == [
        "pip install '.[app]'", "python examples/watch_digits.py", "gradviz open",
    ]  # fmt: skip
    folder, asked = tmp_path / "mine # größe 数据", tmp_path / "asked"
    folder.mkdir()
    script = shutil.copy(ROOT / "examples" / "watch_digits.py", tmp_path)
    words = [str(installed / "python"), str(script), "25", str(folder)]
    trained = subprocess.run(words, cwd=tmp_path, env=environment(tmp_path), capture_output=True, text=True)
    assert trained.returncode == 0, trained.stderr
    (tmp_path / "run").write_text(next((folder / "watched").glob("*.spool")).stem)  # the server takes it in
    asker = tmp_path / "browser.py"
    asker.write_text(f"import sys; open({str(asked)!r}, 'w').write(sys.argv[1])", encoding="utf-8")
    browser = f"'{sys.executable}' '{asker}' %s"
    process = subprocess.Popen(
        [installed / "gradviz", "open", folder.name], cwd=tmp_path, env=environment(tmp_path, BROWSER=browser),
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, encoding="utf-8", start_new_session=True,
    )  # fmt: skip
    assert process.stdout
    try:
        said = next((line for line in process.stdout if "gradviz is open at" in line), "")
        assert said, "the server did not start"
        while not (asked.exists() and asked.read_text()):
            assert process.poll() is None
        assert asked.read_text() in said
        yield asked.read_text()
        assert (folder / "runs.sqlite").exists()
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@pytest.mark.trains
@pytest.mark.timeout(240)
def test_three_commands_lead_from_nothing_to_a_watched_resnet_on_the_screen(opened, page, tmp_path):
    page.goto(opened)
    page.get_by_role("button", name="Start").first.wait_for(timeout=60_000)
    page.goto(f"{opened}?run={(tmp_path / 'run').read_text()}")
    page.get_by_text("ResNet on the digits").first.wait_for(timeout=60_000)
    page.wait_for_selector("[data-test-script-state=notRunning]", timeout=60_000)
    assert not page.get_by_text("This page met an error").is_visible()
