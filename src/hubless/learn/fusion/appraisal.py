"""What a merged model is worth beside its base, its experts and what other methods make of the same experts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from hubless.learn.context import Batch, State
from hubless.learn.fusion.oneshot import BASE, EXPERTS, Assembled, judged, known_to
from hubless.learn.model import Model
from hubless.learn.slots import Hook, View
from hubless.merging.method import Method
from hubless.merging.search import layers
from hubless.models.vocabulary import Reader, bits


@dataclass(frozen=True)
class Appraisal(Hook):
    """Accuracy of the base, of the best expert and of other methods on the test set, and what the search found.

    merge:   that of the run
    others:  methods to compare with in the last round, by name; none saves their time
    """

    merge: Assembled
    others: Mapping[str, Method] = field(default_factory=dict)

    def round(self, view: View) -> Mapping[str, float]:
        """``accuracy_base``, ``accuracy_expert`` of the best, ``accuracy_NAME`` of others; figures at the end."""
        peer = self.merge.publisher
        book = view.population.book(peer)
        if EXPERTS not in book:
            return {}
        cohort, _, s = view.population.peer(peer)
        found = {"foreign": float(book["foreign"])} if book["foreign"] else {}
        if view.t == view.rounds and "search" in book:
            draw_search(view, cohort.model, book["search"], book["who"])
        if not view.shards.classes.shape[1]:
            return found
        test = Batch(view.shards.test_x, view.shards.test_y)
        scores = {"base": correct(cohort.model, book[BASE], s, test)}
        each = [correct(cohort.model, row, s, test) for row in book[EXPERTS]]
        scores["expert"] = max(each)
        found |= {"gain": correct(cohort.model, view.population.peer(peer)[1], s, test) - scores["expert"]}
        if view.t == view.rounds and self.others:
            scores |= {name: self._score(method, view, test) for name, method in self.others.items()}
            shown = {"base": scores["base"], **{f"expert {who}": x for who, x in zip(book["who"], each, strict=True)}}
            shown |= {name: scores[name] for name in self.others}
            view.draw({
                "type": "bars", "name": "arms", "title": "The same experts, merged in other ways",
                "reading": "Accuracy on the whole test set; every method had the same base and the same experts.",
                "labels": list(shown), "groups": {"accuracy": list(shown.values())}, "ylabel": "accuracy",
            })  # fmt: skip
        return found | {f"accuracy_{name.replace('-', '_')}": score for name, score in scores.items()}

    def _score(self, method: Method, view: View, test: Batch) -> float:
        cohort, _, s = view.population.peer(self.merge.publisher)
        book, model = view.population.book(self.merge.publisher), cohort.model
        known = [
            {name.split(":", 1)[1]: value for name, value in known_to(method.rule, model, row, s, Batch(
                *view.shards.own(who))).items()}
            for who, row in zip(book["who"], book[EXPERTS], strict=True)
        ] if method.search == "none" and method.rule.statistics else None  # fmt: skip
        held = self.merge.samples(Batch(*view.shards.held(self.merge.publisher)))
        merged, _ = method.merged(
            model.unflatten(book[BASE]), [model.unflatten(row) for row in book[EXPERTS]], known,
            judged(model, s, held), view.seed,
        )  # fmt: skip
        return correct(model, torch.cat([value.flatten() for value in merged.values()]), s, test)


def draw_search(view: View, model: Model, found: Mapping[str, Any], who: Sequence[int]) -> None:
    """The coefficients of every layer and expert, and how fitness rose."""
    view.draw({
        "type": "heatmap", "name": "coefficients", "title": "Coefficients that the search found",
        "reading": "How much of each expert's task vector went into each layer; a plain mean has the same everywhere.",
        "x": [f"expert {peer}" for peer in who],
        "y": [f"layer {name}" for name in layers(model.names)],
        "values": found["coefficients"].tolist(), "unit": "coefficient",
    })  # fmt: skip
    view.draw({
        "type": "lines", "name": "search", "title": "The search",
        "reading": "Fitness is minus the mean loss on validation samples, which are none of the test set's.",
        "x": list(range(len(found["best"]))), "xlabel": "generation",
        "ylabel": "fitness on validation samples",
        "lines": {"best so far": found["best"], "mean of the candidates": found["mean"]},
    })  # fmt: skip


def correct(model: Model, w: Tensor, s: State, test: Batch) -> float:
    """Share of the samples that a model classifies as they are."""
    with torch.no_grad():
        hits = [
            (model.forward(w, x, s).argmax(-1) == y).sum()
            for x, y in zip(torch.split(test.x, 1024), torch.split(test.y, 1024), strict=True)
        ]
    return float(sum(hits)) / len(test.y)


@dataclass(frozen=True, eq=False)
class Bits(Hook):
    """Bits a character of the pivot's model on texts of each domain, before it heard of other models and after.

    texts: ``[M, L]`` characters, by the domain's name
    peer:  the pivot
    """

    texts: Mapping[str, Tensor]
    peer: int = 0

    def round(self, view: View) -> Mapping[str, float]:
        """``bits_DOMAIN``, ``bits_DOMAIN_before``, and ``taken``, the share of texts that a source knew better."""
        cohort, w, s = view.population.peer(self.peer)
        book = view.population.book(self.peer)
        found = {f"bits_{name}": self._bits(cohort.model, w, s, x) for name, x in self.texts.items()}
        if "before" not in book:
            return found
        before = {name: self._bits(cohort.model, book["before"], s, x) for name, x in self.texts.items()}
        if view.t == view.rounds:
            view.draw({
                "type": "bars", "name": "bits", "title": "The pivot before and after fusion",
                "reading": "Bits a character on held-out texts of each domain; less is better.",
                "labels": list(self.texts), "ylabel": "bits a character",
                "groups": {"before": list(before.values()), "after": [found[f"bits_{name}"] for name in self.texts]},
            })  # fmt: skip
        return found | {f"bits_{name}_before": value for name, value in before.items()} | {"taken": book["taken"]}

    @staticmethod
    def _bits(model: Model, w: Tensor, s: State, x: Tensor) -> float:
        with torch.no_grad():
            costs = torch.cat([model.loss(model.forward(w, part, s), part) for part in torch.split(x, 64)])
        return bits(float(costs.mean()))


@dataclass(frozen=True, eq=False)
class Answers(Hook):
    """How often a model of text says what follows a prompt: the base, the experts and what was merged of them.

    probes: texts ``[M, L]`` in characters, and the place of the answer, by name
    peer:   the one that merges
    """

    probes: Mapping[str, tuple[Tensor, int]]
    peer: int = 0

    def round(self, view: View) -> Mapping[str, float]:
        """``answers_PROBE`` of the merged model, ``answers_PROBE_base`` and ``answers_PROBE_expert`` of the best."""
        cohort, w, s = view.population.peer(self.peer)
        book = view.population.book(self.peer)
        if EXPERTS not in book:
            return {}
        experts = {f"expert {who}": row for who, row in zip(book["who"], book[EXPERTS], strict=True)}
        rows = {"base": book[BASE], **experts, "merged": w}
        right = {who: [self._right(cohort.model, row, s, *probe) for probe in self.probes.values()]
                 for who, row in rows.items()}  # fmt: skip
        if view.t == view.rounds:
            view.draw({
                "type": "bars", "name": "answers", "title": "Right answers", "labels": list(self.probes),
                "reading": "How often each model is right; the composition of both tasks is in nobody's training.",
                "groups": right, "ylabel": "accuracy",
            })  # fmt: skip
        found = {}
        for at, name in enumerate(self.probes):
            found[f"answers_{name}"] = right["merged"][at]
            found[f"answers_{name}_base"] = right["base"][at]
            found[f"answers_{name}_expert"] = max(right[f"expert {who}"][at] for who in book["who"])
        return found

    @staticmethod
    def _right(model: Model, w: Tensor, s: State, x: Tensor, place: int) -> float:
        reader = model.module
        assert isinstance(reader, Reader)
        with torch.no_grad():
            said = model.forward(w, x, s)[:, place - 1].argmax(-1)
        return float((said == reader.vocabulary.encode(x)[:, place]).float().mean())
