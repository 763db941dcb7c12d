"""One question over many depths: a sweep is a list of ordinary runs, and what to conclude from them.

Since runs are addressed by their content, a sweep owns none: what anybody has trained counts, nothing is trained
twice, and a sweep that was cut short goes on where it was.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from gradviz.lenet.config import FIELDS, RunConfig, config_of
from gradviz.lenet.fields import ConfigError
from gradviz.lenet.naming import remedy_name, remedy_word, setting_text
from gradviz.lenet.outcome import WINDOW
from gradviz.messages import say
from gradviz.record.recipe import Recipe
from gradviz.record.run import Summary
from gradviz.words import ENGLISH, language, listed, speaking
from gradviz.words import gettext as _

AXES = ("blocks", "init_range", "lr", "warmup")  # what may be varied
MOST_RUNS = 400  # of one sweep

# Time of a step is close to linear in blocks × batch (docs/performance.md); stem and head cost as much as 4 blocks.
_FIXED_BLOCKS = 4.0
_NORM_COST = 1.3  # of a block with batch norm, over one without
SLOW = 1e-4  # seconds per unit of `cost` on a slow processor core: what is assumed before anything was measured


@dataclass(frozen=True)
class Sweep:
    """A named list of runs. `early`: a run is stopped as soon as it counts as trained; what it would do later is not asked."""

    name: str
    configs: tuple[RunConfig, ...]  # in the order in which they are run
    early: bool = True

    @classmethod
    def over(
        cls, name: str, bases: Sequence[RunConfig], axes: Mapping[str, Sequence[float]], seeds: Sequence[int], early: bool = True
    ) -> Sweep:
        """Every base (a remedy, one line of the picture) at every point of one axis or a grid of two, with every seed.

        Raises ConfigError if the axes are not one or two of AXES, a list is empty, a value is out of range, or the
        runs are more than MOST_RUNS.
        """
        if not 1 <= len(axes) <= 2 or not set(axes) <= set(AXES):
            raise ConfigError("axes", say("sweep-axes", axes=", ".join(AXES)))
        for field, values in {**axes, "seed": seeds, "remedies": bases}.items():
            if not values:
                raise ConfigError(field, say("sweep-no-value", field=FIELDS[field].spec.label if field in FIELDS else field))
        count = len(bases) * len(seeds) * math.prod(len(values) for values in axes.values())
        if count > MOST_RUNS:
            raise ConfigError("seed", say("sweep-too-many", most=MOST_RUNS, count=count))
        # Seeds outermost: the whole picture is there after the first of them, and the others make it sure.
        points: list[dict[str, Any]] = [dict(zip(axes, point, strict=True)) for point in itertools.product(*axes.values())]
        configs = (replace(base, seed=seed, **point) for seed in seeds for point in points for base in bases)
        return cls(name, tuple(dict.fromkeys(configs)), early)

    @classmethod
    def name_over(cls, remedies: Iterable[str], axes: Iterable[str]) -> str:
        """What `over` may be called: in English, since the name decides the id."""
        with speaking(ENGLISH):
            return _said_over(remedies, axes)

    @property
    def title(self) -> str:
        """Its name in the reader's language."""
        if language() == ENGLISH:
            return self.name
        remedies = self.remedies()
        made = self.name == self.name_over(map(remedy_word, remedies), self.axes)
        return _said_over(remedies.values(), self.axes) if made else self.name

    @property
    def id(self) -> str:
        """The same runs under the same name are the same sweep."""
        text = json.dumps([self.name, self.early, [config.id for config in self.configs]])
        return hashlib.sha256(text.encode()).hexdigest()[:12]

    @property
    def axes(self) -> tuple[str, ...]:
        """Those of AXES that vary in it, at most two; blocks if none does."""
        varied = tuple(name for name in AXES if len({getattr(config, name) for config in self.configs}) > 1)
        return varied[:2] or ("blocks",)

    def remedy(self, config: RunConfig) -> RunConfig:
        """What the points of one line have in common: the config without its axes and its seed."""
        return replace(config, **{name: FIELDS[name].default for name in (*self.axes, "seed")})

    def remedies(self) -> dict[RunConfig, str]:
        """Remedy -> its name in the picture, in the order of the runs."""
        keys = list(dict.fromkeys(self.remedy(config) for config in self.configs))
        names = [remedy_name(key) for key in keys]
        if len(set(names)) < len(names):  # they differ in something else: say it
            varied = [name for name in FIELDS if len({getattr(key, name) for key in keys}) > 1]
            names = [" · ".join(setting_text(name, getattr(key, name)) for name in varied) for key in keys]
        return dict(zip(keys, names, strict=True))

    def to_dict(self) -> dict[str, Any]:
        return {"name": self.name, "early": self.early, "configs": [config.to_dict() for config in self.configs]}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Sweep:
        """Raises ConfigError, KeyError or TypeError if it is not a sweep."""
        configs = tuple(RunConfig.from_dict(config) for config in values["configs"])
        return cls(str(values["name"]), configs, bool(values["early"]))


def _said_over(remedies: Iterable[str], axes: Iterable[str]) -> str:
    said = " × ".join(_(FIELDS[axis].spec.label) for axis in axes)
    return _("{remedies} over {axes}").format(remedies=listed(remedies), axes=said)


# Cost


def cost(config: RunConfig) -> float:
    """Work of one step in units of one plain block and one image."""
    return config.batch_size * (_FIXED_BLOCKS + config.blocks * (_NORM_COST if config.batch_norm else 1.0))


def measured_rate(summaries: Iterable[Summary[Recipe]]) -> float | None:
    """Seconds per unit of `cost`, the median of what the newest runs took here; None if none has trained long enough."""
    newest = itertools.islice(((run, config) for run in summaries if (config := config_of(run))), 50)
    rates = [run.seconds / run.steps / cost(config) for run, config in newest if run.steps >= WINDOW and run.seconds > 0]
    return statistics.median(rates) if rates else None


def estimate(configs: Iterable[RunConfig], rate: float, at_once: int = 1) -> float:
    """Seconds for all of them at most: a run that is stopped early takes less."""
    return rate * sum(config.steps * cost(config) for config in configs) / at_once
