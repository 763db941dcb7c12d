"""RunConfig: everything that decides a run, validated, frozen, and addressed by its content.

One table of fields feeds the page (label, help, range), the command line (option, help), the URL, the JSON and
the validation. Menu word = config word = JSON word = URL word.
"""

from __future__ import annotations

import dataclasses
import difflib
import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from gradviz.lenet.activations import ACTIVATIONS
from gradviz.lenet.changes import KNOBS, Change, ChangesSpec, Knobs, check_steps, effective
from gradviz.lenet.fields import ConfigError, Sentences, field_table, setting, specs_of, to_word
from gradviz.lenet.layout import layout
from gradviz.lenet.schedules import SCHEDULES, part, share
from gradviz.messages import Message, say
from gradviz.record.layout import Layout
from gradviz.record.recipe import Recipe, Turn
from gradviz.record.run import Run, Summary
from gradviz.words import gettext as _
from gradviz.words import ngettext

MOST_BLOCKS, MOST_STEPS, MOST_BATCH = 1000, 100_000, 1024  # of one run

DATASETS = {
    "mnist": "60,000 handwritten digits, 28×28: the data of the article.",
    "fashion": "Fashion-MNIST: 60,000 pictures of clothes, harder than digits.",
    "kmnist": "Kuzushiji-MNIST: 60,000 handwritten Japanese characters.",
    "digits": "1,797 real scans of digits, 8×8 enlarged to 28×28, built in: works without any download.",
}
OTHER_NORMS = {
    "none": "No norm, or batch norm if that is on.",
    "group": "GroupNorm: normalises 4 groups of 4 channels, each image by itself; unlike batch norm it leaves the batch alone.",
    "layer": "LayerNorm: normalises all numbers of one image's map together, with a weight of its own for each of them.",
}
BRANCH_SCALES = {
    "one": "The block's output is added to its input as it is, as in the article.",
    "fixed": "The block's output is multiplied by 1/√blocks first (after Fixup), so that the sum does not grow with the depth.",
    "skip-init": "The block's output is multiplied by a learnt number that starts at 0 (SkipInit): "
    "at step 0 every block hands on its input, and no convolution in it has a gradient yet.",
}
INITS = {
    "default": "PyTorch's own: U(−1/√n, 1/√n), n the inputs of a neuron; in the blocks a = 0.05.",
    "he-normal": "N(0, 2/n): doubles the variance because relu loses half of it, so the signal keeps its size behind relu.",
    "he-uniform": "U(−√(6/n), √(6/n)): He's variance of 2/n from a uniform distribution; in the blocks a = 0.122.",
    "xavier-normal": "N(0, 2/(n + m)), m the outputs: "
    "keeps the signal's size both ways behind an activation of slope 1, such as tanh at 0.",
    "xavier-uniform": "U(−√(6/(n + m)), √(6/(n + m))): Xavier's variance from a uniform distribution; in the blocks a = 0.087.",
    "orthogonal": "The rows of each weight matrix stand at right angles: no direction is stretched more than another "
    "(× √2 for relu and its like).",
    "delta-orthogonal": "Each convolution starts as an orthogonal mix of the channels at its middle pixel, 0 elsewhere: "
    "nothing is lost at the border (× √2 for relu and its like).",
    "lsuv": "Orthogonal, then each layer's weights are divided by the spread of its own output on real images: "
    "every layer hands on variance 1, measured, not derived.",
    "critical": "Block convolutions from U(−a*, a*), where in theory the signal keeps its size going back: "
    "a* = 0.141 for relu, 1.02 for sigmoid, 0.108 for tanh.",
}
TREATMENTS = {
    "none": "The gradient goes to the optimiser as it is.",
    "clip-norm": "If the length of the whole gradient exceeds the threshold, the whole gradient is scaled down to it.",
    "clip-value": "Every single gradient entry is cut to ±threshold.",
    "floor": "The article's idea against vanishing: every entry smaller than the threshold is raised to ±threshold.",
    "normalise": "On its way back each layer's signal is scaled to the threshold's rms before the layer below sees it: "
    "control without memory.",
    "feedback": "Negative feedback: each layer has a gain on its backward signal that an integral controller turns at every step "
    "until the signal has the threshold's rms.",
}
OPTIMIZERS = {
    "adam": "Divides each gradient by its own recent size, so a small gradient still moves its weight, "
    "until it meets Adam's eps of 10⁻⁸.",
    "sgd": "Moves each weight by learning rate × gradient: a vanished gradient is a weight that stands still.",
    "momentum": "SGD that keeps 0.9 of its last move: faster along steady directions.",
}
DEVICES = {
    "auto": "The fastest device of this machine: an NVIDIA card, an Apple GPU, else the processor.",
    "cpu": "The processor.",
    "cuda": "An NVIDIA graphics card.",
    "mps": "The GPU of an Apple computer.",
}


@dataclass(frozen=True)
class RunConfig:
    """The complete recipe of one training run. Two equal configs are the same run (see `id`).

    Raises ConfigError, naming the field and its range, if a value is not allowed.
    The order of the fields is the reader's order on the page.
    """

    activation: str = setting(
        "sigmoid", str, "Activation function", "The nonlinearity after each convolution of the blocks.",
        choices=Sentences(ACTIVATIONS, lambda row: row.sentence),
    )  # fmt: skip
    batch_norm: bool = setting(
        False, bool, "Batch norm", "Normalises each channel over the batch, after each convolution of the blocks."
    )
    other_norm: str = setting(
        "none", str, "Other norm", "A norm in place of batch norm, after each convolution of the blocks; "
        "batch norm, if on, goes before it.", choices=OTHER_NORMS,
    )  # fmt: skip
    shortcut: bool = setting(
        False, bool, "Shortcut", "Adds each block's input to its output, so the gradient has a road past the convolutions."
    )
    branch_scale: str = setting(
        "one", str, "Scaled shortcut", "What the block's output is multiplied by before it is added; only with the shortcut.",
        choices=BRANCH_SCALES,
    )  # fmt: skip
    blocks: int = setting(
        12, int, "Blocks", "Each block adds two convolutions; the net has 5 + 2 × blocks weight layers.", low=0, high=MOST_BLOCKS
    )
    activation_everywhere: bool = setting(
        False,
        bool,
        "Activation in stem and head too",
        "Off, the first two and the last three layers keep relu, as in the article.",
    )
    init: str = setting(
        "default", str, "Initialisation", "The distribution of the initial weights; biases keep PyTorch's default. "
        "An init range, if given, goes before it.", choices=INITS,
    )  # fmt: skip
    init_range: float | None = setting(
        None,
        float,
        "Init range ±a",
        "All convolution and linear weights start from U(−a, a); default is PyTorch's own, which for the blocks is a = 0.05.",
        low=0.001,
        high=2.0,
        optional=True,
    )
    treatment: str = setting(
        "none",
        str,
        "Gradient treatment",
        "What is done to the gradient between the backward pass and the step.",
        choices=TREATMENTS,
    )
    threshold: float = setting(
        1.0, float, "Threshold", "The limit of clipping or floor; the rms that feedback aims at.", low=1e-30, high=1e6
    )
    optimizer: str = setting("adam", str, "Optimiser", "How a gradient becomes a change of weights.", choices=OPTIMIZERS)
    lr: float = setting(1e-3, float, "Learning rate", "The size of the steps.", low=1e-7, high=10.0)
    warmup: int = setting(
        0, int, "Warm-up", "Steps over which the learning rate rises evenly to all of it; 0: none. Adam's first step moves every "
        "weight by the whole learning rate, however small its gradient: it has nothing yet to judge its size by.",
        low=0, high=MOST_STEPS,
    )  # fmt: skip
    schedule: str = setting(
        "constant", str, "Schedule", "What becomes of the learning rate after the warm-up.",
        choices=Sentences(SCHEDULES, lambda row: row.sentence),
    )  # fmt: skip
    dataset: str = setting("mnist", str, "Data set", "The pictures to learn.", choices=DATASETS)
    batch_size: int = setting(64, int, "Batch size", "Images per step.", low=1, high=MOST_BATCH)
    steps: int = setting(300, int, "Steps", "Weight updates; one step is one batch.", low=1, high=MOST_STEPS)
    seed: int = setting(
        0,
        int,
        "Seed",
        "Picks the initial weights and the order of the images; another seed is another run.",
        low=0,
        high=2**31 - 1,
    )
    device: str = setting("auto", str, "Device", "Where the arithmetic runs.", choices=DEVICES)
    changes: tuple[Change, ...] = dataclasses.field(default=(), metadata={"spec": ChangesSpec(
        tuple, "Changes while it trains", "What is turned during the run, each right before the step that it names: "
        "another optimiser or treatment begins afresh, another learning rate or threshold keeps what they have gathered.",
        of=specs_of(treatment=treatment, threshold=threshold, optimizer=optimizer, lr=lr),
    )})  # fmt: skip

    def __post_init__(self) -> None:
        for name in FIELDS:
            object.__setattr__(self, name, FIELDS[name].spec.read(name, getattr(self, name)))
        if self.treatment == "none":
            # Without a treatment the threshold decides nothing, so it must not make two runs of one.
            object.__setattr__(self, "threshold", FIELDS["threshold"].default)
        # What another setting overrules decides nothing either, nor does a warm-up that is over with the first step.
        if self.warmup == 1:
            object.__setattr__(self, "warmup", 0)
        if self.batch_norm:
            object.__setattr__(self, "other_norm", "none")
        if not self.shortcut:
            object.__setattr__(self, "branch_scale", "one")
        if self.init_range is not None:
            object.__setattr__(self, "init", "default")
        check_steps("changes", FIELDS["changes"].spec.label, self.changes, self.steps)
        object.__setattr__(self, "changes", effective(self._set_up, self.changes))

    @property
    def _set_up(self) -> Knobs:
        return Knobs(**{name: getattr(self, name) for name in KNOBS})

    def knobs(self, step: int) -> Knobs:
        """What is in force at this step."""
        return dataclasses.replace(self._set_up, **{each.field: each.value for each in self.changes if each.step <= step})

    def at(self, step: int) -> RunConfig:
        """The settings of a run that had from its start what is in force here at this step."""
        return dataclasses.replace(self, changes=(), **vars(self.knobs(step))) if self.changes else self

    @property
    def is_scheduled(self) -> bool:
        """Whether the learning rate changes by itself."""
        return self.warmup > 0 or self.schedule != "constant"

    def share(self, step: int) -> float:
        """What this step takes of the learning rate that is in force."""
        return share(self.schedule, self.warmup, self.steps, step)

    def rate(self, step: int) -> float:
        """The learning rate of this step."""
        return float(self.knobs(step).lr * self.share(step))

    @property
    def turns(self) -> list[Turn]:
        codes = {
            "lr": "turned-lr", "optimizer": "turned-optimizer", "treatment": "turned-treatment", "threshold": "turned-threshold",
        }  # fmt: skip

        def turn(step: int, name: str, word: str) -> Turn:
            if name == "lr" and self.is_scheduled:
                return Turn(step, f"{name} {word}", say("turned-lr-of", step=step, value=word, rate=self._rate_word(step)))
            return Turn(step, f"{name} {word}", say(codes[name], step=step, value=word))

        found = [turn(each.step, each.field, to_word(each.value)) for each in self.changes]
        return sorted([*found, *self._paced()], key=lambda each: each.step)

    def _paced(self) -> list[Turn]:
        """Where the learning rate begins to stay, or stays at less."""
        warm, third = self.warmup, part(self.steps - self.warmup)
        found = [(warm, "turned-warm")] * bool(warm)
        found += [(warm + third, "turned-lr"), (warm + 2 * third, "turned-lr")] * (self.schedule == "step-decay")
        rates = [(step, code, self._rate_word(step)) for step, code in found if step < self.steps]
        return [Turn(step, f"lr {word}", say(code, step=step, value=word)) for step, code, word in rates]

    def _rate_word(self, step: int) -> str:
        return f"{self.rate(step):.4g}"

    def turned(self, step: int, **knobs: Any) -> RunConfig:
        """The same run, in which these knobs are turned right before this step. Raises ConfigError."""
        kept = [each for each in self.changes if each.step != step or each.field not in knobs]
        return dataclasses.replace(self, changes=(*kept, *(Change(step, name, value) for name, value in knobs.items())))

    @property
    def layers(self) -> int:
        """Number of weight layers: 2 in the stem, 2 in each block, 3 in the head."""
        return 5 + 2 * self.blocks

    @property
    def layout(self) -> Layout:
        return layout(self.blocks)

    @cached_property  # asked for at every poll and, by the queue, of all that wait
    def id(self) -> str:
        """12 hex digits of the content's SHA-256: the same settings give the same id on every machine.

        Only what differs from the defaults goes in, so that a setting added later leaves the ids of kept runs alone.
        """
        changed = {name: value for name, value in self.to_dict().items() if value != FIELDS[name].default}
        text = json.dumps(changed, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:12]

    @property
    def built(self) -> list[str]:
        """What is in its blocks beside convolutions: ['relu', 'batch norm', 'shortcut']."""
        parts = [self.activation] + [_("batch norm")] * self.batch_norm
        parts += [_("{kind} norm").format(kind=self.other_norm)] * (self.other_norm != "none") + [_("shortcut")] * self.shortcut
        return parts + [_("{scale} branch").format(scale=self.branch_scale)] * (self.branch_scale != "one")

    @property
    def pace(self) -> list[str]:
        """What becomes of the learning rate by itself: ['warm-up 50', 'cosine']."""
        parts = [_("warm-up {n}").format(n=self.warmup)] if self.warmup else []
        return parts + [self.schedule] * (self.schedule != "constant")

    @property
    def title(self) -> str:
        """One short line such as '12 blocks · sigmoid · batch norm · ±0.5 · adam 0.001'."""
        parts = [ngettext("{n} block", "{n} blocks", self.blocks).format(n=self.blocks), *self.built]
        parts += [self.init] * (self.init != "default")
        parts += [f"±{self.init_range:g}"] if self.init_range is not None else []
        parts += [f"{self.treatment} {self.threshold:g}"] if self.treatment != "none" else []
        parts += [f"{self.optimizer} {self.lr:g}", *self.pace, self.dataset]
        count = len(self.changes)
        return " · ".join(parts + [ngettext("{n} change", "{n} changes", count).format(n=count)] * bool(count))

    def to_dict(self) -> dict[str, Any]:
        """As JSON has it. Of what came later nothing where it is not used, as in runs that were kept before there was any."""
        values = dataclasses.asdict(self)
        return {name: value for name, value in values.items() if name not in _LATER or value != FIELDS[name].default}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> RunConfig:
        """Raises ConfigError for an unknown name or a bad value."""
        for name in values:
            if name not in FIELDS:
                raise ConfigError(str(name), say("no-setting", given=str(name)[:40], settings=", ".join(FIELDS)))
        return cls(**values)

    def to_query(self) -> dict[str, str]:
        """The settings that differ from the defaults, as URL parameters."""
        return {name: to_word(getattr(self, name)) for name in FIELDS if getattr(self, name) != FIELDS[name].default}

    @classmethod
    def from_query(cls, query: Mapping[str, Any]) -> tuple[RunConfig, list[Message]]:
        """The config of a URL, and a message for each parameter that is not as it should be. Never raises.

        A parameter that the URL has more than once has a list as its value, and the last one counts.
        """
        query = unescaped(query)
        values: dict[str, Any] = {}
        problems: list[Message] = []
        for name in FIELDS:
            given = query.get(name)
            if isinstance(given, list):
                if any(word != given[-1] for word in given):
                    words = ", ".join(str(word)[:40] for word in given)
                    problems.append(say("given-twice", label=FIELDS[name].spec.label, name=name, words=words))
                given = given[-1] if given else None
            if given is not None:
                try:
                    values[name] = FIELDS[name].spec.read(name, given)
                except ConfigError as error:
                    problems.append(say("default-used", problem=error.message))
        try:
            config = cls(**values)
        except ConfigError as error:  # each value is right by itself, but a change comes after the last step
            del values[error.field]
            problems.append(say("default-used", problem=error.message))
            config = cls(**values)
        return config, problems + misspelt(query)


def unescaped(query: Mapping[str, Any]) -> dict[str, Any]:
    """The parameters of a URL that was copied out of HTML, where & is written &amp;, by their true names."""
    plain: dict[str, Any] = {}
    for name, value in query.items():
        name = re.sub("^(amp;)+", "", name)
        if name in plain:  # once each way
            value = [each for part in (plain[name], value) for each in (part if isinstance(part, list) else [part])]
        plain[name] = value
    return plain


# Parameters of the pages that are no settings of a run, and what people call the settings besides their names and labels.
_OF_PAGES = {"run", "runs", "step", "layer", "view", "lesson", "prediction", "controls", "sweep", "wall", "seen", "lang"}
_ALSO_CALLED = {
    "activationfunction": "activation", "depth": "blocks", "bn": "batch_norm", "norm": "batch_norm", "residual": "shortcut",
    "skip": "shortcut", "rate": "lr", "weights": "init_range", "clip": "treatment", "opt": "optimizer", "data": "dataset",
    "batch": "batch_size", "epochs": "steps", "iterations": "steps",
}  # fmt: skip


def misspelt(names: Iterable[str], known: Iterable[str] = ()) -> list[Message]:
    """A sentence for each name of a URL that is no setting, but looks like one; `known` are right too. The rest of a URL,
    what counters of visitors append say, is nobody's business."""

    def letters(word: str) -> str:
        return re.sub(r"[^a-z0-9]", "", word.lower())

    called = {letters(word): name for name, field in FIELDS.items() for word in (field.spec.label, name)}
    problems = []
    for name in names:
        if name in FIELDS or name in _OF_PAGES or name in known or name.lower().startswith("utm"):
            continue
        word = letters(name)
        exactly = called.get(word) or _ALSO_CALLED.get(word)
        near = difflib.get_close_matches(word[:40], called, n=2, cutoff=0.75)
        if meant := [exactly] if exactly else dict.fromkeys(called[each] for each in near):
            problems.append(say("no-setting-but", given=name[:40], meant=list(meant)))
    return problems


FIELDS = field_table(RunConfig)
_LATER = ("warmup", "schedule", "changes")


def option(name: str) -> str:
    """The command-line option of a setting."""
    return "--" + name.replace("_", "-")


@dataclass(frozen=True)
class Preset:
    label: str
    sentence: str
    changes: Mapping[str, Any]

    def apply(self, config: RunConfig) -> RunConfig:
        """The preset's net, keeping the reader's data set, device and seed."""
        kept = {name: getattr(config, name) for name in ("dataset", "device", "seed")}
        return RunConfig(**{**kept, **self.changes})


PRESETS: dict[str, Preset] = {
    "vanishing-sigmoid": Preset(
        "Vanishing: sigmoid",
        "Twelve sigmoid blocks: each convolution keeps about 1/8 of the gradient.",
        dict(activation="sigmoid"),
    ),
    "vanishing-relu": Preset(
        "Vanishing: relu",
        "Relu shrinks it too, to about 1/3 per convolution: the wall only comes later.",
        dict(activation="relu"),
    ),
    "exploding-init": Preset(
        "Exploding init",
        "Weights from U(−0.5, 0.5): the backward signal grows 3.5-fold per convolution.",
        dict(activation="relu", init_range=0.5),
    ),
    "batch-norm": Preset(
        "Cure: batch norm",
        "Relu with batch norm: the gradient no longer vanishes; at 60 blocks look again.",
        dict(activation="relu", batch_norm=True),
    ),
    "shortcut": Preset(
        "Cure: shortcut",
        "Relu with shortcut: the gradient reaches the first layer past the convolutions.",
        dict(activation="relu", shortcut=True),
    ),
    "critical-init": Preset(
        "Cure: critical init",
        "Relu with block weights from ±0.141: the signal neither shrinks nor grows, without any new layer; "
        "steps of 0.001 would tear it down again.",
        dict(activation="relu", init="critical", lr=3e-4),
    ),
    "lsuv": Preset(
        "Cure: LSUV init",
        "Each layer is scaled on real images until it hands on variance 1, before the training begins.",
        dict(activation="relu", init="lsuv"),
    ),
    "feedback": Preset(
        "Trial: negative feedback",
        "A controller per layer brings the backward signal up. Watch the gradient recover, and ask whether the net learns.",
        dict(activation="sigmoid", treatment="feedback", threshold=1e-3),
    ),
}

def config_of(run: Run[Recipe] | Summary[Recipe] | None) -> RunConfig | None:
    """The settings of a deep LeNet's run; None for another net's, and for no run."""
    return run.recipe if run is not None and isinstance(run.recipe, RunConfig) else None


READERS = {"": RunConfig.from_dict}  # what RunStore reads recipes with: a kept config names no kind
