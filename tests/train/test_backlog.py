"""What a step leaves is worked out later: it is what it would have been at once, nobody waits in vain, and nothing is lost."""

import gc
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
from gradviz.train.notebook import as_html


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


def test_one_step_that_cannot_be_worked_out_takes_no_other_with_it_and_an_interrupt_takes_none(tmp_path, monkeypatch):
    work_out, bad = backlog.work_out, []

    def sometimes(looks):
        if threading.current_thread() is threading.main_thread() and not bad:
            bad.append(looks[2])
            raise KeyboardInterrupt
        if bad and any(look is bad[0] for look in looks):
            raise ZeroDivisionError("of ours")
        work_out(looks)

    monkeypatch.setattr(backlog, "work_out", sometimes)
    monkeypatch.setattr("gradviz.record.spool.EVERY", 60)  # nobody else comes to it
    training = Training(tmp_path)
    training.step(5)
    with pytest.raises(KeyboardInterrupt):
        training.run.quantity("update_ratio")
    assert (training.run.quantity("update_ratio") > 0).all(1).tolist() == [True, True, False, True, True]
    assert "of ours" in str(training.run.message)


class Late(nn.Module):
    """A layer of it is made in its fifth pass."""

    def __init__(self):
        super().__init__()
        self.first, self.last, self.late, self.passes = nn.Linear(5, 6), nn.Linear(6, 3), nn.LazyLinear(3), 0

    def forward(self, x):
        h, self.passes = torch.relu(self.first(x)), self.passes + 1
        if self.passes < 5:
            return self.last(h)
        torch.manual_seed(self.passes)
        with torch.no_grad():
            beside = self.late(h)
        self.late.requires_grad_(False)
        return self.last(h) + beside


def test_a_layer_that_is_made_late_moves_no_number_to_another_step(tmp_path):
    data = (torch.ones(4, 5) * torch.arange(4.0)[:, None], torch.tensor([0, 1, 2, 0]))
    together, apart = Training(tmp_path, Late, data), Training(tmp_path, Late, data)
    together.step(8)
    for _ in range(8):
        apart.step()
        apart.run.quantity("weight_rms")
    assert not together.run.message and together.run.missing == apart.run.missing
    for quantity in MEASURED:
        np.testing.assert_array_equal(together.run.quantity(quantity), apart.run.quantity(quantity))


class Aside(nn.Module):
    """A layer of it is called, and nothing comes of that."""

    def __init__(self):
        super().__init__()
        self.first, self.aside = nn.Linear(5, 3), nn.Linear(5, 3)

    def forward(self, x):
        self.aside(x)
        return self.first(x)


def test_a_layer_that_was_called_is_not_said_to_be_unused_because_it_is_gone_when_that_is_asked(tmp_path):
    training = Training(tmp_path, Aside, (torch.ones(2, 5), torch.tensor([0, 1])))
    training.step()
    training.model.aside = None
    said = training.run.missing["aside"]
    assert said["weight_grad_rms"] == "watch-no-gradient" and said["signal_rms"] == "watch-no-pass"


def test_a_net_that_is_dropped_while_somebody_asks_for_its_numbers_ends_and_nobody_hangs(tmp_path):
    training = Training(tmp_path)
    training.model.itself = [training.model]  # only the garbage collector can find its end
    training.step(3)
    run = training.run
    del training.model, training.optimizer

    def ask():
        kept = []
        while run.status.live:
            kept.append([run.quantity("update_ratio")])  # more and more, for which the collector is called

    asking, usual = threading.Thread(target=ask, daemon=True), gc.get_threshold()
    gc.set_threshold(100, 2, 2)
    try:
        asking.start()
        asking.join(60)
    finally:
        gc.set_threshold(*usual)
    assert not asking.is_alive() and read_spool(run.path).status is Status.FINISHED


@pytest.mark.trains
@pytest.mark.parametrize("reader", ["training", "recorder"])
def test_a_net_whose_end_the_garbage_collector_finds_amid_the_work_has_all_its_steps_in_its_file(reader, tmp_path, monkeypatch):
    training, work_out = Training(tmp_path), backlog.work_out
    ended, stepped = [], []

    def amid(looks):
        if stepped and not ended:
            ended.append(threading.current_thread())
            training.run.close()  # what the collector would call, in this very thread
        work_out(looks)

    monkeypatch.setattr(backlog, "work_out", amid)
    if reader == "training":
        monkeypatch.setattr("gradviz.record.spool.EVERY", 60)
    weights = [weight for weight in training.model.parameters() if weight.dim() > 1]
    weights[0].requires_grad_(False)
    training.step(16)
    weights[0].requires_grad_(True)
    training.step(3)
    stepped.append(True)
    training.step()
    if reader == "training":
        waiting = threading.Thread(target=lambda: training.run.run, daemon=True)
        waiting.start()
        waiting.join(60)
        assert not waiting.is_alive()
    until(lambda: read_spool(training.run.path).status is Status.FINISHED if training.run.path.exists() else False)
    assert ended and training.run.status is Status.FINISHED
    history = read_spool(training.run.path).history
    assert history.steps == 20 and (history.quantity("weight_grad_rms")[16:] > 0).all()
    assert not training.run.missing and not read_spool(training.run.path).missing  # of the last look, not of one done twice


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


def test_a_run_that_is_printed_amid_its_first_step_shows_that_there_is_nothing_yet(tmp_path, monkeypatch):
    """By another thread, a notebook's say: the run is there before its first step is."""
    said, append = [], backlog.Backlog.append

    def printed(self, record, look):
        said.append((str(training.run), as_html(training.run)))
        append(self, record, look)

    monkeypatch.setattr(backlog.Backlog, "append", printed)
    training = Training(tmp_path)
    training.step()
    training.run.close()
    assert said == [(said[0][0], said[0][1])] and "running" in said[0][0] and "No step yet" in said[0][1]
    assert training.run.run.history.steps == 1 and not training.run.message
