"""Peers that contribute nothing: free riders send back what they got, others what they sent long ago."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from hubless.errors import ConfigError
from hubless.learn.attacks.base import share, updated
from hubless.learn.context import Batch, Context, Message, State
from hubless.learn.plan import Book
from hubless.learn.slots import Attack, Local
from hubless.parts import part


@dataclass(frozen=True)
class Still(Local):
    """No training: the model stays as it was received. Two samples are looked at, only to have a training loss."""

    batch: int = 2  # BatchNorm has no statistics of one
    steps: int | None = 1
    epochs: int | None = None

    def rate(self, t: int) -> float:
        """Nothing is learned."""
        return 0.0

    def step(self, w: Tensor, s: State, batch: Batch, ctx: Context) -> tuple[Tensor, State]:
        """Everything stays."""
        ctx.grad(w, s, batch)
        return w, s


@dataclass(frozen=True)
class FreeRider(Attack):
    """Hostile peers do not train: they send the model that they received, or an update of nothing.

    The plain and, with noise, the disguised free rider of arXiv 2006.11901, sections 3.2 and 3.3; free riding was
    first studied in arXiv 1911.12560, whose delta-weights attack sends the last change of the common model instead.

    noise: standard deviation of the noise added to every value, so that the update does not look empty
    """

    noise: float = 0.0

    local: ClassVar[Local | None] = Still()

    def __post_init__(self) -> None:
        if not self.noise >= 0:
            raise ConfigError(f"attack.noise = {self.noise:g}: must not be negative")

    def message(self, m: Message, honest: list[Message] | None, book: Book, ctx: Context) -> Message:
        """What it holds, with noise."""
        if not self.noise:
            return m
        return updated(m, ctx, lambda name, u: u + self.noise * ctx.normal(f"noise.{name}", tuple(u.shape)).to(u))


@dataclass(frozen=True)
class Replay(Attack):
    """Hostile peers train, but send what they said ``rounds`` rounds ago in the same exchange, to the same receiver.

    In the first rounds they send the oldest message that they have; names that it lacks are sent fresh. The book holds
    the messages since then, ``rounds + 1`` at most.
    """

    rounds: int = 5

    def __post_init__(self) -> None:
        if self.rounds < 1:
            raise ConfigError(f"attack.rounds = {self.rounds}: must be at least 1")

    def message(self, m: Message, honest: list[Message] | None, book: Book, ctx: Context) -> Message:
        """An old message, name by name."""
        where = f"{ctx.phase} {ctx.k} {ctx.to}"
        said: dict[int, Message] = book.setdefault("said", {}).setdefault(where, {})
        said[ctx.t] = {name: value.clone() for name, value in m.items()}
        then = max((t for t in said if t <= ctx.t - self.rounds), default=min(said))
        for t in [t for t in said if t < then]:
            del said[t]
        old = said[then]
        return {name: old[name] if name in old and old[name].shape == m[name].shape else m[name] for name in m}


@part("attack", "free-rider")
def free_rider(peers: str = "20%", noise: float = 0.0) -> FreeRider:
    """Hostile peers send back what they received, with noise if asked."""
    return FreeRider(share(peers, "attack.peers"), noise)


@part("attack", "replay")
def replay(peers: str = "20%", rounds: int = 5) -> Replay:
    """Hostile peers send what they said so many rounds ago."""
    return Replay(share(peers, "attack.peers"), rounds)
