"""Finds the browser that the browser tests drive; as a script, installs one where that can be done unattended."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

MISSING = (
    "No Chromium or Google Chrome was found, so the browser tests are skipped. Install one (Debian: apt install chromium; "
    "macOS: brew install --cask chromium; or .venv/bin/playwright install --with-deps chromium) and run the tests again."
)
_COMMANDS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
_MAC_APPS = ("Chromium", "Google Chrome")


def find() -> str | None:
    """The path of a Chromium or Chrome of this machine, else of Playwright's own, else None."""
    found = [path for command in _COMMANDS if (path := shutil.which(command))]
    found += [path for app in _MAC_APPS if os.access(path := f"/Applications/{app}.app/Contents/MacOS/{app}", os.X_OK)]
    return next(filter(_starts, found), None) or _of_playwright()


def _starts(path: str) -> bool:
    # Ubuntu's chromium-browser may be an empty shell that only says to install a snap.
    try:
        return subprocess.run([path, "--version"], capture_output=True, timeout=30).returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        return False


def _of_playwright() -> str | None:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        path = playwright.chromium.executable_path
    return path if Path(path).exists() else None


def _install() -> None:
    """Debian's package, if we are root on Debian or Ubuntu; else nothing."""
    if platform.system() == "Linux" and shutil.which("apt-get") and os.geteuid() == 0:
        print("Installing Chromium for the browser tests.", flush=True)
        quiet = {"env": {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}, "stdout": subprocess.DEVNULL}
        subprocess.run(["apt-get", "update", "-qq"], **quiet)
        subprocess.run(["apt-get", "install", "-y", "-qq", "--no-install-recommends", "chromium", "fonts-liberation"], **quiet)


if __name__ == "__main__":
    if not find():
        _install()
        if not find():
            print(MISSING, file=sys.stderr)
