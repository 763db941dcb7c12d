"""Every page in every state: where it is, and what somebody does there to bring it about. For the eye (look.py), for axe, and for
the test that reads every page in a language of brackets."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from axe import settled
from playwright.sync_api import Page
from recorded import finished_run
from running import ROOT, Server

from gradviz.lenet.config import READERS
from gradviz.lenet.lessons.catalogue import LESSONS
from gradviz.store.store import RunStore

PIN = "secret-4711"
SERVER = {"GRADVIZ_PIN": PIN, "GRADVIZ_WORKERS": "1", "GRADVIZ_DOWNLOAD": "off"}
_BASE = "batch_size=16&dataset=digits"
TRAINED = {  # settings of a run -> how it ends
    "ended": (f"activation=sigmoid&blocks=8&steps=60&{_BASE}", "finished"),
    "cured": (f"activation=relu&batch_norm=on&shortcut=on&blocks=4&steps=60&changes=20:lr=0.01,40:optimizer=momentum&{_BASE}",
              "finished"),
    "treated": (f"activation=sigmoid&blocks=6&treatment=floor&threshold=1e-10&steps=40&{_BASE}", "finished"),
    "diverged": (f"activation=relu&blocks=12&init_range=2&optimizer=sgd&lr=1&steps=40&{_BASE}", "diverged"),
}
_FIRST = "activation=relu&blocks=1&batch_size=8&steps=6&dataset=digits"
LIVE = f"activation=relu&shortcut=on&blocks=2&steps=100000&treatment=clip-norm&{_BASE}"
WATCHED = {"live": "goes", "failed": "fails", "over": "ends"}  # nets of another process
_WATCHED = """
import sys, time, torch, gradviz
sys.path.insert(0, "examples")
from watch_digits import ResNet
model = ResNet()
optimizer = torch.optim.SGD(model.parameters(), 0.05)
with gradviz.watch(model, optimizer, folder=sys.argv[1], title="A *ResNet* of mine") as run:
    for step in range(10 ** 9):
        loss = model(torch.randn(8, 1, 8, 8)).square().mean()
        loss.backward(); optimizer.step(); optimizer.zero_grad()
        run.log(loss=loss)
        if step == 30:
            print(run.id, flush=True)
            if sys.argv[2] == "fails":
                raise ValueError("the batch is empty")
            if sys.argv[2] == "ends":
                break
        time.sleep(0.02 * (step > 30))
"""


def stock(folder: Path) -> None:
    """The runs of all lessons, with numbers that nobody measured, into the store of a server that is not running."""
    store = RunStore(folder, READERS)
    store.save(*{config.id: finished_run(config) for lesson in LESSONS.values() for config in lesson.configs("digits")}.values())
    store.close()


def train(page: Page, server: Server, query: str, status: str) -> str:
    """Its id, once the run has ended like that."""
    page.goto(f"{server.url}/?{query}")
    page.locator(".st-key-start button").click(timeout=180_000)
    page.wait_for_selector(f"[data-mode=live][data-status={status}]", timeout=300_000)
    return page.locator("[data-mode=live]").get_attribute("data-id")


@contextlib.contextmanager
def watched(folder: Path, how: str) -> Iterator[str]:
    """The id of a run that another process trains, or that `ends` or `fails` soon."""
    begun = subprocess.Popen([sys.executable, "-c", _WATCHED, str(folder), how], cwd=ROOT, text=True, stdout=subprocess.PIPE,
                             stderr=subprocess.DEVNULL)  # fmt: skip
    try:
        yield begun.stdout.readline().strip()
    finally:
        begun.kill()
        begun.wait()


def click(selector: str) -> Callable[[Page], None]:
    def clicked(page: Page) -> None:
        page.locator(selector).first.click()

    return clicked


def open_all(page: Page) -> None:
    """Every folded box, one after another, for opening one may draw the others anew."""
    for _ in range(12):
        closed = page.locator(".stMain details:not([open]) > summary, .stSidebar details:not([open]) > summary")
        if not closed.count():
            return
        closed.first.evaluate("summary => summary.click()")
        settled(page)


def begin(page: Page) -> None:
    page.locator(".st-key-start button").click()
    page.wait_for_function("Number(document.querySelector('[data-mode=live]')?.dataset.steps) > 12")


def begin_and_pause(page: Page) -> None:
    begin(page)
    page.locator(".st-key-pause button").click()
    page.locator(".st-key-resume button").wait_for()
    open_all(page)


def begin_first(page: Page) -> None:
    """From the second of the first steps to the third."""
    page.locator(".st-key-first_next button").click()
    page.locator(".st-key-start button").click()
    page.wait_for_selector("[data-mode=live][data-status=finished]")


def stop(page: Page) -> None:
    """The run of these settings, which is not on the screen."""
    page.locator(".st-key-join button").first.click()
    page.locator(".st-key-stop button").click()
    page.locator(".st-key-stop button").wait_for(state="detached")
    open_all(page)


def enter(page: Page) -> None:
    page.locator(".st-key-class_teacher_box summary").click()
    page.locator(".st-key-class_pin input").fill(PIN)
    page.locator(".st-key-class_pin_enter button").click()
    page.locator(".st-key-class_lock button").first.wait_for()


def lock(page: Page) -> None:
    """And sends all to a lesson."""
    enter(page)
    for word in ("lock", "announce"):
        click(f".st-key-class_{word} button:visible")(page)
        settled(page)


State = tuple[str, str, Callable[[Page], None] | None]  # its name, its address, what is done there


def of_nobody_yet() -> Iterator[State]:
    """Before anything was trained."""
    yield "lab-nothing", "", None
    yield "anatomy-nothing", "anatomy", None
    yield "compare-nothing", "compare", None


def of_one_reader(runs: dict[str, str]) -> Iterator[State]:
    """`runs`: the ids of those of TRAINED, of a watched one that is "live", of one that has "ended" and of one that "failed"."""
    ended, cured, treated, diverged = (runs[name] for name in TRAINED)
    yield "lab-empty", "", None
    yield "lab-first-1", "?first", None
    yield "lab-first-2", "?first", click(".st-key-first_next button")
    yield "lab-first-3", f"?first&{_FIRST}", begin_first
    yield "lab-opened", f"?run={cured}", open_all
    yield "lab-finished", f"?run={ended}", None
    yield "lab-diverged", f"?run={diverged}", open_all
    yield "lab-paused", f"?{LIVE}", begin_and_pause
    yield "lab-live", f"?{LIVE}&seed=2", begin
    yield "lab-stopped", f"?{LIVE}&seed=2", stop
    yield "lab-changed", "?blocks=2&dataset=digits&changes=20:lr=0.01,40:optimizer=momentum&warmup=9&schedule=cosine", open_all
    yield "lab-error", "?blocks=many&lr=none&run=0123456789ab", None
    yield "lab-projector", f"?run={ended}&projector", None
    for view in ("layers", "treatment", "shortcut", "layer", "motion"):
        run = {"treatment": treated, "shortcut": cured}.get(view, ended)
        yield f"anatomy-{view}", f"anatomy?run={run}&view={view}", None
    yield "compare", f"compare?runs={ended},{cured},{diverged}", None
    yield "lessons", "lessons", None
    for lesson in LESSONS.values():
        yield f"lesson-{lesson.id}-asks", f"lessons?lesson={lesson.id}&dataset=digits", None
        answer = next(iter(lesson.choices)) if lesson.choices else str(lesson.number[1])
        yield f"lesson-{lesson.id}", f"lessons?lesson={lesson.id}&dataset=digits&prediction={answer}", open_all
    yield "lesson-unknown", "lessons?lesson=none", None
    yield "sweep-empty", "sweep?dataset=digits", open_all
    yield "sweep-error", "sweep?values=a,b&axis=lr&sweep=none&axis2=what", None
    yield "classroom", "classroom", open_all
    yield "classroom-wall-empty", "classroom?wall", None
    yield "classroom-wall", f"classroom?wall={ended}", None
    for name in ("live", "over", "failed"):
        yield f"watched-{name}", f"?run={runs[name]}", open_all
    for view in ("layers", "treatment", "layer", "motion"):
        yield f"watched-anatomy-{view}", f"anatomy?run={runs['over']}&view={view}", None
    yield "watched-compare", f"compare?runs={runs['over']},{ended}", None


def of_a_teacher() -> Iterator[State]:
    """In a tab of his own; the last leaves the class locked."""
    yield "teacher", "classroom", enter
    yield "teacher-locks", "classroom", lock


def of_a_locked_class(runs: dict[str, str]) -> Iterator[State]:
    """As a student meets it."""
    yield "locked-lab", "", None
    yield "locked-run", f"?run={runs['ended']}", open_all
    yield "locked-sweep", "sweep?dataset=digits", None
    yield "locked-lesson", "lessons?lesson=sigmoid-depth&dataset=digits", None
    yield "locked-classroom", "classroom", open_all
    yield "locked-compare", f"compare?runs={runs['ended']},{runs['cured']}", None
    yield "locked-compare-empty", "compare", None
