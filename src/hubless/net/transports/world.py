"""What all simulated peers share: who is there, what their links are like, what is cut."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import TYPE_CHECKING

from hubless.net.policy import Limits, Timeouts
from hubless.net.transports.sim_link import Link
from hubless.net.transports.transport import PeerId

if TYPE_CHECKING:
    from hashlib import _Hash

    from hubless.net.transports.sim import SimTransport


class SimWorld:
    """What all simulated peers share: who is there, how links are, what is cut.

    peers:  transports that run, by id
    relays: peers that carry frames between those that cannot reach each other, while they run
    stats:  frames that were ``lost``, ``repeated``, ``held`` back, ``cut`` off, ``backlog`` dropped, ``relayed``,
            with ``relayed bytes``; of frames that just travel nobody keeps count
    """

    def __init__(
        self,
        seed: int = 0,
        link: Link | None = None,
        max_frame: int = Limits.frame,
        *,
        timeouts: Timeouts | None = None,
        limits: Limits | None = None,
    ) -> None:
        self.seed = seed
        self.link = link or Link()
        self.max_frame = max_frame
        self.timeouts = timeouts or Timeouts()
        self.limits = limits or Limits()
        self.peers: dict[PeerId, SimTransport] = {}
        self.relays: list[PeerId] = []
        self.stats: Counter[str] = Counter()
        self._links: dict[tuple[PeerId, PeerId], Link] = {}
        self._groups: dict[PeerId, int] = {}
        self._trace: _Hash | None = None

    @property
    def trace(self) -> _Hash | None:
        """A hash that takes in every frame that travels, and when it arrives; set one to compare two runs."""
        return self._trace

    @trace.setter
    def trace(self, trace: _Hash | None) -> None:
        self._trace = trace
        self.changed()

    def set_link(self, src: PeerId, dst: PeerId, link: Link) -> None:
        """Give the way from one peer to another, and not the way back, a link of its own."""
        self._links[src, dst] = link
        self.changed()

    def link_of(self, src: PeerId, dst: PeerId) -> Link:
        """The link from one peer to another."""
        return self._links.get((src, dst), self.link)

    def partition(self, groups: Iterable[Iterable[PeerId]]) -> None:
        """Let frames travel only inside a group; whoever is in none is in one with the others that are not."""
        self._groups = {peer: number for number, group in enumerate(groups, 1) for peer in group}
        self.changed()

    def heal(self) -> None:
        """End the partition."""
        self._groups = {}
        self.changed()

    def cut(self, peer: PeerId) -> None:
        """Let a peer fall silent: its frames vanish, both ways, and only timeouts notice."""
        self.peers[peer].silence(True)

    def revive(self, peer: PeerId) -> None:
        """Undo a cut."""
        self.peers[peer].silence(False)

    def crash(self, peer: PeerId) -> None:
        """End a peer at once: its own lost-handler is told its own id, those with a link hear of it a latency later."""
        self.peers[peer].fall()

    def apart(self, one: PeerId, other: PeerId) -> bool:
        """Whether a partition is between the two."""
        return self._groups.get(one, 0) != self._groups.get(other, 0)

    def relay(self, one: SimTransport, other: SimTransport) -> SimTransport | None:
        """The relay that carries frames between two peers, if there is one; pairs spread over all that can."""
        able = [
            self.peers[peer]
            for peer in self.relays
            if peer in self.peers and all(self.peers[peer].serves(end) for end in (one, other))
        ]
        return able[(one.position ^ other.position) % len(able)] if able else None

    def changed(self) -> None:
        """Routes have to be found anew."""
        for peer in self.peers.values():
            peer.routes.clear()
