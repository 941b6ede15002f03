"""Attacks by peers who know what the honest ones send, and all send the same."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import NormalDist
from typing import ClassVar

import torch
from torch import Tensor

from hubless.errors import ConfigError
from hubless.learn.attacks.base import attackers, learned, share, updated
from hubless.learn.context import Context, Message
from hubless.learn.plan import Book
from hubless.learn.slots import Attack
from hubless.parts import part


def moments(honest: list[Message], name: str, like: Tensor) -> tuple[Tensor, Tensor] | None:
    """Mean and standard deviation (over all, not a sample's), value by value, of one name.

    Only messages that have it in the shape of ``like`` count; None when there are none.
    """
    seen = [m[name] for m in honest if name in m and m[name].shape == like.shape]
    if not seen:
        return None
    mean = torch.zeros_like(like)
    for value in seen:  # one after another: a stack of all of them may be larger than the population's rows
        mean.add_(value, alpha=1 / len(seen))
    variance = torch.zeros_like(like)
    for value in seen:
        gap = value - mean
        variance.addcmul_(gap, gap, value=1 / len(seen))
    return mean, variance.sqrt_()


def largest_z(n: int, m: int) -> float:
    """The z up to which ``mean - z std`` stays among the values that a majority of n peers vouch for, m being hostile.

    ``s = floor(n / 2 + 1) - m`` honest peers must lie farther out: ``z = inverse Phi((n - m - s) / (n - m))``
    (arXiv 1902.06156, algorithm 3). Few attackers have no such z above 0 (2 of 10); they get 0.
    """
    supporters = max(1, n // 2 + 1 - m)  # a hostile majority needs none
    within = (n - m - supporters) / max(1, n - m)
    return max(0.0, NormalDist().inv_cdf(within)) if within > 0 else 0.0


@dataclass(frozen=True)
class ALIE(Attack):
    """A little is enough: all send ``mean - z std`` of the honest messages, value by value (arXiv 1902.06156).

    Small enough to pass for one of the honest, it pulls medians, trimmed means and Krum along. Over gossip the mean and
    deviation are of all honest models of the exchange, whose distances from each other then hide the attack.

    z: standard deviations; None takes the largest that the source's formula allows for the whole population, which is
       next to nothing for few attackers (0 for 2 of 10, 0.16 for 4 of 20). The source's experiments take 1.5 on MNIST
       and 1 on CIFAR-10
    """

    z: float | None = None

    sees: ClassVar[str] = "honest"

    def message(self, m: Message, honest: list[Message] | None, book: Book, ctx: Context) -> Message:
        """``mean - z std`` of every name that some honest peer sends, too; other tensors are left alone."""
        z = largest_z(ctx.N, attackers(self, ctx.N)) if self.z is None else self.z
        sent = dict(m)
        for name in learned(m, ctx):
            if (found := moments(honest or [], name, m[name])) is not None:
                sent[name] = found[0] - z * found[1]
        return sent


@dataclass(frozen=True)
class IPM(Attack):
    """Inner-product manipulation: all send ``-eps`` times the mean of the honest updates (arXiv 1903.03936).

    The mean that a robust merge arrives at then points away from the descent, although small eps hide among the honest.
    Of models the update is taken from where the attacker's own round began: exactly the source's where all began at
    one model; over gossip the mean update plus how far the attacker was from the honest peers' mean.

    eps: small (0.1, as in arXiv 2202.01545) against merges that look for outliers, large against plain means
    """

    eps: float = 0.1

    sees: ClassVar[str] = "honest"

    def __post_init__(self) -> None:
        if not self.eps > 0:
            raise ConfigError(f"attack.eps = {self.eps:g}: must be positive")

    def message(self, m: Message, honest: list[Message] | None, book: Book, ctx: Context) -> Message:
        """``start - eps (mean - start)`` for models, ``-eps mean`` for deltas and predictions."""
        found = {name: moments(honest or [], name, m[name]) for name in learned(m, ctx)}
        means = {name: one[0] for name, one in found.items() if one is not None}
        return m | updated(means, ctx, lambda _, u: -self.eps * u)


@part("attack", "alie")
def alie(peers: str = "20%", z: float | None = None) -> ALIE:
    """All hostile peers send the honest mean minus z standard deviations; without z the source's formula."""
    return ALIE(share(peers, "attack.peers"), z)


@part("attack", "ipm")
def ipm(peers: str = "20%", eps: float = 0.1) -> IPM:
    """All hostile peers send -eps times the mean of the honest updates."""
    return IPM(share(peers, "attack.peers"), eps)
