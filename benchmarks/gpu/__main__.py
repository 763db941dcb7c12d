"""The sections one by one, or all of them: see the package."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

import benchmarks.gpu as gpu


def section(name: str, device: str, quick: bool) -> None:
    if name == "cores":
        from benchmarks import cores

        print(cores.measure(quick, turns=2, seconds=0.7))
    elif name == "tests":
        from benchmarks.gpu import suite

        print(suite.measure(device, quick))
    elif name == "numbers":
        from benchmarks.gpu import numbers

        print(numbers.measure(device, quick))
    elif name in ("speed", "ends", "together"):
        from benchmarks.gpu import speed

        print(getattr(speed, name)(device, quick))
    else:
        from benchmarks.gpu import watching

        print(getattr(watching, name)(device, quick))


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=gpu.__doc__.splitlines()[0])
    parser.add_argument("sections", nargs="*", metavar="SECTION", help=", ".join(gpu.SECTIONS))
    parser.add_argument("--out", type=Path, help="a folder for the results")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--seconds", type=float, default=450, help="for all sections together")
    parser.add_argument("--section", choices=gpu.SECTIONS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if unknown := set(options.sections) - set(gpu.SECTIONS):
        parser.error(f"no section {', '.join(unknown)}; there are {', '.join(gpu.SECTIONS)}")
    if options.section:
        section(options.section, options.device, options.quick)
        sys.stdout.flush()
        os._exit(0)  # what libraries have begun need not be taken apart
    if options.out:
        options.out.mkdir(parents=True, exist_ok=True)
    text = gpu.measure(options.quick, options.device, options.sections or list(gpu.SECTIONS), options.out, options.seconds)
    print(text)


if __name__ == "__main__":
    main()
