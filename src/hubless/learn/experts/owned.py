"""Experts that have owners: where a row holds them, and a peer that trains the shared weights and its own alone.

The row is ``[before | expert 0 | expert 1 | ... | after]``, an expert being its weights in all blocks, so that the
experts of one peer are one slice of it, found by arithmetic on the peer's number.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from hubless.errors import ConfigError
from hubless.learn.context import Batch, Context, State
from hubless.learn.local import Adam

if TYPE_CHECKING:
    from hubless.learn.model import Model

SHARED, EXPERT = "shared", "expert."
INSIDE = re.compile(r"(?P<block>.*?)experts\.(?P<number>\d+)\.(?P<name>.+)")


def expert_groups(names: Iterable[str]) -> dict[str, list[str]]:
    """Groups of a row by parameter name: ``shared``, then ``expert.0``, ``expert.1``, ... each over all blocks.

    Raises ConfigError for a network without experts.
    """
    shared: list[str] = []
    experts: dict[int, list[str]] = {}
    for name in names:
        found = INSIDE.fullmatch(name)
        (experts.setdefault(int(found["number"]), []) if found else shared).append(name)
    if not experts:
        raise ConfigError("model: it has no experts; use moe, or name the parameters of an expert experts.NUMBER.NAME")
    return {SHARED: shared} | {f"{EXPERT}{number}": experts[number] for number in sorted(experts)}


@dataclass(frozen=True)
class Experts:
    """Where the rows of a model hold its experts.

    first:  floats before the first expert
    count:  experts; 0 for a model without any
    size:   floats of one expert
    blocks: of each block, an expert's weights there and its gate matrix, as slices of the expert
    """

    first: int
    count: int
    size: int
    blocks: tuple[tuple[slice, slice], ...]

    @classmethod
    def of(cls, model: Model) -> Experts:
        """Read from the model's groups. Raises ConfigError when its experts differ in size or order."""
        known: dict[str, Experts] = model.__dict__.setdefault("_experts", {})
        if "found" not in known:
            known["found"] = cls._read(model)
        return known["found"]

    @classmethod
    def _read(cls, model: Model) -> Experts:
        spans = [model.groups[name] for name in sorted(filter(_is_expert, model.groups), key=_number)]
        if not spans:
            return cls(model.size, 0, 0, ())
        first, size = spans[0].start, spans[0].stop - spans[0].start
        if spans != [slice(first + i * size, first + (i + 1) * size) for i in range(len(spans))]:
            raise ConfigError("model: the experts of a row must be alike and follow each other; freeze all or none")
        blocks: dict[str, list[slice]] = {}
        at = 0
        for name, count in zip(model.names, model.sizes, strict=True):
            found = INSIDE.fullmatch(name)
            if found and first <= at < first + size:
                here = slice(at - first, at - first + count)
                whole, gate = blocks.get(found["block"], [here, here])
                blocks[found["block"]] = [slice(whole.start, here.stop), here if found["name"] == "gate" else gate]
            at += count
        return cls(first, len(spans), size, tuple((whole, gate) for whole, gate in blocks.values()))

    def owner(self, name: str, nodes: int) -> int | None:
        """The peer that an expert's group belongs to; None for all other groups."""
        return _number(name) // (self.count // nodes) if _is_expert(name) and self.count else None

    def check(self, nodes: int) -> None:
        """Raise ConfigError when the experts cannot be shared out."""
        if not self.count or self.count % nodes:
            raise ConfigError(f"experts must divide evenly among nodes, but there are {self.count} for {nodes} peers")

    def trained(self, row: int, nodes: int) -> int:
        """Floats that one peer trains of a row of so many."""
        return row - self.count * self.size * (nodes - 1) // nodes

    def all(self, w: Tensor) -> Tensor:
        """A view of the experts of a row ``[D]``: ``[count, size]``."""
        return w[self.first : self.first + self.count * self.size].view(self.count, self.size)

    def take(self, w: Tensor, peer: int | Tensor, nodes: int) -> Tensor:
        """What a peer trains of a row ``[D]``, as one vector; ``peer`` may be mapped."""
        before, experts, after = self._split(w)
        shares = experts.reshape(nodes, -1)
        return torch.cat([before, shares.index_select(0, _place(peer, nodes, w)).flatten(), after])

    def put(self, w: Tensor, own: Tensor, peer: int | Tensor, nodes: int) -> Tensor:
        """The row ``[D]`` with what the peer trains replaced by ``own``."""
        _, experts, after = self._split(w)
        shares = experts.reshape(nodes, -1)
        new = own[self.first : len(own) - len(after)]
        mine = torch.arange(nodes, device=w.device)[:, None] == _place(peer, nodes, w)
        return torch.cat([own[: self.first], torch.where(mine, new, shares).flatten(), own[len(own) - len(after) :]])

    def _split(self, w: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        end = self.first + self.count * self.size
        return w[: self.first], w[self.first : end], w[end:]


def _is_expert(name: str) -> bool:
    return name.startswith(EXPERT)


def _number(name: str) -> int:
    return int(name.removeprefix(EXPERT))


def _place(peer: int | Tensor, nodes: int, w: Tensor) -> Tensor:
    at = torch.as_tensor(peer, device=w.device).reshape(1)
    return at if nodes > 1 else at * 0


@dataclass(frozen=True)
class ExpertAdam(Adam):
    """AdamW on what the peer trains: the shared weights and its own experts; other experts get neither step nor decay.

    Its moments are as long as that, ``adam.m`` and ``adam.v [T]``, stay with the peer and last from round to round.
    The gradient's norm is clipped over the same weights. The rate climbs for ``warmup`` steps and then falls to
    ``floor`` of its peak at step ``total``, counted over all rounds, also those that the peer missed.

    nodes: peers that share the experts; 1 lets every peer train all of them
    shape: how the rate falls
    """

    keep: bool = True
    nodes: int = 1
    warmup: int = 0
    total: int = 0
    floor: float = 0.1
    shape: Literal["linear", "cosine"] = "linear"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.steps is None or not self.keep:
            raise ConfigError("local: experts are trained a number of steps a round, and their moments are kept")
        if self.warmup < 0 or self.total <= self.warmup or not 0 <= self.floor <= 1:
            raise ConfigError(
                f"local: warmup = {self.warmup} must be below the {self.total} steps of the run, floor = {self.floor:g}"
                " between 0 and 1"
            )

    def init(self, model: Model) -> State:
        """Moments ``[T]`` and the step count."""
        experts = Experts.of(model)
        experts.check(self.nodes)
        return {**self.gradient.init(model), **self._zeros(experts.trained(model.size, self.nodes))}

    def begin(self, w: Tensor, s: State, ctx: Context) -> State:
        """Find the place in the schedule."""
        assert self.steps is not None
        return self.gradient.begin(w, {**s, "adam.step": w.new_full((), float((ctx.t - 1) * self.steps))}, ctx)

    def step(self, w: Tensor, s: State, batch: Batch, ctx: Context) -> tuple[Tensor, State]:
        """One step with bias-corrected moments."""
        experts = Experts.of(ctx.model)
        g, s = self.gradient(w, s, batch, ctx)
        g, own = (experts.take(one, ctx.peer, self.nodes) for one in (g, w))
        if self.clip:
            g = g * torch.clamp(self.clip / g.norm().clamp_min(1e-12), max=1.0)
        t = s["adam.t"] + 1
        m = self.beta1 * s["adam.m"] + (1 - self.beta1) * g
        v = self.beta2 * s["adam.v"] + (1 - self.beta2) * g * g
        mean, variance = m / (1 - self.beta1**t), v / (1 - self.beta2**t)
        rate = self.rate(ctx.t) * self.factor(s["adam.step"])
        own = own - rate * (mean / (variance.sqrt() + self.epsilon) + self.weight_decay * own)
        s = {**s, "adam.m": m, "adam.v": v, "adam.t": t, "adam.step": s["adam.step"] + 1}
        return experts.put(w, own, ctx.peer, self.nodes), s

    def factor(self, step: Tensor) -> Tensor:
        """Share of the peak rate at a step of the run, counted from 0."""
        done = ((step - self.warmup) / (self.total - self.warmup)).clamp(0, 1)
        fall = 1 - done if self.shape == "linear" else (1 + torch.cos(math.pi * done)) / 2
        return torch.minimum((step + 1) / max(1, self.warmup), self.floor + (1 - self.floor) * fall)

    def end(self, w: Tensor, s: State, ctx: Context) -> tuple[Tensor, State]:
        """Drop the place in the schedule."""
        s = self.gradient.end(w, s, ctx)
        return w, {name: value for name, value in s.items() if name != "adam.step"}
