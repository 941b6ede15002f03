"""What a run has told so far, added up for every peer, as epsilon and delta; and a budget that ends the run."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hubless.errors import ConfigError
from hubless.learn.plan import Plan, Train, World
from hubless.learn.privacy.mechanisms import accounting
from hubless.learn.slots import Hook, Mechanism, View

Counts = dict[str, Tensor]


@dataclass(frozen=True)
class Spending:
    """What a round tells about whom.

    unit: what is protected: one ``sample`` of a peer, or a ``peer`` with all that it has
    cost: (role, own samples) -> divergence of one training in that role; the fewer samples, the more it tells
    """

    unit: str
    cost: Callable[[str, int], Mechanism]

    def charges(self, plan: Plan, world: World) -> Counts:
        """How often the plan has each peer train ``[N]``, by role; peers without data never do."""
        found: Counts = {}
        for step in plan:
            for role, peers in step.roles.items() if isinstance(step, Train) else ():
                found.setdefault(role, torch.zeros(world.n, dtype=torch.int64))[peers] += 1
        return {role: count * (world.sizes.cpu() > 0) for role, count in found.items()}

    def paid(self, charges: Counts, trained: Tensor) -> Counts:
        """What of it came about; ``trained [N]`` says who trained in the round."""
        return {role: count * trained for role, count in charges.items()}


class Accountant(Hook):
    """Metrics ``epsilon`` and ``delta``: what the run has told by now about one record of the peer worst off.

    Renyi divergences add up over a peer's uses, whatever each of them was told before (arXiv 1702.07476, proposition
    1), and become ``(epsilon, delta)`` by ``dp_accounting`` (arXiv 2004.00010, proposition 12). Nothing is shown of an
    epsilon that is infinite.

    spending: what a round tells about whom
    delta:    the probability that epsilon does not cover
    budget:   the run ends before the round that could bring epsilon above it; 0: no limit

    Raises ConfigError for values that mean nothing, and when ``dp_accounting`` is missing.
    """

    def __init__(self, spending: Spending, *, delta: float = 1e-5, budget: float = 0.0) -> None:
        if not 0 < delta < 1:
            raise ConfigError(f"privacy.delta = {delta:g}: must be in (0, 1)")
        if not 0 <= budget < math.inf:
            raise ConfigError(f"privacy.budget = {budget:g}: must not be negative; 0 sets no limit")
        self.spending, self.delta, self.budget = spending, delta, budget
        self.orders: list[float] = [float(order) for order in accounting().rdp.RdpAccountant().orders]
        self.cost = cache(self._cost)
        self.spent: Counts = {}
        self._planned: Counts = {}
        self._sizes = torch.zeros(0, dtype=torch.int64)

    def before(self, t: int, plan: Plan, world: World) -> str | None:
        """Why the round cannot be afforded, supposing that everyone in its plan takes part."""
        if t == 1:
            self.spent = {}
        self._sizes = world.sizes.cpu()
        self._planned = self.spending.charges(plan, world)
        if not self.budget:
            return None
        epsilon = self.epsilon(_add(self.spent, self._planned))
        if epsilon <= self.budget:
            return None
        return f"privacy: round {t} would bring epsilon to {epsilon:.3g}, above the budget of {self.budget:g}"

    def round(self, view: View) -> Mapping[str, float]:
        """Add up the round."""
        self.spent = _add(self.spent, self.spending.paid(self._planned, view.trained))
        epsilon = self.epsilon(self.spent)
        return {"epsilon": epsilon, "delta": self.delta} if math.isfinite(epsilon) else {}

    def epsilon(self, spent: Counts) -> float:
        """Of the peer worst off, for uses ``[N]`` by name."""
        dp = accounting()
        found = [0.0]
        for size, counts in _worst(self._sizes, spent):
            total = np.sum([count * self.cost(name, size) for name, count in counts.items() if count], axis=0)
            found.append(float(dp.rdp.compute_epsilon(self.orders, total, self.delta)[0]))
        return max(found)

    def _cost(self, name: str, size: int) -> NDArray[np.float64]:
        mechanism = self.spending.cost(name, size)
        return np.array([mechanism(order) for order in self.orders])

    def state(self) -> dict[str, Any]:
        """Uses so far."""
        return {name: count.tolist() for name, count in self.spent.items()}

    def restore(self, state: Mapping[str, Any]) -> None:
        """The inverse."""
        self.spent = {name: torch.tensor(count, dtype=torch.int64) for name, count in state.items()}


def _add(spent: Counts, more: Counts) -> Counts:
    return spent | {name: spent[name] + count if name in spent else count for name, count in more.items()}


def _worst(sizes: Tensor, spent: Counts) -> list[tuple[int, dict[str, int]]]:
    """Own samples and uses of peers of which one is worst off: nobody has fewer samples and as many uses of each."""
    if not spent:
        return []
    rows, which = np.unique(torch.stack(list(spent.values()), dim=1).numpy(), axis=0, return_inverse=True)
    least = np.full(len(rows), np.iinfo(np.int64).max)
    np.minimum.at(least, which, sizes.numpy())
    peers = [(size, uses) for size, uses in zip(least.tolist(), rows.tolist(), strict=True) if any(uses)]
    kept = [peer for peer in peers if not any(other != peer and _worse(other, peer) for other in peers)]
    return [(size, dict(zip(spent, uses, strict=True))) for size, uses in kept]


def _worse(other: tuple[int, list[int]], peer: tuple[int, list[int]]) -> bool:
    return other[0] <= peer[0] and all(a >= b for a, b in zip(other[1], peer[1], strict=True))
