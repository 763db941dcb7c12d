"""By which names this server may be called.

A page of a foreign site whose name its owner points at this machine (DNS rebinding) is of the same origin to the browser, and
only the name in `Host` tells it from ours. Such a name needs a DNS that the owner writes, so addresses in figures are
harmless, as are localhost and what this machine calls itself; every other name is a setting.
"""

from __future__ import annotations

import ipaddress
import re
import socket
from collections.abc import Iterable
from urllib.parse import urlsplit

_AUTHORITY = re.compile(r"(\[[0-9A-Fa-f:.]{2,45}\]|[A-Za-z0-9_.-]{1,253})(?::[0-9]{0,5})?", re.ASCII)


def own_names() -> frozenset[str]:
    """What this machine calls itself, alone and in the network of a room."""
    name = socket.gethostname().lower().rstrip(".")
    first = name.partition(".")[0]
    return frozenset({"localhost", name, first, f"{first}.local"} - {"", ".local"})


def name_of(authority: str) -> str | None:
    """The host of `name:port`, in lower case and without the root's dot; None if it is none."""
    found = _AUTHORITY.fullmatch(authority)
    return found[1].lower().strip("[]").rstrip(".") or None if found else None


def may_be_called(authority: str, names: Iterable[str]) -> bool:
    """`authority`: the header Host; one that is absent names nobody. `names`: also `*.school.example`, and `*` for any."""
    if not authority:
        return True
    host = name_of(authority)
    return host is not None and (_is_address(host) or host.endswith(".localhost") or "*" in names or _is_one_of(host, names))


def is_here(authority: str) -> bool:
    """Whether whoever calls the server so is on the same computer, however many names that has."""
    return name_of(authority) in ("localhost", "127.0.0.1", "::1")


def is_of(origin: str, authority: str, names: Iterable[str]) -> bool:
    """Whether a page of this origin may ask here: the server's own, which has its port too, or one of a site in `names`."""
    try:
        parts = urlsplit(origin.lower())
        port = {"http": ":80", "https": ":443"}[parts.scheme]
    except (ValueError, KeyError):
        return False
    here, there = authority.lower().removesuffix(port), parts.netloc.removesuffix(port)
    host = name_of(there)
    return host is not None and (here == there or not _is_address(host) and _is_one_of(host, names))


def _is_one_of(host: str, names: Iterable[str]) -> bool:
    return any(host == name or name.startswith("*.") and host.endswith(name[1:]) for name in names)


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
