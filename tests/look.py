"""A picture of a page, as a browser draws it. Plain Python, from the folder above.

    python tests/look.py compare page.png                          of the app begun for this, without a run
    python tests/look.py http://127.0.0.1:8501/?run=… page.png     of the app that runs there
    python tests/look.py classroom page.png 390                    so many pixels wide; else 1280
    python tests/look.py all FOLDER zh [word …]                    of every page in every state, two themes, two widths, in that
                                                                   language; those whose name has one of the words
    python tests/look.py readme docs                               the pictures of README.md and README.zh-CN.md; wants MNIST
"""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1]))  # as if it had been installed

import states
from axe import complaints, settled
from chromium import MISSING, find
from legible import cut, overlapping, texts
from PIL import Image
from playwright.sync_api import Browser, Page, sync_playwright
from running import ROOT, Server

from gradviz.record.palette import PALETTE

THEMES, WIDTHS = ("light", "dark"), (1280, 390)


@contextlib.contextmanager
def chromium() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        yield playwright.chromium.launch(executable_path=find(), args=["--headless=new", "--no-sandbox", "--disable-gpu"])


def look(url: str, picture: str, width: int) -> None:
    with chromium() as browser:
        page = browser.new_page(viewport={"width": width, "height": 900})
        page.goto(url)
        page.wait_for_selector("[data-test-script-state=notRunning]", timeout=60_000)
        page.wait_for_timeout(1000)  # for what the page fetches and draws by itself
        page.screenshot(path=picture, full_page=True)


class Gallery:
    """Pictures of states into `folder`; of each state a line is printed: what axe, the eye for cuts and that for words found."""

    def __init__(self, folder: Path, server: Server, browser: Browser, language: str, wanted: list[str]):
        self.folder, self.server, self.language, self.wanted = folder, server, language, wanted
        self.page = browser.new_context(viewport={"width": 1280, "height": 900}).new_page()
        self.page.set_default_timeout(60_000)

    def show(self, name: str, address: str, act=None, page: Page | None = None) -> None:
        if self.wanted and not any(word in name for word in self.wanted):
            return
        page = page or self.page
        try:
            page.emulate_media(color_scheme="light")
            page.set_viewport_size({"width": 1280, "height": 900})
            page.goto(f"{self.server.url}/{address}{'&' if '?' in address else '?'}lang={self.language}")
            settled(page)
            if act:
                act(page)
            self.shoot(name, page)
        except Exception as error:  # the others are shown all the same
            page.screenshot(path=self.folder / f"{name}-broken.png")
            print(name, "BROKEN", str(error)[:300], flush=True)

    def shoot(self, name: str, page: Page) -> None:
        settled(page)
        found, sheet = complaints(page), []
        for width in WIDTHS:
            for theme in THEMES:
                page.emulate_media(color_scheme=theme)
                page.set_viewport_size({"width": width, "height": 900})
                settled(page)
                page.wait_for_timeout(400)
                if theme == "light":
                    found += [f"{width} cut: {text}" for text in cut(page)]
                    found += [f"{width} over: {text}" for text in overlapping(page)]
                    found += [f"{width} wide"] * page.evaluate("document.documentElement.scrollWidth > innerWidth")
                high = page.locator(".stMainBlockContainer").evaluate("e => e.scrollHeight")
                page.set_viewport_size({"width": width, "height": min(high + 80, 9000)})
                page.wait_for_timeout(400)
                sheet.append(self.folder / f"{name}-{width}-{theme}.png")
                page.screenshot(path=sheet[-1])
        if self.language != "en":
            found += sorted({word for text in texts(page) for word in re.findall(r"[A-Za-z]{2,}(?: [A-Za-z]{2,})*", text)})
        montage(sheet, self.folder / f"sheet-{name}.png")
        print(name, len(found), *found, sep="\n    ", flush=True)


def montage(pictures: list[Path], sheet: Path) -> None:
    """Side by side."""
    shown = [Image.open(picture) for picture in pictures]
    whole = Image.new("RGB", (sum(each.width + 8 for each in shown), max(each.height for each in shown)), "#888")
    left = 0
    for each in shown:
        whole.paste(each, (left, 0))
        left += each.width + 8
    whole.save(sheet)


def gallery(folder: Path, language: str, wanted: list[str]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as place, chromium() as browser, contextlib.ExitStack() as stack:
        server = Server(Path(place), states.SERVER)
        states.stock(server.store)
        server.start()
        stack.callback(server.kill)
        shown = Gallery(folder, server, browser, language, wanted)
        for name, address, act in states.of_nobody_yet():
            shown.show(name, address, act)
        runs = {name: states.train(shown.page, server, query, status) for name, (query, status) in states.TRAINED.items()}
        print(runs, flush=True)
        for name, how in states.WATCHED.items():
            runs[name] = stack.enter_context(states.watched(server.store, how))
        for name, address, act in states.of_one_reader(runs):
            shown.show(name, address, act)
        teacher = browser.new_context(viewport={"width": 1280, "height": 900}).new_page()
        teacher.set_default_timeout(60_000)
        for name, address, act in states.of_a_teacher():
            shown.show(name, address, act, teacher)
        for name, address, act in states.of_a_locked_class(runs):
            shown.show(name, address, act)


def small(path: Path) -> None:
    """In 256 colours: half of those of a heatmap, its marks, and the picture's own most frequent ones."""
    image = Image.open(path).convert("RGB")
    kept = [*PALETTE[:2], *PALETTE[2:-5:2], *PALETTE[-5:]]
    often = [colour for _count, colour in sorted(image.getcolors(1 << 24), reverse=True) if colour not in set(kept)]
    colours = Image.new("P", (1, 1))
    colours.putpalette([int(part) for colour in (*kept, *often)[:256] for part in colour])
    image.quantize(palette=colours, dither=Image.Dither.NONE).save(path, optimize=True)


def readme(folder: Path) -> None:
    """The pictures of README.md, and the same in Chinese, small."""
    net = "activation=sigmoid&blocks=12&steps=80&dataset=mnist&batch_size=32"
    with tempfile.TemporaryDirectory() as place, chromium() as browser, contextlib.ExitStack() as stack:
        server = Server(Path(place), {"GRADVIZ_WORKERS": "1"})
        server.start()
        stack.callback(server.kill)
        page = browser.new_context(viewport={"width": 1280, "height": 900}).new_page()
        example = [sys.executable, "examples/watch_digits.py", "200", str(server.store)]
        subprocess.run(example, cwd=ROOT, check=True, env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"})
        runs = {
            "lab-vanishing": (states.train(page, server, net, "finished"), "light"),
            "lab-shortcut-dark": (states.train(page, server, f"{net}&shortcut=on", "finished"), "dark"),
            "watched-resnet": (next((server.store / "watched").glob("*.spool")).stem, "light"),
        }
        for name, (run, theme) in runs.items():
            for language, suffix in (("en", ""), ("zh", ".zh-CN")):
                page.emulate_media(color_scheme=theme)
                page.set_viewport_size({"width": 1280, "height": 900})
                page.goto(f"{server.url}/?run={run}&lang={language}")
                page.wait_for_selector("[data-mode=live][data-plots=drawn]")
                settled(page)
                foot = page.locator(".gv-read").last.evaluate("e => e.getBoundingClientRect().bottom")
                page.set_viewport_size({"width": 1280, "height": int(foot) + 12})
                page.wait_for_timeout(1500)
                path = folder / f"{name}{suffix}.png"
                page.screenshot(path=path)
                small(path)
                print(path, path.stat().st_size, flush=True)


def main(what: str, picture: str, *more: str) -> int:
    if find() is None:
        print(MISSING, file=sys.stderr)
        return 1
    if what == "readme":
        readme(Path(picture))
        return 0
    if what == "all":
        gallery(Path(picture), *(more[:1] or ("en",)), list(more[1:]))
        return 0
    width = int(*more[:1] or (1280,))
    if "://" in what:
        look(what, picture, width)
        return 0
    with tempfile.TemporaryDirectory() as folder:
        server = Server(Path(folder), {})
        try:
            server.start()
            look(f"{server.url}/{what}", picture, width)
        finally:
            server.kill()
    return 0


if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    sys.exit(main(*sys.argv[1:]))
