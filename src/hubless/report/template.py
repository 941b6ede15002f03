"""The one HTML page that every report is: what goes into it, and how it is written."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import jinja2
from markupsafe import Markup

from hubless.report.figures import Drawn
from hubless.report.verdict import Tile

HERE = Path(__file__).parent


@dataclass(frozen=True)
class Table:
    """A table of text; ``marks`` gives a row a CSS class (``held``, ``failed``), where there is one."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    marks: Sequence[str] = ()
    note: str = ""


@dataclass(frozen=True)
class Page:
    """Everything on a page; what is empty is left out."""

    title: str
    eyebrow: str = ""
    summary: str = ""
    verdict: str = ""
    tiles: Sequence[Tile] = ()
    tables: Sequence[Table] = ()
    figures: Sequence[Drawn] = ()
    events: Sequence[tuple[int, str, str]] = ()
    appendix: Sequence[Table] = ()
    error: str = ""
    options: Sequence[tuple[str, str]] = ()
    command: str = ""
    facts: Sequence[tuple[str, str]] = field(default=())


def publish(page: Page, path: Path) -> Path:
    """Write the page as one file that loads nothing else; all text is escaped."""
    loader = jinja2.FileSystemLoader(HERE)
    environment = jinja2.Environment(
        loader=loader, autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["drawing"] = Markup
    css = Markup((HERE / "page.css").read_text(encoding="utf-8"))
    text = environment.get_template("page.html").render(page=page, css=css)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8", errors="replace")
    return path
