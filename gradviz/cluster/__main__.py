"""A computer of the cluster: its head, or one that trains. It stays in the foreground and takes all its processes with it.

    python -m gradviz.cluster head [--address IP] [--port 6379]
    python -m gradviz.cluster node HEAD:6379 [--address IP] [--name NAME] [--slots N] [--gpus N]

`ray start` would do as well, with the same environment and `--resources '{"gradviz": N}'`; but it listens on the outer address
where 127.0.0.1 is asked for.
"""

from __future__ import annotations

import argparse
import os
import signal
import socket
import sys
import threading
from collections.abc import Mapping
from pathlib import Path

from gradviz import machine
from gradviz.cluster.needs import RESOURCE, greet, needed, no_token

_STORE = 80_000_000  # bytes of Ray's own store of objects, of which gradviz puts none there; the least that it takes


def environment(given: Mapping[str, str]) -> dict[str, str]:
    """What Ray must be told, on every computer. What is set already stays."""
    root = str(Path(__file__).parents[2])  # Ray's workers import gradviz from where this is
    path = os.pathsep.join(filter(None, (root, given.get("PYTHONPATH", ""))))
    return {**needed(given), "PYTHONPATH": path}


def main(words: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m gradviz.cluster", description=(__doc__ or "").partition("\n")[0])
    kinds = parser.add_subparsers(dest="kind", required=True)
    head = kinds.add_parser("head", help="the computer that the others are told of; it trains nothing")
    head.add_argument("--port", type=int, default=6379)
    node = kinds.add_parser("node", help="a computer that trains; with --slots 0 the one that gradviz itself runs on")
    node.add_argument("head", help="address:port of the head")
    node.add_argument("--slots", type=int, default=int(machine.cores()), help="trainings at once; by default one per core")
    node.add_argument("--gpus", type=int, default=0, help="of its cards, those that train")
    for each in (head, node):
        each.add_argument("--address", help="of this computer in the cluster's network; 127.0.0.1 keeps it to itself")
        each.add_argument("--name", default=socket.gethostname(), help="of this computer, for people; by default its own")
        each.add_argument("--folder", help="for Ray's logs and sockets; a short path")
    given = parser.parse_args(words)
    os.environ.update(environment(os.environ))
    if missing := no_token(os.environ):
        print(missing, file=sys.stderr)
        return 2
    try:
        return _stand(given)
    except Exception as error:
        print(_in_words(error, given), file=sys.stderr)
        return 1


def _in_words(error: Exception, given: argparse.Namespace) -> str:
    """Why this computer does not stand, in a sentence."""
    words = " ".join(str(error).split())
    if given.kind == "node" and isinstance(error, OSError):
        return f"No head answers at {given.head}: start it first, and see that the network lets this computer reach it."
    if given.kind == "node" and "Auth" in type(error).__name__:
        return f"The head at {given.head} does not take this computer's RAY_AUTH_TOKEN: all computers must have the same."
    return words or type(error).__name__


def _stand(given: argparse.Namespace) -> int:
    from ray._private.node import Node
    from ray._private.parameter import RayParams
    from ray._private.services import get_node_ip_address
    from ray._private.utils import write_ray_address

    is_head = given.kind == "head"
    if not is_head:
        host, _colon, port = given.head.rpartition(":")
        if not (host and port.isdecimal()):
            raise ValueError(f"{given.head} is no head: it must be address:port, such as 10.0.0.5:6379.")
        socket.create_connection((host, int(port)), 5.0).close()  # Ray itself takes half a minute to say that nobody is there
        greet(given.head)
    slots = 0 if is_head else given.slots
    parameters = RayParams(
        node_name=given.name,
        node_ip_address=given.address or get_node_ip_address(*(() if is_head else (given.head,))),
        gcs_address=None if is_head else given.head,
        gcs_server_port=given.port if is_head else None,
        num_cpus=0,  # gradviz counts its own slots: a paused training must hold nothing of Ray's
        num_gpus=0 if is_head else given.gpus,
        resources={RESOURCE: slots} if slots else {},
        object_store_memory=_STORE,
        include_dashboard=False,
        include_log_monitor=False,
        no_monitor=True,  # Ray's own scaling, of which gradviz uses none: a process less beside the head
        dashboard_agent_listen_port=0,
        temp_dir=given.folder,
        min_worker_port=0,
        max_worker_port=0,
    )
    node = Node(parameters, head=is_head, shutdown_at_exit=True, spawn_reaper=True)
    if is_head:
        write_ray_address(node.gcs_address, given.folder)  # where GRADVIZ_RAY=auto finds it
    print(f"{node.gcs_address} {'head' if is_head else slots}", flush=True)
    over = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: over.set())
    while not over.wait(1.0):
        if node.dead_processes():
            break  # without its head, say: the computer leaves whole
    node.kill_all_processes(check_alive=False, allow_graceful=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
