"""Loss and accuracy of a watched training, as its own loop logs them: before the optimiser's step or after it, now and then, on a
device that is not waited for, or at the end of a round in which other nets have had their turns."""

from __future__ import annotations

import torch

from gradviz.record.history import History

Score = float | torch.Tensor
_MOST_LATE = 256  # numbers on a device that are remembered before they are fetched


class Scores:
    """Which step each is of. One score has one name, "loss" or "accuracy"."""

    def __init__(self) -> None:
        self._now: dict[str, Score] = {}  # of the step under way
        self._amid: dict[str, tuple[Score, int]] = {}  # of this step or the last; passes that had begun then
        self._late: list[tuple[int, str, torch.Tensor]] = []  # numbers that still lie on a device, and of which step
        self._logged: set[tuple[int, str]] = set()  # what the last step has, (step, name)

    def log(self, name: str, number: Score, history: History | None, in_step: bool, begun: bool, forwards: int) -> None:
        """`in_step`: some optimiser of the step has stepped, another has not. `begun`: a pass has, after the last step.
        `forwards`: passes so far."""
        step = history.steps - 1 if history else -1
        if history is None or in_step or (step, name) in self._logged:
            self._now[name] = number
        elif begun:
            self._amid[name] = number, forwards
            return
        else:
            self._note(history, step, name, number)
        self._logged.add((step, name))

    def take(self, history: History, forwards: int) -> dict[str, float]:
        """Those of the step that ends now, and is not in the history yet, as far as they are here."""
        self._decide(history, forwards)
        step, here = history.steps, {}
        for name, number in self._now.items():
            if isinstance(number, torch.Tensor):
                self._late.append((step, name, number))
            else:
                here[name] = number
        self._logged = {(step, name) for name in self._now}
        self._now = {}
        return here

    @property
    def crowded(self) -> bool:
        return len(self._late) > _MOST_LATE

    def settle(self, history: History, ended: bool = False) -> None:
        """Fetches what was logged as a number on a device. `ended`: no step follows."""
        if ended:
            self._decide(history, None)
        late, self._late = self._late, []
        for step, name, number in late:
            history.note(step, **{name: float(number)})

    def _decide(self, history: History, forwards: int | None) -> None:
        """Of the step that ends now what was logged amid its pass; of the one before it what was logged while another net had its
        turn, which ran through this one: then a pass has begun since."""
        for name, (number, then) in self._amid.items():
            if forwards is None or forwards > then:
                self._note(history, history.steps - 1, name, number)
            else:
                self._now.setdefault(name, number)
        self._amid = {}

    def _note(self, history: History, step: int, name: str, number: Score) -> None:
        if isinstance(number, torch.Tensor):
            self._late.append((step, name, number))
        else:
            history.note(step, **{name: number})
