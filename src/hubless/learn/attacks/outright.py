"""Attacks that replace what is said outright, wherever the round began: the model turned round, or noise.

Beside ``SignFlip`` and ``Noise``, which turn or replace the update. These are the attacks of Bristle's comparison
(arXiv 2110.11006), and cruder: peers that have learned for long send models far from all others.
"""

from __future__ import annotations

from dataclasses import dataclass

from hubless.errors import ConfigError
from hubless.learn.attacks.base import learned, share
from hubless.learn.context import Context, Message
from hubless.learn.plan import Book
from hubless.learn.slots import Attack
from hubless.parts import part


@dataclass(frozen=True)
class NegativeModel(Attack):
    """Hostile peers send ``-scale w``."""

    scale: float = 4.0

    def message(self, m: Message, honest: list[Message] | None, book: Book, ctx: Context) -> Message:
        """All parameters times ``-scale``; other tensors are left alone."""
        return {**m, **{name: -self.scale * m[name] for name in learned(m, ctx)}}


@dataclass(frozen=True)
class RandomModel(Attack):
    """Hostile peers send N(0, std^2) in place of every parameter."""

    std: float = 2.0

    def __post_init__(self) -> None:
        if not self.std > 0:
            raise ConfigError(f"attack.std = {self.std:g}: must be positive")

    def message(self, m: Message, honest: list[Message] | None, book: Book, ctx: Context) -> Message:
        """Noise in the shapes of the message; other tensors are left alone."""
        noise = {name: ctx.normal(f"random.{name}", tuple(m[name].shape)).to(m[name]) for name in learned(m, ctx)}
        return {**m, **{name: self.std * value for name, value in noise.items()}}


@part("attack", "negative-model")
def negative_model(peers: str = "20%", scale: float = 4.0) -> NegativeModel:
    """Hostile peers send their model with its sign turned, times a factor."""
    return NegativeModel(share(peers, "attack.peers"), scale)


@part("attack", "random-model")
def random_model(peers: str = "20%", std: float = 2.0) -> RandomModel:
    """Hostile peers send Gaussian noise in place of their model."""
    return RandomModel(share(peers, "attack.peers"), std)
