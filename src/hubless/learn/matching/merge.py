"""Matched merges: what neighbours say is permuted into the places of one's own units before it is joined.

Source: DIMAT (arXiv 2404.08079; official code, ``match_tensors_permute`` and ``find_permutation``). Every message is
aligned to the receiver's ORIGINAL model, not to a running average as the official weight matching does; activations are
correlated on the receiver's own samples, where the official code has the whole training set.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar, Literal

from torch import Tensor

from hubless.errors import ConfigError
from hubless.learn import keys
from hubless.learn.context import Context, Inbox, Message, State
from hubless.learn.matching.alignment import Peer, by_activation, by_weight, moved, readers, refreshed
from hubless.learn.matching.permutations import Assignment, Spec
from hubless.learn.matching.symmetries import derive
from hubless.learn.merges.mean import WeightedMean
from hubless.learn.model import Model
from hubless.learn.plan import Book
from hubless.learn.slots import Merge, Reduce
from hubless.parts import part

if TYPE_CHECKING:
    from hubless.learn.workload import Shards

By = Literal["activation", "weight", "none"]
PROBE = 3  # samples on which permutations are derived: a number that is rarely an axis of a network, too


@dataclass(frozen=True)
class Matched(Merge):
    """Aligns every message to the receiver's own model, then joins them with ``reduce``.

    by:          what units are matched by: ``activation``, ``weight``, or ``none`` (they are joined as they are)
    calibration: own samples at most on which activations are correlated, drawn anew for every merge
    refresh:     compute BatchNorm's statistics anew after the merge, with one pass over one's own data; networks whose
                 activations are matched get theirs on the calibration samples, too, as the official code does
    spec:        the network's permutations, as a table or a JSON file (see ``permutations.py``); None derives them
    """

    reduce: Reduce = field(default_factory=WeightedMean)
    by: By = "activation"
    calibration: int = 256
    refresh: bool = True
    spec: Mapping[str, list[str | None]] | str | None = None
    _specs: dict[str, Spec] = field(default_factory=dict, compare=False, repr=False)

    vectorised: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if self.calibration < 2:
            raise ConfigError(f"merge.calibration = {self.calibration}: needs at least 2 samples to correlate on")

    def check(self, model: Model, shards: Shards) -> None:
        """The network's permutations must be known, and every peer have samples to correlate on."""
        if self.by == "none":
            return
        spec = self.permutations(model, shards.x[:PROBE])
        if self.by == "activation" and spec.sizes:
            readers(model, spec)
            for peer, size in enumerate(shards.sizes.tolist()):
                if size < 2:
                    raise ConfigError(
                        f"merge: activations are matched on a peer's own samples, but peer {peer} has {size}; it needs"
                        " at least 2, or matched:weight"
                    )

    def permutations(self, model: Model, x: Tensor) -> Spec:
        """Those of a network that takes samples ``x``; derived once, or as given. Raises ConfigError."""
        key = f"{model.fingerprint} {sorted(model.frozen)} {tuple(x.shape[1:])}"
        if key not in self._specs:
            self._specs[key] = self._made(model, x[:PROBE])
        return self._specs[key]

    def _made(self, model: Model, x: Tensor) -> Spec:
        if self.spec is None:
            return derive(model, x)
        spec = Spec.read(self.spec, model) if isinstance(self.spec, str) else Spec.of(self.spec, model)
        spec.check(model, x)
        return spec

    def join(self, inbox: Inbox, w: Tensor, s: State, book: Book, ctx: Context) -> Message:
        """The inbox aligned to ``w``, then reduced. What is not of the network passes as it is."""
        heard = [at for at, sender in enumerate(inbox.ids) if sender != ctx.peer]
        if self.by == "none" or not heard:
            return super().join(inbox, w, s, book, ctx)
        spec = self.permutations(ctx.model, ctx.data.x)
        messages = list(inbox.messages)
        others: Sequence[Peer] = [_said(ctx.model, w, s, messages[at]) for at in heard]
        for at, other, by in zip(heard, others, self.assignments(spec, (w, s), others, ctx), strict=True):
            row, state = moved(ctx.model, spec, other, by)
            groups, m = ctx.model.groups, messages[at]
            messages[at] = {
                name: row[groups[name]] if name in groups else state[name] if name in ctx.model.buffers else value
                for name, value in m.items()
            }
        return super().join(Inbox(inbox.ids, inbox.weights, messages), w, s, book, ctx)

    def assignments(self, spec: Spec, own: Peer, others: Sequence[Peer], ctx: Context) -> list[Assignment]:
        """How the units of each of the others come to the places of one's own."""
        if not spec.sizes:
            return [{} for _ in others]
        assert isinstance(ctx.key, int)
        if self.by == "weight":
            return [by_weight(ctx.model, spec, own[0], other[0], ctx.key) for other in others]
        x = ctx.data.x
        drawn = keys.permutation(keys.fold(ctx.key, "calibration"), len(x))[: self.calibration]
        x = x[drawn.to(x.device)]
        if self.refresh:
            own, *others = [(w, refreshed(ctx.model, w, s, x)) for w, s in (own, *others)]
        return by_activation(ctx.model, spec, own, others, x)

    def apply(self, w: Tensor, s: State, book: Book, got: Message, ctx: Context) -> tuple[Tensor, State]:
        """The peer after hearing, with fresh statistics."""
        w, s = super().apply(w, s, book, got, ctx)
        return w, refreshed(ctx.model, w, s, ctx.data.x) if self.refresh else s


def _said(model: Model, w: Tensor, s: State, m: Message) -> Peer:
    """The network that a message makes of one's own."""
    return model.paste(w, m), {**s, **model.statistics(m)}


@part("merge", "matched")
def matched(by: By = "activation", calibration: int = 256, refresh: bool = True, spec: str = "") -> Matched:
    """The mean of models whose units were permuted to one's own: by activation on own samples, weight, or none."""
    return Matched(by=by, calibration=calibration, refresh=refresh, spec=spec or None)
