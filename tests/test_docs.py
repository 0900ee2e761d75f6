"""The documentation is true: its Python runs, its links lead somewhere, its model pages are alike."""

import re
from pathlib import Path

import pytest

from latentia.testing import all_models

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")] + sorted(ROOT.glob("docs/**/*.md"))
HEADINGS = ["Story", "Formula", "Inference", "What it is good for", "Traps", "References"]
# a picture of a report that is made from a run, and may not be there yet
MAY_BE_MISSING = {ROOT / "docs" / "images" / "report.png"}

FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def blocks():
    listed = []
    for page in PAGES:
        found = [code for language, code in FENCE.findall(page.read_text("utf-8")) if language == "python"]
        for number, code in enumerate(found, 1):
            listed.append(pytest.param(code, id=f"{page.relative_to(ROOT)}-{number}"))
    return listed


def links(page):
    text = FENCE.sub("", page.read_text("utf-8"))
    return [target for target in re.findall(r"\]\(([^)\s]+)\)", text) if "://" not in target]


def anchors(page):
    """The names that GitHub gives to the headings of a page."""
    titles = re.findall(r"^#+ (.+)$", FENCE.sub("", page.read_text("utf-8")), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}


def test_there_are_blocks_and_links_to_check():
    assert len(blocks()) >= 7
    assert len(links(ROOT / "README.md")) >= 10


@pytest.mark.parametrize("code", blocks())
def test_python_blocks_run(code, script, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    block = tmp_path / "block.py"
    block.write_text(code, "utf-8")
    script(block)


def test_every_model_has_a_page_and_every_page_has_the_same_headings():
    pages = {page.stem: page for page in (ROOT / "docs" / "models").glob("*.md")}
    assert set(pages) == {name.partition(":")[0] for name in all_models()}
    for page in pages.values():
        assert re.findall(r"^## (.+)$", page.read_text("utf-8"), re.MULTILINE) == HEADINGS, page.name


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    for target in links(page):
        name, _, anchor = target.partition("#")
        path = (page.parent / name).resolve() if name else page
        if path in MAY_BE_MISSING and not path.exists():
            continue
        assert path.exists(), f"{page.name} links to {target}"
        if anchor:
            assert anchor in anchors(path), f"{page.name} links to {target}"


def test_commands_in_the_readme_exist():
    from latentia.cli import COMMANDS

    text = (ROOT / "README.md").read_text("utf-8")
    table = re.findall(r"^\| `(\w+)` \| .* \| `latentia (\w+) ", text, re.MULTILINE)
    assert [name for name, _ in table] == list(COMMANDS)
    assert all(name == used for name, used in table)


def test_the_readme_knows_every_page():
    known = {(ROOT / target.partition("#")[0]).resolve() for target in links(ROOT / "README.md")}
    assert not {page.name for page in PAGES[1:] if page.resolve() not in known}
