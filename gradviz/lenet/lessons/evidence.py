"""What the runs of a lesson say: their numbers, and the words for them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

from gradviz.lenet.config import RunConfig
from gradviz.lenet.naming import net_name
from gradviz.lenet.outcome import TRAINED, Border, Result, border, result
from gradviz.record.reading import ends, factor
from gradviz.record.run import Run
from gradviz.words import gettext as _
from gradviz.words import linked, listed, ngettext, number, sentence


class Evidence:
    """The runs of a lesson, found by their settings whatever the data set, the device and the seed."""

    def __init__(self, runs: Iterable[Run[RunConfig]]):
        self._runs: dict[RunConfig, list[Run[RunConfig]]] = {}
        for run in runs:
            self._runs.setdefault(_bare(run.recipe), []).append(run)

    def runs(self, config: RunConfig) -> list[Run[RunConfig]]:
        """One for each seed. Raises KeyError if the lesson has no such run."""
        return self._runs[_bare(config)]

    def run(self, config: RunConfig) -> Run[RunConfig]:
        """The one with the smallest seed."""
        return min(self.runs(config), key=lambda run: run.recipe.seed)

    def results(self, config: RunConfig) -> list[Result]:
        return [result(run) for run in self.runs(config)]

    def outcome(self, config: RunConfig) -> str:
        """The outcome of most seeds; of a tie, the one that is not 'trained'."""
        words = [found.outcome for found in self.results(config)]
        return max(dict.fromkeys(words), key=lambda word: (words.count(word), word != TRAINED))

    def trained(self, config: RunConfig) -> bool | None:
        """Whether more than half of its seeds trained; None if exactly half did."""
        return most(found.outcome == TRAINED for found in self.results(config))


def _bare(config: RunConfig) -> RunConfig:
    return replace(config, dataset="mnist", device="auto", seed=0)


# Statements that hold, do not hold, or are open (None)


def most(held: Iterable[bool | None]) -> bool | None:
    """What more than half of those that could tell say; None if they disagree evenly, or none could."""
    told = [each for each in held if each is not None]
    return None if 2 * sum(told) == len(told) else 2 * sum(told) > len(told)


def opposite(held: bool | None) -> bool | None:
    return None if held is None else not held


def all_hold(*held: bool | None) -> bool | None:
    """One that does not hold decides; else one that is open leaves it open."""
    return False if False in held else None if None in held else True


def none_holds(*held: bool | None) -> bool | None:
    return all_hold(*map(opposite, held))


def one_or_both(first: str, held: bool | None, second: str, other: bool | None) -> str | None:
    """The answer to a question with these two words: the one that holds, 'both' or 'neither'; None if one is open."""
    if held is None or other is None:
        return None
    return ("both" if other else first) if held else second if other else "neither"


# Numbers


def usual_step(run: Run[RunConfig]) -> float:
    """Adam's first step moves every weight by the learning rate (Kingma & Ba 2015); here over the first block's weight RMS."""
    return run.recipe.rate(0) / ends(run, "weight_rms")[0]


def first_loss(e: Evidence, config: RunConfig) -> float:
    return float(e.run(config).history.loss[0])


def depth_border(e: Evidence, nets: Iterable[RunConfig]) -> Border:
    return border((run.recipe, result(run)) for net in nets for run in e.runs(net))


# In words


def told(e: Evidence, *configs: RunConfig) -> str:
    """'2 blocks sigmoid trained (loss 1.79 after 276 steps); 4 blocks sigmoid: 1 of 3 seeds trained (loss 1.79, 2.30, 2.31)'"""
    return linked(_told_one(net_name(replace(config, seed=0)), e.results(config)) for config in configs)


def told_alone(e: Evidence, *configs: RunConfig) -> str:
    """The same as a sentence."""
    return sentence(told(e, *configs))


def _told_one(name: str, results: list[Result]) -> str:
    if len(results) > 1:
        return _("{name}: {trained} of {seeds} seeds trained (loss {losses})").format(
            name=name, trained=sum(found.outcome == TRAINED for found in results), seeds=len(results),
            losses=listed(number(found.loss, 3) for found in results),
        )  # fmt: skip
    (found,) = results
    return ngettext(
        "{name} {outcome} (loss {loss} after {steps} step)", "{name} {outcome} (loss {loss} after {steps} steps)", found.steps
    ).format(name=name, outcome=_(found.outcome), loss=number(found.loss, 3), steps=found.steps)


def by_depth(steps: Mapping[int, float]) -> str:
    """'1 block 142, 2 blocks 1,275'"""
    return listed(
        ngettext("{n} block {steps:,.0f}", "{n} blocks {steps:,.0f}", n).format(n=n, steps=count) for n, count in steps.items()
    )


def profile(run: Run[RunConfig], quantity: str = "weight_grad_rms") -> str:
    """'last block 1.2e-2, first block 3.4e-21, factor 0.12 per convolution'"""
    first, last = ends(run, quantity)
    return _("last block {last}, first block {first}, factor {factor} per convolution").format(
        last=number(last), first=number(first), factor=number(factor(run, quantity))
    )
