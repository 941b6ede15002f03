"""The driver of workers: it gives them the rounds of a plan, carries what they say, and starts anew those that die."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NoReturn, TypeVar

import torch
from torch import Tensor

from hubless.errors import ConfigError, HublessError, NonFiniteError, PeerError
from hubless.learn.backends import frames
from hubless.learn.backends.frames import (
    Answer,
    Begin,
    Build,
    Command,
    Done,
    Failed,
    Give,
    Heard,
    Restore,
    Spoke,
    State,
)
from hubless.learn.backends.hosts import Host, HostLost
from hubless.learn.plan import Plan
from hubless.learn.shards import Report
from hubless.learn.wiring import Outcome, Wiring
from hubless.net.faults import Faults, Weather

if TYPE_CHECKING:
    from hubless.learn.learning import Run

log = logging.getLogger(__name__)
T = TypeVar("T")
STARTS = 3  # times that workers are started anew before the run gives up on a round


class Crew:
    """Runs rounds on workers; the wiring's population is theirs as of the last ``gather``, the rest is up to date."""

    def __init__(self, run: Run, wiring: Wiring, faults: Faults, start: Callable[[], Host], threads: int) -> None:
        if run.origin is None:
            raise ConfigError(
                f"backend = {run.setting.backend!r}: workers build the experiment from its recipe and options in text;"
                " give every option as text, or use in-process"
            )
        self.wiring, self.faults = wiring, faults
        self.source, self.options = run.origin
        self.start, self.threads = start, threads
        self.shards = shares(run)
        self.hosts: list[Host] = []
        self.rounds: list[Begin] = []  # since the last gather
        self.reports: dict[str, dict[int, Tensor]] = {}
        try:
            self._patiently(0, self._begin, ())
        except BaseException:
            self.close()
            raise

    def round(self, t: int, plan: Plan, weather: Weather) -> Outcome:
        """One round."""
        population = self.wiring.population
        self.rounds.append(frames.begin(t, plan, sorted(population.excluded), self.faults.resolved()))
        reports = self._patiently(t, lambda: self._round(self.rounds[-1]), self.rounds[:-1])
        for report in reports:
            self.wiring.meter.rejected += report.rejected
            population.excluded.update(report.excluded)
        self.wiring.meter.gather([report.costs for report in reports], self.wiring.links)
        self.wiring.events += frames.events(reports)
        if len(losses := frames.losses(reports)):
            self.wiring.losses.append(losses)
        self.reports = {
            name: dict(sorted(item for report in reports for item in report.reports[name].items()))
            for name in self.wiring.overlay.reports
        }
        if len(population.excluded) == population.n:
            raise NonFiniteError("no peer is left", peer=min(population.excluded), round=t)
        trained = torch.stack([report.trained for report in reports]).all(0)
        return Outcome(trained, reports[0].holders)

    def gather(self) -> None:
        """Bring rows, state and books of all peers here."""
        if not self.rounds:
            return
        states = self._patiently(self.rounds[-1].t, lambda: self._ask([Give()] * len(self.hosts)), self.rounds)
        self.wiring.population.collect(
            [
                (torch.tensor(peers), frames.PLAIN.unpack(state.data), state.scalars)
                for peers, state in zip(self.shards, states, strict=True)
                if isinstance(state, State)
            ]
        )
        self.rounds.clear()

    def restore(self) -> None:
        """Hand the population out as it is here."""
        self._patiently(0, self._restored, ())

    def close(self) -> None:
        """End all workers."""
        for host in self.hosts:
            host.close()
        self.hosts.clear()

    # what workers are asked

    def _round(self, command: Begin) -> list[Report]:
        answers = self._ask([command] * len(self.hosts))
        while any(isinstance(one, Spoke) for one in answers):
            said = [one.packets for one in answers if isinstance(one, Spoke)]
            answers = self._ask([Heard([packets[mine] for packets in said]) for mine in range(len(self.hosts))])
        return [frames.report_of(one) for one in answers if isinstance(one, Done)]

    def _restored(self) -> list[Answer]:
        population = self.wiring.population
        commands: list[Command] = []
        for peers in self.shards:
            tensors, scalars = population.portion(torch.tensor(peers))
            commands.append(Restore(frames.PLAIN.pack(tensors), scalars))
        return self._ask(commands)

    def _ask(self, commands: Sequence[Command]) -> list[Answer]:
        for host, said in zip(self.hosts, commands, strict=True):
            host.send(frames.encode(said))
        return self._answers()

    def _answers(self) -> list[Answer]:
        answers = [frames.answer(host.receive()) for host in self.hosts]
        for one in answers:
            if isinstance(one, Failed):
                _raise(one)
        return answers

    # workers that die

    def _patiently(self, t: int, work: Callable[[], T], done: Sequence[Begin]) -> T:
        """Work; whenever a worker is gone, begin again at the last gathered state with the rounds ``done`` since."""
        lost: HostLost | None = None
        for _ in range(STARTS + 1):
            try:
                if lost is not None:
                    self._again(done)
                return work()
            except HostLost as error:
                lost = error
                log.warning("a worker died in round %d (%s); all go on from round %d", t, error, t - len(self.rounds))
        raise HublessError(f"workers died {STARTS + 1} times in round {t}: {lost}")

    def _begin(self) -> list[Answer]:
        """Start all workers."""
        self.close()
        inner = torch.get_num_threads()
        for mine in range(len(self.shards)):
            host = self.start()
            self.hosts.append(host)
            host.send(frames.encode(Build(self.source, self.options, self.shards, mine, self.threads, inner)))
        return self._answers()

    def _again(self, done: Sequence[Begin]) -> None:
        """Start all workers anew at the last gathered state, and run again the rounds since."""
        self._begin()
        self._restored()
        for command in done:
            self._round(command)


def shares(run: Run) -> list[list[int]]:
    """Peers of every worker: neighbours in id together, and identities of one attacker."""
    from hubless.run.machine import cores

    count = min(run.setting.workers or cores(), run.n)
    joint = run.attack is not None and run.attack.joint
    together = sorted(run.hostile) if joint else []
    order = [*together, *(peer for peer in range(run.n) if not (joint and peer in run.hostile))]
    sizes = [len(part) for part in torch.tensor_split(torch.arange(run.n), count)]
    if together and len(together) > sizes[0]:
        rest = torch.tensor_split(torch.arange(run.n - len(together)), count - 1) if count > 1 else ()
        sizes = [len(together), *(len(part) for part in rest if len(part))]
    found, at = [], 0
    for size in sizes:
        found.append(sorted(order[at : at + size]))
        at += size
    return found if at == run.n else [sorted(order)]


def _raise(failed: Failed) -> NoReturn:
    kinds: dict[str, type[PeerError]] = {"NonFiniteError": NonFiniteError, "PeerError": PeerError}
    if failed.kind in kinds:
        text = failed.text.partition(": ")[2]
        raise kinds[failed.kind](text, peer=failed.peer, round=failed.round)
    if failed.kind in ("ConfigError", "DataError"):
        raise ConfigError(failed.text)
    raise HublessError(f"a worker failed: {failed.text}\n{failed.trace}")
