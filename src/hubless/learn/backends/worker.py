"""One worker: it holds a shard and does what the driver says, over a pipe or as an actor.

python -m hubless.learn.backends.worker 3       # commands and answers over the socket of that number
"""

from __future__ import annotations

import os
import signal
import sys
import traceback
from multiprocessing.connection import Connection

import torch

from hubless.errors import PeerError
from hubless.learn.backends import frames
from hubless.learn.backends.frames import Answer, Begin, Build, Done, Failed, Give, Heard, Ready, Restore, Spoke, State
from hubless.learn.shards import Report, Shard, advance
from hubless.learn.swaps import Address, Swap, Swapping
from hubless.run.source import find_recipe


class Worker:
    """A shard behind bytes: every command has one answer."""

    def __init__(self) -> None:
        self.shard: Shard
        self.owner: list[int] = []
        self.mine = 0
        self.count = 0
        self.steps: Swapping[Report] | None = None

    def handle(self, data: bytes) -> bytes:
        """The answer to a command; an error is an answer too."""
        try:
            return frames.encode(self._answer(frames.command(data)))
        except Exception as error:
            trace = "".join(traceback.format_exception(error))
            where = (error.peer, error.round) if isinstance(error, PeerError) else (-1, -1)
            return frames.encode(Failed(type(error).__name__, str(error), trace, *where))

    def _answer(self, said: frames.Command) -> Answer:
        match said:
            case Build():
                self._build(said)
            case Restore():
                self.steps = None
                self.shard.adopt(frames.PLAIN.unpack(said.data), said.scalars)
            case Give():
                population = self.shard.wiring.population
                return State(frames.PLAIN.pack(population.tensors()), population.scalars())
            case Begin():
                run, population = self.shard.run, self.shard.wiring.population
                run.faults.resolve(said.faults)
                population.excluded = set(said.excluded)
                plan = frames.plan_of(said)
                self.steps = self.shard.round(said.t, plan, run.faults.at(said.t))
                return self._step(advance(self.steps, None))
            case Heard():
                assert self.steps is not None
                heard: dict[Address, bytes] = {}
                for packets in said.packets:
                    heard.update(frames.unpacked(packets))
                return self._step(advance(self.steps, heard))
        return Ready(os.getpid())

    def _build(self, said: Build) -> None:
        from hubless.learn.learning import Run

        run = find_recipe(said.source).build({**said.options, "backend": "in-process", "workers": 0})
        assert isinstance(run, Run)
        self.mine, self.count = said.mine, len(said.shards)
        self.owner = [0] * run.n
        for number, peers in enumerate(said.shards):
            for peer in peers:
                self.owner[peer] = number
        torch.set_num_threads(said.inner)
        self.shard = Shard(run, said.shards[said.mine], shards=said.shards)
        self.shard.wiring.workers.limit(said.threads)

    def _step(self, at: Swap | Report) -> Spoke | Done:
        if isinstance(at, Report):
            self.steps = None
            return frames.done(at)
        out: list[dict[Address, bytes]] = [{} for _ in range(self.count)]
        for one, data in at.packets.items():
            for number in dict.fromkeys(self.owner[to] for to in at.routes[one]):
                out[number][one] = data
        return Spoke([frames.packed(packets) for packets in out])


def serve(connection: Connection) -> None:
    """Answer until the driver is gone."""
    worker = Worker()
    while True:
        try:
            data = connection.recv_bytes()
        except (EOFError, OSError):
            return
        connection.send_bytes(worker.handle(data))


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the driver decides when to stop
    serve(Connection(int(sys.argv[1])))
