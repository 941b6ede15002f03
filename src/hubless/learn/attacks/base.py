"""Attacks: what hostile peers do instead."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from hubless.errors import ConfigError
from hubless.learn import keys
from hubless.learn.context import Context, Message
from hubless.learn.slots import Attack, Book
from hubless.parts import part


def share(text: str, where: str) -> float | tuple[int, ...]:
    """``20%`` or ``peer=3+7`` as a share or explicit ids."""
    try:
        if text.endswith("%"):
            share = float(text[:-1]) / 100
        elif "+" in text or text.isdigit():
            return tuple(int(item) for item in text.split("+"))
        else:
            share = float(text)
    except ValueError:
        raise ConfigError(f"{where} = {text!r}: give a share such as 20% or ids such as 3+7") from None
    if not 0 <= share < 1:
        raise ConfigError(f"{where} = {text!r}: a share of hostile peers must be in [0 %, 100 %)")
    return share


def hostile(attack: Attack | None, n: int, seed: int) -> list[int]:
    """Ids of the hostile peers: the explicit ones, or a random share that never includes peer 0.

    Peer 0 is spared because it holds the aggregator role of a star, which the learner under attack needs.
    Raises ConfigError for ids outside the population.
    """
    if attack is None:
        return []
    if isinstance(attack.peers, tuple):
        if wrong := [peer for peer in attack.peers if not 0 <= peer < n]:
            raise ConfigError(f"attack: peer {wrong[0]} does not exist; ids go from 0 to {n - 1}")
        return sorted(set(attack.peers))
    order: Tensor = keys.permutation(keys.fold(seed, "hostile"), n - 1) + 1
    return sorted(order[: round(attack.peers * n)].tolist())


@part("attack", "none")
def none() -> Attack | None:
    """Everyone is honest."""
    return None


@dataclass(frozen=True)
class SignFlip(Attack):
    """Hostile peers send their model reflected at where the round began, or their update with its sign turned.

    scale: how far they go the wrong way, as a multiple of their honest update
    """

    scale: float = 1.0

    def message(self, m: Message, honest: list[Message] | None, book: Book, ctx: Context) -> Message:
        """``start - scale (w - start)`` for models, ``-scale D`` for deltas; other tensors are left alone."""
        sent = dict(m)
        for name, part_ in ctx.model.groups.items():
            if name not in m:
                continue
            if ctx.kind == "delta":
                sent[name] = -self.scale * m[name]
            elif ctx.start is not None:
                start = ctx.start[part_]
                sent[name] = start - self.scale * (m[name] - start)
        return sent


@part("attack", "sign-flip")
def sign_flip(peers: str = "20%", scale: float = 1.0) -> SignFlip:
    """A share of the peers (or ids such as 3+7) sends its update with the sign turned."""
    return SignFlip(share(peers, "attack.peers"), scale)
