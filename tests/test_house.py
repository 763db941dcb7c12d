"""The rules of the house that decay unless checked: which way imports run, and which rooms have the door to a big library."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
# A room imports only rooms that stand before it.
ORDER = """
    words config machine settings
    anatomy runs limits desk data model treatment probe ahead
    stem_statistics theory trainer store workers
    diagnosis manager sweep lessons charts charts_anatomy reproduce codegen export classroom
    live ui
    __main__ pages app
""".split()
DOORS = {
    "streamlit": {"app", "pages", "ui", "live"},
    "torch": {"data", "model", "treatment", "probe", "ahead", "trainer", "workers", "manager"},
    "torchvision": {"data"},
    "plotly": {"charts", "charts_anatomy", "live"},
}
FILES = [ROOT / "app.py", *ROOT.glob("pages/*.py"), *(ROOT / "gradviz").rglob("*.py")]


def room(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return parts[1] if parts[0] == "gradviz" else parts[0]


def imports(text: str) -> set[str]:
    """Dotted names that a file imports, those inside functions too."""
    nodes = list(ast.walk(ast.parse(text)))
    names = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    sources = [node for node in nodes if isinstance(node, ast.ImportFrom)]
    return names | {f"{'.' * source.level}{source.module}.{alias.name}" for source in sources for alias in source.names}


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_file_imports_only_through_its_doors_and_only_rooms_before_its_own(path):
    here = room(path)
    assert here in [*ORDER, "__init__"], "a new room needs its place in ORDER"
    for name in imports(path.read_text(encoding="utf-8")):
        library, *inner = name.split(".")
        assert library, "relative imports hide the direction"
        assert library not in DOORS or here in DOORS[library], f"{here} has no door to {library}"
        if library == "gradviz" and inner and inner[0] in ORDER and inner[0] != here:
            assert ORDER.index(inner[0]) < ORDER.index(here), f"{here} imports {inner[0]}"


def test_imports_are_seen_in_either_form_and_inside_functions():
    text = "import torch.nn\ndef f():\n    from plotly import graph_objects\n    from . import x\n"
    assert imports(text) == {"torch.nn", "plotly.graph_objects", ".None.x"}
