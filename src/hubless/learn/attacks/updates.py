"""Attacks on one's own update: turned, scaled, or replaced by noise."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from hubless.errors import ConfigError
from hubless.learn.attacks.base import share, updated
from hubless.learn.context import Context, Message
from hubless.learn.plan import Book
from hubless.learn.slots import Attack
from hubless.parts import part


@dataclass(frozen=True)
class Scaling(Attack):
    """The update is multiplied: ``start + factor (w - start)`` for models, ``factor D`` for deltas.

    factor: above 1 the peer drowns the others; negative ones are ``SignFlip``
    """

    factor: float = 10.0

    def message(self, m: Message, honest: list[Message] | None, book: Book, ctx: Context) -> Message:
        """The update times the factor; statistics of batches are left alone."""
        return updated(m, ctx, lambda _, u: self.factor * u)


@dataclass(frozen=True)
class SignFlip(Attack):
    """Hostile peers send their model reflected at where the round began, or their update with its sign turned.

    scale: how far they go the wrong way, as a multiple of their honest update
    """

    scale: float = 1.0

    def message(self, m: Message, honest: list[Message] | None, book: Book, ctx: Context) -> Message:
        """``start - scale (w - start)`` for models, ``-scale D`` for deltas; other tensors are left alone."""
        return updated(m, ctx, lambda _, u: -self.scale * u)


@dataclass(frozen=True)
class Noise(Attack):
    """The update is replaced by Gaussian noise, as Byzantine workers do in the experiments of Krum.

    Source: arXiv 1703.02757, section 5: gradients drawn from a Gaussian of mean 0 and standard deviation 200. With
    ``added`` the noise comes on top of the honest update instead.

    std: standard deviation of each value of the update
    """

    std: float = 1.0
    added: bool = False

    def __post_init__(self) -> None:
        if not self.std > 0:
            raise ConfigError(f"attack.std = {self.std:g}: must be positive")

    def message(self, m: Message, honest: list[Message] | None, book: Book, ctx: Context) -> Message:
        """``start + noise`` for models, ``noise`` for deltas and predictions; with ``added`` plus the honest update."""

        def noise(name: str, u: Tensor) -> Tensor:
            drawn = self.std * ctx.normal(f"noise.{name}", tuple(u.shape)).to(u)
            return u + drawn if self.added else drawn

        return updated(m, ctx, noise)


@part("attack", "sign-flip")
def sign_flip(peers: str = "20%", scale: float = 1.0) -> SignFlip:
    """A share of the peers (or ids such as 3+7) sends its update with the sign turned."""
    return SignFlip(share(peers, "attack.peers"), scale)


@part("attack", "scaling")
def scaling(peers: str = "20%", factor: float = 10.0) -> Scaling:
    """Hostile peers send their update times a factor."""
    return Scaling(share(peers, "attack.peers"), factor)


@part("attack", "noise")
def noise(peers: str = "20%", std: float = 1.0, added: bool = False) -> Noise:
    """Hostile peers send Gaussian noise in place of their update, or added to it."""
    return Noise(share(peers, "attack.peers"), std, added)
