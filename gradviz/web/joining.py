"""Streamlit's scripts, joined into a few.

A page of its begins with sixty modules, and the elements on it bring fifty more. Most are small, and to ask for one costs browser
and server more than what it brings. Joined, a module is a function that returns what it exports, which others take as they come
to it. A module whose exports get their values later must stay one by itself, and which those are is known of one version only:
any other is left as it is. After another version has been pinned, tests/web/test_joining.py says what to put here.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable, Iterator
from functools import cached_property
from itertools import groupby
from typing import NamedTuple

OF = "ddc07668cbe37c6e6e003786a0df9ffb0cbd320deada94e5fa56197c62400351"  # SHA-256 of index.html; names of scripts are of hashes
MADE = "74fed8f73578"  # begin of the SHA-256 of all that is made of them: their address, which browsers keep for ever
APART = ("space-separated-tokens", "StreamlitMarkdown")  # gives what it makes later, and takes that; in their order
# What most pages have of Streamlit that is a module of its own there, and what only the Lab and Compare have.
ELEMENTS = (
    "Html", "Selectbox", "BidiComponent", "Button", "ButtonGroup",
    "Checkbox", "Slider", "NumberInput", "TextInput", "Multiselect",
)  # fmt: skip
_ELEMENTS = "elements.js"
_LARGE = "Table"  # an element that few pages have, and that is larger than all of those: it comes by itself
# Each begins with letters of its own: that is what makes a search of two million characters a quick one.
_IMPORT = re.compile(r'import(?:\{([^{}]*)\}from)?"\./([^"/]+\.js)";')
_LATER = re.compile(r"import\(`\./([^`/]+\.js)`\)")
_EXPORT = re.compile(r"export\{([^{}]*)\};?\s*$")
_PRELOADED = re.compile(r"m\.f=\[[^\]]*")  # Vite's list of what it asks for together with a module that comes later
_LAZY = re.compile(  # an element for React, which asks for its script when it first meets it
    r"\(0,\w+\.lazy\)\(\(\)=>\w+\(\(\)=>import\(`\./([^`/]+\.js)`\)(?:\.then\(\w=>\w\.\w\))?,"
    r"__vite__mapDeps\([^)]*\),import\.meta\.url\)\)"
)
# What React meets before it is there it draws as a gap, and all around it once more later. So the elements are asked for at once,
# and then met by what React itself does when it meets one: `_init` begins to load it, or gives it.
_BEGIN = (
    "const $lazy=[],$begin=made=>($lazy.push(made),made);"
    f"import(`./{_ELEMENTS}`).then(()=>{{for(const made of $lazy)try{{made._init(made._payload)}}catch{{}}}},()=>{{}});"
)


class _Place(NamedTuple):
    file: str
    name: str  # of the object with its exports, in that file and in those that import it


class Joining:
    """The scripts of a page of Streamlit's, given a way to read one by its name."""

    # The same as long as they are: a page that is open while gradviz is renewed goes on asking there.
    folder = f"joined-{MADE}"

    def __init__(self, page: str, names: Iterable[str], read: Callable[[str], str]):
        """`page`: index.html; `names`: of all its scripts. Raises KeyError if one of those it looks for is not among them."""
        self._page, self._read = page, read
        self._names = frozenset(names)
        known = {name.split(".")[0]: name for name in self._names}
        self._root = re.findall(r'<script type="module" crossorigin src="\./static/js/([^"]+)"', page)[0]
        self._apart = [known[name] for name in APART]
        self._elements = [known[name] for name in ELEMENTS]
        self._large = known[_LARGE]

    @classmethod
    def known(cls, page: str, names: Iterable[str], read: Callable[[str], str]) -> Joining | None:
        """None for a version of Streamlit of which it is not known how to join its scripts."""
        return cls(page, names, read) if hashlib.sha256(page.encode()).hexdigest() == OF else None

    def __contains__(self, script: str) -> bool:
        return script in self._names or script in self.files

    @property
    def files(self) -> list[str]:
        """Names of the joined scripts, and of those that stay apart between them, in the order in which they are run."""
        before = [file for number, apart in enumerate(self._apart) for file in (f"part{number}.js", apart)]
        return [*before, self._root, _ELEMENTS]

    def page(self) -> str:
        """index.html with the joined scripts."""
        others = [file for file in self.files if file != self._root]
        preloads = "".join(f'<link rel="modulepreload" crossorigin href="./static/js/{file}">' for file in others)
        text = re.sub(r' *<link rel="modulepreload".*\n', "", self._page).replace("</head>", f"{preloads}</head>", 1)
        return text.replace('"./static/js/', f'"./{self.folder}/js/')

    def text(self, script: str) -> str:
        """The script of this name as it stands beside the joined ones; or itself joined, if it is one of `files`."""
        joined = script in self.files and script not in self._apart
        return self._part(script) if joined else self._beside(script)

    def early(self) -> list[str]:
        """Names below the page of scripts that are not joined, and that many pages ask for all the same."""
        return [f"{self.folder}/js/{each}" for each in self._order([self._large]) if each not in self._places]

    def _order(self, roots: Iterable[str], known: Iterable[str] = ()) -> list[str]:
        """Modules that these import and themselves, each after what it imports, but for those `known`: the order of a browser."""
        met, order = set(known), []

        def visit(name: str) -> None:
            if name not in met:
                met.add(name)
                for _, other in _IMPORT.findall(self._read(name)):
                    visit(other)
                order.append(name)

        for root in roots:
            visit(root)
        return order

    @cached_property
    def _members(self) -> dict[str, list[str]]:
        """The modules of each of the `files`."""
        begun = self._order([self._root])
        groups = groupby(begun, key=lambda name: name if name in self._apart else None)
        members = {file: list(names) for file, (_, names) in zip(self.files[:-1], groups, strict=True)}
        return {**members, _ELEMENTS: self._order(self._elements, begun)}

    @cached_property
    def _places(self) -> dict[str, _Place]:
        pairs = [(file, name) for file, names in self._members.items() for name in names]
        return {name: _Place(file, f"$joined{number}") for number, (file, name) in enumerate(pairs)}

    def _part(self, file: str) -> str:
        """One script of all members of this file."""
        members = {name: self._read(name) for name in self._members[file]}
        taken = {other for text in members.values() for _, other in _IMPORT.findall(text)}
        lines = [_BEGIN] if file == self._root else []
        for earlier in self.files[: self.files.index(file)]:
            names = [self._places[name].name for name in self._members[earlier] if name in taken]
            if earlier in self._apart and names:
                lines.append(f'import*as {names[0]} from"./{earlier}";')
            else:  # if none is taken, for the order alone
                lines.append(f'import{{{",".join(names)}}}from"./{earlier}";')
        for name, text in members.items():
            # In brackets: browsers know by them that it runs at once, and compile it beside the page's own thread.
            lines.append(f"const {self._places[name].name}=(function(){{{self._body(text)}\n}})();")
        lines.append(f"export{{{','.join(self._places[name].name for name in members)}}};")
        return "\n".join(map(self._later, lines))

    def _body(self, text: str) -> str:
        """A module as the body of a function that returns what it exports."""

        def taken(match: re.Match[str]) -> str:
            names, other = match.groups()
            return "" if names is None else f"const{_renamed(names)}={self._places[other].name};"

        given = ""
        if exported := _EXPORT.search(text):
            text = text[: exported.start()]
            given = ",".join(f"{new}:{old}" for old, new in _pairs(exported[1]))
        return f"{_IMPORT.sub(taken, text)}\nreturn{{{given}}}"

    def _beside(self, name: str) -> str:
        """A module that stays one, with its imports of joined ones."""

        def taken(match: re.Match[str]) -> str:
            names, other = match.groups()
            place = self._places.get(other)
            if place is None or other in self._apart:
                return match[0]
            if names is None:
                return f'import"./{place.file}";'
            return f'import{{{place.name}}}from"./{place.file}";const{_renamed(names)}={place.name};'

        return self._later(_IMPORT.sub(taken, self._read(name)))

    def _later(self, text: str) -> str:
        """A script with its imports of joined modules that come later, and elements that begin at once."""

        def preloaded(match: re.Match[str]) -> str:
            return re.sub(r'(?<="\./)[^"/]+\.js', lambda name: self._file(name[0]), match[0])

        def later(match: re.Match[str]) -> str:
            place = self._places.get(match[1])
            if place is None or match[1] in self._apart:
                return match[0]
            return f"import(`./{place.file}`).then($=>$.{place.name})"

        text = _LAZY.sub(lambda lazy: f"$begin({lazy[0]})" if self._file(lazy[1]) == _ELEMENTS else lazy[0], text)
        return _LATER.sub(later, _PRELOADED.sub(preloaded, text))

    def _file(self, name: str) -> str:
        return self._places[name].file if name in self._places else name


def _pairs(names: str) -> Iterator[tuple[str, str]]:
    """What stands in the brackets of an import or export: each name and the one that it gets."""
    for each in filter(None, names.split(",")):
        old, _, new = each.partition(" as ")
        yield old, new or old


def _renamed(names: str) -> str:
    return "{" + ",".join(old if old == new else f"{old}:{new}" for old, new in _pairs(names)) + "}"
