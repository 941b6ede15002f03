"""How far hostile peers get: the share of their test samples that honest peers label as they want."""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor

from hubless.errors import ConfigError
from hubless.learn.evaluate import Evaluation
from hubless.learn.plan import Book
from hubless.learn.slots import Attack
from hubless.learn.wiring import Wiring
from hubless.learn.workload import Shards

Wanted = tuple[Tensor, Tensor]  # samples [M, ...] and the labels that an attacker wants for them [M]


def wanted(attack: Attack, shards: Shards, book: Book, *, whole: bool = False) -> Wanted | None:
    """What one attacker wants of the run's test samples, or of the whole test set; None: it has no such goal.

    Raises ConfigError when none of the samples can show its success.
    """
    if shards.data.task != "classification":
        return None
    few = len(shards.test_y) if whole else shards.few
    found = attack.goal(shards.test_x[:few], shards.test_y[:few], book)
    if found is not None and not len(found[1]):
        raise ConfigError(
            f"attack: none of the {few} test samples shows how far {type(attack).__name__} gets: every one has the "
            "label that it wants, or no class that it is after; take more test samples or other classes"
        )
    return found


class Success:
    """Measures the goals of all attackers on the rows of honest peers; costs nothing where there is no goal."""

    def __init__(self, wiring: Wiring, evaluation: Evaluation) -> None:
        self.wiring = wiring
        self.evaluation = evaluation

    def metrics(self, watch: Tensor, *, whole: bool) -> dict[str, float]:
        """Over the honest peers ``watch [P]``: the mean over attackers, and the least successful where they differ.

        Attackers that want the same are measured once.
        """
        attack = self.wiring.attack
        if attack is None or type(attack).goal is Attack.goal or not len(watch):
            return {}
        scores: dict[bytes, float] = {}
        each = []
        for peer in self._attackers(attack):
            goal = wanted(attack, self.wiring.shards, self.wiring.book_of(peer), whole=whole)
            if goal is None:
                continue
            mark = _digest(goal)
            if mark not in scores:
                scores[mark] = self._score(watch, goal, whole)
            each.append(scores[mark])
        if not each:
            return {}
        found = {"attack_success": sum(each) / len(each)}
        return found | ({"attack_success_worst": min(each)} if len(scores) > 1 else {})

    def _attackers(self, attack: Attack) -> list[int]:
        """One id for each attacker's book."""
        hostile = sorted(self.wiring.hostile)
        return hostile[:1] if attack.joint else hostile

    def _score(self, watch: Tensor, goal: Wanted, whole: bool) -> float:
        """The mean over peers ``watch [P]``; where all share one model, that model's."""
        population = self.wiring.population
        peers = 1 if population.shared else len(watch)
        scores = []
        for cohort in population.cohorts:
            if population.shared:
                rows, state = cohort.rows, {name: cohort.state[name][:1] for name in cohort.model.buffers}
            else:
                here = cohort.ids[torch.isin(cohort.ids, watch)]
                rows, state = cohort.take(population.place[here])
            few = self.evaluation.room(cohort.model, peers, whole=whole)
            scores.append(self.evaluation.measure(cohort.model, rows, state, goal[0][:few], goal[1][:few])[0])
        return float(torch.cat(scores).mean())


def _digest(goal: Wanted) -> bytes:
    """The same for equal goals; keeping the samples of a hundred attackers would take too much memory."""
    digest = hashlib.blake2b(digest_size=16)
    for part in goal:
        digest.update(part.contiguous().cpu().numpy().tobytes())
    return digest.digest()
