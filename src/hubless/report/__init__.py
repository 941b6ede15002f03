"""Plots and pages, made from records alone.

``write`` turns a run folder into one self-contained HTML page, ``write_comparison`` and ``write_grid`` do so
for several runs. ``figures.PLOTS`` lists every plot: a plot is a function from records to a matplotlib
figure, or to None when the records lack what it shows.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hubless.report.comparison import write_comparison
    from hubless.report.grid import write_grid
    from hubless.report.page import write

__all__ = ["write", "write_comparison", "write_grid"]


def __getattr__(name: str) -> Any:
    """Import matplotlib only when a page is written."""
    from importlib import import_module

    homes = {"write": "page", "write_comparison": "comparison", "write_grid": "grid"}
    if name not in homes:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"hubless.report.{homes[name]}"), name)
