"""Streamlit's scripts, joined: the same modules in the same order, each once, in a tenth of the requests."""

import hashlib
import re
from functools import cache
from pathlib import Path
from urllib.parse import urlsplit

import streamlit
from playwright.sync_api import Page, Route

from gradviz.web.joining import APART, ELEMENTS, MADE, OF, Joining

FOLDER = Path(streamlit.__file__).parent / "static"
SCRIPTS = {path.name: path for path in (FOLDER / "static" / "js").glob("*.js")}
INDEX = (FOLDER / "index.html").read_text(encoding="utf-8")
SITE = "http://joined.test/"
# Small ones of the kinds that there are: renamed or not, valued later, taken for what they do alone, coming later.
GIVES, TAKES = APART
MODULES = {
    "base.1.js": "log(`base`);var e=1,$=()=>++e,t=function(){return this===void 0};export{e as count,$ as add,t,$ as default};",
    f"{GIVES}.2.js": "log(`gives`);let late;const make=()=>{late=`made`};export{late as l,make as r};",
    "effect.3.js": "log(`effect`);export{};",
    f"{TAKES}.4.js": (
        f'import{{l as x,r}}from"./{GIVES}.2.js";import"./effect.3.js";log(`takes`);const t=()=>(r(),x);export{{t}};'
    ),
    "index.5.js": (
        'const __vite__mapDeps=(i,m=__vite__mapDeps,d=(m.f||(m.f=["./Html.6.js","./late.7.js"])))=>i.map(i=>d[i]);'
        'import{add as n,t as r,default as same}from"./base.1.js";import{t as i}from"./' + TAKES + '.4.js";import"./effect.3.js";'
        "log(`index`);var U={lazy:n=>({_payload:{load:n},_init:n=>{log(`met`);return n.load()}})},H=n=>n();"
        "const Html=(0,U.lazy)(()=>H(()=>import(`./Html.6.js`),__vite__mapDeps([0]),import.meta.url));"
        "window.app={add:n,same:same===n,strict:r(),made:i(),html:()=>Html._init(Html._payload),"
        "late:()=>import(`./late.7.js`),base:()=>import(`./base.1.js`),folder:new URL(`.`,import.meta.url).pathname};export{n};"
    ),
    "late.7.js": (
        'import{add as a,default as b}from"./base.1.js";import{n}from"./index.5.js";import{s}from"./shared.8.js";log(`late`);'
        "const t={one:a===b&&a===n,s};export{t};"
    ),
    "shared.8.js": 'import{add as t}from"./base.1.js";log(`shared`);const s=t();export{s};',
    **{
        f"{name}.6.js": f'import{{s as e}}from"./shared.8.js";log(`{name}`);const t={{name:`{name}`,e}};export{{t as default}};'
        for name in (*ELEMENTS, "Table")
    },
}
PAGE = (
    "<!doctype html><head><script>window.logged=[];window.log=(what)=>logged.push(what)</script>\n"
    '<script type="module" crossorigin src="./static/js/index.5.js"></script>\n'
    '    <link rel="modulepreload" crossorigin href="./static/js/base.1.js">\n</head><body></body>'
)


def shown(page: Page, index: str, script) -> list[str]:
    """Opens a page whose scripts are given by their names; what it asked for."""
    asked: list[str] = []

    def answer(route: Route) -> None:
        path = urlsplit(route.request.url).path
        if path == "/":
            return route.fulfill(body=index, content_type="text/html")
        asked.append(path.rpartition("/")[2])
        try:
            return route.fulfill(body=script(asked[-1]), content_type="text/javascript")
        except KeyError:
            return route.fulfill(status=404)

    page.route(f"{SITE}**", answer)
    page.goto(SITE)
    page.wait_for_function("window.app")
    return asked


def test_joined_modules_do_what_they_do_apart_in_the_same_order(page: Page, context):
    joining = Joining(PAGE, MODULES, MODULES.__getitem__)
    results = []
    for index, script in ((PAGE, MODULES.__getitem__), (joining.page(), joining.text)):
        tab = context.new_page()
        asked = shown(tab, index, script)
        begun = tab.evaluate("logged.slice(0, 5)")
        said = tab.evaluate("({ same: app.same, strict: app.strict, made: app.made, folder: app.folder.split('/').at(-2) })")
        html = tab.evaluate("app.html().then(({ default: { name, e } }) => [name, e])")
        late = tab.evaluate("app.late().then(({ t }) => t)")
        base = tab.evaluate("app.base().then((all) => [all.count, all.add === app.add])")
        results.append((begun, said, html, late))
        assert begun == ["base", "gives", "effect", "takes", "index"]
        assert said == {"same": True, "strict": True, "made": "made", "folder": "js"}
        assert html == ["Html", 2] and late == {"one": True, "s": 2}  # shared.8 has run once, and counted up once
        # What a joined module gives it gives as it was when it had run, so a count like this must stand apart.
        assert base[1] and base[0] == (2 if script == MODULES.__getitem__ else 1)
        assert tab.evaluate("logged.filter((what) => what === 'shared').length") == 1
    assert results[0] == results[1]
    assert {*asked} == {*joining.files, "late.7.js"} and len(asked) == len({*asked})


def test_elements_are_met_as_soon_as_they_are_there_and_their_page_does_without(page: Page):
    joining = Joining(PAGE, MODULES, MODULES.__getitem__)
    shown(page, joining.page(), joining.text)
    page.wait_for_function("logged.includes('met')")
    assert page.evaluate("logged.indexOf('met') > logged.indexOf('Multiselect')")
    failed: list[str] = []
    page.on("pageerror", lambda error: failed.append(str(error)))
    shown(page, joining.page(), lambda name: "import'./gone.js'" if name == "elements.js" else joining.text(name))
    assert page.evaluate("app.html().catch(() => 'not there')") == "not there" and failed == []


@cache
def read(name: str) -> str:
    return SCRIPTS[name].read_text(encoding="utf-8")


@cache
def pinned() -> Joining:
    joining = Joining.known(INDEX, SCRIPTS, read)
    made = hashlib.sha256(INDEX.encode()).hexdigest()
    assert joining, f"Streamlit is another one: OF = {made!r}, and then the tests below say whether what stands apart still does"
    return joining


def test_of_another_version_nothing_is_joined():
    assert pinned() and Joining.known(INDEX + " ", SCRIPTS, read) is None and len(OF) == 64


TAKEN = re.compile(r'import(?:\{([^{}]*)\}from)?"\./([^"]+)";')


def begun() -> set[str]:
    """Names of the modules that a page of Streamlit's begins with, and those of the elements."""
    elements = [name for name in SCRIPTS if name.split(".")[0] in ELEMENTS]
    met = [*re.findall(r'"\./static/js/([^"]+)"', INDEX), *elements]
    for name in met:  # grows while it is read
        met += {other for _, other in TAKEN.findall(read(name))} - {*met}
    return {*met}


def test_what_is_made_of_them_has_another_address_if_it_is_something_else():
    made = hashlib.sha256()
    for name in sorted({*SCRIPTS, *pinned().files}):
        made.update(f"{name}\0{pinned().text(name)}\0".encode())
    assert made.hexdigest()[:12] == MADE


def test_no_script_that_a_page_can_come_to_names_one_that_was_joined():
    joining, files = pinned(), list(pinned().files)
    for name in files:  # grows while it is read
        named = {other[2:] for other in re.findall(r"\./[\w.-]+\.js\b", joining.text(name))}
        files += sorted({other for other in named if other in SCRIPTS} - {*files})
    inside = begun() - {*joining.files}
    assert len(inside) > 90 and len(files) > 150 and not inside & {*files}


def test_what_a_joined_module_gives_stays_as_it_was_when_others_took_it(server, context):
    """Else it, and whoever takes it, has to stand in APART."""
    joining, tab = pinned(), context.new_page()
    apart = {name for name in SCRIPTS if name.split(".")[0] in APART}
    late = next(name for name in apart if name.split(".")[0] == APART[0])
    assert not [name for name in begun() - apart if late in {other for _, other in TAKEN.findall(read(name))}]

    def now(route: Route) -> None:
        """Joined modules that say as well what their exports are by now."""
        text = joining.text(urlsplit(route.request.url).path.rpartition("/")[2])
        text = re.sub(r"\nreturn\{([^{}]*)\}\n\}\)\(\);", r"\nreturn{\1,$now:()=>({\1})}\n})();", text)
        route.fulfill(body=text, content_type="text/javascript")

    files = [file for file in joining.files if file not in apart]
    for file in files:
        tab.route(f"**/{joining.folder}/js/{file}", now)
    tab.goto(server.url)
    for page in ("Lab", "Anatomy", "Lessons", "Compare", "Depth sweep", "Classroom"):
        tab.get_by_role("link", name=page).first.click()
        tab.get_by_role("heading").first.wait_for()
    given = tab.evaluate(
        """async (files) => {
          const modules = (await Promise.all(files.map((file) => import(file)))).flatMap((all) => Object.entries(all));
          return modules.filter(([name]) => /^\\$joined/.test(name)).map(([, { $now, ...given }]) => Object.entries($now()).map(
            ([name, now]) => [name, given[name] !== undefined, Object.is(now, given[name]), typeof now, typeof given[name]],
          ));
        }""",
        [f"/{joining.folder}/js/{file}" for file in files],
    )
    names = sorted(sorted(name for name, *_ in exports) for exports in given)
    found = (re.search(r"export\{([^{}]*)\};?\s*$", read(name))[1].split(",") for name in begun() - apart)
    assert names == sorted(sorted(part.split(" as ")[-1] for part in parts) for parts in found)
    for name, is_there, same, now, before in (export for exports in given for export in exports):
        assert is_there, name
        assert same or now == before == "function", name  # one that puts a shorter one in its place, and can be called again


def test_react_is_told_of_each_element_as_soon_as_it_is_there():
    told = {name: pinned().text(name).count("$begin((0,") for name in pinned().files}
    assert {name: count for name, count in told.items() if count} == {re.search(r"index\.\w+\.js", INDEX)[0]: len(ELEMENTS)}


def test_a_page_asks_for_few_scripts_and_for_none_twice(server, context):
    tab, asked = context.new_page(), []
    tab.on("request", lambda request: asked.append(urlsplit(request.url).path))
    tab.goto(server.url)
    tab.wait_for_function("document.querySelector('[data-mode=preview]')?.dataset.plots === 'drawn'")
    scripts = [path for path in asked if path.endswith(".js")]
    assert 6 < len(scripts) <= 10 and len({*scripts}) == len(scripts), scripts
