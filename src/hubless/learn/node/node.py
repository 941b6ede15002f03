"""A node: it trains the peers that it holds, swaps packets with other nodes, and goes on whatever those do."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from hubless.errors import CheckpointError, ConfigError, MessageError, NetworkError
from hubless.learn.node.agreed import Agreed, fresh
from hubless.learn.node.group import Group, Rules
from hubless.learn.node.reports import told
from hubless.learn.node.words import Packet, Report, read_packets, write
from hubless.learn.plan import World
from hubless.learn.shards import Report as Done
from hubless.learn.shards import Shard, advance
from hubless.learn.swaps import Address, Packets, Swap
from hubless.net.faults import Faults, Weather
from hubless.net.row_exchange import OVERHEAD, RowExchange
from hubless.run import checkpoint

if TYPE_CHECKING:
    from hubless.learn.learning import Run
    from hubless.learn.plan import Plan
    from hubless.net.network import Network
    from hubless.net.transports.transport import PeerId

log = logging.getLogger(__name__)

REPORT = "node/report"
ROWS = "learn"
NEVER = 1e12  # seconds: how far away round 1 is before its time is settled
UNDERWAY = 8  # reports that an observer may be behind
TOGETHER = 64  # peers up to which all end a round together, whatever the overlay
STAGES = 2048  # of a round, where its end is one
Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Pace:
    """How a deployment keeps time.

    period: seconds that a round may take when somebody is missing; where all are well, rounds follow each other
    grace:  seconds that a node waits for the last messages once it has most of them
    wanted: peers that must be here for round 1 to begin; 0: all
    gather: seconds after which it begins with fewer
    """

    period: float = 10.0
    grace: float = 5.0
    wanted: int = 0
    gather: float = 60.0

    def __post_init__(self) -> None:
        for name in ("period", "grace", "gather"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"pace.{name} = {getattr(self, name):g}: must be positive")
        if self.wanted < 0:
            raise ConfigError(f"pace.wanted = {self.wanted}: must not be negative")


class Node:
    """The peers ``held`` of a run: one, unless they are the identities of one attacker.

    home:     folder in which their state is kept after each round; a node that is started again goes on from there
    identity: of the run, so that no other run's state is taken
    watcher:  who hears of every round
    """

    def __init__(
        self, run: Run, net: Network, held: Sequence[int], rules: Rules, pace: Pace, *, home: Path | None = None,
        identity: checkpoint.Identity | None = None, watcher: PeerId | None = None,
    ) -> None:  # fmt: skip
        self.run, self.net, self.pace = run, net, pace
        self.shard = Shard(run, held, remote=True)
        self.held = tuple(self.shard.held)
        self.rows = RowExchange(net, ROWS, start=net.now() + NEVER, period=pace.period, patience=pace.grace)
        self.group = Group(net, rules, self.held, self._here, self._gone)
        self.home, self.identity, self.watcher = home, identity, watcher
        self.counts: Counter[str] = Counter()
        self.missing = 0
        self._before = self._mask(())  # who was alive in the last round
        self._agreed: Mask | None = None
        self._asks = asks(run)
        self._together = self._asks or run.n <= TOGETHER
        self._none = Faults((), run.n)
        self._fresh = fresh()
        self._telling: dict[asyncio.Task[None], None] = {}

    def _here(self, key: PeerId, r: int) -> None:
        if key != self.watcher:
            self.rows.heard(key, max(0, r - 1))

    def _gone(self, key: PeerId) -> None:
        if key != self.watcher:
            self.rows.gone(key)

    async def go(self, contacts: Sequence[PeerId]) -> None:
        """Meet the others, then all rounds; returns when those who are here are through, too.

        Raises ConfigError when the others refuse this node, NonFiniteError when a peer's numbers blow up.
        """
        done = self._restored()
        await self.group.begin(contacts, self.pace.wanted or self.run.n, self.pace.gather)
        self.rows.start = self.group.start
        tending = self.net.spawn(self.group.tend(contacts), "tend")
        try:
            await self.net.sleep(max(0.0, self.group.start - self.net.now()))
            await self._rounds(done)
            await self._finish()
        finally:
            tending.cancel()
            self.group.leave(done=self.group.round >= self.run.rounds)
            self.shard.close()

    # rounds

    async def _rounds(self, done: int) -> None:
        alive = self._mask(self.group.here())
        self._before = alive
        t, planned = max(done, self.rows.current()) + 1, 0
        while t <= self.run.rounds:
            for passed in range(planned + 1, t):  # what the others did meanwhile, as far as it can be known
                self.shard.plan(passed, self._weather(passed, alive))
            self.group.round = t
            alive = self._mask(self.group.here()) if self._agreed is None else self._agreed
            weather = self._weather(t, alive)
            plan = self.shard.plan(t, weather)
            await self._tell(t, await self._round(t, plan, weather))
            await self._end_together(t)
            now = self.rows.current() + 1
            planned, t = t, t + 1 if now <= t + 1 else now
            if t > planned + 1:
                self._say(f"rounds {planned + 1} to {min(t - 1, self.run.rounds)} went by")

    async def _round(self, t: int, plan: Plan, weather: Weather) -> Done:
        self.missing = 0
        stages = self.shard.swaps(plan) + self._together
        if self.run.codec.hides:  # whom this node knows is settled for the round
            session = f"{self.group.rules.digest}/{self.group.start!r}".encode()
            self.shard.wiring.secrets = Agreed(self.net.identity, dict(self.group.key_of), self._fresh, session)
        steps = self.shard.round(t, plan, weather)
        heard: Packets | None = None
        while True:
            step = await self.net.run(advance, steps, heard)
            if isinstance(step, Done):
                return step
            heard = await self._carry(step, stages)

    async def _carry(self, swap: Swap, stages: int) -> Packets:
        """Send what the held peers say; what came of what they wait for."""
        saying: dict[PeerId, list[Packet]] = {}
        for address, body in swap.packets.items():
            packet = Packet(address[0], -1 if address[1] is None else address[1], body)
            for key in dict.fromkeys(self.group.holder(to) for to in swap.routes[address]):
                if key is not None and key != self.net.peer_id:
                    saying.setdefault(key, []).append(packet)
        waiting = {key: None for sender, _ in swap.expect if (key := self.group.holder(sender))}
        said = {key: write(packets) for key, packets in saying.items()}
        got = await self.rows.swap(swap.t - 1, said, list(said), list(waiting), stage=swap.number, stages=stages)
        found = self._sorted(swap, got)
        self.missing += len(swap.expect) - len(found)
        return found

    def _sorted(self, swap: Swap, got: Mapping[PeerId, bytes]) -> dict[Address, bytes]:
        """Packets by address; what the plan does not name is dropped and counted."""
        wanted = dict.fromkeys(swap.expect)
        found: dict[Address, bytes] = {}
        for key, body in got.items():
            try:
                packets = read_packets(body)
            except MessageError:
                self.counts["malformed"] += 1
                continue
            for packet in packets:
                address = (packet.sender, None if packet.to < 0 else packet.to)
                if address in wanted and address not in found and self.group.holder(packet.sender) == key:
                    found[address] = packet.body
                else:
                    self.counts["not in the plan"] += 1
        return found

    # who is alive

    def _mask(self, peers: Sequence[int]) -> Mask:
        mask = np.zeros(self.run.n, dtype=bool)
        mask[list(peers)] = True
        return mask

    def _weather(self, t: int, alive: Mask) -> Weather:
        """Round t as this node knows it: who is here; nothing of how slow others are."""
        before, bye = self._before, self._mask(list(self.group.said_bye))
        self._before = alive
        gone = before & ~alive
        crashed, left, joined = (np.flatnonzero(mask) for mask in (gone & ~bye, gone & bye, alive & ~before))
        data, slow = np.ones(self.run.n, dtype=bool), np.ones(self.run.n)
        return Weather(t, alive, data, slow, crashed, left, joined, self._none)

    async def _end_together(self, t: int) -> None:
        """Tell all that the round is over, and who is here; who is here to most is alive in the next round.

        So plans agree that depend on it, and nobody runs ahead through rounds in which it expects nothing. In large
        populations whose plans do not depend on it, neighbours alone keep each other in step.
        """
        if not self._together:
            return
        mine = self._mask(self.group.here())
        others = self.group.others()
        got = await self.rows.swap(t - 1, mine.tobytes(), others, others, stage=STAGES - 1, stages=STAGES)
        views = [mine]
        for body in got.values():
            if len(body) == self.run.n and max(body) <= 1:
                views.append(np.frombuffer(body, dtype=np.bool_))
            else:
                self.counts["malformed"] += 1
        self._agreed = 2 * np.sum(views, axis=0) > len(views)
        self._agreed[list(self.held)] = True

    # what is kept, and told

    def _restored(self) -> int:
        """Take up what a node of these peers left; the round after which it was written."""
        if self.home is None or self.identity is None or not (self.home / "state.json").exists():
            return 0
        try:
            snapshot = checkpoint.load(self.home, self.identity)
            self.shard.restore(snapshot)
        except CheckpointError as error:
            self._say(f"begins anew: {error}")
            return 0
        self._say(f"goes on with its own rows of round {snapshot.round}")
        return snapshot.round

    def _say(self, text: str) -> None:
        log.warning("%s", text)
        self.group.news.append(f"peer {', '.join(map(str, self.held[:4]))}: {text}")

    async def _tell(self, t: int, done: Done) -> None:
        """Write down the state of the held peers, and tell the observer of the round."""
        for one in done.events:
            log.warning("round %d: %s", t, one.line)
        loss = float(done.losses.mean()) if len(done.losses) else float("nan")
        log.info("round %d: loss %.4f, %d messages missing", t, loss, self.missing)
        if self.home is not None and self.identity is not None:
            await self.net.run(checkpoint.save, self.home, self.shard.snapshot(t), self.identity)
        if self.watcher is None or self.watcher not in self.group.known:
            self.group.news.clear()
            return
        due = t % self.run.setting.evaluate == 0 or t == self.run.rounds
        hooks, attack = bool(self.run.learning.hooks), self.run.attack is not None
        report = told(
            self.shard, t, done, list(self.group.news), self.dropped(), self.missing, whole=due or hooks,
            books=hooks or attack,
        )  # fmt: skip
        self.group.news.clear()
        if len(self._telling) >= UNDERWAY:  # an observer is waited for, but not for long
            await asyncio.wait(list(self._telling)[:1], timeout=self.pace.grace)
        if len(self._telling) < 2 * UNDERWAY:
            self._telling[self.net.spawn(self._report(report), f"report {t}")] = None

    async def _report(self, report: Report) -> None:
        assert self.watcher is not None
        try:
            if len(report.tensors) + OVERHEAD > self.net.max_frame // 2:
                cid = await self.net.blob_put(report.tensors, provide=False)
                report.tensors, report.cid = b"", cid
            await self.net.request(self.watcher, REPORT, write(report), self.net.timeouts.blob)
        except NetworkError as error:
            log.info("the observer did not hear of round %d: %s", report.round, error)
        finally:
            task = asyncio.current_task()
            assert task is not None
            self._telling.pop(task, None)

    def dropped(self) -> dict[str, int]:
        """What was dropped so far, by reason: packets, rows and frames."""
        frames = {name: count for name, count in self.net.stats.items() if name.startswith("reject:")}
        found = self.counts + self.rows.counts + Counter(frames)
        return dict(sorted(found.items()))

    async def _finish(self) -> None:
        """Nobody leaves before those that wait for it, and for whom it waits, are through."""
        if self._telling:
            await asyncio.wait(list(self._telling), timeout=self.pace.grace)
        others = self.group.others()
        await self.rows.swap(self.run.rounds, b"", others, others)
        await self.rows.flush()


def asks(run: Run) -> bool:
    """Whether plans depend on who is alive."""
    asked: list[int] = []

    def ping(peer: int) -> bool:
        asked.append(peer)
        return True

    overlay, first = run.learning.overlay, list(range(run.n))
    world = World(run.n, run.setting.seed, run.shards.sizes.cpu(), first, ping)
    overlay.plan(1, world, overlay.init(world))
    return bool(asked)
