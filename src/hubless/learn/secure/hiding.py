"""What a stage that hides offers the engine: four acts of which the receiver learns the sum of an inbox."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

from hubless.learn.context import Context, Message
from hubless.learn.slots import Stage


class Hiding(Stage):
    """The last stage of a codec; those before it must decode sums.

    For every inbox, ``ctx.group`` are its planned senders and ``ctx.to`` is the receiver. Senders that are alive
    ``deal``; with those in ``ctx.senders``, each makes its message by ``forward``; with those that arrived in
    ``ctx.senders``, the receiver passes on by ``relay`` what helps it, each that arrived gives an ``answer``, and
    ``total`` is the sum. What ``deal``, ``relay`` and ``answer`` give are small messages, sent as they are.
    """

    hides: ClassVar[bool] = True
    sums: ClassVar[bool] = True
    vectorised: ClassVar[bool] = False

    def check(self, senders: int, before: Sequence[Stage]) -> None:
        """Raise ConfigError when an inbox of so many senders cannot be summed after the stages ``before``."""

    def deal(self, ctx: Context) -> Message:
        """At a sender, before its message: what the receiver keeps or passes on."""
        return {}

    def accept_deal(self, peer: int, m: Message, ctx: Context) -> None:
        """At the receiver: raise CodecError for what is no deal of the peer."""

    def accept_answer(self, m: Message, ctx: Context) -> None:
        """At the receiver: raise CodecError for what is no answer."""

    def relay(self, peer: int, deals: Mapping[int, Message], ctx: Context) -> Message:
        """At the receiver: what it tells a sender that arrived."""
        return {}

    def answer(self, told: Message, ctx: Context) -> Message:
        """At a sender that arrived. Raises CodecError for what no receiver tells."""
        return {}

    def total(
        self,
        messages: Mapping[int, Message],
        deals: Mapping[int, Message],
        answers: Mapping[int, Message],
        ctx: Context,
    ) -> Message:
        """At the receiver: the sum of the messages that arrived, ready for ``inverse``. Raises CodecError."""
        raise NotImplementedError
