"""How soon all who follow an artefact have its new version: from one source, from many, with a source that lies."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from hubless.net.crdt.store import CrdtStore
from hubless.net.policy import KIB, MIB, Limits, Timeouts
from hubless.net.services.pieces import Pieces
from hubless.net.services.sync import Sync
from hubless.net.transports.sim import Link, SimWorld, run_sim
from hubless.net.trials.population import population
from hubless.run.stages import Findings

if TYPE_CHECKING:
    from hubless.net.network import Network

NAME = "model"
POINTS = 80  # of a curve


@dataclass(frozen=True)
class Artefact:
    """A trial: ``followers`` of a publisher whose new version has ``megabytes``.

    uplink: MB/s that a peer can send
    many:   whether followers fetch from each other, or all from the publisher
    liars:  further peers that offer the artefact and change a byte of every piece
    flight: requests to one source at a time
    chunk:  KiB of a piece
    link:   of any two peers; its bandwidth is the uplink
    limit:  seconds after which it is over
    """

    followers: int = 20
    megabytes: float = 8.0
    uplink: float = 1.0
    many: bool = True
    liars: int = 0
    flight: int = 4
    chunk: int = 256
    link: Link = field(default_factory=Link)
    limit: float = 600.0

    def findings(self, seed: int) -> Findings:
        """From each other, with liars among them, and all from the publisher."""
        arms = {"many sources": sync(replace(self, liars=0), seed)}
        if self.liars:
            arms["with liars"] = sync(self, seed)
        arms["one source"] = alone = sync(replace(self, liars=0, many=False), seed)
        many, lied = arms["many sources"], list(arms.values())[-2]
        took = {name: arm.took(self) for name, arm in arms.items()}
        times = [round(max(took.values()) * i / POINTS, 3) for i in range(POINTS + 1)]
        return Findings(
            metrics={
                "sync_speedup": alone.took(self) / many.took(self),
                "sync_seconds": many.took(self),
                "sync_seconds_one_source": alone.took(self),
                "sync_seconds_some_lie": lied.took(self),
                "synced_share": min(arm.right for arm in arms.values()) / self.followers,
                "pieces_refused": lied.refused,
                "uploaded_share_of_publisher": many.uploaded,
            },
            figures=[
                {
                    "type": "lines", "title": f"Peers that have the artefact of {self.megabytes:g} MB",
                    "xlabel": "seconds since it was announced", "ylabel": "peers", "x": times,
                    "lines": {
                        name: [sum(s <= time for s in arm.seconds) for time in times] for name, arm in arms.items()
                    },
                }
            ],
        )  # fmt: skip


@dataclass
class Arrivals:
    """What became of it.

    seconds:  from the announcement until each follower had the artefact, sorted; those that never got it are missing
    right:    followers whose bytes are the publisher's
    refused:  pieces that were not what their hash says
    uploaded: share of all bytes sent that the publisher sent
    """

    seconds: list[float] = field(default_factory=list)
    right: int = 0
    refused: int = 0
    uploaded: float = 0.0

    def took(self, trial: Artefact) -> float:
        """Seconds until all had it; the limit where some never did."""
        return self.seconds[-1] if len(self.seconds) == trial.followers else trial.limit


class Changed(Pieces):
    """Pieces of a peer that lies: each has a byte changed when it is asked for; manifests are left alone."""

    lying = False

    def get(self, name: bytes) -> bytes | None:
        """What is kept, but not quite."""
        piece = super().get(name)
        if self.lying and piece and len(piece) > 16 * KIB:
            return piece[:-1] + bytes([piece[-1] ^ 1])
        return piece


def sync(trial: Artefact, seed: int) -> Arrivals:
    """Run it in a simulated world."""
    return run_sim(_sync(trial, seed))


async def _sync(trial: Artefact, seed: int) -> Arrivals:
    world = SimWorld(
        seed,
        replace(trial.link, bandwidth=trial.uplink * MIB),
        timeouts=replace(Timeouts(), blob=trial.limit),
        limits=Limits(flight=trial.flight, chunk=trial.chunk * KIB),
    )
    found = Arrivals()
    async with population(world, 1 + trial.followers + trial.liars) as peers:
        members = [net.peer_id for net in peers]
        syncs = [Sync(net, CrdtStore(net, "artefacts", lambda: members)) for net in peers]
        publisher, followers, liars = syncs[0], syncs[1 : 1 + trial.followers], syncs[1 + trial.followers :]
        data = peers[0].rng.randbytes(int(trial.megabytes * MIB))
        for liar in liars:
            await _lie(liar.net, data)
        sent = [net.stats["bytes"] for net in peers]
        await publisher.announce(NAME, 1, data)
        began, digest = peers[0].now(), hashlib.sha256(data).digest()

        def take(_: int, got: bytes) -> None:
            found.seconds.append(peers[0].now() - began)
            found.right += hashlib.sha256(got).digest() == digest

        for follower in followers:
            follower.follow(NAME, take, sources=None if trial.many else [publisher.net.peer_id])
        while len(found.seconds) < len(followers) and peers[0].now() - began < trial.limit:
            await peers[0].sleep(1.0)
        sent = [net.stats["bytes"] - before for net, before in zip(peers, sent, strict=True)]
    found.refused = sum(net.stats["reject:piece"] for net in peers)
    found.uploaded = sent[0] / sum(sent)
    return found


async def _lie(net: Network, data: bytes) -> None:
    """Offer the data, and be ready to change it."""
    pieces = net.blobs.pieces = Changed(net.limits.blobs)
    await net.blob_put(data)
    pieces.lying = True
