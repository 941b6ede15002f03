"""The merge barrier: how much worse the models between two peers are than the two, before and after alignment."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from hubless.errors import ConfigError
from hubless.learn.context import State
from hubless.learn.matching.alignment import Peer, assigned, by_weight, correlations, moved, refreshed
from hubless.learn.matching.permutations import Spec
from hubless.learn.matching.symmetries import derive
from hubless.learn.model import Model
from hubless.learn.slots import Hook, View

PLACES = 11
WAYS = ("as they are", "aligned by activations", "aligned by weights")


def between(a: Peer, b: Peer, share: float) -> tuple[Tensor, State]:
    """The network that is ``1 - share`` of one and ``share`` of the other, statistics too."""
    (w, s), (v, r) = a, b
    mixed = {name: torch.lerp(value, r[name], share) for name, value in s.items() if value.is_floating_point()}
    return torch.lerp(w, v, share), {**s, **mixed}


def line(model: Model, a: Peer, b: Peer, loss: Callable[[Peer], float], own: Tensor) -> list[float]:
    """Loss at ``PLACES`` places from a to b; BatchNorm's statistics between the ends are those on ``own [B, ...]``."""
    inner = [between(a, b, at / (PLACES - 1)) for at in range(1, PLACES - 1)]
    return [loss(a), *(loss((w, refreshed(model, w, s, own))) for w, s in inner), loss(b)]


def height(losses: list[float]) -> float:
    """The most by which the loss exceeds that of a straight line between the ends, 0 or more (arXiv 2110.06296)."""
    last = len(losses) - 1
    return max(loss - losses[0] - at / last * (losses[-1] - losses[0]) for at, loss in enumerate(losses))


@dataclass(frozen=True)
class Barrier(Hook):
    """The line between two peers, once: as they are, and with the second aligned to the first in two ways.

    Where a network's permutations are not known, only as they are. Nothing of this reaches a peer.

    at:      the round after which it is drawn
    pair:    the peers
    samples: of the first peer, at most, on which activations are correlated
    spec:    gives the network's permutations
    """

    at: int
    pair: tuple[int, int] = (0, 1)
    samples: int = 256
    spec: Callable[[Model, Tensor], Spec] = derive

    def round(self, view: View) -> Mapping[str, float]:
        """``barrier``, ``barrier_activation`` and ``barrier_weight``: heights of the lines."""
        if view.t != self.at:
            return {}
        first, second = self.pair
        (cohort, w, s), (_, v, r) = view.population.peer(first), view.population.peer(second)
        model, a, b = cohort.model, (w, s), (v, r)
        own = view.shards.own(first)[0]
        few = view.shards.few
        x, y = view.shards.test_x[:few], view.shards.test_y[:few]

        def loss(peer: Peer) -> float:
            with torch.no_grad():
                return float(model.loss(model.forward(peer[0], x, peer[1]), y).mean())

        ways = {WAYS[0]: b, **self._aligned(view, model, a, b, own)}
        lines = {way: line(model, a, other, loss, own) for way, other in ways.items()}
        view.draw(
            {"type": "lines", "name": "merge-barrier", "title": f"Merge barrier between peers {first} and {second}",
             "x": [at / (PLACES - 1) for at in range(PLACES)], "lines": lines,
             "xlabel": f"share of peer {second}", "ylabel": "loss",
             "reading": "Test loss of the models on the straight line between the two, before they merge. Alignment "
             "moves the units of one of them and changes nothing of what it computes: both ends stay where they are."}
        )  # fmt: skip
        names = ("barrier", "barrier_activation", "barrier_weight")
        return dict(zip(names, map(height, lines.values()), strict=False))

    def _aligned(self, view: View, model: Model, a: Peer, b: Peer, own: Tensor) -> dict[str, Peer]:
        """The second peer, aligned to the first; the table of how alike paired units are joins the records."""
        try:
            spec = self.spec(model, own[:3])
            (likeness,) = correlations(model, spec, a, [b], own[: self.samples])
        except ConfigError:  # the merge of the run may need none of it
            return {}
        if not spec.sizes:
            return {}
        acting = {name: assigned(table) for name, table in likeness.items()}
        weighing = by_weight(model, spec, a[0], b[0], 0)
        orders = ({name: torch.arange(units) for name, units in spec.sizes.items()}, acting, weighing)
        rows = [
            [name, units, *(float(likeness[name][torch.arange(units), by[name]].mean()) for by in orders)]
            for name, units in spec.sizes.items()
        ]
        first, second = self.pair
        view.draw(
            {"type": "table", "name": "likeness", "title": f"How alike the units of peers {first} and {second} are",
             "columns": ["layer", "units", "as they are", "by activations", "by weights"], "rows": rows,
             "reading": f"Mean correlation of units in the same place, on samples of peer {first}, before they merge."}
        )  # fmt: skip
        return {WAYS[1]: moved(model, spec, b, acting), WAYS[2]: moved(model, spec, b, weighing)}
