"""One exchange of a population that keeps its rows: when it is, and what a part may know then."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from hubless.errors import MessageError
from hubless.learn.accept import Forms
from hubless.learn.context import Context, Message, State
from hubless.learn.plan import Exchange
from hubless.learn.population import Cohort
from hubless.learn.swaps import Address
from hubless.learn.wiring import Wiring


@dataclass(frozen=True)
class Moment:
    """Step k of round t.

    starts: rows ``[D]`` from before the round's training, of those who trained, where some part may ask
    roles:  what those who trained were asked to be
    numbers: of the round's swaps between shards
    """

    wiring: Wiring
    exchange: Exchange
    t: int
    k: int
    starts: Mapping[int, Tensor]
    roles: Mapping[int, str]
    numbers: Iterator[int]
    _listening: dict[int, Context] = field(default_factory=dict, compare=False, repr=False)

    @property
    def listener(self) -> int:
        """Some peer that is held here, where all would hear a message alike."""
        return int(next(cohort.ids[0] for cohort in self.wiring.population.cohorts if len(cohort.ids)))

    @property
    def kind(self) -> str:
        """What the exchange's messages are."""
        return self.wiring.merge.kind(self.exchange.name)

    def cohort(self, peer: int) -> Cohort:
        """The cohort that a peer is of, wherever it is held."""
        population = self.wiring.population
        return population.cohorts[int(population.shape_of[peer])]

    def context(self, peer: int, **more: Any) -> Context:
        """What a part may know about one peer; the start of one that did not train is its present row.

        Of one that is held elsewhere a receiver knows no row.
        """
        cohort = self.cohort(peer)
        start = self.starts.get(peer)
        if start is None and bool(self.wiring.population.held[peer]):
            start = cohort.rows[0 if cohort.shared else int(self.wiring.population.place[peer])]
        return self.wiring.context(
            self.t, self.k, cohort.model, peer, phase=self.exchange.name, kind=self.kind,
            role=self.roles.get(peer, "train"), start=start, part=self._part(peer), **more,
        )  # fmt: skip

    def _part(self, peer: int) -> tuple[int, int]:
        if self.exchange.part is None:
            return 0, 1
        mine = self.exchange.part[self.exchange.src == peer]
        return (int(mine[0]) if len(mine) else 0), self.exchange.parts

    def message(self, peer: int, to: int | None = None) -> Message:
        """What a peer says, before any attack."""
        _, w, s = self.wiring.population.peer(peer)
        return self.wiring.merge.message(w, s, self.wiring.population.book(peer), self.context(peer, to=to))

    def accepts(self, receiver: int, sender: int, m: Message, forms: Forms | None = None) -> bool:
        """Whether the receiver uses a message; one that it does not, or that is unlike others, is told in an event."""
        if receiver not in self._listening:  # once for all that it hears
            self._listening[receiver] = self.context(receiver)
        try:
            self.wiring.merge.accept(sender, m, self._listening[receiver])
            if forms is not None:
                forms.agree(m)
        except MessageError as error:
            self.refuse(sender, receiver, str(error))
            return False
        return True

    def refuse(self, sender: int, receiver: int, why: str) -> None:
        """Tell that a message is not used."""
        self.wiring.tell(f"message of peer {sender} refused: {why}", self.k, 4, receiver, sender)

    def undecodable(self, address: Address, error: MessageError) -> None:
        """Tell that a message does not decode, which all its receivers find alike."""
        sender, to = address
        self.wiring.tell(f"message of peer {sender} does not decode: {error}", self.k, 3, sender, to or 0)

    def put(self, peer: int, w: Tensor | None, s: State) -> None:
        """Write one peer back."""
        at = self.wiring.population.place[peer : peer + 1]
        self.cohort(peer).put(at, None if w is None else w[None], {name: value[None] for name, value in s.items()})

    def reached(self, peers: Tensor) -> Tensor:
        """A mask ``[N]`` of peers."""
        mask = torch.zeros(self.wiring.n, dtype=torch.bool)
        mask[peers] = True
        return mask
