"""A test that must reach for a private name of the product shows that a public question is missing."""

import ast

import pytest
from running import ROOT

FILES = sorted((ROOT / "tests").rglob("*.py"))


def defined(nodes: list[ast.AST]) -> set[str]:
    """Names that a file gives to functions, classes, variables and attributes."""
    given = {node.name for node in nodes if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)}
    given |= {node.id for node in nodes if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
    return given | {node.attr for node in nodes if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store)}


def asked(nodes: list[ast.AST]) -> set[str]:
    """Names with one leading underscore that a file asks of something that is not itself: attributes, imports, patches."""
    found = {node.attr for node in nodes if isinstance(node, ast.Attribute) and not named(node, "self", "cls")}
    found |= {alias.name for node in nodes if isinstance(node, ast.ImportFrom) for alias in node.names}
    for call in (node for node in nodes if isinstance(node, ast.Call)):
        if ast.unparse(call.func).endswith(("setattr", "getattr", "delattr")):  # monkeypatch.setattr(thing, "_name", …) too
            words = [word.value for word in call.args if isinstance(word, ast.Constant) and isinstance(word.value, str)]
            found |= {word.rpartition(".")[2] for word in words}
    return {name for name in found if name.startswith("_") and name[1:2].isalpha()}


def nodes_of(text: str) -> list[ast.AST]:
    return list(ast.walk(ast.parse(text)))


@pytest.fixture(scope="module")
def product() -> set[str]:
    return set().union(*(defined(nodes_of(path.read_text(encoding="utf-8"))) for path in (ROOT / "gradviz").rglob("*.py")))


def named(node: ast.Attribute, *names: str) -> bool:
    return isinstance(node.value, ast.Name) and node.value.id in names


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(ROOT / "tests").as_posix())
def test_no_test_names_what_is_private_to_the_product(path, product):
    nodes = nodes_of(path.read_text(encoding="utf-8"))
    own = {node.name for node in nodes if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)} | {
        node.attr for node in nodes if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store) and named(node, "self")
    }
    assert sorted(asked(nodes) & product - own) == []


def test_private_names_are_seen_as_attributes_imports_and_patches():
    text = "from gradviz.x import _a\nthing._b\nmonkeypatch.setattr(thing, '_c', 1)\nsetattr(p, 'gradviz.x._d', 1)\n"
    assert asked(nodes_of(text + "self._g\n'_h'\nt.__dict__\n")) == {"_a", "_b", "_c", "_d"}
    assert defined(nodes_of("def _a(): self._b = _c = 1")) == {"_a", "_b", "_c"}
