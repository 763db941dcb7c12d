"""Gathers every text that a person can see, for translators: `make words`.

    gradviz/locale/gradviz.pot                          all of them, in English
    gradviz/locale/<language>/LC_MESSAGES/gradviz.po    the same with what is translated; new ones come in empty

A text is found where it is written: in `_("…")`, `ngettext("…", "…", n)` or `N_("…")`, and in the tables of `tables` below.
`python tests/catalogues.py fr` begins another language.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from io import BytesIO
from pathlib import Path
from typing import Any

from babel.messages.catalog import Catalog
from babel.messages.pofile import read_po, write_po

ROOT = Path(__file__).parent.parent
FOLDER = ROOT / "gradviz" / "locale"
TEMPLATE = FOLDER / "gradviz.pot"
MARKED = {"_": 1, "gettext": 1, "N_": 1, "ngettext": 2}  # name -> how many texts it takes
DATE = datetime(2026, 11, 26, tzinfo=UTC)  # the same always, so that a file changes only with its texts
HEADER: dict[str, Any] = {
    "project": "gradviz", "version": "0.1", "domain": "gradviz", "charset": "utf-8", "fuzzy": False, "creation_date": DATE,
    "msgid_bugs_address": "none", "last_translator": "none", "language_team": "none",
    "header_comment": "# Texts of gradviz. Entries are made by `make words`; only what stands after msgstr is written by hand.",
}  # fmt: skip
Text = str | tuple[str, str]  # two: for one and for more


def main(*languages: str) -> None:
    texts = template()
    FOLDER.mkdir(exist_ok=True)
    write(TEMPLATE, texts)
    for path in [*catalogues(), *(FOLDER / language / "LC_MESSAGES" / "gradviz.po" for language in languages)]:
        kept = read(path) if path.exists() else Catalog(path.parent.parent.name, revision_date=DATE, **HEADER)
        # A sentence that looks like an old one is not it: no guesses. What is no longer said goes.
        kept.update(texts, no_fuzzy_matching=True, update_creation_date=False)
        kept.obsolete.clear()
        path.parent.mkdir(parents=True, exist_ok=True)
        write(path, kept)
        missing = sum(not all(message.string if message.pluralizable else [message.string]) for message in kept if message.id)
        print(f"{path.relative_to(ROOT)}: {len(kept)} texts, {missing} not translated")


def catalogues() -> list[Path]:
    return sorted(FOLDER.glob("*/LC_MESSAGES/gradviz.po"))


def read(path: Path) -> Catalog:
    with path.open("rb") as file:
        return read_po(file, path.parent.parent.name, "gradviz", abort_invalid=True)


def write(path: Path, catalogue: Catalog) -> None:
    path.write_bytes(text_of(catalogue))


def text_of(catalogue: Catalog) -> bytes:
    file = BytesIO()
    # Without line numbers, which every edit would change.
    write_po(file, catalogue, width=0, include_lineno=False, sort_by_file=True, include_previous=False)
    return file.getvalue()


def template() -> Catalog:
    """All texts of the source."""
    catalogue = Catalog(**HEADER)
    for path, line, text, comments in [*marked(), *tables()]:
        catalogue.add(text, locations=[(path, line)], auto_comments=comments)
    return catalogue


def sources() -> list[Path]:
    return [ROOT / "app.py", *sorted((ROOT / "pages").glob("*.py")), *sorted((ROOT / "gradviz").rglob("*.py"))]


def marked() -> Iterator[tuple[str, int, Text, list[str]]]:
    """(file, line, text, comments for the translator: lines before it that begin with "# Words:")."""
    for path in sources():
        source = path.read_text(encoding="utf-8")
        lines, name = source.splitlines(), str(path.relative_to(ROOT))
        for node in ast.walk(ast.parse(source)):  # Babel's own reader does not look into f-strings
            if texts := constants(node):
                said = re.match(r"\s*# (Words: .*)", lines[node.lineno - 2])
                yield name, node.lineno, texts[0] if len(texts) == 1 else (texts[0], texts[1]), [said[1]] if said else []
            elif isinstance(node, ast.Constant) and isinstance(node.value, str) and path.name == "codegen.py":
                for text in re.findall("«(.*?)»", node.value):  # of a program's comments
                    yield name, node.lineno, text, []


def constants(node: ast.AST) -> list[str]:
    """The texts of a call that is marked; empty of any other."""
    if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in MARKED):
        return []
    given = node.args[: MARKED[node.func.id]]
    return [text.value for text in given if isinstance(text, ast.Constant)] if all(map(is_text, given)) else []


def is_text(node: ast.AST) -> bool:
    return isinstance(node, ast.Constant) and isinstance(node.value, str)


def tables() -> Iterator[tuple[str, int, Text, list[str]]]:
    """Texts of tables, which are looked up by their rows: whoever adds a row has added its texts."""
    sys.path.insert(0, str(ROOT))
    from gradviz.charts import HOW_TO_READ
    from gradviz.lenet.config import FIELDS, PRESETS
    from gradviz.lenet.lessons.catalogue import DIGITS_DIFFER, LESSONS
    from gradviz.lenet.lessons.lesson import RESULTS
    from gradviz.record.quantities import OF_WATCHED, QUANTITIES
    from gradviz.record.sample import KINDS, LAYER_NUMBERS
    from gradviz.sentences import MESSAGES

    found: dict[str, list[Text]] = {
        "gradviz/sentences": [text for code, text in MESSAGES.items() if code != "text"],
        "gradviz/record/quantities.py": [
            text for row in (QUANTITIES | OF_WATCHED).values() for text in (row.label, row.short, row.meaning, row.unit)
        ],
        "gradviz/record/sample.py": [*KINDS.values(), *LAYER_NUMBERS.values()],
        "gradviz/lenet/config.py": [
            *(text for field in FIELDS.values() for text in (field.spec.label, field.spec.help)),
            *(text for field in FIELDS.values() for text in (field.spec.choices or {}).values()),
            *(text for preset in PRESETS.values() for text in (preset.label, preset.sentence)),
        ],
        "gradviz/lenet/lessons/lesson.py": [text for row in RESULTS.items() for text in row],
        "gradviz/lenet/lessons/catalogue.py": [DIGITS_DIFFER],
        "gradviz/charts/__init__.py": list(HOW_TO_READ.values()),
    }
    for path, texts in found.items():
        for place, text in enumerate(texts):
            if text:
                yield path, place, text, []
    for lesson in LESSONS.values():
        path = f"{lesson.check.__module__.replace('.', '/')}.py"
        answers = [*lesson.choices.values(), *(lesson.number or ())[2:]]
        for place, text in enumerate([lesson.title, lesson.question, *answers, lesson.says, lesson.explanation]):
            yield path, place, text, [f"Lesson {lesson.id}"]


def variables() -> list[str]:
    """Places where a text reaches gettext as a variable: each must be of a table above, or marked with N_."""
    found = []
    for path in sources():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            named = isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in MARKED
            if named and not constants(node):
                found.append(f"{path.relative_to(ROOT)}:{node.lineno} {ast.unparse(node)}")
    return found


if __name__ == "__main__":
    main(*sys.argv[1:])
