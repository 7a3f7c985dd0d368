"""Whatever the pages name of the repository is there: links, headings, files and make targets."""

import re
from pathlib import Path

import pytest
from pages import PAGES, ROOT

FOLDERS = ("pycat", "kernels", "csrc", "docs", "tests", "bench", ".ci", ".github")
NAMES = {
    path.name
    for folder in FOLDERS
    for path in (ROOT / folder).rglob("*")
    if "__pycache__" not in path.parts
}


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as hosts of Markdown make them."""
    headings = re.findall(r"^#+ (.*)$", page.read_text("utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", line.lower()).replace(" ", "-") for line in headings}


def missing(page: Path, text: str) -> list[str]:
    """What a text that stands in `page` names, and is not there."""
    found = []
    for target, anchor in re.findall(r"\]\((?!https?:)([^)#]*)(?:#([^)]+))?\)", text):
        file = page.parent / target if target else page
        if not file.exists() or (anchor and anchor not in anchors(file)):
            found.append(f"link {target}#{anchor}")
    folders = "|".join(map(re.escape, FOLDERS))
    for path in re.findall(rf"(?<![\w/.-])(?:{folders})/[\w./*-]*", text):
        if not [*ROOT.glob(path.rstrip("."))]:
            found.append(path)
    for name in re.findall(r"(?<![\w/.<>-])[\w-]+\.(?:py|cpp|h|jinja)\b", text):
        if name not in NAMES:
            found.append(name)
    makefile = (ROOT / "Makefile").read_text("utf-8")
    for target in re.findall(r"\bmake ([a-z]+)\b(?=[`\n ]*(?:`|$| [A-Z]+=))", text, re.MULTILINE):
        if not re.search(rf"^{target}:", makefile, re.MULTILINE):
            found.append(f"make {target}")
    return found


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_what_a_page_names_is_there(page: Path) -> None:
    assert not missing(page, page.read_text("utf-8"))


@pytest.mark.parametrize(
    "text",
    [
        "[gone](docs/gone.md)",
        "[no such heading](docs/format.md#gone)",
        "[here](#gone)",
        "`pycat/gone.py`",
        "`csrc/gone/`, `csrc/gone/*.h`",
        "as gone.cpp does",
        "`make gone`",
        "make gone\n",
    ],
)
def test_what_is_not_there_is_found(text: str) -> None:
    assert missing(ROOT / "README.md", text)
