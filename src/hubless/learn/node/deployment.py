"""A whole deployment on this machine: a process a peer, an observer, and trouble where it is asked for."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import subprocess
import sys
from collections.abc import Coroutine, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hubless.errors import ConfigError
from hubless.learn.node.deployable import agreement, deployable, places, rules
from hubless.learn.node.node import Pace
from hubless.learn.node.stranger import Stranger
from hubless.learn.node.watch import Deployed, Watch
from hubless.net.identity import Identity
from hubless.net.network import Network
from hubless.net.transports.tcp import TcpTransport
from hubless.recipe import Recipe
from hubless.run.record import Record

if TYPE_CHECKING:
    from hubless.learn.learning import Run
    from hubless.run.folder import RunFolder

STOP = 5.0  # seconds that a node has to end by itself
TAIL = 3  # lines of a log that an error shows
CLOSE = 1e-4  # largest difference of rows at which a deployment agrees with the simulator


@dataclass(frozen=True)
class Trouble:
    """What is done to one peer: from round ``first`` on, until round ``last`` begins where that is given."""

    peer: int
    first: int
    last: int | None = None

    @staticmethod
    def of(option: str, text: str, *, ends: bool | None = None) -> list[Trouble]:
        """``3@10`` or ``2@6-9``, several joined by commas; ``ends``: whether the second form is a must, or forbidden.

        Raises ConfigError.
        """
        found = []
        for one in filter(None, text.split(",")):
            parts = re.fullmatch(r"(\d+)@(\d+)(?:-(\d+))?", one.strip())
            wrong = parts is None or (ends is True and parts[3] is None) or (ends is False and parts[3] is not None)
            if parts is None or wrong:
                form = {True: "PEER@FROM-TO", False: "PEER@ROUND", None: "PEER@ROUND or PEER@FROM-TO"}[ends]
                raise ConfigError(f"{option} = {one!r}: must be {form}, as in {'2@6-9' if ends else '3@10'}")
            first, last = int(parts[2]), int(parts[3]) if parts[3] else None
            if first < 1 or (last is not None and last <= first):
                raise ConfigError(f"{option} = {one!r}: rounds count from 1, and the second must be the later")
            found.append(Trouble(int(parts[1]), first, last))
        return found


@dataclass(frozen=True)
class Troubles:
    """kill: ended by SIGKILL, and started again; late: started later; cut: connections dropped; junk: a stranger."""

    kill: Sequence[Trouble] = ()
    late: Sequence[Trouble] = ()
    cut: Sequence[Trouble] = ()
    junk: bool = False

    def check(self, n: int, rounds: int) -> None:
        """Raises ConfigError for peers or rounds that are not there, or when nobody is there from the beginning."""
        for option in ("kill", "late", "cut"):
            for one in getattr(self, option):
                if one.peer >= n or one.first > rounds:
                    raise ConfigError(
                        f"{option} = {one.peer}@{one.first}: the peers are 0 to {n - 1}, the rounds 1 to {rounds}"
                    )
        if len({one.peer for one in self.late}) >= n:
            raise ConfigError("late: somebody must be there from the beginning")


@dataclass
class Child:
    """A node that runs as a process of ours."""

    peers: tuple[int, ...]
    folder: Path
    key: str
    process: subprocess.Popen[bytes] | None = None
    started: bool = False

    @property
    def name(self) -> str:
        """For people."""
        return f"peer {self.peers[0]}" if len(self.peers) == 1 else f"peers {self.peers[0]} to {self.peers[-1]}"

    @property
    def runs(self) -> bool:
        """Whether it is there."""
        return self.process is not None and self.process.poll() is None

    def start(self, words: Sequence[str]) -> None:
        """Start it; it ends when this process does."""
        self.stop()
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
        with (self.folder / "log.txt").open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "hubless", "node", *words], stdin=subprocess.PIPE, stdout=log, stderr=log,
                start_new_session=True, env=environment,
            )  # fmt: skip
        self.started = True

    def say(self, word: str) -> None:
        """Tell it something."""
        if self.runs and self.process is not None and self.process.stdin is not None:
            self.process.stdin.write(word.encode() + b"\n")
            self.process.stdin.flush()

    def kill(self) -> None:
        """SIGKILL."""
        if self.process is not None:
            self.process.send_signal(signal.SIGKILL)
            self.process.wait()

    def stop(self) -> None:
        """End it: it is told, then killed."""
        if self.process is None:
            return
        if self.process.stdin is not None:
            self.process.stdin.close()
        try:
            self.process.wait(STOP)
        except subprocess.TimeoutExpired:
            self.kill()

    def tail(self) -> str:
        """The last lines of its log."""
        path = self.folder / "log.txt"
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines() if path.exists() else []
        return " / ".join(line.strip() for line in lines[-TAIL:] if line.strip())


class Deployment(Recipe):
    """A recipe whose experiments run as processes; also a sink of the run that is made of it."""

    def __init__(
        self, recipe: Recipe, pace: Pace, troubles: Troubles, *, check: bool = False, log: str = "info"
    ) -> None:
        super().__init__(recipe.function, recipe.system)
        self.recipe, self.pace, self.troubles, self.log = recipe, pace, troubles, log
        self.check = check
        self.difference: float | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self.children: list[Child] = []
        self.run: _Checked | None = None
        self._folder: RunFolder | None = None
        self._given: dict[str, Any] = {}
        self._net: Network | None = None
        self._stranger: Stranger | None = None

    # as a recipe

    def build(self, given: Mapping[str, Any], preset: str | None = None) -> _Checked:
        """The experiment. Raises ConfigError before any work for what cannot be deployed."""
        self._given = self.resolve(given, preset)
        run = deployable(self.recipe.build(self._given), self.name)
        self.troubles.check(run.n, run.rounds)
        self._places = places(run)
        self.run = _Checked(self, run)
        return self.run

    # as a sink

    def open(self, folder: RunFolder, config: dict[str, Any]) -> None:
        """The folder in which nodes have theirs."""
        self._folder = folder

    def write(self, record: Record, seconds: float) -> None:
        """Nothing to do."""

    def close(self, finished: bool) -> None:
        """Nothing to do."""

    # nodes

    def wait(self, work: Coroutine[Any, Any, Any]) -> Any:
        """Run something to its end, and the observer meanwhile."""
        self._loop = self._loop or asyncio.new_event_loop()
        return self._loop.run_until_complete(work)

    def begin(self) -> Watch:
        """Start the observer, and the nodes that are there from the beginning."""
        assert self._folder is not None
        assert self.run is not None
        home = self._folder.path / "nodes"
        home.mkdir(mode=0o700)
        for peers in self._places:
            folder = home / f"peer-{peers[0]}"
            folder.mkdir(mode=0o700)
            identity = Identity()
            identity.save(folder / "key")
            self.children.append(Child(peers, folder, identity.peer_id))
        allowed = home / "allow"
        watch: Watch = self.wait(self._begin(allowed))
        return watch

    async def _begin(self, allowed: Path) -> Watch:
        assert self.run is not None
        identity = Identity()
        keys = [*(child.key for child in self.children), identity.peer_id]
        allowed.write_text("".join(f"{key}\n" for key in keys), encoding="utf-8")
        allow = None if self.troubles.junk else frozenset(keys)  # a stranger must get in to do harm
        transport = TcpTransport(identity, allow=allow)
        self._net = await Network(transport, identity).start()
        group = rules(self.run, agreement(self.name, self._given), frozenset({identity.peer_id}))
        watch = Watch(self.run, self._net, group, self.pace, self._ended)
        self._contact = f"{identity.peer_id}@{transport.addresses()[0]}"
        self._allow = None if allow is None else allowed
        late = {one.peer for one in self.troubles.late}
        for child in self.children:
            if late.isdisjoint(child.peers):
                child.start(self._words(child))
        await watch.begin()
        if self.troubles.junk:
            self._stranger = Stranger(watch.group)
            await self._stranger.start()
        return watch

    def _words(self, child: Child) -> list[str]:
        assert self._folder is not None
        late = {one.peer for one in self.troubles.late}
        here = sum(len(peers) for peers in self._places if late.isdisjoint(peers))
        words = {
            "config": self._folder.config_file, "peer": ",".join(map(str, child.peers)), "key": child.folder / "key",
            "home": child.folder / "state", "watch": self._contact, "wait-for": here, "log": self.log, "threads": 1,
            "round-seconds": self.pace.period, "grace": self.pace.grace, "gather-seconds": self.pace.gather,
        }  # fmt: skip
        if self._allow is not None:
            words["allow"] = self._allow
        return ["--tethered", *(f"--{name}={value}" for name, value in words.items())]

    def each(self, t: int) -> list[str]:
        """Make trouble that is due in round t; what was done, in words."""
        said = []
        for child in self.children:
            mine = set(child.peers)
            for one in self.troubles.late:
                if one.peer in mine and one.first == t:
                    child.start(self._words(child))
                    said.append(f"{child.name} is started late")
            for one in self.troubles.kill:
                if one.peer in mine and one.first == t:
                    child.kill()
                    said.append(f"{child.name} is killed")
                if one.peer in mine and one.last == t:
                    child.start(self._words(child))
                    said.append(f"{child.name} is started again")
            for one in self.troubles.cut:
                if one.peer in mine and one.first == t:
                    child.say("cut")
                    said.append(f"the connections of {child.name} are dropped")
                if one.peer in mine and one.last == t:
                    child.say("heal")
                    said.append(f"{child.name} may connect again")
        return said

    def _ended(self) -> str | None:
        """Why no node will report any more; one that fails before the others know of it counts, too."""
        begun = [child for child in self.children if child.started]
        if any(child.runs for child in begun):
            early = [child for child in begun if not child.runs and child.process and child.process.returncode == 2]
            return f"{early[0].name} did not start: {early[0].tail()}" if early else None
        shown = begun[0] if begun else None
        return f"no node is left; {shown.name}: {shown.tail()}" if shown else "no node was started"

    def end(self) -> None:
        """End everything that was started."""
        for child in self.children:
            if child.process is not None and child.process.stdin is not None:
                child.process.stdin.close()
        for child in self.children:
            child.stop()
        if self._stranger is not None:
            self.wait(self._stranger.close())
        if self._net is not None:
            self.wait(self._net.close())
        if self._loop is not None:
            self._loop.close()


class _Checked(Deployed):
    """The experiment of a deployment; at the end it is laid beside the simulator where that is asked for."""

    def __init__(self, deployment: Deployment, run: Run) -> None:
        self.deployment = deployment
        super().__init__(run.asked, deployment.wait, deployment.begin, deployment.each, deployment.end)

    def records(self, resume: Any = None) -> Iterator[Record]:
        """Those of the run; before the end one line for each node that dropped something, and the comparison."""
        if resume is not None:
            raise ConfigError("resume: a deployment goes on as long as its nodes do; start it anew")
        for record in super().records():
            if record.kind == "end":
                for text in self.junk():
                    yield Record("event", record.round, data={"text": text, "level": "warning"})
                if self.deployment.check:
                    yield from self._beside(record.round)
            yield record

    def _beside(self, t: int) -> Iterator[Record]:
        """The largest difference to the final rows of the simulator with the same options."""
        simulated = self.deployment.recipe.build(self.deployment._given)
        for _ in simulated.records():
            pass
        difference = apart(self, simulated)
        self.deployment.difference = difference
        verdict = "agrees with the simulator" if difference <= CLOSE else "differs from the simulator"
        yield Record("event", t, data={"text": f"{verdict}: largest difference of the final rows {difference:.2g}"})


def apart(deployed: Deployed, simulated: Any) -> float:
    """The largest difference of final rows, over honest peers; where all share one model, of the aggregator's."""
    assert deployed._state is not None
    mine, theirs = deployed._state.wiring.population, simulated._state.wiring.population
    peers = sorted(set(range(deployed.n)) - deployed.hostile)
    if theirs.shared:
        peers = deployed._outcome(deployed.rounds, deployed._state) or peers
        rows = theirs.cohorts[0].rows
        return max(float((mine.peer(peer)[1] - rows[0]).abs().max()) for peer in peers)
    return max(float((mine.peer(peer)[1] - theirs.peer(peer)[1]).abs().max()) for peer in peers)
