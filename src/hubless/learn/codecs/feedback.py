"""Error feedback: what a codec left out of one update is added to the next."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import ClassVar

import torch
from torch import Tensor

from hubless.errors import ConfigError
from hubless.learn.codecs.layers import spot
from hubless.learn.codecs.pipeline import Around, Codec
from hubless.learn.context import Context, Message, State
from hubless.learn.model import Model
from hubless.learn.slots import Mechanism, Stage
from hubless.parts import part

RESIDUAL = "residual"


@dataclass(frozen=True)
class ErrorFeedback(Around):
    """The sender keeps ``residual = update - decode(encode(update))`` and adds it to its next update (1901.09847).

    inner: the stages whose error is made good: all behind it in a pipeline

    The residual is kept whether or not the message arrives: a sender does not hear of losses.
    """

    inner: Codec = field(default_factory=Codec)

    wants: ClassVar[str | None] = "delta"
    vectorised: ClassVar[bool] = False

    @property
    def sums(self) -> bool:  # type: ignore[override]
        """Whether all inner stages do."""
        return bool(self.inner.stages) and all(stage.sums for stage in self.inner.stages)

    def mechanism(self) -> Mechanism | None:
        """That of the inner stages: what is said beside the update is made of what was said before."""
        found = [made for stage in self.inner.stages if (made := stage.mechanism()) is not None]
        return (lambda alpha: sum(one(alpha) for one in found)) if found else None

    def around(self, stages: tuple[Stage, ...]) -> ErrorFeedback:
        """With more stages inside. Raises ConfigError for a second error feedback, and for stages with memory."""
        for stage in stages:
            if isinstance(stage, ErrorFeedback):
                raise ConfigError("codec: error-feedback comes twice; keep the first")
            if stage.remembers:
                raise ConfigError(f"codec: error-feedback stands before {type(stage).__name__}; put it behind")
        return replace(self, inner=replace(self.inner, stages=self.inner.stages + stages))

    def init(self, model: Model) -> State:
        """The residual ``[D]``, and what the inner stages keep."""
        found: State = {RESIDUAL: torch.zeros(model.size)}
        for stage in self.inner.stages:
            found |= stage.init(model)
        return found

    def forward(self, m: Message, s: State, ctx: Context) -> tuple[Message, State]:
        """The update with the residual through the inner stages; the new residual is what they lost."""
        kept, owed = s[RESIDUAL], {}
        said = dict(m)
        for name, value in m.items():
            where = spot(ctx.model, name)
            if where is not None and value.numel() == where.stop - where.start and value.is_floating_point():
                owed[name] = where
                said[name] = value + kept[where].reshape(value.shape)
        coded, s = self.inner.forward(said, s, ctx)
        heard = self.inner.inverse(coded, 1, ctx)
        left, wanted, given = kept.clone(), _row(said, kept, ctx), _row(heard, kept, ctx)
        for where in owed.values():
            left[where] = wanted[where] - given[where]
        return coded, {**s, RESIDUAL: left}

    def inverse(self, m: Message, count: int, ctx: Context) -> Message:
        """Back through the inner stages."""
        return self.inner.inverse(m, count, ctx)


def _row(m: Message, like: Tensor, ctx: Context) -> Tensor:
    """What a message says of the row ``[D]``, by whatever names: the inner stages may split and join groups."""
    row = torch.zeros_like(like)
    for name, value in m.items():
        where = spot(ctx.model, name)
        if where is not None and value.numel() == where.stop - where.start:
            row[where] = value.reshape(-1).to(row)
    return row


@part("codec", "error-feedback")
def error_feedback() -> Codec:
    """What the stages behind it leave out of an update is added to the next one."""
    return Codec((ErrorFeedback(),))
