"""Kernels: how a chunk of peers computes gradients and whole epochs of plain SGD.

``loop``    peers one after another; the reference, and the choice for large models
``graph``   the chunk's step traced once and replayed, with the update fused in
"""

from __future__ import annotations

from hubless.learn.kernels.base import Kernel
from hubless.learn.kernels.choice import choose, chunk_size

__all__ = ["Kernel", "choose", "chunk_size"]
