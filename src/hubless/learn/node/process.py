"""One node as a process: its key, its transport, its log, and what it hears from whoever started it."""

from __future__ import annotations

import asyncio
import logging
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hubless import __version__
from hubless.errors import ConfigError
from hubless.learn.node.deployable import agreement, deployable, rules, together
from hubless.learn.node.node import Node, Pace
from hubless.learn.node.severed import Severable
from hubless.net.identity import Identity, is_peer_id, read_allowed
from hubless.net.network import Network
from hubless.net.transports.tcp import TcpTransport
from hubless.run.checkpoint import Identity as RunIdentity
from hubless.run.checkpoint import digest

if TYPE_CHECKING:
    from hubless.recipe import Recipe

log = logging.getLogger(__name__)
FORMAT = "%(asctime)s {peer} %(levelname)-7s %(message)s"


@dataclass(frozen=True)
class Contact:
    """A node and where it listens; written ``KEY@HOST:PORT``."""

    key: str
    address: str

    @staticmethod
    def of(text: str, where: str = "join") -> Contact:
        """Raises ConfigError for anything else."""
        key, at, address = text.partition("@")
        if not at or not is_peer_id(key) or not re.fullmatch(r"(\[[0-9a-fA-F:.]+\]|[^:\[\]]+):\d{1,5}", address):
            raise ConfigError(f"{where} = {text!r}: must be KEY@HOST:PORT, as a node prints it when it starts")
        return Contact(key, address)

    def __str__(self) -> str:
        return f"{self.key}@{self.address}"


@dataclass(frozen=True)
class Place:
    """Where and as whom a node runs.

    listen:   HOST:PORT
    key:      file of its key, made when it is not there; None: a new key, forgotten at the end
    allow:    file of the keys that may connect; None: all
    home:     folder of its state; None: nothing is kept
    tethered: it ends when its standard input does, and takes the words ``cut`` and ``heal`` from there
    """

    listen: str = "127.0.0.1:0"
    key: Path | None = None
    allow: Path | None = None
    home: Path | None = None
    join: tuple[Contact, ...] = ()
    watch: Contact | None = None
    tethered: bool = False
    pace: Pace = field(default_factory=Pace)


def serve(recipe: Recipe, options: Mapping[str, Any], peers: Sequence[int], place: Place, level: str) -> None:
    """Run a node to its end. Raises ConfigError before any work, and when the others refuse it."""
    run = deployable(recipe.build(options), recipe.name)
    if not all(0 <= peer < run.n for peer in peers):
        raise ConfigError(f"peer = {', '.join(map(str, peers))}: the peers are 0 to {run.n - 1}")
    if len(peers) > 1 and not together(run).issuperset(peers):
        raise ConfigError(f"peer = {', '.join(map(str, peers))}: a node is one peer, or all identities of one attacker")
    host, port = listening(place.listen)
    identity = Identity.at(place.key) if place.key else Identity()
    set_up_log(level, identity.peer_id)
    allow = None
    if place.allow is not None:
        watching = {place.watch.key} if place.watch else set()
        allow = frozenset({*read_allowed(place.allow), *watching})
    watchers = frozenset({place.watch.key} if place.watch else ())
    group = rules(run, agreement(recipe.name, options), watchers)
    which = RunIdentity(recipe.name, __version__, digest(options))

    async def main() -> None:
        transport = Severable(lambda again: TcpTransport(identity, host, again or port, allow=allow))
        async with Network(transport, identity) as net:
            contacts = [*place.join, *([place.watch] if place.watch else [])]
            for contact in contacts:
                net.introduce(contact.key, [contact.address])
            node = Node(run, net, peers, group, place.pace, home=place.home, identity=which,
                        watcher=place.watch.key if place.watch else None)  # fmt: skip
            here = Contact(identity.peer_id, transport.addresses()[0])
            print(f"peer {', '.join(map(str, peers))} listens at {here}", flush=True)
            working = asyncio.ensure_future(node.go([contact.key for contact in contacts]))
            tether = asyncio.ensure_future(_obey(transport)) if place.tethered else None
            waiting = [task for task in (working, tether) if task is not None]
            await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            for task in waiting:
                task.cancel()
            await asyncio.gather(*waiting, return_exceptions=True)
            if not working.cancelled() and (error := working.exception()) is not None:
                raise error
            log.info("done; dropped: %s", node.dropped() or "nothing")

    asyncio.run(main())


async def _obey(transport: Severable) -> None:
    """Until standard input ends: then whoever started this process is gone, or wants it to be."""
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    while word := await reader.readline():
        if word.strip() == b"cut":
            log.warning("cut off")
            await transport.cut()
        elif word.strip() == b"heal":
            await transport.heal()
            log.warning("connected again")


def listening(text: str) -> tuple[str, int]:
    """Host and port to listen at. Raises ConfigError."""
    host, colon, port = text.rpartition(":")
    if not colon or not host or not port.isdecimal() or int(port) > 65_535:
        raise ConfigError(f"listen = {text!r}: must be HOST:PORT; port 0 is any free one")
    return host.strip("[]"), int(port)


def set_up_log(level: str, peer: str) -> None:
    """All lines on standard error, with the first digits of the peer's key."""
    names = logging.getLevelNamesMapping()
    if level.upper() not in names or level.upper() == "NOTSET":
        raise ConfigError(f"log = {level!r}: must be debug, info, warning or error")
    logging.basicConfig(level=names[level.upper()], format=FORMAT.format(peer=peer[:8]), force=True)
