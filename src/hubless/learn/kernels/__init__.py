"""Kernels: how a chunk of peers computes gradients and whole epochs of plain SGD.

``dense``    perceptrons by hand, SGD inside the products that make gradients
``graph``    any other network without convolutions: the chunk's step traced once and replayed, SGD fused in
``stacked``  small convolutional networks as one network with grouped convolutions
``loop``     peers one after another; the reference, the fallback, and the choice for large convolutions
"""

from __future__ import annotations

from hubless.learn.kernels.base import Kernel
from hubless.learn.kernels.choice import choose, chunk_size
from hubless.learn.kernels.matmul import probe_matmul

__all__ = ["Kernel", "choose", "chunk_size", "probe_matmul"]
