"""Writes what the container installs besides PyTorch, with the hash of every file, and whose software that is: `make lock`.

    requirements.lock         for pip install --require-hashes: what requirements.txt brings along on Linux with Python 3.11
    requirements-ray.lock     what requirements-ray.txt adds to it; a container of a cluster has that too
    requirements-build.lock   the tool that fetches PyTorch's processor build
    THIRD_PARTY.md            name, version, licence and address of each, from its own metadata

To be run after a pin in requirements.txt or constraints.txt has changed. PyTorch has no hash here: which of its files is the
right one depends on the processor and on the card, and its processor builds lie elsewhere than everything else.
"""

import re
import subprocess
import sys
import venv
from importlib.metadata import PackageNotFoundError, metadata, requires
from importlib.util import find_spec
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parent.parent
UV = "uv==0.13.9"
FOLDER = ROOT / ".venv" / "lock"  # an environment of its own: what uv brings along is nothing of ours
IMAGE = {"sys_platform": "linux", "platform_system": "Linux", "os_name": "posix", "python_version": "3.11",
         "python_full_version": "3.11.0", "implementation_name": "cpython", "extra": ""}  # fmt: skip
PYTORCH = ("torch", "torchvision")


def pins(*files: str) -> dict[str, str]:
    """Name -> version of every `name==version`."""
    text = "\n".join((ROOT / file).read_text(encoding="utf-8") for file in files)
    return {canonicalize_name(name): version for name, version in re.findall(r"^([\w.-]+)==([\w.]+)", text, re.MULTILINE)}


def needed(*asked: str) -> dict[str, str]:
    """Name -> version of all that the app, or the files `asked`, need in the container, in alphabetical order."""
    asked = asked or ("requirements.txt",)
    versions = pins("requirements.txt", "constraints.txt", *asked)
    waiting, found = list(pins(*asked)), set()
    while waiting:
        name = waiting.pop()
        if name in found:
            continue
        found.add(name)
        try:
            wishes = [Requirement(text) for text in requires(name) or ()]
        except PackageNotFoundError:  # needed on Linux only, perhaps, and this is not Linux
            continue
        for wish in wishes:
            other = canonicalize_name(wish.name)
            if (wish.marker is None or wish.marker.evaluate(IMAGE)) and other in versions:  # CUDA's libraries have no pin
                waiting.append(other)
    return {name: versions[name] for name in sorted(found)}


def hashed(lines: list[str]) -> str:
    if not FOLDER.exists():
        venv.create(FOLDER, with_pip=True)
    bin = FOLDER / "bin"
    subprocess.run([bin / "python", "-m", "pip", "install", "--quiet", "--disable-pip-version-check", UV], check=True)
    command = [bin / "uv", "pip", "compile", "-", "--no-deps", "--generate-hashes", "--no-header", "--no-annotate", "--quiet"]
    return subprocess.run(command, input="\n".join(lines), text=True, check=True, stdout=subprocess.PIPE, cwd=FOLDER).stdout


def licence(name: str) -> str:
    """As the package names it itself, in a few words."""
    about = metadata(name)
    classes = [line.rsplit(" :: ", 1)[-1] for line in about.get_all("Classifier", ()) if line.startswith("License ::")]
    said = about.get("License-Expression") or ", ".join(classes) or (about.get("License") or "").strip()
    return said.splitlines()[0].strip() if said else "not said; see the package"


def address(name: str) -> str:
    about = metadata(name)
    links = {label.strip().lower(): link.strip() for label, _comma, link in
             (line.partition(",") for line in about.get_all("Project-URL", ()))}  # fmt: skip
    wanted = ("homepage", "home", "repository", "source", "source code", "documentation")
    return about.get("Home-page") or next((links[label] for label in wanted if label in links), "")


def third_party(packages: dict[str, str], cluster: dict[str, str]) -> str:
    rows, listing = [], " and ".join([", ".join([*cluster][:-1]), [*cluster][-1]])
    for name, version in sorted((packages | cluster).items()):
        try:
            rows.append(f"| {metadata(name)['Name']} | {version} | {licence(name)} | {address(name)} |")
        except PackageNotFoundError:
            rows.append(f"| {name} | {version} | not installed where this list was made | |")
    return "\n".join([
        "# Software of others", "",
        "What gradviz installs and the container holds, as each package says of itself; the licences in full lie beside the",
        "packages (`site-packages/*.dist-info`). With `TORCH=cuda` NVIDIA's libraries come on top, under NVIDIA's terms;",
        f"{listing} are there with `RAY=1` only.",
        "The base image is Debian with Python; its notices lie in `/usr/share/doc`. Written by `make lock`.", "",
        "| package | version | licence | address |", "|---|---|---|---|", *rows, "",
    ])  # fmt: skip


def main() -> None:
    packages = needed()
    cluster = {name: version for name, version in needed("requirements-ray.txt").items() if name not in packages}
    if not find_spec("ray"):
        sys.exit("Ray is not installed here, so that nobody knows what it brings along: pip install -r requirements-ray.txt")
    about = "# Written by `make lock`; deploy/lock.py says what it is.\n"
    for file, some in (("requirements.lock", packages), ("requirements-ray.lock", cluster)):
        lines = [f"{name}=={version}" for name, version in some.items() if name not in PYTORCH]
        (ROOT / file).write_text(about + hashed(lines), encoding="utf-8")
    (ROOT / "requirements-build.lock").write_text(about + hashed([UV]), encoding="utf-8")
    (ROOT / "THIRD_PARTY.md").write_text(third_party(packages, cluster), encoding="utf-8")


if __name__ == "__main__":
    main()
