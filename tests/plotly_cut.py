"""Finds what plotly.js can do without where only the TRACES of gradviz.web.scripts are drawn, and the large modules that stay,
nearly all of which run as soon as it is there, for gradviz/web/plotly_cut.py.

    python tests/plotly_cut.py        after another version of plotly has been pinned (`make plotly`)

plotly.min.js is one function, whose statements are declarations of modules that run when they are first called. Only the last
statements call any: they keep what they name, which keeps what it names, and so on; a name counts wherever it stands as a word.
"""

from __future__ import annotations

import hashlib
import re
import sys
import textwrap
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from gradviz.web.scripts import PLOTLY, TRACES  # noqa: E402

MADE = ROOT / "gradviz" / "web" / "plotly_cut.py"
BEGIN = "var Plotly=(()=>{"
LARGE = 1500  # characters; the rest, seven modules of ten, are a seventh of the text
_TOKEN = re.compile(
    r"""(?P<text>"(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*')|(?P<space>//[^\n]*|/\*.*?\*/|\s+)|(?P<word>[\w$]+)|.""", re.DOTALL
)
_REGEX = re.compile(r"/(?:[^/\\\[\n]|\\.|\[(?:[^\]\\\n]|\\.)*\])+/[a-z]*")
_BEFORE_REGEX = {*"return typeof case in of delete void throw new else do instanceof yield await".split()}
# What does nothing by being there: a module, functions, names without a value, and what an ES module exports.
_IDLE = re.compile(
    r"var (?:[\w$]+(?:=\{\})?,)*[\w$]+(?:=\{\}|=(?:W|Ea)\((?:\([\w$,]*\)|[\w$]+)=>.*\))?;|(?:async )?function\b.*|Fp\(.*\);",
    re.DOTALL,
)


def statements(text: str, at: int) -> Iterator[tuple[int, int]]:
    """Where each statement of the block that begins there begins and ends."""
    begin, depth, last, templates = at, 0, ";", []
    while True:
        found = _TOKEN.match(text, at)
        if found.lastgroup == "space":
            at = found.end()
            continue
        token, end = found[0], found.end()
        if token == "/" and (last in _BEFORE_REGEX or not re.match(r"[\w$)\]}\"'`]", last[-1])):
            token, end = "regex", _REGEX.match(text, at).end()
        elif token == "`" or token == "}" and templates and templates[-1] == depth:
            if token == "}":
                templates.pop()
                depth -= 1
            end = re.compile(r"(?:[^`\\$]|\\.|\$(?!\{))*(`|\$\{)", re.DOTALL).match(text, at + 1).end()
            if text[end - 1] == "{":
                depth += 1
                templates.append(depth)
                token = "("
        elif token in ("{", "(", "["):
            depth += 1
        elif token in ("}", ")", "]"):
            depth -= 1
            if depth < 0:
                return
        at, last = end, token
        declared = re.match(r"(?:async )?(function|class)\b", text[begin : begin + 20])
        if depth == 0 and (token == ";" or token == "}" and declared):
            yield begin, end
            begin = end


def dispensable(text: str, traces: Collection[str] = TRACES) -> list[tuple[int, int]]:
    """The parts of plotly.min.js, from … to, that are not needed for these kinds of traces; scatter is always there."""
    spans = list(statements(text, text.index(BEGIN) + len(BEGIN)))
    parts = [text[begin:end] for begin, end in spans]
    module = {name: part for part in parts if (name := (re.match(r"var ([\w$]+)=W\(", part) or [None, None])[1])}
    enlist = next(place for place, part in enumerate(parts) if re.search(r"\.register\(\[(?:[\w$]+\(\),){20}", part))
    call = re.search(r"\.register\(\[(.*?)\]\)", parts[enlist])
    kept = []
    for name in re.findall(r"[\w$]+", call[1]):
        inner = re.search(r"exports=([\w$]+)\(\)", module[name])[1]
        kind = re.search(r'moduleType:"trace",name:"(\w+)"', module[inner])
        if kind and kind[1] in traces:
            kept.append(f"{name}()")
    assert len(kept) == len({*traces} - {"scatter"}), f"of {traces} only {kept} were found"
    # The function around it all, whose content a browser would read twice; and of the list all that is not kept.
    gone = [(text.index("(\n function(root"), text.index('"use strict";' + BEGIN)), (text.rindex("return Plotly;"), len(text))]
    at, last = (spans[enlist][0] + place for place in call.span(1))
    for name in call[1].split(","):
        if name not in kept:
            gone.append((at, min(at + len(name) + 1, last)))  # with its comma; JavaScript does not mind one before a bracket
        at += len(name) + 1
    parts[enlist] = parts[enlist].replace(call[1], ",".join(kept))
    words = [set(re.findall(r"[\w$]+", part)) for part in parts]
    home: dict[str, list[int]] = {}
    for place, part in enumerate(parts):
        if _IDLE.fullmatch(part):
            for name in named(part):
                home.setdefault(name, []).append(place)
    idle = {place for places in home.values() for place in places} - {enlist}
    alive = {*range(len(parts))} - idle
    todo = [*alive]
    for place in todo:  # grows while it is read
        new = {other for word in words[place] for other in home.get(word, ())} - alive
        alive |= new
        todo += new
    gone += [spans[place] for place in range(len(parts)) if place not in alive]
    return joined(sorted(gone))


def run_at_once(text: str, gone: Collection[tuple[int, int]]) -> list[tuple[int, int]]:
    """From … to, the functions of its large modules, but for those that are `gone`."""
    found = []
    for begin, end in statements(text, text.index(BEGIN) + len(BEGIN)):
        module = re.match(r"var [\w$]+=W\((?=(?:\([\w$,]*\)|[\w$]+)=>\{)", text[begin:end])
        if module and end - begin >= LARGE and not any(begin < last and first < end for first, last in gone):
            assert text[:end].endswith("});")
            found.append((begin + module.end(), end - len(");")))
    return found


def named(part: str) -> list[str]:
    """By what a statement that does nothing itself is asked for. Who uses a value of an ES module first calls what makes it."""
    if found := re.match(r"var (?:[\w$]+(?:=\{\})?,)*([\w$]+)=(?:W|Ea)\(|Fp\(([\w$]+),|(?:async )?function\*? ?([\w$]+)", part):
        return [found[1] or found[2] or found[3]]
    return re.findall(r"[\w$]+", part.removeprefix("var "))


def joined(parts: list[tuple[int, int]]) -> list[tuple[int, int]]:
    together: list[tuple[int, int]] = []
    for begin, end in parts:
        if together and together[-1][1] == begin:
            together[-1] = (together[-1][0], end)
        else:
            together.append((begin, end))
    return together


def _lines(pairs: Iterable[tuple[int, int]]) -> str:
    numbers = ", ".join(f"({begin},{end})" for begin, end in pairs) + ","
    return textwrap.indent(textwrap.fill(numbers, 124, break_on_hyphens=False), "    ")


def main() -> None:
    text = PLOTLY.read_text(encoding="utf-8")
    gone = dispensable(text)
    made = hashlib.sha256(text.encode()).hexdigest()
    MADE.write_text(
        f'"""What browsers get of plotly.js in another way or not at all; made by tests/plotly_cut.py, which says how."""\n\n'
        f'OF = "{made}"  # SHA-256 of plotly.min.js\n'
        f"# From character, to character.\n"
        f"PARTS = (  # that they do not get\n{_lines(gone)}\n)  # fmt: skip\n"
        f"AT_ONCE = (  # functions; nearly all run when it is there\n{_lines(run_at_once(text, gone))}\n)  # fmt: skip\n",
        encoding="utf-8",
    )
    print(f"{MADE.relative_to(ROOT)}: {len(gone)} parts, {sum(end - begin for begin, end in gone)} of {len(text)} characters")


if __name__ == "__main__":
    main()
