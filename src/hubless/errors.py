"""Every error that hubless raises on purpose.

    HublessError
    +-- ConfigError         an option, part or combination that cannot work; raised before any work
    |   +-- PartitionError  a split of the data that leaves some peer with too little
    +-- DataError           data that is missing, corrupted or cannot be fetched here
    +-- CheckpointError     a checkpoint of another recipe or version, or a damaged one
    +-- MessageError        what a peer sent cannot be used; the message is dropped and counted
    |   +-- CodecError      bytes that do not decode
    |   +-- OwnershipError  a peer said what is another's to say; carries the peer and the name
    +-- PeerError           one peer's code failed; carries the peer and the round
    |   +-- NonFiniteError  a peer's parameters or loss are no longer finite
    +-- NetworkError        something between two peers failed
    |   +-- PeerUnreachable     no address, refused, link lost, closed
    |   |   +-- RequestTimeout  no answer in time; dead cannot be told from slow
    |   +-- PeerBusy            its queue is full: later
    |   +-- RemoteError         its handler raised, or it has none
    |   +-- FrameTooLarge       more bytes than a frame may have
    |   +-- IntegrityError      bytes that are not what their hash or signature says
    |   +-- RecordRefused       a record that is expired, outdated, too long or not signed by its publisher
    |   +-- SimDeadlock         every task of a simulated network waits and nothing will wake one
    +-- LedgerError         a ledger cannot do what is asked, or was given what it must not take
        +-- CapabilityError     this engine has no such thing; lists the engines that have
        +-- RecordTooLarge      more bytes than an engine takes in one record
        +-- UnknownRecord       no record has that id here
        +-- UnknownParent       a block, transaction or event that stands on one that is not here
        +-- NotAuthority        sealed or attested by somebody who is not in the authority set
        +-- ProofError          a proof that does not lead from the record to the trusted root
        +-- SignatureError      not signed by its author, by no known suite, or with a one-time key that is used up

The command line prints a ``HublessError`` as one line and exits with code 2; anything else is a bug
and keeps its traceback.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class HublessError(Exception):
    """Base of every deliberate error."""


class ConfigError(HublessError, ValueError):
    """An option, part or combination of parts that cannot work."""


class PartitionError(ConfigError):
    """A split of the data that leaves some peer with too little."""


class DataError(HublessError):
    """Data that is missing, corrupted or out of reach."""


class CheckpointError(HublessError):
    """A checkpoint that does not belong to this run, or is damaged."""


class MessageError(HublessError):
    """A peer's message that cannot be used."""


class CodecError(MessageError):
    """Bytes that do not decode to a message."""


class OwnershipError(MessageError):
    """A message with something that is another peer's to say."""

    def __init__(self, message: str, peer: int, name: str) -> None:
        super().__init__(message)
        self.peer = peer
        self.name = name


class PeerError(HublessError):
    """A failure inside one peer's code."""

    def __init__(self, message: str, *, peer: int, round: int) -> None:
        super().__init__(f"peer {peer}, round {round}: {message}")
        self.peer = peer
        self.round = round


class NonFiniteError(PeerError):
    """Parameters or a loss that are no longer finite."""


class NetworkError(HublessError):
    """Something between two peers failed; carries no blame."""


class PeerUnreachable(NetworkError):
    """A peer that has no address, refuses, or whose link is lost or closed."""


class RequestTimeout(PeerUnreachable):
    """No answer in time. Who asks cannot tell a dead peer from a slow one, so it is one kind of unreachable."""


class PeerBusy(NetworkError):
    """The peer's queue is full; it may be asked again later."""


class RemoteError(NetworkError):
    """The peer's handler raised, with its text; or the peer has no handler for what was asked."""


class FrameTooLarge(NetworkError):
    """A frame of more bytes than the transport takes; the message names both sizes."""


class IntegrityError(NetworkError):
    """Bytes that are not what their hash or signature says."""


class RecordRefused(NetworkError):
    """A record that is expired, older than the one there, too long, or not signed by its publisher."""


class SimDeadlock(NetworkError):
    """All tasks of a simulated network wait, and nothing will wake one; the message names them."""


class LedgerError(HublessError):
    """A ledger cannot do what is asked, or was given what it must not take."""


class CapabilityError(LedgerError):
    """An engine was asked for what it does not have; the message lists the engines that have it."""

    def __init__(self, engine: str, capability: str, engines: Iterable[str]) -> None:
        has = sorted(engines)
        super().__init__(f"{engine}: no {capability}; engines that have it: {', '.join(has) or 'none'}")
        self.engine = engine
        self.capability = capability
        self.engines = has


class RecordTooLarge(LedgerError):
    """A record of more bytes than the engine takes; the message names both sizes."""


class UnknownRecord(LedgerError):
    """No record has that id here."""


class UnknownParent(LedgerError):
    """A block, transaction or event that stands on one that is not here; carries the missing parent's hash."""

    def __init__(self, message: str, parent: bytes) -> None:
        super().__init__(message)
        self.parent = parent


class NotAuthority(LedgerError):
    """A seal or an attestation by somebody who is not in the authority set."""


class ProofError(LedgerError):
    """A proof that does not lead from the record to the trusted root."""


class SignatureError(LedgerError):
    """A record that its author did not sign, a suite that nobody knows, or a one-time key that is used up."""


def did_you_mean(word: str, allowed: Iterable[str]) -> str:
    """The tail of an error about an unknown name: a suggestion, if one is near, and what is allowed."""
    names = sorted(allowed)
    near = difflib.get_close_matches(word, names, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]!r}? " if near else ""
    return f"{hint}allowed: {', '.join(names)}"
