"""From the state of a run to its records."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from hubless.learn.evaluate import Evaluation, distances, mean_row, watched
from hubless.learn.slots import View
from hubless.learn.success import Success
from hubless.learn.wiring import Wiring
from hubless.net.faults import Weather
from hubless.run.record import Record

if TYPE_CHECKING:
    from hubless.learn.learning import Run

PEERS = 512  # beyond this many peers, records hold no per-peer values
EDGES = 2000


class Observer:
    """Evaluates the population when it is due, and writes records."""

    def __init__(self, run: Run, wiring: Wiring) -> None:
        self.run = run
        self.wiring = wiring
        self.population = wiring.population
        self.evaluation = Evaluation(wiring.shards, wiring.workers, wiring.kernel)
        self.success = Success(wiring, self.evaluation)
        self.few = watched(self.population, wiring.seed)
        self.figures: list[dict[str, Any]] = []
        self.said: list[str] = []
        self.honest = torch.tensor([peer not in wiring.hostile for peer in range(wiring.n)])

    def start(self) -> Record:
        """The world before the first round."""
        run, wiring = self.run, self.wiring
        learning = run.learning
        data: dict[str, Any] = {
            "peers": wiring.n,
            "names": {
                "data": wiring.shards.data.name,
                "partition": str(learning.workload.partition),
                "model": ", ".join(model.name for model, _ in run.models),
                "overlay": type(learning.overlay).__name__,
                "merge": type(run.merge.reduce).__name__
                if type(run.merge).__name__ == "Merge"
                else type(run.merge).__name__,
                "local": ", ".join(f"{type(one).__name__}" for one in run.local.values()),
                "attack": type(run.attack).__name__ if run.attack else "none",
            },
            "parameters": run.models[0][0].size,
            "samples": wiring.shards.sizes.tolist(),
            "classes": list(wiring.shards.data.classes),
            "hostile": sorted(wiring.hostile),
            "aggregator": 0 if learning.overlay.shared else None,
            "faults": run.schedule,
        }
        if (counts := wiring.shards.counts()) is not None and wiring.n <= PEERS:
            data["partition"] = counts
        if run.edges is not None:
            data["names"]["topology"] = str(getattr(learning.overlay, "topology", "topology"))
            if wiring.n <= EDGES:
                pairs = {
                    (min(a, b), max(a, b)) for a, b in zip(run.edges.src.tolist(), run.edges.dst.tolist(), strict=True)
                }
                data["edges"] = sorted(pairs)
                if (mixing := getattr(learning.overlay, "mixing", None)) is not None:
                    data["spectral_gap"] = mixing(wiring.n, wiring.seed, wiring.shards.sizes).spectral_gap()
        return Record("start", 0, data=data)

    def weather(self, t: int, weather: Weather) -> Iterator[Record]:
        """What the fault schedule begins or ends in this round, in words."""
        for text in weather.describe():
            yield Record("event", t, data={"text": text, "level": "warning"})

    def events(self, t: int) -> Iterator[Record]:
        """What went wrong inside the round, in words, at most a few a round; and what hooks said and drew."""
        texts = self.wiring.events
        for told in texts[:5]:
            yield Record("event", t, data={"text": told.line, "level": "warning"})
        if len(texts) > 5:
            yield Record("event", t, data={"text": f"... and {len(texts) - 5} more like these", "level": "warning"})
        texts.clear()
        for text in self.said:
            yield Record("event", t, data={"text": text})
        self.said.clear()
        for data in self.figures:
            yield Record("figure", t, data=data)
        self.figures.clear()

    def round(
        self, t: int, weather: Weather, trained: Tensor, outcome: list[int] | None, chatter: Mapping[str, float]
    ) -> Record:
        """The record of a round; when it is due or the last, every peer (of the ``outcome``) is evaluated."""
        setting = self.run.setting
        metrics = {**self.wiring.meter.metrics(), **chatter}
        metrics["trained"] = float(trained.sum())
        metrics["alive"] = float(weather.alive[self.population.members()].sum())
        if self.wiring.losses:
            metrics["train_loss"] = float(torch.cat(self.wiring.losses).mean())
        peers: dict[str, list[float | None]] = {}
        if t % setting.evaluate == 0 or t == self.run.rounds:
            scores, peers = self._scores(weather, outcome, whole=False)
            metrics |= scores
        for hook in self.wiring.hooks:
            view = View(
                t, self.run.rounds, self.population, metrics, self._exclude(t), self.wiring.shards, trained,
                peers, self.wiring.seed, self.figures.append, self.said.append,
            )  # fmt: skip
            metrics |= hook.round(view)
        if self.wiring.n <= PEERS:
            peers["bytes"] = self.wiring.meter.sent.tolist()
            if self.run.schedule:
                peers["alive"] = [float(flag) for flag in weather.alive]
        return Record("round", t, metrics, peers)

    def _exclude(self, t: int) -> Any:
        def exclude(peer: int) -> None:
            self.population.excluded.add(peer)
            self.wiring.tell(f"peer {peer} excluded in round {t}")

        return exclude

    def end(self, t: int, weather: Weather, outcome: list[int] | None) -> Record:
        """Final metrics on the whole test set, after round t."""
        metrics, peers = self._scores(weather, outcome, whole=True)
        metrics |= self.wiring.meter.metrics()
        return Record("end", t, metrics, peers, {"finished": True})

    def _scores(
        self, weather: Weather, outcome: list[int] | None, *, whole: bool
    ) -> tuple[dict[str, float], dict[str, list[float | None]]]:
        live = torch.from_numpy(weather.alive) & self.honest
        if outcome is not None:
            meant = live & torch.isin(torch.arange(self.wiring.n), torch.tensor(outcome, dtype=torch.int64))
            live = meant if bool(meant.any()) else live
        for peer in self.population.excluded:
            live[peer] = False
        if self.population.shared:
            return self._shared_scores(live, whole), {}
        everyone = outcome is not None or (whole and self.wiring.n <= PEERS)
        watch = torch.nonzero(live).flatten() if everyone else self.few[live[self.few]]
        accuracy = torch.full((self.wiring.n,), torch.nan)
        loss, gap = accuracy.clone(), accuracy.clone()
        metrics: dict[str, float] = {}
        for cohort in self.population.cohorts:
            here = torch.isin(cohort.ids, watch)
            peers = cohort.ids[here]
            if not len(peers):
                continue
            rows, state = cohort.take(self.population.place[peers])
            accuracy[peers], loss[peers] = self.evaluation.score(cohort.model, rows, state, whole=whole)
            mean, statistics = mean_row(cohort, cohort.ids[live[cohort.ids]])
            gap[peers] = distances(cohort, peers, mean).cpu()
            if len(self.population.cohorts) == 1:
                score, cost = self.evaluation.score(cohort.model, mean, {**state_of(state), **statistics}, whole=whole)
                metrics["accuracy_mean_model"] = float(score[0])
                metrics["loss_mean_model"] = float(cost[0])
        seen = ~torch.isnan(loss)
        if not bool(seen.any()):
            return {}, {}
        metrics |= {"loss": float(loss[seen].mean()), "consensus": float(gap[seen].mean())}
        metrics |= self.success.metrics(watch, whole=whole)
        if self.evaluation.classes:
            got = accuracy[seen]
            metrics |= {
                "accuracy": float(got.mean()),
                "accuracy_worst": float(got.min()),
                "accuracy_best": float(got.max()),
                "accuracy_std": float(got.std()) if len(got) > 1 else 0.0,
            }
        else:
            metrics.pop("accuracy_mean_model", None)
        if self.wiring.n > PEERS:
            return metrics, {}
        names = (
            {"accuracy": accuracy, "loss": loss, "consensus": gap}
            if self.evaluation.classes
            else {"loss": loss, "consensus": gap}
        )
        return metrics, {name: [None if v != v else v for v in value.tolist()] for name, value in names.items()}

    def _shared_scores(self, live: Tensor, whole: bool) -> dict[str, float]:
        cohort = self.population.cohorts[0]
        state = {name: cohort.state[name][:1] for name in cohort.model.buffers}
        accuracy, loss = self.evaluation.score(cohort.model, cohort.rows, state, whole=whole)
        metrics = {"loss": float(loss[0])}
        if self.evaluation.classes:
            metrics["accuracy"] = metrics["accuracy_mean_model"] = float(accuracy[0])
        return metrics | self.success.metrics(torch.nonzero(live).flatten(), whole=whole)


def state_of(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The first peer's entries, as a chunk of one."""
    return {name: value[:1] for name, value in state.items()}
