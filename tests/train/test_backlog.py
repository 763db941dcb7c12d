"""What a step leaves is worked out later: it is what it would have been at once, nobody waits in vain, and nothing is lost."""

import os
import signal
import sys
import threading

import numpy as np
import pytest
import torch
from timing import until
from torch import nn
from watched_nets import Mlp, Recurrent, UNet, features, images, loss_on, tokens

import gradviz
from gradviz.record.run import Status
from gradviz.record.spool import read_spool
from gradviz.record.watched import MEASURED
from gradviz.train import backlog


class Training:
    """A net that is watched at every step; `optimizer` holds all of its weights."""

    def __init__(self, folder, make=Mlp, data=None):
        torch.manual_seed(0)
        self.model, self.loss = make(), loss_on(data or features())
        self.optimizer = torch.optim.Adam(self.model.parameters(), 0.01)
        self.run = gradviz.watch(self.model, self.optimizer, every=1, folder=folder)

    def step(self, count=1):
        for _ in range(count):
            self.optimizer.zero_grad()
            self.loss(self.model).backward()
            self.optimizer.step()


@pytest.mark.trains
@pytest.mark.parametrize("make, data", [(Mlp, features()), (Recurrent, tokens()), (UNet, images())])
def test_steps_that_are_worked_out_together_are_to_the_last_bit_those_that_are_read_one_by_one(make, data, tmp_path):
    together, apart = Training(tmp_path, make, data), Training(tmp_path, make, data)
    together.step(40)
    for step in range(40):
        apart.step()
        assert apart.run.run.history.steps == step + 1
    for quantity in MEASURED:
        np.testing.assert_array_equal(together.run.quantity(quantity), apart.run.quantity(quantity))
    assert together.run.missing == apart.run.missing
    assert together.run.quantity("weight_grad_rms").shape[0] == 40 and (together.run.quantity("weight_grad_rms") > 0).all()


def test_why_a_number_is_missing_is_said_as_it_was_at_its_step_whatever_becomes_of_the_net(tmp_path, monkeypatch):
    work_out, reading = backlog.work_out, threading.Event()
    monkeypatch.setattr(backlog, "work_out", lambda looks: reading.wait(60) and work_out(looks))  # no sooner than below
    training = Training(tmp_path)
    weights = {name.removesuffix(".weight"): w for name, w in training.model.named_parameters() if w.dim() > 1}
    frozen, *others = list(weights)
    weights[frozen].requires_grad_(False)
    training.step()
    weights[frozen].requires_grad_(True)
    for name in others:
        weights[name].requires_grad_(False)
    training.optimizer.zero_grad()
    for layer in training.model.modules():
        if hasattr(layer, "weight"):
            del layer.weight
    reading.set()
    missing = training.run.missing
    assert list(missing) == [frozen] and set(missing[frozen].values()) == {"watch-frozen"}


def test_a_training_that_stands_still_after_a_step_has_it_in_its_file_soon(tmp_path):
    training = Training(tmp_path)
    training.step(3)

    until(lambda: training.run.path.exists() and read_spool(training.run.path).history.steps == 3)
    history = read_spool(training.run.path).history
    assert (history.quantity("update_ratio") > 0).all() and (history.quantity("signal_rms") > 0).all()


@pytest.mark.trains
def test_never_do_more_than_some_steps_wait_and_those_of_a_large_net_not_at_all(tmp_path, monkeypatch):
    done, work_out = [], backlog.work_out
    monkeypatch.setattr(backlog, "work_out", lambda looks: done.append(len(looks)) or work_out(looks))
    training = Training(tmp_path)
    training.step(200)
    assert sum(done) >= 200 - 64 and max(done) <= 16
    done.clear()
    layers = [nn.Linear(6, 6) for _ in range(4001)]
    large = Training(tmp_path, lambda: nn.Sequential(*layers), (torch.ones(2, 6), torch.zeros(2).long()))
    large.step(2)
    assert sum(done) >= 2


def test_a_fault_in_what_is_worked_out_ends_the_watch_in_a_sentence_and_not_the_training(tmp_path, monkeypatch):
    def fails(looks):
        raise ZeroDivisionError("of ours")

    monkeypatch.setattr(backlog, "work_out", fails)
    training = Training(tmp_path)
    training.step(2)
    assert training.run.quantity("update_ratio").max() < 0 and "of ours" in str(training.run.message)
    training.step(2)
    training.run.close()
    assert training.run.status is Status.FINISHED and training.run.run.history.steps == 2


@pytest.mark.parametrize("reader", ["training", "recorder"])
def test_a_net_whose_end_the_garbage_collector_finds_amid_the_work_has_all_its_steps_in_its_file(reader, tmp_path, monkeypatch):
    training, work_out = Training(tmp_path), backlog.work_out
    ended = []

    def amid(looks):
        if not ended:
            ended.append(threading.current_thread())
            training.run.close()  # what the collector would call, in this very thread
        work_out(looks)

    monkeypatch.setattr(backlog, "work_out", amid)
    training.step(2)
    if reader == "training":
        waiting = threading.Thread(target=lambda: training.run.run, daemon=True)
        waiting.start()
        waiting.join(60)
        assert not waiting.is_alive()
    until(lambda: read_spool(training.run.path).status is Status.FINISHED if training.run.path.exists() else False)
    assert ended and training.run.status is Status.FINISHED
    history = read_spool(training.run.path).history
    assert history.steps == 2 and (history.quantity("weight_grad_rms") > 0).all()


@pytest.mark.skipif(sys.platform == "win32", reason="nothing is forked off there")
def test_a_process_that_is_forked_off_amid_the_work_reads_what_there_is_and_waits_for_nobody(tmp_path, monkeypatch):
    amid, on, work_out = threading.Event(), threading.Event(), backlog.work_out

    def slowly(looks):
        amid.set()
        on.wait(60)
        work_out(looks)

    monkeypatch.setattr(backlog, "work_out", slowly)
    training = Training(tmp_path)
    training.step(2)
    other = threading.Thread(target=lambda: training.run.run)
    other.start()
    assert amid.wait(60)
    child = os.fork()
    if not child:
        signal.alarm(30)
        os._exit(0 if training.run.quantity("update_ratio").shape[0] == 2 and str(training.run) else 1)
    assert os.waitpid(child, 0)[1] == 0
    on.set()
    other.join()
    assert (training.run.quantity("update_ratio") > 0).all()
