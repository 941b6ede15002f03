"""Models as differences to the model before: a sender and its receivers remember what was said last."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from hubless.errors import CodecError, ConfigError
from hubless.learn import keys
from hubless.learn.codecs.feedback import ErrorFeedback
from hubless.learn.codecs.pipeline import Around, Codec
from hubless.learn.context import Context, Message, State
from hubless.learn.model import Model
from hubless.learn.slots import Stage
from hubless.parts import part

FRAME = "frame"  # in a message: its number, and 1 where it is a difference to the one before
ROW, NUMBER, SINCE, HEARERS = "delta.row", "delta.number", "delta.since", "delta.hearers"
ALONE = -1  # the number of a message that belongs to no sequence


@dataclass(frozen=True)
class Delta(Around):
    """A model becomes its difference to the last one that this sender sent, as receivers decoded it.

    So what the stages behind it leave out of one message is in the next difference, as with error feedback, and nothing
    drifts. Every ``keyframe``-th message is the model itself, which those stages do not see; so is one to other
    receivers than the last, who have nothing to add a difference to: sequences pay where peers keep sending to the same
    ones. A receiver that missed a message refuses all until the next key frame. Parameters and floating-point
    buffers become differences, other tensors pass.

    keyframe: messages from one key frame to the next
    inner:    the stages that see the difference
    """

    keyframe: int = 10
    inner: Codec = field(default_factory=Codec)

    wants: ClassVar[str | None] = "model"
    gives: ClassVar[str | None] = "delta"
    remembers: ClassVar[bool] = True
    vectorised: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if self.keyframe < 1:
            raise ConfigError(f"delta.keyframe = {self.keyframe}: must be at least 1")

    def around(self, stages: tuple[Stage, ...]) -> Delta:
        """With more stages inside. Raises ConfigError for a second delta, and for error feedback: delta has its own."""
        for stage in stages:
            if isinstance(stage, Delta):
                raise ConfigError("codec: delta comes twice; keep the first")
            if isinstance(stage, ErrorFeedback):
                raise ConfigError("codec: what is left out comes with the next delta anyway; drop error-feedback")
        return replace(self, inner=replace(self.inner, stages=self.inner.stages + stages))

    def init(self, model: Model) -> State:
        """What was said last: row ``[D]`` and buffers, its number, messages since the key frame, and for whom."""
        zero = torch.zeros((), dtype=torch.int64)
        found: State = {ROW: torch.zeros(model.size), NUMBER: zero - 1, SINCE: zero, HEARERS: zero}
        found |= {_kept(name): torch.zeros_like(v) for name, v in model.buffers.items() if v.is_floating_point()}
        for stage in self.inner.stages:
            found |= stage.init(model)
        return found

    def forward(self, m: Message, s: State, ctx: Context) -> tuple[Message, State]:
        """The difference through the inner stages, or the model; beside it ``FRAME``, int64 ``[2]``."""
        if not ctx.receivers:  # nobody but itself
            return {**m, FRAME: torch.tensor([ALONE, 0])}, s
        hearers = keys.word(" ".join(map(str, sorted(ctx.receivers))))
        number, since = int(s[NUMBER]) + 1, int(s[SINCE]) + 1
        if number == 0 or since >= self.keyframe or int(s[HEARERS]) != hearers:
            said, last, since = m, _known(m, ctx.model), 0
        else:
            inside, before = replace(ctx, kind="delta"), _last(m, s, ctx.model)
            change = {**m, **{name: m[name] - value for name, value in before.items()}}
            said, s = self.inner.forward(change, s, inside)
            last = _sums(before, self.inner.inverse(said, 1, inside))
        place = {NUMBER: number, SINCE: since, HEARERS: hearers}
        s = {**s, **{name: torch.full_like(s[name], value) for name, value in place.items()}}
        s[ROW] = ctx.model.paste(s[ROW], last)
        s |= {_kept(name): value for name, value in last.items() if name in ctx.model.buffers}
        return {**said, FRAME: torch.tensor([number, int(since > 0)])}, s

    def inverse(self, m: Message, count: int, ctx: Context) -> Message:
        """The model, from ``ctx.memory`` and the difference. Raises CodecError where the message before is missing."""
        number, changes = _frame(m)
        said = {name: value for name, value in m.items() if name != FRAME}
        if not changes:
            if number != ALONE:
                ctx.memory.update(number=number, last=_known(said, ctx.model))
            return said
        if ctx.memory.get("number") != number - 1:
            raise CodecError("delta: the message before it is missing")
        said = self.inner.inverse(said, count, replace(ctx, kind="delta"))
        last = _sums(ctx.memory["last"], said)
        ctx.memory.update(number=number, last=last)
        return {**said, **last}


def _kept(buffer: str) -> str:
    return f"delta.{buffer}"


def _known(m: Message, model: Model) -> Message:
    """The tensors of which differences are sent."""
    shapes: dict[str, tuple[int, ...]] = {name: (at.stop - at.start,) for name, at in model.groups.items()}
    shapes |= {name: tuple(value.shape) for name, value in model.buffers.items() if value.is_floating_point()}
    return {name: v for name, v in m.items() if v.is_floating_point() and shapes.get(name) == tuple(v.shape)}


def _last(m: Message, s: State, model: Model) -> Message:
    """What was said of them last."""
    return {name: s[ROW][model.groups[name]] if name in model.groups else s[_kept(name)] for name in _known(m, model)}


def _sums(last: Message, change: Message) -> Message:
    """Raises CodecError for differences that do not fit."""
    for name, value in last.items():
        if name not in change or change[name].shape != value.shape or not change[name].is_floating_point():
            raise CodecError(f"delta: {name} is missing or does not fit the message before")
    return {name: value + change[name] for name, value in last.items()}


def _frame(m: Message) -> tuple[int, bool]:
    frame: Tensor | None = m.get(FRAME)
    if frame is None or frame.dtype != torch.int64 or frame.shape != (2,):
        raise CodecError("delta: no number")
    number, changes = frame.tolist()
    if changes not in (0, 1) or number < ALONE + changes:
        raise CodecError("delta: a number that nobody sends")
    return number, bool(changes)


@part("codec", "delta")
def delta(keyframe: Annotated[int, Field(ge=1)] = 10) -> Codec:
    """Models as differences to the last one sent, coded by the stages behind it; whole every ``keyframe`` messages."""
    return Codec((Delta(keyframe),))
