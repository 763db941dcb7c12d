"""What Ray must be told by environment variables, on the server and on every other computer of the cluster."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

RESOURCE = "gradviz"  # of Ray, which says on how many trainings at once a computer takes

TOKEN = ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH")  # for who belongs to the cluster, and for no training

_NEEDED = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_memory_monitor_refresh_ms": "0",  # else Ray may end a host with all its trainings where one of them takes too much
    "RAY_health_check_initial_delay_ms": "1000",
    "RAY_health_check_period_ms": "1000",  # a frozen computer is noticed in 9 s; by default it takes a minute
    "RAY_health_check_timeout_ms": "2000",
    "RAY_health_check_failure_threshold": "3",
    "RAY_AUTH_MODE": "token",
}


def needed(given: Mapping[str, str]) -> dict[str, str]:
    """These variables; what is given stays as it is."""
    return {name: given.get(name) or value for name, value in _NEEDED.items()}


def no_token(given: Mapping[str, str]) -> str:
    """What is said where a token is wanted and there is none; empty if all is well."""
    if needed(given)["RAY_AUTH_MODE"] != "token" or given.get("RAY_AUTH_TOKEN"):
        return ""
    if Path(given.get("RAY_AUTH_TOKEN_PATH") or "~/.ray/auth_token").expanduser().is_file():
        return ""
    return (
        "Set RAY_AUTH_TOKEN to the secret that all computers of the cluster share, such as 32 letters that nobody guesses; or, "
        "on a network that nobody else is on, RAY_AUTH_MODE=disabled."
    )


def greet(address: str) -> None:
    """Asks the head there, or with auto that of this machine, whether it takes this process's token: Ray itself would try a wrong
    one for a minute, and end a process that has none. Raises what Ray raises."""
    from ray._private.utils import read_ray_address
    from ray._raylet import GcsClient

    if known := address if ":" in address else read_ray_address():
        GcsClient(address=known)
