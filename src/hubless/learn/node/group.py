"""Who is who among the nodes of a deployment, who is here now, and when round 1 begins."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from hubless.errors import ConfigError, MessageError, NetworkError, PeerUnreachable, RemoteError
from hubless.learn.node.words import ADDRESSES, MEMBERS, Hello, Member, read, write
from hubless.net.policy import TIMEOUTS, Timeouts

if TYPE_CHECKING:
    from hubless.net.network import Network
    from hubless.net.transports.transport import PeerId

log = logging.getLogger(__name__)

HELLO, BYE = "node/hello", "node/bye"
DONE = b"done"
SETTLE = 0.2  # seconds between two looks at who is here before the first round
LEAD = 0.5  # seconds between naming the time of round 1 and that time
ROUNDS = 1 << 31
AT_ONCE = 16  # members that are asked at a time


@dataclass(frozen=True)
class Rules:
    """What a node asks of those that say hello.

    digest:   of recipe, options and version
    n:        peers in the population
    together: peers that one process may hold: the identities of one attacker
    watchers: keys that may watch
    """

    digest: str
    n: int
    together: frozenset[int] = frozenset()
    watchers: frozenset[PeerId] = frozenset()

    def refuse(self, key: PeerId, said: Hello, known: Mapping[int, PeerId]) -> str | None:
        """Why somebody may not take part, in words; None when it may. A peer belongs to the key first seen as it."""
        peers = said.member.peers
        if said.digest != self.digest:
            return "it runs another recipe, other options or another version"
        if not peers:
            return None if key in self.watchers else "it holds no peer, and nobody asked it to watch"
        if len(set(peers)) < len(peers) or not all(0 <= peer < self.n for peer in peers):
            return f"it would be the peers {peers[:4]}, of 0 to {self.n - 1}"
        if len(peers) > 1 and not self.together.issuperset(peers):
            return f"it would be {len(peers)} peers at once"
        if taken := [peer for peer in peers if known.get(peer, key) != key]:
            return f"peer {taken[0]} has another key"
        return None


@dataclass
class Here:
    """A member as it was last heard."""

    member: Member
    here: bool = True
    round: int = 0
    done: bool = False


@dataclass
class Group:
    """The members, kept up to date while the node runs.

    peers:  that this node holds; none for an observer
    on_here, on_gone: told of every member that comes, with its round, or goes
    """

    net: Network
    rules: Rules
    peers: tuple[int, ...]
    on_here: Callable[[PeerId, int], None]
    on_gone: Callable[[PeerId], None]
    timeouts: Timeouts = TIMEOUTS
    round: int = 0
    start: float = 0.0
    known: dict[PeerId, Here] = field(default_factory=dict)
    key_of: dict[int, PeerId] = field(default_factory=dict)
    refusals: dict[PeerId, str] = field(default_factory=dict)
    said_bye: dict[int, None] = field(default_factory=dict)
    news: list[str] = field(default_factory=list)
    rumours: dict[PeerId, None] = field(default_factory=dict)  # members that others named

    def __post_init__(self) -> None:
        self.key_of |= dict.fromkeys(self.peers, self.net.peer_id)
        self.net.serve(HELLO, self._greeted)
        self.net.serve(BYE, self._left)
        self.net.on_lost(self.lost)

    # who is here

    def here(self) -> list[int]:
        """Ids of peers that are here now, this node's own among them."""
        others = [peer for one in self.known.values() if one.here for peer in one.member.peers]
        return sorted([*self.peers, *others])

    def holder(self, peer: int) -> PeerId | None:
        """The key of the node that holds a peer, where that is known."""
        return self.key_of.get(peer)

    def others(self, *, gone: bool = False) -> list[PeerId]:
        """Keys of other members that hold peers, in order: those that are here, or that are not."""
        return sorted(key for key, one in self.known.items() if one.member.peers and one.here != gone)

    def lost(self, key: PeerId) -> None:
        """The link to a member is gone, or it does not answer."""
        one = self.known.get(key)
        if one is not None and one.here:
            one.here = False
            if not one.done:
                self._tell(f"{_names(one.member)} {key[:8]} is gone")
            self.on_gone(key)

    def heard(self, key: PeerId) -> None:
        """A member that was gone has sent something."""
        one = self.known.get(key)
        if one is not None and not one.here:
            self._note(one.member, one.round)

    def _note(self, member: Member, r: int) -> None:
        key = member.key
        before = self.known.get(key)
        self.known[key] = Here(member, True, r)
        self.key_of |= dict.fromkeys(member.peers, key)
        for peer in member.peers:
            self.said_bye.pop(peer, None)
        if before is None or not before.here:
            self._tell(f"{_names(member)} {key[:8]} is {'here' if before is None else 'back'}")
            self.on_here(key, r)

    def _tell(self, text: str) -> None:
        log.info("%s", text)
        self.news.append(text)

    # hello

    def hello(self) -> Hello:
        """What this node says of itself and those it knows."""
        me = Member(self.net.peer_id, list(self.peers), self.net.transport.addresses()[:ADDRESSES])
        members = [self.known[key].member for key in self.others()]
        return Hello(self.rules.digest, me, self.round, self.start, members[:MEMBERS])

    def _greeted(self, ctx: Any, body: bytes) -> bytes:
        """Answer a hello. Raises MessageError, whose text the asker reads, for one that may not take part."""
        said = self._checked(ctx.src, body)
        self.net.introduce(ctx.src, said.member.addresses[:ADDRESSES])
        self._note(said.member, said.round)
        self._settle(said)
        return write(self.hello())

    def _checked(self, key: PeerId, body: bytes) -> Hello:
        said = read(body, Hello)
        if said.member.key != key or not 0 <= said.round < ROUNDS:
            raise MessageError("a hello for somebody else")
        if why := self.rules.refuse(key, said, self.key_of):
            if key not in self.refusals and len(self.refusals) < MEMBERS:
                self.refusals[key] = why
                self._tell(f"stranger {key[:8]} refused: {why}")
            raise MessageError(f"refused: {why}")
        return said

    def _settle(self, said: Hello) -> None:
        """Before its first round a node takes over the earliest time of it that it hears; and who else is there."""
        if said.start > 0 and (not self.start or (self.round == 0 and said.start < self.start)):
            self.start = said.start
        for member in said.members[:MEMBERS]:
            if member.key != self.net.peer_id and member.key not in self.known and len(self.rumours) < MEMBERS:
                self.net.introduce(member.key, member.addresses[:ADDRESSES])
                self.rumours[member.key] = None

    async def greet(self, key: PeerId) -> Hello | None:
        """Say hello to one node; None when it does not answer. Raises ConfigError when it refuses this one."""
        try:
            body = await self.net.request(key, HELLO, write(self.hello()), self.timeouts.step)
            said = self._checked(key, body)
        except RemoteError as error:
            raise ConfigError(f"node: {key[:8]} {error}") from None
        except (NetworkError, MessageError) as error:
            log.debug("no hello from %s: %s", key[:8], error)
            return None
        self._note(said.member, said.round)
        self._settle(said)
        return said

    async def meet(self, keys: Sequence[PeerId]) -> None:
        """Say hello to some, and to those that they name; who does not answer is asked again by ``tend``."""
        asked: dict[PeerId, None] = {self.net.peer_id: None}
        waiting = list(keys)
        while waiting or self.rumours:
            key = waiting.pop(0) if waiting else self.rumours.popitem()[0]
            if key not in asked and not self._is_here(key) and len(asked) < MEMBERS:
                asked[key] = None
                await self.greet(key)

    async def begin(self, contacts: Sequence[PeerId], wanted: int, patience: float) -> None:
        """Until the time of round 1 is settled: the lowest peer here names it when ``wanted`` peers are.

        patience: seconds after which it does so with fewer

        Raises PeerUnreachable when none of the contacts has answered by then.
        """
        began = self.net.now()
        while True:
            await self.meet([*contacts, *self.others(gone=True)])
            now, here = self.net.now(), self.here()
            if self.start:
                return
            if contacts and not self.known and now - began > patience:
                raise PeerUnreachable(f"node: nobody to join: none of {len(contacts)} answered in {patience:g} s")
            if self.peers and here[0] in self.peers and (len(here) >= wanted or now - began > patience):
                self.start = now + LEAD
                for key in [key for key, one in self.known.items() if one.here]:
                    await self.greet(key)
                return
            await self.net.sleep(SETTLE)

    def _is_here(self, key: PeerId) -> bool:
        return key in self.known and self.known[key].here

    async def tend(self, contacts: Sequence[PeerId]) -> None:
        """For as long as the node runs: ask those that are gone, and in turn those that are here, if they are there.

        A member that does not answer twice is gone.
        """
        turn = 0
        while True:
            await self.net.sleep(self.timeouts.heartbeat)
            rumours = list(self.rumours)[:AT_ONCE]
            for key in rumours:
                del self.rumours[key]
            new = [key for key in [*contacts, *rumours] if key not in self.known]
            here = self.others()
            turn += 1
            few = [here[(turn * AT_ONCE + at) % len(here)] for at in range(min(AT_ONCE, len(here)))]
            absent = (new + self.others(gone=True))[: 4 * AT_ONCE]
            await asyncio.gather(*map(self._ask, absent), *map(self._ask_twice, few))

    async def _ask_twice(self, key: PeerId) -> None:
        if not await self._ask(key) and not await self._ask(key):
            self.lost(key)

    async def _ask(self, key: PeerId) -> bool:
        try:
            return await self.greet(key) is not None
        except ConfigError as error:
            log.warning("%s", error)
            return False

    def leave(self, *, done: bool) -> None:
        """Tell all who are here; ``done``: it is through all rounds."""
        for key, one in self.known.items():
            if one.here:
                try:
                    self.net.send(key, BYE, DONE if done else b"")
                except NetworkError:
                    continue

    def _left(self, ctx: Any, body: bytes) -> None:
        one = self.known.get(ctx.src)
        if one is not None:
            self.said_bye |= dict.fromkeys(one.member.peers)
            one.done = body == DONE
            self.lost(ctx.src)


def _names(member: Member) -> str:
    if not member.peers:
        return "observer"
    return "peer " + ", ".join(map(str, member.peers[:4])) + (", ..." if len(member.peers) > 4 else "")
