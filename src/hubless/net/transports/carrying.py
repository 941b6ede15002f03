"""A relay's side: whose frames it carries to whom, and how many bytes of them."""

from __future__ import annotations

from collections.abc import Callable

from hubless.net.policy import Limits, Timeouts
from hubless.net.transports.transport import PeerId

FULL, ABSENT, SPENT = b"full", b"absent", b"spent"  # why a relay does not do what it is asked


class Carrier:
    """What one relay has promised, and what it has carried.

    A peer that others cannot dial reserves a slot for ``Timeouts.lease`` seconds; from then on anybody may send to it,
    and it may answer. A pair of peers is a circuit: ``Limits.relayed`` bytes in a lease, both ways together.
    """

    def __init__(self, timeouts: Timeouts, limits: Limits, now: Callable[[], float]) -> None:
        self.timeouts, self.limits, self.now = timeouts, limits, now
        self.slots: dict[PeerId, float] = {}  # until when
        self.circuits: dict[tuple[PeerId, PeerId], list[float]] = {}  # until when, bytes

    def reserve(self, peer: PeerId) -> bytes | None:
        """Give a slot, or renew one; None, or why not."""
        self._expire()
        if peer not in self.slots and len(self.slots) >= self.limits.links:
            return FULL
        self.slots[peer] = self.now() + self.timeouts.lease
        return None

    def release(self, peer: PeerId) -> None:
        """A peer is gone, and with it its slot."""
        self.slots.pop(peer, None)

    def carry(self, src: PeerId, dst: PeerId, size: int) -> bytes | None:
        """Count ``size`` bytes against the circuit of two peers; None, or why they are not to be carried."""
        now = self.now()
        pair = (src, dst) if src < dst else (dst, src)
        circuit = self.circuits.get(pair)
        if circuit is None or circuit[0] <= now:
            if self.slots.get(dst, 0.0) <= now:  # who holds no slot may answer, and hear answers, but not be called
                return ABSENT
            if circuit is None and len(self.circuits) >= self.limits.circuits:
                self._expire()
                if len(self.circuits) >= self.limits.circuits:
                    return FULL
            circuit = self.circuits[pair] = [now + self.timeouts.lease, 0]
        if circuit[1] + size > self.limits.relayed:
            return SPENT
        circuit[1] += size
        return None

    def _expire(self) -> None:
        now = self.now()
        self.slots = {peer: until for peer, until in self.slots.items() if until > now}
        self.circuits = {pair: circuit for pair, circuit in self.circuits.items() if circuit[0] > now}
