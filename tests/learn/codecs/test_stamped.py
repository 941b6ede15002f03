import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from hubless.errors import CodecError
from hubless.learn import Codec, Context, Model
from hubless.learn.codecs.stamped import STAMP, Stamped
from hubless.learn.kernels.loop import Loop
from hubless.learn.kernels.slope import Session
from hubless.learn.masks import masks


def context(seed=0, trainable="names:2.*", **more):
    """Of a peer whose frozen parameters follow from the seed."""
    torch.random.default_generator.manual_seed(seed)
    first = nn.Linear(3, 4)

    def build():
        module = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))
        module[0].load_state_dict(first.state_dict())
        return module

    model = Model(build, trainable=masks(trainable, "none")[0])
    return Context(t=1, N=2, model=model, slope=Session(Loop(model)), **more)


CTX = context()
AGREED = dict(CTX.model.frozen)
STAGE = Stamped(AGREED)
ROW = CTX.model.start(1)


def sent(ctx=CTX, m=None, stage=STAGE):
    return stage.forward({"w": ROW} if m is None else m, {}, ctx)[0]


def test_what_is_said_comes_back_and_the_digest_costs_eight_bytes():
    m = sent()
    assert m.keys() == {"w", STAMP}
    assert m[STAMP].numel() * m[STAMP].element_size() == 8
    assert STAGE.inverse(m, 1, CTX).keys() == {"w"}
    codec = Codec((STAGE,))
    back = codec.decode(codec.encode({"w": ROW}, {}, CTX)[0], CTX)
    assert torch.equal(back["w"], ROW)


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda m: {**m, "0.weight": AGREED["0.weight"]}, "0.weight is frozen"),
        (lambda m: {**m, "2.weight": torch.zeros(2, 4)}, "2.weight is not known; trained are w"),
        (lambda m: {STAMP: m[STAMP]}, "w is missing"),
        (lambda m: {"w": m["w"]}, "frozen parameters are others"),
        (lambda m: {**m, STAMP: m[STAMP] + 1}, "frozen parameters are others"),
        (lambda m: {**m, STAMP: m[STAMP][:3]}, "frozen parameters are others"),
        (lambda m: {**m, STAMP: m[STAMP].float() + 0.25}, "frozen parameters are others"),
    ],
)
def test_other_messages_are_refused(spoil, words):
    with pytest.raises(CodecError, match=words):
        STAGE.inverse(spoil(sent()), 1, CTX)


@given(st.integers(1, 1000))
def test_peers_with_another_backbone_are_refused(seed):
    with pytest.raises(CodecError, match="frozen parameters are others"):
        STAGE.inverse(sent(context(seed)), 1, CTX)


def test_one_changed_number_is_seen_though_the_tensors_are_the_same():
    ctx = context()
    before = sent(ctx)[STAMP]
    ctx.model.frozen["0.weight"][1, 2] += 1e-6
    assert not torch.equal(sent(ctx)[STAMP], before)


def test_masks_may_freeze_more_or_less_than_was_agreed():
    more, less = context(trainable="names:2.weight"), context(trainable="names:*bias")
    for ctx in (more, less):
        m = {"w": ctx.model.start(1)}
        assert STAGE.inverse(sent(ctx, m), 1, ctx).keys() == {"w"}
    with pytest.raises(CodecError, match="frozen parameters are others"):
        STAGE.inverse(sent(less, {"w": less.model.start(1)}), 1, more)


def test_without_anything_frozen_nothing_is_added():
    ctx = context(trainable="all")
    m = {"w": ctx.model.start(1)}
    assert sent(ctx, m) == m
    assert STAGE.inverse(m, 1, ctx) == m


def test_the_mean_of_a_sum_shows_one_among_many_that_differs():
    digests = [sent()[STAMP].double()] * 40
    m = {"w": ROW, STAMP: (sum(digests) / 40).float()}
    assert STAGE.inverse(m, 40, CTX).keys() == {"w"}
    m[STAMP] = ((sum(digests) + sent(context(5))[STAMP].double() - digests[0]) / 40).float()
    with pytest.raises(CodecError, match="frozen parameters are others"):
        STAGE.inverse(m, 40, CTX)
