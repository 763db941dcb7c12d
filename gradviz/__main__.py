"""python -m gradviz, or gradviz: the pages in the browser (open, or nothing); and without one the same trainings (train), what
became of watched nets (watched), and the article's claims put to the test (reproduce), as JSON lines or as text."""

from __future__ import annotations

import argparse
import json
import math
import os
import re
import shlex
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

from gradviz import cells
from gradviz.lenet.config import DATASETS, FIELDS, RunConfig, option
from gradviz.lenet.fields import ConfigError
from gradviz.messages import say, text
from gradviz.record.arithmetic import device_said
from gradviz.record.history import StepRecord
from gradviz.record.quantities import QUANTITIES
from gradviz.record.run import Outcome, Run, Status
from gradviz.record.sender import NotSent
from gradviz.record.spool import SpoolError
from gradviz.settings import Settings, SettingsError
from gradviz.watched import lines, send
from gradviz.words import ENGLISH, N_, found, joined, languages, listed, speaking, word_of
from gradviz.words import gettext as _

_METAVAR = {int: "N", float: "X", tuple: "STEP:SETTING=VALUE,…"}


_HEADINGS = (N_("options"), N_("positional arguments"))  # argparse's
_WRONG = (  # what it says is wrong
    N_("unrecognized arguments: {what}"), N_("the following arguments are required: {what}"),
    N_("argument {name}: expected one argument"), N_("argument {name}: invalid choice: {what} (choose from {known})"),
    N_("argument {name}: invalid {kind} value: {what}"), N_("argument {name}: ignored explicit argument {what}"),
)  # fmt: skip


class _Help(argparse.HelpFormatter):
    """argparse's own words in the reader's language."""

    def add_usage(self, usage: str | None, actions: Any, groups: Any, prefix: str | None = None) -> None:
        super().add_usage(usage, actions, groups, _("usage: ") if prefix is None else prefix)

    def start_section(self, heading: str | None) -> None:
        super().start_section(_(heading) if heading in _HEADINGS else heading)


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one line."""

    def __init__(self, add_help: bool = True, **more: Any):
        super().__init__(add_help=False, formatter_class=_Help, **more)
        if add_help:
            self.add_argument("-h", "--help", action="help", help=_("show this help and end"))

    def error(self, message: str) -> NoReturn:
        said = message
        for form in _WRONG:
            if parts := re.fullmatch(re.sub(r"\\{(\w+)\\}", r"(?P<\1>.+?)", re.escape(form)), message):
                said = _(form).format(**parts.groupdict())
        for name in FIELDS:
            if f"argument {option(name)}:" in message and FIELDS[name].spec.kind is not bool:  # its value is missing
                said += _("; it must be {range}").format(range=FIELDS[name].spec.range)
        self.exit(2, f"{self.prog}: {said}\n")


def _parser() -> argparse.ArgumentParser:
    about = _("See gradients vanish and explode in a deep LeNet.")
    parser = _Parser(prog="python -m gradviz", description=about, allow_abbrev=False)
    known = _("{languages}; here that of the locale").format(languages=", ".join(map(word_of, languages())))
    parser.add_argument("--lang", metavar="LANGUAGE", default=argparse.SUPPRESS, help=known)
    commands = parser.add_subparsers(required=True, metavar="COMMAND", parser_class=_Parser)
    show = commands.add_parser("open", help=_("serve the runs of a folder and open the browser; what happens without a command"))
    show.add_argument("folder", nargs="?", metavar="FOLDER", help=_("of runs; here GRADVIZ_STORE"))
    show.add_argument("--port", type=int, metavar="N", help=_("of the server; the first free one from 8501 on"))
    show.add_argument("--no-browser", dest="browser", action="store_false", help=_("only say the address"))
    show.set_defaults(command=_open, prog=show.prog)
    train = commands.add_parser("train", help=_("train one net and measure every layer at every step"), allow_abbrev=False)
    train.add_argument("--json", action="store_true", help=_("one JSON object per step, then one about the whole run"))
    for name, field in FIELDS.items():
        spec = field.spec
        common: dict[str, Any] = {"dest": name, "default": argparse.SUPPRESS}
        if spec.kind is bool:
            train.add_argument(option(name), action="store_true", help=f"{_(spec.label)}. {_(spec.help)}", **common)
        else:
            default = "default" if field.default is None else field.default if field.default != () else _("none")
            help = _("{label}. {help} {range}; here {default}.").format(
                label=_(spec.label), help=_(spec.help), range=spec.range_text.capitalize(), default=default
            )
            metavar = "|".join(spec.choices) if spec.choices else _METAVAR[spec.kind]
            train.add_argument(option(name), metavar=metavar, help=help.replace("%", "%%"), **common)
    train.set_defaults(command=_train, prog=train.prog)
    watched = commands.add_parser("watched", help=_("what became of the nets that gradviz.watch has watched"), allow_abbrev=False)
    watched.add_argument("place", nargs="?", metavar="FOLDER|FILE", help=_("of runs, or one .spool file; here GRADVIZ_STORE"))
    watched.add_argument("--to", metavar="ADDRESS", help=_("send the file to that server; both have GRADVIZ_INGEST_TOKEN"))
    watched.set_defaults(command=_watched, prog=watched.prog)
    share = commands.add_parser("share", help=_("a run as one file, a page without a server and a network"), allow_abbrev=False)
    share.add_argument("run", metavar="RUN", help=_("how its id begins, or the .spool file of a watched net"))
    share.add_argument("-o", "--out", metavar="FILE", help=_("the page; here gradviz-RUN.html"))
    share.add_argument("--folder", metavar="FOLDER", help=_("of runs; here GRADVIZ_STORE"))
    share.add_argument("--server", metavar="ADDRESS", help=_("of the pages, to which the file then has a link"))
    share.set_defaults(command=_share, prog=share.prog)
    _add_cell(commands)
    reproduce = commands.add_parser("reproduce", help=_("put every claim of the article to the test"), allow_abbrev=False)
    reproduce.add_argument("--quick", action="store_true", help=_("one seed, at most 15 minutes; a rerun goes on where it was"))
    reproduce.add_argument("--seeds", type=int, metavar="N", help=_("seeds near each border of trainability; 3, quick 1"))
    reproduce.add_argument("--minutes", type=float, metavar="X", help=_("begin no run that is expected to end later than that"))
    reproduce.add_argument("--out", default="docs", metavar="FOLDER", help=_("gets reproduction.md and its pictures; here docs"))
    reproduce.add_argument("--dataset", choices=list(DATASETS), default="mnist", help=_("here mnist"))
    reproduce.add_argument("--article", action="store_true", help=_("the runs of the article's length (10 epochs) too: hours"))
    reproduce.add_argument("--at-once", type=int, metavar="N", help=_("trainings at the same time; one per core"))
    reproduce.add_argument("--kept", metavar="FILE", help=_("where the long runs are kept; here those that come with gradviz"))
    reproduce.set_defaults(command=_reproduce, prog=reproduce.prog)
    return parser


def _add_cell(commands: Any) -> None:
    cell = commands.add_parser("cell", help=_("servers for several classes behind one entrance (docs/cluster.md)"))
    parts = cell.add_subparsers(required=True, metavar="COMMAND", parser_class=_Parser)
    new = parts.add_parser("make", help=_("write the files of one more"), allow_abbrev=False)
    new.add_argument("name", metavar="NAME", help=_("which its pages' address ends with"))
    new.add_argument("--slots", type=int, default=4, metavar="N", help=_("of its runs that train at once; here 4"))
    new.add_argument("--pin", metavar="PIN", help=_("the teacher's; here one is made"))
    new.set_defaults(command=_cell_make, prog=new.prog)
    load = parts.add_parser("list", help=_("all of them, and how much they have to do"), allow_abbrev=False)
    load.set_defaults(command=_cell_list, prog=load.prog)
    page = parts.add_parser("page", help=_("the same as a page for whoever sits at this computer"), allow_abbrev=False)
    page.add_argument("--port", type=int, default=8500, metavar="N", help=_("of that page; here 8500"))
    page.set_defaults(command=_cell_page, prog=page.prog)
    for each in (load, page):
        here = _("of the entrance; here http://127.0.0.1:8501")
        each.add_argument("--at", default="http://127.0.0.1:8501", metavar="ADDRESS", help=here)
    for each in (new, load, page):
        each.add_argument("--folder", type=Path, default=Path("cells"), metavar="FOLDER", help=_("of their files; here cells"))


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit code: 0 done, 1 failed, 2 bad setting, 128 + n ended by signal n."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # a terminal that has no √ gets a ? in its place
            stream.reconfigure(errors="replace")
    finder = _Parser(prog="python -m gradviz", add_help=False, allow_abbrev=False)
    finder.add_argument("--lang")
    asked, arguments = finder.parse_known_args(sys.argv[1:] if arguments is None else arguments)
    if asked.lang and not found(asked.lang):
        refusal = say("no-language", given=asked.lang[:40], languages=", ".join(map(word_of, languages())))
        return _complain(f"{finder.prog}: {refusal}", 2)
    with speaking(found(asked.lang, *_of_terminal()) or ENGLISH):
        return _run(arguments)


def _of_terminal() -> list[str]:
    """The languages of the locale, the dearest first; C is English."""
    locale = next(filter(None, (os.environ.get(name) for name in ("LC_ALL", "LC_MESSAGES", "LANG"))), "")
    several = os.environ.get("LANGUAGE", "").split(":") if locale and locale.split(".")[0] not in ("C", "POSIX") else []
    return [*several, locale]


def _run(arguments: Sequence[str]) -> int:
    given = vars(_parser().parse_args(arguments or ["open"]))
    command, prog = given.pop("command"), given.pop("prog")
    try:
        code: int = command(given)
        print(end="", flush=True)  # what cannot be written is told here, and not by Python at its exit
        return code
    except ConfigError as error:
        return _complain(f"{prog}: {option(error.field)}: {error}", 2)
    except SettingsError as error:
        return _complain(f"{prog}: {error}", 2)
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    except BrokenPipeError:
        _drop_output()  # the reader, `| head` say, has seen enough
        return 128 + 13  # SIGPIPE, which Windows does not name
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package == "gradviz":
            raise
        said = _("{command}: {package} is missing; pip install 'gradviz-lab[app]' brings what the pages and their nets need.")
        return _complain(said.format(command=prog, package=package), 1)
    except Exception as error:
        if os.environ.get("GRADVIZ_DEBUG"):
            raise
        try:
            print(end="", flush=True)
        except OSError:
            _drop_output()
        what = f"{type(error).__name__}: {' '.join(str(error).split())}"
        said = _("{command}: an error of its own ({what}); with GRADVIZ_DEBUG=1 it says where.")
        return _complain(said.format(command=prog, what=what), 1)


def _open(given: dict[str, Any]) -> int:
    from gradviz.ui.opening import is_free, open_app

    folder = Path(given["folder"] or Settings.from_environment().store)
    if given["folder"] and not folder.is_dir():
        return _complain(_("{folder} is no folder.").format(folder=folder), 2)
    if not (given["port"] is None or 1 <= given["port"] <= 65535):
        return _complain(_("--port must be 1…65535, not {port}.").format(port=given["port"]), 2)
    if given["port"] and not is_free(given["port"]):
        return _complain(_("Port {port} is taken; without --port the first free one is used.").format(port=given["port"]), 2)
    open_app(folder, given["port"], given["browser"])
    return 0


def _watched(given: dict[str, Any]) -> int:
    place = Path(given["place"] or Settings.from_environment().store)
    try:
        if given["to"]:
            print(send(place, given["to"]))
            return 0
        for line in lines(place):
            print(line)
    except (OSError, SpoolError) as error:
        return _complain(f"{place}: {error}", 1)
    except NotSent as error:
        return _complain(str(error), 1)
    return 0


def _cell_make(given: dict[str, Any]) -> int:
    folder, name = given["folder"], given["name"]
    try:
        pin = cells.make(folder, name, given["slots"], given["pin"])
    except cells.CellError as error:
        return _complain(str(error), 2)
    except OSError as error:
        return _complain(f"{error.filename or folder}: {error.strerror or error}", 1)
    print(_("The cell {name} has the teacher's PIN {pin}. It begins, under /{name}/, with").format(name=name, pin=pin))
    print(f"    docker compose -f {shlex.quote(str(folder / cells.COMPOSE))} up --build --detach")
    return 0


def _cell_list(given: dict[str, Any]) -> int:
    try:
        found = cells.loads(given["folder"], given["at"])
    except cells.CellError as error:
        return _complain(str(error), 2)
    print("\n".join(cells.aligned(cells.table(found))))
    if there := cells.computers(found):
        print("\n" + "\n".join(cells.aligned(there)))
    if note := cells.overbooked(found):
        print("\n" + note)
    return 1 if any(cell.trouble for cell in found) else 0


def _cell_page(given: dict[str, Any]) -> int:
    if not 1 <= given["port"] <= 65535:
        return _complain(_("--port must be 1…65535, not {port}.").format(port=given["port"]), 2)
    try:
        cells.loads(given["folder"], given["at"])  # a wrong folder or address is said at once
        with cells.pages(lambda: cells.loads(given["folder"], given["at"]), given["port"]) as server:
            print(f"http://127.0.0.1:{given['port']}", flush=True)
            server.serve_forever()
    except cells.CellError as error:
        return _complain(str(error), 2)
    except OSError:
        return _complain(_("Port {port} is taken.").format(port=given["port"]), 2)
    return 0


def _share(given: dict[str, Any]) -> int:
    from gradviz.share.command import NotShared, share
    from gradviz.store.opening import StoreError

    out = Path(given["out"] or f"gradviz-{Path(given['run']).stem}.html")
    try:
        size = share(given["run"], Path(given["folder"] or Settings.from_environment().store), out, given["server"])
    except NotShared as error:
        return _complain(str(error), 2)
    except (StoreError, SpoolError) as error:
        return _complain(str(error), 1)
    except OSError as error:
        return _complain(f"{out}: {error.strerror or error}", 1)
    print(_("{file}: {size:,} bytes.").format(file=out, size=size))
    return 0


def _drop_output() -> None:
    """Python would complain once more when it flushes at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _complain(message: str, code: int) -> int:
    print(message, file=sys.stderr)
    return code


def _train(given: dict[str, Any]) -> int:
    as_json = given.pop("json")
    config = RunConfig.from_dict(given)
    settings = Settings.from_environment()

    # torch takes seconds to import: a bad option is refused before.
    from gradviz.lenet.data import Shelf
    from gradviz.lenet.diagnosis import headline
    from gradviz.lenet.experiment import resolve_device, training
    from gradviz.lenet.idx import DataError
    from gradviz.train.device import device_text
    from gradviz.train.training import Interrupted

    device = resolve_device(config.device)
    shelf = Shelf(settings.data, settings.download)
    if (state := shelf.request(config.dataset)).status == "downloading":
        print(state.message, file=sys.stderr)
        shelf.wait(config.dataset)
    try:
        name, replaced = shelf.effective(config.dataset)
        data = shelf.load(name)
    except DataError:  # damaged files; the shelf knows now, and offers the digits
        name, replaced = shelf.effective(config.dataset)
        data = shelf.load(name)
    if replaced:
        print(replaced, file=sys.stderr)
    config = replace(config, dataset=name)

    run = Run.begun(config, device=device_text(device))
    with _stop_signals() as received:
        try:
            trainer = training(config, data, device, interrupt=lambda: bool(received))
        except Interrupted:
            return _complain(_("Stopped before the first step."), 128 + received[0])
        run.arithmetic = trainer.arithmetic
        report = _JsonLines(run) if as_json else _Text(run)
        try:
            for record in trainer:
                run.take(record)
                report.step(record)
            assert trainer.outcome is not None  # the iteration has ended
            outcome = trainer.outcome
        except (RuntimeError, MemoryError) as error:  # torch says so when the memory of the machine or the card is used up
            outcome = Outcome(Status.FAILED, message=text(" ".join(str(error).split())))
    run.end(outcome)
    report.end(outcome, headline(run)[0] if run.history.steps else None)
    if outcome.status is Status.FAILED:
        return _complain(str(outcome.message), 1)
    return 128 + received[0] if received else 0


def _reproduce(given: dict[str, Any]) -> int:
    from gradviz.reproduce import main

    return main(given)


@contextmanager
def _stop_signals() -> Iterator[list[int]]:
    """The stop signals received so far. The second Ctrl-C acts at once, as if we were not here."""
    received: list[int] = []

    def note(number: int, frame: object) -> None:
        received.append(number)
        signal.signal(number, before[number])

    before: dict[int, Any] = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class _JsonLines:
    """Strict JSON, one object a line: inf and nan, for which JSON has no numbers, are the strings "inf", "-inf", "nan"."""

    def __init__(self, run: Run[RunConfig]):
        self._run = run
        treated = run.recipe.treatment != "none" or any(change.field == "treatment" for change in run.recipe.changes)
        self._quantities = [name for name in QUANTITIES if name != "treated_grad_rms" or treated]
        self._rows = [list(QUANTITIES).index(name) for name in self._quantities]

    def step(self, record: StepRecord) -> None:
        table = record.layers[self._rows].T.tolist()
        layers = {
            layer: {name: _number(value) for name, value in zip(self._quantities, values, strict=True)}
            for layer, values in zip(self._run.recipe.layout.names, table, strict=True)
        }
        _print_json(step=record.step, loss=_number(record.loss), accuracy=record.accuracy, layers=layers)

    def end(self, outcome: Outcome, verdict: str | None) -> None:
        config, arithmetic = self._run.recipe, self._run.arithmetic
        _print_json(
            status=outcome.status, verdict=verdict, test_accuracy=outcome.test_accuracy, seconds=round(outcome.seconds, 3),
            message=str(outcome.message), dataset=config.dataset, device=self._run.device,
            arithmetic=arithmetic and arithmetic.to_dict(),
        )  # fmt: skip


def _number(value: float) -> float | str:
    return value if math.isfinite(value) else str(value)


def _print_json(**values: Any) -> None:
    print(json.dumps(values, allow_nan=False), flush=True)


class _Text:
    """For people: one progress line that moves on a terminal, some twenty lines elsewhere, and a closing table."""

    def __init__(self, run: Run[RunConfig]):
        self._run = run
        self._on_terminal = sys.stdout is not None and sys.stdout.isatty()
        self._shown = 0.0
        config = run.recipe
        about = _("{title} · {layers} layers · {steps} steps · {device}")
        device = device_said(run.device)
        print(about.format(title=config.title, layers=config.layers, steps=config.steps, device=device), flush=True)

    def step(self, record: StepRecord) -> None:
        steps = self._run.recipe.steps
        last = record.step == steps - 1 or not math.isfinite(record.loss)
        if self._on_terminal:
            due = time.monotonic() - self._shown > 0.1
        else:
            due = record.step % max(1, steps // 20) == 0
        if due or last:
            self._shown = time.monotonic()
            names, (first, last) = self._run.recipe.layout.names, record.layers[0, [0, -1]]
            line = _("step {step:>{width}} of {steps}  loss {loss:.5g}  accuracy {accuracy:4.0%}  weight gradient: "
                     "{front} {first:.1e}, {back} {last:.1e}  {each:.1f} ms a step").format(
                step=record.step, width=len(str(steps)), steps=steps, loss=record.loss, accuracy=record.accuracy,
                front=names[0], first=first, back=names[-1], last=last, each=1e3 * record.seconds / (record.step + 1),
            )  # fmt: skip
            print(f"\r{line}\x1b[K" if self._on_terminal else line, end="" if self._on_terminal else "\n", flush=True)

    def end(self, outcome: Outcome, verdict: str | None) -> None:
        history, names = self._run.history, self._run.recipe.layout.names
        print("\n" if self._on_terminal else "")
        if history.steps:
            # With a stride above 1 a column holds the largest of its steps.
            titles = [f"{layer}, {when}" for when in (_("start"), _("end")) for layer in (names[0], names[-1])]
            print(f"{'':18}" + "".join(f"{title:>14}" for title in titles))
            for row, name in enumerate(QUANTITIES):
                ends = [*history.columns[0, row, [0, -1]], *history.columns[-1, row, [0, -1]]]
                print(f"{name:18}" + "".join(f"{value:>14.3g}" for value in ends))
        said = [_("{status} after {steps} steps and {seconds:.1f} s").format(
            status=_(outcome.status), steps=history.steps, seconds=outcome.seconds
        )]  # fmt: skip
        if outcome.test_accuracy is not None:
            said.append(_("test accuracy {accuracy:.1%}").format(accuracy=outcome.test_accuracy))
        if verdict:
            said.append(_("gradients: {verdict}").format(verdict=_(verdict)))
        print(joined([_("{what}.").format(what=listed(said)), str(outcome.message)]))


if __name__ == "__main__":
    sys.exit(main())
