"""How long anybody waits for a peer, and how much anybody takes from one: the only place with such numbers."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

from hubless.errors import ConfigError

KIB, MIB = 1 << 10, 1 << 20


@dataclass(frozen=True)
class Timeouts:
    """Every wait on a peer, in seconds; no wait is without one.

    dial:      until a connection stands, with its handshake
    request:   an answer, where the caller names no time of its own
    step:      one step of a DHT lookup; ``again`` is its second try
    join:      until any peer answers who wants to join the DHT
    upkeep:    between two sweeps of expired records
    exchange:  one CRDT exchange, tried twice
    chunk:     one chunk of a blob
    blob:      a whole blob; sources that have a part of it are asked again what they have every ``poll``
    provide:   how long the word of a blob's provider lasts, unless renewed
    lease:     that a relay keeps a slot for a peer, and a circuit's count of bytes; renewed at half of it
    redial: after which a peer that could not be dialled, and is heard through a relay, is dialled once more
    orphan:    for what a ledger's item stands on to come, before the item is dropped
    heartbeat: between two heartbeats; a peer is suspect after ``suspect`` of them without a word, dead after ``dead``
    stall:     for the next 64 KiB of a frame that has begun, or for room to send; then the link is dropped
    close:     for pending work when a node closes
    """

    dial: float = 5.0
    request: float = 10.0
    step: float = 1.0
    again: float = 2.0
    join: float = 30.0
    upkeep: float = 300.0
    exchange: float = 1.0
    chunk: float = 10.0
    blob: float = 60.0
    poll: float = 1.0
    provide: float = 3600.0
    lease: float = 120.0
    redial: float = 30.0
    orphan: float = 30.0
    heartbeat: float = 1.0
    suspect: int = 5
    dead: int = 10
    stall: float = 10.0
    close: float = 2.0

    def __post_init__(self) -> None:
        _positive("timeouts", self)
        if self.dead <= self.suspect:
            raise ConfigError(f"timeouts.dead = {self.dead}: must be more than timeouts.suspect = {self.suspect}")


@dataclass(frozen=True)
class Limits:
    """Sizes in bytes and counts beyond which a peer is refused, told that it is too much, or not heard.

    frame:    one frame; larger things go as blobs
    bulk:     frames from here on take the second lane
    buffer:   unwritten bytes a link from which ``ready`` waits
    backlog:  unwritten bytes a link from which a frame that was not announced by ``ready`` is dropped
    chunk:    one piece of a blob, of which ``flight`` may be asked of one peer at a time
    record:   the value of a DHT record
    stored:   records that one node keeps for others, of ``shelf`` bytes; one publisher may have a ``share``-th of both,
              and there may be ``slots`` under one key
    answer:   bytes of records in one answer
    lifetime: of a record, in seconds
    blob:     a whole blob; ``blobs`` bytes of pieces are kept
    name:     the name of a protocol or topic
    running:  handlers of one protocol at a time, with ``waiting`` more in the queue
    replays:  ids of a sender's signed frames that are remembered, of ``senders`` senders; ``age`` is how many seconds
              old one may be
    seen:     ids of published messages that are remembered
    links:    open links a node; the least used is closed
    hints:    peers whose addresses are remembered
    verified: signatures that are remembered to hold
    relayed:  bytes that a relay carries for one circuit in a lease, of ``circuits`` at a time
    orphans:  items of a ledger that wait for what they stand on, or for a block to take them
    op:       one operation of a CRDT document, of which an actor has at most ``ops``; alike at all of its members
    page:     bytes of operations in one message of an exchange, of which one has at most ``pages``
    journal:  bytes of a log beyond those of its snapshot from which a new snapshot is written
    """

    frame: int = 16 * MIB
    bulk: int = 64 * KIB
    buffer: int = MIB
    backlog: int = 16 * MIB
    chunk: int = 256 * KIB
    flight: int = 4
    record: int = 64 * KIB
    stored: int = 65_536
    shelf: int = 64 * MIB
    share: int = 8
    slots: int = 256
    answer: int = MIB
    lifetime: float = 30 * 86_400.0
    blob: int = 1024 * MIB
    blobs: int = 1024 * MIB
    name: int = 64
    running: int = 64
    waiting: int = 256
    replays: int = 1024
    senders: int = 16_384
    age: float = 120.0
    seen: int = 4096
    links: int = 128
    hints: int = 4096
    verified: int = 65_536
    relayed: int = 64 * MIB
    circuits: int = 1024
    orphans: int = 4096
    op: int = 64 * KIB
    ops: int = 1 << 20
    page: int = MIB
    pages: int = 64
    journal: int = 4 * MIB

    def __post_init__(self) -> None:
        _positive("limits", self)


def _positive(name: str, policy: Any) -> None:
    for field in fields(policy):
        value = getattr(policy, field.name)
        if not value > 0:
            raise ConfigError(f"{name}.{field.name} = {value}: must be positive")


TIMEOUTS, LIMITS = Timeouts(), Limits()
