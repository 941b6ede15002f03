"""Every registered part, and every class of the engine's slots, keeps its contract; broken ones are told how."""

import inspect
from dataclasses import dataclass

import pytest
import torch

import hubless.testing as testing
from hubless.errors import CodecError, MessageError
from hubless.learn import (
    FGSM,
    PGD,
    SAM,
    SGD,
    Adam,
    Adversarial,
    Alone,
    Attack,
    Codec,
    ControlVariate,
    Distil,
    Gossip,
    Gradient,
    Merge,
    Overlay,
    Plain,
    Proximal,
    Raw,
    RecursiveVR,
    Reduce,
    Rotating,
    Scaffold,
    Scheduled,
    ServerOpt,
    Stage,
    Star,
    Train,
    TrimmedMean,
    WeightedMean,
)
from hubless.learn.plan import Exchange
from hubless.learn.ring import AllReduce, RingMean
from hubless.net.topologies import Ring
from hubless.parts import make, parts

OVERLAYS = [
    Alone(), Gossip(Ring()), Gossip(make("topology", "erdos-renyi:0.4"), 2), Star(), Star(3, "one"), Rotating(3),
    AllReduce(), Gossip(Ring(), tolerance=0.1), Rotating(copies=3), Scheduled(((1, Alone()), (2, Gossip(Ring())))),
]  # fmt: skip
MERGES = [
    WeightedMean(), TrimmedMean(0.3), ServerOpt(rule="yogi"), ServerOpt(TrimmedMean(), rule="adagrad"), Scaffold(),
    Distil(public=torch.ones(2, 4)), RingMean(),
]  # fmt: skip
GRADIENTS = [
    Plain(), SAM(0.1), Proximal(0.5), ControlVariate(), RecursiveVR(), Adversarial(PGD(0.1, 0.05, clip=None)),
    Adversarial(PGD(0.1, 0.05, norm="2", clip=None)), Adversarial(FGSM(0.1, clip=None)),
]  # fmt: skip


@pytest.mark.parametrize("overlay", OVERLAYS, ids=lambda overlay: type(overlay).__name__)
def test_overlays(overlay):
    testing.check_overlay(overlay)


def simple(kind):
    """Parts of a kind that need no value."""
    several = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return [name for name, factory in parts(kind).items() if all(
        p.default is not p.empty or p.kind in several for p in inspect.signature(factory).parameters.values()
    )]  # fmt: skip


@pytest.mark.parametrize("merge", [*simple("merge"), *MERGES], ids=str)
def test_merges(merge):
    testing.check_merge(merge)


@pytest.mark.parametrize("codec", simple("codec"))
def test_codecs(codec):
    testing.check_codec(codec)
    testing.check_codec(codec, kind="delta")


@pytest.mark.parametrize("attack", simple("attack"))
def test_attacks(attack):
    testing.check_attack(attack)


@pytest.mark.parametrize("gradient", GRADIENTS, ids=lambda gradient: type(gradient).__name__)
def test_gradients(gradient):
    testing.check_gradient(gradient)


@pytest.mark.parametrize(
    "local", [SGD(steps=2, clip=0.1), Adam(lr=0.01, epochs=1), Adam(lr=0.01, steps=2, keep=True, weight_decay=0.1)]
)
def test_locals(local):
    testing.check_local(local)


def test_unknown_checks_do_not_exist():
    assert callable(testing.check_topology)
    with pytest.raises(AttributeError, match="no attribute 'check_nothing'"):
        testing.check_nothing  # noqa: B018
    assert all(callable(getattr(testing, name)) for name in testing.__all__)


class Random(Overlay):
    def plan(self, t, world, book):
        peers = torch.randperm(world.n)[:2].sort().values
        return (Exchange("gossip", peers, peers.flip(0).sort().values, torch.rand(2)),)


class Excluded(Overlay):
    def plan(self, t, world, book):
        return (Train({"train": torch.arange(world.n)}),)


class Unsorted(Overlay):
    def plan(self, t, world, book):
        return (Exchange("gossip", torch.tensor([0, 1]), torch.tensor([1, 0]), torch.ones(2)),)


@dataclass(frozen=True)
class First(Reduce):
    def __call__(self, inbox, w, s, book, ctx):
        return {name: inbox.stack(name)[0] for name in inbox.names}


@dataclass(frozen=True)
class InPlace(Merge):
    def apply(self, w, s, book, got, ctx):
        w.copy_(got["w"])
        return w, s


@dataclass(frozen=True)
class Gullible(Merge):
    def accept(self, sender, m, ctx):
        pass


class Forgetful(Raw):
    """Bytes without a checksum."""

    def pack(self, m):
        return m["w"].numpy().tobytes()

    def length(self, m):
        return m["w"].numel() * 4

    def unpack(self, data):
        if len(data) % 4 or not data:
            raise CodecError("no floats")
        return {"w": torch.frombuffer(bytearray(data), dtype=torch.float32)}


class Noise(Stage):
    def forward(self, m, s, ctx):
        return {name: value + torch.rand(()) for name, value in m.items()}, s


class Meddling(Attack):
    def message(self, m, honest, book, ctx):
        m["w"].zero_()
        return m


class Rounding(Gradient):
    def __call__(self, w, s, batch, ctx):
        g, s = ctx.grad(w, s, batch)
        return g * torch.randn(()), s


BROKEN = {
    "draw from keys.fold": lambda: testing.check_overlay(Random()),
    "choose among world.members": lambda: testing.check_overlay(Excluded()),
    "sorted by dst": lambda: testing.check_overlay(Unsorted()),
    "order of the inbox": lambda: testing.check_merge(First()),
    "make new tensors": lambda: testing.check_merge(InPlace(WeightedMean())),
    "call super": lambda: testing.check_merge(Gullible(WeightedMean())),
    "put a checksum before the body": lambda: testing.check_codec(Codec(packer=Forgetful())),
    "draw from ctx and nothing else": lambda: testing.check_codec(Codec((Noise(),))),
    "changes the message in place": lambda: testing.check_attack(Meddling()),
}


@pytest.mark.parametrize("fix", BROKEN)
def test_a_broken_part_is_told_the_usual_fix(fix):
    with pytest.raises(AssertionError, match=fix):
        BROKEN[fix]()


def test_a_gradient_from_the_global_generator_is_caught():
    with pytest.raises(AssertionError, match="draw from ctx"):
        testing.check_gradient(Rounding())


def test_raw_bytes_refuse_what_they_cannot_say():
    with pytest.raises(CodecError, match=r"w is torch\.complex64"):
        Raw().pack({"w": torch.zeros(2, dtype=torch.complex64)})
    m = {"w": torch.arange(6.0).reshape(2, 3), "count": torch.tensor(7), "none": torch.zeros(0, 4)}
    back = Raw().unpack(Raw().pack(m))
    assert {name: value.tolist() for name, value in back.items()} == {name: v.tolist() for name, v in m.items()}
    assert issubclass(CodecError, MessageError)
