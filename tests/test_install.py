"""deploy/install.py against a stand-in for the registries: which of PyTorch's builds it takes, and what it never fetches."""

from __future__ import annotations

import hashlib
import http.server
import os
import re
import shutil
import subprocess
import sys
import threading
import venv
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest
from running import ROOT

pytestmark = [
    pytest.mark.skipif(any(Path("/proc/driver/nvidia/gpus").glob("*")), reason="this machine has an NVIDIA card"),
    pytest.mark.skipif(sys.platform != "linux", reason="elsewhere pip's own build is for processors"),
]
# What stands in for uv: it knows where the processor's builds lie.
UV = """
import os, sys
assert sys.argv[1:4] == ["pip", "compile", "-"] and {"--torch-backend=cpu", "--emit-index-annotation"} <= set(sys.argv)
if "ONLY_THE_SYSTEM_TRUSTS" in os.environ and "--system-certs" not in sys.argv:
    sys.exit("invalid peer certificate")
for wish in sys.stdin.read().split():
    print(f"{wish}+cpu\\n    # from {os.environ['PLACE_THAT_UV_KNOWS']}")
"""


def wheel(folder: Path, name: str, version: str, needs: str = "", module: str = "") -> Path:
    """A wheel of almost nothing, in the folder of its name."""
    path = folder / name / f"{name}-{version}-py3-none-any.whl"
    path.parent.mkdir(parents=True, exist_ok=True)
    about = f"{name}-{version}.dist-info"
    with zipfile.ZipFile(path, "w") as file:
        file.writestr(f"{name}/__init__.py", "")
        file.writestr(f"{name}/__main__.py", module)
        file.writestr(f"{about}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{needs}")
        file.writestr(f"{about}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        file.writestr(f"{about}/RECORD", "")
    return path


@dataclass
class Network:
    usual: str  # the index that pip asks by itself: CUDA's builds
    other: str  # the one of processor builds
    asked: list[str]  # paths of the files that were fetched
    root: Path  # of a repository with the real script and requirements of its own


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Network]:
    site, root = tmp_path_factory.mktemp("site"), tmp_path_factory.mktemp("größe # x") / "repository"
    wheel(site / "usual", "torch", "2.13.0", needs="Requires-Dist: gigabytes\n")
    wheel(site / "usual", "torchvision", "0.28.0", needs="Requires-Dist: torch==2.13.0\n")
    for name in ("gigabytes", "streamlit"):
        wheel(site / "usual", name, "1.0")
    for name, version in (("torch", "2.13.0+cpu"), ("torchvision", "0.28.0+cpu")):
        wheel(site / "other", name, version)
    uv = wheel(site / "usual", "uv", "1.0", module=UV)
    (root / "deploy").mkdir(parents=True)
    shutil.copy(ROOT / "deploy" / "install.py", root / "deploy")
    (root / "requirements.txt").write_text("torch==2.13.0\ntorchvision==0.28.0\nstreamlit==1.0\n")
    (root / "constraints.txt").touch()
    (root / "requirements-build.lock").write_text(f"uv==1.0 --hash=sha256:{hashlib.sha256(uv.read_bytes()).hexdigest()}\n")
    asked: list[str] = []

    class Index(http.server.SimpleHTTPRequestHandler):
        def log_message(self, form, *values):
            if self.path.endswith(".whl"):
                asked.append(self.path.rpartition("/")[2].replace("%2B", "+"))

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Index, directory=str(site))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}"
        yield Network(f"{address}/usual", f"{address}/other", asked, root)
        server.shutdown()


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("bare") / "env"
    venv.create(place, with_pip=True)
    return place


def install(network: Network, bare: Path, folder: Path, *arguments: str, path: str = "", **variables: str):
    """(exit code, what was said, name -> version of what is installed, files fetched) in a fresh environment."""
    place = folder / "env"
    shutil.copytree(bare, place, symlinks=True)
    hidden = {name: value for name, value in os.environ.items() if not name.startswith(("PIP_", "UV_"))}
    hidden |= {"PIP_CONFIG_FILE": os.devnull, "PIP_INDEX_URL": network.usual, "PIP_NO_CACHE_DIR": "1", **variables}
    hidden["PATH"] = path or os.defpath
    network.asked.clear()
    script = network.root / "deploy" / "install.py"
    ended = subprocess.run([place / "bin" / "python", script, *arguments], env=hidden, capture_output=True, text=True)
    there = {path.name.removesuffix(".dist-info") for path in place.rglob("*.dist-info")}
    return ended.returncode, ended.stdout + ended.stderr, there, set(network.asked)


def test_without_a_card_the_processor_build_is_found_where_pip_does_not_look_and_nothing_of_cuda_is_fetched(
    network, bare, tmp_path
):
    where = {"PLACE_THAT_UV_KNOWS": network.other, "ONLY_THE_SYSTEM_TRUSTS": "the proxy on the way"}
    code, said, there, fetched = install(network, bare, tmp_path, **where)
    assert code == 0 and "peer certificate" not in said, said
    assert {"torch-2.13.0+cpu", "torchvision-0.28.0+cpu", "streamlit-1.0"} <= there
    assert "no NVIDIA card is here" in said and "TORCH=cuda" in said
    assert not {"torch-2.13.0-py3-none-any.whl", "gigabytes-1.0-py3-none-any.whl"} & fetched
    assert "uv-1.0" not in there


def test_where_pip_knows_both_builds_it_takes_the_processor_s_by_itself_and_once(network, bare, tmp_path):
    stamp = ("--stamp", str(tmp_path / "stamp"))
    code, said, there, fetched = install(network, bare, tmp_path, *stamp, PIP_EXTRA_INDEX_URL=network.other)
    assert code == 0 and "torch-2.13.0+cpu" in there, said
    assert fetched == {f"{name}-py3-none-any.whl" for name in ("torch-2.13.0+cpu", "torchvision-0.28.0+cpu", "streamlit-1.0")}
    (tmp_path / "later").mkdir()
    assert install(network, bare, tmp_path / "later", *stamp)[:2] == (0, "")


def test_where_neither_knows_it_nothing_of_cuda_is_fetched_in_its_place_and_it_is_said(network, bare, tmp_path):
    code, said, there, fetched = install(network, bare, tmp_path, PLACE_THAT_UV_KNOWS=f"{network.usual}/nowhere")
    assert code == 1 and "could not be fetched" in said and "README.md" in said
    assert fetched == {"uv-1.0-py3-none-any.whl"} and not any(name.startswith("torch") for name in there)


def test_a_folder_of_wheels_is_filled_with_them_and_is_enough_where_there_is_no_network(network, bare, tmp_path):
    wheels = tmp_path / "wheels"
    code, said, there, _fetched = install(network, bare, tmp_path, "--wheels", str(wheels), PIP_EXTRA_INDEX_URL=network.other)
    assert code == 0 and not any(name.startswith("torch") for name in there), said
    assert len(list(wheels.glob("torch*+cpu-*.whl"))) == 2
    (tmp_path / "there").mkdir()
    code, said, there, fetched = install(network, bare, tmp_path / "there", PIP_NO_INDEX="1", PIP_FIND_LINKS=str(wheels))
    assert code == 0 and {"torch-2.13.0+cpu", "streamlit-1.0"} <= there and not fetched, said


@pytest.mark.parametrize("how", ["a card is here", "asked for"])
def test_with_a_card_or_asked_for_the_cuda_build_is_taken(how, network, bare, tmp_path):
    card = tmp_path / "nvidia-smi"
    card.write_text("#!/bin/sh\necho 'GPU 0: stand-in'\n")
    card.chmod(0o755)
    given = {"path": f"{tmp_path}{os.pathsep}{os.defpath}"} if how == "a card is here" else {}
    arguments = [] if given else ["--torch", "cuda"]
    code, said, there, _fetched = install(network, bare, tmp_path, *arguments, PIP_EXTRA_INDEX_URL=network.usual, **given)
    assert code == 0 and {"torch-2.13.0", "torchvision-0.28.0", "gigabytes-1.0"} <= there, said


def test_what_run_cmd_calls_is_there():
    text = (ROOT / "run.cmd").read_bytes().decode("ascii")
    assert text.count("\r\n") == text.count("\n") and "-m gradviz" in text
    called = re.findall(r"python (\S+\.py) (.*?) \|\|", text)
    assert called == [("deploy\\install.py", "--stamp .venv\\app.stamp requirements.txt")]
    assert "pybabel --quiet compile -d gradviz\\locale -D gradviz" in text
