"""The suite's own frame: every part runs, the closing line tells the truth, and what trains is known to train."""

import os
import re
import subprocess
import sys
from pathlib import Path

import parts
import pytest
import torch

ROOT = Path(__file__).parent.parent
PYTEST = (sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-q")
ALONE = {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}  # without what is installed for it: there the sooner


def folder(tmp_path: Path, **tests: str) -> Path:
    for name, body in tests.items():
        (tmp_path / f"test_{name}.py").write_text(body, encoding="utf-8")
    (tmp_path / "pytest.ini").write_text("[pytest]\n", encoding="utf-8")
    return tmp_path


@pytest.mark.parametrize(
    "first, second, code, line",
    [
        ("good", "good", 0, "2 passed"),
        ("bad", "good", 1, "1 failed, 1 passed"),
        ("good", "bad", 1, "1 failed, 1 passed"),
        ("good", "missing", 4, "1 passed, 1 error"),
        ("good", "empty", 5, "1 passed, 1 error"),
        ("broken", "good", 2, "1 passed, 1 error"),
        ("skipping", "good", 0, "1 passed, 1 skipped"),
    ],
)
def test_every_part_runs_and_the_closing_line_counts_them_all(tmp_path, capfd, first, second, code, line):
    where = folder(
        tmp_path, good="def test_it(): pass\n", bad="def test_it(): assert False\n", empty="", broken="import nowhere_at_all\n",
        skipping="import pytest\ndef test_it(): pytest.skip('so')\n",
    )  # fmt: skip
    asked = [parts.Part(name, (str(where / f"test_{name}.py"), f"--rootdir={where}"), ALONE) for name in (first, second)]
    assert parts.run(asked, PYTEST) == code
    said = capfd.readouterr().out
    assert f"Tests {second}:" in said, "the second part ran"
    assert re.fullmatch(rf"=+ {line} in \d+s =+", said.rstrip().splitlines()[-1])


@pytest.mark.parametrize("ends, code, line", [(0, 0, "1 passed"), (3, 3, "1 error")])
def test_a_part_that_cannot_be_given_what_it_needs_has_failed(tmp_path, capfd, ends, code, line):
    where = folder(tmp_path, good="def test_it(): pass\n")
    needs = ("-c", f"import sys; print('asked'); sys.exit({ends})")
    part = parts.Part("good", (str(where), f"--rootdir={where}"), ALONE, needs)
    assert parts.run([part], PYTEST) == code
    said = capfd.readouterr().out
    assert "asked" in said and re.fullmatch(rf"=+ {line} in \d+s =+", said.rstrip().splitlines()[-1])


def test_the_part_on_a_cluster_has_ray_installed_as_it_is_pinned():
    (part,) = parts.CLUSTER
    assert part.needs[-1] == "requirements-ray.txt" and all((ROOT / name).is_file() for name in part.needs)


@pytest.mark.parametrize(
    "best, names",
    [
        ("AVX512", ["AVX2", "SSE4.1"]), ("AVX2", ["SSE4.1", "two threads"]), ("DEFAULT", ["two threads"]),
        ("NEON", ["two threads"]),
    ],
)  # fmt: skip
def test_the_other_arithmetics_are_other_than_the_machines_own(best, names):
    assert [part.name.removeprefix("that train, ") for part in parts.others(best)] == names


@pytest.mark.parametrize("name", parts.ARITHMETICS)
def test_an_arithmetic_that_is_played_is_the_one_that_torch_has(name):
    environment, kernels = parts.ARITHMETICS[name]
    own = torch.backends.cpu.get_cpu_capability()
    if kernels and kernels not in ("DEFAULT", own) and own != "AVX512":
        pytest.skip(f"this processor, {own}, cannot play {name}")
    ask = "import conftest, torch; print(torch.backends.cpu.get_cpu_capability(), torch.get_num_threads())"
    done = subprocess.run(
        [sys.executable, "-c", ask], env={**os.environ, **environment}, cwd=ROOT / "tests", capture_output=True, text=True
    )
    got, threads = done.stdout.split()
    if kernels and own in ("DEFAULT", "AVX2", "AVX512"):
        assert got == kernels
    assert threads == environment.get("GRADVIZ_TEST_THREADS", os.environ.get("GRADVIZ_TEST_THREADS", "1"))


def test_a_test_that_trains_without_its_mark_is_told(tmp_path):
    body = """
import pytest, torch
def steps(count):
    weight = torch.nn.Parameter(torch.ones(1))
    optimizer = torch.optim.SGD([weight], lr=0.1)
    for _ in range(count):
        (weight ** 2).sum().backward()
        optimizer.step()
def test_few(): steps(19)
@pytest.mark.trains
def test_marked(): steps(20)
def test_unmarked(): steps(20)
"""
    (tmp_path / "test_it.py").write_text(body, encoding="utf-8")
    command = [*PYTEST, "-c", str(ROOT / "pyproject.toml"), "-p", "conftest", str(tmp_path / "test_it.py"), "-p", "no:xdist"]
    done = subprocess.run(command, cwd=ROOT / "tests", capture_output=True, text=True)
    assert done.returncode == 1 and "3 passed, 1 error" in done.stdout
    assert re.search(r"test_unmarked.*takes 20 steps of an optimiser", done.stdout)


def test_all_is_every_part_under_one_other_arithmetic(monkeypatch):
    seen = []
    monkeypatch.setattr(parts, "run", lambda found: seen.append(found) or 0)
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX512")
    for option in ("--all", "--others"):
        monkeypatch.setattr(sys, "argv", ["parts.py", option])
        assert parts.main() == 0
    everything, others = ([part.name for part in found] for found in seen)
    assert everything == ["that train, AVX2", *(part.name for part in (*parts.OWN, *parts.CLUSTER))]
    assert others == ["that train, AVX2", "that train, SSE4.1", *(part.name for part in parts.OWN)]
