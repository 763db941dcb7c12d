"""The program of a run as a notebook: its head as text, and a cell for each of its parts."""

from __future__ import annotations

import ast
import json
import re
from typing import Any


def notebook(program: str) -> str:
    """The JSON of an .ipynb file (nbformat 4.5) of what codegen.code gave: its cells, run in order, are the program."""
    head, *rest = ast.parse(program).body
    about = ast.get_docstring(ast.Module([head], []), clean=True) or ""
    source = "\n".join(program.splitlines()[rest[0].lineno - 1 :])
    title = _lines(f"# {_plain(about)}")
    cells: list[dict[str, Any]] = [{"cell_type": "markdown", "id": "about", "metadata": {}, "source": title}]
    for place, part in enumerate(re.split(r"\n{3,}", source.strip("\n")), 1):
        cell: dict[str, Any] = {"cell_type": "code", "id": f"part-{place}", "metadata": {}, "source": _lines(part)}
        cells.append(cell | {"execution_count": None, "outputs": []})
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    about_it = {"kernelspec": kernel, "language_info": {"name": "python"}}
    return json.dumps({"cells": cells, "metadata": about_it, "nbformat": 4, "nbformat_minor": 5}, ensure_ascii=False, indent=1)


def _plain(text: str) -> str:
    """Markdown that keeps the lines, and shows what stands in them."""
    return re.sub(r"([*_`<#\[\]])", r"\\\1", text).replace("\n", "  \n")


def _lines(text: str) -> list[str]:
    return text.splitlines(keepends=True)
