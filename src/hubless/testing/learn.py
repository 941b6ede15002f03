"""Conformance of overlays, merges, codecs and attacks, ours and third parties'."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from hubless.errors import CodecError, MessageError
from hubless.learn import keys
from hubless.learn.codecs import Codec
from hubless.learn.context import Batch, Context, Inbox, Message, State
from hubless.learn.kernels.loop import Loop
from hubless.learn.kernels.slope import Session
from hubless.learn.model import Model
from hubless.learn.plan import HAND, Book, Exchange, Overlay, Train, World
from hubless.learn.population import leaves
from hubless.learn.slots import Attack, Merge, Reduce
from hubless.parts import make

PEERS = 5


def check_overlay(overlay: Overlay, n: int = 7, rounds: int = 4) -> None:
    """Plans follow from (round, membership, seed); exchanges and roles are declared, edges sorted, peers members."""
    overlay.check(n, 1)
    name = type(overlay).__name__
    assert HAND not in overlay.phases, f"{name}: {HAND!r} is the engine's own exchange; declare only your own in phases"
    for members in (list(range(n)), [peer for peer in range(n) if peer != 2]):
        world = World(n, 1, torch.arange(1, n + 1), members, lambda peer: peer != 3)
        books = overlay.init(world), overlay.init(world)
        for t in range(1, rounds + 1):
            plan, again = (overlay.plan(t, world, book) for book in books)
            assert str(plan) == str(again), (
                f"{name}: two plans of round {t} differ; draw from keys.fold(world.seed, purpose, t) and nothing else"
            )
            for step in plan:
                if isinstance(step, Train):
                    _check_train(overlay, step, members)
                else:
                    _check_exchange(overlay, step, n)
            heirs = next((step.dst.tolist() for step in plan if isinstance(step, Exchange) and step.name == HAND), None)
            for book in books:
                if heirs is not None:
                    overlay.handed(heirs, book)
                json.dumps([value for _, value in leaves(book) if not isinstance(value, Tensor)])


def _check_train(overlay: Overlay, step: Train, members: list[int]) -> None:
    name = type(overlay).__name__
    assert set(step.roles) <= set(overlay.roles), f"{name}: roles {set(step.roles)} are not declared in `roles`"
    everyone = [peer for peers in step.roles.values() for peer in peers.tolist()]
    assert len(everyone) == len(set(everyone)), f"{name}: a peer trains in two roles at once"
    assert set(everyone) <= set(members), f"{name}: an excluded peer trains; choose among world.members"
    assert step.after is None or step.after in overlay.phases, f"{name}: after={step.after!r} is no exchange"


def _check_exchange(overlay: Overlay, step: Exchange, n: int) -> None:
    name = f"{type(overlay).__name__}, {step.name!r}"
    assert step.name in (*overlay.phases, HAND), f"{name}: declare the exchange in `phases`"
    assert len(step.src) == len(step.dst) == len(step.weight), f"{name}: src, dst and weight must be [E] each"
    assert step.src.dtype == step.dst.dtype == torch.int64, f"{name}: src and dst must be int64"
    assert bool((step.dst[1:] >= step.dst[:-1]).all()), f"{name}: edges must be sorted by dst"
    if len(step.src):
        ids = torch.cat([step.src, step.dst])
        assert int(ids.min()) >= 0, f"{name}: a peer id is negative"
        assert int(ids.max()) < n, f"{name}: a peer id is {n} or more"
    assert bool((step.weight >= 0).all()), f"{name}: a weight is negative or no number"


class _Stage:
    """Five peers of a small model with states and contexts, for parts that are called by hand."""

    def __init__(self, makers: tuple[Any, ...] = (), extra: Mapping[str, Tensor] | None = None) -> None:
        self.model = Model(lambda: nn.Linear(4, 3), name="linear")
        self.W = torch.stack([self.model.start(peer) for peer in range(PEERS)])
        self.state: State = dict(self.model.state()) | dict(extra or {})
        for maker in makers:
            self.state |= maker.init(self.model)
            self.state |= {name: torch.zeros(self.model.size) for name in getattr(maker, "needs", ())}

    def own(self) -> Batch:
        x = keys.normal(keys.fold(0, "x"), (8, 4))
        return Batch(x, torch.arange(8) % 3)

    def context(self, peer: Any, phase: str, kind: str, **more: Any) -> Context:
        key = keys.fold(7, peer)
        start = torch.zeros_like(self.W[peer])
        return Context(
            t=1, N=PEERS, model=self.model, slope=Session(Loop(self.model)), peer=peer, n=8, steps=2, rate=0.1,
            phase=phase, kind=kind, key=key, secret=keys.fold(key, "secret"), start=start, own=self.own,
            apart=self.own, classes=torch.tensor([3, 3, 2]), **more,
        )  # fmt: skip


def _same(one: Mapping[str, Tensor], other: Mapping[str, Tensor], within: float = 0.0) -> bool:
    return list(one) == list(other) and all(
        one[name].shape == other[name].shape and bool(((one[name] - other[name]).abs() <= within).all()) for name in one
    )


def _copy(m: Mapping[str, Tensor]) -> Message:
    return {name: value.clone() for name, value in m.items()}


def check_merge(merge: Merge | Reduce | str, *, state: Mapping[str, Tensor] | None = None) -> None:
    """Messages and answers have the right shapes, nothing is changed in place, and order does not matter.

    state: entries of a peer's state that other parts make and this merge reads, beside those in ``needs``
    """
    subject = make("merge", merge)
    if isinstance(subject, Reduce):
        subject = Merge(subject)
    stage = _Stage((subject,), state)
    for phase in subject.phases or ("gossip",):
        kind = subject.kind(phase)
        assert kind in ("model", "delta", "predictions"), f"kind({phase!r}) is {kind!r}: model, delta or predictions"
        _check_messages(subject, stage, phase, kind)


def _check_messages(merge: Merge, stage: _Stage, phase: str, kind: str) -> None:
    name, W, s = f"{type(merge).__name__}, {phase!r}", stage.W, stage.state
    before, kept = W.clone(), _copy(s)
    to = 0 if merge.per_target else None
    said = [merge.message(W[i], s, {}, stage.context(i, phase, kind, to=to)) for i in range(PEERS)]
    again = merge.message(W[0], s, {}, stage.context(0, phase, kind, to=to))
    assert said[0], f"{name}: an empty message; leave the exchange out of the plan instead"
    assert _same(said[0], again), f"{name}: two messages of one peer differ; draw from ctx.uniform and nothing else"
    if merge.vectorised and not merge.plain and not merge.per_target:
        stacked = merge.message(W, {n: v.expand(PEERS, *v.shape) for n, v in s.items()}, {}, stage.context(
            torch.arange(PEERS), phase, kind))  # fmt: skip
        for i in range(PEERS):
            row = {n: v[i] for n, v in stacked.items()}
            assert _same(row, said[i], 1e-6), f"{name}: differs on stacked rows; set vectorised = False"
    for i, m in enumerate(said):
        merge.accept(i, m, stage.context(0, phase, kind))
        try:
            merge.accept(i, {n: v * torch.nan for n, v in m.items()}, stage.context(0, phase, kind))
        except MessageError:
            continue
        raise AssertionError(f"{name}: accept lets numbers pass that are not finite; call super().accept")
    weights = torch.full((PEERS,), 1 / PEERS)
    counts = {n: PEERS for m in said for n in m}
    ctx = stage.context(0, phase, kind, senders=tuple(range(PEERS)), group=tuple(range(PEERS)), counts=counts)
    got = merge.join(Inbox(ctx.senders, weights, [_copy(m) for m in said]), W[0], s, {}, ctx)
    back = tuple(reversed(range(PEERS)))
    turned = merge.join(Inbox(back, weights, [_copy(said[i]) for i in back]), W[0], s, {}, ctx)
    assert _same(got, turned, 1e-5), f"{name}: the answer depends on the order of the inbox"
    if merge.reduce.vectorised and not merge.reduce.linear and merge.plain:
        inbox = {n: torch.stack([m[n] for m in said])[None] for n in said[0]}
        blind = ctx if merge.reduce.starts else replace(ctx, start=W[1])  # as another peer's would be
        mapped = torch.vmap(lambda m, v, w: merge.reduce(Inbox((), v, m), w, s, {}, blind))(inbox, weights[None], W[:1])
        assert _same({n: v[0] for n, v in mapped.items()}, got, 1e-6), (
            f"{name}: differs under torch.vmap; set vectorised = False on the reduce, or starts = True if it reads"
            " ctx.start"
        )
    _check_sizes(merge, said, weights, W[0], s, ctx, name)
    w, after = merge.apply(W[0], s, {}, got, ctx)
    assert w.shape == W[0].shape, f"{name}: apply gives a row of shape {tuple(w.shape)}, not {tuple(W[0].shape)}"
    assert set(after) >= set(s), f"{name}: apply loses entries of the state; return {{**s, ...}}"
    assert bool(torch.isfinite(w).all()), f"{name}: apply gives numbers that are not finite"
    assert torch.equal(W, before), f"{name}: changes rows in place; make new tensors"
    assert _same(s, kept), f"{name}: changes the state in place; return {{**s, name: value}}"


def _check_sizes(
    merge: Merge, said: list[Message], weights: Tensor, w: Tensor, s: State, ctx: Context, name: str
) -> None:
    """Losses leave inboxes of any size; what the receiver remembers of them can be written to a checkpoint."""
    book: Book = {}
    for count in (PEERS, 1, 2, PEERS):
        ids, few = tuple(range(count)), [_copy(m) for m in said[:count]]
        less = replace(ctx, senders=ids, counts=dict.fromkeys(ctx.counts, count))
        got = merge.join(Inbox(ids, weights[:count], few), w, s, book, less)
        assert all(bool(torch.isfinite(value).all()) for value in got.values()), (
            f"{name}: not finite for {count} of {PEERS} messages; do with less what can be done"
        )
        assert all(_same(m, kept) for m, kept in zip(few, said, strict=False)), (
            f"{name}: changes messages in place; make new tensors"
        )
    for path, value in leaves(book):
        known = isinstance(value, (Tensor, bool, int, float, str, list, dict)) or value is None
        assert known, f"{name}: book entry {path!r} is a {type(value).__name__}: keep tensors and what JSON knows"


def check_codec(codec: Codec | str, *, kind: str = "model") -> None:
    """Messages come back with their names, shapes and facts, the same twice; damaged and lying bytes raise CodecError.

    Codecs whose single messages mean nothing (``hides``) are checked up to the bytes.
    """
    subject: Codec = make("codec", codec)
    stage = _Stage(subject.stages)
    ctx = stage.context(1, "up", kind)
    row, facts = stage.W[1], {"seen": torch.tensor([3, 0, 1 << 40])}
    for m in ({"w": row}, {"w": torch.zeros_like(row)}, {"w": torch.full_like(row, 0.3)}, {"w": row, **facts}):
        data = _check_coding(subject, stage, m, ctx)
        _fuzz(subject, data, ctx)
        _lies(subject, data, ctx)


def _check_coding(codec: Codec, stage: _Stage, m: Message, ctx: Context) -> bytes:
    before, kept = _copy(m), _copy(stage.state)
    data, after = codec.encode(m, stage.state, ctx)
    assert isinstance(data, bytes), "pack must give bytes"
    assert data == codec.encode(_copy(m), stage.state, ctx)[0], "two encodings differ; draw from ctx and nothing else"
    assert _same(m, before), "forward changes the message in place"
    assert _same(stage.state, kept), "forward changes the state in place; return {**s, name: value}"
    assert set(after) == set(stage.state), "forward adds or loses entries of the state; make them in init"
    packed = codec.packer.unpack(data)
    assert codec.packer.length(packed) == len(data), "length differs from len(pack(m))"
    if not codec.hides:
        heard = codec.decode(data, ctx)
        assert set(heard) == set(m), f"the message comes back with the names {list(heard)}, not {list(m)}"
        assert heard["w"].shape == m["w"].shape, f"comes back with the shape {tuple(heard['w'].shape)}"
        assert heard["w"].dtype == m["w"].dtype, f"comes back as {heard['w'].dtype}"
        assert bool(torch.isfinite(heard["w"]).all()), "comes back with numbers that are not finite"
        for name in m.keys() - {"w"}:
            same = heard[name].dtype == m[name].dtype and torch.equal(heard[name], m[name])
            assert same, f"changes {name!r}; integers that are no parameters must pass as they are"
    return data


def _fuzz(codec: Codec, data: bytes, ctx: Context) -> None:
    cuts = sorted({0, 1, 4, 11, 12, 13, len(data) // 2, len(data) - 1})
    damaged = [data[:cut] for cut in cuts if cut < len(data)] + [data + b"\0", b"\0" * len(data)]
    spots = torch.randint(len(data), (64,), generator=torch.Generator().manual_seed(0)).tolist()
    for spot in {*range(min(32, len(data))), *spots}:
        damaged.append(data[:spot] + bytes([data[spot] ^ 0x10]) + data[spot + 1 :])
    for number, bad in enumerate(damaged):
        try:
            codec.decode(bad, ctx)
        except CodecError:
            continue
        except Exception as error:
            raise AssertionError(f"damaged bytes ({number}) raise {error!r}; unpack must raise CodecError") from error
        raise AssertionError(f"damaged bytes ({number}) decode silently; put a checksum before the body")


def _lies(codec: Codec, data: bytes, ctx: Context) -> None:
    """What a hostile sender may put behind a good checksum: any tensors under the names that stages expect."""
    honest = codec.packer.unpack(data)
    if codec.hides:
        return
    for name, value in honest.items():
        empty = value.new_zeros(0)
        others = [empty, empty.reshape(0, 3), value[None], value.flatten()[:-1], value.double(), value.to(torch.int64)]
        if value.dtype == torch.bool or not value.numel():
            others += [torch.full_like(value, 1)]
        elif value.is_floating_point():
            others += [torch.full_like(value, one) for one in (torch.inf, torch.nan, torch.finfo(value.dtype).max)]
        else:
            limits = torch.iinfo(value.dtype)
            others += [torch.full_like(value, one) for one in (limits.min, limits.max)]
        others += [torch.cat([value.flatten(), value.flatten()]), -value if value.dtype != torch.bool else ~value]
        lies = [{n: v for n, v in honest.items() if n != name}]
        lies += [{**honest, name: other} for other in others]
        for number, lie in enumerate(lies):
            try:
                codec.inverse(lie, 1, ctx)
            except MessageError:
                continue
            except Exception as error:
                raise AssertionError(
                    f"a sender's lie about {name!r} ({number}) raises {error!r}; inverse must check what it is given,"
                    " and raise CodecError"
                ) from error


def check_attack(attack: Attack | str | None) -> None:
    """A lie has the names and shapes of the message, is the same twice, and nothing is changed in place.

    Poisoned data keeps its size and types. A goal, where there is one, wants labels that are not the right ones.
    """
    subject: Attack | None = make("attack", attack)
    if subject is None:
        return
    name, stage = type(subject).__name__, _Stage()
    assert subject.sees in ("own", "honest"), f"{name}: sees is {subject.sees!r}: own or honest"
    subject.check(3, (4,))
    subject = replace(subject, peers=(0, 1)).fitted(3)
    for kind in ("model", "delta", "predictions"):
        for parts in (("w",), ("w", "beside")):
            _check_lie(subject, stage, kind, parts)
    _check_poison(subject, stage)
    _check_goal(subject, stage)


def _check_lie(attack: Attack, stage: _Stage, kind: str, names: tuple[str, ...]) -> None:
    """A lie of one kind, with names that the honest messages lack, and with no honest message to see."""
    name, ctx = f"{type(attack).__name__}, {kind}", stage.context(0, "up", kind)
    m = {one: stage.W[0].clone() for one in names}
    honest = [{"w": row.clone()} for row in stage.W[1:]] if attack.sees == "honest" else None
    books: list[dict[str, Any]] = [{}, {}]
    lies = [attack.message(_copy(m), honest, book, ctx) for book in books]
    attack.message(m, honest, {}, ctx)
    assert all(torch.equal(value, stage.W[0]) for value in m.values()), (
        f"{name}: changes the message in place; return a new dict"
    )
    for row, seen in zip(stage.W[1:], honest or [], strict=False):
        assert torch.equal(seen["w"], row), f"{name}: changes honest messages in place; make new tensors"
    assert _same(lies[0], lies[1]), f"{name}: two lies differ; draw from ctx.uniform and nothing else"
    assert list(lies[0]) == list(m), f"{name}: sends the names {list(lies[0])}, not {list(m)}"
    for one, value in lies[0].items():
        assert value.shape == m[one].shape, f"{name}: sends the shape {tuple(value.shape)}"
        assert value.dtype == m[one].dtype, f"{name}: sends {value.dtype}"
        assert bool(torch.isfinite(value).all()), f"{name}: sends numbers that are not finite, which nobody accepts"
    if attack.sees == "honest":
        alone = attack.message(_copy(m), [], {}, ctx)
        assert list(alone) == list(m), f"{name}: without honest messages it must send its own names"
    _check_book(name, books[0])


def _check_book(name: str, book: dict[str, Any]) -> None:
    try:
        json.dumps([value for _, value in leaves(book) if not isinstance(value, Tensor)])
    except TypeError as error:
        raise AssertionError(f"{name}: a checkpoint cannot keep the book ({error}); tensors, numbers, text") from error


def _check_poison(attack: Attack, stage: _Stage) -> None:
    name, (x, y, _) = type(attack).__name__, stage.own()
    ctx, books = stage.context(0, "", "model"), [dict[str, Any](), dict[str, Any]()]
    kept_x, kept_y = x.clone(), y.clone()
    (seen_x, seen_y), again = (attack.data(stage.W[0], x, y, book, ctx) for book in books)
    assert torch.equal(x, kept_x), f"{name}: data changes the peer's inputs in place; make new tensors"
    assert torch.equal(y, kept_y), f"{name}: data changes the peer's labels in place; make new tensors"
    assert len(seen_x) == len(seen_y) == len(x), f"{name}: data must keep the number of samples"
    assert seen_x.shape == x.shape, f"{name}: data changes the shape of the inputs to {tuple(seen_x.shape)}"
    assert seen_x.dtype == x.dtype, f"{name}: data changes the type of the inputs to {seen_x.dtype}"
    assert seen_y.dtype == y.dtype, f"{name}: data changes the type of the labels to {seen_y.dtype}"
    assert bool(((seen_y >= 0) & (seen_y < 3)).all()), f"{name}: data makes labels that do not exist"
    for one, other in zip((seen_x, seen_y), again, strict=True):
        assert torch.equal(one, other), f"{name}: poisons differently twice; draw from ctx.uniform and nothing else"
    _check_book(name, books[0])


def _check_goal(attack: Attack, stage: _Stage) -> None:
    """Before the first round and after training; class by class, so that it is known which labels are right."""
    name, (x, y, _) = type(attack).__name__, stage.own()
    book: dict[str, Any] = {}
    for trained in (False, True):
        if trained:
            attack.data(stage.W[0], x, y, book, stage.context(0, "", "model"))
        for label in range(3):
            clean = x[y == label]
            goal = attack.goal(clean.clone(), y[y == label], book)
            if goal is None:
                continue
            inputs, wanted = goal
            assert len(inputs) == len(wanted), f"{name}: goal gives {len(inputs)} inputs and {len(wanted)} labels"
            assert inputs.shape[1:] == clean.shape[1:], f"{name}: goal gives inputs of shape {tuple(inputs.shape[1:])}"
            assert wanted.dtype == y.dtype, f"{name}: goal gives labels of type {wanted.dtype}"
            assert not bool((wanted == label).any()), (
                f"{name}: goal counts samples that have the wanted label anyway; leave them out"
            )
            assert bool(((wanted >= 0) & (wanted < 3)).all()), f"{name}: goal wants labels that do not exist"
