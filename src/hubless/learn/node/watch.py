"""The observer of a deployment: it hears of every round, and makes the records that the simulator would make."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Coroutine, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from hubless.errors import HublessError, MessageError, NetworkError
from hubless.learn.backends.frames import events, losses
from hubless.learn.learning import Learning, Run
from hubless.learn.node.group import Group, Rules
from hubless.learn.node.node import REPORT, Pace
from hubless.learn.node.reports import costs, take
from hubless.learn.node.words import Report, read
from hubless.learn.plan import Plan
from hubless.learn.shards import Report as Done
from hubless.learn.wiring import Outcome, Told, Wiring
from hubless.net.faults import Faults, Weather

if TYPE_CHECKING:
    from torch import Tensor

    from hubless.learn.kept import Kept
    from hubless.learn.streaming import Streaming
    from hubless.net.network import Network
    from hubless.net.transports.transport import PeerId

log = logging.getLogger(__name__)
AHEAD = 16  # rounds that a node's reports may be ahead of the records; then it waits for its answer
LOOK = 0.05  # seconds between two looks at who has reported


class Watch:
    """Hears reports, and says who has reported a round. It sends nothing that learning needs.

    ended: why no more reports will come, in words; None as long as some may
    """

    def __init__(self, run: Run, net: Network, rules: Rules, pace: Pace, ended: Callable[[], str | None]) -> None:
        self.n, self.net, self.pace, self.ended = run.n, net, pace, ended
        self.group = Group(net, rules, (), self._nothing, self._nothing)
        self.reports: dict[int, dict[PeerId, Report]] = {}
        self.latest: dict[PeerId, int] = {}
        self.done = 0
        self.rounds = run.rounds
        self.counts: Counter[str] = Counter()
        self.dropped: dict[PeerId, dict[str, int]] = {}
        net.serve(REPORT, self._heard, limit=4 * AHEAD * run.n, queue=AHEAD * run.n)

    def _nothing(self, *_: object) -> None:
        """Whether a member is here is looked up."""

    async def _heard(self, ctx: Any, body: bytes) -> None:
        """A report; it is answered when the records are near, so that nobody runs away from them."""
        one = self.group.known.get(ctx.src)
        if one is None or not one.member.peers:
            self.counts["report of a stranger"] += 1
            return
        try:
            report = read(body, Report)
            if report.cid:
                report.tensors = await self.net.blob_get(report.cid, peers=[ctx.src])
            self._check(report, one.member.peers)
        except (MessageError, NetworkError) as error:
            self.counts["malformed report"] += 1
            log.warning("report of %s: %s", ctx.src[:8], error)
            return
        self.group.heard(ctx.src)
        self.latest[ctx.src] = max(report.round, self.latest.get(ctx.src, 0))
        self.dropped[ctx.src] = report.dropped
        if report.round <= self.done:
            self.counts["late report"] += 1
            return
        self.reports.setdefault(report.round, {})[ctx.src] = report
        while report.round > self.done + AHEAD and ctx.left() > LOOK:
            await self.net.sleep(LOOK)

    def _check(self, report: Report, peers: list[int]) -> None:
        """Raises MessageError."""
        if not self.done - AHEAD <= report.round <= min(self.rounds, self.done + 4 * AHEAD):
            raise MessageError(f"a report of round {report.round}")
        if not set(report.trained) <= set(peers) or len(report.losses) != len(report.places):
            raise MessageError("a report of others")
        if report.holders is not None and not all(0 <= peer < self.n for peer in report.holders):
            raise MessageError("a report of an aggregator that is none")

    async def begin(self) -> None:
        """Until the time of round 1 is settled. Raises HublessError when nobody will settle it."""
        while not self.group.start:
            if why := self.ended():
                raise HublessError(f"deploy: {why}")
            await self.net.sleep(LOOK)
        self.group.news.clear()  # that all came is no news

    async def collect(self, t: int) -> dict[PeerId, Report]:
        """The reports of round t, once all that are here have sent theirs, or have been waited for.

        Raises HublessError when none will come.
        """
        most: float | None = None
        until = self.group.start + (t + 1) * self.pace.period + self.pace.grace
        while True:
            have, now = self.reports.get(t, {}), self.net.now()
            waiting = [key for key in self.group.others() if self.latest.get(key, 0) < t and self._round(key) <= t]
            if have and not waiting:
                break
            if len(have) >= len(waiting):
                most = now if most is None else most
            if have and (now > until or (most is not None and now > most + self.pace.grace)):
                break
            if not have and (why := self.ended()):
                raise HublessError(f"deploy: {why}")
            if not have and any(latest > t for latest in self.latest.values()) and now > until:
                break  # everybody left this round out
            await self.net.sleep(LOOK)
        self.done = t
        return self.reports.pop(t, {})

    def _round(self, key: PeerId) -> int:
        return self.group.known[key].round

    def news(self) -> list[str]:
        """Who came and went since the last time, in words."""
        found, self.group.news[:] = list(self.group.news), []
        return found


class Seen(Faults):
    """What an observer saw of a round, where a simulation has a schedule."""

    def __init__(self, n: int) -> None:
        super().__init__((), n)
        self.masks = {0: np.ones(n, dtype=bool), 1: np.ones(n, dtype=bool)}
        self.texts: dict[int, list[str]] = {}
        self.look: Callable[[int], None] | None = None

    def at(self, t: int) -> Weather:
        """The weather of round t, which is waited for once nodes can be started."""
        if self.look is not None and t > 0:
            self.look(t)
        alive, before = self.masks[t], self.masks[max(0, t - 1)]
        data, slow, nobody = np.ones(self.n, dtype=bool), np.ones(self.n), np.zeros(0, dtype=np.int64)
        return Weather(t, alive, data, slow, np.flatnonzero(before & ~alive), nobody, np.flatnonzero(alive & ~before),
                       self)  # fmt: skip

    def describe(self, t: int) -> list[str]:
        """Who came and went, and what was done to nodes."""
        return self.texts.get(t, [])


class Deployed(Run):
    """A run whose rounds are those of nodes.

    wait:  runs what the watch does, which goes on between records only
    begin: starts them; returns the watch
    each:  what is to be done before a round is waited for, and what to say of it
    end:   ends them
    """

    def __init__(
        self, learning: Learning, wait: Callable[[Coroutine[Any, Any, Any]], Any], begin: Callable[[], Watch],
        each: Callable[[int], list[str]], end: Callable[[], None],
    ) -> None:  # fmt: skip
        super().__init__(learning)
        self._wait, self._begin, self._each, self._end = wait, begin, each, end
        self.faults = self.seen = Seen(self.n)
        self.watch: Watch | None = None
        self.heard: dict[PeerId, Report] = {}
        self.holders: dict[PeerId, list[int]] = {}
        self.reports: dict[str, dict[int, Tensor]] = {}
        self._wiring: Wiring | None = None
        self._looked = 0

    def wired(
        self, held: Tensor | None = None, *, remote: bool = False, shards: Sequence[Tensor] = ()
    ) -> tuple[Wiring, Streaming | Kept]:
        """The observer's copy of all peers; each has a model of its own."""
        return super().wired(held, remote=True, shards=shards)

    def crew(self, wiring: Wiring) -> Any:
        """The nodes, which are started when round 1 is asked for."""
        self._wiring = wiring
        self.seen.look = self._look
        return self

    def _look(self, t: int) -> None:
        """Wait for the reports of a round."""
        if t <= self._looked:
            return
        if self.watch is None:
            self.watch = self._begin()
        texts = self._each(t)
        self.heard = self._wait(self.watch.collect(t))
        self.holders = {key: self.watch.group.known[key].member.peers for key in self.heard}
        mask = np.zeros(self.n, dtype=bool)
        mask[[peer for peers in self.holders.values() for peer in peers]] = True
        self.seen.masks[t] = mask if mask.any() else self.seen.masks[t - 1]
        said = [text for key in sorted(self.heard) for text in self.heard[key].news]
        own = [text for text in said if ": " in text]  # what a node says of itself; who is here, the watch knows
        self.seen.texts = {t: [*texts, *self.watch.news(), *own]}
        self._looked = t

    # a crew

    def round(self, t: int, plan: Plan, weather: Weather) -> Outcome:
        """What the nodes' round came to."""
        assert self._wiring is not None
        assert self.watch is not None
        wiring, population = self._wiring, self._wiring.population
        trained = torch.zeros(self.n, dtype=torch.bool)
        found: list[Done] = []
        for key in sorted(self.heard, key=lambda one: self.holders[one]):
            report = self.heard[key]
            try:
                spent = costs(report, self.n)
                take(report, self.holders[key], population)
            except MessageError as error:
                self.watch.counts["malformed report"] += 1
                log.warning("report of %s: %s", key[:8], error)
                continue
            trained[report.trained] = True
            told = [Told(tuple(one.order), one.text, one.times) for one in report.events]
            found.append(Done(trained, report.holders, spent, report.rejected, torch.tensor(report.losses),
                              torch.tensor(report.places, dtype=torch.int64), told))  # fmt: skip
            wiring.meter.rejected += report.rejected
            wiring.meter.lost += report.missing
        if not found:
            return Outcome(trained)
        if len({len(done.costs) for done in found}) == 1:
            wiring.meter.gather([done.costs for done in found], wiring.links)
        else:  # plans of nodes that saw different peers
            for done in found:
                wiring.meter.gather([done.costs], wiring.links)
        wiring.events += events(found)
        wiring.losses.append(losses(found))
        said = Counter(tuple(done.holders) for done in found if done.holders is not None)
        return Outcome(trained, list(said.most_common(1)[0][0]) if said else None)

    def gather(self) -> None:
        """Rows come with the reports."""

    def restore(self) -> None:
        """Nodes go on from where they are."""

    def close(self) -> None:
        """End the nodes."""
        self._end()

    def junk(self) -> Iterator[str]:
        """What each node dropped, in words."""
        if self.watch is not None:
            for key, counts in sorted(self.watch.dropped.items()):
                if counts:
                    yield f"{key[:8]} dropped {', '.join(f'{count} {why}' for why, count in sorted(counts.items()))}"
