"""What is kept and sent is a code with arguments; the sentence is made where it is read."""

import json
import string

import pytest

from gradviz.messages import MESSAGES, NOTHING, Message, Told, say, text


def test_a_message_survives_json_and_says_the_same_afterwards():
    inner = text("no space left")
    message = say("sentences", first=inner, second="Try again.")
    again = Message.from_json(json.loads(json.dumps(message.to_json())))
    assert again == message and str(again) == "no space left Try again."


@pytest.mark.parametrize("kept", [None, 17, "old words", {"code": "of a later version", "n": 3}, {"code": "sentences"}, [], {}])
def test_what_is_no_message_of_this_version_is_shown_as_it_is_and_never_raises(kept):
    assert str(Message.from_json(kept)) == ("" if kept is None else str(kept))


def test_nothing_to_say_is_false_and_an_unknown_code_is_found_out_where_it_is_written():
    assert not NOTHING and text("x") and str(NOTHING) == ""
    with pytest.raises(KeyError):
        say("no such code")
    assert str(Told(text("Closed."))) == "Closed."


def test_a_number_is_kept_as_a_number_and_written_where_the_sentence_is_made(monkeypatch):
    monkeypatch.setitem(MESSAGES, "sizes", "{a:number} and {b:number1}, {c:ratio} apart; {d:loss}, {d:.3f}, {e}")
    message = say("sizes", a=0.0, b=1e-8, c=-21.2, d=2.302585, e=text("so it is"))
    assert message.arguments["c"] == -21.2
    assert str(message) == "exactly 0 and 1·10⁻⁸, 6.3·10⁻²² apart; 2.30, 2.303, so it is"
    assert str(Message.from_json(message.to_json())) == str(message)


def test_both_sentences_of_a_plural_have_the_same_arguments_and_all_are_plain_names():
    def names(template: str) -> set[str]:
        return {name for _text, name, _spec, _conversion in string.Formatter().parse(template) if name is not None}

    for code, sentences in MESSAGES.items():
        if isinstance(sentences, tuple):
            assert names(sentences[0]) == names(sentences[1]) and "n" in names(sentences[1]), code
        for template in (sentences,) if isinstance(sentences, str) else sentences:
            assert all(name.isidentifier() for name in names(template)), code
