"""How fast does the app train with the page open, against a bare PyTorch loop of the same net and batch?

    python benchmarks/training.py [--blocks 12 60] [--rounds 5] [--seconds 8]

Starts the real server and a real Chromium on its page, starts a run there, and then takes turns: the run trains for
some seconds with the page live, is paused, and a bare loop (same net, same batch size, one thread, default Adam,
tensors in memory, nothing recorded) trains for as long in a process of its own. Prints the median of the ratios of
neighbouring turns: 1.00 is the bare loop's speed.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import struct
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

BARE = """
import sys, time, torch, torch.nn.functional as F
torch.set_num_threads(1)
from pathlib import Path
from gradviz.config import RunConfig
from gradviz.data import Shelf
from gradviz.model import DeepLeNet, initialise
blocks, folder, name = int(sys.argv[1]), sys.argv[2], sys.argv[3]
config = RunConfig(blocks=blocks, activation="relu", shortcut=True, dataset=name)
data = Shelf(Path(folder), download=False).load(name)
model = DeepLeNet(config)
initialise(model, None, torch.Generator().manual_seed(0))
optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
print("ready", flush=True)
for line in sys.stdin:
    stop, steps, begin = time.perf_counter() + float(line), 0, time.perf_counter()
    while time.perf_counter() < stop:
        batch = torch.randint(0, len(data.train_labels), (64,))
        optimizer.zero_grad()
        loss = F.cross_entropy(model(data.train_images[batch]), data.train_labels[batch])
        loss.backward()
        optimizer.step()
        steps += 1
    print(steps / (time.perf_counter() - begin), flush=True)
"""


def header(server, run_id: str) -> dict:
    """The newest figures of the run, as the page gets them."""
    url = f"{server.url}/api/runs/{run_id}?since=1000000000"
    with urllib.request.urlopen(url, timeout=10) as answer:
        raw = answer.read()
    return json.loads(raw[4 : 4 + struct.unpack("<I", raw[:4])[0]])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--blocks", type=int, nargs="+", default=[12, 60])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=8)
    options = parser.parse_args()

    import chromium
    from conftest import Server
    from playwright.sync_api import sync_playwright

    from gradviz.config import RunConfig
    from gradviz.data import Shelf

    folder = Path(os.environ.get("GRADVIZ_DATA", ROOT / "data")).resolve()
    name, sentence = Shelf(folder, download=False).effective("mnist")
    if sentence:
        print(sentence)
    with tempfile.TemporaryDirectory() as scratch, sync_playwright() as playwright:
        server = Server(Path(scratch), dict(GRADVIZ_WORKERS="1", GRADVIZ_THREADS="1", GRADVIZ_DATA=str(folder)))
        server.start()
        browser = playwright.chromium.launch(
            executable_path=chromium.find(),
            args=["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-background-networking"],
        )
        try:
            for blocks in options.blocks:
                measure(server, browser, blocks, folder, name, options, RunConfig)
        finally:
            browser.close()
            server.kill()


def measure(server, browser, blocks: int, folder: Path, name: str, options, run_config) -> None:
    config = run_config(blocks=blocks, activation="relu", shortcut=True, dataset=name, steps=100_000)
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    page.goto(f"{server.url}/?" + "&".join(f"{key}={value}" for key, value in config.to_query().items()))
    page.get_by_role("button", name="Start").click()
    page.get_by_role("button", name="Pause").wait_for(timeout=60_000)
    bare = subprocess.Popen(
        [sys.executable, "-c", BARE, str(blocks), str(folder), name], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        text=True, env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    bare.stdout.readline()
    ratios, speeds = [], []
    for _ in range(options.rounds):
        steps = header(server, config.run_id)["steps"]
        begin = time.perf_counter()
        page.wait_for_timeout(1000 * options.seconds)
        live = (header(server, config.run_id)["steps"] - steps) / (time.perf_counter() - begin)
        page.get_by_role("button", name="Pause").click()
        page.get_by_role("button", name="Resume").wait_for()
        page.wait_for_timeout(500)
        bare.stdin.write(f"{options.seconds}\n")
        bare.stdin.flush()
        speed = float(bare.stdout.readline())
        page.get_by_role("button", name="Resume").click()
        page.get_by_role("button", name="Pause").wait_for()
        ratios.append(live / speed)
        speeds.append(speed)
    bare.stdin.close()
    page.get_by_role("button", name="Stop").click()
    page.close()
    print(f"{blocks:4} blocks: {statistics.median(ratios):.2f} × the bare loop's speed "
          f"(turns {min(ratios):.2f} … {max(ratios):.2f}; bare {statistics.median(speeds):.1f} steps/s)", flush=True)


if __name__ == "__main__":
    main()
