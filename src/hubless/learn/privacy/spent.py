"""What a run with a coordinatewise mechanism has told about a peer, added up round by round."""

from __future__ import annotations

import math
from collections.abc import Mapping

from hubless.learn.privacy.coordinates import Coordinatewise
from hubless.learn.slots import Hook, View


def hidden_among(senders: int) -> int:
    """Over how many peers a sum is for an aggregator that sent one of its messages itself."""
    return max(1, senders - 1)


class Spent(Hook):
    """What a run has told so far about a peer that took part in every round, divergences added up honestly.

    mechanism: of every coordinate
    alpha:     order of the Renyi divergence
    hidden:    the aggregator sees only sums, so that peers hide each other; it may be one of them, and knows its own
               share. That other peers work together with it is not counted.

    Metrics: ``renyi_coordinate`` (one coordinate in this round), ``renyi_total`` (all coordinates, all rounds so far)
    and ``epsilon_total`` (the same for pure differential privacy). Nothing is shown of what is infinite.
    """

    def __init__(self, mechanism: Coordinatewise, alpha: float, *, hidden: bool = False) -> None:
        self.mechanism, self.alpha, self.hidden = mechanism, alpha, hidden
        self.renyi = self.pure = 0.0
        self._lost = 0.0

    def round(self, view: View) -> Mapping[str, float]:
        """One more round; messages that were lost hide nobody."""
        accountant, lost = self.mechanism.accountant, view.metrics.get("lost", 0.0)
        senders = int(view.metrics["trained"])
        peers = hidden_among(senders - int(lost - self._lost)) if self.hidden else 1
        self._lost = lost
        size = max(cohort.model.size for cohort in view.population.cohorts)
        once = accountant.epsilon(self.alpha, peers) if senders else 0.0
        if senders:
            self.renyi += accountant.total(self.alpha, size, 1, peers)
            self.pure += accountant.total(math.inf, size, 1, peers)
        told = {"renyi_coordinate": once, "renyi_total": self.renyi, "epsilon_total": self.pure}
        return {name: value for name, value in told.items() if math.isfinite(value)}

    def state(self) -> dict[str, float]:
        """The sums."""
        return {"renyi": self.renyi, "pure": self.pure, "lost": self._lost}

    def restore(self, state: Mapping[str, float]) -> None:
        """The inverse."""
        self.renyi, self.pure, self._lost = state["renyi"], state["pure"], state["lost"]
