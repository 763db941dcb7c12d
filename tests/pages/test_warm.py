"""What the first visitor of a server need not wait for, looked at in a process of its own, where nobody has been before."""

import json
import os
import subprocess
import sys

from running import ROOT

PROGRAM = """
import gc, json, os, sys
from pathlib import Path
import app
from gradviz.lenet.theory import predict
from gradviz.ui.server import close_server, server
from gradviz.ui.warm import warm_up
from gradviz.words import _catalogue
from viewing import in_shell

collects, frozen = gc.isenabled(), gc.get_freeze_count()
server()
warm_up()
ours = lambda: {name for name in sys.modules if name.startswith("gradviz")}
before = ours(), _catalogue.cache_info().misses, predict._predict.cache_info().misses
page = in_shell("lab")
after = ours(), _catalogue.cache_info().misses, predict._predict.cache_info().misses
new = [sorted(after[0] - before[0]), after[1] - before[1], after[2] - before[2]]
print(json.dumps([len(page.main), *new, collects, frozen, sorted(app.PAGES)]), flush=True)
close_server()
os._exit(0)  # as the server: its preview may still be measured
"""


def test_the_first_run_of_the_lab_imports_nothing_of_ours_reads_no_catalogue_and_predicts_nothing_anew(tmp_path):
    places = {"GRADVIZ_STORE": str(tmp_path / "runs"), "GRADVIZ_DATA": str(tmp_path / "data")}
    python = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
    told = subprocess.run(
        [sys.executable, "-c", PROGRAM], cwd=ROOT, env={**os.environ, **places, "PYTHONPATH": python}, text=True, timeout=120,
        check=True, stdout=subprocess.PIPE,
    ).stdout  # fmt: skip
    elements, imported, catalogues, predictions, collects, frozen, pages = json.loads(told.splitlines()[-1])
    assert elements > 5 and imported == [] and catalogues == predictions == 0
    assert collects and frozen > 100_000  # the server's own modules are looked through no more, all that comes later is
    assert pages == sorted(path.stem.replace("lab", "") for path in (ROOT / "pages").glob("*.py"))  # the Lab is at the root
