"""The Chinese pages say what the English ones say: links both ways, the same numbers, commands, variables and cases."""

import re
from collections import Counter
from pathlib import Path

import pytest
from babel.messages.pofile import read_po

ROOT = Path(__file__).parent.parent
PAIRS = {
    "README.md": "README.zh-CN.md",
    "docs/classroom.md": "docs/classroom.zh-CN.md",
    "docs/reproduction.md": "docs/reproduction.zh-CN.md",
}
VERDICTS = {"reproduced": "已复现", "partly": "部分复现", "not": "未复现", "open": "未定"}


def text(path: str) -> str:
    return (ROOT / path).read_text(encoding="utf-8")


def numbers(words: str) -> Counter[str]:
    """'1.6·10¹¹', '9,370' and '90%' are one number each; digits of names such as block25.conv1 and clip-norm 1 count too."""
    words = re.sub(r"\]\([^)]*\)|(?<=\d),(?=\d{3})", lambda found: "]" if found[0] != "," else "", words)
    return Counter(re.findall(r"\d+(?:\.\d+)?(?:·10[⁻⁰¹²³⁴⁵⁶⁷⁸⁹]+)?%?", words))


def rows(page: str) -> list[list[str]]:
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in page.splitlines() if line.startswith("|")]


def anchors(page: str) -> set[str]:
    """As GitHub makes them of headings."""
    headings = re.findall(r"^#+ (.*)$", page, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("english", PAIRS)
def test_each_page_leads_to_the_other_language_in_its_first_lines(english):
    for page, other in ((english, PAIRS[english]), (PAIRS[english], english)):
        assert f"]({Path(other).name})" in "\n".join(text(page).splitlines()[:4])


@pytest.mark.parametrize("page", [*PAIRS.values(), "docs/glossary.md"])
def test_every_link_of_a_chinese_page_leads_somewhere(page):
    for target in re.findall(r"\]\(([^)]+)\)", text(page)):
        name, _, anchor = target.partition("#")
        path = (ROOT / page).parent / name if name else ROOT / page
        assert path.exists(), target
        assert not anchor or anchor in anchors(path.read_text(encoding="utf-8")), target


def test_the_summary_has_the_verdicts_and_the_numbers_of_the_report():
    def verdicts(page: str) -> list[list[str]]:
        return [row for row in rows(text(page)) if len(row) == 6 and "](" in row[1]]

    english, chinese = verdicts("docs/reproduction.md"), verdicts("docs/reproduction.zh-CN.md")
    assert len(english) == len(chinese) == 17
    for ours, theirs in zip(english, chinese, strict=True):
        assert ours[0] == theirs[0]
        assert ours[1].partition("#")[2] == theirs[1].partition("#")[2]
        for k in (2, 4):
            word = ours[k].strip("*")
            assert theirs[k] == (f"**{VERDICTS[word]}**" if word in VERDICTS else word)
        for k in (3, 5):
            assert numbers(ours[k]) == numbers(theirs[k]), theirs


def test_every_number_of_the_summary_is_one_of_the_report():
    summary = re.sub(r"^\d+\. ", "", text("docs/reproduction.zh-CN.md"), flags=re.MULTILINE)
    assert len(numbers(summary)) > 60
    assert set(numbers(summary)) - set(numbers(text("docs/reproduction.md"))) == set()


@pytest.mark.parametrize("english", ["README.md", "docs/classroom.md"])
def test_every_command_and_variable_of_the_english_page_stands_in_the_chinese_one(english):
    ours, theirs = text(english), text(PAIRS[english])
    told = ours.partition("## Where things are")[0].partition("### What it tells")[0]  # then it refers to this one
    assert set(re.findall(r"GRADVIZ_[A-Z_]+\b", told)) <= set(re.findall(r"GRADVIZ_[A-Z_]+\b", theirs))

    def commands(page: str) -> list[str]:
        lines = re.findall(r"^(?:    |       )(?! )(.*)$", page, re.MULTILINE)
        return [re.sub(r"\s+# .*", "", line) for line in lines]

    assert commands(told) == commands(theirs)


def test_the_guide_knows_every_case_in_both_languages():
    def cases(page: str) -> list[int]:
        """Rows of each table before the figures."""
        return [len(block.splitlines()) for block in re.findall(r"(?:^\|.*\n)+", page, re.MULTILINE)]

    told = text("docs/classroom.md").partition("### What it tells")[0]
    assert cases(told) == cases(text("docs/classroom.zh-CN.md"))
    assert [len(row) for row in rows(told)] == [len(row) for row in rows(text("docs/classroom.zh-CN.md"))]


def translations() -> list[tuple[str, str]]:
    """(English, Chinese) of every text of the program; of two forms the second."""
    with (ROOT / "gradviz/locale/zh_CN/LC_MESSAGES/gradviz.po").open("rb") as file:
        found = [(message.id, message.string) for message in read_po(file, "zh_CN") if message.id and message.string]
    return [(id if isinstance(id, str) else id[1], string if isinstance(string, str) else string[0]) for id, string in found]


def test_what_the_guide_says_is_on_the_screen_is_what_the_program_says():
    said = "\n".join(re.sub(r"\{[^}]*\}", "…", chinese) for _english, chinese in translations())
    said += "\nConnecting"  # Streamlit's own
    cases = text("docs/classroom.zh-CN.md").partition("## 遇到问题时")[2].partition("\n## ")[0]
    quoted = [part.strip("…。 ") for words in re.findall("“([^”]+)”", cases) for part in words.split(" … ")]
    assert len(quoted) > 15
    assert [words for words in quoted if words not in said] == []


@pytest.mark.parametrize("english, chinese", [
    ("shortcut", "捷径连接"), ("batch norm", "批量归一化"), ("backward signal", "反向信号"), ("weight gradient", "权重梯度"),
    ("vanish", "消失"), ("explo(?:de|ding|sion)", "爆炸"), ("learning rate", "学习率"), ("optimiser", "优化器"),
    ("clipping", "裁剪"), ("saturated", "饱和"), ("diverged", "发散"), ("median", "中位数"),
    ("root mean square", "均方根"), ("zero padding", "零填充"), ("branch", "分支"), ("convolution", "卷积"),
    ("teacher", "教师"), ("heatmap", "热图"), ("worker", "工作进程"), ("seed", "种子"),
    ("data set", "数据集"), ("loss", "损失|loss"), ("accuracy", "准确率|accuracy"), ("chance", "随机"),
    ("sweep", "扫描"),
])  # fmt: skip
def test_a_term_of_the_field_has_its_one_word_in_every_text(english, chinese):
    meant = [(ours, theirs) for ours, theirs in translations() if re.search(rf"\b{english}", ours, re.IGNORECASE)]
    assert meant
    assert [theirs for ours, theirs in meant if not re.search(chinese, theirs)] == []


def test_the_glossary_has_one_word_for_one_term():
    terms = [row[:2] for row in rows(text("docs/glossary.md")) if row[0] not in ("English", "---")]
    assert len(terms) > 60
    for column in (0, 1):
        assert [word for word, count in Counter(row[column] for row in terms).items() if count > 1] == []


def test_no_text_looks_like_one_of_pythons_old_formats():
    """Babel would take '10 % of' for a placeholder and want it in every translation: '{n} % of' is written 'of … {n} %'."""
    with (ROOT / "gradviz/locale/gradviz.pot").open("rb") as file:
        assert [message.id for message in read_po(file) if message.python_format] == []
