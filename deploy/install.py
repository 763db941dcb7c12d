"""Installs what gradviz needs into the environment of the Python that runs this; `make run` and run.cmd call it.

    python deploy/install.py [--torch cpu|cuda] [--stamp FILE] [requirements.txt …]
    python deploy/install.py --wheels FOLDER      fills a folder with it instead, for like machines without a network

Left alone, pip takes PyTorch's CUDA build on Linux, gigabytes that only an NVIDIA card can use, and on Windows one that cannot
use the card. So without a card the processor's build is taken, from where pip looks, or else from where uv says that PyTorch
keeps it; with a card the CUDA build. Standard library only: nothing is installed yet.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
import venv
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
QUIET = [] if sys.stdout.isatty() else ["--quiet"]  # else pip says what it fetches, with a bar
PARTS = ("torch", "torchvision")


def has_card() -> bool:
    """Whether an NVIDIA card and its driver are here."""
    if any(Path("/proc/driver/nvidia/gpus").glob("*")):
        return True
    try:
        asked = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return False
    return asked.returncode == 0 and "GPU" in asked.stdout


def pip(command: list[str], *words: str, python: str | Path = sys.executable, **more: int) -> bool:
    """Whether it could be done."""
    asked = [python, "-m", "pip", command[0], "--disable-pip-version-check", *command[1:], *words]
    return not subprocess.run(asked, **more).returncode


def pinned(root: Path) -> dict[str, str]:
    """torch and torchvision -> their versions."""
    text = (root / "requirements.txt").read_text(encoding="utf-8")
    return {name: found[1] for name in PARTS if (found := re.search(rf"^{name}==([\d.]+)", text, re.MULTILINE))}


def is_here(pins: dict[str, str]) -> bool:
    try:
        return all(version(name).split("+")[0] == pin for name, pin in pins.items())
    except PackageNotFoundError:
        return False


def uv_knows(backend: str, pins: dict[str, str], root: Path) -> list[str]:
    """For pip: the builds, and the index that has them; empty if they are nowhere. uv's environment is thrown away again."""
    place = Path(sys.prefix) / "uv"
    venv.create(place, with_pip=True)
    try:
        python = place / ("Scripts" if sys.platform == "win32" else "bin") / "python"
        lock = str(root / "requirements-build.lock")
        if not pip(["install", "--quiet", "--require-hashes", "-r", lock], python=python):
            return []
        uv = [python, "-m", "uv", "pip", "compile", "-", "--quiet", "--no-cache", "--no-deps", "--no-header"]
        uv += ["--python", sys.executable, f"--torch-backend={backend}", "--emit-index-annotation"]
        wishes = "\n".join(f"{name}=={pin}" for name, pin in pins.items())
        told = subprocess.run(uv, input=wishes, capture_output=True, text=True)
        if told.returncode:  # by the system alone, where pip looks, a proxy may be trusted that opens what it passes on
            told = subprocess.run([*uv, "--system-certs"], input=wishes, stdout=subprocess.PIPE, text=True)
    finally:
        shutil.rmtree(place, ignore_errors=True)
    builds = re.findall(rf"^((?:{'|'.join(PARTS)})==\S+)", told.stdout, re.MULTILINE)
    places = dict.fromkeys(re.findall(r"# from (\S+)", told.stdout))
    return [*builds, *(word for address in places for word in ("--extra-index-url", address))]


def take_torch(command: list[str], kind: str, root: Path) -> bool:
    """Before the rest, which then finds it there. False: it was not found."""
    pins = pinned(root)
    if sys.platform == "darwin" or (kind == "cuda") == (sys.platform != "win32"):
        return True  # pip's own build
    if kind == "cuda":
        print("PyTorch for the NVIDIA card of this machine (gigabytes):", flush=True)
    else:
        print("PyTorch for processors, since no NVIDIA card is here (TORCH=cuda takes the other build):", flush=True)
        builds = {name: f"{name}=={pin}+cpu" for name, pin in pins.items()}
        missed = [name for name in PARTS if not pip(command, "--no-deps", builds[name], stderr=subprocess.DEVNULL)]
        if "torch" not in missed:
            return True  # any torchvision goes with it: gradviz/lenet/data.py sees to that
    known = uv_knows("auto" if kind == "cuda" else "cpu", pins, root)
    return bool(known) and pip(command, "--no-deps", *known)


def main(arguments: list[str] | None = None, root: Path = ROOT) -> int:
    if sys.version_info < (3, 11):  # noqa: UP036
        print(f"gradviz needs Python 3.11 or newer; this is {sys.version.split()[0]}, {sys.executable}.", file=sys.stderr)
        return 1
    parser = argparse.ArgumentParser(description="Installs what gradviz needs.")
    parser.add_argument("--torch", choices=["auto", "cpu", "cuda"], default="auto", help="the build; auto: as is here")
    parser.add_argument("--stamp", type=Path, metavar="FILE", help="newer than the requirements: there is nothing to do")
    parser.add_argument("--wheels", metavar="FOLDER", help="gets the files, and nothing is installed")
    parser.add_argument("files", nargs="*", default=["requirements.txt"])
    given = parser.parse_args(arguments)
    asked = [root / name for name in (*given.files, "constraints.txt")]
    if given.stamp and given.stamp.exists() and given.stamp.stat().st_mtime >= max(path.stat().st_mtime for path in asked):
        return 0
    print("Fetching" if given.wheels else "Installing", "what gradviz needs; the first time this takes some minutes.", flush=True)
    command = [*(["download", "--dest", given.wheels, "--find-links", given.wheels] if given.wheels else ["install"]), *QUIET]
    kind = given.torch if given.torch != "auto" else "cuda" if has_card() else "cpu"
    if not (not given.wheels and is_here(pinned(root)) or take_torch(command, kind, root)):
        print(f"PyTorch ({kind}) could not be fetched, as said above. README.md, Install, has other ways.", file=sys.stderr)
        return 1
    if not pip(command, *(part for file in given.files for part in ("-r", str(root / file)))):
        return 1
    if given.stamp:
        given.stamp.touch()
    return 0


if __name__ == "__main__":
    sys.exit(main())
