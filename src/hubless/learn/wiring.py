"""A learning method put together for one run: the parts, the data, and what both kinds of population share."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal, NamedTuple, Protocol

import torch
from torch import Tensor

from hubless.errors import NonFiniteError
from hubless.learn import keys
from hubless.learn.codecs import Codec
from hubless.learn.context import Batch, Context, Message
from hubless.learn.model import Model
from hubless.learn.plan import Book, Exchange, Overlay, Train
from hubless.learn.population import Population
from hubless.learn.slots import Attack, Hook, Local, Merge, Reduce
from hubless.learn.training import Job, Trained, Workers
from hubless.learn.wire import Meter
from hubless.learn.workload import Shards
from hubless.net.faults import Weather
from hubless.net.links import Links


class NoSlope:
    """For contexts outside training, where there is no batch to take a gradient on."""

    def grad(self, *_: Any) -> Any:
        """Always an error of the part that asks."""
        raise RuntimeError("ctx.grad works in training only")

    clipped = input_grad = grad


class Secrets(Protocol):
    """Where peers do not follow from the seed alone: what only they know, in step k of round t."""

    def own(self, peer: int, t: int, k: int) -> int:
        """What a peer that is held here tells nobody."""

    def pair(self, a: int, b: int, t: int, k: int) -> int:
        """What two peers share, of which one is held here. Raises CodecError for one that is not known."""


class Told(NamedTuple):
    """Something that went wrong in a round, in words, and where in the round: texts of several shards go in that order.

    times: how often, in place of ``{times}`` in the text; after ``{times};`` follows the first case, one for all shards
    """

    order: tuple[int, ...]
    text: str
    times: int = 1

    @property
    def line(self) -> str:
        """The words."""
        return self.text.replace("{times}", str(self.times))


@dataclass
class Outcome:
    """What a round came to: who trained ``[N]``, and who holds the aggregator role where it was handed on."""

    trained: Tensor
    holders: list[int] | None = None


@dataclass
class Wiring:
    """Everything that a round needs; see ``Learning`` for the parts.

    remote:  messages come from machines that are not ours
    secrets: what others must not predict; None: it follows from the seed
    """

    population: Population
    shards: Shards
    local: Mapping[str, Local]
    overlay: Overlay
    merge: Merge
    codec: Codec
    attack: Attack | None
    hostile: frozenset[int]
    hooks: tuple[Hook, ...]
    links: Links
    seed: int
    workers: Workers
    meter: Meter
    kernel: str = "auto"
    memory: float = 512.0
    nonfinite: Literal["stop", "drop"] = "stop"
    remote: bool = False
    secrets: Secrets | None = None
    events: list[Told] = field(default_factory=list)
    losses: list[Tensor] = field(default_factory=list)
    places: list[Tensor] = field(default_factory=list)
    _placed: int = 0

    @property
    def n(self) -> int:
        """Peers in the population."""
        return self.population.n

    @property
    def judges(self) -> bool:
        """Whether some hook wants to see every message."""
        return any(hook.needs_messages for hook in self.hooks)

    @property
    def wary(self) -> bool:
        """Whether some messages may be of other names or shapes than the rest."""
        return self.remote or bool(self.hostile)

    @property
    def curious(self) -> bool:
        """Whether some part may ask for the rows before training."""
        reduce = self.merge.reduce
        mapped = reduce.linear or (reduce.vectorised and not reduce.starts)
        return not (self.merge.plain and self.codec.plain and mapped)

    def tell(self, text: str, *order: int, times: int = 1) -> None:
        """Put into the records what went wrong; ``order``: step of the plan, then stage and place within it."""
        self.events.append(Told(order, text, times))

    def begin(self) -> None:
        """Forget what the last round left."""
        self.losses.clear()
        self.places.clear()
        self._placed = 0

    def line_up(self, chunks: list[Tensor]) -> Tensor:
        """Places ``[N]`` of peers in the order in which a population that is held in one piece would train them."""
        peers = torch.cat(chunks) if chunks else torch.zeros(0, dtype=torch.int64)
        place = torch.zeros(self.n, dtype=torch.int64)
        place[peers] = self._placed + torch.arange(len(peers))
        self._placed += len(peers)
        return place

    def judged(self, exchange: Exchange, messages: Mapping[int, Message]) -> dict[int, float]:
        """Factors on the senders' weights from all judges."""
        factors: dict[int, float] = {}
        for hook in self.hooks:
            if hook.needs_messages:
                for peer, factor in (hook.judge(exchange, messages, self.population) or {}).items():
                    factors[peer] = factors.get(peer, 1.0) * factor
        return factors

    def context(self, t: int, k: int, model: Model, peer: int | Tensor, **more: Any) -> Context:
        """What a part may know outside training."""
        key = keys.fold(keys.fold(self.seed, "round", t, k), peer)
        if not isinstance(peer, Tensor):
            more |= {"own": partial(self.own, peer), "apart": partial(self.apart, peer)}
        secret = keys.fold(key, "secret")
        if self.secrets is not None and not isinstance(peer, Tensor):
            secret, secrets = self.secrets.own(peer, t, k), self.secrets
            more["agreed"] = lambda a, b: secrets.pair(a, b, t, k)
        return Context(
            t=t, N=self.n, model=model, slope=NoSlope(), k=k, peer=peer, n=self.shards.sizes[peer],
            classes=self.shards.classes[peer], key=key, secret=secret,
            pairs=keys.fold(self.seed, "pair", t, k), **more,
        )  # fmt: skip

    def own(self, peer: int) -> Batch:
        """One peer's training set."""
        return Batch(*self.shards.own(peer))

    def apart(self, peer: int) -> Batch:
        """One peer's held-out samples."""
        return Batch(*self.shards.held(peer))

    def ready(self, step: Train, role: str, weather: Weather, reached: Mapping[str, Tensor]) -> Tensor:
        """Peers that train in a role now: alive, with data, reached."""
        peers = step.roles[role]
        can = torch.from_numpy(weather.alive & weather.data)[peers] & (self.shards.sizes[peers] > 0)
        if step.after is not None:
            can &= reached[step.after][peers]
        return peers[can]

    def jobs(self, role: str, t: int, k: int, model: Model, hostile: bool) -> Job:
        """The training job of honest or hostile peers in a role."""
        local = self.local[role]
        if hostile and self.attack is not None and self.attack.local is not None:
            local = self.attack.local
        return Job(model, local, role, t, k, self.n, self.seed, self.shards, self.kernel, self.memory)

    def split(self, peers: Tensor) -> list[tuple[Tensor, bool]]:
        """Honest and hostile peers apart, where hostile ones train differently."""
        if self.attack is None or not self.hostile or not self._poisons:
            return [(peers, False)]
        bad = torch.tensor([peer in self.hostile for peer in peers.tolist()], dtype=torch.bool)
        return [(part, flag) for part, flag in ((peers[~bad], False), (peers[bad], True)) if len(part)]

    @property
    def _poisons(self) -> bool:
        assert self.attack is not None
        return type(self.attack).data is not Attack.data or self.attack.local is not None

    def poison(self, t: int, k: int, model: Model, peers: Tensor, rows: Tensor) -> dict[int, tuple[Tensor, Tensor]]:
        """Training sets of hostile peers, with the models they just received ``rows [C, D]``."""
        if self.attack is None or type(self.attack).data is Attack.data:
            return {}
        found = {}
        for at, peer in enumerate(peers.tolist()):
            ctx = self.context(t, k, model, peer)
            found[peer] = self.attack.data(rows[at], *self.shards.own(peer), self.book_of(peer), ctx)
        return found

    def book_of(self, peer: int) -> Book:
        """A hostile peer's own memory; that of one attacker where they are one."""
        return self.population.attack_book(self.behind(peer))

    def behind(self, peer: int) -> int:
        """The peer that trains, hears and speaks for this one: itself, or the first identity of a joint attacker."""
        joint = self.attack is not None and self.attack.joint and peer in self.hostile
        return min(self.hostile) if joint else peer

    def heard(self, peer: int) -> Merge | Reduce:
        """How a peer joins its inbox."""
        if peer in self.hostile and self.attack is not None and self.attack.reduce is not None:
            return self.attack.reduce
        return self.merge

    def sound(self, done: Trained, t: int, k: int, place: Tensor | None = None) -> Tensor:
        """Which of a chunk's peers still have finite numbers ``[C]``; raises or excludes as asked."""
        fine = done.finite
        if not bool(fine.all()):
            for at in torch.nonzero(~fine).flatten().tolist():
                peer = int(done.peers[at])
                what = f"loss is {float(done.losses[at]):g}, parameters are no longer finite"
                if self.nonfinite == "stop":
                    raise NonFiniteError(f"{what}; --nonfinite drop goes on without such peers", peer=peer, round=t)
                self.population.excluded.add(peer)
                self.tell(f"peer {peer} dropped: {what}", k, 0, 0 if place is None else int(place[peer]))
                if len(self.population.excluded) == self.n:
                    raise NonFiniteError(f"{what}, and no other peer is left", peer=peer, round=t)
        return fine

    def lie(self, m: Message, ctx: Context, honest: list[Message] | None) -> Message:
        """What a hostile peer sends instead."""
        assert self.attack is not None
        assert isinstance(ctx.peer, int)
        return self.attack.message(m, honest, self.book_of(ctx.peer), ctx)
