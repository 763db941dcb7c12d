"""The callbacks of Lightning and Hugging Face, against a plain loop: accumulation over two batches, and clipping."""

import copy
import logging
import warnings
from contextlib import contextmanager

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
from watched_nets import Mlp, features, rms, row, torchvision_models

import gradviz
from gradviz.record.run import Status
from gradviz.record.spool import read_spool
from gradviz.record.watched import MEASURED

BATCHES, LR, CLIP = 6, 0.1, 0.05


def data():
    return TensorDataset(*features(4 * BATCHES))


def batches():
    return DataLoader(data(), batch_size=4)


@pytest.fixture
def net():
    torch.manual_seed(0)
    return Mlp()


@pytest.fixture
def plain(net, tmp_path):
    """The watched plain loop: (run, what was measured by hand of its last step: layer -> raw and treated gradient, losses)."""
    model = copy.deepcopy(net)
    optimizer = torch.optim.SGD(model.parameters(), LR)
    run, losses, loss = gradviz.watch(model, optimizer, every=1, folder=tmp_path / "plain"), [], 0.0
    for number, (x, y) in enumerate(batches()):
        part = nn.functional.cross_entropy(model(x), y) / 2
        part.backward()
        loss += part.item()
        if number % 2:
            raw = {layer: rms(model.get_submodule(layer).weight.grad) for layer in ("first", "second", "last")}
            nn.utils.clip_grad_norm_(model.parameters(), CLIP)
            treated = {layer: rms(model.get_submodule(layer).weight.grad) for layer in raw}
            optimizer.step()
            optimizer.zero_grad()
            losses.append(loss)
            loss = 0.0
    run.close()
    return run, raw, treated, losses


def check(callback, net, plain):
    run, (other, raw, treated, losses) = callback.run, plain
    assert run.status is Status.FINISHED and run.run.history.steps == other.run.history.steps == BATCHES // 2
    assert run.layers == ("first", "second", "last") and run.missing == other.missing
    for name in MEASURED:
        np.testing.assert_allclose(run.quantity(name), other.quantity(name), rtol=1e-6, atol=0, err_msg=name)
    for name, truth in (("weight_grad_rms", raw), ("treated_grad_rms", treated)):
        assert row(run, name) == pytest.approx(truth, rel=1e-5)
    assert treated["last"] < 0.5 * raw["last"]
    np.testing.assert_allclose(run.run.history.loss, losses, rtol=1e-6)
    np.testing.assert_array_equal(read_spool(run.path).history.loss, run.run.history.loss)
    assert not any(module._forward_hooks or module._backward_hooks for module in net.modules())


# --- Lightning -------------------------------------------------------------------------------------------------------


def lightning_trainer(callback, **more):
    import lightning.pytorch as pl

    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    quiet = dict(logger=False, enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False)
    return pl.Trainer(max_epochs=1, accelerator="cpu", devices=1, callbacks=[callback], **quiet, **more)


def lightning_module(net, fail_at=None):
    import lightning.pytorch as pl

    class Module(pl.LightningModule):
        def __init__(self):
            super().__init__()
            self.first, self.second, self.last = net.first, net.second, net.last

        def forward(self, x):
            return Mlp.forward(self, x)

        def training_step(self, batch, number):
            if number == fail_at:
                raise ZeroDivisionError
            return nn.functional.cross_entropy(self(batch[0]), batch[1])

        def validation_step(self, batch, number):
            self(batch[0])

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), LR)

    return Module()


@contextmanager
def torchvision_at_hand():
    """torchmetrics and transformers import it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torchvision_models()
        yield


@pytest.fixture
def lightning():
    with torchvision_at_hand():
        yield gradviz.lightning


def test_a_training_of_lightning_with_accumulation_clipping_and_validation_has_the_numbers_of_the_plain_loop(
    lightning, net, plain, tmp_path
):
    callback = lightning.WatchCallback(every=1, folder=tmp_path, title="Mine")
    module = lightning_module(net)
    trainer = lightning_trainer(callback, accumulate_grad_batches=2, gradient_clip_val=CLIP, val_check_interval=2)
    trainer.fit(module, batches(), batches())
    check(callback, module, plain)
    assert callback.run.run.recipe.title == "Mine"


def test_an_option_that_watch_does_not_know_is_an_error_at_once(lightning):
    with pytest.raises(TypeError, match="evry"):
        lightning.WatchCallback(evry=1)


def test_a_training_of_lightning_that_fails_has_failed_of_its_kind_and_may_begin_again(lightning, net, tmp_path):
    callback = lightning.WatchCallback(every=1, folder=tmp_path)
    with pytest.raises(ZeroDivisionError):
        lightning_trainer(callback).fit(lightning_module(net, fail_at=2), batches())
    assert callback.run.status is Status.FAILED and "ZeroDivisionError" in str(callback.run.message)
    assert callback.run.run.history.steps == 2
    lightning_trainer(callback).fit(lightning_module(net), batches())
    assert callback.run.status is Status.FINISHED and callback.run.run.history.steps == BATCHES
    assert len(list((tmp_path / "watched").iterdir())) == 2


# --- Hugging Face ----------------------------------------------------------------------------------------------------


def hugging_face(callback, net, folder, **more):
    import transformers

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second, self.last = net.first, net.second, net.last

        def forward(self, x, labels):
            out = Mlp.forward(self, x)
            return {"loss": nn.functional.cross_entropy(out, labels), "logits": out}

    class Trainer(transformers.Trainer):
        def get_train_dataloader(self):  # in order, not shuffled
            return self.accelerator.prepare(DataLoader(self.train_dataset, batch_size=4))

    model = Net()
    x, y = features(4 * BATCHES)
    arguments = transformers.TrainingArguments(
        output_dir=str(folder), num_train_epochs=1, learning_rate=LR, lr_scheduler_type="constant", optim="sgd", use_cpu=True,
        report_to=[], save_strategy="no", disable_tqdm=True, **more,
    )  # fmt: skip
    rows = [{"x": each, "labels": label} for each, label in zip(x, y, strict=True)]
    Trainer(model, arguments, train_dataset=rows, callbacks=[callback]).train()
    return model


@pytest.fixture
def transformers():
    with torchvision_at_hand():
        yield gradviz.transformers


def test_a_training_of_hugging_face_with_accumulation_and_clipping_has_the_numbers_of_the_plain_loop(
    transformers, net, plain, tmp_path
):
    callback = transformers.WatchCallback(every=1, folder=tmp_path)
    model = hugging_face(callback, net, tmp_path, gradient_accumulation_steps=2, max_grad_norm=CLIP, logging_steps=1)
    check(callback, model, plain)


def test_a_mean_over_steps_that_hugging_face_logs_is_taken_for_no_step_s_loss(transformers, net, tmp_path):
    callback = transformers.WatchCallback(every=1, folder=tmp_path)
    hugging_face(callback, net, tmp_path, logging_steps=3, logging_first_step=True)
    assert callback.run.run.history.steps == BATCHES
    assert [step for step, loss in enumerate(callback.run.run.history.loss) if loss == loss] == [0]
