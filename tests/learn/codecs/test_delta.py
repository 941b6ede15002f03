"""Differences to what was sent last: sender and receivers agree bit for bit, losses heal, nothing drifts."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from messages import CONTEXT, FEW, MODEL, at, update
from small import BATCHNORM, build, finish, workload

import hubless.testing as testing
from hubless.errors import CodecError, ConfigError
from hubless.learn import Gossip, Rotating, ServerOpt, Star
from hubless.learn.attacks import SignFlip
from hubless.learn.codecs import Delta, ErrorFeedback, TopK
from hubless.learn.codecs.delta import FRAME, ROW
from hubless.learn.sampled import Sampled
from hubless.net.topologies import Full, Ring
from hubless.parts import make
from hubless.run import checkpoint
from hubless.run.checkpoint import Identity

CODECS = ["delta:4", "delta:4+uniform:8", "delta:4+top-k:0.1", "delta:4+layers+top-k:0.2+float16+zstd"]


class Peer:
    """A sender that walks at random, and what its receivers keep of it."""

    def __init__(self, text, receivers=(1, 2)):
        self.codec, self.receivers, self.t = make("codec", text), receivers, 0
        self.m = {name: value.clone() for name, value in update(0, 1.0).items()}
        self.s = {}
        for stage in self.codec.stages:
            self.s |= stage.init(MODEL)
        self.memory = {peer: {} for peer in range(9)}

    def send(self, receivers=None, moved=0.01):
        self.t += 1
        step = update(self.t, moved)
        self.m = {name: v + step[name] if v.is_floating_point() else v for name, v in self.m.items()}
        ctx = replace(at(self.t, "model"), receivers=receivers or self.receivers)
        data, self.s = self.codec.encode(self.m, self.s, ctx)
        return data

    def hear(self, data, to=1):
        return self.codec.decode(data, replace(at(self.t, "model"), memory=self.memory[to]))


def row(m):
    return torch.cat([m[name] for name in MODEL.groups])


def frames(codec, data):
    return codec.packer.unpack(data)[FRAME].tolist()


@pytest.mark.parametrize("text", CODECS)
def test_receivers_have_what_the_sender_thinks_they_have(text):
    peer = Peer(text)
    for _ in range(10):
        heard = peer.hear(peer.send())
        assert torch.equal(row(heard), peer.s[ROW])
        assert all(heard[name].shape == value.shape for name, value in peer.m.items())
        assert torch.equal(heard["seen"], peer.m["seen"])
        for name, value in MODEL.buffers.items():
            if value.is_floating_point():
                assert torch.equal(heard[name], peer.s[f"delta.{name}"])


def test_every_so_many_messages_are_whole_and_exact():
    peer = Peer("delta:4+top-k:0.05")
    for number in range(9):
        data = peer.send()
        heard = peer.hear(data)
        whole = number % 4 == 0
        assert frames(peer.codec, data) == [number, int(not whole)]
        assert torch.equal(row(heard), row(peer.m)) == whole


@pytest.mark.parametrize("text", ["delta:1000+top-k:0.05", "delta:1000+uniform:2"])
def test_what_is_left_out_comes_later(text):
    """A model that stands still arrives whole in the end."""
    peer = Peer(text)
    peer.hear(peer.send())
    peer.hear(peer.send(moved=0.1))
    apart = []
    for _ in range(60):
        heard = peer.hear(peer.send(moved=0.0))
        apart.append(float((row(heard) - row(peer.m)).abs().max()))
    assert apart[-1] < min(0.003, 0.2 * apart[0])


@FEW
@given(st.lists(st.booleans(), min_size=1, max_size=20), st.integers(1, 6))
def test_a_receiver_that_missed_one_waits_for_the_key_frame(arrives, keyframe):
    peer, known = Peer(f"delta:{keyframe}+uniform:8"), False
    for number, there in enumerate(arrives):
        data = peer.send()
        known = there and (known or number % keyframe == 0)
        if known:
            assert torch.equal(row(peer.hear(data)), peer.s[ROW])
        elif there:
            with pytest.raises(CodecError, match="delta: the message before it is missing"):
                peer.hear(data)


def test_other_receivers_get_the_model_itself():
    peer = Peer("delta:100+uniform:8")
    asked = [(1, 2), (1, 2), (1, 3), (1, 3), (3, 1), (1, 2, 3)]
    seen = [frames(peer.codec, peer.send(receivers)) for receivers in asked]
    assert seen == [[0, 0], [1, 1], [2, 0], [3, 1], [4, 1], [5, 0]]


def test_a_message_to_nobody_else_stands_alone():
    peer = Peer("delta+uniform:8")
    first = peer.send()
    peer.receivers = ()
    own = peer.codec.encode(peer.m, peer.s, replace(CONTEXT, receivers=()))
    assert frames(peer.codec, own[0]) == [-1, 0]
    assert own[1] is peer.s
    peer.hear(own[0], to=5)
    assert peer.memory[5] == {}
    peer.receivers = (1, 2)
    peer.hear(first)
    peer.hear(peer.send())


def test_updates_pass():
    codec, m = make("codec", "delta"), update()
    data, s = codec.encode(m, {}, at(1))
    assert s == {}
    assert FRAME not in codec.packer.unpack(data)
    assert torch.equal(row(codec.decode(data, at(1))), row(m))


def test_lies_about_numbers_are_refused_and_leave_no_trace():
    peer = Peer("delta:4")
    peer.hear(peer.send())
    kept = {**peer.memory[1]}
    honest = peer.codec.packer.unpack(peer.send())
    lies = [torch.tensor(lie) for lie in ([1, 2], [0, 1], [-2, 0], [5, 1], [1], [[1, 1]], [0.0, 1.0])]
    for lie in lies:
        with pytest.raises(CodecError, match="delta"):
            peer.codec.inverse({**honest, FRAME: lie}, 1, replace(at(2, "model"), memory=peer.memory[1]))
    for name in ("trunk", "head"):
        for lie in (honest[name][:-1], honest[name].long(), None):
            said = {**honest, name: lie} if lie is not None else {n: v for n, v in honest.items() if n != name}
            with pytest.raises(CodecError, match=f"delta: {name} is missing or does not fit"):
                peer.codec.inverse(said, 1, replace(at(2, "model"), memory=peer.memory[1]))
    assert peer.memory[1].keys() == kept.keys()
    assert all(peer.memory[1][name] is value for name, value in kept.items())


@pytest.mark.parametrize("kind", ["model", "delta"])
@pytest.mark.parametrize("text", CODECS)
def test_conforms(text, kind):
    testing.check_codec(text, kind=kind)


@pytest.mark.parametrize(
    ("build_", "said"),
    [
        (lambda: Delta(0), "delta.keyframe = 0: must be at least 1"),
        (lambda: make("codec", "delta+delta"), "codec: delta comes twice; keep the first"),
        (lambda: make("codec", "delta+error-feedback+top-k"), "drop error-feedback"),
        (lambda: make("codec", "error-feedback+delta"), "error-feedback stands before Delta"),
        (lambda: build(codec="delta+uniform:8", merge=ServerOpt(), overlay=Star()), None),
    ],
)
def test_pipelines_that_make_no_sense(build_, said):
    if said is None:
        build_()
        return
    with pytest.raises(ConfigError, match=said):
        build_()


def test_the_stages_behind_are_inside():
    (stage,) = make("codec", "delta:5+top-k:0.1").stages
    assert stage == Delta(5, stage.inner)
    assert stage.inner.stages == (TopK(0.1),)
    (stage,) = make("codec", "error-feedback+top-k:0.1").stages
    assert isinstance(stage, ErrorFeedback)


# runs

BIG = dict(workload=workload(6, data=make("data", "synthetic:samples=600:features=40:classes=4"), model="mlp:40"))
OVERLAYS = {
    "ring": Gossip(Ring()), "full": Gossip(Full(), steps=2), "star": Star(), "rotating": Rotating(),
    "star of some": Star(3), "sampled": Sampled(sample=3),
}  # fmt: skip


def final(run):
    """Metrics of the last round, and of the end."""
    return [record.metrics for record in run.records() if record.kind in ("round", "end")][-2:]


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_differences_alone_change_nothing(overlay):
    given = dict(overlay=OVERLAYS[overlay], workload=workload(6, model=BATCHNORM), rounds=4)
    plain, coded = finish(build(**given))["cohort.0/rows"], finish(build(**given, codec="delta:3"))["cohort.0/rows"]
    apart = (plain - coded).abs().amax(1)
    assert float(apart.max() if len(plain) == len(coded) else apart.min()) < 1e-5


@pytest.mark.parametrize(("text", "share"), [("delta:20+uniform:8", 0.35), ("delta:20+top-k:0.1", 0.25)])
def test_gossip_learns_nearly_as_well_with_far_fewer_bytes(text, share):
    (raw, first), (coded, second) = (
        final(build(**BIG, overlay=Gossip(Ring()), rounds=20, codec=codec)) for codec in ("raw", text)
    )
    assert coded["bytes"] <= share * raw["bytes"]
    assert first["accuracy"] > 0.8
    assert second["accuracy"] >= first["accuracy"] - 0.02


def test_losses_are_counted_and_heal():
    lossy = {"faults": "loss:0.2"}
    (raw, first), (coded, second) = (
        final(build(**BIG, overlay=Gossip(Ring()), rounds=20, codec=codec, setting=lossy))
        for codec in ("raw", "delta:5+uniform:8")
    )
    assert coded["lost"] == raw["lost"]
    assert coded["lost"] < coded["rejected"] < 2.5 * coded["lost"]
    assert second["accuracy"] >= first["accuracy"] - 0.03


def test_a_hostile_peer_is_heard_like_any_other():
    given = dict(overlay=Gossip(Full()), workload=workload(6), attack=SignFlip((1,)), rounds=3)
    plain, coded = finish(build(**given)), finish(build(**given, codec="delta"))
    assert float((plain["cohort.0/rows"] - coded["cohort.0/rows"]).abs().max()) < 1e-5


@pytest.mark.parametrize("overlay", ["ring", "rotating", "sampled"])
def test_resuming_is_bit_for_bit(overlay, tmp_path):
    setting = {"faults": "loss:0.2,crash:peer=2@2-2"}
    given = dict(overlay=OVERLAYS[overlay], workload=workload(6, model=BATCHNORM), rounds=5, setting=setting)
    given["codec"] = "delta:3+top-k:0.3"
    whole = [record.line() for record in build(**given).records()]
    for stop in (1, 3):
        seen, short = [], build(**given)
        for record in short.records():
            seen.append(record.line())
            if record.kind == "round" and record.round == stop:
                checkpoint.save(tmp_path, short.snapshot(), Identity("toy", "1", "x"))
                break
        rest = build(**given).records(checkpoint.load(tmp_path, Identity("toy", "1", "x")))
        assert [*seen, *(record.line() for record in rest)] == whole
