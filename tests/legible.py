"""What a browser shows: its texts, and which of them are cut or lie on each other."""

from __future__ import annotations

from pathlib import Path

from playwright.sync_api import Page

_SCRIPT = Path(__file__).with_suffix(".js").read_text(encoding="utf-8").partition("\n")[2].strip()


def texts(page: Page) -> list[str]:
    """Of each block that is seen, as one text; none of a program's."""
    return page.evaluate(f"{_SCRIPT}.texts()")


def cut(page: Page) -> list[str]:
    """Texts of which a part lies outside of what shows it, and that cannot be scrolled to."""
    return page.evaluate(f"{_SCRIPT}.cut()")


def overlapping(page: Page) -> list[str]:
    """Pairs of texts that lie on each other."""
    return page.evaluate(f"{_SCRIPT}.overlapping()")


def named(page: Page) -> list[str]:
    """What is said to a screen reader or to a mouse that rests, and what stands in empty fields."""
    return page.evaluate(f"{_SCRIPT}.named()")
