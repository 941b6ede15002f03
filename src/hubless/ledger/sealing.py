"""Who may add a block to a chain: whoever found a hash (proof of work), or whose turn it is (proof of authority)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import msgspec

from hubless.errors import ConfigError, LedgerError, NotAuthority
from hubless.ledger.block_tree import Header
from hubless.ledger.suites import DIGEST, Hasher
from hubless.net.transports.transport import PeerId


@dataclass(frozen=True)
class Work:
    """Proof of work: all members together find a block every ``interval`` seconds, at times of a Poisson process.

    An infinite interval leaves the times to whoever calls ``HashChain.seal``.

    bits:  leading zero bits that a block's hash needs: 2^bits tries on average
    depth: blocks on top that make a block final
    real:  whether the tries are made; without, they are counted as made, and nobody checks the hash
    """

    interval: float
    bits: int = 20
    depth: int = 6
    real: bool = False

    def __post_init__(self) -> None:
        if not (self.interval > 0 and 0 <= self.bits <= 8 * DIGEST and self.depth >= 0):
            raise ConfigError(f"work = {self}: interval must be positive, bits 0 to 256, depth at least 0")

    def seal(self, header: Header, hasher: Hasher) -> Header:
        """The header with a nonce that the difficulty allows."""
        if not self.real:
            hasher.work["hashes"] += 1 << self.bits
            return header
        nonce = 0
        while leading_zeros(header.digest(hasher)) < self.bits:
            nonce += 1
            header = msgspec.structs.replace(header, nonce=nonce)
        return header

    def check(self, header: Header, digest: bytes) -> None:
        """Raises LedgerError for a block that took less work than it should have."""
        if header.bits != self.bits or (self.real and leading_zeros(digest) < self.bits):
            raise LedgerError(f"block {digest.hex()[:8]}: less work than {self.bits} bits")


@dataclass(frozen=True)
class Authority:
    """Proof of authority: in slot k, of ``slot`` seconds, the block is that of authority k modulo their number.

    A slot must be long enough for a block and the votes on it to reach everybody, or blocks fork.
    """

    slot: float
    authorities: tuple[PeerId, ...]

    bits = 0

    def __post_init__(self) -> None:
        if not (self.slot > 0 and self.authorities):
            raise ConfigError(f"authority.slot = {self.slot}: must be positive, with at least one authority")

    @staticmethod
    def of(slot: float, members: Sequence[PeerId]) -> Authority:
        """All members are authorities."""
        return Authority(slot, tuple(sorted(members)))

    def turn(self, time: float) -> tuple[int, PeerId]:
        """The slot that begins nearest to ``time``, and whose it is."""
        slot = round(time / self.slot)
        return slot, self.authorities[slot % len(self.authorities)]

    def check(self, header: Header, digest: bytes) -> None:
        """Raises NotAuthority for a sealer who is none, or whose turn it is not."""
        if header.sealer not in self.authorities:
            raise NotAuthority(
                f"block {digest.hex()[:8]}: {header.sealer[:8]} is not one of the {len(self.authorities)} authorities"
            )
        slot, whose = self.turn(header.time)
        if whose != header.sealer or header.time != slot * self.slot or header.bits != self.bits:
            raise NotAuthority(f"block {digest.hex()[:8]}: the slot is not that of {header.sealer[:8]}")


def leading_zeros(digest: bytes) -> int:
    """Zero bits before the first that is one."""
    return 8 * len(digest) - int.from_bytes(digest, "big").bit_length()
