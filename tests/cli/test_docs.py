from itertools import pairwise
from pathlib import Path

import pytest

from hubless import catalogue
from hubless.cli import docs


@pytest.fixture
def written(monkeypatch, tmp_path):
    toy = catalogue.Entry("toy", "learning", Path(__file__).with_name("toy.py"))
    monkeypatch.setattr(catalogue, "entries", lambda: [toy])
    folder = tmp_path / "docs"
    monkeypatch.setattr(docs, "folder", lambda: folder)
    docs.write(folder)
    return folder


def test_a_page_a_recipe(written):
    page = (written / "recipes" / "toy.md").read_text()
    assert page.startswith("# toy\n")
    assert "It has one of everything that the catalogue reads" in page
    assert "| `--skill` | `0.5` | number >= 0, <= 1 | accuracy at the end |" in page
    assert "| `--shape` | `straight` | text | only a word, which goes on in a second line |" in page
    assert "| `tiny` | `--rounds 1` `--skill 0.25` |" in page
    assert "- skill pays (paper: Table 1)" in page
    assert "[toy](recipes/toy.md) | 7 | Toy: a recipe without tensors" in (written / "catalogue.md").read_text()


def test_every_line_of_a_table_has_as_many_cells(written):
    for path in written.rglob("*.md"):
        widths = [line.replace("\\|", "").count("|") for line in path.read_text().splitlines()]
        pairs = [(a, b) for a, b in pairwise(widths) if a and b]
        assert all(a == b for a, b in pairs), path


def test_check_finds_what_is_stale(written, hubless):
    assert hubless("docs", "--check") == (0, "", "")
    page = written / "recipes" / "toy.md"
    page.write_text(page.read_text() + "by hand")
    (written / "recipes" / "gone.md").write_text("a recipe that is no more")
    (written / "catalogue.md").unlink()
    code, out, _ = hubless("docs", "--check")
    assert code == 1
    assert [Path(line.split()[1]).name for line in out.splitlines()] == ["catalogue.md", "gone.md", "toy.md"]
    assert (written / "recipes" / "gone.md").exists()
    assert hubless("docs")[0] == 0
    assert not (written / "recipes" / "gone.md").exists()
    assert hubless("docs", "--check")[0] == 0


def test_pages_of_the_house_are_made_from_the_catalogue_alone():
    pages = docs.pages()
    assert set(pages) >= {"catalogue.md", "results.md"}
    for entry in catalogue.entries():
        if entry.family != "plugin":
            assert f"# {entry.name}\n" in pages[f"recipes/{entry.name}.md"]
