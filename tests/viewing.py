"""Pages without a browser: opened by themselves or within the shell, and what stands on them."""

from __future__ import annotations

from collections.abc import Mapping

from running import ROOT
from streamlit.testing.v1 import AppTest

# A link to the Lab, with a net that is trained in a moment.
QUICK = {"blocks": "1", "activation": "relu", "batch_size": "8", "steps": "6", "dataset": "digits"}
SECONDS = 60.0


def opened(page: str, **query: str) -> AppTest:
    """The page by itself, `opened("compare", runs=...)`. Raises AssertionError where it shows a traceback."""
    return _run(AppTest.from_file(str(ROOT / "pages" / f"{page}.py"), default_timeout=SECONDS), query)


def in_shell(page: str, state: Mapping[str, object] | None = None, **query: str) -> AppTest:
    """A browser of its own at this page, within what stands around every page; its session begins with this state."""
    test = AppTest.from_file(str(ROOT / "gradviz" / "ui" / "shell.py"), default_timeout=SECONDS)
    for name, value in (state or {}).items():
        test.session_state[name] = value
    _run(test, query)
    return test if page == "lab" else _run(test.switch_page(str(ROOT / "pages" / f"{page}.py")), query)  # it begins at the Lab


def lab(**changes: str) -> AppTest:
    """The Lab with the net of QUICK, but for the changes, and the program of these settings open."""
    return in_shell("lab", {"code": True}, **QUICK | changes)


def text(page: AppTest) -> str:
    kinds = (page.title, page.markdown, page.caption, page.info, page.warning, page.error)
    return " ".join(element.value for kind in kinds for element in kind)


def keys(page: AppTest) -> set[str]:
    """Of its buttons."""
    return {button.key for button in page.button if button.key}


def _run(test: AppTest, query: dict[str, str]) -> AppTest:
    test.query_params.update(query)
    test.run()
    assert not test.exception
    return test
