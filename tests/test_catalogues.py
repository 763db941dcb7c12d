"""The catalogues have every text of the source, each translated, with the same placeholders and markup, and no other."""

import re
from collections import Counter

import pytest
from catalogues import TEMPLATE, Catalog, catalogues, marked, read, template, variables
from running import ROOT

NAMES = [path.parent.parent.name for path in catalogues()]


@pytest.fixture(scope="module")
def source() -> Catalog:
    return template()


def ids(catalogue: Catalog) -> set[object]:
    return {message.id for message in catalogue if message.id}


def placeholders(text: str) -> Counter[str]:
    """{name:.2f} and the like, those of plotly, %{x}, and of texts that are filled in twice, {{name}}."""
    return Counter(re.findall(r"%?\{+[^{}]*\}+", text))


def markup(text: str) -> Counter[str]:
    return Counter(re.findall(r"\*\*|`|\]\(|<[^>]+>|:\w+\[|:material/\w+:|\\\*", text))


def test_the_template_has_the_texts_of_the_source_and_is_made_anew_by_make_words(source):
    assert ids(read(TEMPLATE)) == ids(source), "make words"


@pytest.mark.parametrize("language", NAMES)
def test_a_catalogue_has_every_text_and_none_that_is_no_longer_said(source, language):
    (path,) = (path for path in catalogues() if path.parent.parent.name == language)
    assert ids(read(path)) == ids(source), "make words"


@pytest.mark.parametrize("language", NAMES)
def test_every_text_is_translated(language):
    (path,) = (path for path in catalogues() if path.parent.parent.name == language)
    said = {message.id: message.string if message.pluralizable else [message.string] for message in read(path) if message.id}
    assert [text for text, translations in said.items() if not all(translations)] == []


@pytest.mark.parametrize("language", NAMES)
def test_every_translation_has_the_placeholders_and_the_markup_of_its_text(language):
    (path,) = (path for path in catalogues() if path.parent.parent.name == language)
    wrong = []
    for message in read(path):
        if not message.id or not message.string:
            continue
        texts = message.id if message.pluralizable else (message.id,)
        for said in message.string if message.pluralizable else (message.string,):
            if said and not (placeholders(said) == placeholders(texts[-1]) and markup(said) == markup(texts[-1])):
                wrong.append((texts[-1], said))
    assert wrong == []


def test_a_text_that_reaches_the_catalogue_as_a_variable_is_of_a_few_tables_only():
    """Where texts are written in tables, `tables` of catalogues.py or N_ makes them known; this says where that must be so."""
    places = {place.partition(":")[0] for place in variables()}
    assert len(variables()) < 130 and all((ROOT / place).exists() for place in places)


def test_texts_within_f_strings_are_found_too():
    assert any(text == "seed {seed}" for _path, _line, text, _comments in marked())
