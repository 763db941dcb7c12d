"""Asks axe-core (4.12.1, which axe-playwright-python carries) what keeps somebody from using a page."""

from __future__ import annotations

from axe_playwright_python.base import AXE_SCRIPT
from playwright.sync_api import Page

THEMES = ("light", "dark")
# What Streamlit 1.67 gets wrong and a page cannot cure: rule, the element's selector, and why.
STREAMLITS: dict[tuple[str, str], str] = {}


def settled(page: Page) -> None:
    """Waits until the page's script has run and its elements have drawn."""
    page.wait_for_selector("[data-test-script-state=notRunning]", timeout=60_000)
    page.wait_for_function(
        """() => [...document.querySelectorAll('.gv')].every((e) => e.dataset.plots || e.dataset.steps === '0')
            && [...document.querySelectorAll('figure > .gv-figure')].every((e) => e.shown && e.table)
            && !document.querySelector('[data-stale=true], [data-testid=stSkeleton]')""",
        timeout=60_000,
    )  # fmt: skip


def complaints(page: Page) -> list[str]:
    """'light serious color-contrast .stMain p', one for each element of the page as it is, in both themes."""
    page.evaluate(AXE_SCRIPT)
    found = []
    for theme in THEMES:
        page.emulate_media(color_scheme=theme)
        page.wait_for_function(
            "theme => getComputedStyle(document.querySelector('.stApp')).colorScheme === theme", arg=theme, timeout=10_000
        )
        settled(page)
        # What is seen while colours still pass from one theme to the other is gone at the second look.
        found += _seen(page, theme) and (settled(page) or _seen(page, theme))
    return found


def _seen(page: Page, theme: str) -> list[str]:
    # All but the colours is the same in both.
    only = {"runOnly": ["color-contrast"]} if theme != THEMES[0] else {"rules": {"target-size": {"enabled": True}}}
    rules = page.evaluate("only => axe.run({resultTypes: ['violations'], ...only}).then((all) => all.violations)", only)
    return [
        f"{theme} {rule['impact']} {rule['id']} {node['target'][0]} {node['html'][:160]}"
        for rule in rules
        for node in rule["nodes"]
        if not _excused(page, rule["id"], node["target"][0])
    ]


def _excused(page: Page, rule: str, element: str) -> bool:
    selectors = [selector for named, selector in STREAMLITS if named == rule]
    return any(page.evaluate("([a, b]) => document.querySelector(a)?.matches(b)", [element, selector]) for selector in selectors)
