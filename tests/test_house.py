"""The rules of the house that decay unless checked: which way imports run, which rooms have the door to a big library, and
how long a file, a function and a class may be."""

import ast
import re
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
# A room is a file or a package of gradviz, or a part of one: the longest name here that a module's name begins with. It
# imports only rooms that stand before it.
ORDER = """
    words sentences messages machine settings record train diagnosis store lenet serve cluster charts report reproduce watched
    cells lightning transformers web share ui __main__ pages app
""".split()
BESIDE = {"train": "diagnosis", "diagnosis": "train", "serve": "charts", "charts": "serve"}  # neither imports the other
DOORS = {
    "streamlit": {"app", "pages", "ui", "web.panels", "web.spoken"},
    "torch": {"train", "lightning", "lenet.data", "lenet.net", "lenet.experiment"},
    "torchvision": {"lenet.data"},
    "plotly": {"charts", "web"},
    "ray": {"cluster"},
    "lightning": {"lightning"},
    "transformers": {"transformers"},
}
MODULES = [ROOT / "app.py", *ROOT.glob("pages/*.py"), *(ROOT / "gradviz").rglob("*.py")]
FILES = [*MODULES, *(ROOT / "gradviz").rglob("*.js")]

LINES = {"file": 500, "class": 250, "function": 60}
# What was longer when the limits came. The list only shrinks: a test fails as long as it names something short enough.
LONGER = {
    "gradviz/serve/manager.py::RunManager",
}


def module(path: Path, root: Path = ROOT) -> str:
    """Dotted name without `gradviz`: 'web.wire', 'charts' for charts/__init__.py, 'app', 'pages.lab'; '' for gradviz itself."""
    parts = path.relative_to(root).with_suffix("").parts
    return ".".join(part for part in parts if part != "__init__").removeprefix("gradviz").removeprefix(".")


def room(name: str, order: list[str] = ORDER) -> str:
    """The room that a module stands in, or ''."""
    parts = name.split(".")
    return next((found for end in range(len(parts), 0, -1) if (found := ".".join(parts[:end])) in order), "")


def imports(text: str) -> set[str]:
    """Dotted names that a file imports, those inside functions too."""
    nodes = list(ast.walk(ast.parse(text)))
    names = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    sources = [node for node in nodes if isinstance(node, ast.ImportFrom)]
    return names | {f"{'.' * source.level}{source.module}.{alias.name}" for source in sources for alias in source.names}


def complaints(name: str, text: str, order: list[str] = ORDER) -> Iterator[str]:
    """What is wrong with the imports of the module `name` of this text."""
    here = room(name, order)
    if not here and not imports(text) and any(each.startswith(name) for each in order):
        return  # the head of a package whose parts are rooms
    if name and not here:
        yield f"{name} needs its place in ORDER"
        return
    parts = name.split(".")
    within = {".".join(parts[:end]) for end in range(1, len(parts) + 1)}
    for imported in imports(text):
        library, _dot, inner = imported.partition(".")
        there = room(inner, order)
        if not library:
            yield "relative imports hide the direction"
        elif library in DOORS and not within & DOORS[library]:
            yield f"{name} has no door to {library}"
        elif library == "gradviz" and name and there and there != here:  # gradviz itself is the front door to all of them
            if not here or order.index(there) > order.index(here):
                yield f"{name} imports {inner}, which stands above it"
            elif BESIDE.get(here.split(".")[0]) == there.split(".")[0]:
                yield f"{name} imports {inner}, which stands beside it"


def circle(texts: dict[str, str]) -> list[str]:
    """Modules (dotted names without gradviz -> their text) that import each other in a circle, or none."""

    def named(dotted: str) -> str | None:
        while dotted and dotted not in texts:
            dotted = dotted.rpartition(".")[0]
        return dotted or None

    asked = {
        name: {named(dotted.removeprefix("gradviz.")) for dotted in imports(text) if dotted.startswith("gradviz.")} - {name, None}
        for name, text in texts.items()
    }
    try:
        TopologicalSorter(asked).prepare()
    except CycleError as error:
        return error.args[1]
    return []


def lengths(path: Path) -> dict[str, tuple[str, int]]:
    """'path' and 'path::Class.function' of everything in a file, each with its kind and its lines."""
    text, name = path.read_text(encoding="utf-8"), path.relative_to(ROOT).as_posix()
    found = {name: ("file", text.count("\n"))}

    def look(node: ast.AST, inside: str) -> None:
        for child in ast.iter_child_nodes(node):
            deeper = inside
            if isinstance(child, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                deeper = f"{inside}{child.name}"
                start = min([child.lineno, *(decorator.lineno for decorator in child.decorator_list)])
                kind = "class" if isinstance(child, ast.ClassDef) else "function"
                found[f"{name}::{deeper}"] = kind, child.end_lineno - start + 1
                deeper += "."
            look(child, deeper)

    if path.suffix == ".py":
        look(ast.parse(text), "")
    else:
        found |= {f"{name}::{block}": length for block, length in script_lengths(text).items()}
    return found


def script_lengths(text: str) -> dict[str, tuple[str, int]]:
    """The classes, functions and methods of a script that is indented as ours are: each ends on the first line that begins
    with its closing brace as far from the margin as its own first line stands."""
    found, lines = {}, text.split("\n")
    for start, line in enumerate(lines):
        begun = re.match(r"( *)(?:export |default |async |static |get |set |const )*(?:(class|function) )?([\w$]+)\b.*{$", line)
        is_part = begun and (begun[2] or "=> {" in line or re.match(r" *(?:\w+ )*\w+\(.*\) {$", line))
        if is_part and begun[3] not in ("if", "for", "while", "switch", "catch", "return"):
            end = next(at for at in range(start + 1, len(lines)) if lines[at].startswith(begun[1] + "}"))
            found[f"{begun[3]}:{start + 1}"] = "class" if begun[2] == "class" else "function", end - start + 1
    return found


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_file_imports_only_through_its_doors_and_only_rooms_before_its_own(path):
    assert list(complaints(module(path), path.read_text(encoding="utf-8"))) == []


def test_no_modules_import_each_other_in_a_circle_not_even_within_a_package():
    assert circle({module(path): path.read_text(encoding="utf-8") for path in MODULES}) == []
    there, back = "from gradviz.a import two", "def f():\n    import gradviz.a.one"
    assert set(circle({"a.one": there, "a.two": back, "b": "import gradviz.a.two"})) == {"a.one", "a.two"}
    assert circle({"a.one": there, "a.two": "from gradviz import words", "words": ""}) == []


def test_no_file_function_or_class_is_longer_than_its_limit_but_those_that_the_list_names():
    measured = {name: length for path in FILES for name, length in lengths(path).items()}
    longer = {name for name, (kind, lines) in measured.items() if lines > LINES[kind]}
    assert sorted(longer - LONGER) == [], "too long: make two of it"
    assert sorted(LONGER - longer) == [], "short enough now: take it off the list"


def test_the_length_of_a_script_s_parts_is_measured_too():
    script = "export class A {\n  async f(x) {\n    if (x) {\n      x();\n    }\n  }\n}\n"
    script += "const g = (a) => {\n  a();\n};\nconst n = {\n};\n"
    assert script_lengths(script) == {"A:1": ("class", 7), "f:2": ("function", 5), "g:8": ("function", 3)}


def test_the_map_in_the_readme_names_every_room_in_their_order_and_none_that_is_gone():
    text = (ROOT / "README.md").read_text(encoding="utf-8").split("\n## Where things are\n")[1]
    listed = re.findall(r"\w+\.py\b|\w+/(?!\w)", text)
    ordered = [name for name in dict.fromkeys(each.removesuffix(".py").removesuffix("/") for each in listed) if name in ORDER]
    assert ordered == ORDER
    named = set(listed)
    packages = {path.parent for path in MODULES if path.name == "__init__.py"}
    rooms = {path.name for path in (ROOT / "gradviz").glob("*.py")} | {path.name + "/" for path in packages}
    assert sorted(rooms - named - {"__init__.py"}) == []
    there = {path.name for path in [*MODULES, *ROOT.glob("tests/*.py")]} | {path.name + "/" for path in ROOT.iterdir()}
    assert sorted(named - rooms - there) == []


def test_no_test_imports_another_nor_the_conftest():
    """What two tests need stands in a module of its own beside conftest.py."""
    asked = {path.name: imports(path.read_text(encoding="utf-8")) for path in (ROOT / "tests").rglob("test_*.py")}
    assert len(asked) > 40
    wrong = {name: {each for each in names if each.startswith(("test_", "conftest"))} for name, names in asked.items()}
    assert {name: names for name, names in wrong.items() if names} == {}


def test_what_contributing_names_is_there():
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    paths = set(re.findall(r"\b(?:gradviz|tests|pages)/[\w/]*(?:\.py)?|\w+\.(?:py|md)\b", text))
    missing = [path for path in paths if not (ROOT / path).exists() and not (ROOT / "tests" / path).exists()]
    assert len(paths) > 20 and missing == []
    for path, name in re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", text):
        assert f"def {name}(" in (ROOT / path).read_text(encoding="utf-8")
    for name, path in re.findall(r"`([A-Za-z_]+)`(?: \([^)]*\))? of `(\w+/[\w/]+\.py)`", text):
        assert re.search(rf"\b{name}\b", (ROOT / path).read_text(encoding="utf-8")), f"{name} of {path}"


def test_every_page_stands_in_the_menu():
    shell = (ROOT / "gradviz" / "ui" / "shell.py").read_text(encoding="utf-8")
    assert set(re.findall(r'_PAGES / "(\w+\.py)"', shell)) == {path.name for path in (ROOT / "pages").glob("*.py")}


def test_every_room_in_the_order_is_there():
    names = {module(path) for path in MODULES}
    known = {".".join(name.split(".")[:end]) for name in names for end in range(1, name.count(".") + 2)}
    assert [name for name in ORDER if name not in known] == []


def test_imports_are_seen_in_either_form_and_inside_functions():
    text = "import torch.nn\ndef f():\n    from plotly import graph_objects\n    from . import x\n"
    assert imports(text) == {"torch.nn", "plotly.graph_objects", ".None.x"}


def test_a_package_and_a_part_of_one_are_rooms_as_a_file_is():
    order = "record train lenet.theory trainer serve lenet charts ui app".split()
    assert room("lenet.theory.blocks", order) == "lenet.theory" and room("lenet.net", order) == "lenet"
    assert module(ROOT / "gradviz/web/wire.py") == "web.wire" and module(ROOT / "gradviz/web/__init__.py") == "web"

    def said(name: str, text: str) -> str:
        return " ".join(complaints(name, text, order))

    assert said("lenet.theory.predict", "from gradviz.record import float32\nfrom gradviz.lenet.theory import blocks") == ""
    assert "above" in said("lenet.theory.predict", "from gradviz.lenet.net import DeepLeNet")
    assert "above" in said("record.raster", "from gradviz import charts")
    assert "beside" in said("charts.runs", "from gradviz.serve.manager import RunManager")
    assert "no door to torch" in said("record.history", "import torch") and "no door" in said("serve.manager", "import plotly")
    assert said("charts.runs", "from plotly import graph_objects") == said("ui.shell", "import streamlit as st") == ""
    assert "place in ORDER" in said("stray.file", "import math")
    assert "relative" in said("ui.shell", "from . import server")
