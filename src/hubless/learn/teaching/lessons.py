"""What a population of teachers and students shows of itself: who taught whom, and what it was worth."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from hubless.learn.slots import Hook, View
from hubless.learn.teaching.merge import LAST, LESSONS


@dataclass(frozen=True)
class Lessons(Hook):
    """Metrics of each round's lessons; at the end the matrix of pairs, their rewards and those of the rounds.

    poor:  peers whose lessons are worth nothing; the share of lessons that they gave is measured
    aloud: whether each lesson is told in words, and all of them in a table at the end
    """

    poor: frozenset[int] = frozenset()
    aloud: bool = False
    _told: list[list[Any]] = field(default_factory=list, compare=False, repr=False)
    _rewards: list[list[float]] = field(default_factory=list, compare=False, repr=False)

    def round(self, view: View) -> Mapping[str, float]:
        """``lessons``, their mean ``reward``, and ``poor_teachers``, the share of lessons given by poor ones."""
        if view.t == 1:
            self._rewards.clear()
            self._told.clear()
        last = {student: book[LAST] for student, book in sorted(view.population.books.items()) if LAST in book}
        given = {student: one for student, one in last.items() if one["round"] == view.t}
        if given:
            self._rewards.append([view.t, sum(one["reward"] for one in given.values()) / len(given)])
        for student, one in given.items() if self.aloud else ():
            teachers = " and ".join(map(str, one["teachers"]))
            self._told.append([view.t, teachers, student, one["reward"]])
            view.say(f"peer {teachers} teaches peer {student}: reward {one['reward']:+.4f}")
        if view.t == view.rounds:
            self._draw(view)
        taught = [teacher in self.poor for one in given.values() for teacher in one["teachers"]]
        metrics = {"lessons": float(len(given))}
        if given:
            metrics["reward"] = self._rewards[-1][1]
        if taught and self.poor:
            metrics["poor_teachers"] = sum(taught) / len(taught)
        return metrics

    def _draw(self, view: View) -> None:
        n = view.population.n
        given: list[list[tuple[int, float]]] = [[(0, 0.0)] * n for _ in range(n)]
        for student, book in view.population.books.items():
            for teacher, (count, total) in book.get(LESSONS, {}).items():
                given[teacher][student] = count, total
        for data in figures(given, self.poor):
            view.draw(data)
        if self._rewards:
            rounds, rewards = (list(column) for column in zip(*self._rewards, strict=True))
            view.draw(
                {"type": "lines", "title": "What lessons were worth", "x": rounds, "xlabel": "round",
                 "lines": {"mean reward": rewards}, "ylabel": "reward"}
            )  # fmt: skip
        if self._told:
            columns = ["round", "teacher", "student", "reward"]
            view.draw({"type": "table", "title": "Every lesson", "columns": columns, "rows": list(self._told)})

    def state(self) -> dict[str, Any]:
        """The lessons so far."""
        return {"rewards": [list(row) for row in self._rewards], "told": [list(row) for row in self._told]}

    def restore(self, state: Mapping[str, Any]) -> None:
        """The inverse of ``state``."""
        self._rewards[:], self._told[:] = state["rewards"], state["told"]


def figures(given: list[list[tuple[int, float]]], poor: frozenset[int] = frozenset()) -> list[dict[str, Any]]:
    """How often teacher i taught student j, and what that was worth on average; ``given[i][j]``: number, and sum."""
    n = len(given)
    names = [f"{peer}*" if peer in poor else str(peer) for peer in range(n)]
    star = "; peers with a * are poor teachers" if poor else ""
    counts = [[given[i][j][0] or None for j in range(n)] for i in range(n)]
    worth = [[given[i][j][1] / given[i][j][0] if given[i][j][0] else None for j in range(n)] for i in range(n)]
    axes = {"x": [f"to {name}" for name in names], "y": [f"from {name}" for name in names]}
    return [
        {"type": "heatmap", "title": f"Who taught whom, how often{star}", **axes, "values": counts, "unit": "lessons"},
        {
            "type": "heatmap",
            "title": f"What that was worth on average{star}",
            **axes,
            "values": worth,
            "unit": "reward",
        },
    ]
