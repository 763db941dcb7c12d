"""A picture of a page, as a browser draws it. Plain Python, from the folder above.

    python tests/look.py compare page.png                          of the app begun for this, without a run
    python tests/look.py http://127.0.0.1:8501/?run=… page.png     of the app that runs there
    python tests/look.py classroom page.png 390                    so many pixels wide; else 1280
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from chromium import MISSING, find
from playwright.sync_api import sync_playwright
from running import Server


def look(url: str, picture: str, width: int) -> None:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=find(), args=["--headless=new", "--no-sandbox", "--disable-gpu"])
        page = browser.new_page(viewport={"width": width, "height": 900})
        page.goto(url)
        page.wait_for_selector("[data-test-script-state=notRunning]", timeout=60_000)
        page.wait_for_timeout(1000)  # for what the page fetches and draws by itself
        page.screenshot(path=picture, full_page=True)
        browser.close()


def main(what: str, picture: str, width: str = "1280") -> int:
    if find() is None:
        print(MISSING, file=sys.stderr)
        return 1
    if "://" in what:
        look(what, picture, int(width))
        return 0
    with tempfile.TemporaryDirectory() as folder:
        server = Server(Path(folder), {})
        try:
            server.start()
            look(f"{server.url}/{what}", picture, int(width))
        finally:
            server.kill()
    return 0


if __name__ == "__main__":
    if not 3 <= len(sys.argv) <= 4:
        sys.exit(__doc__)
    sys.exit(main(*sys.argv[1:]))
