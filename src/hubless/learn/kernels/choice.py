"""Which kernel for which model, and how many peers a chunk holds."""

from __future__ import annotations

import logging
from collections.abc import Callable

import torch
from torch import nn

from hubless.errors import ConfigError, did_you_mean
from hubless.learn.context import Batch
from hubless.learn.kernels.base import Kernel
from hubless.learn.kernels.dense import Dense
from hubless.learn.kernels.graph import Graph
from hubless.learn.kernels.loop import Loop
from hubless.learn.kernels.stacked import Stacked
from hubless.learn.model import Model

log = logging.getLogger(__name__)
KINDS: dict[str, Callable[[Model], Kernel]] = {"loop": Loop, "graph": Graph, "dense": Dense, "stacked": Stacked}
CACHED = 4 << 20  # bytes of parameters in a chunk: about a core's own cache and its share of the last level


def choose(model: Model, C: int, batch_example: Batch, *, plain: bool, kind: str = "auto") -> Kernel:
    """The kernel for chunks of C peers whose batches look like ``batch_example [C, B, ...]``.

    plain: whether epochs are plain SGD, which kernels fuse
    kind:  a kernel by name, or ``auto``

    Raises ConfigError for an unknown kind.
    """
    if kind != "auto" and kind not in KINDS:
        raise ConfigError(f"kernel: unknown {kind!r}; {did_you_mean(kind, [*KINDS, 'auto'])}")
    if kind != "auto":
        return KINDS[kind](model)
    if any(isinstance(m, (nn.Conv1d, nn.Conv2d, nn.Conv3d)) for m in model.module.modules()):
        return Loop(model)
    graph = Graph(model)
    try:
        W = torch.zeros(C, model.size)
        graph.epoch(W, {}, [batch_example], 0.0)
    except Exception as error:
        log.info("kernel graph refused for %s: %s", model.name, error)
        return Loop(model)
    return graph


def chunk_size(model: Model, batch: int, N: int, threads: int, memory_mb: float) -> int:
    """Peers in a chunk: a power of two whose parameters stay in cache, within the memory, and enough chunks for all.

    batch: samples in a mini-batch
    memory_mb: most memory for one chunk in training
    """
    room = min(CACHED * 5 / 4, memory_mb * 2**20 / 4) / (4 * model.size)
    most = max(1, min(room, -(-N // max(1, threads))))
    size = 1
    while size * 2 <= most:
        size *= 2
    return size
