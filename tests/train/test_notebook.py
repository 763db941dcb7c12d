"""A watched run in a notebook: what the picture shows, that it follows the training to its end, and where its link goes."""

import base64
import http.server
import io
import re
import sys
import threading
import types

import numpy as np
import pytest
import torch
import watched_nets
from PIL import Image
from watched_nets import Mlp

from gradviz.record.quantities import QUANTITIES
from gradviz.train import notebook


def trained(folder, steps=3, model=None, **more):
    torch.manual_seed(0)
    return watched_nets.trained(folder, model or Mlp(), steps=steps, **more)


def hook(run, word):
    """What IPython asks an object for: a name between underscores."""
    return next(getattr(run, name) for name in dir(run) if name.strip("_") == word)


def pixels(shown: str) -> np.ndarray:
    return np.array(Image.open(io.BytesIO(base64.b64decode(re.search(r"base64,([^\"]+)", shown)[1]))))


def test_ipython_is_given_the_picture(tmp_path):
    run = trained(tmp_path)
    run.close()
    assert pixels(hook(run, "repr_html")()).shape == (3, 3, 4)


def test_the_picture_has_a_row_for_each_layer_and_a_colour_for_each_kind_of_number(tmp_path):
    run = trained(tmp_path, steps=6)
    run.close()
    table = run.run.history.columns[:, list(QUANTITIES).index("weight_grad_rms")]
    table[:] = [[0, np.nan, 1.0], [1e-7, np.inf, 10.0], [-1, 1e-9, 1e3], [1e-40, 1e-2, 1.0], [1.0, 1.0, 1.0], [1.0, 1.0, 1.0]]
    found = pixels(notebook.as_html(run))[::-1]  # the first layer is at the bottom
    assert found.shape == (3, 6, 4)
    assert found[0, 0].tolist() == [255, 255, 255, 255] and found[0, 2, 3] == 0  # exactly 0, and not measured
    assert found[1, 0].tolist() == found[1, 1].tolist() == [227, 0, 27, 255]
    assert len({tuple(found[1, 2]), tuple(found[2, 2]), tuple(found[0, 3]), tuple(found[0, 0])}) == 4  # below, above, denormal, 0
    brightness = found[..., :3].astype(int).sum(-1)
    assert brightness[0, 1] < brightness[1, 3] < brightness[2, 0] < brightness[2, 1]


def test_what_stays_in_a_notebook_says_when_it_was_true_and_how_to_see_all(tmp_path):
    model = Mlp()
    run = trained(tmp_path / "a b", steps=0, model=model, title="<Mine> & yours")
    assert "No step yet; as of 20" in notebook.as_html(run) and "&lt;Mine&gt; &amp; yours: running" in notebook.as_html(run)
    run.close()
    run = trained(tmp_path / "a b", model=model)
    assert re.search(r"Mlp: running</b><br>Steps: 3. Layers: 3. Loss: [\d.]+. As of 20\d\d-", notebook.as_html(run))
    run.close()
    shown = notebook.as_html(run)
    assert "Mlp: finished" in shown and f"gradviz open &#x27;{tmp_path}/a b&#x27;" in shown and "<script" not in shown
    assert len(shown) < 4000


class Frontend:
    """What stands in for IPython: a kernel that notes what is displayed, and wakes whoever waits for it."""

    def __init__(self, monkeypatch, kernel=True):
        self.shown, self.news = [], threading.Condition()
        shell = types.SimpleNamespace(kernel=object()) if kernel else object()
        monkeypatch.setitem(sys.modules, "IPython", types.SimpleNamespace(get_ipython=lambda: shell))
        monkeypatch.setitem(sys.modules, "IPython.display", types.SimpleNamespace(display=self.display))

    def display(self, bundle, raw, display_id):
        assert raw
        self.update(bundle, raw)
        return self if display_id else None

    def update(self, bundle, raw):
        with self.news:
            self.shown.append(bundle)
            self.news.notify_all()


def test_the_picture_follows_the_training_to_its_end(tmp_path, monkeypatch):
    frontend, model = Frontend(monkeypatch), Mlp()
    run = trained(tmp_path, steps=0, model=model)
    hook(run, "ipython_display")()  # as IPython asks for it
    assert "No step yet" in frontend.shown[0]["text/html"] and frontend.shown[0]["text/plain"] == "Mlp: running"
    run.close()
    with frontend.news:
        assert frontend.news.wait_for(lambda: "finished" in frontend.shown[-1]["text/html"], timeout=60)
    assert frontend.shown[-1]["text/plain"] == "Mlp: finished"


@pytest.mark.parametrize("kernel, ended", [(True, True), (False, False)])
def test_a_run_that_has_ended_and_one_in_a_terminal_are_shown_once(kernel, ended, tmp_path, monkeypatch):
    frontend, model = Frontend(monkeypatch, kernel), Mlp()
    run = trained(tmp_path, model=model)
    if ended:
        run.close()
    notebook.show(run)
    assert len(frontend.shown) == 1 and "Mlp" in frontend.shown[0]["text/plain"]
    assert not any(each.name == "gradviz-notebook" for each in threading.enumerate())
    run.close()


def test_the_link_goes_to_a_server_that_shows_the_very_run_and_to_no_other(tmp_path):
    run = trained(tmp_path)
    run.close()

    class Other(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200 if self.path == f"/api/runs/{run.id}" else 404)
            self.end_headers()

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Other) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}/"
        (tmp_path / notebook.ADDRESS).write_text(address)
        assert f'href="{address}?run={run.id}"' in notebook.as_html(run) and "gradviz open" not in notebook.as_html(run)
        assert notebook.serving("watched-0123456789abcdef", tmp_path) == ""
        server.shutdown()
    assert notebook.serving(run.id, tmp_path) == "" and "gradviz open" in notebook.as_html(run)
