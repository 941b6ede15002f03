"""Two thirds of a set of authorities make a block final: votes, and what follows from them.

A vote says: from the justified block S to its descendant T. With votes of more than two thirds for one such link T is
justified, and S is final when all blocks from S to T are: when T is its child, or, as votes may travel for longer than
a block takes, a few blocks on. An honest voter votes once a height and never steps back behind its own source, so two
conflicting blocks are final only if a third have broken a rule, and their two votes prove it.
Source: Buterin and Griffith, "Casper the Friendly Finality Gadget", 2017, sections 2 and 2.1, here for every block;
Buterin et al., "Combining GHOST and Casper", 2020, definition 4.9, for links longer than one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import msgspec

from hubless.errors import NotAuthority


class Vote(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """One authority's vote for a link between two blocks, by hash and height, signed over the rest."""

    voter: str
    source: bytes
    source_height: int
    target: bytes
    target_height: int
    signature: bytes = b""

    def said(self) -> bytes:
        """What is signed."""
        return msgspec.msgpack.encode((self.voter, self.source, self.source_height, self.target, self.target_height))


Between = Callable[[bytes, bytes], list[bytes] | None]
SPAN = 8  # blocks that a link may lead over and still make its source final


class Attestations:
    """Votes that came in, and the blocks that they made justified and final (hash to height).

    between: the blocks between two on one branch, None when they are not known to be on one
    """

    def __init__(self, authorities: Iterable[str], genesis: bytes, between: Between = lambda *_: None) -> None:
        self.between = between
        self.authorities = tuple(authorities)
        self.quorum = 2 * len(self.authorities) // 3 + 1
        self.justified: dict[bytes, int] = {genesis: 0}
        self.final: dict[bytes, int] = {genesis: 0}
        self.latest = self.finalised = (0, genesis)
        self.guilty: dict[str, tuple[Vote, Vote]] = {}
        self._links: dict[tuple[bytes, bytes], dict[str, Vote]] = {}
        self._from: dict[bytes, dict[bytes, None]] = {}
        self._strong: dict[tuple[bytes, bytes], None] = {}
        self._proof: dict[bytes, list[Vote]] = {}
        self._votes: dict[str, list[Vote]] = {name: [] for name in self.authorities}

    def add(self, vote: Vote) -> bool:
        """Count a vote; whether a block became justified. Raises NotAuthority.

        A voter that is caught is kept in ``guilty`` with both votes, and heard no more.
        """
        if vote.voter not in self._votes:
            raise NotAuthority(f"vote of {vote.voter[:8]}: not one of the {len(self.authorities)} authorities")
        said = self._votes[vote.voter]
        if vote.voter in self.guilty or vote in said or vote.target_height <= self.finalised[0]:
            return False
        for other in said:
            if conflicts(vote, other):
                self.guilty[vote.voter] = (other, vote)
                return False
        said.append(vote)
        link = (vote.source, vote.target)
        self._links.setdefault(link, {})[vote.voter] = vote
        self._from.setdefault(vote.source, {})[vote.target] = None
        return self._count(vote.source)

    def since(self, height: int) -> list[Vote]:
        """Votes that justified what lies above a height, for somebody who did not hear them."""
        return [vote for target, votes in self._proof.items() if self.justified[target] > height for vote in votes]

    def _count(self, source: bytes) -> bool:
        """Follow the links that lead from a justified block."""
        found, waiting = False, [source]
        while waiting:
            source = waiting.pop()
            if source not in self.justified:
                continue
            for target in self._from.get(source, {}):
                votes = self._links[source, target]
                if len(votes) < self.quorum:
                    continue
                height = next(iter(votes.values())).target_height
                if target not in self.justified:
                    self.justified[target] = height
                    self._proof[target] = list(votes.values())
                    self.latest = max(self.latest, (height, target))
                    waiting.append(target)
                    found = True
                if source not in self.final and height - self.justified[source] <= SPAN:
                    self._strong[source, target] = None
        return self._finalise() or found

    def _finalise(self) -> bool:
        """Follow the links that may make their source final."""
        found = False
        for source, target in list(self._strong):
            height = self.justified[source]
            adjacent = self.justified[target] == height + 1
            between = [] if adjacent else self.between(source, target)
            if between is None or any(block not in self.justified for block in between):
                if self.justified[target] + SPAN < self.latest[0]:
                    del self._strong[source, target]
                continue
            del self._strong[source, target]
            if source not in self.final:
                self.final[source] = height
                self.finalised = max(self.finalised, (height, source))
                self._forget(height)
                found = True
        return found

    def _forget(self, height: int) -> None:
        """Votes below what is final decide nothing any more."""
        for name, votes in self._votes.items():
            self._votes[name] = [vote for vote in votes if vote.target_height >= height]


def conflicts(one: Vote, other: Vote) -> bool:
    """Whether no honest voter casts both: two targets at one height, or a link around another."""
    if one.target_height == other.target_height:
        return one.target != other.target or one.source != other.source
    first, second = sorted((one, other), key=lambda vote: vote.target_height)
    return second.source_height < first.source_height
