"""Numbers as people read them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

SIZES = ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB"), (1.0, "B"))
SPANS = ((86400.0, "d"), (3600.0, "h"), (60.0, "min"), (1.0, "s"))


def scale(largest: float, units: tuple[tuple[float, str], ...]) -> tuple[float, str]:
    """The unit in which ``largest`` is at least 1 (or the smallest unit): its factor and name."""
    return next((unit for unit in units if largest >= unit[0]), units[-1])


def percent(value: float, digits: int = 1) -> str:
    """0.931 as ``93.1 %``."""
    return f"{100 * value:.{digits}f}\u00a0%" if math.isfinite(value) else "–"


def size(value: float) -> str:
    """Bytes as ``4.2 MB`` (powers of ten)."""
    if not math.isfinite(value):
        return "–"
    factor, unit = scale(abs(value), SIZES)
    return f"{value / factor:.3g}\u00a0{unit}" if unit != "B" else f"{value:.0f}\u00a0B"


def duration(seconds: float) -> str:
    """Seconds as ``840 ms``, ``12.5 s``, ``3 min 20 s`` or ``2 h 5 min``."""
    if not math.isfinite(seconds):
        return "–"
    if seconds < 1:
        return f"{1000 * seconds:.0f}\u00a0ms"
    if seconds < 60:
        return f"{seconds:.3g}\u00a0s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes}\u00a0min {rest}\u00a0s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours:,}\u00a0h {minutes}\u00a0min"


def number(value: Any) -> str:
    """Any value of a table or an option as text."""
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        if not math.isfinite(value):
            return "–"
        return f"{value:,.0f}" if value.is_integer() and 1e3 <= abs(value) < 1e15 else f"{value:.4g}"
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {number(item)}" for key, item in value.items())
    if isinstance(value, (list, tuple)):
        return ", ".join(number(item) for item in value)
    return str(value)


def is_share(metric: str) -> bool:
    """Whether a metric is shown in per cent: an accuracy, a success, or what calls itself a share."""
    named = "accuracy" in metric or "success" in metric or "share" in metric.replace(" ", "_").split("_")
    return named and not metric.endswith("std")


def measured(metric: str, value: float) -> str:
    """A metric's value in the unit that its name stands for."""
    if is_share(metric):
        return percent(value)
    if metric == "bytes":
        return size(value)
    return duration(value) if metric == "clock" else number(value)


def title(name: str) -> str:
    """``grad_norm`` as ``Grad norm``."""
    spaced = name.replace("_", " ").replace("-", " ")
    return spaced[:1].upper() + spaced[1:]


def count(amount: int, noun: str) -> str:
    """``1 peer``, ``1,200 peers``."""
    return f"{amount:,} {noun}" if amount == 1 else f"{amount:,} {noun}s"
