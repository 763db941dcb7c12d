"""The diagnosis of a net that nobody here knows: three layers with odd names, no blocks, no steps asked for."""

import json
import math
import string
from dataclasses import replace

import numpy as np
import pytest
from odd import OddRecipe

from gradviz.diagnosis.examine import Diagnosis, examine
from gradviz.diagnosis.findings import Verdict
from gradviz.diagnosis.state import Facts
from gradviz.lenet.config import RunConfig
from gradviz.lenet.diagnosis import CHANCE, OWN_WORDS, diagnose
from gradviz.messages import MESSAGES, Message
from gradviz.record.history import History
from gradviz.record.quantities import QUANTITIES
from gradviz.record.run import Run, Status
from gradviz.record.watched import ABSENT

OF_OTHERS = "block relu sigmoid convolution chance guess class image logit -1.0 {".split()


def recorded(columns: int = 8, loss: float | list[float] = 0.7, **layers: object) -> Run:
    """A run of this net with these numbers of its three layers, in the order of the forward pass, and 0.01 elsewhere."""
    table = np.full((columns, len(QUANTITIES), 3), 0.01, np.float32)
    for name, values in layers.items():
        table[:, list(QUANTITIES).index(name)] = values
    scalars = np.full((columns, 3), 0.5)
    scalars[:, 0] = loss
    return Run(OddRecipe(), History.restored(table, scalars, [], 1, 1000), Status.RUNNING)


def messages(diagnosis: Diagnosis) -> list[Message]:
    return [diagnosis.sentence, *diagnosis.evidence, *(what for _step, what in diagnosis.turned_at)]


RISING = np.logspace(-9, -2, 60)[:, None] * [1.0, 0, 0] + [0, 0.01, 0.01]
STORIES = {
    "healthy": (recorded(), Verdict.HEALTHY),
    "vanishing": (recorded(weight_grad_rms=[2e-9, 1e-5, 2e-2]), Verdict.VANISHING),
    "vanished": (recorded(weight_grad_rms=[0, 1e-5, 1e-2]), Verdict.VANISHED),
    "vanished altogether": (recorded(weight_grad_rms=0), Verdict.VANISHED),
    "exploding": (recorded(signal_rms=[1e7, 1e2, 1e-2]), Verdict.EXPLODING),
    "steep gradients": (recorded(weight_grad_rms=[1e7, 1e2, 1e-2]), Verdict.EXPLODING),
    "recovering": (recorded(30, weight_grad_rms=RISING[:30]), Verdict.RECOVERING),
    "recovered": (recorded(60, weight_grad_rms=RISING), Verdict.HEALTHY),
    "diverged": (recorded(activation_rms=[1, math.inf, math.nan]), Verdict.DIVERGED),
    "diverged in its loss": (recorded(loss=[1.0] * 7 + [math.inf]), Verdict.DIVERGED),
    "useless steps": (recorded(update_ratio=1e-9), Verdict.UNUSABLE),
    "silent": (recorded(activation_rms=[1, 0, 1]), Verdict.HEALTHY),
    "no loss": (recorded(loss=math.nan), Verdict.HEALTHY),
    "a loss of another kind": (recorded(300, loss=list(np.linspace(-50, -60, 300))), Verdict.HEALTHY),
    "nothing measured": (recorded(weight_grad_rms=ABSENT), Verdict.WAITING),
    "only gradients are measured": (
        recorded(weight_grad_rms=[1e7, 1e2, 1e-2], signal_rms=ABSENT, activation_rms=ABSENT, update_ratio=ABSENT),
        Verdict.EXPLODING,
    ),
    "an update is not measured": (recorded(update_ratio=[0.1, 0.1, ABSENT]), Verdict.HEALTHY),
    "the signal is not measured": (recorded(signal_rms=ABSENT, update_ratio=ABSENT), Verdict.HEALTHY),
}


@pytest.mark.parametrize("story", STORIES)
def test_a_net_that_nobody_knows_gets_a_verdict_with_evidence_but_neither_cause_nor_next_experiment(story):
    run, verdict = STORIES[story]
    for column in (0, len(run.history.columns) // 2, None):
        diagnosis = diagnose(run, column)
        assert diagnosis.likely_cause == () and diagnosis.next_experiment is None
        assert diagnosis.evidence or verdict is Verdict.WAITING
        for text in map(str, messages(diagnosis)):
            assert not [word for word in OF_OTHERS if word in text.lower()], text
            assert verdict is Verdict.DIVERGED or "nan" not in text.split(), text
    assert diagnosis.verdict is verdict


def test_its_sentences_name_its_layers_and_the_numbers_of_its_record():
    diagnosis = diagnose(STORIES["vanishing"][0])
    assert str(diagnosis.sentence) == (
        "Vanishing: the gradient of encoder.0.weight is 1.0·10⁻⁷ of out.proj's (2.0·10⁻⁹ against 0.020); "
        "the loss is 0.70, and was 0.70 at step 0."
    )
    assert "A line through its log gives a factor of 0.001 per layer." in str(
        diagnose(recorded(signal_rms=[1e-8, 1e-5, 1e-2])).evidence[1]
    )
    assert "encoder.0.weight" in str(diagnose(STORIES["diverged"][0]).evidence[0])
    assert "first appears in mixer.π/in" in str(diagnose(STORIES["diverged"][0]).sentence)
    zeros = diagnose(STORIES["vanished"][0])
    assert str(zeros.sentence).startswith("Vanished to exact zero: in 1 of the 3 layers, up to encoder.0.weight,")
    assert any(str(line) == "Silent: mixer.π/in hands on exactly 0 for every input." for line in
               diagnose(STORIES["silent"][0]).evidence)  # fmt: skip
    step, what = diagnose(STORIES["recovered"][0]).turned_at[0]
    assert what.code == "turn-grown" and RISING[step, 0] >= 10 * RISING[0, 0] > RISING[step - 5, 0]


def test_a_frozen_layer_is_left_out_and_the_next_one_is_judged():
    frozen = recorded(weight_grad_rms=[ABSENT, 1e-8, 1e-2], update_ratio=[ABSENT, 1e-3, 1e-3])
    diagnosis = diagnose(frozen)
    assert diagnosis.verdict is Verdict.VANISHING
    assert str(diagnosis.sentence).startswith("Vanishing: the gradient of mixer.π/in is 1.0·10⁻⁶ of out.proj's")
    assert not any("encoder" in str(message) for message in messages(diagnosis))

    gradients = np.full((8, 3), 0.02)
    gradients[:6, 0] = ABSENT  # thawed two columns ago: not yet most of those that are judged
    thawed = diagnose(recorded(weight_grad_rms=gradients))
    assert str(thawed.sentence).startswith("Healthy so far: mixer.π/in gets a gradient of 0.020, out.proj 0.020")


def test_a_loss_that_nobody_tells_is_no_divergence_and_one_told_now_and_then_is_read_where_it_was():
    untold = diagnose(STORIES["no loss"][0])
    assert str(untold.sentence).endswith("; the loss was not told.")
    assert not any("loss" in message.code for message in untold.evidence)
    seldom = diagnose(recorded(loss=[math.nan, 0.5, math.nan, 0.4, math.nan, math.nan, 0.3, math.nan]))
    assert str(seldom.sentence).endswith("; the loss is 0.40, and was 0.50 at step 1.")
    assert "Loss: 0.40, mean of steps 1 to 6." in map(str, seldom.evidence)


def test_a_net_that_is_measured_at_every_tenth_step_is_judged_by_those():
    table = np.full((100, 3), ABSENT)
    table[::10] = RISING[::6]
    diagnosis = diagnose(recorded(100, weight_grad_rms=table, signal_rms=np.where(table < 0, table, 0.01)), 75)
    step, what = diagnosis.turned_at[0]
    every = diagnose(recorded(10, weight_grad_rms=RISING[::6]), 7)
    assert diagnosis.verdict is every.verdict is Verdict.RECOVERING
    assert (step, what.code) == (10 * every.turned_at[0][0], "turn-grown")


def test_what_is_known_of_a_net_is_judged_too():
    stuck = recorded(300, loss=1.1)
    assert examine(stuck).findings == (Verdict.HEALTHY,)
    assert examine(stuck, facts=Facts(chance=math.log(3))).findings == (Verdict.STUCK,)
    learnt = recorded(300, loss=0.4)
    assert examine(learnt, facts=Facts(chance=math.log(3))).findings == (Verdict.HEALTHY, Verdict.LEARNING)
    silent = STORIES["silent"][0]
    assert examine(silent, facts=Facts(rectified=(0, 1))).verdict is Verdict.DEAD
    assert examine(silent, facts=Facts(rectified=(0,))).verdict is Verdict.HEALTHY
    assert examine(recorded(activation_rms=0.9), facts=Facts(sigmoids=range(2))).verdict is Verdict.SATURATED
    first = recorded(1, update_ratio=math.nan)
    assert examine(first, facts=Facts(lr=1e-7)).verdict is Verdict.UNUSABLE
    assert examine(first).verdict is examine(first, facts=Facts(lr=1e-3)).verdict is Verdict.HEALTHY


@pytest.mark.parametrize("story", STORIES)
def test_a_diagnosis_is_codes_and_numbers_that_survive_json_and_say_the_same_afterwards(story):
    for message in messages(diagnose(STORIES[story][0])):
        kept = json.dumps(message.to_json())
        assert str(message) not in kept or not message.arguments
        assert str(Message.from_json(json.loads(kept))) == str(message)


def test_a_deep_lenet_says_in_its_own_words_what_the_others_say_with_the_same_arguments():
    def arguments(code: str) -> set[str | None]:
        return {name for _text, name, _spec, _conversion in string.Formatter().parse("".join(MESSAGES[code]))} - {None}

    for code, own in OWN_WORDS.items():
        assert arguments(own) <= arguments(code), code
        assert MESSAGES[own] != MESSAGES[code]


def test_a_layer_of_the_stem_can_be_dead_in_a_net_without_blocks():
    config = RunConfig(blocks=0, steps=30)  # its stem has relu, whatever the activation of the blocks
    table = np.full((8, len(QUANTITIES), 5), 0.01, np.float32)
    table[:, list(QUANTITIES).index("activation_rms"), 1] = 0
    run = Run(config, History.restored(table, np.full((8, 3), CHANCE), [], 1, 1000), Status.FINISHED)
    assert diagnose(run).verdict is Verdict.DEAD and "conv2" in str(diagnose(run).sentence)
    everywhere = replace(run, recipe=replace(config, activation_everywhere=True))
    assert Verdict.DEAD not in diagnose(everywhere).findings
