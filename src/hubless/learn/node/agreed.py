"""Secrets of a node: drawn from its own key, and agreed on with others. The seed of the run, which all know, has none.

Both depend on the round and the step, and on the deployment, so that no mask is used twice: of a secret of its own by
what each start of the process draws anew, of a shared one by the options and the time of round 1.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from hubless.errors import CodecError, IntegrityError

if TYPE_CHECKING:
    from hubless.net.identity import Identity
    from hubless.net.transports.transport import PeerId


def fresh() -> bytes:
    """What a start of a process has for itself [16 bytes]."""
    return os.urandom(16)


@dataclass(frozen=True)
class Agreed:
    """``learn.wiring.Secrets`` of the peers that one identity holds, for one round.

    keys:    of the peers that are known
    start:   of this process alone
    session: of the deployment, alike at all nodes
    """

    identity: Identity
    keys: Mapping[int, PeerId]
    start: bytes
    session: bytes
    _found: dict[bytes, int] = field(default_factory=dict, repr=False)

    def own(self, peer: int, t: int, k: int) -> int:
        """256 bits that a peer tells nobody."""
        purpose = b"%d/%d/%d/" % (peer, t, k) + self.start
        return int.from_bytes(self.identity.draw(purpose), "little")

    def pair(self, a: int, b: int, t: int, k: int) -> int:
        """256 bits that two peers share, one of them held here. Raises CodecError for one that is not known."""
        purpose = b"%d/%d/%d/%d/" % (min(a, b), max(a, b), t, k) + self.session
        if purpose not in self._found:
            others = [key for peer in (a, b) if (key := self.keys.get(peer)) != self.identity.peer_id]
            other = others[0] if others else self.identity.peer_id
            if other is None or len(others) > 1:
                raise CodecError(f"peers {a} and {b} have agreed on no key here")
            try:
                self._found[purpose] = int.from_bytes(self.identity.agree(other, purpose), "little")
            except IntegrityError as error:
                raise CodecError(str(error)) from None
        return self._found[purpose]
