"""Strings of two small tasks and of both in one: addition modulo 10, the greater of two digits, and their composition.

``3+9=2``, ``3|9=9`` and ``3+9|5=5``, behind as many spaces as put the answer at the last place.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

Kind = Literal["add", "max", "both"]
Codes = NDArray[np.int64]
LENGTH = 8
ANSWER = LENGTH - 1  # the place of the answer


def strings(kind: Kind) -> Codes:
    """All strings of a task ``[M, LENGTH]``, in characters."""
    pairs = [(a, b) for a in range(10) for b in range(10)]
    if kind == "add":
        texts = [f"{a}+{b}={(a + b) % 10}" for a, b in pairs]
    elif kind == "max":
        texts = [f"{a}|{b}={max(a, b)}" for a, b in pairs]
    else:
        texts = [f"{a}+{b}|{c}={max((a + b) % 10, c)}" for a, b in pairs for c in range(10)]
    return np.array([[ord(letter) for letter in text.rjust(LENGTH)] for text in texts], np.int64)
