"""What is kept and sent is a code with arguments; the sentence is made where it is read."""

import ast
import json
import string

import pytest
from running import ROOT

from gradviz.messages import MESSAGES, NOTHING, Message, Told, say, text


def test_a_message_survives_json_and_says_the_same_afterwards():
    inner = text("no space left")
    message = say("sentences", first=inner, second="Try again.")
    again = Message.from_json(json.loads(json.dumps(message.to_json())))
    assert again == message and str(again) == "no space left Try again."
    several = say("data-absent", title="MNIST", folder="sets", found=[say("data-no-such-folder"), text("no more")])
    assert Message.from_json(json.loads(json.dumps(several.to_json()))) == several
    assert str(several) == "MNIST is not in the data folder sets: that folder does not exist; no more."


@pytest.mark.parametrize("kept", [None, 17, "old words", {"code": "of a later version", "n": 3}, {"code": "sentences"}, [], {}])
def test_what_is_no_message_of_this_version_is_shown_as_it_is_and_never_raises(kept):
    assert str(Message.from_json(kept)) == ("" if kept is None else str(kept))


def test_numbers_too_large_and_lists_too_deep_for_a_sentence_raise_nothing_either():
    huge = {"code": "pause-long", "minutes": 10**400}
    assert str(Message.from_json(huge)) == str(huge)
    deep = []
    for _ in range(20_000):
        deep = [deep]
    for kept in (deep, {"code": "text", "text": deep}, 10**5000):
        assert str(Message.from_json(kept)) == "…"


def test_nothing_to_say_is_false_and_an_unknown_code_is_found_out_where_it_is_written():
    assert not NOTHING and text("x") and str(NOTHING) == ""
    with pytest.raises(KeyError):
        say("no such code")
    assert str(Told(text("Closed."))) == "Closed."


def test_who_is_not_to_know_where_things_lie_is_told_the_last_name_only():
    inner = say("store-in-use", folder="/srv/class/runs")
    message = say("sentences", first=inner, second=text("Try again."))
    told = message.without_places()
    assert "/srv/class/runs" in str(message) and "/" not in str(told) and " runs " in str(told) and "Try again." in str(told)


def test_a_number_is_kept_as_a_number_and_written_where_the_sentence_is_made(monkeypatch):
    monkeypatch.setitem(MESSAGES, "sizes", "{a:number} and {b:number1}, {c:ratio} apart; {d:loss}, {d:.3f}, {e}")
    message = say("sizes", a=0.0, b=1e-8, c=-21.2, d=2.302585, e=text("so it is"))
    assert message.arguments["c"] == -21.2
    assert str(message) == "exactly 0 and 1·10⁻⁸, 6.3·10⁻²² apart; 2.30, 2.303, so it is"
    assert str(Message.from_json(message.to_json())) == str(message)


def names(template: str) -> set[str]:
    """Of the arguments of a sentence."""
    return {name for _text, name, _spec, _conversion in string.Formatter().parse(template) if name is not None}


def test_both_sentences_of_a_plural_have_the_same_arguments_and_all_are_plain_names():
    for code, sentences in MESSAGES.items():
        if isinstance(sentences, tuple):
            assert names(sentences[0]) == names(sentences[1]) and "n" in names(sentences[1]), code
        for template in (sentences,) if isinstance(sentences, str) else sentences:
            assert all(name.isidentifier() for name in names(template)), code


@pytest.mark.parametrize(
    ("code", "arguments", "one", "two"),
    [
        ("pin-wait", {}, "in 1 second.", "in 2 seconds."),
        ("queue-yours", {}, "1 run of yours waits", "2 runs of yours wait"),
        ("queue-network", {}, "1 run from", "2 runs from"),
        ("sweeps-unreadable", {"which": "x"}, "1 kept sweep could", "2 kept sweeps could"),
        ("layer-and-more", {"layer": "fc"}, "fc (and 1 more)", "fc (and 2 more)"),
        ("measured-zeros", {"alive": "fc", "g": 1.0}, "of 1 layer is 0", "of 2 layers is 0"),
        ("measured-zeros-all", {}, "of 1 layer is 0", "of 2 layers is 0"),
        ("measured-saturation", {"low": 1.0, "high": 2.0}, "1 layer hands on", "2 layers hand on"),
        ("lenet-measured-zeros", {"alive": "fc", "g": 1.0}, "of 1 block convolution is 0", "of 2 block convolutions is 0"),
        ("lenet-measured-saturation", {"low": 1.0, "high": 2.0}, "1 block convolution hands", "2 block convolutions hand"),
        ("watched-measured-saturation", {"low": 1.0, "high": 2.0}, "1 layer gives", "2 layers give"),
        ("measured-overflows", {}, "out 1 step whose", "out 2 steps whose"),
        ("lost-steps", {"count": 1}, "1 of 1 step", "1 of 2 steps"),
        ("lost-columns", {"count": 1}, "1 of 1 column of", "1 of 2 columns of"),
        ("lost-others", {}, "1 test or sample", "2 tests and samples"),
        ("some-and-more", {"text": "a"}, "a and 1 more", "a and 2 more"),
        ("store-gaps", {"which": "x"}, "of 1 kept run are", "of 2 kept runs are"),
        ("store-written-anew", {"name": "x"}, "its 1 run.", "its 2 runs."),
        ("store-met-damaged", {}, "is 1 run in it", "are 2 runs in it"),
        ("store-other-opened", {"name": "x"}, "1 run that the other one did not have was", "2 runs that"),
    ],
)
def test_one_thing_is_told_as_one(code, arguments, one, two):
    assert one in str(say(code, n=1, **arguments)) and two in str(say(code, n=2, **arguments))


def test_every_plural_is_in_the_test_above():
    (mark,) = test_one_thing_is_told_as_one.pytestmark
    assert {row[0] for row in mark.args[1]} == {code for code, said in MESSAGES.items() if isinstance(said, tuple)}


def test_every_message_that_is_said_is_in_the_table_with_its_arguments_and_every_row_is_said():
    """Read from the source: a code that is not written out where it is said is at least a string somewhere."""
    paths = [ROOT / "app.py", *(ROOT / "pages").glob("*.py"), *(ROOT / "gradviz").rglob("*.py")]
    nodes = [node for path in paths for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))]
    literals = [node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str)]
    assert sorted(code for code in MESSAGES if literals.count(code) < 2) in ([], ["sentences"])
    said = [node for node in nodes if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "say"
            and node.args and isinstance(node.args[0], ast.Constant)]  # fmt: skip
    assert len(said) > 10
    for call in said:
        code, given = call.args[0].value, {keyword.arg for keyword in call.keywords}
        assert code in MESSAGES, code
        sentences = MESSAGES[code] if isinstance(MESSAGES[code], tuple) else (MESSAGES[code],)
        assert None in given or set().union(*map(names, sentences)) - {"n"} <= given, code


def calls(function: ast.AST) -> set[str]:
    """Names of what it calls."""
    found = [node.func for node in ast.walk(function) if isinstance(node, ast.Call)]
    return {getattr(each, "id", getattr(each, "attr", "")) for each in found}


def test_what_streamlit_calls_back_says_messages_and_makes_no_sentence():
    """Its thread has not been told whose language it speaks: neither has whatever a callback calls in turn."""
    trees = [ast.parse(path.read_text("utf-8")) for folder in ("pages", "gradviz/ui") for path in (ROOT / folder).glob("*.py")]
    functions = {node.name: node for tree in trees for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
    given = {
        getattr(word.value, "id", getattr(word.value, "attr", ""))
        for tree in trees for node in ast.walk(tree) if isinstance(node, ast.Call)
        for word in node.keywords if (word.arg or "").startswith("on_")
    }  # fmt: skip
    called = given & set(functions)
    assert len(called) > 20 and {"start", "_name_typed", "start_changed"} <= called
    for _depth in range(4):
        called |= {name for function in called for name in calls(functions[function]) & set(functions)}
    spoken = [name for name in called if {"_", "gettext", "ngettext"} & calls(functions[name])]
    drawn = {name for name in spoken if any(getattr(each, "id", "") == "spoken" for each in functions[name].decorator_list)}
    assert sorted(set(spoken) - drawn) == []


@pytest.mark.parametrize("module", ["lightning", "transformers"])
def test_a_trainer_s_callback_has_no_words_of_its_own(module):
    """What a watch has to say is a code; its callback in another's trainer raises, prints and logs nothing."""
    tree = ast.parse((ROOT / "gradviz" / f"{module}.py").read_text("utf-8"))
    assert not [node for node in ast.walk(tree) if isinstance(node, ast.Raise)]
    assert not {"print", "warn", "warning", "info", "error", "_", "gettext"} & calls(tree)
