"""What a class shares: names, PIN, lock and wall, the cards' bytes, the archive."""

import csv
import io
import json
import math
import signal
import struct
import subprocess
import sys
import unicodedata
import zipfile

import numpy as np
import pandas as pd
import pytest
from asgi import ask
from starlette.applications import Starlette
from timing import Clock

from gradviz.charts.sweeps import border_figure
from gradviz.lenet import outcome
from gradviz.lenet.config import RunConfig
from gradviz.lenet.lessons.catalogue import LESSONS
from gradviz.record import raster
from gradviz.record.arithmetic import Arithmetic
from gradviz.record.history import History
from gradviz.record.quantities import QUANTITIES
from gradviz.record.run import Run, Status, Summary
from gradviz.serve.archive import archive
from gradviz.serve.classroom import (
    LONGEST_NAME,
    PIN_MINUTE,
    PIN_PACE,
    PIN_TRIES,
    PIN_TRIES_THERE,
    Classroom,
    ClassSweep,
    PinCheck,
    clean_name,
)  # fmt: skip
from gradviz.web.cards import COLUMNS, LOSS_TOP, MOST_CARDS, ROWS, Board, classroom_routes, frame_of, loss_codes, picture
from gradviz.web.routes import Described

SMALL = RunConfig(activation="relu", blocks=2, steps=40, batch_size=4, dataset="digits")


def recorded(config: RunConfig, steps: int, status: Status = Status.FINISHED, seed: int = 0) -> Run:
    random = np.random.default_rng(seed)
    columns = (10 ** random.uniform(-40, 5, (steps, len(QUANTITIES), config.layers))).astype(np.float32)
    scalars = np.column_stack([random.uniform(0, 4, steps), random.uniform(0, 1, steps), np.arange(steps)])
    return Run(config, History.restored(columns, scalars, [(0, 0.1)] if steps else [], 1, 1000), status)


# Names


# What shows nothing: fillers, selectors, joiners, blanks.
BLANK = (
    "\u2800", "\u3164", "\ufe0f", "\u115f", "\u1160", "\uffa0", "\u00ad", "\u034f", "\u180b", "\u200b", "\u200d", "\u2060",
    "\u2064", "\ufeff", "\u17b4", "\U000e0020", "\U000e0100", "\U0001d159", "\U00016fe4", "\U00013441", "\ufffc",
)  # fmt: skip


@pytest.mark.parametrize(
    ("typed", "name"),
    [
        ("  Ann \t  B\n", "Ann B"),
        ("李雷", "李雷"),
        ("O’Brien-Smith", "O’Brien-Smith"),
        ("a\u202eb\x00\u200bc", "abc"),  # an override that would turn the line around, a zero, an invisible space
        ("=HYPERLINK(1)", "HYPERLINK(1)"),
        ("<b>Eve</b>", "<b>Eve</b>"),  # shown as it is: whoever shows it shows it as text
        ("x" * 99, "x" * LONGEST_NAME),
        ("\u200b\n", ""),
        ("x\U000e0041" * 500, "x" * LONGEST_NAME),
        *((blank, "") for blank in BLANK),
        *((f"A{blank}n{blank}", "An") for blank in BLANK),
        ("\u2800 \u3164\ufe0f", ""),
        ("\u0301\u0302", ""),  # accents on nothing
        ("Z\u0335" + "\u0336" * 20, "Z\u0335\u0336\u0336"),  # a tower of them over the neighbours' names
        ("e\u200b\u0301va", "éva"),
        ("สมชาย นี้", "สมชาย นี้"),
        ("श्रीकृष्ण", "श्रीकृष्ण"),
    ],
)
def test_a_name_is_cleaned_and_short(typed, name):
    assert clean_name(typed) == name
    assert clean_name(name) == name


def test_no_character_makes_a_name_of_what_cannot_be_shown():
    for number in range(0x30000):
        name = clean_name(chr(number))
        assert not any(unicodedata.category(c)[0] == "C" for c in name) and name == name.strip()


def test_a_run_shows_all_who_started_or_joined_it_and_a_new_name_shows_everywhere(tmp_path):
    room = Classroom(tmp_path / "classroom.json")
    room.join("one", "Ann", "a1", "b2")
    room.join("two", "", "a1")
    room.join("three", "Bo", "a1")
    assert room.names("a1") == ("Ann", "Bo") and room.names("b2") == ("Ann",) and room.names("c3") == ()
    room.rename("two", "Cy")
    room.rename("one", "Anna")
    assert room.names("a1") == ("Anna", "Cy", "Bo") and room.names("b2") == ("Anna",)
    room.forget("a1")
    assert room.names("a1") == ()


# PIN


def refusal(check: PinCheck, *given: str, **more: bool) -> str:
    return str(check.refuses(*given, **more))


def test_only_the_right_pin_is_right_and_without_one_nobody_is_the_teacher():
    assert refusal(PinCheck("4711"), "4711", "one") == ""
    for wrong in ("", "471", "47111", "４７１１", "4711 ", "\ud800"):
        assert "not the PIN" in refusal(PinCheck("4711"), wrong, "one")
    for off in ("", None):
        check = PinCheck(off)
        assert not check.on and "off" in refusal(check, "", "one")


def test_five_wrong_pins_in_a_minute_close_the_door_to_that_browser_alone_and_tell_the_time_left():
    clock = Clock(1000.0)
    check = PinCheck("4711", clock)
    for _ in range(PIN_TRIES):
        assert "not the PIN" in refusal(check, "0000", "guesser")
        clock.now += 1
    assert "55 seconds" in refusal(check, "4711", "guesser")  # the right one too: else it would tell
    assert refusal(check, "4711", "teacher") == ""
    clock.now += 54.5
    assert "in 1 second." in refusal(check, "4711", "guesser")
    clock.now += 0.5
    assert refusal(check, "4711", "guesser") == ""  # the first has been forgotten
    assert "not the PIN" in refusal(check, "0000", "guesser")
    assert "Too many" in refusal(check, "4711", "guesser")


def test_the_right_pin_enters_for_45_minutes_of_guessing_and_the_guesser_is_slowed():
    clock = Clock(1000.0)

    def sleep(seconds: float) -> None:
        clock.now += seconds

    check, begun, heard = PinCheck("4711", clock, sleep), clock.now, 0
    for n in range(540):  # the guesser has a new session for each try, ten for each of the teacher's
        heard += sum("not the PIN" in refusal(check, "0000", f"session {n} {k}", "10.0.0.1") for k in range(10))
        before = clock.now
        assert refusal(check, "4711", f"teacher {n}", "10.0.0.1") == ""  # without a cookie, and at the guesser's address
        assert clock.now - before <= PIN_PACE
        assert refusal(check, "4711", "teacher", "10.0.0.2") == refusal(check, "4711", "known", "10.0.0.1", known=True) == ""
    assert clock.now - begun > 45 * 60 and heard <= PIN_TRIES_THERE + (clock.now - begun) / PIN_PACE + 1


def test_many_guessers_at_once_wait_for_each_other_and_not_for_ever_and_nobody_known_waits_for_them():
    clock, waits = Clock(1000.0), []
    check = PinCheck("4711", clock, waits.append)
    said = [refusal(check, "0000", f"session {n}", "10.0.0.1") for n in range(1000)]
    assert sum("not the PIN" in sentence for sentence in said) <= PIN_TRIES_THERE + PIN_MINUTE / PIN_PACE + 1
    assert max(waits) <= PIN_MINUTE and "cookies" in said[-1]
    waits.clear()
    assert refusal(check, "4711", "teacher", "10.0.0.1", known=True) == "" and not waits
    assert "not the PIN" in refusal(check, "4712", "pupil", "10.0.0.1", known=True) and not waits
    assert refusal(check, "4711", "pupil", "10.0.0.1", known=True) != ""  # he has guessed, and the line is full
    clock.now += PIN_MINUTE
    assert refusal(check, "4711", "session 7", "10.0.0.1") == ""


def test_guessers_cost_a_bounded_memory():
    check = PinCheck("4711", Clock(1000.0), lambda _: None)
    for n in range(20_000):
        check.refuses("0000", f"session {n}", f"10.{n >> 16}.{n >> 8 & 255}.{n & 255}")
    assert check.remembered <= 2 * 4096


def test_the_pin_stands_in_no_log_text_or_file(tmp_path, caplog):
    caplog.set_level(0)
    room = Classroom(tmp_path / "classroom.json", "secret-4711")
    room.pin.refuses("secret-4712", "one")
    room.pin.refuses("secret-4711", "one")
    room.wall, room.locked = "a1", True
    shown = caplog.text + repr(room) + repr(room.pin) + (tmp_path / "classroom.json").read_text()
    assert "event=wrong-pin" in caplog.text and "secret" not in shown and "471" not in shown


# What is kept


def test_what_the_teacher_chose_is_there_after_a_restart_and_off_while_there_is_no_pin(tmp_path):
    path = tmp_path / "new" / "classroom.json"
    room = Classroom(path, "4711")
    room.join("one", "Ann", "a1")
    room.wall, room.lesson, room.locked = "a1", next(iter(LESSONS)), True
    again = Classroom(path, "4711")
    assert again.notice() == room.notice() and again.names("a1") == ("Ann",)
    assert Classroom(path).notice() == {"lesson": "", "locked": False, "wall": ""}
    again.forget("a1")
    assert Classroom(path, "4711").wall == ""


def test_a_class_is_sent_to_lessons_only(tmp_path):
    room = Classroom(tmp_path / "classroom.json", "4711")
    for word in ("https://example.com", "../x", "no-such-lesson"):
        with pytest.raises(ValueError, match="no lesson"):
            room.lesson = word
    assert room.lesson == "" and not (tmp_path / "classroom.json").exists()


@pytest.mark.parametrize("text", ["", "{", "[]", '{"names": {"a": 1}}', '{"names": {}, "wall": 1, "lesson": "", "locked": true}'])
def test_a_damaged_file_is_put_aside_and_the_class_begins_anew(tmp_path, text):
    path = tmp_path / "classroom.json"
    path.write_text(text)
    room = Classroom(path, "4711")
    assert room.names("a") == () and not room.locked
    assert (tmp_path / "classroom.damaged.json").read_text() == text
    room.join("one", "Ann", "a")
    assert Classroom(path).names("a") == ("Ann",)


def test_a_disk_that_refuses_is_said_and_the_class_goes_on(tmp_path):
    (tmp_path / "file").write_text("")
    room = Classroom(tmp_path / "file" / "classroom.json")
    room.join("one", "Ann", "a")
    assert room.names("a") == ("Ann",) and "restart" in str(room.warning)


def test_a_kill_in_the_middle_of_writing_leaves_a_whole_file_with_all_that_was_confirmed(tmp_path):
    path = tmp_path / "classroom.json"
    program = (
        "import sys; from pathlib import Path; from gradviz.serve.classroom import Classroom\n"
        "room = Classroom(Path(sys.argv[1]))\n"
        "n = 0\n"
        "while True:\n"
        "    room.join('client', f'Ann {n}', f'run{n}'); print(n, flush=True); n += 1\n"
    )
    process = subprocess.Popen([sys.executable, "-c", program, str(path)], stdout=subprocess.PIPE, text=True)
    for _ in range(60):
        done = int(process.stdout.readline())
    process.send_signal(signal.SIGKILL)
    done = max([done, *(int(line) for line in process.stdout.read().split())])
    process.wait()
    room = Classroom(path)
    assert all(room.names(f"run{n}") == (f"Ann {n}",) for n in range(done + 1))
    assert not (tmp_path / "classroom.damaged.json").exists()


# The cards


def unpacked(body: bytes) -> tuple[dict, dict[str, tuple[np.ndarray, np.ndarray]]]:
    """Header, and for each card sent its loss codes and its gradient codes (filled, rows): as classroom.js reads them."""
    (length,) = struct.unpack_from("<I", body)
    header, at, pictures = json.loads(body[4 : 4 + length]), 4 + length, {}
    for id, card in header["cards"].items():
        loss = np.frombuffer(body, np.uint8, card["filled"], at)
        at += card["filled"]
        codes = np.frombuffer(body, np.uint8, card["filled"] * card["rows"], at).reshape(card["filled"], card["rows"])
        at += card["filled"] * card["rows"]
        pictures[id] = (loss, codes)
    assert at == len(body)
    return header, pictures


class Runs:
    """The part of a RunManager that a board asks."""

    def __init__(self, *runs: Run):
        self.runs, self.loaded, self.listed = {run.id: run for run in runs}, [], 0

    def list(self) -> list[Summary]:
        self.listed += 1
        return [Summary.of(run) for run in self.runs.values()]

    def get(self, id: str) -> Run | None:
        self.loaded.append(id)
        return self.runs.get(id)

    def positions(self) -> dict[str, int]:
        return {id: place for place, id in enumerate((id for id, run in self.runs.items() if run.status is Status.QUEUED), 1)}


def board_of(tmp_path, *runs: Run) -> tuple[Board, Runs, Classroom, Clock]:
    manager, room, clock = Runs(*runs), Classroom(tmp_path / "classroom.json", "4711"), Clock(1000.0)
    return Board(manager, room, lambda run: ("vanishing", ""), clock), manager, room, clock


@pytest.mark.parametrize(
    ("steps", "total", "live"),
    [(1, 40, True), (32, 40, True), (33, 40, True), (40, 40, False), (7, 5000, False), (700, 5000, True)],
)
def test_a_cards_picture_is_the_largest_gradient_of_each_bin_of_steps_and_group_of_layers(steps, total, live):
    config = RunConfig(activation="relu", blocks=12, steps=total)
    run = recorded(config, steps, Status.RUNNING if live else Status.STOPPED)
    bins, rows, loss, codes = picture(run)
    frame = frame_of(steps, total, live)
    gradient, losses = run.history.quantity("weight_grad_rms"), run.history.loss
    assert steps <= frame <= (total if live else steps) and rows == ROWS and bins == min(COLUMNS, frame)
    for place in range(bins):
        inside = [step for step in range(steps) if step * bins // frame == place]
        assert bool(inside) == (place < len(loss))
        if not inside:
            continue
        mean = sum(losses[step] for step in inside) / len(inside)
        assert loss[place] == min(raster.LEVELS, int(mean / LOSS_TOP * raster.LEVELS)) + raster.FIRST_LEVEL
        for row in range(rows):
            layers = range(row * config.layers // rows, (row + 1) * config.layers // rows)
            largest = max(gradient[step, layer] for step in inside for layer in layers)
            assert codes[place, row] == raster.encode([largest], "weight_grad_rms", *QUANTITIES["weight_grad_rms"].ranges[0])[0]


def test_zero_inf_and_nan_keep_their_marks_on_a_card():
    run = recorded(RunConfig(activation="relu", blocks=0, steps=3), 3)
    run.history.columns[0, 0, :3] = 0, np.inf, np.nan
    _bins, _rows, _loss, codes = picture(run)
    assert list(codes[0, :3]) == [raster.ZERO, raster.INFINITE, raster.NOT_A_NUMBER]
    assert list(loss_codes(np.array([math.nan, math.inf, 99.0, 0.0, 2.9999]))) == [
        raster.NOT_A_NUMBER, raster.INFINITE, raster.ABOVE, raster.FIRST_LEVEL, raster.FIRST_LEVEL + raster.LEVELS - 1,
    ]  # fmt: skip


def test_a_run_without_a_step_has_a_card_without_a_picture(tmp_path):
    board, *_ = board_of(tmp_path, Run(SMALL, History(SMALL.layers)))
    header, pictures = unpacked(board.answer())
    card = header["cards"][SMALL.id]
    assert card["status"] == "queued" and card["place"] == 1 and card["loss"] is None and len(pictures[SMALL.id][0]) == 0


def test_a_card_names_its_people_and_its_state_and_an_infinite_loss_stays_one(tmp_path):
    run = recorded(SMALL, 5, Status.DIVERGED)
    run.history.loss[4] = math.inf
    board, _manager, room, _clock = board_of(tmp_path, run)
    for n in range(6):
        room.join(f"client {n}", f"Student {n}", run.id)
    header, _ = unpacked(board.answer())
    card = header["cards"][run.id]
    assert card["names"] == [f"Student {n}" for n in range(4)] and card["others"] == 2
    assert (card["status"], card["verdict"], card["steps"], card["total"]) == ("diverged", "vanishing", 5, 40)
    assert card["loss"] == "Infinity" and card["summary"] == SMALL.title


def test_who_has_seen_the_last_look_gets_only_the_cards_that_changed(tmp_path):
    done, live = recorded(SMALL, 40), recorded(RunConfig(activation="relu", blocks=3, steps=40), 5, Status.RUNNING)
    board, manager, room, clock = board_of(tmp_path, done, live)
    first, _ = unpacked(board.answer())
    assert set(first["cards"]) == {done.id, live.id} and first["order"] == [live.id, done.id] and first["ended"] == 1
    assert unpacked(board.answer(first["seen"]))[0]["cards"] == {}

    grown = recorded(live.recipe, 9, Status.RUNNING)
    grown.created = live.created
    manager.runs[live.id] = grown
    assert unpacked(board.answer(first["seen"]))[0]["cards"] == {}  # looked a moment ago
    clock.now += 1
    second, _ = unpacked(board.answer(first["seen"]))
    assert set(second["cards"]) == {live.id} and second["cards"][live.id]["filled"] == 9
    clock.now += 1
    room.join("one", "Ann", done.id)
    third, _ = unpacked(board.answer(second["seen"]))
    assert set(third["cards"]) == {done.id} and third["cards"][done.id]["names"] == ["Ann"]
    assert set(unpacked(board.answer(first["seen"]))[0]["cards"]) == {done.id, live.id}  # who slept gets both
    assert manager.loaded.count(done.id) == 2  # not at every look

    del manager.runs[done.id]
    clock.now += 1
    fourth, _ = unpacked(board.answer(third["seen"]))
    assert fourth["order"] == [live.id] and fourth["cards"] == {}


def test_after_a_restart_of_the_server_a_browser_gets_everything(tmp_path):
    board, *_ = board_of(tmp_path, recorded(SMALL, 5))
    seen = unpacked(board.answer())[0]["seen"]
    other, *_ = board_of(tmp_path, recorded(SMALL, 5))
    assert len(unpacked(other.answer(seen))[0]["cards"]) == 1


def test_thirty_browsers_cost_one_look_a_second(tmp_path):
    board, manager, _room, clock = board_of(tmp_path, recorded(SMALL, 5))
    for _ in range(30):
        board.answer()
    assert manager.listed == 1
    clock.now += 1
    board.answer()
    assert manager.listed == 2


def test_what_trains_comes_first_then_the_queue_then_ended_runs_with_a_name(tmp_path):
    configs = [RunConfig(activation="relu", blocks=1, steps=40, seed=seed) for seed in range(6)]
    states = [Status.FINISHED, Status.QUEUED, Status.FINISHED, Status.QUEUED, Status.RUNNING, Status.PAUSED]
    runs = [recorded(config, 5, state) for config, state in zip(configs, states, strict=True)]
    for n, run in enumerate(runs):
        run.created = n
    board, _manager, room, _clock = board_of(tmp_path, *runs)
    room.join("one", "Ann", runs[0].id)
    order = unpacked(board.answer())[0]["order"]
    assert [next(n for n, run in enumerate(runs) if run.id == id) for id in order] == [4, 5, 1, 3, 0, 2]


def test_more_runs_than_cards_are_counted(tmp_path):
    runs = [recorded(RunConfig(activation="relu", blocks=0, steps=40, seed=seed), 2) for seed in range(MOST_CARDS + 3)]
    board, *_ = board_of(tmp_path, *runs)
    header, _ = unpacked(board.answer())
    assert len(header["order"]) == MOST_CARDS and header["more"] == 3


def test_thirty_cards_are_under_thirty_kilobytes_and_two_live_ones_under_three(tmp_path):
    runs = [recorded(RunConfig(activation="relu", blocks=12, steps=40, seed=seed), 40, seed=seed) for seed in range(28)]
    live = [recorded(RunConfig(activation="relu", blocks=12, steps=40, seed=99 + n), 33, Status.RUNNING) for n in range(2)]
    board, manager, room, clock = board_of(tmp_path, *runs, *live)
    for n, run in enumerate([*runs, *live]):
        room.join(f"client {n}", f"Student number {n}", run.id)
    whole = board.answer()
    assert len(whole) < 30_000
    for run in live:
        manager.runs[run.id] = recorded(run.recipe, 36, Status.RUNNING)
        manager.runs[run.id].created = run.created
    clock.now += 1
    part = board.answer(unpacked(whole)[0]["seen"])
    assert len(unpacked(part)[0]["cards"]) == 2 and len(part) < 3_000


def test_a_verdict_that_cannot_be_found_costs_nobody_the_card(tmp_path):
    def broken(run):
        raise ZeroDivisionError

    board = Board(Runs(recorded(SMALL, 5)), Classroom(tmp_path / "c.json"), Described(broken))
    header, _ = unpacked(board.answer())
    assert header["cards"][SMALL.id]["filled"] == 5 and header["cards"][SMALL.id]["verdict"] == ""


def test_the_routes_answer_and_refuse_rubbish_with_a_sentence(tmp_path):
    board, _manager, room, _clock = board_of(tmp_path, recorded(SMALL, 5))
    app = Starlette(routes=classroom_routes(lambda: board, room.notice))
    answer = ask(app, "/api/classroom")
    seen = unpacked(answer.body)[0]["seen"]
    assert answer.headers["cache-control"] == "no-store"
    assert unpacked(ask(app, "/api/classroom", f"seen={seen}").body)[0]["cards"] == {}
    for rubbish in ("x", "1", f"{seen}0000000000000", "-1", "zzzzzzzz-1", "00000000-²"):
        refused = ask(app, "/api/classroom", f"seen={rubbish}")
        assert refused.status == 400 and "must be" in refused.text
    notice = {"lesson": "", "locked": False, "wall": ""}
    assert json.loads(ask(app, "/api/classroom/notice").body) == notice
    assert json.loads(ask(app, "/api/classroom", "notice=1").headers["gradviz-notice"]) == notice
    assert "gradviz-notice" not in answer.headers


# The picture of the class


def test_a_class_is_one_picture_over_depth_with_a_row_for_each_remedy():
    configs = [
        RunConfig(activation="relu", blocks=4), RunConfig(activation="relu", blocks=4, lr=0.1, optimizer="sgd", seed=3),
        RunConfig(activation="relu", blocks=9, steps=7), RunConfig(activation="sigmoid", blocks=2, batch_norm=True),
        RunConfig(activation="relu", blocks=4, init_range=0.5), RunConfig(activation="relu", blocks=4, treatment="clip-norm"),
    ]  # fmt: skip
    klass = ClassSweep.of([*configs, configs[0]])
    assert klass.axes == ("blocks",) and len(klass.configs) == len(configs)
    assert list(klass.remedies().values()) == ["relu", "relu + clip-norm", "relu + init ±0.5", "sigmoid + batch norm"]
    assert klass.remedy(configs[0]) == klass.remedy(configs[1]) == klass.remedy(configs[2])


def test_each_ended_run_of_the_class_is_a_point_of_its_picture():
    runs = [recorded(RunConfig(activation="relu", blocks=blocks, steps=40, seed=blocks), 40) for blocks in (1, 2, 5, 5)]
    results = {run.recipe: outcome.result(run) for run in runs}
    figure = border_figure(ClassSweep.of(results), results)
    points = [trace.x[0] for trace in figure.data if trace.mode == "markers" and trace.x[0] is not None]
    assert sorted(points) == [1, 2, 5]  # the same config twice is one run


# The archive


def test_the_archive_holds_every_run_as_it_was_recorded(tmp_path):
    runs = [recorded(SMALL, 40), recorded(RunConfig(activation="relu", blocks=0, steps=40), 7, Status.STOPPED, seed=1)]
    runs.append(Run(RunConfig(blocks=1), History(RunConfig(blocks=1).layers)))
    room = Classroom(tmp_path / "c.json")
    room.join("one", "Ann", SMALL.id)
    room.join("two", "李雷", SMALL.id)
    runs[0].arithmetic = Arithmetic("cpu", "AVX2 x86_64", "", 2, "2.13.0")
    with zipfile.ZipFile(io.BytesIO(b"".join(archive(iter(runs), room.names)))) as file:
        assert file.testzip() is None
        rows = list(csv.DictReader(io.TextIOWrapper(file.open("runs.csv"), encoding="utf-8")))
        assert [row["run"] for row in rows] == [run.id for run in runs] and rows[0]["names"] == "Ann, 李雷"
        assert [row["computed_with"] for row in rows] == [runs[0].arithmetic.code] + ["unknown"] * (len(runs) - 1)
        for run, row in zip(runs, rows, strict=True):
            steps = run.history.steps
            assert (row["status"], int(row["steps_done"]), int(row["blocks"])) == (run.status, steps, run.recipe.blocks)
            assert RunConfig.from_dict(json.loads(file.read(f"{run.id}/config.json"))) == run.recipe
            table = pd.read_csv(file.open(f"{run.id}/steps.csv"))
            assert table["loss"].tolist() == run.history.loss.tolist()
            layers = pd.read_parquet(io.BytesIO(file.read(f"{run.id}/layers.parquet")))
            assert np.array_equal(
                layers["weight_grad_rms"].to_numpy().reshape(-1, run.recipe.layers), run.history.quantity("weight_grad_rms")
            )


def test_a_full_archive_keeps_the_rows_of_the_runs_that_have_no_room():
    runs = [recorded(RunConfig(activation="relu", blocks=2, steps=40, seed=seed), 40, seed=seed) for seed in range(3)]
    body = b"".join(archive(runs, lambda id: (), most_bytes=1))
    with zipfile.ZipFile(io.BytesIO(body)) as file:
        rows = list(csv.DictReader(io.TextIOWrapper(file.open("runs.csv"), encoding="utf-8")))
        assert [row["files"][:3] for row in rows] == ["yes", "no:", "no:"]
        assert {name.split("/")[0] for name in file.namelist()} == {runs[0].id, "runs.csv"}
