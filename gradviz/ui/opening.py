"""`gradviz open`: the pages as a server of this machine, and a browser that shows them."""

from __future__ import annotations

import contextlib
import os
import socket
import sys
import threading
import time
import urllib.request
import webbrowser
from pathlib import Path

from gradviz.train.notebook import ADDRESS
from gradviz.words import gettext as _

_INSIDE = Path(__file__).parents[1] / "app"  # of the installed wheel
HOME = _INSIDE if _INSIDE.is_dir() else Path(__file__).parents[2]  # where app.py and pages/ are
SHELL = Path(__file__).with_name("shell.py")  # the frame around every page
PAGE_FILES = sorted((HOME / "pages").glob("*.py"))


def open_app(folder: Path, port: int | None = None, browser: bool = True) -> None:
    """Serves the runs of the folder until Ctrl-C. Raises ModuleNotFoundError where the libraries of the pages are missing.

    The server answers this machine alone, unless STREAMLIT_SERVER_ADDRESS says otherwise. Without a port, here or in
    Streamlit's settings, it has the first that it is given, from Streamlit's own on.
    """
    from streamlit.web import cli

    os.environ["GRADVIZ_STORE"] = str(folder.absolute())
    address = os.environ.get("STREAMLIT_SERVER_ADDRESS") or "127.0.0.1"
    name = "127.0.0.1" if address in ("0.0.0.0", "::") else address
    said = _("gradviz is open at {url} (Ctrl-C ends it)")
    threading.Thread(target=_show, args=(name, said, folder, browser and _has_browser()), name="browser", daemon=True).start()
    options = ["--server.address", address, "--logger.hideWelcomeMessage", "true"]
    options += ["--server.port", str(port)] if port else []
    cli.main(["run", str(HOME / "app.py"), *options], prog_name="streamlit", standalone_mode=False)


def is_free(port: int) -> bool:
    with socket.socket() as probe:
        if sys.platform != "win32":
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as the server will; else one just left is taken
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True


def _has_browser() -> bool:
    """Not one that would take the terminal over."""
    return sys.platform in ("win32", "darwin") or any(os.environ.get(name) for name in ("DISPLAY", "WAYLAND_DISPLAY", "BROWSER"))


def _show(name: str, said: str, folder: Path, browser: bool) -> None:
    import streamlit

    while not streamlit.runtime.exists():  # from then on the port is ours, and not another's that came first
        time.sleep(0.2)
    base = os.environ.get("STREAMLIT_SERVER_BASE_URL_PATH", "").strip("/")
    url = f"http://{name}:{streamlit.get_option('server.port')}/" + (f"{base}/" if base else "")
    while not _answers(f"{url}_stcore/health"):
        time.sleep(0.2)
    with contextlib.suppress(OSError):  # of a folder that takes nothing; the page says so
        (folder / ADDRESS).write_text(url, encoding="utf-8")
    print(said.format(url=url), flush=True)
    if browser:
        webbrowser.open(url)


def _answers(url: str) -> bool:
    try:
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(url, timeout=2) as answer:
            return bool(answer.status == 200)
    except (OSError, ValueError):
        return False
