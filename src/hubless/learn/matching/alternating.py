"""Rounds that exchange and rounds that train take turns, so that models are evaluated directly before and after."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch

from hubless.learn.overlays import Gossip
from hubless.learn.plan import Book, Plan, Train, World
from hubless.learn.slots import Hook, View

PRETRAIN = "pretrain"


@dataclass(frozen=True)
class Alternating(Gossip):
    """Everyone trains alone in round 1 (the role ``pretrain``), then in turn a round exchanges and a round trains.

    lead:   whether there is such a first round
    silent: nothing is said in rounds of exchanges: the baseline, round by round
    """

    lead: bool = True
    silent: bool = False

    roles: ClassVar[tuple[str, ...]] = ("train", PRETRAIN)

    def plan(self, t: int, world: World, book: Book) -> Plan:
        """Training or exchanges; a topology that changes does so from one round of exchanges to the next."""
        everyone = torch.tensor(world.members, dtype=torch.int64)
        if self.lead and t == 1:
            return (Train({PRETRAIN: everyone}),)
        if not self.exchanging(t):
            return (Train({"train": everyone}),)
        return () if self.silent else super().plan((t - self.lead + 1) // 2, world, book)[1:]

    def exchanging(self, t: int) -> bool:
        """Whether round t exchanges."""
        return t > self.lead and (t - self.lead) % 2 == 1


@dataclass(frozen=True)
class Jumps(Hook):
    """What an exchange does at once to the peers' mean accuracy on the test samples of the run.

    ``accuracy_before`` is that at the end of the round before, which trained, and ``accuracy_after`` that at the end of
    the round of exchanges, in which nobody trains: two of the engine's own evaluations, of the same peers on the same
    samples. They are there where both rounds are evaluated.

    overlay: says which rounds exchange
    """

    overlay: Alternating
    _seen: dict[str, Any] = field(default_factory=dict, compare=False, repr=False)

    def round(self, view: View) -> Mapping[str, float]:
        """Both, in rounds of exchanges; the figure of all of them in the last round."""
        if view.t == 1:
            self._seen.clear()
        before, now = self._seen.get("last"), view.metrics.get("accuracy")
        self._seen["last"] = now
        found: dict[str, float] = {}
        if self.overlay.exchanging(view.t) and before is not None and now is not None:
            found = {"accuracy_before": before, "accuracy_after": now}
            self._seen.setdefault("pairs", []).append([before, now])
        if view.t == view.rounds and (pairs := self._seen.get("pairs")):
            lines = {"before": [pair[0] for pair in pairs], "after": [pair[1] for pair in pairs]}
            view.draw(
                {"type": "lines", "name": "around-merges", "title": "Accuracy directly before and after each merge",
                 "x": list(range(1, len(pairs) + 1)), "xlabel": "merge", "ylabel": "accuracy",
                 "lines": lines,
                 "reading": "Mean test accuracy of the peers. Nobody trains between the two."}
            )  # fmt: skip
        return found

    def state(self) -> dict[str, Any]:
        """The last accuracy, and all pairs so far."""
        return dict(self._seen)

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from there."""
        self._seen.clear()
        self._seen.update(state)
