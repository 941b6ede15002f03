"""Which library multiplies matrices: torch's default, or oneDNN, which is faster on some processors.

``torch.set_float32_matmul_precision("medium")`` allows oneDNN. Where the processor has AVX-512 only, that is still full
float32, and twice as fast where torch's default takes its AVX2 path. Where it has bfloat16 products, precision is lost.
So the choice is measured, never assumed.
"""

from __future__ import annotations

import threading
import time

import torch
from torch import Tensor

from hubless.learn.kernels.remembered import recall, remember

KEY = "matmul"
ACCURATE = 1e-6  # largest error of a product relative to its largest value; float32 gives about 4e-7
WORTH = 0.9  # share of the default's time below which a change is worth it
_lock = threading.Lock()
_said: list[str] = []


def probe_matmul() -> str:
    """Set the faster library whose products are accurate, once a process, and say which.

    A precision that the user has set stays.
    """
    with _lock:
        if not _said:
            _said.append(_choose())
        return _said[0]


def _choose() -> str:
    if torch.get_float32_matmul_precision() != "highest":
        return f"float32 products as set by the user ({torch.get_float32_matmul_precision()})"
    found = recall(KEY) or remember(KEY, _measure())
    if found.startswith("oneDNN"):
        torch.set_float32_matmul_precision("medium")
    return found


def _factors() -> list[tuple[Tensor, Tensor]]:
    source = torch.Generator().manual_seed(0)
    shapes = [((1, 256, 256), (1, 256, 256)), ((4, 32, 784), (4, 784, 200)), ((4, 200, 32), (4, 32, 784))]
    return [(torch.randn(a, generator=source), torch.randn(b, generator=source)) for a, b in shapes]


def _measure() -> str:
    factors = _factors()
    seconds = {"highest": float("inf"), "medium": float("inf")}
    outs: dict[str, list[Tensor]] = {}
    try:
        for _ in range(5):
            for precision in seconds:
                torch.set_float32_matmul_precision(precision)
                outs[precision] = [torch.bmm(a, b) for a, b in factors]  # also a warm-up
                start = time.thread_time()
                for a, b in factors:
                    torch.bmm(a, b)
                seconds[precision] = min(seconds[precision], time.thread_time() - start)
    finally:
        torch.set_float32_matmul_precision("highest")
    exact = [torch.bmm(a.double(), b.double()) for a, b in factors]
    error = max(_error(*pair) for pair in zip(outs["medium"], exact, strict=True))
    ratio = seconds["medium"] / seconds["highest"]
    better = error < ACCURATE and ratio < WORTH
    facts = f"oneDNN takes {ratio:.2f} of the default's time, error {error:.0e}"
    return f"oneDNN ({facts})" if better else f"default ({facts})"


def _error(product: Tensor, exact: Tensor) -> float:
    return float((product.double() - exact).abs().max() / exact.abs().max())
