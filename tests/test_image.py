"""What is installed: pinned, hashed, audited or said not to be, and named with its licence."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import audit
import pytest
from running import ROOT

sys.path.insert(0, str(ROOT / "deploy"))
import lock


def read(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def test_all_that_the_container_installs_but_pytorch_has_its_pinned_version_and_hashes():
    entries = re.findall(r"^(\S+)==(\S+)((?: \\\n    --hash=sha256:[0-9a-f]{64})+)$", read("requirements.lock"), re.MULTILINE)
    locked = {name: version for name, version, _hashes in entries}
    assert locked == {name: version for name, version in lock.needed().items() if name not in lock.PYTORCH}, "run `make lock`"
    assert len(re.findall("==", read("requirements.lock"))) == len(entries)
    added = re.findall(r"^(\S+)==(\S+) \\\n    --hash=sha256:[0-9a-f]{64}", read("requirements-ray.lock"), re.MULTILINE)
    pinned = lock.pins("requirements-ray.txt", "constraints.txt")
    assert {name: pinned[name] for name, _version in added} == dict(added), "run `make lock`"
    assert "ray" in dict(added) and not locked.keys() & dict(added).keys()
    assert re.search(rf"^{re.escape(lock.UV)} \\\n    --hash=sha256:", read("requirements-build.lock"), re.MULTILINE)
    assert "--require-hashes --no-deps -r requirements.lock" in read("Dockerfile")
    assert set(re.findall(r"^FROM (\S+)", read("Dockerfile"), re.MULTILINE)) == {"${BASE}"}


def test_every_package_of_the_container_is_listed_with_version_and_licence():
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in read("THIRD_PARTY.md").splitlines() if "==" not in line]
    listed = {lock.canonicalize_name(row[0]): row[1:] for row in rows if len(row) == 4}
    for name, version in lock.needed().items():
        assert listed[name][0] == version, "run `make lock`"
        assert listed[name][1] and "not " not in listed[name][1]


@pytest.mark.skipif(shutil.which("make") is None, reason="make is not here")
def test_make_base_writes_the_digest_of_the_image_into_the_dockerfile_and_renews_it(tmp_path: Path):
    for name in ("Makefile", "Dockerfile"):
        shutil.copy(ROOT / name, tmp_path)
    docker = tmp_path / "docker"
    path = f"{tmp_path}{os.pathsep}{os.environ['PATH']}"
    for digest in ("sha256:" + "1" * 64, "sha256:" + "2" * 64):
        docker.write_text(f'#!/bin/sh\ntest "$4" = python:3.11-slim-bookworm && echo {digest}\n')
        docker.chmod(0o755)
        subprocess.run(["make", "base"], cwd=tmp_path, env={**os.environ, "PATH": path}, check=True, capture_output=True)
        base = re.findall("^ARG BASE=(.*)$", (tmp_path / "Dockerfile").read_text(encoding="utf-8"), re.MULTILINE)
        assert base == [f"python:3.11-slim-bookworm@{digest}"]
    docker.write_text("#!/bin/sh\necho no registry >&2; exit 1\n")
    ended = subprocess.run(["make", "base"], cwd=tmp_path, env={**os.environ, "PATH": path}, capture_output=True, text=True)
    assert ended.returncode and "no registry" in ended.stderr
    assert "2" * 64 in (tmp_path / "Dockerfile").read_text(encoding="utf-8")


def test_a_database_that_cannot_be_asked_is_said_in_a_line_of_its_own(tmp_path, monkeypatch, capsys):
    for name in ("https_proxy", "HTTPS_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    monkeypatch.setattr(audit, "SAID", tmp_path / "audit.txt")
    assert audit.main() == 0
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith(f"NOT AUDITED: {audit.DATABASE} cannot be reached from here (")
    assert audit.SAID.read_text(encoding="utf-8") == line + "\n"


def package(name="torch", **more):
    return {"name": name, "version": "1", "vulns": [], **more}


@pytest.mark.parametrize(
    "output, words, code",
    [
        ("", "NOT AUDITED", 0),
        ("<html>", "NOT AUDITED", 0),
        ("[]", "NOT AUDITED", 0),
        (json.dumps({"dependencies": []}), "NOT AUDITED", 0),
        (json.dumps({"dependencies": [package(), {"name": "odd", "skip_reason": "not found"}]}), "NOT AUDITED: odd", 0),
        (json.dumps({"dependencies": [package(), package("numpy")]}), "Audited: 2 packages", 0),
        (json.dumps({"dependencies": [package(vulns=[{"id": "CVE-1"}, {"id": "CVE-2"}])]}), "torch 1: CVE-1, CVE-2", 1),
    ],
)
def test_only_an_answer_about_every_package_counts_as_an_audit(output, words, code):
    text, ended = audit.verdict(output)
    assert words in text and ended == code
    assert text.startswith("Audited") == ("Audited: 2" in words)
