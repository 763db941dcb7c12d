"""Streamlit's own scripts from memory: what a browser gets is what lies on the disk, and the rest is Streamlit's."""

import gzip
import re
from pathlib import Path

import pytest
import streamlit
from asgi import ask
from starlette.responses import HTMLResponse, PlainTextResponse

from gradviz.web.frontend import Files, Frontend
from gradviz.web.scripts import link_header, plotly_url, script_url

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


def test_a_part_of_a_file_or_its_head_is_for_streamlit_to_answer(folder):
    app = Frontend(_behind, Files(folder))
    assert ask(app, "/static/font.woff2", range="bytes=0-9").text == "behind"
    assert ask(app, "/static/font.woff2", method="HEAD").body == b"behind" == ask(app, "/static/font.woff2", method="POST").body


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
