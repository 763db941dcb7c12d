"""Cells: what one command writes, what another learns of them, and that the files of deploy/ say what the server reads."""

import os
import re
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import yaml
from running import ROOT

from gradviz import cells
from gradviz.__main__ import main
from gradviz.serve.manager import Statistics
from gradviz.settings import Settings
from gradviz.web.metrics import Metrics
from gradviz.words import speaking


def variables(path: Path) -> dict[str, str]:
    """As Docker and Kubernetes read a file of them."""
    lines = path.read_text(encoding="utf-8").splitlines()
    return dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))


def made(folder: Path, *names: str) -> Path:
    for name in names:
        cells.make(folder, name, 3, "abcd-1234")
    return folder


@contextmanager
def entrance(answers: dict[str, tuple[int, str]]) -> Iterator[str]:
    """Its address; what it does not know, it does not find, as nginx does."""

    class Answer(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, text = answers.get(self.path, (502, "<h1>502</h1>"))
            self.send_response(status)
            self.end_headers()
            self.wfile.write(text.encode())

        def log_message(self, format: str, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Answer) as server:
        threading.Thread(target=server.serve_forever, args=[0.05], daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def figures(pages: int, running: int, waiting: int) -> str:
    """What a real server's /metrics would say."""
    now = Statistics(1.7e9, 3, {"running": running, "queued": waiting}, waiting, 100, {}, {}, 0)
    return Metrics(
        lambda: now, memory=dict, computers=lambda: {"ready": 2, "not_ready": 1}, pages=lambda: pages,
        disk=lambda: {"runs": 1_500_000_000, "free": 49_000_000},
    )()  # fmt: skip


def test_a_cell_is_made_of_settings_that_the_server_reads(tmp_path):
    made(tmp_path, "class-07")
    settings = Settings.from_environment(variables(tmp_path / "class-07.env"))
    assert (settings.pin, settings.workers) == ("abcd-1234", 3)
    common = variables(tmp_path / "_all.env")
    assert common["GRADVIZ_TRAIN_IN"] == Settings.from_environment({"GRADVIZ_TRAIN_IN": common["GRADVIZ_TRAIN_IN"]}).train_in
    assert re.fullmatch("[0-9a-f]{64}", common["RAY_AUTH_TOKEN"])
    assert variables(tmp_path / "class-07.env")["STREAMLIT_SERVER_BASE_URL_PATH"] == "class-07"
    assert all(path.stat().st_mode & 0o077 == 0 for path in tmp_path.iterdir())  # nobody else reads the PIN and the token


def test_the_second_cell_is_added_and_nothing_of_the_first_is_changed(tmp_path, capsys):
    assert main(["cell", "make", "a", "--folder", str(tmp_path)]) == 0
    pin = variables(tmp_path / "a.env")["GRADVIZ_PIN"]
    assert len(pin) >= 8 and pin in capsys.readouterr().out
    (tmp_path / "_all.env").write_text("GRADVIZ_HOSTS=school.example\n", encoding="utf-8")
    before = {path: path.read_bytes() for path in tmp_path.iterdir() if path.name != "compose.yaml"}
    assert main(["cell", "make", "b", "--folder", str(tmp_path)]) == 0
    assert main(["cell", "make", "a", "--folder", str(tmp_path), "--slots", "9"]) == 2
    assert "already" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in before} == before
    assert yaml.safe_load((tmp_path / "compose.yaml").read_text())["include"] == [
        f"{ROOT}/deploy/compose.cluster.yaml", "a.yaml", "b.yaml",
    ]  # fmt: skip


@pytest.mark.parametrize("words, says", [
    (["Class"], "small letters"), (["--", "-a"], "'-a'"), (["a-"], "'a-'"), (["a b"], "small letters"), (["../x"], "'../x'"),
    (["a" * 41], "1 to 40"), (["ä"], "small letters"), (["a", "--slots", "0"], "--slots must be 1…1024, not 0."),
    (["a", "--slots", "2000"], "1…1024"), (["a", "--slots", "two"], "two"), (["a", "--pin", "abc"], "--pin must have 4 to 64"),
    (["a", "--folder", "it's"], "--folder must be a path"),
    (["a", "--pin", "it's$1"], "--pin must have"), (["a", "--pin", "x" * 65], "--pin must have"),
])  # fmt: skip
def test_bad_input_is_one_sentence_and_writes_nothing(words, says, tmp_path, capsys):
    try:
        code = main(["cell", "make", "--folder", str(tmp_path / "cells"), *words])
    except SystemExit as stop:
        code = stop.code
    error = capsys.readouterr().err
    assert code == 2 and says in error and error.count("\n") == 1
    assert not (tmp_path / "cells").exists()
    if "--pin" in words:
        assert words[-1] not in error  # it may be nearly the right one


def test_each_cell_is_shown_with_what_it_says_of_itself_and_one_that_is_away_with_why(tmp_path, capsys):
    made(tmp_path, "one", "two", "three", "four")
    answers = {
        "/one/metrics": (200, figures(28, 2, 5)), "/one/ready": (200, "ready"),
        "/two/metrics": (200, figures(3, 1, 0)), "/two/ready": (503, "The disk is full."),
        "/three/metrics": (200, "<h1>hello</h1>"),
    }  # fmt: skip
    with entrance(answers) as at:
        assert main(["cell", "list", "--folder", str(tmp_path), "--at", at + "/"]) == 1  # not all are well
    heading, *rows = [re.split(r"\s{2,}", line) for line in capsys.readouterr().out.splitlines()]
    assert heading[:5] == ["cell", "pages open", "runs at work", "slots", "quota"]
    assert rows == [
        ["four", "3", "does not answer: the entrance says 502"],
        ["one", "28", "2", "3", "3", "5", "2 (−1)", "1.5 GB", "49 MB", "ready"],
        ["three", "3", "something else answers there"],
        ["two", "3", "1", "3", "3", "0", "2 (−1)", "1.5 GB", "49 MB", "The disk is full."],
        ["all", "31", "3", "12", "5", "3.0 GB", "1 of 4 ready"],
    ]


def test_an_entrance_that_is_not_there_a_wrong_address_and_an_empty_folder_are_said(tmp_path, capsys):
    with entrance({}) as at:
        pass
    assert main(["cell", "list", "--folder", str(tmp_path)]) == 2
    assert "no cell" in capsys.readouterr().err
    made(tmp_path, "one")
    assert main(["cell", "list", "--folder", str(tmp_path), "--at", "school.example"]) == 2
    assert "--at" in capsys.readouterr().err
    assert main(["cell", "list", "--folder", str(tmp_path), "--at", at]) == 1
    assert "does not answer: Connection refused" in capsys.readouterr().out


def test_the_page_has_the_table_for_this_computer_alone_in_the_language_that_was_asked_for(tmp_path):
    made(tmp_path, "one")
    with entrance({"/one/metrics": (200, figures(28, 2, 5)), "/one/ready": (200, "ready")}) as at:
        server = cells.pages(lambda: cells.loads(tmp_path, at), 0)

        def serve() -> None:
            with speaking("zh_CN"):
                server.serve_forever(0.05)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        address = f"http://127.0.0.1:{server.server_port}/"
        text = urllib.request.urlopen(address, timeout=30).read().decode()
        assert 'lang="zh-CN"' in text and "<td>28</td>" in text and "单元" in text and "pages open" not in text
        for foreign in (urllib.request.Request(address, headers={"Host": "evil.example"}), address + "x"):
            with pytest.raises(urllib.error.HTTPError):
                urllib.request.urlopen(foreign, timeout=30)
        server.shutdown()
        thread.join(30)
        server.server_close()


def test_what_a_cell_says_is_text_on_the_page():
    assert "<b>" not in cells.page([["cell"], ["<b>x</b>"]]) and "&lt;b&gt;x&lt;/b&gt;" in cells.page([["cell"], ["<b>x</b>"]])


# The files of deploy/


def compose(name: str) -> dict:
    return yaml.safe_load((ROOT / "deploy" / name).read_text(encoding="utf-8"))


def test_the_containers_of_a_cell_are_found_by_the_entrance_and_the_head_by_all(tmp_path):
    made(tmp_path, "class-07")
    (service,) = yaml.safe_load((tmp_path / "class-07.yaml").read_text())["services"].items()
    conf = (ROOT / "deploy" / "entrance.conf").read_text(encoding="utf-8")
    name, port = re.search(r"proxy_pass http://([\w$-]+):(\d+);", conf).groups()
    assert service[0] == name.replace("$cell", "class-07")
    assert f"STREAMLIT_SERVER_PORT={port}" in (ROOT / "Dockerfile").read_text(encoding="utf-8")
    assert service[1]["extends"] == {"file": f"{ROOT}/deploy/compose.cell.yaml", "service": "cell"}
    assert service[1]["env_file"] == ["_all.env", "class-07.env"]
    head = variables(tmp_path / "_all.env")["GRADVIZ_RAY"]
    services = compose("compose.cluster.yaml")["services"]
    assert head.split(":")[0] in services and head in services["node"]["command"]
    assert services["head"]["command"][1:] == ["-m", "gradviz.cluster", "head"]
    for each in (services["head"], services["node"]):
        assert each["env_file"] == ["${CELLS:-../cells}/_all.env"]  # the token
    assert {services["head"]["image"], services["node"]["image"], compose("compose.cell.yaml")["services"]["cell"]["image"]} == {
        services["head"]["image"]
    }


@pytest.mark.parametrize("place", ["cells", "school", "../one two/school"])
def test_in_whatever_folder_cells_are_made_their_files_lead_to_those_of_deploy_and_those_back(tmp_path, place):
    house = tmp_path / "house"
    (house / "deploy").mkdir(parents=True)
    for path in ROOT.glob("deploy/compose.c*.yaml"):
        (house / "deploy" / path.name).write_bytes(path.read_bytes())
    folder = house / place
    made(folder, "a")
    together, cell = (yaml.safe_load((folder / name).read_text()) for name in ("compose.yaml", "a.yaml"))
    cluster = Path(os.path.normpath(folder / together["include"][0]))  # as Compose takes it, which no `..` of a link leads astray
    there = house if place != "../one two/school" else ROOT
    assert cluster == there / "deploy" / "compose.cluster.yaml"
    extended = cell["services"]["cell-a"]["extends"]["file"]
    assert Path(os.path.normpath(folder / extended)) == cluster.with_name("compose.cell.yaml")
    said = variables(folder / ".env") if (folder / ".env").exists() else {}
    (secret,) = yaml.safe_load(cluster.read_text())["services"]["node"]["env_file"]
    secret = secret.replace("${CELLS:-../cells}", said.get("CELLS", "'../cells'").strip("'"))
    assert Path(os.path.normpath(cluster.parent / secret)) == Path(os.path.normpath(folder / "_all.env"))
    assert (place == "cells") == (not said)


def test_computers_are_named_once_with_what_is_at_work_there_and_quotas_beyond_their_slots_are_said(tmp_path, capsys):
    made(tmp_path, "one", "two")  # with three slots each
    now = Statistics(1.7e9, 3, {}, 0, 100, {}, {}, 0)
    odd = 'a "b" \\ {c}'
    for slots, says in ((2, True), (4, False)):
        there = {("left", "ready"): (slots, 1), (odd, "not_ready"): (2, 0)}
        text = Metrics(lambda: now, memory=dict, named=lambda there=there: there)()
        answers = {f"/{cell}/{page}": (200, text) for cell in ("one", "two") for page in ("metrics", "ready")}
        with entrance(answers) as at:
            assert main(["cell", "list", "--folder", str(tmp_path), "--at", at]) == 0
            found = cells.loads(tmp_path, at)
        assert cells.computers(found) == [
            ["computer", "runs at work", "slots", "state"], [odd, "0", "2", "not ready"], ["left", "1", f"{slots}", "ready"],
        ]  # fmt: skip
        out = capsys.readouterr().out
        assert re.search(rf"^left +1 +{slots}  ready$", out, re.MULTILINE)
        assert ("The quotas are 6 together, and the computers have 4 slots" in out) == says == bool(cells.overbooked(found))
    assert "<td>left</td>" in cells.page(cells.table(found), cells.computers(found), note="<")
    assert not cells.overbooked([cells.Load("one", "3", {})])  # nobody knows


def test_every_variable_of_a_cell_and_of_the_files_of_deploy_is_one_that_somebody_reads(tmp_path):
    made(tmp_path, "a")
    named = {*variables(tmp_path / "a.env"), *variables(tmp_path / "_all.env")}
    named |= set(compose("compose.cell.yaml")["services"]["cell"]["environment"])
    for path in ROOT.glob("deploy/compose.c*.yaml"):
        named |= set(re.findall(r"\b(?:GRADVIZ|RAY|STREAMLIT)_[A-Z_]+\b", path.read_text(encoding="utf-8")))
    read = (ROOT / "gradviz" / "settings.py").read_text(encoding="utf-8")
    elsewhere = {"STREAMLIT_SERVER_BASE_URL_PATH", "FORWARDED_ALLOW_IPS", "RAY_AUTH_TOKEN"}  # Streamlit, uvicorn, Ray
    assert len(named) >= 7 and {name for name in named if f'"{name}"' not in read} <= elsewhere


def kubernetes(name: str) -> dict[str, dict]:
    documents = yaml.safe_load_all((ROOT / "deploy" / "kubernetes" / name).read_text(encoding="utf-8"))
    return {document["kind"]: document for document in documents}


def test_kubernetes_begins_the_same_programs_with_the_same_settings(tmp_path):
    made(tmp_path, "class-07")
    cell, cluster = kubernetes("cell.yaml"), kubernetes("cluster.yaml")["RayCluster"]["spec"]
    (server,) = cell["Deployment"]["spec"]["template"]["spec"]["containers"]
    assert server["command"] == [word.replace("$$", "$") for word in compose("compose.cell.yaml")["services"]["cell"]["command"]]
    assert [source["secretRef"]["name"] for source in server["envFrom"]] == ["cells", "cell-class-07"]
    services = compose("compose.cluster.yaml")["services"]
    head = cluster["headGroupSpec"]["template"]["spec"]["containers"][0]
    (node,) = cluster["workerGroupSpecs"][0]["template"]["spec"]["containers"]
    assert head["command"] == services["head"]["command"] and node["command"][:5] == services["node"]["command"][:5]
    address = f"{cluster['headGroupSpec']['headService']['metadata']['name']}:{head['ports'][0]['containerPort']}"
    assert address == variables(tmp_path / "_all.env")["GRADVIZ_RAY"]
    for each in (head, node):  # of the same secret, which has the name in it under which it was written
        token = next(entry["valueFrom"]["secretKeyRef"] for entry in each["env"] if entry["name"] == "RAY_AUTH_TOKEN")
        assert token["name"] == "cells" and token["key"] in variables(tmp_path / "_all.env")
    ray = (ROOT / "requirements-ray.txt").read_text(encoding="utf-8")
    assert f"ray=={cluster['rayVersion']};" in ray


def test_the_ingress_of_a_cell_leads_by_its_path_to_its_own_server_and_its_folder_is_its_own(tmp_path):
    made(tmp_path, "class-07")
    cell = kubernetes("cell.yaml")
    (path,) = cell["Ingress"]["spec"]["rules"][0]["http"]["paths"]
    base = variables(tmp_path / "class-07.env")["STREAMLIT_SERVER_BASE_URL_PATH"]
    assert path["path"] == f"/{base}" and path["backend"]["service"]["name"] == cell["Service"]["metadata"]["name"]
    pod = cell["Deployment"]["spec"]["template"]
    assert cell["Service"]["spec"]["selector"].items() <= pod["metadata"]["labels"].items()
    (server,) = pod["spec"]["containers"]
    assert {probe["httpGet"]["path"] for probe in (server["readinessProbe"], server["livenessProbe"])} == {
        f"/{base}/ready", f"/{base}/_stcore/health",
    }  # fmt: skip
    assert pod["spec"]["volumes"][0]["persistentVolumeClaim"]["claimName"] == cell["PersistentVolumeClaim"]["metadata"]["name"]
    assert (cell["Deployment"]["spec"]["replicas"], cell["Deployment"]["spec"]["strategy"]) == (1, {"type": "Recreate"})
    text = (ROOT / "deploy" / "kubernetes" / "cell.yaml").read_text(encoding="utf-8")
    other = list(yaml.safe_load_all(text.replace("class-07", "class-08")))  # what sed makes of it
    assert "class-07" not in str(other) and len(other) == len(cell)


@pytest.mark.parametrize("name", ["7", "true", "null", "sets", "a"])
def test_a_cell_of_any_name_has_a_disk_of_its_own(name, tmp_path):
    cells.make(tmp_path / "cells", name, 1)
    made = yaml.safe_load((tmp_path / "cells" / f"{name}.yaml").read_text())
    assert made["services"][f"cell-{name}"]["volumes"] == [f"cell-{name}:/data"] and list(made["volumes"]) == [f"cell-{name}"]


@pytest.mark.parametrize("written", ["", "\n", "networks:\n  mine:\n", "\n# ours\nservices:\n  more: {image: mine}\n"])
def test_whatever_somebody_adds_to_the_file_of_all_cells_stays_and_another_cell_joins_the_list(written, tmp_path):
    cells.make(tmp_path, "one", 1)
    together = tmp_path / cells.COMPOSE
    together.write_text(together.read_text().rstrip("\n") + ("\n" + written if written else ""))
    cells.make(tmp_path, "two", 1)
    now = yaml.safe_load(together.read_text())
    assert now["include"] == [f"{ROOT}/deploy/compose.cluster.yaml", "one.yaml", "two.yaml"]
    assert {key: value for key, value in now.items() if key not in ("name", "include")} == (yaml.safe_load(written) or {})
    assert together.stat().st_mode & 0o777 == 0o600


def test_a_file_of_all_cells_without_their_list_is_left_alone_and_no_cell_is_half_made(tmp_path):
    (tmp_path / cells.COMPOSE).write_text("services: {}\n")
    with pytest.raises(cells.CellError, match="include"):
        cells.make(tmp_path, "one", 1)
    with pytest.raises(cells.CellError, match="not one"):
        cells.make(tmp_path, "compose", 1)
    assert (tmp_path / cells.COMPOSE).read_text() == "services: {}\n" and not list(tmp_path.glob("one*"))
