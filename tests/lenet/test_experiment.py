"""How a config and a data set become a training."""

import pytest
import torch

from gradviz.lenet.config import RunConfig
from gradviz.lenet.data import Dataset, Shelf
from gradviz.lenet.experiment import resolve_device, training
from gradviz.lenet.fields import ConfigError
from gradviz.record.run import Status

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def digits(tmp_path_factory) -> Dataset:
    return Shelf(tmp_path_factory.mktemp("data"), download=False).load("digits")


def config(**changes) -> RunConfig:
    return RunConfig(**{**dict(activation="relu", blocks=2, dataset="digits", batch_size=16, steps=12), **changes})


def test_a_device_that_is_not_there_is_refused_with_what_there_is():
    if torch.cuda.is_available():
        pytest.skip("this machine has a CUDA device")
    with pytest.raises(ConfigError, match="it has .*cpu"):
        resolve_device("cuda")


def few(digits: Dataset, train: int, test: int = 3) -> Dataset:
    return Dataset("few", digits.train_images[:train], digits.train_labels[:train],
                   digits.test_images[:test], digits.test_labels[:test])  # fmt: skip


@pytest.mark.timeout(60)
@pytest.mark.parametrize("images, size", [(15, 16), (1, 2), (0, 1)])
def test_fewer_images_than_a_batch_are_refused_and_not_waited_for(digits, images, size):
    with pytest.raises(ConfigError, match=rf"\(batch_size\) must be at most {images}, .* {size} is not") as refused:
        training(config(batch_size=size, init="lsuv"), few(digits, images), CPU).preview()
    assert refused.value.field == "batch_size"


@pytest.mark.timeout(60)
@pytest.mark.parametrize("images, size", [(16, 16), (17, 16), (1, 1)])
@pytest.mark.parametrize("norm", [dict(batch_norm=True, init="lsuv"), dict(other_norm="group", shortcut=True)])
def test_an_epoch_of_one_batch_trains_like_any(digits, images, size, norm):
    trainer = training(config(batch_size=size, steps=5, **norm), few(digits, images, test=1), CPU)
    assert [record.step for record in trainer] == list(range(5)) and trainer.outcome.status is Status.FINISHED
