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

import numpy as np

from gradviz.diagnosis.diagnose import CHANCE, LEFT_CHANCE, LOUD
from gradviz.lenet.config import FIELDS, ConfigError, RunConfig
from gradviz.record.run import Run, Status, Summary

WINDOW = 20  # steps whose mean loss is judged: one batch of 32 scatters by up to 0.1
MARGIN = 0.5  # nats under chance: a fifth of the way down, and five times what the loss of a net that learns nothing scatters
TRAINED_BELOW = CHANCE - MARGIN
AXES = ("blocks", "init_range", "lr")  # what may be varied
MOST_RUNS = 400  # of one sweep

# Time of a step is close to linear in blocks × batch (docs/performance.md); stem and head cost as much as 4 blocks.
_FIXED_BLOCKS = 4.0
_NORM_COST = 1.3  # of a block with batch norm, over one without

TRAINED, STARTED, STUCK, DIVERGED = "trained", "started", "stuck", "diverged"
SHORT, UNFINISHED, FAILED = "not judged", "unfinished", "failed"
JUDGED = (TRAINED, STARTED, STUCK, DIVERGED)
OUTCOMES: dict[str, str] = {  # the definitions, as the page shows them
    TRAINED: f"mean training loss of the last {WINDOW} steps under {TRAINED_BELOW:.2f}: chance ({CHANCE:.2f}) − {MARGIN:g}",
    STARTED: f"not trained, but under {CHANCE - LEFT_CHANCE:.2f} (chance − {LEFT_CHANCE:g}) when the steps were used up",
    STUCK: f"still at {CHANCE - LEFT_CHANCE:.2f} or above when the steps were used up",
    DIVERGED: f"loss not finite, or at {LOUD:.0f} (ten times chance) or above at the end",
    SHORT: f"meant to have fewer than {WINDOW} steps: only its gradients are asked for",
    UNFINISHED: "not run, or not to its end",
    FAILED: "the program could not run it",
}


@dataclass(frozen=True)
class Result:
    """What one run says, in a few numbers."""

    outcome: str  # a word of OUTCOMES
    loss: float  # mean of the last WINDOW steps; may be inf or nan
    steps: int  # done
    trained_at: int | None  # first step at which the mean of WINDOW steps was under TRAINED_BELOW
    ratio: float  # weight gradient of the first over the last block convolution, at step 0; nan without a step
    front: float  # weight-gradient RMS of the first block convolution (conv1 without blocks), at step 0
    seconds: float  # of training


def result(run: Run) -> Result:
    """Judges a run, live or ended, by its record."""
    history = run.history.snapshot()
    if not history.steps:
        return Result(FAILED if run.status is Status.FAILED else UNFINISHED, math.nan, 0, None, math.nan, math.nan, 0.0)
    start = history.quantity("weight_grad_rms")[0].astype(float)
    first, last = run.recipe.layout.ends
    with np.errstate(all="ignore"):
        ratio = float(np.divide(start[first], start[last]))
    loss = float(np.mean(history.loss[-WINDOW:]))
    return Result(
        _outcome(run, history.steps, loss, float(history.loss[-1])), loss, history.steps,
        _trained_at(history.loss), ratio, float(start[first]), float(history.seconds[-1]),
    )  # fmt: skip


def _outcome(run: Run, steps: int, loss: float, last_loss: float) -> str:
    if run.status is Status.DIVERGED or not math.isfinite(last_loss):
        return DIVERGED
    if steps >= WINDOW and loss < TRAINED_BELOW:
        return TRAINED
    if run.status is Status.FAILED:
        return FAILED
    if steps < run.recipe.steps:
        return UNFINISHED
    if loss >= LOUD:
        return DIVERGED
    if steps < WINDOW:
        return SHORT
    return STARTED if loss < CHANCE - LEFT_CHANCE else STUCK


def _trained_at(loss: np.ndarray) -> int | None:
    if len(loss) < WINDOW:
        return None
    means = np.convolve(np.minimum(np.nan_to_num(loss, nan=np.inf), 1e6), np.ones(WINDOW) / WINDOW, "valid")
    below = np.flatnonzero(means < TRAINED_BELOW)
    return int(below[0]) + WINDOW - 1 if len(below) else None


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
            raise ConfigError("axes", f"A sweep varies one or two of {', '.join(AXES)}.")
        for field, values in {**axes, "seed": seeds, "remedies": bases}.items():
            if not values:
                raise ConfigError(field, f"{FIELDS[field].spec.label if field in FIELDS else field} needs one value or more.")
        count = len(bases) * len(seeds) * math.prod(len(values) for values in axes.values())
        if count > MOST_RUNS:
            raise ConfigError("seed", f"A sweep has at most {MOST_RUNS} runs; these are {count}. Take fewer points or seeds.")
        # Seeds outermost: the whole picture is there after the first of them, and the others make it sure.
        configs = (
            replace(base, seed=seed, **dict(zip(axes, point, strict=True)))
            for seed in seeds
            for point in itertools.product(*axes.values())
            for base in bases
        )
        return cls(name, tuple(dict.fromkeys(configs)), early)

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

    def to_dict(self) -> dict:
        return {"name": self.name, "early": self.early, "configs": [config.to_dict() for config in self.configs]}

    @classmethod
    def from_dict(cls, values: Mapping) -> Sweep:
        """Raises ConfigError, KeyError or TypeError if it is not a sweep."""
        configs = tuple(RunConfig.from_dict(config) for config in values["configs"])
        return cls(str(values["name"]), configs, bool(values["early"]))


def remedy_name(config: RunConfig) -> str:
    """'relu + batch norm', 'sigmoid + shortcut', 'relu + critical init', ..."""
    parts = [config.activation] + ["batch norm"] * config.batch_norm
    parts += [f"{config.other_norm} norm"] * (config.other_norm != "none") + ["shortcut"] * config.shortcut
    parts += [f"{config.branch_scale} branch"] * (config.branch_scale != "one")
    parts += [f"{config.init} init"] * (config.init != "default")
    return " + ".join(parts + [config.treatment] * (config.treatment != "none"))


def setting_text(name: str, value: object) -> str:
    """One setting in words: 'adam', 'lr 0.001', 'batch norm', 'no shortcut', 'init ±0.5'."""
    label = {"batch_size": "batch", "init_range": "init ±", "batch_norm": "batch norm"}.get(name, name.replace("_", " "))
    if isinstance(value, bool):
        return label if value else f"no {label}"
    if value is None:
        return "no init range"
    if isinstance(value, str):
        return value if name in ("activation", "optimizer", "dataset", "treatment") and value != "none" else f"{label} {value}"
    return f"{label}{value:g}" if name == "init_range" else f"{value} blocks" if name == "blocks" else f"{label} {value:g}"


@dataclass(frozen=True)
class Border:
    """Where one remedy stops training over depth. A depth counts as trained if more than half of its ended runs are."""

    deepest_trained: int | None  # of the depths before the first failed one
    first_failed: int | None  # None: every depth that was tried trained
    shares: dict[int, tuple[int, int]]  # blocks -> (trained, ended)

    @property
    def text(self) -> str:
        if self.deepest_trained is None:
            return "none that was tried trained" if self.shares else "not run yet"
        if self.first_failed is None:
            return f"trained at every depth tried, up to {self.deepest_trained} blocks"
        return f"trained up to {self.deepest_trained} blocks, no longer at {self.first_failed}"


def border(results: Iterable[tuple[RunConfig, Result]]) -> Border:
    """Of the runs of one remedy. Only those of an outcome in JUDGED count."""
    counts: dict[int, list[bool]] = {}
    for config, found in results:
        if found.outcome in JUDGED:
            counts.setdefault(config.blocks, []).append(found.outcome == TRAINED)
    shares = {blocks: (sum(trained), len(trained)) for blocks, trained in sorted(counts.items())}
    failed = next((blocks for blocks, (trained, ended) in shares.items() if 2 * trained <= ended), None)
    before = [blocks for blocks in shares if failed is None or blocks < failed]
    return Border(before[-1] if before else None, failed, shares)


# Cost


def cost(config: RunConfig) -> float:
    """Work of one step in units of one plain block and one image."""
    return config.batch_size * (_FIXED_BLOCKS + config.blocks * (_NORM_COST if config.batch_norm else 1.0))


def measured_rate(summaries: Iterable[Summary]) -> float | None:
    """Seconds per unit of `cost`, the median of what the newest runs took here; None if none has trained long enough."""
    rates = [s.seconds / s.steps / cost(s.recipe) for s in itertools.islice(summaries, 50) if s.steps >= WINDOW and s.seconds > 0]
    return statistics.median(rates) if rates else None


def estimate(configs: Iterable[RunConfig], rate: float, at_once: int = 1) -> float:
    """Seconds for all of them at most: a run that is stopped early takes less."""
    return rate * sum(config.steps * cost(config) for config in configs) / at_once


# While it runs


def looked(run: Run) -> bool:
    """Whether a run that is only asked for its gradients has shown them: the test at its end would take far longer."""
    return run.recipe.steps < WINDOW and run.history.steps == run.recipe.steps


def trained_already(run: Run) -> bool:
    """Whether it counts as trained now: cheap enough to ask after every step."""
    loss = run.history.loss[-WINDOW:]
    return len(loss) == WINDOW and bool(np.mean(loss) < TRAINED_BELOW)
