"""Fusion of models that differ in architecture and vocabulary, by what they predict of texts that all can read.

The pivot and each source are teacher-forced on public texts. A source sends the ``k`` most likely tokens at every
place of each text and how well it knew the text. The pivot aligns tokens (``tokens``), takes for each text the
predictions of whoever knew it best (MinCE), itself included, and learns ``lam CE(text) + (1 - lam) KL(fused || own)``
(FuseLLM, arXiv 2401.10491, section 3, whose weight is 0.9; arXiv 2410.13699 builds on it).

Texts are judged in nats a character, since models of different vocabularies take different numbers of tokens. As in
the official code, a token of the pivot that has no counterpart gets all of the mass at its place; unlike there,
probabilities of source tokens that become one token of the pivot are added up, where the code keeps the first.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, ClassVar, Literal

import torch
from torch import Tensor
from torch.nn import functional

from hubless.errors import ConfigError, MessageError
from hubless.learn.context import Batch, Context, Inbox, Message, State
from hubless.learn.fusion.tokens import co_aligned, same_start, token_map
from hubless.learn.local import SGD, Adam
from hubless.learn.merges.mean import WeightedMean
from hubless.learn.plan import Book
from hubless.learn.slots import Gradient, Merge, Reduce
from hubless.models.vocabulary import Reader, Vocabulary

if TYPE_CHECKING:
    from hubless.learn.model import Model
    from hubless.learn.workload import Shards

Mapped = Literal["edit", "aligned"]


@dataclass(frozen=True)
class Fusion(Merge):
    """Sources say what they predict of public texts; a pivot learns from whoever knew each text best.

    texts:   ``[S, L]`` characters that all peers hold
    pivot:   the pivots' vocabulary
    sources: the vocabulary of each source, by peer
    k:       tokens whose probabilities are sent at each place
    lam:     weight of the texts themselves; 1 leaves predictions aside
    mapped:  which token of the pivot is that of a source: the nearest by ``edit`` distance, or the one that it is
             ``aligned`` with most often in the texts
    local:   how the pivot learns; its steps, rate and batch
    """

    reduce: Reduce = field(default_factory=WeightedMean)
    texts: Tensor = field(default_factory=lambda: torch.zeros(0, 2, dtype=torch.int64))
    pivot: Vocabulary = field(default_factory=Vocabulary)
    sources: Mapping[int, Vocabulary] = field(default_factory=dict)
    k: int = 10
    lam: float = 0.9
    mapped: Mapped = "edit"
    local: SGD | Adam = field(default_factory=lambda: Adam(lr=1e-3, steps=50))

    vectorised: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if not 0 <= self.lam <= 1 or self.k < 1:
            raise ConfigError(f"fusion: lam = {self.lam:g} must be in [0, 1] and k = {self.k} at least 1")
        for vocabulary in self.sources.values():
            token_map(vocabulary, self.pivot)  # refuses special tokens that the pivot lacks

    def check(self, model: Model, shards: Shards) -> None:
        """The network must read text in a vocabulary, and there must be public texts."""
        if not len(self.texts):
            raise ConfigError("merge.texts: fusion needs public texts that every peer predicts")
        if not isinstance(model.module, Reader):
            raise ConfigError(f"merge: fusion needs models with a vocabulary, and {model.name} has none; use Reader")

    def kind(self, phase: str) -> str:
        """Predictions, which may cross cohorts."""
        return "predictions"

    def message(self, w: Tensor, s: State, book: Book, ctx: Context) -> Message:
        """``top [S, n, k]``, tokens, ``share [S, n, k]``, their probabilities, and ``nats [S]`` a character."""
        out, cost = teacher_forced(ctx.model, w, s, self.texts)
        places = _most(_vocabulary(ctx.model), self.texts) - 1
        share, top = torch.softmax(out[:, :places], -1).topk(min(self.k, out.shape[-1]), -1)
        return {"top": top.to(torch.int16), "share": share, "nats": cost}

    def accept(self, sender: int, m: Message, ctx: Context) -> None:
        """Tokens of the sender's vocabulary, probabilities, and a cost of each text."""
        super().accept(sender, m, ctx)
        if sender not in self.sources:
            raise MessageError(f"peer {sender} is no source")
        if not {"top", "share", "nats"} <= set(m):
            raise MessageError("top, share or nats is missing")
        top, share = m["top"], m["share"]
        places = _most(self.sources[sender], self.texts) - 1
        if top.is_floating_point() or top.dim() != 3 or top.shape[:2] != (len(self.texts), places):
            raise MessageError(f"top {tuple(top.shape)} must be tokens at {places} places of {len(self.texts)} texts")
        if share.shape != top.shape or m["nats"].shape != (len(self.texts),):
            raise MessageError("share needs the shape of top, and nats one cost a text")
        if bool((top < 0).any()) or int(top.max()) >= len(self.sources[sender]):
            raise MessageError("top holds no tokens of the sender's vocabulary")
        if bool((share < 0).any()) or bool((share.sum(-1) > 1.01).any()):
            raise MessageError("share holds no probabilities")

    def join(self, inbox: Inbox, w: Tensor, s: State, book: Book, ctx: Context) -> Message:
        """``fused [S, L - 1, V]``: what should follow at each place; ``best [S]``: whose predictions, 0 for its own."""
        out, cost = teacher_forced(ctx.model, w, s, self.texts)
        best = torch.stack([cost, *(m["nats"] for m in inbox.messages)]).argmin(0)
        fused = torch.softmax(out, -1)[:, :-1].contiguous()
        for at, (sender, m) in enumerate(zip(inbox.ids, inbox.messages, strict=True), 1):
            rows = torch.nonzero(best == at).flatten()
            if len(rows):
                fused[rows] = self._seen(sender, m, rows)
        return {"fused": fused, "best": best}

    def apply(self, w: Tensor, s: State, book: Book, got: Message, ctx: Context) -> tuple[Tensor, State]:
        """Take steps towards the texts and the fused predictions."""
        book["before"] = w
        book["taken"] = float((got["best"] > 0).float().mean())
        toward = Toward(got["fused"], self.lam, _vocabulary(ctx.model))
        local = replace(self.local, gradient=toward)
        s = local.begin(w, s, ctx)
        for step in range(local.steps or 0):
            rows = torch.argsort(ctx.uniform(f"fuse {step}", (len(self.texts),)))[: local.batch or None]
            w, s = local.step(w, s, Batch(self.texts[rows], rows), ctx)
        return local.end(w, s, ctx)

    def _seen(self, sender: int, m: Message, rows: Tensor) -> Tensor:
        """What a source predicts of some texts, in the pivot's tokens ``[R, L - 1, V]``."""
        source, pivot = self.sources[sender], self.pivot
        places = torch.tensor(token_map(source, pivot, self._counts(source)))
        found = functional.one_hot(pivot.encode(self.texts[rows])[:, 1:], len(pivot)).to(torch.float32)
        share = m["share"] / m["share"].sum(-1, keepdim=True).clamp_min(1e-12)
        for at, row in enumerate(rows.tolist()):
            text = self.texts[row]
            for place, other in enumerate(same_start(source.split(text), pivot.split(text))):
                if place and other:  # a text's first token is predicted by nobody
                    mass = torch.zeros(len(pivot)).index_add_(
                        0, places[m["top"][row, other - 1].long()], share[row, other - 1]
                    )
                    found[at, place - 1] = mass
        return found

    def _counts(self, source: Vocabulary) -> Mapping[tuple[str, str], int] | None:
        if self.mapped == "edit":
            return None
        return co_aligned((source.split(text), self.pivot.split(text)) for text in self.texts)


@dataclass(frozen=True)
class Toward(Gradient):
    """The gradient of ``lam CE(text) + (1 - lam) KL(fused || own)``, both a character.

    fused: ``[S, L - 1, V]``; a batch's ``y`` says which of the S texts its ``x`` are
    """

    fused: Tensor
    lam: float
    vocabulary: Vocabulary

    vectorised: ClassVar[bool] = False

    def __call__(self, w: Tensor, s: State, batch: Batch, ctx: Context) -> tuple[Tensor, State]:
        """The direction ``[D]``; buffers stay."""
        leaf = w.detach().requires_grad_()
        out = ctx.model.forward(leaf, batch.x, s, train=True)
        loss = self.lam * ctx.model.loss(out, batch.x).mean()
        if self.lam < 1:
            tokens = self.vocabulary.encode(batch.x)[:, 1:]
            real = tokens >= len(self.vocabulary.special)
            gap = functional.kl_div(out[:, :-1].log_softmax(-1), self.fused[batch.y], reduction="none").sum(-1)
            loss = loss + (1 - self.lam) * ((gap * real).sum(1) / (batch.x.shape[1] - 1)).mean()
        (g,) = torch.autograd.grad(loss, leaf)
        return g, s


def teacher_forced(model: Model, w: Tensor, s: State, texts: Tensor) -> tuple[Tensor, Tensor]:
    """Logits ``[S, L, V]`` at every place of the texts, and the cost of each text ``[S]`` in nats a character."""
    with torch.no_grad():
        out = torch.cat([model.forward(w, part, s) for part in torch.split(texts, 64)])
        return out, model.loss(out, texts)


def _most(vocabulary: Vocabulary, texts: Tensor) -> int:
    """Tokens of the longest of the texts."""
    return int((vocabulary.encode(texts) >= len(vocabulary.special)).sum(1).max())


def _vocabulary(model: Model) -> Vocabulary:
    reader = model.module
    assert isinstance(reader, Reader)
    return reader.vocabulary
