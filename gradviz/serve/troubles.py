"""Troubles: what does not go with the store just now, for a page to say and the log to have once."""

from __future__ import annotations

import json
import logging

from gradviz.messages import NOTHING, Message

log = logging.getLogger("gradviz")


class Troubles:
    """Of writing, reading and deleting: one message each. Any thread may say one, or that all is well again."""

    def __init__(self) -> None:
        self._said: dict[str, Message] = {}

    @property
    def worst(self) -> Message:
        """NOTHING if all is well."""
        said = self._said.copy()
        return next((said[word] for word in ("write", "read", "delete") if word in said), NOTHING)

    def __contains__(self, word: str) -> bool:
        return word in self._said

    def warn(self, word: str, message: Message) -> None:
        """`word`: what does not go now."""
        if message != self._said.get(word):
            log.warning("event=store-warning message=%s", json.dumps(str(message)))
        self._said[word] = message

    def fine(self, word: str) -> None:
        if self._said.pop(word, None):
            log.info("event=store-fine what=%s", word)
