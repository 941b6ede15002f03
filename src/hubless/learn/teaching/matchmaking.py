"""Matchmaking alone: the matchmaker chooses pairs whose true worth is known, and nobody trains.

Peer i has a quality ``q_i`` and shares ``h_i`` of some classes. A lesson of i for j is worth
``(q_i - q_j) + 1.5 h_i . h_j - 0.3``, and is seen with noise. Regret is what the best disjoint pairs, taken greedily,
would have been worth beyond those that were chosen.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hubless.errors import CheckpointError
from hubless.learn import keys
from hubless.learn.plan import Book, World
from hubless.learn.population import leaves, tree
from hubless.learn.teaching.lessons import figures
from hubless.learn.teaching.matchmaker import REWARD, TAUGHT, Matchmaker, Pairs, disjoint
from hubless.learn.teaching.profiles import PROFILE, Array
from hubless.net.faults import Faults
from hubless.run.record import Experiment, Record, Snapshot
from hubless.run.setting import Setting

COMMON, COST = 1.5, 0.3


@dataclass(frozen=True)
class Matchmaking:
    """A matchmaker for profiles ``[1 + bins]``, for a number of rounds.

    alpha: shares are drawn from Dirichlet(alpha)
    noise: deviation of a reward
    """

    overlay: Matchmaker
    peers: int = 16
    rounds: int = 100
    alpha: float = 0.3
    noise: float = 0.15

    def under(self, setting: Setting) -> Experiment:
        """The same experiment under other house options. Raises ConfigError for what cannot work together."""
        return Run(self, setting)

    def profiles(self, seed: int) -> Array:
        """``[N, 1 + bins]``: quality, uniform in [0, 1], and shares."""
        rng = np.random.default_rng([seed, 0x3A7C])
        shares = rng.dirichlet(np.full(self.overlay.bins, self.alpha), self.peers)
        return np.concatenate([rng.uniform(size=(self.peers, 1)), shares], axis=1)


def utility(profiles: Array) -> Array:
    """What a lesson of i for j is worth ``[N, N]``."""
    q, h = profiles[:, 0], profiles[:, 1:]
    worth: Array = q[:, None] - q[None] + COMMON * h @ h.T - COST
    return worth


@dataclass
class _State:
    """What changes: ``given [N, N, 2]`` are number and sum of the rewards of i's lessons for j."""

    book: Book
    given: Tensor
    regret: list[float] = field(default_factory=list)
    round: int = 0


class Run:
    """A ``Matchmaking`` under a setting."""

    def __init__(self, asked: Matchmaking, setting: Setting) -> None:
        self.asked = asked
        self.setting = setting
        self.profiles = asked.profiles(setting.seed)
        self.worth = utility(self.profiles)
        self.overlay = replace(asked.overlay, utility=tuple(map(tuple, self.worth.tolist())))
        self.overlay.check(asked.peers, setting.seed)
        self.faults = Faults.of(setting.faults, n=asked.peers, seed=setting.seed)
        self._state: _State | None = None

    @property
    def rounds(self) -> int:
        """Rounds of a whole run."""
        return self.asked.rounds

    def under(self, setting: Setting) -> Experiment:
        """The same experiment under other house options."""
        return self.asked.under(setting)

    def records(self, resume: Snapshot | None = None) -> Iterator[Record]:
        """Match, look, learn."""
        n = self.asked.peers
        state = self._state = _State(self.overlay.init(self._world(np.ones(n, bool))), torch.zeros(n, n, 2))
        if resume is None:
            names = {"overlay": "Matchmaker", "match": self.overlay.match, "context": self.overlay.context}
            yield Record("start", 0, data={"peers": n, "names": names})
        else:
            self._restore(resume, state)
        for t in range(state.round + 1, self.rounds + 1):
            weather = self.faults.at(t)
            for text in weather.describe():
                yield Record("event", t, data={"text": text, "level": "warning"})
            metrics = self._round(t, weather.alive, state)
            state.round = t
            if t == self.rounds:
                yield from (Record("figure", t, data=data) for data in self._figures(state))
            yield Record("round", t, metrics=metrics)
        last = {"regret": state.regret[-1], "regret_of_random": self._blind * state.round}
        yield Record("end", state.round, metrics=last)

    def _world(self, alive: Any) -> World:
        n = self.asked.peers
        sizes = torch.ones(n, dtype=torch.int64)
        return World(n, self.setting.seed, sizes, list(range(n)), lambda peer: bool(alive[peer]))

    def _round(self, t: int, alive: Any, state: _State) -> dict[str, float]:
        book, seed, n = state.book, self.setting.seed, self.asked.peers
        plan = self.overlay.plan(t, self._world(alive), book)
        noise = self.asked.noise * keys.normal(keys.fold(seed, "reward", t), (n,))
        rewards = {j: torch.tensor(self.worth[i, j]) + noise[j] for i, j in book["pairs"]}
        taught = {j: torch.tensor(t if j in rewards else 0) for j in range(n)}
        profiles = {i: torch.from_numpy(self.profiles[i]).float() for i in range(n)}
        self.overlay.observe(t, plan, {PROFILE: profiles, REWARD: rewards, TAUGHT: taught}, book)
        for i, j in book["pairs"]:
            state.given[i, j] += torch.stack([torch.ones(()), rewards[j].float()])
        chosen, best = self._sum(book["pairs"]), self._sum(self._best(alive))
        state.regret.append((state.regret or [0.0])[-1] + best - chosen)
        return {"regret": state.regret[-1], "utility": chosen, "best_utility": best, "pairs": float(len(book["pairs"]))}

    def _best(self, alive: Any) -> Pairs:
        return disjoint(np.where(alive[:, None] & alive[None], self.worth, -np.inf), self.overlay.pairs)

    def _sum(self, pairs: Pairs) -> float:
        return float(sum(self.worth[i, j] for i, j in pairs))

    @property
    def _blind(self) -> float:
        """Regret a round that pairs drawn at random come to on average, with everyone there."""
        mean = self.worth[~np.eye(self.asked.peers, dtype=bool)].mean()
        return self._sum(self._best(np.ones(self.asked.peers, bool))) - self.overlay.pairs * float(mean)

    def _figures(self, state: _State) -> Iterator[dict[str, Any]]:
        rounds = list(range(1, len(state.regret) + 1))
        lines = {self.overlay.match: state.regret, "random pairs, on average": [self._blind * t for t in rounds]}
        yield {"type": "lines", "title": "Cumulative regret", "x": rounds, "lines": lines, "xlabel": "round",
               "ylabel": "regret"}  # fmt: skip
        yield from figures([[(int(count), float(total)) for count, total in row] for row in state.given.tolist()])
        names = [str(peer) for peer in range(self.asked.peers)]
        yield {"type": "heatmap", "title": "What a lesson is truly worth", "x": [f"to {name}" for name in names],
               "y": [f"from {name}" for name in names], "values": self.worth.tolist(), "unit": "reward"}  # fmt: skip

    def snapshot(self) -> Snapshot:
        """The matchmaker's book and the regret so far."""
        if self._state is None:
            raise CheckpointError("checkpoint: the run has not begun")
        book = dict(leaves(self._state.book))
        tensors = {f"overlay/{path}": value for path, value in book.items() if isinstance(value, Tensor)}
        scalars = {path: value for path, value in book.items() if not isinstance(value, Tensor)}
        return Snapshot(self._state.round, {**tensors, "given": self._state.given.clone()},
                        {"overlay": scalars, "regret": list(self._state.regret)})  # fmt: skip

    def _restore(self, snapshot: Snapshot, state: _State) -> None:
        state.book = tree("overlay", snapshot.tensors, snapshot.meta["overlay"])
        state.given, state.regret = snapshot.tensors["given"].clone(), list(snapshot.meta["regret"])
        state.round = snapshot.round

    def model(self) -> dict[str, Tensor]:
        """What the bandit learned."""
        return {} if self._state is None else dict(self._state.book["bandit"])
