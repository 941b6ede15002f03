"""SybilWall's merge: neighbours weigh by how unlike they are to anybody known, and peers pass on whom they know.

Each message holds the sender's model and one record from its history: what it knows of somebody else. So clones of one
attacker are seen to be alike although no honest peer is a neighbour of two of them (arXiv 2306.15044, section IV; the
order of events follows the official code's node).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from math import exp
from typing import Any, ClassVar

import torch
from torch import Tensor

from hubless.errors import ConfigError, MessageError
from hubless.learn.context import Context, Inbox, Message, State
from hubless.learn.merges.foolsgold import cosines, foolsgold_weights
from hubless.learn.merges.mean import WeightedMean
from hubless.learn.plan import Book
from hubless.learn.slots import Merge, Reduce
from hubless.parts import part

HISTORY = "sybilwall"
DIRECT = 1  # distance of a neighbour


@dataclass(frozen=True)
class SybilWall(Merge):
    """The mean of one's own model, with weight 1, and the neighbours', weighed as FoolsGold does over all histories.

    A neighbour's history is the sum of its updates, which telescopes to its latest model; here it is counted from where
    the receiver itself began, so that a common start other than zero does not make all histories alike. A record is
    passed on with a probability that falls with its distance; a peer keeps one record of each other peer.

    decay: of that probability, ``exp(-decay (distance - 1))`` before normalisation
    gossip: whether records are passed on; without, only neighbours are compared
    """

    reduce: Reduce = field(default_factory=WeightedMean)
    decay: float = 0.8
    gossip: bool = True

    per_target: ClassVar[bool] = True
    vectorised: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if self.decay < 0:
            raise ConfigError(f"merge.decay = {self.decay:g}: must not be negative")

    def message(self, w: Tensor, s: State, book: Book, ctx: Context) -> Message:
        """The model and, where there is one to pass on, ``about [3]`` (peer, round, distance) and ``history [D]``."""
        said = super().message(w, s, book, ctx)
        record = self._chosen(book, ctx) if self.gossip and ctx.to is not None else None
        if record is None:
            return said
        peer, known = record
        about = torch.tensor([peer, known["round"], known["distance"]])
        return {**said, "about": about, "history": known["history"]}

    def _chosen(self, book: Book, ctx: Context) -> tuple[int, dict[str, Any]] | None:
        """One record for the receiver: not of itself or of the sender, and not one that it gave."""
        records: dict[int, dict[str, Any]] = book.get(HISTORY, {}).get("records", {})
        fit = {
            peer: record
            for peer, record in sorted(records.items())
            if peer not in (ctx.peer, ctx.to) and record["from"] != ctx.to
        }
        if not fit:
            return None
        chances = torch.tensor([exp(-self.decay * (one["distance"] - 1)) for one in fit.values()], dtype=torch.float64)
        drawn = float(ctx.uniform(f"gossip to {ctx.to}", (1,))) * float(chances.sum())
        peer = list(fit)[min(int((chances.cumsum(0) <= drawn).sum()), len(fit) - 1)]
        return peer, fit[peer]

    def accept(self, sender: int, m: Message, ctx: Context) -> None:
        """A record has the shape of a row, and says of whom, when and how far."""
        super().accept(sender, m, ctx)
        if ("about" in m) != ("history" in m):
            raise MessageError("a record needs both about and history")
        if "about" in m:
            if m["about"].shape != (3,) or m["about"].is_floating_point():
                raise MessageError(
                    f"about is {m['about'].dtype} of shape {tuple(m['about'].shape)}, not three integers"
                )
            if m["history"].shape != (ctx.model.shared_size,):
                raise MessageError(f"history has shape {tuple(m['history'].shape)}, not ({ctx.model.shared_size},)")

    def join(self, inbox: Inbox, w: Tensor, s: State, book: Book, ctx: Context) -> Message:
        """Remember, compare, average; ``book['sybilwall']['ignored']`` counts records that nobody may send."""
        known = book.setdefault(HISTORY, {})
        origin = known.setdefault("origin", ctx.start if ctx.start is not None else torch.zeros_like(w))
        records: dict[int, dict[str, Any]] = known.setdefault("records", {})
        near: list[tuple[int, Message]] = []
        for sender, m in zip(inbox.ids, inbox.messages, strict=True):
            if sender != ctx.peer:
                near.append((sender, m))
                row = ctx.model.paste(origin, {name: m[name] for name in ctx.model.groups if name in m})
                history = (row - origin)[: ctx.model.shared_size]
                records[sender] = {"round": ctx.t, "distance": DIRECT, "from": -1, "history": history}
        for sender, m in near:
            if "about" in m and not _heard_of(records, sender, m, ctx):
                known["ignored"] = known.get("ignored", 0) + 1
        if not near:
            return {}
        direct = [sender for sender, _ in near]
        everyone = [*direct, *(peer for peer in sorted(records) if peer not in direct)]
        histories = torch.stack([records[peer]["history"] for peer in everyone]).double()
        weights = foolsgold_weights(cosines(histories @ histories.T))[: len(direct)]
        return _mean([m for _, m in near], weights.to(w), super().message(w, s, book, ctx))


def _heard_of(records: dict[int, dict[str, Any]], sender: int, m: Message, ctx: Context) -> bool:
    """Store a record, unless a neighbour's own word or a newer one is there; False where it is not one to send."""
    peer, round_, distance = m["about"].tolist()
    if not 0 <= peer < ctx.N or peer in (ctx.peer, sender) or distance < DIRECT or not 0 < round_ <= ctx.t:
        return False
    old = records.get(peer)
    if old is None or (old["distance"] > DIRECT and round_ > old["round"]):
        records[peer] = {"round": round_, "distance": distance + 1, "from": sender, "history": m["history"].clone()}
    return True


def _mean(said: list[Message], weights: Tensor, own: Message) -> Message:
    """Name by name: own message with weight 1, those of the neighbours with theirs."""
    found = {}
    for name, value in own.items():
        shares = [(weight, m[name]) for weight, m in zip(weights, said, strict=True) if name in m]
        total = 1 + sum(weight for weight, _ in shares)
        found[name] = (value + sum(weight * other for weight, other in shares)) / total
    return found


@part("merge", "sybilwall")
def sybilwall(decay: float = 0.8, gossip: bool = True) -> SybilWall:
    """Neighbours weigh by how unlike they are to anybody known, directly or by gossip."""
    return SybilWall(decay=decay, gossip=gossip)
