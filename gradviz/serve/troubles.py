"""Troubles: what does not go with the store just now, for a page to say and the log to have once."""

from __future__ import annotations

import json
import logging

log = logging.getLogger("gradviz")


class Troubles:
    """Of writing, reading and deleting: one sentence each. Any thread may say one, or that all is well again."""

    def __init__(self) -> None:
        self._said: dict[str, str] = {}

    @property
    def worst(self) -> str:
        """One sentence, empty if all is well."""
        said = self._said.copy()
        return next((said[word] for word in ("write", "read", "delete") if word in said), "")

    def __contains__(self, word: str) -> bool:
        return word in self._said

    def warn(self, word: str, sentence: str) -> None:
        """`word`: what does not go now."""
        if sentence != self._said.get(word):
            log.warning("event=store-warning message=%s", json.dumps(sentence))
        self._said[word] = sentence

    def fine(self, word: str) -> None:
        if self._said.pop(word, None):
            log.info("event=store-fine what=%s", word)
