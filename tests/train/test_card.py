"""What only a CUDA card can show; GRADVIZ_TEST_CARD=cpu plays them on a processor, where no graph is captured."""

import logging
import os
import threading
from dataclasses import replace

import numpy as np
import pytest
import torch
from ways import WAYS

from gradviz.lenet.config import RunConfig
from gradviz.lenet.data import Shelf
from gradviz.lenet.experiment import training
from gradviz.record.quantities import QUANTITIES
from gradviz.record.run import Status

CARD = torch.device(os.environ.get("GRADVIZ_TEST_CARD", "cuda"))
pytestmark = [
    pytest.mark.trains,
    pytest.mark.skipif(CARD.type == "cuda" and not torch.cuda.is_available(), reason="no CUDA card"),
]
KEPT = list(QUANTITIES).index("update_ratio")


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    return Shelf(tmp_path_factory.mktemp("data"), download=False).load("digits")


@pytest.fixture(autouse=True)
def the_same_kernels_each_time():
    before = torch.backends.cudnn.deterministic
    torch.backends.cudnn.deterministic = True
    yield
    torch.backends.cudnn.deterministic = before


def config(**changes) -> RunConfig:
    return RunConfig(**{**dict(activation="relu", blocks=2, dataset="digits", batch_size=16, steps=24), **changes})


def launched(step):
    return step


@pytest.mark.parametrize("changes", WAYS, ids=str)
def test_the_graph_is_captured_and_gives_the_records_of_steps_launched_one_by_one(digits, changes, caplog):
    with caplog.at_level(logging.WARNING, "gradviz"):
        replayed = list(training(config(**changes), digits, CARD))
    assert not caplog.records
    for one, other in zip(replayed, training(config(**changes), digits, CARD, capture=launched), strict=True):
        assert one.loss == pytest.approx(other.loss, rel=1e-3)
        np.testing.assert_allclose(one.layers[:KEPT], other.layers[:KEPT], rtol=2e-2, err_msg=f"step {one.step}")


@pytest.mark.parametrize("changes", WAYS, ids=str)
def test_the_first_steps_are_those_of_the_processor(digits, changes):
    records = iter(training(config(**changes), digits, CARD))
    for step, other in zip(range(6), training(config(**changes), digits, torch.device("cpu")), strict=False):
        one = next(records)
        assert one.loss == pytest.approx(other.loss, rel=2e-3)
        np.testing.assert_allclose(one.layers[:KEPT], other.layers[:KEPT], rtol=2e-2, err_msg=f"step {step}")
    records.close()


def test_two_trainings_at_once_have_the_numbers_of_each_alone(digits):
    configs = [config(seed=seed, steps=60, optimizer="sgd", lr=0.01, shortcut=True) for seed in (0, 1)]
    alone = [list(training(one, digits, CARD)) for one in configs]
    found = {}

    def train(one: RunConfig) -> None:
        found[one.seed] = list(training(one, digits, CARD))

    threads = [threading.Thread(target=train, args=(one,)) for one in configs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for one in configs:
        mine, theirs = ([record.loss for record in each] for each in (found[one.seed], alone[one.seed]))
        assert mine == pytest.approx(theirs, rel=1e-3)


def test_a_training_that_is_let_go_leaves_the_card_to_the_next(digits):
    for steps in (3, 9, 15):
        records = iter(training(config(steps=200), digits, CARD))
        for _ in range(steps):
            next(records)
        records.close()
    trainer = training(config(), digits, CARD)
    assert len(list(trainer)) == 24 and trainer.outcome.status is Status.FINISHED


def test_a_divergence_is_found_at_its_step(digits):
    trainer = training(config(blocks=40, init_range=0.5), digits, CARD)
    assert len(list(trainer)) == 1 and trainer.outcome.status is Status.DIVERGED


def test_a_thousand_blocks_are_trained(digits):
    small = config(blocks=1000 if CARD.type == "cuda" else 4, shortcut=True, activation="sigmoid", steps=6)
    assert [record.step for record in training(replace(small, batch_size=8), digits, CARD)] == list(range(6))
