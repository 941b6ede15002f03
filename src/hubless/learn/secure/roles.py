"""Secure aggregation by pairwise masks that outlives dropouts (Bonawitz et al., CCS 2017, arXiv 1611.04482, figure 4).

1. deal:   every sender u has two secrets, ``b`` (its self mask) and ``a`` (the key of its box). It gives Shamir shares
           of both to its helpers, sealed for one helper each, through the receiver. The box holds the seeds of the
           masks that u shares with its neighbours.
2. masked: ``y_u = x_u + PRG(b_u) + sum over neighbours v that dealt, v > u, of PRG(s_uv), minus those with v < u``,
           modulo a power of two.
3. answer: told who arrived, every sender that did gives its share of b for each peer that arrived, and of a for each
           that did not; never both of one peer.
4. unmask: t shares give b of those who arrived, and a of those who did not; a opens the box, so that the masks which
           the missing left behind come off. What is left is the sum of those who arrived.

In the source, the second secret is a private key of the key agreement, and the receiver computes the seeds with it.
Here key agreement belongs to the network: a part is given the keys that it shares with others, so seeds go in a box.
Secrecy is that of the source: against a receiver that follows the protocol and may work together with fewer than t
helpers of a sender. Wrong numbers from a hostile sender make a wrong sum, which nobody can see.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

import numpy as np

from hubless.errors import CodecError
from hubless.learn.secure import seeds, shamir
from hubless.learn.secure.group import Group
from hubless.learn.secure.seeds import Words

SEALED = 2 * shamir.SHARE + seeds.TAG  # bytes of a sealed pair of shares


@dataclass(frozen=True)
class Keys:
    """What one sender has: randomness that nobody else can predict, and the keys that it shares with others."""

    secret: int
    pair: Callable[[int, int], int]


@dataclass(frozen=True)
class Deal:
    """What a sender leaves with the receiver: a seed a neighbour under the key of its box, a sealed pair of shares."""

    box: Mapping[int, bytes]
    sealed: Mapping[int, bytes]


@dataclass(frozen=True)
class Field:
    """The integers modulo 2^bits: addition is a processor's own, and masks are uniform without rejection."""

    bits: int

    def add(self, one: Words, other: Words) -> Words:
        """Element by element."""
        return (one + other) & self._top

    def subtract(self, one: Words, other: Words) -> Words:
        """Element by element."""
        return (one - other) & self._top

    @property
    def _top(self) -> np.uint64:
        return np.uint64((1 << self.bits) - 1)


# senders


def deal(me: int, group: Group, keys: Keys) -> Deal:
    """Step 1. For a neighbour with whom the sender has no key there are zeros: they share no mask, and no secret."""
    others = group.neighbours(me)
    box, sealed = dict.fromkeys(others, bytes(seeds.SEED)), dict.fromkeys(others, bytes(SEALED))
    shares = _shares(me, others, group, keys)
    for v in others:
        try:
            shared, sealing = _shared(me, v, group, keys), _sealing(me, v, group, keys)
        except CodecError:
            continue
        box[v], sealed[v] = seeds.covered(shared, _box(group, keys), v), seeds.seal(sealing, shares[v])
    return Deal(box, sealed)


def masked(
    values: Mapping[str, Words], fields: Mapping[str, Field], me: int, group: Group, dealt: Collection[int], keys: Keys
) -> dict[str, Words]:
    """Step 2: the values under all masks of the sender; ``dealt`` are the senders whose deal the receiver has."""
    masks = [(_self(group, keys), 1)]
    masks += [(_shared(me, v, group, keys), 1 if v > me else -1) for v in group.neighbours(me) if v in dealt]
    return _masked(values, fields, masks)


def answer(
    me: int, group: Group, sealed: Mapping[int, bytes], arrived: Collection[int], keys: Keys
) -> dict[int, bytes]:
    """Step 3: one share a peer, where ``sealed`` are the shares that others sealed for this sender.

    Empty when the sum must not be revealed. Shares that are damaged are left out.
    """
    if group.refuses(arrived) or me not in arrived:
        return {}
    found = {me: _shares(me, (me,), group, keys)[me][: shamir.SHARE]}
    for peer, data in sealed.items():
        try:
            both = seeds.unseal(_sealing(peer, me, group, keys), data)
        except CodecError:
            continue
        found[peer] = both[: shamir.SHARE] if peer in arrived else both[shamir.SHARE :]
    return found


# the receiver


def unmask(
    total: Mapping[str, Words], fields: Mapping[str, Field], group: Group, deals: Mapping[int, Deal],
    answers: Mapping[int, Mapping[int, bytes]], arrived: Collection[int],
) -> dict[str, Words]:  # fmt: skip
    """Step 4: the sum of the values from that of the messages. Raises CodecError when too few shares are there."""
    if why := group.refuses(arrived):
        raise CodecError(f"secure sum: {why}")
    masks = [(_recovered(peer, group, answers), -1) for peer in sorted(arrived)]
    for peer in sorted(set(deals) - set(arrived)):
        left = [v for v in group.neighbours(peer) if v in arrived]
        if left:
            if bare := [v for v in left if not any(deals[peer].box[v])]:
                raise CodecError(f"secure sum: peer {peer} is missing and left no mask of peer {bare[0]}")
            key = _recovered(peer, group, answers)
            masks += [(seeds.covered(deals[peer].box[v], key, v), -1 if peer > v else 1) for v in left]
    return _masked(total, fields, masks)


def _masked(
    values: Mapping[str, Words], fields: Mapping[str, Field], masks: list[tuple[bytes, int]]
) -> dict[str, Words]:
    found = {}
    for name, value in values.items():
        field = fields[name]
        for seed, sign in masks:
            drawn = seeds.mask(seed, name, len(value), field.bits)
            value = field.add(value, drawn) if sign > 0 else field.subtract(value, drawn)
        found[name] = value
    return found


def _recovered(peer: int, group: Group, answers: Mapping[int, Mapping[int, bytes]]) -> bytes:
    helpers = group.helpers(peer)
    shares = {
        1 + place: int.from_bytes(answers[helper][peer], "little")
        for place, helper in enumerate(helpers)
        if peer in answers.get(helper, {})
    }
    secret = shamir.combine(shares, group.needed(len(helpers)))
    if secret >> (8 * seeds.SEED):
        raise CodecError("secure sum: shares of a secret do not fit together")
    return secret.to_bytes(seeds.SEED, "little")


# secrets of a sender, each for one inbox


def _self(group: Group, keys: Keys) -> bytes:
    return seeds.derive("self mask", keys.secret, group.inbox)


def _box(group: Group, keys: Keys) -> bytes:
    return seeds.derive("box", keys.secret, group.inbox)


def _shared(me: int, other: int, group: Group, keys: Keys) -> bytes:
    return seeds.derive("pair mask", keys.pair(me, other), group.inbox)


def _sealing(sender: int, helper: int, group: Group, keys: Keys) -> bytes:
    return seeds.derive("seal", keys.pair(sender, helper), group.inbox, sender)


def _shares(me: int, holders: tuple[int, ...], group: Group, keys: Keys) -> dict[int, bytes]:
    """For some helpers the share of the self mask's seed, then that of the box's key."""
    helpers = group.helpers(me)
    place = {helper: 1 + at for at, helper in enumerate(helpers)}
    found = dict.fromkeys(holders, b"")
    for purpose, secret in (("shares of self mask", _self(group, keys)), ("shares of box", _box(group, keys))):
        seed = seeds.derive(purpose, keys.secret, group.inbox)
        places = tuple(place[holder] for holder in holders)
        shares = shamir.split(int.from_bytes(secret, "little"), places, group.needed(len(helpers)), seed)
        for holder in holders:
            found[holder] += shares[place[holder]].to_bytes(shamir.SHARE, "little")
    return found
