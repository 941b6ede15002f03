"""What a shard of a population says to others in one step of a plan, and what it waits for."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from dataclasses import dataclass, field
from typing import TypeVar

T = TypeVar("T")
Address = tuple[int, int | None]  # sender, and receiver where messages are made for one
Packets = Mapping[Address, bytes]
Swapping = Generator["Swap", Packets, T]  # yields what is to be carried, is sent what came, and returns a T


def alone(steps: Swapping[T]) -> T:
    """Run a round of a population that is held in one piece, so that nothing is carried."""
    try:
        swap = next(steps)
    except StopIteration as done:
        value: T = done.value
        return value
    raise RuntimeError(f"a whole population has nothing to carry, but {swap.name!r} asks for it")


@dataclass(frozen=True)
class Swap:
    """What leaves a shard at one moment, and what should come in.

    A round has the same swaps, in the same order, at every shard, also where one has nothing to say or to hear.

    t, k:    round, and index of the step in its plan
    number:  of the swap in the round, from 0; a step may take two
    name:    of the exchange; what goes beside its messages has a name with a slash, ``up/honest``
    packets: bytes by (sender, receiver) of peers that are held here; the receiver is None where all hear the same
    routes:  for each of these addresses the receivers, held elsewhere, whom the message should reach
    expect:  addresses that peers held here wait for, in order
    """

    t: int
    k: int
    number: int
    name: str
    packets: Packets = field(default_factory=dict)
    routes: Mapping[Address, tuple[int, ...]] = field(default_factory=dict)
    expect: tuple[Address, ...] = ()
