"""FoolsGold: those who keep pushing the same way are one (arXiv 1808.04866, algorithm 1)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from hubless.learn.context import Context, Inbox
from hubless.learn.merges.points import Points, Sharing
from hubless.learn.plan import Book
from hubless.learn.slots import Merge
from hubless.parts import part

HISTORY = "foolsgold"


def cosines(gram: Tensor) -> Tensor:
    """Cosines ``[M, M]`` of inner products ``[M, M]``; 0 with what has no length."""
    lengths = gram.diagonal().clamp_min(0).sqrt()
    return gram / (lengths[:, None] * lengths).clamp_min(1e-300)


def foolsgold_weights(similarities: Tensor) -> Tensor:
    """Weights in [0, 1] ``[M]`` of senders whose histories have these cosines ``[M, M]``; the diagonal is not read.

    A sender weighs the less, the more its history is like that of another. One that is less like its twin than the
    twin is like somebody else is pardoned in proportion. The most unlike gets 1; all are 0 when all have a twin.
    """
    others = similarities.double() * (1 - torch.eye(len(similarities), dtype=torch.float64, device=similarities.device))
    most = others.max(dim=1).values + 1e-5
    pardoned = torch.where(most[:, None] < most, others * most[:, None] / most, others)
    weights = (1 - pardoned.max(dim=1).values).clamp(0, 1)
    top = weights.max()
    scaled = weights / torch.where(top > 0, top, torch.ones_like(top))
    return (torch.logit(scaled) + 0.5).clamp(0, 1)


@dataclass(frozen=True)
class FoolsGold(Sharing):
    """The mean with weights by how unlike the senders' histories are, times the plan's weights.

    The receiver's book holds the sum of the updates of each sender that it heard, over all parameters: a row a sender.
    Of models, the update is the way from where the receiver's round began, so that receivers should hold the model
    from which senders trained. When nobody keeps a weight the answer is the receiver's own message.

    The source adds up weighted gradients; updates of a whole round are averaged here. All parameters count alike, its
    variant without a choice of features.
    """

    vectorised: ClassVar[bool] = False
    starts: ClassVar[bool] = True
    role: ClassVar[tuple[str, ...]] = (HISTORY,)

    def shares(self, points: Points, book: Book, ctx: Context) -> Tensor:
        """Normalised weights; the histories of all who sent are moved on first."""
        histories = book.setdefault(HISTORY, {})
        inbox = points.inbox
        for sender, m in zip(inbox.ids, inbox.messages, strict=True):
            past = histories.get(sender, {})
            updates = {name: m[name] - points.centre.get(name, 0) for name in m if name not in points.aside}
            histories[sender] = {**past, **{name: update + past.get(name, 0) for name, update in updates.items()}}
        sums = [histories[sender] for sender in inbox.ids]
        weights = foolsgold_weights(cosines(Points(Inbox(inbox.ids, inbox.weights, sums), {}).gram)) * points.weights
        if not float(weights.sum()) > 0:
            weights = torch.tensor([float(sender == ctx.peer) for sender in inbox.ids]).to(weights)
        return weights / weights.sum().clamp_min(1e-300)


@part("merge", "foolsgold")
def foolsgold() -> Merge:
    """The mean without those whose updates keep pointing the same way."""
    return Merge(FoolsGold())
