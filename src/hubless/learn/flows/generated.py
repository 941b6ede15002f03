"""What isolated experts of flows are worth together: they are collected, joined in every way there is, and sampled."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hubless.data.dataset import Dataset
from hubless.data.projection import PCA
from hubless.learn import keys
from hubless.learn.codecs import Codec
from hubless.learn.flows.collected import collected
from hubless.learn.flows.flow import Network, Velocity, follow
from hubless.learn.flows.gaussians import frechet
from hubless.learn.flows.pooled import Descent, Routing, monolith, student, train_router
from hubless.learn.flows.routed import RoutedFlow, Router
from hubless.learn.slots import Hook, View
from hubless.learn.training import Workers
from hubless.models.zoo import Architecture

SHOWN = 8  # pictures of each kind
ROWS = 5  # kinds in a figure
ONE, STUDENT, REAL, FLOOR = "one model", "student", "real", "floor"


@dataclass(frozen=True, eq=False)
class Generation(Hook):
    """After the last round: train a router, sample from the collected experts, and compare with what is real.

    clean:      vectors ``[M, d]`` that the set of flows was made of, with their labels
    back:       from vectors to what a person can see
    router:     network of the router, trained as ``routing`` says
    descent:    how the experts were trained, in mini-batches of ``batch``
    strategies: ways to join the experts, see ``RoutedFlow.field``
    generated:  samples of each, from the same noise
    reference:  test samples to compare them with; 0 takes all
    steps:      Euler steps
    monolith:   whether one model is trained beside them on all data, in mini-batches as large as theirs together
    distil:     rounds of a student that learns from them; 0 trains none
    """

    clean: Dataset
    back: PCA
    router: Architecture
    routing: Descent
    descent: Descent
    batch: int
    strategies: Sequence[str]
    generated: int
    reference: int
    steps: int
    monolith: bool
    distil: int

    def round(self, view: View) -> Mapping[str, float]:
        """``frechet_NAME`` of every strategy, of the one model, the student, and the floor; what the router costs."""
        found = collected(view.population) if view.t == view.rounds else None
        if found is None:
            return {}
        session = _Session(self, view, *found)
        (metrics,) = Workers(1).map(lambda _: session.metrics(), 1)  # with one thread, however many there are
        return metrics


@dataclass(frozen=True, eq=False)
class _Session:
    """One evaluation of the models ``rows [K, D]`` of the peers ``ids``."""

    how: Generation
    view: View
    ids: list[int]
    rows: Tensor

    @cached_property
    def experts(self) -> list[Network]:
        model = self.view.population.cohorts[0].model
        return [Network(model, row) for row in self.rows.cpu()]

    @cached_property
    def held(self) -> tuple[Tensor, Tensor]:
        """Rows of the training set that the experts hold, and the number of the expert that holds each."""
        shards = self.view.shards
        peer = torch.repeat_interleave(torch.arange(len(shards.sizes)), shards.sizes)
        ids = torch.tensor(self.ids)
        mine = torch.isin(peer, ids)
        at, order = shards.flat[mine].sort()
        return at, torch.searchsorted(ids, peer[mine][order])

    @cached_property
    def flows(self) -> Dataset:
        """All that the experts were trained on, as one set."""
        shards = self.view.shards
        return replace(shards.data, x=shards.x.cpu().numpy(), y=shards.y.cpu().numpy())

    @cached_property
    def together(self) -> int:
        """Samples of a step of all experts."""
        return self.how.batch * len(self.view.shards.sizes)

    @cached_property
    def routing(self) -> Routing | None:
        """The router; none where only one expert came."""
        at, owner = self.held
        clean, how = torch.from_numpy(self.flows.x)[at], self.how
        if len(self.ids) == 1:
            return None
        return train_router(clean, owner, len(self.ids), how.router, how.routing, self.together, self.view.seed)

    def metrics(self) -> dict[str, float]:
        """What the recipe reports; it draws, too."""
        samples = {name: self.sampled(field) for name, field in (self.joined() | self.beside()).items()}
        distances = {name: frechet(x, self.test) for name, x in {**samples, FLOOR: self.real}.items()}
        self.draw(samples, distances)
        found = {f"frechet_{name.replace('-', '_').replace(' ', '_')}": d for name, d in distances.items()}
        return {**found, "experts": float(len(self.ids)), **self.costs()}

    def joined(self) -> dict[str, Velocity]:
        """The field of every strategy."""
        key = keys.fold(self.view.seed, "strategies")
        assert isinstance(key, int)
        shares = torch.bincount(self.held[1], minlength=len(self.ids)).double()
        router = self.routing.router if self.routing else Router(lambda x, t: x.new_zeros(len(x), 1), 1)
        flow = RoutedFlow(self.experts, router, shares / shares.sum())
        return {name: flow.field(name, key) for name in (self.how.strategies if self.routing else ["full"])}

    def beside(self) -> dict[str, Velocity]:
        """The fields of the one model and the student, where they are asked for."""
        how, flows, model, seed = self.how, self.flows, self.experts[0].model, self.view.seed
        found: dict[str, Velocity] = {}
        if how.monolith and len(self.view.shards.sizes) > 1:
            found[ONE] = monolith(flows, model, how.descent, self.together, seed)
        if how.distil:
            at, owner = self.held[0].numpy(), self.held[1]
            asked = replace(flows, x=flows.x[at], y=flows.y[at])
            few = replace(how.descent, rounds=how.distil)
            found[STUDENT] = student(asked, owner, self.experts, model, few, self.together, seed)
        return found

    def sampled(self, field: Velocity) -> Tensor:
        """Samples ``[generated, d]``, from noise that is the same for every field."""
        shape = (self.how.generated, self.how.clean.shape[0])
        return follow(field, keys.normal(keys.fold(self.view.seed, "samples"), shape), self.how.steps)

    @cached_property
    def test(self) -> Tensor:
        """What samples are compared with."""
        every = torch.from_numpy(self.how.clean.test_x)
        order = keys.permutation(keys.fold(self.view.seed, "reference"), len(every))
        return every[order[: self.how.reference or len(every)]]

    @cached_property
    def real(self) -> Tensor:
        """As many training samples as are generated, as far as there are so many: the best that can be hoped for."""
        every = self.view.shards.y.cpu()
        return every[keys.permutation(keys.fold(self.view.seed, "floor"), len(every))[: self.how.generated]]

    def costs(self) -> dict[str, float]:
        """Of the router: accuracy, bytes to send it, samples that it saw, and products of its training over theirs."""
        how, model, routing = self.how, self.experts[0].model, self.routing
        if routing is None:
            return {}
        theirs = model.size * how.descent.rounds * how.descent.steps
        return {
            "router_accuracy": sum(routing.accuracy) / len(routing.accuracy),
            "router_bytes": float(Codec().length({"w": torch.zeros(routing.size)})),
            "router_samples": float(len(self.held[0])),
            "router_work": routing.size * how.routing.rounds * how.routing.steps / theirs,
        }

    def draw(self, samples: Mapping[str, Tensor], distances: Mapping[str, float]) -> None:
        """What a person wants to see."""
        how, view = self.how, self.view
        kinds = {REAL: self.test, **{n: samples[n] for n in (ONE, *samples) if n in samples}}
        if pictures := self.pictures(kinds):
            view.draw({
                "type": "images", "name": "samples", "title": "Samples",
                "images": [picture for row in pictures.values() for picture in row],
                "captions": [name if not i else "" for name, row in pictures.items() for i in range(len(row))],
                "reading": "Below the first row, pictures in a column began as the same noise.",
            })  # fmt: skip
        names = list(distances)
        view.draw({
            "type": "bars", "name": "frechet", "title": "Distance from the test set", "labels": names,
            "groups": {"distance": [distances[name] for name in names]}, "ylabel": "squared Frechet distance",
            "reading": "The floor is that of as many training samples.",
        })  # fmt: skip
        sizes = torch.bincount(self.held[1], minlength=len(self.ids)).tolist()
        labels = [f"expert {peer}" for peer in self.ids]
        view.draw({
            "type": "bars", "name": "clusters", "title": "Samples of the experts", "labels": labels,
            "groups": {"samples": sizes}, "ylabel": "samples",
        })  # fmt: skip
        if how.clean.task == "classification":
            view.draw({
                "type": "heatmap", "name": "classes", "title": "What the experts saw", "x": list(how.clean.classes),
                "y": labels, "values": self.classes().tolist(), "unit": "samples",
            })  # fmt: skip
        if (routing := self.routing) is not None:
            most = max(sizes) / sum(sizes)
            view.draw({
                "type": "lines", "name": "router", "title": "Router", "x": routing.times, "xlabel": "time, 1 is noise",
                "lines": {"accuracy": routing.accuracy, "largest cluster": [most] * len(routing.times)},
                "ylabel": "accuracy", "reading": "On samples that it has not seen.",
            })  # fmt: skip

    def classes(self) -> Tensor:
        """Samples of each class at each expert ``[K, classes]``."""
        at, owner = self.held
        label = torch.from_numpy(self.how.clean.subset(len(self.view.shards.x), self.view.seed).y)[at]
        C = len(self.how.clean.classes)
        return torch.bincount(owner * C + label, minlength=len(self.ids) * C).reshape(-1, C)

    def pictures(self, kinds: Mapping[str, Tensor]) -> dict[str, NDArray[np.float64]]:
        """A few pictures of the first kinds, where the data are pictures of one channel."""
        shape = self.how.back.shape
        if len(shape) != 3 or shape[0] != 1:
            return {}
        few: dict[str, Any] = dict(list(kinds.items())[:ROWS])
        return {
            name: self.how.back.back(x[:SHOWN].numpy())[:, 0].clip(0, 1).round(3).tolist() for name, x in few.items()
        }
