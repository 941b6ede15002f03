"""Which samples a peer sees, in which order: a pure function of (seed, round, peer)."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from hubless.learn import keys
from hubless.learn.slots import Local


def steps_of(local: Local, sizes: Tensor) -> Tensor:
    """Local steps a round for peers with ``sizes`` samples."""
    if local.steps is not None:
        return torch.full_like(sizes, local.steps)
    assert local.epochs is not None
    batch = local.batch or int(sizes.max())
    return local.epochs * ((sizes + batch - 1) // batch)


def batches(key: Tensor, sizes: Tensor, local: Local) -> Iterator[tuple[Tensor, Tensor | None]]:
    """Positions ``[C, B]`` within each peer's own data, step by step, and which of them count (None: all).

    With ``epochs`` every pass is a new permutation, cut in batches; the last one may be partial, and peers with less
    data have batches that do not count. With ``steps`` each batch is a draw without replacement of exactly the batch
    size, or all of a peer's data when that is 0; a peer with fewer samples repeats them. A peer's positions depend on
    its own key and size only.
    """
    most = int(sizes.max())
    even = bool((sizes == most).all())
    size = local.batch or most
    if local.steps is not None:
        for step in range(local.steps):
            order = _order(keys.fold(key, "batch", step), sizes, most, even)
            if local.batch:
                yield _first(order, sizes, size), None
            else:
                yield _counted(order, sizes, 0, even)
        return
    assert local.epochs is not None
    for epoch in range(local.epochs):
        order = _order(keys.fold(key, "epoch", epoch), sizes, most, even)
        for first in range(0, most, size):
            yield _counted(order[:, first : first + size], sizes, first, even)


def _counted(part: Tensor, sizes: Tensor, first: int, even: bool) -> tuple[Tensor, Tensor | None]:
    """Positions from ``first`` on, and which of them a peer has."""
    if even:
        return part, None
    count = torch.arange(first, first + part.shape[1], device=sizes.device) < sizes[:, None]
    return torch.where(count, part, 0), (None if bool(count.all()) else count)


def _order(key: keys.Key, sizes: Tensor, most: int, even: bool) -> Tensor:
    drawn = keys.bits(key, most)
    if not even:
        beyond = torch.arange(most, device=sizes.device) >= sizes[:, None]
        drawn = torch.where(beyond, torch.iinfo(torch.int64).max, drawn)
    return torch.argsort(drawn, dim=-1, stable=True)


def _first(order: Tensor, sizes: Tensor, size: int) -> Tensor:
    places = torch.arange(size, device=sizes.device) % sizes[:, None]
    return order.gather(1, places)
