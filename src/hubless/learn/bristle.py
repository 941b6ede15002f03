"""Bristle's merge: each class of each output layer received weighs by how it does on one's own held-out samples.

Source: arXiv 2110.11006, of which only the abstract was at hand, and the released aggregation code, which scores by
recall in one version and by F1 in another. Its nodes also centre every column after each merge; that is left out.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar, Literal

import torch
from torch import Tensor

from hubless.errors import ConfigError, MessageError
from hubless.learn.context import Context, Inbox, Message, State
from hubless.learn.outputs import columns
from hubless.learn.plan import Book
from hubless.learn.select import DistancePrioritiser
from hubless.learn.slots import Hook, Merge, Reduce, View
from hubless.parts import part

if TYPE_CHECKING:
    from hubless.learn.model import Model
    from hubless.learn.workload import Shards

Score = Literal["recall", "f1"]
CLASSES = "classes"  # entry of a message: 1 for each class that the sender trains on
TRUST = "trust"  # entry of a book: what weight each sender was given, and how many claims were clamped
LIMIT = 1e4  # of a sum of scores: beyond, the weight no longer changes


def performance(predicted: Tensor, y: Tensor, classes: Tensor, score: Score) -> Tensor:
    """Recall or F1 ``[K, C]`` of each of the classes ``[C]``, where K models say ``[K, n]`` and ``y [n]`` is right."""
    truth = (y[:, None] == classes).float()
    hits = (predicted == y).float() @ truth
    if score == "recall":
        return hits / truth.sum(0)
    called = (predicted[:, :, None] == classes).float().sum(1)
    return 2 * hits / (called + truth.sum(0))


def best(scores: Tensor, counts: Tensor) -> Tensor:
    """Which are each row's ``counts [K]`` highest of ``scores [K, C]``; of equals the first ones."""
    place = torch.argsort(torch.argsort(scores, dim=1, descending=True, stable=True), dim=1)
    return place < counts[:, None]


def weights(own: Tensor, others: Tensor, chosen: Tensor, *, penalty: bool = False) -> tuple[Tensor, Tensor]:
    """Weights of K models for each familiar class ``[K, C]`` and for everything else ``[K]``, next to 1 for one's own.

    own, others: performance ``[C]`` and ``[K, C]``
    chosen:      the classes that count for each model ``[K, C]``
    penalty:     later models pay for what earlier ones lack, against attackers that come one after another
    """
    gap = 10 * (own - others).abs()
    worse = gap ** (4 + own)
    if penalty:
        lacking = 2 * (own - others).clamp_min(0)
        worse = worse * (1 + lacking.cumsum(0) - lacking)
    score = torch.where(others > own, gap ** (3 + own), -worse) * chosen
    number = chosen.sum(1).clamp_min(1)
    mean = (others * chosen).sum(1) / number
    spread = ((others - mean[:, None]).square() * chosen).sum(1) / number
    certainty = (mean - spread.sqrt()).clamp_min(0) * chosen.any(1)
    familiar = certainty[:, None] * _steep(score.clamp_min(-100)) * chosen
    return familiar, certainty * _steep(score.sum(1))


def _steep(score: Tensor) -> Tensor:
    """From 0 for the bad over 1 for the equally good to 6."""
    return (10 * torch.sigmoid(score.clamp(-LIMIT, LIMIT) / 100) - 4).clamp_min(0)


@dataclass(frozen=True)
class Integrator(Reduce):
    """New parameters ``(w + sum_k c_k w_k) / (1 + sum_k c_k)``; the weights ``c_k`` differ from class to class.

    A model counts for its n best of the receiver's own classes, if it says that n of its classes are among them. What
    speaks for other classes, or for none (other layers than the last, statistics), takes the weight of the whole
    model, as foreign classes do. The plan's weights only say who counts.

    prioritiser: which messages are looked at
    score:       performance on one's held-out samples: recall or f1
    penalty:     see ``weights``
    """

    prioritiser: DistancePrioritiser = field(default_factory=DistancePrioritiser)
    score: Score = "recall"
    penalty: bool = False

    vectorised: ClassVar[bool] = False

    def __call__(self, inbox: Inbox, w: Tensor, s: State, book: Book, ctx: Context) -> Message:
        """What changes; nothing when nobody else is heard. Writes ``book['trust']``."""
        others = self.prioritiser(_others(inbox, w, ctx), w, book, ctx)
        known = torch.nonzero(ctx.classes).flatten()
        if not others.ids or not len(known):
            return {}
        claims = others.stack(CLASSES).double()[:, known].sum(1).to(w.device)
        scores = performance(_predicted(others, w, s, ctx), ctx.held.y, known.to(w.device), self.score)
        chosen = best(scores[1:], claims.clamp(0, len(known)).floor())
        familiar, whole = weights(scores[0], scores[1:], chosen, penalty=self.penalty)
        table = whole[:, None].repeat(1, len(ctx.classes) + 1)
        table[:, known] = familiar
        trust = book.setdefault(TRUST, {"clamped": 0})
        trust["clamped"] += int((claims > len(known)).sum())
        trust["given"] = dict(zip(others.ids, table[:, :-1].mean(1).tolist(), strict=True))
        return _mixed(others, table, w, s, ctx)


def _others(inbox: Inbox, w: Tensor, ctx: Context) -> Inbox:
    """Without the receiver's word to itself, unless it is news: work that it handed to itself as an aggregator."""
    groups = ctx.model.groups

    def echo(sender: int, m: Message) -> bool:
        return sender == ctx.peer and all(torch.equal(m[name], w[groups[name]]) for name in groups if name in m)

    said = zip(inbox.ids, inbox.weights, inbox.messages, strict=True)
    kept = [(sender, weight, m) for sender, weight, m in said if not echo(sender, m)]
    rest = torch.stack([weight for _, weight, _ in kept]) if kept else inbox.weights[:0]
    return Inbox(tuple(sender for sender, _, _ in kept), rest, [m for _, _, m in kept])


def _predicted(inbox: Inbox, w: Tensor, s: State, ctx: Context) -> Tensor:
    """Classes ``[1 + K, n]`` that one's own model and those of K messages give to the held-out samples."""
    model = ctx.model
    rows, names = w.repeat(1 + len(inbox.ids), 1), set(inbox.names)
    for name in names & set(model.groups):
        rows[1:, model.groups[name]] = inbox.stack(name)
    buffers = {name: torch.cat([s[name][None], inbox.stack(name)]) for name in names & set(model.buffers)}

    def out(row: Tensor, own: State) -> Tensor:
        return model.forward(row, ctx.held.x, {**s, **own})

    with torch.no_grad():
        predicted: Tensor = torch.vmap(out)(rows, buffers).argmax(-1)
    return predicted


def _mixed(inbox: Inbox, table: Tensor, w: Tensor, s: State, ctx: Context) -> Message:
    """Groups and statistics with the weights ``table [K, classes + 1]``; the last column is for what has no class."""
    column = columns(ctx.model, len(ctx.classes)).to(w.device)
    found: Message = {}
    for name in inbox.names:
        if (place := ctx.model.groups.get(name)) is not None:
            share, own = table[:, column[place]], w[place]
        elif name in ctx.model.buffers:
            own = s[name]
            share = table[:, -1].reshape(-1, *[1] * own.dim())
        else:
            continue
        found[name] = (own + (share * inbox.stack(name)).sum(0)) / (1 + share.sum(0))
    return found


@dataclass(frozen=True)
class Bristle(Merge):
    """Says the parameters in ``share`` and which classes one trains on, and integrates what comes back.

    Meant for an output layer on a trunk that is frozen and the same everywhere.
    """

    reduce: Reduce = field(default_factory=Integrator)

    vectorised: ClassVar[bool] = False

    def check(self, model: Model, shards: Shards) -> None:
        """Every peer must hold out samples of every class that it trains on, and the last layer have a row a class."""
        classes = shards.data.classes
        if not shards.classes.shape[1]:
            raise ConfigError(
                f"merge: bristle needs classes, which {shards.data.name} does not have; use another merge"
            )
        columns(model, len(classes))
        for peer, counts in enumerate(shards.classes):
            held = torch.bincount(shards.held(peer)[1].cpu(), minlength=len(classes))
            if missing := torch.nonzero((counts > 0) & (held == 0)).flatten().tolist():
                raise ConfigError(
                    f"merge: bristle judges by samples of one's own classes that are held out, but peer {peer} has"
                    f" none of class {classes[missing[0]]!r}; it needs a workload with held = 10 or so"
                )

    def message(self, w: Tensor, s: State, book: Book, ctx: Context) -> Message:
        """The parameters, and ``classes [L]``: 1 for those that the peer trains on, in bytes."""
        return {**super().message(w, s, book, ctx), CLASSES: (ctx.classes > 0).to(torch.uint8)}

    def accept(self, sender: int, m: Message, ctx: Context) -> None:
        """All parameters, finite, and a claim of the right length; claims that cannot be are clamped later."""
        super().accept(sender, m, ctx)
        if missing := [name for name in self.share or ctx.model.shared if name not in m]:
            raise MessageError(f"{missing[0]} is missing")
        if CLASSES not in m or m[CLASSES].shape != ctx.classes.shape:
            shape = tuple(m[CLASSES].shape) if CLASSES in m else "missing"
            raise MessageError(f"{CLASSES} has shape {shape}, not {tuple(ctx.classes.shape)}")


@dataclass(frozen=True)
class Trust(Hook):
    """How much honest peers took from hostile ones in a round of Bristle, and how many claims they did not believe.

    hostile: ids of the hostile peers
    """

    hostile: frozenset[int]

    def round(self, view: View) -> Mapping[str, float]:
        """``hostile_weight``, the mean share of an output layer that came from them, and ``clamped_claims`` so far."""
        honest = [peer for peer in view.population.members() if peer not in self.hostile]
        books = [book[TRUST] for peer in honest if TRUST in (book := view.population.books.get(peer, {}))]
        if not books:
            return {}
        shares = [_share(book["given"], self.hostile) for book in books]
        clamped = float(sum(book["clamped"] for book in books))
        return {"hostile_weight": sum(shares) / len(shares), "clamped_claims": clamped}


def _share(given: Mapping[int, float], hostile: frozenset[int]) -> float:
    return sum(weight for sender, weight in given.items() if sender in hostile) / (1 + sum(given.values()))


@part("merge", "bristle")
def bristle(alpha: int = 20, beta: int = 5, score: Score = "recall", penalty: bool = False) -> Bristle:
    """Each class of what was received weighs by how it does on held-out samples; of alpha nearest, beta random ones."""
    return Bristle(Integrator(DistancePrioritiser(alpha, beta), score, penalty))
