"""What people typed is text: nothing of it is markup on a page."""

import ast
import json
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from urllib.parse import quote

import pytest
from playwright.sync_api import Page, expect
from running import ROOT, Port

from gradviz.words import as_text, duration

NASTY = [
    "[click](http://evil.example)", "http://evil.example/a_b", "www.evil.example", "WWW.evil.example", "me@evil.example",
    "<http://evil.example>", "![x](http://evil.example/x.png)", ":red[danger]", ":red-badge[danger]", ":blue-background[x]",
    ":small[x]", ":smile:", ":+1:", ":100:", ":material/delete:", ":streamlit:", "$x^2$", "$$x$$", r"\(x\)", "**bold**",
    "*it*", "__bold__", "_it_", "a_b_c", "~~gone~~", "`code`", "```\ncode", "# head", "## head", "- item", "+ item", "* item",
    "1. item", "2) item", "> quote", "---", "===", "a\n===", "a\n\n# b", "    code", "\tcode", "| a | b |\n|---|---|\n| 1 | 2 |",
    "<b>x</b>", "<script>x</script>", "&lt;b&gt;", "&#58;red[x]", "[^1]", "[x]: http://evil.example", "[x][y]", "- [ ] todo",
    "a -> b <- c <-> d -- e >= f <= g ~= h", "\\", "\\\\*x*", "\\[x](http://evil.example)", "mailto:a@b.example", "://", "a:b",
    "C:\\Users\\x_y", "5 * 3 * 2", "x\\_y\\_", "{{x}}", "100%", "é 李雷 🦊", "::red[x]", ":red[:blue[x]]", "http\\://evil.example",
    "xmpp:a@evil.example", "ftp://evil.example", "a@b@c.example", ":mag_right:", "https://www.evil.example:80/?a=b&c=d#e",
]  # fmt: skip


@pytest.fixture(scope="module")
def shown_by_streamlit(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a page with one warning for each of NASTY."""
    script = tmp_path_factory.mktemp("page") / "page.py"
    script.write_text(
        "import json, streamlit as st\nfrom gradviz.words import as_text\n"
        f"for text in json.loads({json.dumps(NASTY)!r}):\n    st.warning(as_text(text))\n", encoding="utf-8"
    )  # fmt: skip
    port = Port()
    options = ["--server.port", str(port.number), "--server.address", "127.0.0.1", "--server.headless", "true"]
    process = subprocess.Popen([sys.executable, "-m", "streamlit", "run", str(script), *options], cwd=ROOT,
                               env={"PATH": "/usr/bin:/bin", "PYTHONPATH": str(ROOT), "HOME": str(script.parent)})  # fmt: skip
    deadline = time.monotonic() + 60
    while True:
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port.number}/_stcore/health", timeout=2).close()
            break
        except OSError:
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.05)
    yield f"http://127.0.0.1:{port.number}"
    process.kill()
    process.wait()


def test_every_text_is_shown_as_it_was_typed(page: Page, shown_by_streamlit):
    page.goto(shown_by_streamlit)
    alerts = page.get_by_test_id("stAlert")
    expect(alerts).to_have_count(len(NASTY), timeout=60_000)
    found = page.evaluate(
        "[...document.querySelectorAll('[data-testid=stAlert] [data-testid=stMarkdownContainer]')].map((box) =>"
        "[box.textContent, [...box.querySelectorAll('*')].map((element) => element.tagName.toLowerCase())])"
    )
    wanted = [" ".join(text.split()) for text in NASTY]
    assert [text.replace("\u2060", "").strip() for text, _ in found] == wanted
    assert {text: tags for text, tags in found if tags != ["p"]} == {}


def test_text_without_markup_is_left_alone_and_what_turns_it_about_goes():
    for text in ("Batch size (batch_size) must be a whole number from 1 to 1024; '2000' is not.", "", "12 blocks, 0.5 s (50 %)!"):
        assert as_text(text) == text
    assert as_text("a\u202eb\x00c\u2066d") == "abcd"


def test_a_link_with_markup_in_it_shows_the_markup(page: Page, server):
    values = [":red[x]", "[a](http://evil.example)", "$x^2$ **b**", "www.evil.example"]
    for value in values:
        page.goto(f"{server.url}/?blocks={quote(value)}&steps=20&dataset=digits&lr={quote(value)}")
        alert = page.get_by_test_id("stAlert").filter(has_text="in the link is not as it should be").first
        expect(alert).to_be_visible(timeout=60_000)
        assert value in alert.inner_text().replace("\u2060", "")
        assert alert.locator("a, strong, em, code, .katex, img, [style*=color], .stMarkdownColoredText").count() == 0


def test_every_alert_of_the_pages_shows_our_own_words_or_text():
    """The rule by which no sentence with somebody's words in it is forgotten."""

    def ours(node: ast.expr) -> bool:
        if isinstance(node, ast.IfExp):
            return ours(node.body) and ours(node.orelse)
        return isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ("_", "as_text")

    places = [*(ROOT / "pages").glob("*.py"), *(ROOT / "gradviz" / "ui").glob("*.py"), *(ROOT / "gradviz").glob("*/*.py")]
    alerts = [
        (path.name, node)
        for path in set(places)
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)
        and node.func.attr in ("error", "warning", "info", "success", "toast")
        and isinstance(node.func.value, ast.Name) and node.func.value.id in ("st", "note")
    ]  # fmt: skip
    assert len(alerts) > 30
    assert [f"{name}:{node.lineno}" for name, node in alerts if not (node.args and ours(node.args[0]))] == []


@pytest.mark.parametrize("seconds, text", [(0.0, "1 second"), (40.4, "40 seconds"), (89.9, "90 seconds"), (150.0, "2 minutes")])
def test_a_duration_is_said_in_seconds_below_a_minute_and_a_half_and_in_minutes_above(seconds, text):
    assert duration(seconds) == text
