"""The diagnosis of a run. For a deep LeNet it has what is known of such nets: chance, the likely cause, the next experiment."""

from __future__ import annotations

import math
from dataclasses import replace

from gradviz.diagnosis import examine as any_net
from gradviz.diagnosis.examine import Diagnosis, examine
from gradviz.diagnosis.findings import Verdict
from gradviz.diagnosis.state import LOUD_TIMES, Facts, State
from gradviz.lenet.activations import ACTIVATIONS
from gradviz.lenet.causes import Case, likely_cause
from gradviz.lenet.config import RunConfig
from gradviz.lenet.next_experiment import LONGEST, next_experiment
from gradviz.messages import Message
from gradviz.record.recipe import Recipe
from gradviz.record.run import Run

CHANCE = math.log(10)  # loss of a net that gives each of the ten classes 1/10, in nats
LOUD = LOUD_TIMES * CHANCE

OWN_WORDS = {  # of blocks, convolutions and images, where any other net has layers and inputs
    "dead": "lenet-dead",
    "vanished": "lenet-vanished",
    "saturated": "lenet-saturated",
    "measured-factor": "lenet-measured-factor",
    "measured-loss-chance": "lenet-measured-loss-chance",
    "measured-zeros": "lenet-measured-zeros",
    "measured-dead": "lenet-measured-dead",
    "measured-saturation": "lenet-measured-saturation",
    "measured-activation": "lenet-measured-activation",
    "turn-vanishes": "lenet-turn-vanishes",
    "turn-vanishes-no-longer": "lenet-turn-vanishes-no-longer",
    "turn-explodes": "lenet-turn-explodes",
    "turn-explodes-no-longer": "lenet-turn-explodes-no-longer",
}


def diagnose(run: Run[Recipe], column: int | None = None) -> Diagnosis:
    """See `examine`; of a net that is no deep LeNet, that is all."""
    config = run.recipe
    if not isinstance(config, RunConfig):
        return examine(run, column)

    def explain(state: State, diagnosis: Diagnosis) -> Diagnosis:
        case = Case(state, config.at(_step(run, column)), frozenset(diagnosis.findings))
        return replace(diagnosis, likely_cause=tuple(likely_cause(case)), next_experiment=next_experiment(case))

    return examine(run, column, facts(config, _step(run, column)), explain)


def headline(run: Run[Recipe], column: int | None = None) -> tuple[Verdict, Message]:
    """The verdict and the sentence of `diagnose`, for lists and cards."""
    config = run.recipe
    return any_net.headline(run, column, facts(config, _step(run, column)) if isinstance(config, RunConfig) else None)


def _step(run: Run[Recipe], column: int | None) -> int:
    """That of the column; the last one without."""
    last = max(0, run.history.steps - 1)
    return last if column is None or column == -1 else min(last, column % max(1, len(run.history.columns)) * run.history.stride)


def facts(config: RunConfig, step: int = 0) -> Facts:
    """As they are known of this step."""
    now, layout, activation = config.knobs(step), config.layout, ACTIVATIONS[config.activation]
    before_logits = range(len(layout) - 1)
    own = before_logits if config.activation_everywhere else layout.inside
    return Facts(
        chance=CHANCE,
        longest=LONGEST,
        rectified=frozenset(row for row in before_logits if row not in own or activation.lost == "dead"),
        sigmoids=layout.inside if activation.lost == "saturated" else range(0),
        adam=now.optimizer == "adam",
        lr=config.rate(step),
        treatment="" if now.treatment == "none" else now.treatment,
        opens_at_zero=config.branch_scale == "skip-init",
        own_words=OWN_WORDS,
    )
