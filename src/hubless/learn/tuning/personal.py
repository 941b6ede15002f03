"""How good each peer is at its own task: test samples of its own classes, as its own domain shows them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from hubless.data.partition import Partition
from hubless.learn.probes import accuracy
from hubless.learn.slots import Hook, View
from hubless.learn.tuning.beside import Beside


@dataclass(frozen=True)
class OwnTask(Hook):
    """Accuracy of each peer on its own task, whenever the round is evaluated; ``samples`` of it, all in the last round.

    partition: shows the test inputs to each peer as it does the training inputs
    merge:     where an aggregator keeps the model, what it would now answer counts as ``accuracy_own``, and the rows,
               tuned since the last answer, as ``accuracy_tuned``; else both are the rows
    domains:   a word for each peer's domain, for the figure of the last round
    """

    partition: Partition
    merge: Beside | None = None
    samples: int = 200
    domains: tuple[str, ...] = ()

    def round(self, view: View) -> Mapping[str, float]:
        """``accuracy_own``, that of the worst peer, and ``accuracy_tuned``; the first also for each peer."""
        if "loss" not in view.metrics:
            return {}
        own, tuned = [], []
        for peer in range(view.population.n):
            x, y = self.task(view, peer)
            cohort, w, s = view.population.peer(peer)
            told = self.merge.told(view.population, peer) if self.merge is not None else None
            tuned.append(accuracy(cohort.model, w, s, x, y))
            own.append(tuned[-1] if told is None else accuracy(cohort.model, told, s, x, y))
        view.peers["accuracy_own"] = list(own)
        n = len(own)
        if view.t == view.rounds:
            labels = [f"{peer} {domain}".strip() for peer, domain in enumerate(self.domains or [""] * n)]
            groups = {"as sent": own, "as tuned": tuned} if self.merge is not None else {"as tuned": tuned}
            view.draw({"type": "bars", "name": "own", "title": "Accuracy of each peer on its own classes and domain",
                       "labels": labels, "groups": groups, "ylabel": "test accuracy"})  # fmt: skip
            view.say(f"on their own tasks: accuracy {sum(own) / n:.3f}, that of the worst peer {min(own):.3f}")
        return {"accuracy_own": sum(own) / n, "accuracy_own_worst": min(own), "accuracy_tuned": sum(tuned) / n}

    def task(self, view: View, peer: int) -> tuple[Tensor, Tensor]:
        """Test inputs ``[M, ...]`` and labels ``[M]`` of one peer."""
        shards = view.shards
        held = torch.nonzero(shards.classes[peer]).flatten().to(shards.test_y.device)
        rows = torch.nonzero(torch.isin(shards.test_y, held)).flatten()
        rows = rows if view.t == view.rounds else rows[: self.samples]
        x = self.partition.shift(shards.test_x[rows].cpu().numpy(), peer, view.population.n)
        return torch.from_numpy(x).to(shards.test_x), shards.test_y[rows]


@dataclass(frozen=True)
class Likeness(Hook):
    """How alike the prompts are that the aggregator has for the peers: cosines between them, less their mean.

    Metrics, in the last round: ``prompt_distance``, the least distance of two peers' prompts over their mean norm;
    ``likeness_within`` and ``likeness_across``, mean cosines of peers of one domain and of two. A figure shows all.

    domains: the domain of each peer
    """

    merge: Beside
    domains: tuple[str, ...]

    def round(self, view: View) -> Mapping[str, float]:
        """Nothing before the last round."""
        told = [self.merge.told(view.population, peer) for peer in range(view.population.n)]
        if view.t < view.rounds or any(row is None for row in told):
            return {}
        size = view.population.cohorts[0].model.shared_size
        prompts = torch.stack([row[:size] for row in told if row is not None])
        gaps = torch.cdist(prompts[None], prompts[None])[0]
        apart = ~torch.eye(len(prompts), dtype=torch.bool)
        found = {"prompt_distance": float(gaps[apart].min() / prompts.norm(dim=1).mean())}
        unit = functional.normalize(prompts - prompts.mean(0), dim=1)
        cosines = unit @ unit.T
        same = torch.tensor([[a == b for b in self.domains] for a in self.domains])
        for name, pairs in (("within", same & apart), ("across", ~same)):
            if bool(pairs.any()):
                found[f"likeness_{name}"] = float(cosines[pairs].mean())
        view.draw(self._figure(cosines))
        return found

    def _figure(self, cosines: Tensor) -> dict[str, Any]:
        order = sorted(range(len(self.domains)), key=lambda peer: (self.domains[peer], peer))
        labels = [f"{peer} {self.domains[peer]}".strip() for peer in order]
        values = cosines[order][:, order].mul(100).round().div(100).tolist()
        return {
            "type": "heatmap", "name": "likeness", "title": "How alike the prompts of peers are", "x": labels,
            "y": labels, "unit": "cosine, less the mean prompt", "values": values,
        }  # fmt: skip
