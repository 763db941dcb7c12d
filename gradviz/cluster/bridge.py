"""The bridge: the process of a server that belongs to the Ray cluster. It keeps a host on each computer that has a share for
gradviz, and says every second who is there, as a line of JSON. No training passes through it.

    python -m gradviz.cluster.bridge DESCRIPTOR ADDRESS

Ray ends the process that belongs to a cluster with the cluster, and takes over its signals: that is why it is not the server.
"""

from __future__ import annotations

import json
import logging
import os
import socket
import sys
import threading
import time
from typing import Any

from gradviz.cluster.edition import edition
from gradviz.cluster.host import Host
from gradviz.cluster.needs import RESOURCE, greet, no_token
from gradviz.messages import NOTHING, Message, say

_EVERY = 0.5  # seconds
_ANSWER = 2.0  # seconds in which a host answers
_TRIES = 10.0  # seconds until a host that could not begin is tried again


def main(descriptor: int, address: str) -> int:
    server = socket.socket(fileno=descriptor)
    threading.Thread(target=_end_with, args=(server,), daemon=True).start()
    if address.rpartition(":")[0] in ("127.0.0.1", "localhost"):  # else Ray takes the outer address in its place
        os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
    nobody = _nobody(address)  # Ray itself takes half a minute to say so
    if nobody or no_token(os.environ):  # and without a token ends this process
        _tell(server, {"trouble": (nobody or say("cluster-token", address=address)).to_json()})
        return 1
    import ray

    os.chdir("/")  # Ray has its workers look for modules where the driver stands, before where they themselves would
    try:
        greet(address)
        ray.init(
            address=address, namespace="gradviz", log_to_driver=False, logging_level=logging.CRITICAL, include_dashboard=False
        )
    except BaseException as error:
        _tell(server, {"trouble": _why(error, address).to_json()})
        return 1
    hosts = _Hosts(ray)
    try:
        while True:
            _tell(server, {"nodes": hosts.look()})
            time.sleep(_EVERY)
    except OSError:
        return 0  # the server has gone


def _nobody(address: str) -> Message:
    """That nobody listens at this address; NOTHING if somebody does, or it is to be found."""
    host, _colon, port = address.rpartition(":")
    try:
        if host:
            socket.create_connection((host, int(port)), 5.0).close()
    except (OSError, ValueError):
        return say("cluster-away", address=address)
    return NOTHING


def _end_with(server: socket.socket) -> None:
    try:
        server.recv(1)
    finally:
        os._exit(0)


def _tell(server: socket.socket, words: dict[str, Any]) -> None:
    server.sendall(json.dumps(words).encode() + b"\n")


def _why(error: BaseException, address: str) -> Message:
    """Why there is no cluster, in a sentence."""
    words = f"{type(error).__name__} {error}"
    if "Auth" in words or "token" in words.lower():
        return say("cluster-token", address=address)
    if "ersion mismatch" in words:
        return say("cluster-version", address=address, reason=" ".join(str(error).split())[:300])
    return say("cluster-away", address=address)


class _Hosts:
    """The hosts of the cluster, one for each computer."""

    def __init__(self, ray: Any):
        self._ray = ray
        self._actors: dict[str, Any] = {}  # by the computer's id
        self._asked: dict[str, tuple[Any, float]] = {}  # what was asked of it, and when
        self._known: dict[str, dict[str, Any]] = {}  # what it said last
        self._broken: dict[str, tuple[Message, float]] = {}  # why it cannot begin, and since when

    def look(self) -> list[dict[str, Any]]:
        """Of each computer that has a share: what is known of it, and what is wrong with it."""
        found = {}
        for node in self._ray.nodes():
            if node["Alive"] and (slots := int(node["Resources"].get(RESOURCE, 0))):
                found[node["NodeID"]] = (node, slots)
        for gone in [id for id in self._actors if id not in found]:
            for each in (self._actors, self._asked, self._known, self._broken):
                each.pop(gone, None)
        for id, (node, _slots) in found.items():
            self._ask(id, node)
        self._listen()
        return [self._words(id, *found[id]) for id in found]

    def _ask(self, id: str, node: dict[str, Any]) -> None:
        if id in self._asked or id in self._broken and time.monotonic() - self._broken[id][1] < _TRIES:
            return
        if id not in self._actors:
            strategy = self._ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy(id, soft=False)
            cards = node["Resources"].get("GPU", 0)
            self._actors[id] = self._ray.remote(Host).options(
                name=f"{id[:16]}-{edition()}", get_if_exists=True, lifetime="detached", max_restarts=-1, max_concurrency=4,
                num_cpus=0, num_gpus=cards, scheduling_strategy=strategy,
            ).remote(_name(node), node["NodeManagerAddress"])  # fmt: skip
        self._asked[id] = self._actors[id].look.remote(), time.monotonic()

    def _listen(self) -> None:
        """Takes what has been answered; waits for nobody for long."""
        questions = [question for question, _when in self._asked.values()]
        ready = set(self._ray.wait(questions, num_returns=len(questions), timeout=0.3)[0]) if questions else set()
        for id, (question, _when) in list(self._asked.items()):
            if question not in ready:
                continue
            del self._asked[id]
            try:
                self._known[id] = self._ray.get(question)
                self._broken.pop(id, None)
            except Exception as error:  # it could not begin, or has died and begins anew
                self._actors.pop(id, None)
                if self._known.pop(id, None) or isinstance(error, self._ray.exceptions.ActorUnavailableError):
                    continue  # it was there, or is about to be: Ray has it begin anew
                reason = str(getattr(error, "cause", None) or error).strip().splitlines()
                self._broken[id] = say("node-broken", name=id[:8], reason=(reason or ["?"])[-1][:300]), time.monotonic()

    def _words(self, id: str, node: dict[str, Any], slots: int) -> dict[str, Any]:
        known, name = self._known.get(id, {}), _name(node)
        words = {"id": id, "name": name, "slots": slots, "cards": node["Resources"].get("GPU", 0), **known}
        trouble = NOTHING
        if id in self._broken:
            trouble = say("node-broken", name=name, reason=self._broken[id][0].arguments["reason"])
        elif known and known["edition"] != edition():
            trouble = say("node-version", name=name, there=known["edition"], here=edition())
        elif known and id in self._asked and time.monotonic() - self._asked[id][1] > _ANSWER:
            trouble = say("node-silent", name=name)
        return words | {"trouble": trouble.to_json() if trouble else None, "ready": bool(known) and not trouble}


def _name(node: dict[str, Any]) -> str:
    return str(node.get("NodeName") or node["NodeManagerAddress"])


if __name__ == "__main__":
    code = main(int(sys.argv[1]), sys.argv[2])
    os._exit(code)  # Ray would spend seconds on leaving
