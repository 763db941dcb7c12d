"""What people see of a cluster: its slots and computers in the Classroom, its troubles on every page, its figures in /metrics."""

from __future__ import annotations

from dataclasses import replace

import pytest
from viewing import in_shell, opened

from gradviz.cluster.cluster import Sight
from gradviz.cluster.computers import Computer
from gradviz.messages import NOTHING, say
from gradviz.serve.manager import RunManager
from gradviz.ui import server as servers
from gradviz.web.metrics import Metrics

ONE = Computer("1", "left-pc", slots=4, ready=True, memory=7.96e9, trainings=3)
TWO = replace(ONE, id="2", name="right-pc", ready=False)


class Played:
    def __init__(self) -> None:
        self.trouble = NOTHING
        self.troubles = [say("node-silent", name="right-pc")]

    @property
    def sight(self) -> Sight:
        return Sight([ONE, TWO], 4, self.trouble, self.troubles)

    def close(self) -> None:
        pass


@pytest.fixture
def played(page_server: servers.Server, monkeypatch: pytest.MonkeyPatch) -> Played:
    played = Played()
    servers.server.clear()
    monkeypatch.setattr(servers.server, "build", lambda: replace(page_server, cluster=played))
    return played


def test_the_classroom_shows_slots_computers_and_what_is_wrong_with_one(played: Played) -> None:
    page = opened("classroom")
    assert [box.label for box in page.expander if "at once" in box.label] == ["4 trainings at once on 2 computers"]
    (table,) = page.dataframe
    assert table.value["computer"].tolist() == ["left-pc", "right-pc"] and table.value["state"].tolist() == ["ready", "not ready"]
    assert "The computer right-pc does not answer" in " ".join(box.value for box in page.warning)


def test_every_page_says_that_the_cluster_is_away(played: Played) -> None:
    played.trouble = say("cluster-away", address="10.0.0.5:6379")
    assert "The cluster that trains does not answer" in " ".join(box.value for box in in_shell("lab").warning)


def test_the_figures_count_computers_where_there_is_a_cluster(page_server: servers.Server) -> None:
    manager: RunManager = page_server.manager
    assert "gradviz_computers" not in Metrics(manager.statistics)()
    manager.resize(7)
    text = Metrics(manager.statistics, computers=lambda: {"ready": 2, "not_ready": 1})()
    assert 'gradviz_computers{state="ready"} 2' in text and "gradviz_workers 7" in text
