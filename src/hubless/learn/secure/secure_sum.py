"""The stage ``secure-sum``: messages of which the receiver learns only the sum."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field as Bounds
from torch import Tensor

from hubless.errors import CodecError, ConfigError
from hubless.learn.codecs import Codec
from hubless.learn.codecs.bits import packed, unpacked
from hubless.learn.codecs.layout import Reader, array, head, tensor
from hubless.learn.codecs.naming import of_row
from hubless.learn.context import Context, Message, State
from hubless.learn.secure import roles, seeds, shamir
from hubless.learn.secure.fixed_point import FACTS, FixedPoint
from hubless.learn.secure.group import Group
from hubless.learn.secure.hiding import Hiding
from hubless.learn.secure.roles import SEALED, Deal, Field, Keys
from hubless.learn.slots import Stage
from hubless.parts import part

MASKED = "/masked"


@dataclass(frozen=True)
class SecureSum(Hiding):
    """Secure aggregation (``hubless.learn.secure.roles``) of integers, and of floats as fixed-point numbers.

    Integers of the stages before it must lie in [0, 2^bits / senders). Keys come from ``ctx.pair``, on which peers
    agree through the network, and from ``ctx.secret``.

    threshold:  more than this share of the senders must arrive
    neighbours: with how many others a sender shares masks; 0 means all
    bits:       of a parameter on the wire; sums are taken modulo 2^bits
    range:      largest magnitude of a parameter, where parameters are floats
    """

    threshold: float = 0.5
    neighbours: int = 0
    bits: int = 32
    range: float = 8.0

    def __post_init__(self) -> None:
        if not 0 <= self.threshold <= 1:
            raise ConfigError(f"secure-sum.threshold = {self.threshold:g}: must be in [0, 1]")
        if self.neighbours < 0 or self.neighbours % 2:
            raise ConfigError(f"secure-sum.neighbours = {self.neighbours}: must be even, or 0 for all")
        if not 2 <= self.bits <= FACTS:
            raise ConfigError(f"secure-sum.bits = {self.bits}: must be from 2 to {FACTS}")
        if not 0 < self.range < math.inf:
            raise ConfigError(f"secure-sum.range = {self.range:g}: must be positive")

    @cached_property
    def floats(self) -> FixedPoint:
        """How floats become integers of which no sum overflows."""
        return FixedPoint(self.bits, self.range)

    def check(self, senders: int, before: Sequence[Stage]) -> None:
        """Raise ConfigError for integers whose sum would not fit."""
        largest = [outcomes - 1 for stage in before if (outcomes := getattr(stage, "outcomes", 0))]
        widest = max((stage.bits for stage in before if isinstance(stage, FixedPoint)), default=0)
        need = max(widest, *((senders * most).bit_length() for most in largest or [2]))
        if need > self.bits:
            raise ConfigError(f"codec: secure-sum.bits = {self.bits}: the sum of {senders} senders needs {need} bits")

    def _group(self, ctx: Context) -> Group:
        assert isinstance(ctx.peer, int)
        inbox = ctx.peer if ctx.to is None else ctx.to
        return Group(ctx.group or (ctx.peer,), inbox, self.threshold, self.neighbours, (ctx.t, ctx.k))

    def _field(self, name: str, ctx: Context) -> Field:
        return Field(self.bits if of_row(name, ctx) else FACTS)

    def deal(self, ctx: Context) -> Message:
        """``box [k, 16]`` and ``sealed [k, 50]`` bytes, a row a neighbour."""
        made = roles.deal(_me(ctx), self._group(ctx), _keys(ctx))
        return {"box": _rows(made.box.values(), seeds.SEED), "sealed": _rows(made.sealed.values(), SEALED)}

    def accept_deal(self, peer: int, m: Message, ctx: Context) -> None:
        """Both tables have a row a neighbour."""
        _dealt(m, self._group(ctx).neighbours(peer))

    def accept_answer(self, m: Message, ctx: Context) -> None:
        """A share an owner."""
        _by_owner(m, "shares", shamir.SHARE)

    def forward(self, m: Message, s: State, ctx: Context) -> tuple[Message, State]:
        """``NAME`` becomes ``NAME/masked``: type and shape, then the masked numbers, packed.

        Raises CodecError for numbers whose sum might not fit.
        """
        m, s = self.floats.forward(m, s, ctx)
        fields = {name: self._field(name, ctx) for name in m}
        values = {name: _words(name, value, fields[name], len(ctx.group)) for name, value in m.items()}
        said = roles.masked(values, fields, _me(ctx), self._group(ctx), ctx.senders, _keys(ctx))
        return {name + MASKED: _packed(said[name], value, fields[name]) for name, value in m.items()}, s

    def relay(self, peer: int, deals: Mapping[int, Message], ctx: Context) -> Message:
        """``arrived``, and from ``owners`` what they sealed for the peer."""
        group = self._group(ctx)
        owners = [other for other in group.neighbours(peer) if other in deals]
        rows = []
        for other in owners:
            others = group.neighbours(other)
            rows.append(_table(deals[other], "sealed", SEALED, len(others))[others.index(peer)].tobytes())
        return {"arrived": _ids(ctx.senders), "owners": _ids(owners), "sealed": _rows(rows, SEALED)}

    def answer(self, told: Message, ctx: Context) -> Message:
        """``owners`` and ``shares [., 17]``; none when the sum must not be revealed."""
        group, arrived = self._group(ctx), _peers(told, "arrived")
        sealed = _by_owner(told, "sealed", SEALED)
        found = roles.answer(_me(ctx), group, sealed, arrived, _keys(ctx))
        return {"owners": _ids(found), "shares": _rows(found.values(), shamir.SHARE)}

    def total(
        self,
        messages: Mapping[int, Message],
        deals: Mapping[int, Message],
        answers: Mapping[int, Message],
        ctx: Context,
    ) -> Message:
        """Integers, int64, by the names that they had before ``forward``."""
        group, like = self._group(ctx), next(iter(messages.values()))
        names = [name.removesuffix(MASKED) for name in like]
        fields = {name: self._field(name, ctx) for name in names}
        sums: dict[str, seeds.Words] = {}
        shapes: dict[str, tuple[int, ...]] = {}
        for m in messages.values():
            for name in names:
                words, shapes[name] = _unpacked(name, m[name + MASKED], fields[name])
                sums[name] = fields[name].add(sums[name], words) if name in sums else words
        dealt = {peer: _dealt(m, group.neighbours(peer)) for peer, m in deals.items()}
        shares = {peer: _by_owner(m, "shares", shamir.SHARE) for peer, m in answers.items()}
        bare = roles.unmask(sums, fields, group, dealt, shares, ctx.senders)
        return {name: tensor(words.astype(np.int64), torch.int64, shapes[name]) for name, words in bare.items()}

    def inverse(self, m: Message, count: int, ctx: Context) -> Message:
        """The mean of floats and facts; integers are left to the stages that made them. Raises CodecError."""
        if any(name.endswith(MASKED) for name in m):
            raise CodecError("secure sum: one message alone means nothing")
        m = self.floats.inverse(m, count, ctx)
        return {n: v if of_row(n, ctx) or v.is_floating_point() else (v / count).float() for n, v in m.items()}


def _me(ctx: Context) -> int:
    assert isinstance(ctx.peer, int)
    return ctx.peer


def _keys(ctx: Context) -> Keys:
    assert isinstance(ctx.secret, int)
    return Keys(ctx.secret, ctx.pair)


def _words(name: str, value: Tensor, field: Field, senders: int) -> seeds.Words:
    values = array(value).reshape(-1)
    if len(values) and not 0 <= int(values.min()) <= int(values.max()) < math.ceil((1 << field.bits) / max(1, senders)):
        raise CodecError(
            f"secure sum: {name} holds {values.min()} to {values.max()}, which {field.bits} bits do not sum"
        )
    words: seeds.Words = values.astype(np.uint64)
    return words


def _packed(words: seeds.Words, like: Tensor, field: Field) -> Tensor:
    front = np.frombuffer(head(torch.int64, tuple(like.shape)), np.uint8)
    return torch.from_numpy(np.concatenate([front, packed(words, field.bits)]))


def _unpacked(name: str, value: Tensor, field: Field) -> tuple[seeds.Words, tuple[int, ...]]:
    reader = Reader(array(value))
    dtype, shape = reader.head()
    if dtype != torch.int64:
        raise CodecError(f"secure sum: {name} is {dtype}")
    return unpacked(reader.take(reader.left), field.bits, math.prod(shape)), shape


def _rows(rows: Iterable[bytes], width: int) -> Tensor:
    data = np.frombuffer(b"".join(rows), np.uint8)
    return torch.from_numpy(data.reshape(-1, width).copy())


def _ids(peers: Iterable[int]) -> Tensor:
    return torch.tensor(list(peers), dtype=torch.int32)


def _table(m: Message, name: str, width: int, count: int) -> NDArray[np.uint8]:
    rows = m.get(name)
    if rows is None or rows.dtype != torch.uint8 or rows.shape != (count, width):
        raise CodecError(f"secure sum: {name} must be {count} rows of {width} bytes")
    return array(rows)


def _dealt(m: Message, others: tuple[int, ...]) -> Deal:
    box, sealed = (_table(m, name, width, len(others)) for name, width in (("box", seeds.SEED), ("sealed", SEALED)))
    return Deal(
        {peer: row.tobytes() for peer, row in zip(others, box, strict=True)},
        {peer: row.tobytes() for peer, row in zip(others, sealed, strict=True)},
    )


def _peers(m: Message, name: str) -> list[int]:
    ids = m.get(name)
    if ids is None or ids.dtype != torch.int32 or ids.dim() != 1:
        raise CodecError(f"secure sum: {name} must be ids of peers")
    return [int(peer) for peer in ids]


def _by_owner(m: Message, name: str, width: int) -> dict[int, bytes]:
    owners = _peers(m, "owners")
    return dict(zip(owners, (row.tobytes() for row in _table(m, name, width, len(owners))), strict=True))


@part("codec", "secure-sum")
def secure_sum(
    threshold: Annotated[float, Bounds(ge=0, le=1)] = 0.5,
    neighbours: Annotated[int, Bounds(ge=0)] = 0,
    bits: Annotated[int, Bounds(ge=2, le=FACTS)] = 32,
    range: Annotated[float, Bounds(gt=0)] = 8.0,
) -> Codec:
    """Aggregators learn sums only, of more than ``threshold`` of the senders; after rqm, pbm, fixed-point, or alone."""
    return Codec((SecureSum(threshold, neighbours, bits, range),))
