"""What a peer says of itself to a matchmaker, and what a matchmaker makes of two such profiles.

A profile ``[m + c]`` is some recent metrics and the shares of c classes among the peer's samples; neither parameters
nor samples. KNEXA-FL (arXiv 2601.17133) joins teacher's and student's profile to a context ``[p_i, p_j]``. A linear
model on that is additive: it cannot say that two peers suit each other. ``compatible`` adds what they have in common,
class by class; ``pooled`` says it in two numbers, which is learned from fewer lessons.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from hubless.errors import ConfigError
from hubless.learn.context import Batch, Context, State
from hubless.learn.local import SGD, Around
from hubless.learn.slots import Local

if TYPE_CHECKING:
    from hubless.learn.model import Model

Kind = Literal["compatible", "pooled", "concat"]
Array = NDArray[np.float64]
PROFILE = "profile"  # entry of a peer's state
METRICS = ("accuracy on the probe", "its change since the last round")


def contexts(profiles: ArrayLike, teachers: Sequence[int], students: Sequence[int], metrics: int, kind: Kind) -> Array:
    """One context a pair ``[M, d]`` from profiles ``[N, m + c]`` of which the first ``metrics`` entries are no shares.

    compatible: ``1, p_i, p_j, m_i - m_j, |h_i - h_j|, h_i * h_j``, with metrics m and shares h of teacher i, student j
    pooled:     ``1, q_i, q_j, q_i - q_j, sum |h_i - h_j|, h_i . h_j``, where q is the first metric
    concat:     ``p_i, p_j``
    Raises ConfigError for profiles that differ in length and for a teacher that is its own student.
    """
    lengths = {len(profile) for profile in np.atleast_1d(np.asarray(profiles, dtype=object))}
    if len(lengths) > 1:
        raise ConfigError(f"profiles: all must have the same length, not {sorted(lengths)}")
    if same := [i for i, j in zip(teachers, students, strict=True) if i == j]:
        raise ConfigError(f"students: peer {same[0]} cannot be its own teacher")
    p = np.asarray(profiles, dtype=np.float64)
    i, j = p[list(teachers)], p[list(students)]
    if kind == "concat":
        return np.concatenate([i, j], axis=1)
    h_i, h_j = i[:, metrics:], j[:, metrics:]
    one, apart, common = np.ones((len(i), 1)), np.abs(h_i - h_j), h_i * h_j
    if kind == "pooled":
        q_i, q_j = i[:, :1], j[:, :1]
        return np.concatenate([one, q_i, q_j, q_i - q_j, apart.sum(1)[:, None], common.sum(1)[:, None]], axis=1)
    return np.concatenate([one, i, j, i[:, :metrics] - j[:, :metrics], apart, common], axis=1)


def width(metrics: int, classes: int, kind: Kind) -> int:
    """Numbers in a context."""
    return len(contexts(np.zeros((2, metrics + classes)), [0], [1], metrics, kind)[0])


def divergence(shares: Array) -> Array:
    """Jensen-Shannon divergence ``[N, N]`` in nats between the rows of ``shares [N, c]``; 0 for rows that are alike."""
    p, q = shares[:, None], shares[None]
    middle = (p + q) / 2
    found: Array = (_entropic(p, middle) + _entropic(q, middle)).sum(-1) / 2
    return found


def _entropic(p: Array, q: Array) -> Array:
    """``p log(p / q)``, 0 where p is."""
    p, q = np.broadcast_arrays(p, q)
    found: Array = np.where(p > 0, p * np.log(np.where(p > 0, p, 1) / np.where(q > 0, q, 1)), 0)
    return found


@dataclass(frozen=True)
class Profiled(Around):
    """Another local objective, after which the peer writes its profile ``[2 + c]`` into the state.

    inner: how the peer trains
    probe: labelled samples ``x [P, ...]``, ``y [P, ...]`` that everyone has and nobody trains on
    bins:  number of classes c
    mapped: whether the network may be mapped over peers
    """

    inner: Local = field(default_factory=lambda: SGD(steps=1))
    probe: Batch = field(default_factory=lambda: Batch(torch.zeros(0), torch.zeros(0)))
    bins: int = 0
    mapped: bool = True

    @property
    def vectorised(self) -> bool:
        """Whether a step may be mapped over peers."""
        return self.mapped and self.inner.vectorised

    def init(self, model: Model) -> State:
        """The profile of a peer that has done nothing yet, and what the inner objective keeps."""
        return {**self.inner.init(model), PROFILE: torch.zeros(len(METRICS) + self.bins)}

    def end(self, w: Tensor, s: State, ctx: Context) -> tuple[Tensor, State]:
        """The new profile."""
        w, s = self.inner.end(w, s, ctx)
        found = hits(ctx.model, w, s, self.probe)
        shares = ctx.classes / ctx.classes.sum().clamp_min(1)
        before = s[PROFILE][0]
        return w, {**s, PROFILE: torch.cat([torch.stack([found, found - before]), shares.to(found.dtype)])}


def hits(model: Model, w: Tensor, s: State, samples: Batch) -> Tensor:
    """Share of the labels (of the tokens, for language) that the model gives to ``samples`` and that are right."""
    with torch.no_grad():
        return (model.forward(w, samples.x, s).argmax(-1) == samples.y).to(torch.float32).mean()
