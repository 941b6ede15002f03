"""A matchmaker: who should teach whom in this round, learned from what earlier lessons were worth (arXiv 2601.17133).

The matchmaker is a role. Whoever has it sees profiles and rewards, never models or data. With ``rotating`` the role
moves every round: what the bandit knows is a message of a few tensors, which goes to the next two peers in hash order,
so that one of them may die; when both do, the next one begins anew.

A plan is made before the round's training, so pairs are chosen by the profiles of the round before; the first round's
are drawn at random.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from hubless.bandit import LinUCB
from hubless.errors import ConfigError
from hubless.learn import keys
from hubless.learn.codecs import Raw
from hubless.learn.overlays import hash_order
from hubless.learn.plan import Book, Chatter, Exchange, Overlay, Plan, Train, World
from hubless.learn.teaching.profiles import METRICS, PROFILE, Array, Kind, contexts, divergence, width

Match = Literal["linucb", "random", "hetero", "oracle", "central", "none"]
Pairs = list[tuple[int, int]]  # teacher, student

TEACH = "teach"
REWARD, TAUGHT = "lesson.reward", "lesson.round"  # entries of a student's state: what its last lesson was worth, when
INFORMED = ("linucb", "hetero")  # ways to match that ask for profiles
HEIRS = 2
NEVER = torch.tensor(0)
NOTE = Raw().length({"pair": torch.zeros(2, dtype=torch.int64)})


def disjoint(scores: ArrayLike, count: int, key: keys.Key = 0) -> Pairs:
    """Pairs (i, j) of the highest ``scores [N, N]``, taken greedily so that nobody is in two; equal ones by the key.

    Scores of -inf, and the diagonal, are never taken.
    """
    values: NDArray[np.float64] = np.array(scores, dtype=np.float64)
    np.fill_diagonal(values, -np.inf)
    drawn = keys.uniform(key, values.shape).numpy()
    used: set[int] = set()
    found: Pairs = []
    for at in np.lexsort((drawn.ravel(), -values.ravel())):
        i, j = divmod(int(at), len(values))
        if len(found) == count or values[i, j] == -np.inf:
            break
        if i not in used and j not in used:
            found.append((i, j))
            used |= {i, j}
    return found


@dataclass(frozen=True)
class Matchmaker(Overlay):
    """Everyone trains; then the teachers of disjoint pairs send what they know to their students.

    match:   linucb learns by rewards; hetero takes the most different class shares, and the better of two teaches;
             random; oracle knows the ``utility``; central has everyone taught by all others; none has nobody taught
    pairs:   at most so many a round (K_p)
    bins:    classes in a profile, behind so many ``metrics``
    context: what the bandit sees of a pair, see ``profiles.contexts``
    gains:   whether it also sees what the teacher's lessons were worth on average so far
    ridge, beta: of the bandit, see ``bandit.LinUCB``; rewards are standardised
    role:    star leaves the role with peer 0, rotating moves it
    utility: what a lesson of i for j is truly worth ``[N][N]``, for the oracle
    """

    match: Match = "linucb"
    pairs: int = 4
    bins: int = 10
    metrics: int = len(METRICS)
    context: Kind = "compatible"
    gains: bool = True
    ridge: float = 1.0
    beta: float = 1.0
    role: Literal["star", "rotating"] = "rotating"
    utility: tuple[tuple[float, ...], ...] | None = None

    phases: ClassVar[tuple[str, ...]] = (TEACH,)
    reports: ClassVar[tuple[str, ...]] = (PROFILE, REWARD, TAUGHT)

    def check(self, n: int, seed: int = 0) -> None:
        """Every pair takes two peers, and an oracle must know."""
        if self.match == "oracle" and self.utility is None:
            raise ConfigError(
                "match = 'oracle': nobody knows what real lessons are worth; it is for tier = 'utilities'"
            )
        if self.match != "none" and not 1 <= self.pairs <= n // 2:
            raise ConfigError(f"pairs = {self.pairs}: must be from 1 to {n // 2}, half of the {n} peers")

    @property
    def bandit(self) -> LinUCB:
        """What learns which pairs are worth it."""
        seen = width(self.metrics, self.bins, self.context) + self.gains
        return LinUCB(seen, self.ridge, self.beta, standard=True)

    def init(self, world: World) -> Book:
        """Nobody is known."""
        start = [0] if self.role == "star" else hash_order(world.members, 1, world.seed)[:HEIRS]
        return {**self._blank(world.n), "heirs": start, "pairs": [], "contexts": {}, "refused": 0}

    def _blank(self, n: int) -> Book:
        """What the role knows before it has learned; ``gain [N, 2]``: number and sum of a teacher's rewards."""
        return {"bandit": self.bandit.init(), "gain": torch.zeros(n, 2, dtype=torch.float64), "profiles": {}}

    def plan(self, t: int, world: World, book: Book) -> Plan:
        """Train, then teach."""
        train = Train({"train": torch.tensor(world.members, dtype=torch.int64)})
        here = [peer for peer in world.members if world.ping(peer)]
        book |= {"pairs": [], "contexts": {}, "sent": {}, "lost": []}
        if self.match == "central":
            book["pairs"] = [(i, j) for j in here for i in here if i != j]
        elif self.match != "none" and (self.match not in INFORMED or self._take_role(t, world, book)):
            book["pairs"] = self._pairs(t, world.n, here, book, keys.fold(world.seed, "match", t))
            self._tell(here, book)
        if not book["pairs"]:
            return (train,)
        src, dst = torch.tensor(sorted(book["pairs"], key=lambda pair: pair[::-1]), dtype=torch.int64).T
        return train, Exchange(TEACH, src, dst, torch.ones(len(src), dtype=torch.float64))

    def _pairs(self, t: int, n: int, here: Sequence[int], book: Book, key: keys.Key) -> Pairs:
        scores = np.full((n, n), -np.inf)
        known = [peer for peer in here if peer in book["profiles"]]
        if self.match == "oracle":
            scores[np.ix_(here, here)] = np.array(self.utility)[np.ix_(here, here)]
        elif self.match == "random" or len(known) < 2:
            scores[np.ix_(here, here)] = 0
        elif self.match == "hetero":
            p = np.stack([book["profiles"][peer].numpy() for peer in known])
            better = p[:, :1] >= p[:, 0]
            scores[np.ix_(known, known)] = np.where(better, divergence(p[:, self.metrics :]), -np.inf)
        else:
            ordered = [(i, j) for i in known for j in known if i != j]
            seen = self._contexts(ordered, book)
            scores[tuple(np.array(ordered).T)] = self.bandit.scores(book["bandit"], seen, t)
            pairs = disjoint(scores, self.pairs, key)
            at = {pair: number for number, pair in enumerate(ordered)}
            book["contexts"] = {j: torch.from_numpy(seen[at[i, j]]) for i, j in pairs}
            return pairs
        return disjoint(scores, self.pairs, key)

    def _contexts(self, pairs: Pairs, book: Book) -> Array:
        known = sorted(book["profiles"])
        place = {peer: number for number, peer in enumerate(known)}
        profiles = np.stack([book["profiles"][peer].numpy() for peer in known])
        teachers, students = zip(*pairs, strict=True)
        seen = contexts(
            profiles, [place[i] for i in teachers], [place[j] for j in students], self.metrics, self.context
        )
        if not self.gains:
            return seen
        count, total = book["gain"].numpy()[list(teachers)].T
        return np.concatenate([seen, (total / np.maximum(count, 1))[:, None]], axis=1)

    def _take_role(self, t: int, world: World, book: Book) -> bool:
        """Whether somebody has the role in this round; the book gets who, what it costs to move it on, what is lost."""
        holder = next((peer for peer in book["heirs"] if world.ping(peer)), None)
        if self.role == "rotating":
            here = [peer for peer in hash_order(world.members, t + 1, world.seed) if world.ping(peer)]
            if holder is None and here:
                book |= {**self._blank(world.n), "lost": book["heirs"]}
                holder = here[0]
            book["heirs"] = here[:HEIRS]
            if self.match == "linucb" and holder is not None:
                state = Raw().length({**book["bandit"], "gain": book["gain"]})
                book["sent"][holder] = state * len(set(book["heirs"]) - {holder})
        book["holder"] = holder
        return holder is not None

    def _tell(self, here: Sequence[int], book: Book) -> None:
        """Count the bytes of profiles on their way to the role and of pairs on their way back."""
        if self.match not in INFORMED:
            return
        sent, holder = book["sent"], book["holder"]
        said = {PROFILE: torch.zeros(self.metrics + self.bins), REWARD: torch.zeros(()), TAUGHT: torch.zeros(())}
        for peer in set(here) - {holder}:
            sent[peer] = sent.get(peer, 0) + Raw().length(said)
        told = {peer for pair in book["pairs"] for peer in pair} - {holder}
        sent[holder] = sent.get(holder, 0) + NOTE * len(told)

    def chatter(self, t: int, book: Book) -> Chatter:
        """Profiles to the role, pairs from it, and the role itself."""
        sent = torch.zeros(len(book["gain"]), dtype=torch.float64)
        for peer, size in book["sent"].items():
            sent[peer] = size
        lost = [f"what the matchmaker knew is lost with peers {book['lost']}; it begins anew"] if book["lost"] else []
        metrics = {"pairs": float(len(book["pairs"])), "refused_reports": float(book["refused"])}
        return Chatter(sent, len(book["sent"]), metrics=metrics, events=tuple(lost))

    def observe(self, t: int, plan: Plan, reports: Mapping[str, Mapping[int, Tensor]], book: Book) -> None:
        """Learn from this round's rewards, and keep the new profiles; reports that cannot be used are counted."""
        gain, used = book["gain"].clone(), dict[str, Any](x=[], r=[])
        for i, j in book["pairs"]:
            if self.match == "central" or int(reports.get(TAUGHT, {}).get(j, NEVER)) != t:
                continue
            reward = float(reports[REWARD][j])
            if not np.isfinite(reward):
                book["refused"] += 1
                continue
            gain[i] += torch.tensor([1.0, reward], dtype=torch.float64)
            if j in book["contexts"]:
                used["x"].append(book["contexts"][j].numpy())
                used["r"].append(reward)
        if used["x"]:
            book["bandit"] = self.bandit.update(book["bandit"], np.stack(used["x"]), used["r"])
        book["gain"] = gain
        for peer, profile in reports.get(PROFILE, {}).items():
            if profile.shape == (self.metrics + self.bins,) and bool(torch.isfinite(profile).all()):
                book["profiles"][peer] = profile.clone()
            else:
                book["refused"] += 1
