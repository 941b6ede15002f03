"""A codec: stages in order, then a packer."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

from hubless.errors import ConfigError
from hubless.learn import keys
from hubless.learn.codecs.raw import Raw
from hubless.learn.context import Context, Message, State
from hubless.learn.slots import Packer, Stage
from hubless.parts import joins, part


@dataclass(frozen=True)
class Codec:
    """Stages in order, then a packer; each stage sees the messages of the kind it wants."""

    stages: tuple[Stage, ...] = ()
    packer: Packer = field(default_factory=Raw)

    def __post_init__(self) -> None:
        for place, stage in enumerate(self.stages):
            stage.follows(self.stages[:place])

    @property
    def plain(self) -> bool:
        """Whether messages pass unchanged, so that only their length matters."""
        return not self.stages and type(self.packer) is Raw

    def check(self, kinds: dict[str, str], merge: str) -> None:
        """Raise ConfigError when a stage wants a kind of message that the merge never sends."""
        for place, stage in enumerate(self.stages):
            known = {self._kinds(kind)[place] for kind in kinds.values()}
            if stage.wants and stage.wants not in known:
                raise ConfigError(
                    f"codec: {type(stage).__name__} takes a {stage.wants}, but merge {merge} sends {kinds};"
                    " put the stage delta before it, or use merge=ServerOpt() or another codec"
                )

    @property
    def hides(self) -> bool:
        """Whether single messages mean nothing."""
        return any(stage.hides for stage in self.stages)

    @property
    def remembers(self) -> bool:
        """Whether receivers must keep something of every sender."""
        return any(stage.remembers for stage in self.stages)

    def _kinds(self, kind: str) -> list[str]:
        """What kind of message each stage sees."""
        found = []
        for stage in self.stages:
            found.append(kind)
            if stage.wants in (None, kind):
                kind = stage.gives or kind
        return found

    def _steps(self, ctx: Context) -> list[tuple[Stage, Context]]:
        """Stages that apply to messages of this kind, each with a context of its own."""
        kinds = self._kinds(ctx.kind)
        return [
            (stage, _at(place, replace(ctx, kind=kind)))
            for place, (stage, kind) in enumerate(zip(self.stages, kinds, strict=True))
            if stage.wants in (None, kind)
        ]

    def forward(self, m: Message, s: State, ctx: Context) -> tuple[Message, State]:
        """The message after all stages but the packer, and the sender's state."""
        for stage, own in self._steps(ctx):
            m, s = stage.forward(m, s, own)
        return m, s

    def inverse(self, m: Message, count: int, ctx: Context) -> Message:
        """Back through all stages: one message, or the mean of ``count`` from their sum. Raises CodecError."""
        for stage, own in reversed(self._steps(ctx)):
            m = stage.inverse(m, count, own)
        return m

    def encode(self, m: Message, s: State, ctx: Context) -> tuple[bytes, State]:
        """The message as bytes, and the sender's state."""
        m, s = self.forward(m, s, ctx)
        return self.packer.pack(m), s

    def decode(self, data: bytes, ctx: Context) -> Message:
        """The message as the receiver sees it. Raises CodecError."""
        return self.inverse(self.packer.unpack(data), 1, ctx)

    def length(self, m: Message) -> int:
        """Bytes of a message that passes unchanged."""
        return self.packer.length(m)


def _at(place: int, ctx: Context) -> Context:
    """Two stages of one kind must not draw the same noise."""
    fresh: dict[str, Any] = {name: keys.fold(getattr(ctx, name), "stage", place) for name in ("key", "secret", "pairs")}
    return replace(ctx, **fresh)


@part("codec", "raw")
def raw() -> Codec:
    """Tensors as they are: 4 bytes a parameter."""
    return Codec()


class Around(Stage):
    """A stage that takes the stages behind it into itself."""

    def around(self, stages: tuple[Stage, ...]) -> Stage:
        """Itself with the stages inside, behind those that it has. Raises ConfigError for what it cannot take in."""
        raise NotImplementedError


def _nested(stages: tuple[Stage, ...]) -> tuple[Stage, ...]:
    """The stages, with what follows an ``Around`` inside it, up to where messages are hidden."""
    for place, stage in enumerate(stages):
        if isinstance(stage, Around):
            hidden = (at for at in range(place + 1, len(stages)) if stages[at].hides)
            end = next(hidden, len(stages))
            return (*stages[:place], stage.around(stages[place + 1 : end]), *stages[end:])
    return stages


@joins("codec")
def join(*codecs: Codec) -> Codec:
    """One pipeline of several; the packer is the last one that is not ``Raw``.

    Before a stage that hides, integers are left as they are: it sums them, and packs what it makes of them itself.
    """
    from hubless.learn.codecs.bits import BitPack

    every = [stage for codec in codecs for stage in codec.stages]
    hidden = any(stage.hides for stage in every)
    stages = _nested(tuple(stage for stage in every if not (hidden and isinstance(stage, BitPack))))
    packers = [codec.packer for codec in codecs if type(codec.packer) is not Raw]
    if len(packers) > 1:
        names = " and ".join(type(packer).__name__ for packer in packers)
        raise ConfigError(f"codec: {names} both make the bytes; keep one of them")
    return Codec(stages, packers[0] if packers else Raw())
