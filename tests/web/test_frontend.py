"""Streamlit's own scripts from memory: what a browser gets is what lies on the disk, and the rest is Streamlit's."""

import gzip
import re
from pathlib import Path

import pytest
import streamlit
from asgi import ask
from starlette.responses import HTMLResponse, PlainTextResponse

from gradviz.web.frontend import Files, Frontend
from gradviz.web.scripts import head, link_header, plotly_url, script_url

SCRIPT, FONT = b"const a = 1;" * 100, bytes(range(256))


async def _behind(scope, receive, send):
    await PlainTextResponse("behind")(scope, receive, send)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "static" / "js").mkdir(parents=True)
    (tmp_path / "static" / "js" / "index.1a2b.js").write_bytes(SCRIPT)
    (tmp_path / "static" / "font.woff2").write_bytes(FONT)
    (tmp_path / "secret.js").write_bytes(b"secret")
    (tmp_path / "index.html").write_text('<script src="./static/js/index.1a2b.js"></script><link href="./static/gone.css">')
    return tmp_path


def test_a_file_is_given_packed_to_who_takes_it_so_and_may_be_kept(folder):
    app = Frontend(_behind, Files(folder))
    for _ in range(2):  # the second time from memory
        packed, plain = (ask(app, "/static/js/index.1a2b.js", accept_encoding=how) for how in ("gzip, br", "identity"))
        assert packed.headers["content-encoding"] == "gzip" and gzip.decompress(packed.body) == plain.body == SCRIPT
        assert "content-encoding" not in plain.headers and packed.headers["vary"] == plain.headers["vary"] == "Accept-Encoding"
        assert "immutable" in packed.headers["cache-control"] and "javascript" in packed.headers["content-type"]
        font = ask(app, "/static/font.woff2", accept_encoding="gzip")
        assert font.body == FONT and font.headers["content-type"] == "font/woff2" and "content-encoding" not in font.headers


def test_what_was_read_once_is_read_no_more(folder):
    files = Files(folder)
    app = Frontend(_behind, files)
    files.warm_up()
    ask(app, "/static/font.woff2")
    for path in (folder / "static").rglob("*.*"):
        path.unlink()
    assert ask(app, "/static/font.woff2").body == FONT
    assert gzip.decompress(ask(app, "/static/js/index.1a2b.js", accept_encoding="gzip").body) == SCRIPT


@pytest.mark.parametrize("path", ["/", "/compare", "/secret.js", "/static/../secret.js", "/static/js", "/static/js/other.js",
                                  "/index.html", "//static/font.woff2", "/school/static/font.woff2"])  # fmt: skip
def test_whatever_is_no_file_of_it_is_for_streamlit_to_answer(folder, path):
    assert ask(Frontend(_behind, Files(folder)), path).text == "behind"


def test_who_asks_for_a_part_of_a_file_is_given_all_of_it_and_its_head_is_given_without_it(folder):
    app = Frontend(_behind, Files(folder))
    part, head = ask(app, "/static/font.woff2", range="bytes=0-9"), ask(app, "/static/font.woff2", method="HEAD")
    assert part.status == head.status == 200 and part.body == FONT and head.body == b""
    assert head.headers == part.headers and head.headers["content-length"] == str(len(FONT))
    assert ask(app, "/static/font.woff2", method="POST").text == "behind"


def test_under_a_path_of_its_own_the_files_stand_there_only(folder):
    app = Frontend(_behind, Files(folder), base="/school/gradviz")
    assert ask(app, "/school/gradviz/static/font.woff2").body == FONT
    assert ask(app, "/static/font.woff2").text == ask(app, "/gradviz/static/font.woff2").text == "behind"


def test_a_page_names_the_scripts_that_it_will_ask_for_and_nothing_else_does(folder):
    async def index(scope, receive, send):
        kind = HTMLResponse if scope["path"] in ("/school", "/school/", "/school/compare") else PlainTextResponse
        await kind("index")(scope, receive, send)

    app = Frontend(index, Files(folder), base="/school", get_link=link_header)
    for path, script in {"/school/": "live.js", "/school": "live.js", "/school/compare": "figure.js"}.items():
        link = ask(app, path).headers["link"]
        for url, how in ((script_url("classroom.js"), "modulepreload"), (script_url(script), "modulepreload"),
                         (plotly_url(), "preload; as=script")):  # fmt: skip
            assert f"<./{url}>; rel={how}" in link
    assert not any("link" in ask(app, path).headers for path in ("/school/api/x", "/school/static/font.woff2"))


def test_all_that_a_page_of_streamlit_begins_with_is_given_as_it_is():
    folder = Path(streamlit.__file__).parent / "static"
    names = re.findall(r'(?:src|href)="\./(static/[^"]+)"', (folder / "index.html").read_text(encoding="utf-8"))
    app = Frontend(_behind, Files(folder))
    assert len(names) > 10 and all(ask(app, f"/{name}").body == (folder / name).read_bytes() for name in names)


@pytest.fixture
def with_page(folder: Path) -> Path:
    (folder / "index.html").write_text(
        '<html><head><script type="module" src="./static/js/index.1a2b.js"></script></head><body>here</body></html>'
    )
    return folder


async def _index(scope, receive, send):
    known = scope["path"] in ("/", "/lab", "/school/", "/school/lab", "/api/page")
    headers = {"ETag": "old", "Last-Modified": "once", "Cache-Control": "no-cache", "Set-Cookie": "who=you"}
    text = "<html><head></head><body>the app's own</body></html>"
    await HTMLResponse(text, 200 if known else 404, headers)(scope, receive, send)


def test_a_page_is_streamlits_own_but_for_two_scripts_at_its_beginning(with_page):
    text = ask(Frontend(_index, Files(with_page), pages=["", "lab"], head=head()), "/lab").text
    assert head().count("<script") == head().count("</script>") == 2 and f'src="./{plotly_url()}"' in head()
    assert text.index(head()) < text.index("index.1a2b.js")
    assert text.replace(head(), "") == (with_page / "index.html").read_text()


def test_a_page_may_be_kept_no_longer_than_before_and_brings_its_cookie(with_page):
    reply = ask(Frontend(_index, Files(with_page), pages=[""]), "/")
    assert reply.headers["cache-control"] == "no-cache" and reply.headers["set-cookie"] == "who=you"
    assert int(reply.headers["content-length"]) == len(reply.body)
    assert "etag" not in reply.headers and "last-modified" not in reply.headers  # they are of Streamlit's file


@pytest.mark.parametrize("path, method", [("/gone", "GET"), ("/api/page", "GET"), ("/lab", "HEAD"), ("/lab", "POST")])
def test_what_is_no_page_of_ours_stays_as_the_app_gives_it(with_page, path, method):
    reply = ask(Frontend(_index, Files(with_page), pages=["", "lab", "gone"]), path, method=method)
    assert reply.headers["etag"] == "old" and "here" not in reply.text


def test_under_a_path_of_its_own_the_pages_stand_there_only(with_page):
    app = Frontend(_index, Files(with_page), base="/school", pages=["", "lab"])
    assert all("here" in ask(app, path).text for path in ("/school/", "/school/lab"))
    assert "here" not in ask(app, "/lab").text


def test_the_page_of_the_pinned_streamlit_names_joined_scripts_which_are_given_and_kept_like_its_own():
    folder = Path(streamlit.__file__).parent / "static"
    app = Frontend(_index, Files(folder), base="/school", pages=["lab"])
    page = ask(app, "/school/lab").text
    scripts = re.findall(r'(?:src|href)="\./(joined-\w+/js/[^"]+\.js)"', page)
    assert len(scripts) == len({*scripts}) == 6 and "./static/js/" not in page
    for name in scripts:
        packed, plain = (ask(app, f"/school/{name}", accept_encoding=how) for how in ("gzip", "identity"))
        assert gzip.decompress(packed.body) == plain.body != b"" and "content-encoding" not in plain.headers
        assert "immutable" in plain.headers["cache-control"] and "javascript" in plain.headers["content-type"]
    joined = f"/school/{scripts[0].partition('/')[0]}"
    for path in (folder / "static" / "media").iterdir():
        assert ask(app, f"{joined}/media/{path.name}").body == path.read_bytes()
    alone = next((folder / "static" / "js").glob("Table.*.js")).name  # stands there too, in words that fit
    assert b'"./part0.js"' in ask(app, f"{joined}/js/{alone}").body != ask(app, f"/school/static/js/{alone}").body
    for path in (f"{joined}/js/gone.js", f"{joined}/part0.js", f"{joined[:-1]}/js/part0.js", joined, f"{joined}/js"):
        assert ask(app, path).headers["etag"] == "old"  # as the app answers


def test_what_pages_ask_for_is_read_before_anybody_asks_each_once():
    files = Files(Path(streamlit.__file__).parent / "static")
    files.warm_up()
    names = re.findall(r'(?:src|href)="\./([^"]+\.(?:js|css|woff2))"', files.page("").decode())
    table = next((Path(streamlit.__file__).parent / "static" / "static" / "js").glob("Table.*.js")).name
    names.append(f"{names[-1].partition('/')[0]}/js/{table}")
    assert len(names) == 9 and all(files.kept(name, packed=not name.endswith("woff2")) for name in names), names


@pytest.mark.parametrize("page", ["", "compare"])
def test_a_browser_finds_the_server_at_once_whatever_page_it_begins_with(server, page, context):
    tab, refused = context.new_page(), []
    tab.on("response", lambda reply: refused.append(reply.url) if reply.status >= 400 else None)
    tab.goto(f"{server.url}/{page}")
    tab.get_by_role("heading").first.wait_for()
    assert refused == []
