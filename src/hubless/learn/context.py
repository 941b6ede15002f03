"""All that a part may know beyond its arguments."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from hubless.learn import keys
from hubless.learn.model import Model

State = dict[str, Tensor]
Message = dict[str, Tensor]
NO_CLASSES = torch.zeros(0, dtype=torch.int64)


class Batch(NamedTuple):
    """One peer's mini-batch: ``x [B, ...]``, ``y [B, ...]``, and a weight a sample ``[B]`` where some are padding."""

    x: Tensor
    y: Tensor
    weight: Tensor | None = None


class Slope(Protocol):
    """Where gradients come from: one of the kernels, or a plain one."""

    def grad(self, w: Tensor, s: State, batch: Batch) -> tuple[Tensor, State]:
        """Gradient of the mean loss with respect to ``w [D]``, and the state with its buffers moved on."""

    def clipped(self, w: Tensor, s: State, batch: Batch, bound: float) -> tuple[Tensor, State]:
        """Sum ``[D]`` of the samples' gradients, each clipped to the norm ``bound``, and the state."""

    def input_grad(self, w: Tensor, s: State, batch: Batch) -> Tensor:
        """Gradient of the mean loss with respect to ``batch.x``."""


@dataclass(frozen=True)
class Context:
    """What a part may know.

    Under mapping ``peer``, ``n``, ``classes``, ``steps``, ``key``, ``secret`` and ``start`` are tensors of the chunk;
    the rest stay Python values, so a mapped part never branches on ``peer``.

    t:       round, 1-based
    k:       index of the step in the round's plan
    peer:    id of the peer
    n:       its own training samples
    classes: how many of these each class has ``[L]``; ``[0]`` where there are no classes
    N:       peers in the population
    steps:   local steps of this peer in this round
    rate:    learning rate of this round
    role:    what the plan asked it to be in this training step
    phase:   name of the exchange
    kind:    of the message: ``model``, ``delta`` or ``predictions``
    start:   the row before this round's training
    own:     gives its training set, ``apart`` the samples that it holds out (looped parts only)
    to:      the receiver (messages made per target only)
    receivers: all planned receivers of a message but its sender, for codecs that remember
    group:   the planned senders of this inbox; ``senders`` those that arrived
    counts:  how many sent each name
    part:    which piece of its row the peer is to say, and of how many (exchanges that are planned in parts)
    memory:  what the receiver keeps of this sender, for codecs that remember; to be changed in place
    key:     public randomness, folded with (seed, round, peer, k) and in training with the local step
    secret:  randomness that others must not predict
    pairs:   of what ``pair`` makes the keys that two peers share in this step
    agreed:  gives these keys instead, where peers agree on them through a network
    """

    t: int
    N: int
    model: Model
    slope: Slope
    k: int = 0
    peer: int | Tensor = 0
    n: int | Tensor = 0
    classes: Tensor = NO_CLASSES
    steps: int | Tensor = 0
    rate: float = 0.0
    role: str = "train"
    phase: str = ""
    kind: str = "model"
    key: int | Tensor = 0
    secret: int | Tensor = 0
    pairs: int | Tensor = 0
    agreed: Callable[[int, int], int] | None = None
    start: Tensor | None = None
    own: Callable[[], Batch] | None = None
    apart: Callable[[], Batch] | None = None
    to: int | None = None
    receivers: tuple[int, ...] = ()
    group: tuple[int, ...] = ()
    senders: tuple[int, ...] = ()
    counts: Mapping[str, int] = field(default_factory=dict)
    part: tuple[int, int] = (0, 1)
    memory: dict[str, Any] = field(default_factory=dict)

    @property
    def data(self) -> Batch:
        """The peer's own training set (looped parts only)."""
        if self.own is None:
            raise RuntimeError("ctx.data is there for parts that are not mapped: set vectorised = False")
        return self.own()

    @property
    def held(self) -> Batch:
        """The samples that the peer holds out from training, of its own classes; empty without ``Workload.held``."""
        if self.apart is None:
            raise RuntimeError("ctx.held is there for parts that are not mapped: set vectorised = False")
        return self.apart()

    def grad(self, w: Tensor, s: State, batch: Batch) -> tuple[Tensor, State]:
        """Gradient ``[D]`` of the mean loss on a batch, and the state with its buffers moved on."""
        return self.slope.grad(w, s, batch)

    def clipped(self, w: Tensor, s: State, batch: Batch, bound: float) -> tuple[Tensor, State]:
        """Sum ``[D]`` of the samples' gradients, each first clipped to the norm ``bound``, and the state.

        Each counts by its weight in [0, 1] where there are weights; buffers stay as they are, except for keys of
        dropout. Raises ConfigError for a model with BatchNorm.
        """
        return self.slope.clipped(w, s, batch, bound)

    def input_grad(self, w: Tensor, s: State, batch: Batch) -> Tensor:
        """Gradient of the mean loss with respect to the inputs, of the shape of ``batch.x``."""
        return self.slope.input_grad(w, s, batch)

    def uniform(self, purpose: str, shape: tuple[int, ...]) -> Tensor:
        """Uniform draws in [0, 1) that depend on (seed, round, peer, step, purpose) only."""
        return keys.uniform(keys.fold(self.key, purpose), shape)

    def normal(self, purpose: str, shape: tuple[int, ...]) -> Tensor:
        """Standard normal draws that depend on (seed, round, peer, step, purpose) only."""
        return keys.normal(keys.fold(self.key, purpose), shape)

    def pair(self, a: int, b: int) -> int:
        """A key that two peers share. Raises CodecError where they cannot agree on one."""
        if self.agreed is not None:
            return self.agreed(a, b)
        shared = keys.fold(self.pairs, min(a, b), max(a, b))
        assert isinstance(shared, int)
        return shared


class Inbox:
    """What arrived at one peer: sender ids ``[M]``, weights ``[M]`` and messages."""

    def __init__(self, ids: tuple[int, ...], weights: Tensor, messages: Mapping[str, Tensor] | list[Message]) -> None:
        self.ids = ids
        self.weights = weights
        self._messages = messages

    @property
    def messages(self) -> list[Message]:
        """The messages, one a sender."""
        if isinstance(self._messages, list):
            return self._messages
        return [{name: value[i] for name, value in self._messages.items()} for i in range(len(self.weights))]

    @property
    def names(self) -> tuple[str, ...]:
        """Every name that somebody sent."""
        if isinstance(self._messages, list):
            return tuple(dict.fromkeys(name for m in self._messages for name in m))
        return tuple(self._messages)

    def stack(self, name: str) -> Tensor:
        """One name of all who sent it, ``[M, ...]``."""
        if isinstance(self._messages, list):
            return torch.stack([m[name] for m in self._messages if name in m])
        return self._messages[name]

    def shape(self, name: str) -> torch.Size:
        """The shape of one sender's tensor."""
        if isinstance(self._messages, list):
            return next(m[name].shape for m in self._messages if name in m)
        return self._messages[name].shape[1:]

    def columns(self, name: str, at: slice) -> Tensor:
        """Some of the flattened coordinates of a name, of all who sent it ``[M, c]``; unlike ``stack`` no more."""
        if isinstance(self._messages, list):
            return torch.stack([m[name].flatten()[at] for m in self._messages if name in m])
        return self._messages[name].flatten(1)[:, at]

    def weight(self, name: str) -> Tensor:
        """Weights of those who sent a name, ``[M]``."""
        if isinstance(self._messages, list):
            return torch.stack([w for w, m in zip(self.weights, self._messages, strict=True) if name in m])
        return self.weights
