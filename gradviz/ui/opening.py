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

_FIRST, _PORTS = 8501, 20  # Streamlit's port, and how many are tried
_INSIDE = Path(__file__).parents[1] / "app"  # of the installed wheel
HOME = _INSIDE if _INSIDE.is_dir() else Path(__file__).parents[2]  # where app.py and pages/ are
SHELL = Path(__file__).with_name("shell.py")  # the frame around every page


def open_app(folder: Path, port: int | None = None, browser: bool = True) -> None:
    """Serves the runs of the folder until Ctrl-C. Raises ModuleNotFoundError where the libraries of the pages are missing.

    The server answers this machine alone, unless STREAMLIT_SERVER_ADDRESS says otherwise.
    """
    from streamlit.web import cli

    os.environ["GRADVIZ_STORE"] = str(folder.absolute())
    port = port or int(os.environ.get("STREAMLIT_SERVER_PORT") or 0) or free_port()
    address = os.environ.get("STREAMLIT_SERVER_ADDRESS") or "127.0.0.1"
    base = os.environ.get("STREAMLIT_SERVER_BASE_URL_PATH", "").strip("/")
    url = f"http://{'127.0.0.1' if address in ('0.0.0.0', '::') else address}:{port}/" + (f"{base}/" if base else "")
    said = _("gradviz is open at {url} (Ctrl-C ends it)").format(url=url)
    threading.Thread(target=_show, args=(url, said, folder, browser and _has_browser()), name="browser", daemon=True).start()
    options = ["--server.port", str(port), "--server.address", address, "--logger.hideWelcomeMessage", "true"]
    cli.main(["run", str(HOME / "app.py"), *options], prog_name="streamlit", standalone_mode=False)


def free_port() -> int:
    """The first that nobody has, from Streamlit's own on."""
    usual = range(_FIRST, _FIRST + _PORTS)
    return next((port for port in usual if is_free(port)), None) or _any_port()


def is_free(port: int) -> bool:
    with socket.socket() as probe:
        if sys.platform != "win32":
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as the server will; else one just left is taken
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True


def _any_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _has_browser() -> bool:
    """Not one that would take the terminal over."""
    return sys.platform in ("win32", "darwin") or any(os.environ.get(name) for name in ("DISPLAY", "WAYLAND_DISPLAY", "BROWSER"))


def _show(url: str, said: str, folder: Path, browser: bool) -> None:
    from streamlit import runtime

    while not (runtime.exists() and _answers(f"{url}_stcore/health")):  # ours, and not another's that came first
        time.sleep(0.2)
    with contextlib.suppress(OSError):  # of a folder that takes nothing; the page says so
        (folder / ADDRESS).write_text(url, encoding="utf-8")
    print(said, flush=True)
    if browser:
        webbrowser.open(url)


def _answers(url: str) -> bool:
    try:
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(url, timeout=2) as answer:
            return bool(answer.status == 200)
    except (OSError, ValueError):
        return False
