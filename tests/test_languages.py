"""Which language is spoken, and that whatever is said without a browser goes through the catalogue."""

import io
import json
import os
import re
import subprocess
import sys
import threading
import tokenize
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import streamlit
from asgi import ask
from pseudo import LANGUAGE, make, unbracketed
from recorded import finished_run
from running import ROOT

from gradviz import words
from gradviz.__main__ import main
from gradviz.charts.runs import accuracy_figure, heatmaps_figure, loss_figure, profile_figure
from gradviz.charts.sweeps import border_figure, grid_figure, ratio_figure, theory_ratios
from gradviz.lenet import codegen
from gradviz.lenet.config import FIELDS, RunConfig
from gradviz.lenet.naming import remedy_name, remedy_word
from gradviz.lenet.outcome import result
from gradviz.lenet.sweep import Sweep
from gradviz.record.arithmetic import Arithmetic
from gradviz.record.reading import quantity_at
from gradviz.web.language import COOKIE, Language
from gradviz.web.texts import card_words, plotly_words, streamlit_words


@pytest.fixture
def strange(tmp_path, monkeypatch):
    """Speaks the language of `pseudo`."""
    make(tmp_path)
    monkeypatch.setenv("GRADVIZ_LOCALE", str(tmp_path))
    words.languages.cache_clear()
    with words.speaking(LANGUAGE):
        yield
    words.languages.cache_clear()


def outside(said: object) -> list[str]:
    """The texts in a thing of lists and dictionaries that escaped the catalogue."""
    if isinstance(said, dict):
        return [text for value in said.values() for text in outside(value)]
    if isinstance(said, (list, tuple)):
        return [text for value in said for text in outside(value)]
    return [said] if isinstance(said, str) and unbracketed(said) else []


# Which


@pytest.mark.parametrize(("wish", "language"), [
    ("zh", "zh_CN"), ("zh-CN", "zh_CN"), ("zh_CN.UTF-8", "zh_CN"), ("zh-Hans-CN", "zh_CN"), ("zh-TW", "zh_CN"), ("ZH", "zh_CN"),
    ("en", "en"), ("en-GB", "en"), ("fr", None), ("C", None), ("", None), (None, None), ("z" * 10_000, None), ("../..", None),
])  # fmt: skip
def test_a_wish_is_met_by_the_language_that_is_nearest(wish, language):
    assert words.found(wish) == language


def test_the_header_of_a_browser_is_read_by_its_weights_and_never_raises():
    assert words.accepted("de;q=0.5, zh-CN, en;q=0.7") == ["zh-CN", "en", "de"]
    assert words.accepted("en;q=0, *;q=0.1, ;;;, zh;q=x, 中文, fr;q=1.0") == ["fr"]
    assert words.accepted(None) == words.accepted("") == []


def test_each_thread_and_each_context_speaks_its_own_language():
    english, chinese = "Start", None
    with words.speaking("zh_CN"):
        chinese = words.gettext("Start")
        with ThreadPoolExecutor(1) as pool:
            assert pool.submit(words.gettext, "Start").result() == english  # nothing was said there yet
        heard = []
        thread = threading.Thread(target=lambda: (words.speak("zh_CN"), heard.append(words.gettext("Start"))))
        thread.start()
        thread.join()
        assert heard == [chinese]
    assert chinese not in ("", english) and words.gettext("Start") == english and words.gettext("") == ""


def test_what_streamlit_calls_by_itself_speaks_the_language_of_its_session():
    rooms = [*ROOT.glob("pages/*.py"), *ROOT.glob("gradviz/ui/*.py")]
    assert [room.name for room in rooms if re.search(r"\bst\.(fragment|dialog)\b", room.read_text())] == ["language.py"]


@pytest.mark.parametrize(("address", "cookie", "header", "language"), [
    ("?lang=zh", "", "", "zh_CN"), ("?lang=en", COOKIE + "=zh", "zh", "en"), ("", COOKIE + "=zh", "en", "zh_CN"),
    ("", "", "fr, zh;q=0.5", "zh_CN"), ("?lang=xx", "", "", "en"), ("", "", "", "en"),
])  # fmt: skip
def test_a_request_is_answered_in_the_language_of_its_address_else_of_the_cookie_else_of_the_browser(
    address, cookie, header, language
):
    heard = []

    async def app(scope, receive, send):
        heard.append(words.language())
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    ask(Language(app), "/api", address.removeprefix("?"), cookie=cookie, accept_language=header)
    assert heard == [language] and words.language() == "en"


def test_an_address_says_a_language_as_short_as_it_can():
    assert [words.word_of(name) for name in ("en", "zh_CN")] == ["en", "zh"] and words.tag("zh_CN") == "zh-CN"
    assert words.name_of("en") == "English" and words.name_of("zh_CN") != "English"


def test_a_remedy_in_a_link_and_the_name_of_a_sweep_are_the_same_for_every_reader():
    config = RunConfig(batch_norm=True, init="critical")
    with words.speaking("zh_CN"):
        assert remedy_word(config) == "sigmoid + batch norm + critical init" != remedy_name(config)
        sweep = Sweep.over(Sweep.name_over(["sigmoid"], ["blocks"]), [RunConfig()], {"blocks": [1, 2]}, [0])
        title = sweep.title
    assert sweep.name == sweep.title == "sigmoid over Blocks" != title


def test_the_command_line_speaks_the_locale_and_lang_goes_before_it():
    def said(*options: str, **environment: str) -> str:
        plain = {name: value for name, value in os.environ.items() if not name.startswith(("LANG", "LC_"))}
        run = subprocess.run([sys.executable, "-m", "gradviz", *options, "train", "--blocks", "x"], cwd=ROOT, text=True,
                             env=plain | {"PYTHONIOENCODING": "utf-8"} | environment, stderr=subprocess.PIPE)  # fmt: skip
        assert run.returncode == 2
        return run.stderr

    english, chinese = said(), said(LANG="zh_CN.UTF-8")
    assert "must be a whole number" in english and "块" in chinese
    assert said("--lang", "zh") == chinese
    assert said("--lang", "en", LANG="zh_CN.UTF-8") == english == said(LC_ALL="C", LANG="zh_CN.UTF-8")
    assert said("--lang", "fr").strip() == "python -m gradviz: There is no language 'fr' here; there are en, zh."


# What


def test_every_text_of_the_live_elements_is_translated(strange):
    assert outside([card_words(), plotly_words()]) == []


def test_what_streamlit_says_by_itself_is_what_it_still_says():
    """Else the reader would get its English words: another version of it may put them otherwise."""
    scripts = "".join(path.read_text(encoding="utf-8") for path in (Path(streamlit.__file__).parent / "static").rglob("*.js"))
    with words.speaking("zh_CN"):
        said = streamlit_words()
    made = {"Press Enter to apply": "Press Enter to ${", "Press Enter to submit form": "`submit form`"}  # in pieces
    assert len(said) > 60
    assert [text for text in said if made.get(text, text.split("{")[0].strip()) not in scripts] == []


def test_every_text_of_the_charts_is_translated(strange):
    runs = {"1": finished_run(RunConfig(blocks=1, steps=3), 3), "2": finished_run(RunConfig(blocks=2, steps=3), 3)}
    sweep = Sweep.over("x", [RunConfig(steps=3)], {"blocks": [1, 2]}, [0])
    results = {run.recipe: result(run) for run in runs.values()}
    grid = Sweep.over("x", [RunConfig(steps=3)], {"blocks": [1, 2], "lr": [0.1, 0.2]}, [0])
    figures = [
        loss_figure(runs, 2.3), accuracy_figure(runs, 0.1), heatmaps_figure(runs, "weight_grad_rms", (-12.0, 0.0)),
        profile_figure({name: quantity_at(run, "weight_grad_rms") for name, run in runs.items()}, "weight_grad_rms"),
        border_figure(sweep, results), ratio_figure(sweep, results, theory_ratios(sweep)), grid_figure(grid, {}),
    ]  # fmt: skip
    said = []
    for figure in [json.loads(figure.to_json()) for figure in figures]:
        for part in (*figure["data"], *figure["layout"].get("annotations", [])):
            said += [part.get(name, "") for name in ("name", "text", "hovertemplate")]
            said += [part.get("marker", {}).get("colorbar", {}).get("title", {}).get("text", "")]
        said += [axis.get("title", {}).get("text", "") for name, axis in figure["layout"].items() if "axis" in name]
    plain = [re.sub(r"%\{[^}]*\}|<[^>]*>", " ", text) for text in said if isinstance(text, str)]
    assert len(plain) > 50 and outside(plain) == []


def programs():
    yield RunConfig(batch_norm=True, init="lsuv", treatment="feedback", dataset="digits")
    yield RunConfig(shortcut=True, branch_scale="skip-init", init_range=0.3, treatment="normalise", blocks=0)
    for name in ("init", "treatment", "optimizer", "dataset", "branch_scale"):
        for word in FIELDS[name].spec.choices:
            yield RunConfig(shortcut=True, **{name: word})


def test_every_comment_of_a_program_is_translated_and_it_is_still_a_program(strange):
    for config in programs():
        for arithmetic in (None, Arithmetic("cpu", "AVX2", "", 2, "2.13.0")):
            text = codegen.code(config, arithmetic)
            compile(text, "program", "exec")
            assert "«" not in text
            tokens = list(tokenize.generate_tokens(io.StringIO(text).readline))
            comments = [token.string for token in tokens if token.type == tokenize.COMMENT]
            comments += [token.string for token in tokens if token.string.startswith('"""')]
            plain = [unbracketed(comment.replace("AVX2", "").replace("batch", "")) for comment in comments]
            assert [text for text in plain if text] == []


def test_the_help_and_the_words_of_the_command_line_are_translated(strange, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "400")  # no line is broken
    with pytest.raises(SystemExit):
        main(["--lang", "en-XA", "--help"])
    out = capsys.readouterr().out
    told = [line.split(maxsplit=1)[1] for line in out.splitlines() if line.startswith("    ")]
    assert len(told) > 3 and outside(told) == []
    assert out.startswith("⟦usage:") and not {"options:", "positional arguments:", "show this help message"} & {*out.split("\n")}
    for wrong in (["train", "--depth", "3"], ["train", "--blocks"], ["open", "--port", "x"], ["sing"]):
        with pytest.raises(SystemExit):
            main(["--lang", "en-XA", *wrong])
        assert re.search("⟦.*[ēīōū]", capsys.readouterr().err), wrong
    assert main(["--lang", "en-XA", "train", "--blocks", "x"]) == 2
    assert "⟦" in capsys.readouterr().err
