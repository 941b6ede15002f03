"""Messages and contexts for codecs: parameters in two groups, statistics, facts."""

from dataclasses import replace

import torch
from hypothesis import settings
from torch import nn

from hubless.learn import keys
from hubless.learn.context import Context
from hubless.learn.kernels.loop import Loop
from hubless.learn.kernels.slope import Session
from hubless.learn.model import Model

PATIENT = settings(deadline=None)
FEW = settings(deadline=None, max_examples=30)
MODEL = Model(
    lambda: nn.Sequential(nn.Linear(20, 9), nn.BatchNorm1d(9), nn.Linear(9, 3)),
    groups={"trunk": ["0.", "1."], "head": ["2."]},
)
CONTEXT = Context(t=1, N=2, model=MODEL, slope=Session(Loop(MODEL)), phase="up", key=5, secret=6)
DELTA = replace(CONTEXT, kind="delta")


def at(t, kind="delta", model=MODEL):
    return replace(CONTEXT, t=t, kind=kind, model=model, key=keys.fold(5, t), secret=keys.fold(6, t))


def update(seed=0, scale=0.01):
    """A model's change with statistics and small facts."""
    row = scale * keys.normal(keys.fold(seed, "row"), (MODEL.size,)) ** 3
    return {
        **{name: row[part] for name, part in MODEL.groups.items()},
        **{name: 1 + value for name, value in MODEL.buffers.items() if value.is_floating_point()},
        "seen": torch.tensor([3, 0, 1 << 40]),
    }


def same(one, other):
    return list(one) == list(other) and all(
        one[name].dtype == other[name].dtype and one[name].shape == other[name].shape
        and torch.equal(one[name], other[name]) for name in one
    )  # fmt: skip
