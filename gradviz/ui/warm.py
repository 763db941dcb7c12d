"""What else the first script run of a server would do while somebody waits for it."""

from __future__ import annotations

import ast
from dataclasses import replace

from gradviz import words
from gradviz.lenet.config import RunConfig
from gradviz.lenet.theory.predict import predict
from gradviz.ui.opening import PAGE_FILES, SHELL
from gradviz.ui.server import server


def warm_up() -> None:
    """Reads the catalogue of every language, which each page names; imports what pages import; predicts the Lab's first net."""
    for language in words.languages():
        words.name_of(language)
    for page in (SHELL, *PAGE_FILES):
        script = ast.parse(page.read_text(encoding="utf-8"))
        script.body = [line for line in script.body if isinstance(line, ast.Import | ast.ImportFrom)]
        exec(compile(script, page, "exec"), {})
    first = RunConfig()
    predict(replace(first, dataset=server().shelf.effective(first.dataset)[0]))
