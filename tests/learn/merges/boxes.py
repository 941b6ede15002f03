"""Inboxes for merges: models of two groups with BatchNorm's statistics, and what a receiver knows."""

import torch
from torch import nn

from hubless.learn.context import Context, Inbox
from hubless.learn.model import Model

MODEL = Model(
    lambda: nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2), nn.Linear(2, 2)),
    groups={"trunk": ["0.", "1."], "head": ["2."]},
)
D = MODEL.size
MEAN = "buffer/1.running_mean"
STATE = MODEL.state()


def normal(seed, *shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def message(row, statistics=None):
    m = {name: row[part] for name, part in MODEL.groups.items()}
    return m if statistics is None else {**m, MEAN: statistics}


def inbox(rows, weights=None, ids=None, statistics=None):
    """Messages ``rows [M, D]`` of the peers 0, 1, ..."""
    count = len(rows)
    weights = torch.ones(count) if weights is None else weights
    statistics = [None] * count if statistics is None else statistics
    said = [message(row, more) for row, more in zip(rows, statistics, strict=True)]
    return Inbox(tuple(range(count)) if ids is None else ids, weights, said)


def context(**given):
    given = {"kind": "model", "phase": "gossip", "peer": 0, "start": torch.zeros(D), **given}
    return Context(t=1, N=20, model=MODEL, slope=None, key=5, secret=6, **given)


def row(m):
    return torch.cat([m[name] for name in MODEL.groups])


def joined(reduce, rows, weights=None, book=None, ids=None, **given):
    """The answer ``[D]`` to messages ``rows [M, D]``; the receiver is peer 0."""
    box = inbox(rows, weights, ids)
    own = rows[box.ids.index(0)] if 0 in box.ids else torch.zeros(D)
    return row(reduce(box, own, STATE, {} if book is None else book, context(**given)))


def close(one, other, within=1e-5):
    assert torch.isfinite(one).all()
    gap = float((one - other).abs().max())
    assert gap <= within * max(1.0, float(other.abs().max())), f"differ by {gap:.1e}"
