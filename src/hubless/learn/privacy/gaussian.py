"""Clipped updates with Gaussian noise: by every peer for itself, or once by an aggregator that is trusted.

What is protected is a peer with all that it has. Any two updates are within twice the clip of each other, so it does
not matter what a peer keeps for itself and makes its next update of; it matters that nothing else of it gets out.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor

from hubless.errors import ConfigError
from hubless.learn import keys
from hubless.learn.codecs import Codec
from hubless.learn.context import Context, Inbox, Message, State
from hubless.learn.local import Around
from hubless.learn.merges import Distil, WeightedMean
from hubless.learn.overlays import Star
from hubless.learn.plan import Book, Plan, Train, World
from hubless.learn.privacy.accountant import Counts, Spending
from hubless.learn.privacy.covered import covered, merge_of, networks, statistics
from hubless.learn.privacy.mechanisms import gaussian, sampled
from hubless.learn.privacy.privacy import Noise, positive
from hubless.learn.server import Scaffold, ServerOpt
from hubless.learn.slots import Local, Mechanism, Merge, Reduce
from hubless.parts import make, part

if TYPE_CHECKING:
    from hubless.learn.learning import Learning


@dataclass(frozen=True)
class Noised(Around):
    """Another objective, whose change of the row is clipped and gets noise as soon as training ends.

    ``w <- start + d min(1, clip / |d|) + noise clip N(0, 1)`` with ``d = w - start``. The peer itself goes on from the
    noisy row. Were it to keep the exact one, its next start would hold what no noise covers, and a message is a start
    and a change. As it is, a start is made of what was sent, a message as well, and exchanges may follow one another.

    clip:  norm of a change
    noise: standard deviation, as a multiple of clip
    share: groups of the row that are ever sent; the others stay as they are. None: all
    """

    clip: float
    noise: float
    share: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        positive("local", self.clip, self.noise)

    def end(self, w: Tensor, s: State, ctx: Context) -> tuple[Tensor, State]:
        """Clip and add noise first, so that what the inner one makes of the row at its end is private, too."""
        assert ctx.start is not None
        groups = {name: ctx.model.groups[name] for name in self.share or ctx.model.shared}
        change = torch.cat([w[at] - ctx.start[at] for at in groups.values()])
        change = change * (self.clip / change.norm().clamp_min(1e-12)).clamp(max=1.0)
        if self.noise:
            draws = keys.normal(keys.fold(ctx.secret, "noised"), tuple(change.shape), w.device)
            change = change + self.noise * self.clip * draws
        parts = change.split_with_sizes([at.stop - at.start for at in groups.values()])
        moved = {name: ctx.start[at] + part_ for (name, at), part_ in zip(groups.items(), parts, strict=True)}
        return self.inner.end(ctx.model.paste(w, moved), s, ctx)


@dataclass(frozen=True)
class ClippedSum(Reduce):
    """``(sum_i d_i min(1, clip / |d_i|) + noise clip N(0, 1)) / senders``, as in DP-FedAvg (arXiv 1710.06963).

    ``d_i`` is a peer's whole message, all names together. Weights are ignored: every update counts the same. The
    number of senders is the planned one, lest it tell whose message was refused.

    clip:  norm of a message
    noise: standard deviation of the noise on the sum, as a multiple of clip
    """

    clip: float
    noise: float

    vectorised: ClassVar[bool] = False

    def __post_init__(self) -> None:
        positive("merge", self.clip, self.noise)

    def __call__(self, inbox: Inbox, w: Tensor, s: State, book: Book, ctx: Context) -> Message:
        """Clip, add up, add noise, divide."""
        total: Message = {}
        for m in inbox.messages:
            square = torch.stack([value.square().sum() for value in m.values()]).sum()
            factor = (self.clip * square.rsqrt()).clamp(max=1.0)
            for name, value in m.items():
                total[name] = total[name].add_(factor * value) if name in total else factor * value
        if self.noise:
            for name, value in total.items():
                draws = keys.normal(keys.fold(ctx.secret, "central", name), tuple(value.shape), value.device)
                value += self.noise * self.clip * draws
        return {name: value / max(len(ctx.group), len(inbox.ids)) for name, value in total.items()}

    def mechanism(self) -> Mechanism | None:
        """Of one round for one peer that takes part, its data replaced by any other."""
        return gaussian(self.noise)


ROWS = (ServerOpt, Scaffold, Distil)  # merges that send what they make of rows; SCAFFOLD's variates are made of them


def _lasting(learning: Learning, local: Local) -> list[str]:
    """Entries of the state that training makes."""
    return [entry for model in networks(learning) for entry in local.init(model)]


@dataclass(frozen=True)
class LocalNoise(Noise):
    """Every peer clips its update and adds noise before anyone sees it.

    A record is a peer with all its data; epsilon is that of the peer that trained most often, against everyone who
    sees every message. The network and who trains when are public, and so is how many samples a peer has, if its
    weight depends on that.
    """

    def protect(self, learning: Learning) -> Learning:
        """See ``Privacy.protect``."""
        covered(learning, "local")
        statistics(learning, "local")
        merge = merge_of(learning)
        share = merge.share if merge.plain or type(merge) is ServerOpt else None

        def noised(local: Local) -> Local:
            for entry in [] if merge.plain or type(merge) in ROWS else _lasting(learning, local):
                raise ConfigError(
                    f"privacy: {type(merge).__name__} may send {entry!r}, which {type(local).__name__} makes in"
                    " training and the noise of local does not cover; use dp-sgd:CLIP:NOISE"
                )
            return Noised(local, self.clip, self.noise, share)

        local = learning.local
        new = noised(local) if isinstance(local, Local) else {role: noised(one) for role, one in local.items()}
        said = "epsilon is of a peer with all its data, replaced by another's, of the peer that trained most, against"
        spending = Spending("peer", lambda role, size: gaussian(self.noise))
        return self.accounted(replace(learning, local=new), spending, f"{said} all who see every message")


@dataclass(frozen=True)
class Drawn(Spending):
    """Rounds whose participants are a uniform sample of the members: each round tells as much of those left out."""

    def charges(self, plan: Plan, world: World) -> Counts:
        """One use, named after the sizes of the sample and of the population, for everyone."""
        (train,) = [step for step in plan if isinstance(step, Train)]
        asked = sum(len(peers) for peers in train.roles.values())
        return {f"{asked}/{len(world.members)}": torch.ones(world.n, dtype=torch.int64)}

    def paid(self, charges: Counts, trained: Tensor) -> Counts:
        """All of it, whoever trained."""
        return charges


@dataclass(frozen=True)
class CentralNoise(Noise):
    """The aggregator, which is trusted, clips every update, adds them up, and adds noise once.

    A record is a peer with all its data; epsilon is against everyone but the round's aggregator. A sample of the peers
    counts as such (``Star(participants)``) where the aggregator draws it and keeps it to itself, and where a peer
    carries nothing from round to round that depends on when it was drawn. Under ``Rotating`` anyone can compute it.
    """

    def protect(self, learning: Learning) -> Learning:
        """See ``Privacy.protect``."""
        covered(learning, "central")
        statistics(learning, "central")
        overlay = learning.overlay
        if not isinstance(overlay, Star):
            raise ConfigError(
                f"privacy: central needs an aggregator that sees every update and adds noise once, and overlay"
                f" {type(overlay).__name__} has none; use local:CLIP:NOISE or dp-sgd:CLIP:NOISE"
            )
        if overlay.weigh != "one":
            raise ConfigError(
                f"privacy: central needs equal weights, but the overlay weighs by {overlay.weigh}: noise cannot be"
                " fitted to a sum in which a peer counts by its data; use weigh=one, or in Python Star(weigh='one')"
            )
        merge = self._merge(merge_of(learning))
        sampling = type(overlay) is Star and 0 < overlay.sample < learning.workload.peers and _forgetful(learning)
        said = "epsilon is of a peer with all its data, replaced by another's, against all but the round's aggregator"
        said += ", which draws the participants in secret" if sampling else ""
        return self.accounted(replace(learning, merge=merge), self._spending(sampling), said)

    def _merge(self, merge: Merge) -> Merge:
        kind = type(merge.reduce if type(merge) is Merge else merge).__name__
        if type(merge) not in (Merge, ServerOpt, Scaffold) or type(merge.reduce) is not WeightedMean:
            raise ConfigError(
                f"privacy: central adds noise to a sum, and merge {kind} is no sum of updates; use the merge mean or"
                " server, local:CLIP:NOISE, or dp-sgd:CLIP:NOISE"
            )
        total = ClippedSum(self.clip, self.noise)
        return ServerOpt(total, merge.share) if type(merge) is Merge else replace(merge, reduce=total)

    def _spending(self, sampling: bool) -> Spending:
        if not sampling:
            return Spending("peer", lambda role, size: gaussian(self.noise))

        def cost(drawn: str, size: int) -> Mechanism:
            asked, members = map(int, drawn.split("/"))
            return sampled(members, asked, self.noise)

        return Drawn("peer", cost)


def _forgetful(learning: Learning) -> bool:
    """Whether a peer's update depends on nothing but the model that it was sent, its data and fresh randomness."""
    codec: Codec = make("codec", learning.codec)
    locals_ = [learning.local] if isinstance(learning.local, Local) else learning.local.values()
    if make("attack", learning.attack) is not None or codec.remembers:
        return False
    if any(hook.needs_messages for hook in learning.hooks):  # a judge may shrink the population that is drawn from
        return False
    return not any(
        model.buffers or part_.init(model) for model in networks(learning) for part_ in (*locals_, *codec.stages)
    )


@part("privacy", "local")
def local(clip: float, noise: float, delta: float = 1e-5, budget: float = 0.0) -> LocalNoise:
    """Every peer clips its update and adds noise before it sends; epsilon is of a peer, whoever listens."""
    return LocalNoise(clip, noise, delta=delta, budget=budget)


@part("privacy", "central")
def central(clip: float, noise: float, delta: float = 1e-5, budget: float = 0.0) -> CentralNoise:
    """A trusted aggregator clips updates and adds noise to their sum; epsilon is of a peer, against all others."""
    return CentralNoise(clip, noise, delta=delta, budget=budget)
