"""Attacks around another: model replacement and Sybils lend their means to whatever attack they carry."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

from torch import Tensor

from hubless.errors import ConfigError
from hubless.learn.attacks.base import attackers, share, updated
from hubless.learn.context import Context, Message
from hubless.learn.merges import WeightedMean
from hubless.learn.plan import Book
from hubless.learn.slots import Attack, Reduce
from hubless.parts import make, part


@dataclass(frozen=True)
class Around(Attack):
    """Does what the inner attack does; subclasses add to it.

    inner: an attack; its own ``peers`` do not count
    """

    inner: Attack = field(default_factory=Attack)

    def __post_init__(self) -> None:
        own: dict[str, Any] = {"inner": replace(self.inner, peers=self.peers)}
        own |= {name: getattr(self.inner, name) for name in ("sees", "local")}
        for name, value in own.items():
            object.__setattr__(self, name, value)

    def check(self, classes: int, shape: tuple[int, ...]) -> None:
        """As the inner attack."""
        self.inner.check(classes, shape)

    def check_peer(self, peer: int, x: Tensor, y: Tensor) -> None:
        """As the inner attack."""
        self.inner.check_peer(peer, x, y)

    def fitted(self, classes: int) -> Attack:
        """With the inner attack fitted."""
        return replace(self, inner=self.inner.fitted(classes))

    def data(self, w: Tensor, x: Tensor, y: Tensor, book: Book, ctx: Context) -> tuple[Tensor, Tensor]:
        """As the inner attack."""
        return self.inner.data(w, x, y, book, ctx)

    def message(self, m: Message, honest: list[Message] | None, book: Book, ctx: Context) -> Message:
        """As the inner attack."""
        return self.inner.message(m, honest, book, ctx)

    def goal(self, x: Tensor, y: Tensor, book: Book) -> tuple[Tensor, Tensor] | None:
        """As the inner attack."""
        return self.inner.goal(x, y, book)


@dataclass(frozen=True)
class ModelReplacement(Around):
    """The malicious update is scaled so that it outweighs all others and their mean becomes its model.

    Source: arXiv 1807.00459, section 4.2: ``start + (n / eta) (w - start)``, where the aggregator takes a step of
    ``eta / n`` along every update. The honest updates are taken to cancel out, as they do near the end of training.

    scale: the factor; None takes peers / attackers, which replaces the mean where all train, weigh the same and the
           aggregator's step is 1. With samples of m peers give m, in gossip 1 / an edge's weight
    """

    scale: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.scale is not None and not self.scale > 0:
            raise ConfigError(f"attack.scale = {self.scale:g}: must be positive")

    def message(self, m: Message, honest: list[Message] | None, book: Book, ctx: Context) -> Message:
        """The inner attack's message, its update scaled."""
        scale = ctx.N / max(1, attackers(self, ctx.N)) if self.scale is None else self.scale
        return updated(self.inner.message(m, honest, book, ctx), ctx, lambda _, u: scale * u)


@dataclass(frozen=True)
class Sybil(Around):
    """All hostile peers are identities of ONE attacker, which runs the inner attack (arXiv 2306.15044).

    The first of them trains, on its own data; the others send what it sends. It averages what honest peers tell any of
    them. Edges to its identities are the topology's.
    """

    joint: ClassVar[bool] = True
    reduce: ClassVar[Reduce | None] = WeightedMean()


def _inner(name: str, peers: str, values: tuple[str, ...], named: dict[str, str]) -> Attack:
    """An attack by name, with values as one would write them behind it."""
    words = [name, peers, *values, *(f"{key}={value}" for key, value in named.items())]
    found: Attack | None = make("attack", ":".join(words if name != "none" else words[:1]), where="attack.inner")
    return found or Attack()


@part("attack", "model-replacement")
def model_replacement(
    peers: str = "20%", scale: float | None = None, inner: str = "label-flip", *values: str, **named: str
) -> ModelReplacement:
    """Another attack, with updates scaled so that they replace the mean: model-replacement:3:10:label-flip:pair=0-1."""
    return ModelReplacement(share(peers, "attack.peers"), _inner(inner, peers, values, named), scale)


@part("attack", "sybil")
def sybil(peers: str = "20%", inner: str = "label-flip", *values: str, **named: str) -> Sybil:
    """Another attack by one attacker under many identities: sybil:3+4+5:label-flip:pair=0-1."""
    return Sybil(share(peers, "attack.peers"), _inner(inner, peers, values, named))
