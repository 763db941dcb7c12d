"""Runs on their way from one machine to another: over HTTP, with a server that is away, with wrong words and with rubbish."""

import os
import random
import threading
from contextlib import contextmanager

import pytest
import torch
import uvicorn
from asgi import Question, ask_all
from spooled import NET, started, steps
from starlette.applications import Starlette
from timing import until
from torch import nn

import gradviz
from gradviz.__main__ import main
from gradviz.record.run import Status
from gradviz.record.sender import Delivery, Rejected, Sender, head_hash, is_address
from gradviz.record.spool import read_spool
from gradviz.serve.inbox import Inbox
from gradviz.settings import Limits
from gradviz.train.watch import WatchError
from gradviz.web.guard import Guard
from gradviz.web.ingest import ingest_routes

TOKEN = "correct-horse-battery"


def application(inbox: Inbox, token: str = TOKEN) -> Guard:
    return Guard(Starlette(routes=ingest_routes(lambda: inbox, lambda: token)), uploads="/api/watched/", rate=1e6, burst=10**6)


@contextmanager
def serving(app, port: int = 0):
    """Its address, while it is there."""
    server = uvicorn.Server(uvicorn.Config(app, port=port, log_level="error", lifespan="off"))
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        until(lambda: server.started)
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join()


@pytest.fixture
def inbox(tmp_path):
    inbox = Inbox(tmp_path / "there", Limits(), disk=lambda _: 10**12)
    yield inbox
    inbox.close()


def train(run, model, optimizer, count: int) -> None:
    for _ in range(count):
        optimizer.zero_grad()
        loss = model(torch.ones(2, 3)).square().sum()
        loss.backward()
        optimizer.step()
        run.log(loss=loss)


def net() -> tuple[nn.Module, torch.optim.Optimizer]:
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1))
    return model, torch.optim.SGD(model.parameters(), 0.01)


def test_a_watched_training_arrives_at_another_machines_server_whole(inbox, tmp_path, monkeypatch):
    monkeypatch.setenv("GRADVIZ_INGEST_TOKEN", TOKEN)
    model, optimizer = net()
    with serving(application(inbox)) as url:
        with gradviz.watch(model, optimizer, every=1, folder=tmp_path / "here", to=url) as run:
            train(run, model, optimizer, 5)
            until(lambda: (tmp_path / "there" / run.path.name).exists())
            train(run, model, optimizer, 5)
        arrived = tmp_path / "there" / run.path.name
        assert arrived.read_bytes() == run.path.read_bytes()
        assert read_spool(arrived).status is Status.FINISHED


def test_a_server_that_is_away_delays_nothing_and_gets_everything_once_it_is_back(inbox, tmp_path):
    app = application(inbox)
    with serving(app) as url:
        port = int(url.rsplit(":", 1)[1])
    writer, history = started(tmp_path)
    steps(history, 3)
    writer.write(history, {"status": "running"})
    told = []
    sender = Sender(writer.path, url, TOKEN, NET.id, told.append)
    until(lambda: told)
    assert told[0].code == "send-away" and url in str(told[0])
    steps(history, 3)
    writer.write(history, {"status": "running"})
    there = tmp_path / "there" / writer.path.name
    with serving(app, port):
        until(lambda: there.exists() and there.read_bytes() == writer.path.read_bytes())
        steps(history, 3)
        writer.write(history, {"status": "finished"})
        sender.close()
        assert there.read_bytes() == writer.path.read_bytes()


def test_a_run_too_large_for_one_part_comes_in_several_and_through_all_merges(inbox, tmp_path, monkeypatch):
    monkeypatch.setattr("gradviz.record.sender.LEAST_PART", 300)
    writer, history = started(tmp_path, columns=16)
    with serving(application(inbox)) as url:
        delivery = Delivery(writer.path, url, TOKEN, NET.id)
        for seed in range(12):
            steps(history, 5, seed)
            writer.write(history, {"status": "running"})
            assert delivery.bring() == writer.path.stat().st_size
            assert (tmp_path / "there" / writer.path.name).read_bytes() == writer.path.read_bytes()


@pytest.mark.parametrize("token, server", [("another-wrong-token!", TOKEN), (TOKEN, "")])
def test_without_the_servers_token_nothing_is_taken_and_the_sender_gives_up_with_its_words(token, server, inbox, tmp_path):
    writer, history = started(tmp_path)
    steps(history, 3)
    writer.write(history, {"status": "running"})
    with serving(application(inbox, server)) as url, pytest.raises(Rejected) as rejected:
        Delivery(writer.path, url, token, NET.id).bring()
    assert "GRADVIZ_INGEST_TOKEN" in str(rejected.value.message)
    assert not (tmp_path / "there").exists()


def test_two_senders_of_one_id_do_not_mix(inbox, tmp_path):
    files = []
    for name in ("a", "b"):
        writer, history = started(tmp_path / name)
        steps(history, 3, seed=ord(name))
        writer.write(history, {"status": "running"})
        files.append(writer.path)
    with serving(application(inbox)) as url:
        Delivery(files[0], url, TOKEN, NET.id).bring()
        with pytest.raises(Rejected, match="another's"):
            Delivery(files[1], url, TOKEN, NET.id).bring()
    assert (tmp_path / "there" / files[0].name).read_bytes() == files[0].read_bytes()


def test_ten_thousand_rubbish_requests_leave_no_file_and_no_error_behind(inbox, tmp_path):
    writer, history = started(tmp_path)
    steps(history, 3)
    writer.write(history, {"status": "running"})
    content = writer.path.read_bytes()
    head = head_hash(content[: content.find(b"\n") + 1])
    inbox.take(NET.id, head, 0, content)
    chance = random.Random(1)
    good = {"authorization": f"Bearer {TOKEN}"}

    def rubbish() -> Question:
        body = chance.choice([bytes(chance.choices(content, k=chance.randrange(60))), content[: chance.randrange(300)]])
        length = str(len(body)) if chance.random() < 0.7 else chance.choice(["", "-1", "1e9", "9" * 20, "999999999", "²", "x"])
        wrong = {"authorization": chance.choice(["", "é", TOKEN])}
        headers = {"content-length": length} | (good if chance.random() < 0.8 else wrong)
        run_id = chance.choice([NET.id, f"watched-{chance.getrandbits(64):016x}", "..", "%2e%2e", "a" * 300, "\0"])
        queries = [f"head={head}&offset={len(content)}", f"head={'0' * 32}&offset=0", f"offset={chance.random()}", "x", ""]
        query = chance.choice(queries)
        return Question(f"/api/watched/{run_id}", query, "PUT", tuple(headers.items()), body=body)

    answers = ask_all(application(inbox), [rubbish() for _ in range(10_000)])
    assert {answer.status for answer in answers} <= {200, 400, 401, 404, 408, 409, 413}
    taken = [answer for answer in answers if answer.status == 200]
    assert all(answer.body == b'{"size": %d}' % len(content) for answer in taken)  # those that brought nothing
    assert os.listdir(tmp_path / "there") == [writer.path.name]
    assert (tmp_path / "there" / writer.path.name).read_bytes() == content


def test_the_guard_lets_content_through_on_this_way_alone(inbox):
    app = application(inbox)
    length = (("content-length", "1"),)
    asked = [
        Question("/api/watched/x", method="POST", headers=length), Question("/api/runs/x", method="PUT", headers=length),
        Question("/api/watched", method="PUT", headers=length), Question("/api/watched/x", method="PUT", headers=length),
    ]  # fmt: skip
    assert [reply.status for reply in ask_all(app, asked)] == [413, 413, 413, 401]


@pytest.mark.parametrize(
    "to", ["", "localhost:8501", "ftp://x", "http://", "http://a b", "http://u:p@x", "http://x/?a=1", 3, "http://[x", "http://x/é"]
)
def test_an_address_that_is_none_is_refused_before_the_training_begins(to, monkeypatch):
    monkeypatch.setenv("GRADVIZ_INGEST_TOKEN", TOKEN)
    with pytest.raises(WatchError, match="to must be the address of a server"):
        gradviz.watch(*net(), to=to)
    assert is_address("https://gradviz.example:8501/class/")


def test_to_needs_the_token(monkeypatch):
    monkeypatch.delenv("GRADVIZ_INGEST_TOKEN", raising=False)
    with pytest.raises(WatchError, match="GRADVIZ_INGEST_TOKEN"):
        gradviz.watch(*net(), to="http://127.0.0.1:9")
    monkeypatch.setenv("GRADVIZ_INGEST_TOKEN", "short")
    with pytest.raises(WatchError, match="16 to 200"):
        gradviz.watch(*net(), to="http://127.0.0.1:9")


def test_the_command_brings_a_file_to_a_server_or_says_why_not(inbox, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("GRADVIZ_INGEST_TOKEN", TOKEN)
    writer, history = started(tmp_path)
    steps(history, 3)
    writer.write(history, {"status": "finished"})
    with serving(application(inbox)) as url:
        assert main(["watched", str(writer.path), "--to", url]) == 0
    assert (tmp_path / "there" / writer.path.name).read_bytes() == writer.path.read_bytes()
    assert "A net, SGD" in capsys.readouterr().out
    assert main(["watched", str(writer.path), "--to", url]) == 1  # it is away
    assert url in capsys.readouterr().err
    assert main(["watched", str(writer.path), "--to", "nowhere"]) == 1
    assert "to must be the address" in capsys.readouterr().err
