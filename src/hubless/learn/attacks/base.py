"""What attacks share: who is hostile, and a message seen as an update of where the round began."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from hubless.errors import ConfigError
from hubless.learn import keys
from hubless.learn.context import Context, Message
from hubless.learn.slots import Attack
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


def attackers(attack: Attack, n: int) -> int:
    """How many of n peers are hostile."""
    return len(attack.peers) if isinstance(attack.peers, tuple) else round(attack.peers * n)


def learned(m: Message, ctx: Context) -> list[str]:
    """Names in a message that attacks change: groups of parameters, and of predictions all.

    Statistics of batches and what else a merge sends beside them are left alone: peers refuse impossible ones.
    """
    if ctx.kind == "predictions":
        return [name for name, value in m.items() if value.is_floating_point()]
    return [name for name in m if name in ctx.model.groups]


def updated(m: Message, ctx: Context, change: Callable[[str, Tensor], Tensor]) -> Message:
    """The message with ``change(name, u)`` in place of every update u.

    The update is a delta itself, the difference of a model from where the round began, or predictions as they are.
    """
    sent = dict(m)
    for name in learned(m, ctx):
        if ctx.kind == "model" and ctx.start is not None:
            start = ctx.start[ctx.model.groups[name]]
            sent[name] = start + change(name, m[name] - start)
        else:
            sent[name] = change(name, m[name])
    return sent


@part("attack", "none")
def none() -> Attack | None:
    """Everyone is honest."""
    return None
