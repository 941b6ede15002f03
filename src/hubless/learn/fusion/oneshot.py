"""One-shot merging: peers fine-tune one common base apart, and whoever published it makes one model of all of them.

Nothing is said while they train. Then every expert sends its whole model once, to the publisher or to all; what rules
need beside it (Fisher information, Gram matrices of inputs) goes with it. Further rounds start from what was merged.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor
from torch.func import functional_call, vmap

from hubless.errors import ConfigError, HublessError, MessageError, NonFiniteError
from hubless.learn import keys
from hubless.learn.context import Batch, Context, Inbox, Message, State
from hubless.learn.fusion.known import gram_matrices, information
from hubless.learn.merges.mean import WeightedMean
from hubless.learn.model import BUFFER, Model
from hubless.learn.plan import Book, Exchange, Overlay, Plan, Train, World
from hubless.learn.slots import Merge, Reduce
from hubless.merging.method import Judge, Method
from hubless.merging.rule import Rule
from hubless.merging.search import Fitness, layerwise

if TYPE_CHECKING:
    from hubless.learn.workload import Shards

BASE, EXPERTS = "base", "experts"  # exchanges: the common base goes out, experts come back
ORIGIN = "origin"  # entry of a message: a digest of the base that its sender fine-tuned
PUBLISH = "publish"  # role: to train the base


@dataclass(frozen=True)
class OneShot(Overlay):
    """The publisher trains a base and sends it out; experts train it on; each sends its model to the publisher, or all.

    publisher: makes the base, and is no expert
    everyone:  whether experts send to each other, too, so that each merges for itself
    """

    publisher: int = 0
    everyone: bool = False

    phases: ClassVar[tuple[str, ...]] = (BASE, EXPERTS)
    roles: ClassVar[tuple[str, ...]] = (PUBLISH, "train")

    def check(self, n: int, seed: int = 0) -> None:
        """At least one expert."""
        if not 0 <= self.publisher < n or n < 2:
            raise ConfigError(f"peers = {n}: one-shot merging needs a publisher and at least one expert")

    def plan(self, t: int, world: World, book: Book) -> Plan:
        """In round 1 the base is trained first."""
        everyone = torch.tensor(world.members, dtype=torch.int64)
        experts = everyone[everyone != self.publisher]
        publish = (Train({PUBLISH: torch.tensor([self.publisher])}),) if t == 1 else ()
        targets = everyone if self.everyone else torch.tensor([self.publisher])
        return (
            *publish,
            exchange(BASE, torch.full_like(everyone, self.publisher), everyone),
            Train({"train": experts}, after=BASE),
            exchange(EXPERTS, experts.repeat(len(targets)), targets.repeat_interleave(len(experts))),
        )

    def outcome(self, t: int, book: Book) -> list[int] | None:
        """The publisher's model, or those of all who merged."""
        return None if self.everyone else [self.publisher]


def exchange(name: str, src: Tensor, dst: Tensor) -> Exchange:
    """Messages of equal weight along edges that are given by their receivers."""
    return Exchange(name, src, dst, torch.ones(len(src), dtype=torch.float64))


@dataclass(frozen=True)
class Assembled(Merge):
    """Experts of one base, joined by a method; statistics of BatchNorm are averaged.

    validation: samples that a search is judged by; None takes those that the peer that merges holds out
    publisher:  the peer that merges, or one of them
    """

    reduce: Reduce = field(default_factory=WeightedMean)
    method: Method = field(default_factory=Method)
    validation: tuple[Tensor, Tensor] | None = None
    publisher: int = 0

    phases: ClassVar[tuple[str, ...] | None] = (BASE, EXPERTS)
    vectorised: ClassVar[bool] = False

    def check(self, model: Model, shards: Shards) -> None:
        """A search needs samples that it is judged by, and they are none of the test set's."""
        if self.method.search != "none" and not len(self.samples(Batch(*shards.held(self.publisher))).y):
            raise ConfigError(
                f"held = 0: search {self.method.search!r} is judged by samples that are held out; hold some out, or"
                " take search none"
            )

    def message(self, w: Tensor, s: State, book: Book, ctx: Context) -> Message:
        """The model, ``origin [1]``, and of an expert what the rule needs beside it."""
        said = super().message(w, s, book, ctx)
        if ctx.phase == BASE:
            return {**said, ORIGIN: digest(w)}
        said[ORIGIN] = book.get(ORIGIN, torch.zeros(1, dtype=torch.int64))
        if self.method.search == "none":
            said |= known_to(self.method.rule, ctx.model, w, s, ctx.data)
        return said

    def accept(self, sender: int, m: Message, ctx: Context) -> None:
        """An origin, and statistics of the rule's kind and shape."""
        super().accept(sender, m, ctx)
        if ORIGIN not in m or m[ORIGIN].shape != (1,) or m[ORIGIN].is_floating_point():
            raise MessageError(f"{ORIGIN} is missing, or no whole number")
        shapes = {name: tuple(shape) for name, shape in zip(ctx.model.names, ctx.model.shapes, strict=True)}
        for name in (name for name in m if ":" in name):
            kind, _, parameter = name.partition(":")
            wanted = self.method.rule.statistic(shapes.get(parameter, ()))
            if kind != self.method.rule.statistics or tuple(m[name].shape) != wanted:
                rule = type(self.method.rule).__name__
                raise MessageError(f"{name} of shape {tuple(m[name].shape)} is nothing that {rule} needs")

    def join(self, inbox: Inbox, w: Tensor, s: State, book: Book, ctx: Context) -> Message:
        """The publisher's base as it is; of experts the merged model, without those that began from another base."""
        if ctx.phase == BASE:
            return inbox.messages[0]
        mine = int(book.get(ORIGIN, torch.zeros(1))[0])
        known = [at for at, m in enumerate(inbox.messages) if mine and int(m[ORIGIN][0]) == mine]
        heard = [inbox.messages[at] for at in known]
        book["foreign"] = len(inbox.messages) - len(heard)
        book["who"] = [inbox.ids[at] for at in known]
        if not heard:
            return {}
        base = book[BASE]
        rows = torch.stack([ctx.model.paste(base, m) for m in heard])
        buffers = {name: torch.stack([m[name] for m in heard]).mean(0) for name in heard[0] if name in s}
        book[EXPERTS] = rows
        experts = [ctx.model.unflatten(row) for row in rows]
        beside = [{name.split(":", 1)[1]: value for name, value in m.items() if ":" in name} for m in heard]
        judge = judged(ctx.model, {**s, **buffers}, self.samples(ctx.held))
        try:
            merged, found = self.method.merged(
                ctx.model.unflatten(base), experts, beside if any(beside) else None, judge, seed_of(ctx)
            )
        except HublessError as error:
            if isinstance(error, ConfigError):
                raise
            raise NonFiniteError(str(error), peer=int(ctx.peer), round=ctx.t) from None
        if found is not None:
            book["search"] = {"coefficients": found.coefficients, "best": found.best, "mean": found.mean}
        return {"row": torch.cat([value.flatten() for value in merged.values()]), **buffers}

    def apply(self, w: Tensor, s: State, book: Book, got: Message, ctx: Context) -> tuple[Tensor, State]:
        """Take over the base and remember it; take over the merged model."""
        if ctx.phase == BASE:
            w, s = super().apply(w, s, book, got, ctx)
            book |= {BASE: w, ORIGIN: got[ORIGIN]}
            return w, s
        buffers = {name: value for name, value in got.items() if name in s}
        return got.get("row", w), {**s, **buffers}

    def samples(self, held: Batch) -> Batch:
        """What a search is judged by, of a peer that holds these samples out."""
        return Batch(*self.validation) if self.validation is not None else held


def seed_of(ctx: Context) -> int:
    """What a merge draws by."""
    key = keys.fold(ctx.key, "merge")
    assert isinstance(key, int)
    return keys.integer(key)


def digest(w: Tensor) -> Tensor:
    """A number ``[1]`` above 0 that tells rows apart."""
    code = hashlib.blake2b(w.detach().cpu().numpy().tobytes(), digest_size=8).digest()
    return torch.tensor([(int.from_bytes(code, "little") >> 2) + 1])


def known_to(rule: Rule, model: Model, w: Tensor, s: State, data: Batch) -> Message:
    """What a rule needs of an expert beside its tensors, from its own data: ``fisher:NAME`` or ``gram:NAME``."""
    if not rule.statistics:
        return {}
    find = information if rule.statistics == "fisher" else gram_matrices
    return {f"{rule.statistics}:{name}": value for name, value in find(model, w, s, data).items()}


def judged(model: Model, s: State, samples: Batch) -> Judge:
    """Fitness of coefficients: minus the mean loss of the models that they make on samples, all in one stack."""

    def of(base: Mapping[str, Tensor], vectors: Mapping[str, Tensor]) -> Fitness:
        fixed = {**model.frozen, **{n.removeprefix(BUFFER): v for n, v in s.items() if n in model.buffers}}
        module = model.module.eval()

        def loss(parameters: dict[str, Tensor]) -> Tensor:
            return model.loss(functional_call(module, {**parameters, **fixed}, (samples.x,)), samples.y).mean()

        def fitness(coefficients: Tensor) -> Tensor:
            with torch.no_grad():
                return -vmap(loss)(layerwise(base, vectors, coefficients))

        return fitness

    return of
