"""The stage and its acts, called by hand as the engine and a node do."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from messages import CONTEXT, FEW, MODEL, at, update

from hubless.errors import CodecError, ConfigError
from hubless.learn import keys
from hubless.learn.codecs import Raw
from hubless.learn.privacy.pbm import PBM
from hubless.learn.privacy.rqm import RQM
from hubless.learn.secure import FixedPoint, Hiding, SecureSum
from hubless.parts import make

GROUP = (0, 2, 3, 5, 7)
MASKED = "head/fixed/masked"
TO = 3


def context(peer, senders=(), group=GROUP, salt=0):
    secret, pairs = keys.fold(salt, "secret", peer), keys.fold(salt, "pair")
    return replace(CONTEXT, peer=peer, to=TO, group=group, senders=tuple(senders), secret=secret, pairs=pairs)


def summed(stage, said, arrived, count=None):
    """All acts: everyone in ``said`` deals, ``arrived`` arrive."""
    deals = {peer: stage.deal(context(peer)) for peer in said}
    coded = {peer: stage.forward(m, {}, context(peer, said))[0] for peer, m in said.items()}
    coded = {peer: Raw().unpack(Raw().pack(coded[peer])) for peer in arrived}
    told = {peer: stage.relay(peer, deals, context(TO, arrived)) for peer in arrived}
    answers = {peer: stage.answer(told[peer], context(peer)) for peer in arrived}
    total = stage.total(coded, deals, answers, context(TO, arrived))
    return total, stage.inverse(total, count or len(arrived), context(TO, arrived))


@FEW
@given(st.sets(st.sampled_from(GROUP), min_size=3), st.data(), st.sampled_from([0, 2]))
def test_floats_come_back_as_their_mean(alive, data, neighbours):
    arrived = sorted(data.draw(st.sets(st.sampled_from(sorted(alive)), min_size=3)))
    stage, said = SecureSum(neighbours=neighbours), {peer: update(peer) for peer in sorted(alive)}
    group = stage._group(context(TO))
    if group.refuses(arrived):
        return
    if neighbours and len(arrived) < len(GROUP):
        return  # of few helpers too many may be gone
    _, mean = summed(stage, said, arrived)
    assert set(mean) == set(said[arrived[0]])
    for name in (*MODEL.groups, *(name for name in mean if name.startswith("buffer"))):
        plain = torch.stack([said[peer][name] for peer in arrived]).mean(0)
        assert float((mean[name] - plain).abs().max()) < 1e-6
    assert torch.equal(mean["seen"], torch.tensor([3.0, 0.0, 2.0**40]))


def test_integers_of_a_quantiser_are_summed_exactly():
    said = {peer: {"head": keys.bits(peer, 40).remainder(16).to(torch.uint8)} for peer in GROUP}
    for arrived in (GROUP, GROUP[1:], GROUP[:3]):
        total, mean = summed(SecureSum(bits=7), said, arrived)
        assert torch.equal(total["head"], sum(said[peer]["head"].long() for peer in arrived))
        assert torch.equal(mean["head"], total["head"])


def test_a_quantiser_decodes_the_sum():
    rqm = RQM(16, 0.05, 0.05, 0.42)
    plain = {peer: {"head": 0.05 * keys.uniform(peer, (30,))} for peer in GROUP}
    said = {peer: rqm.forward(m, {}, at(1))[0] for peer, m in plain.items()}
    _, mean = summed(SecureSum(bits=7), said, GROUP)
    heard = rqm.inverse(mean, len(GROUP), context(TO))
    alone = torch.stack([rqm.inverse(m, 1, context(TO))["head"] for m in said.values()]).mean(0)
    assert torch.allclose(heard["head"], alone, atol=1e-6)


def test_bytes_are_the_elements_and_little_else():
    stage, m = SecureSum(bits=10), {"head": torch.ones(1000, dtype=torch.uint8)}
    coded, _ = stage.forward(m, {}, context(0, GROUP))
    assert len(Raw().pack(coded)) < 1250 + 80
    deal, few = stage.deal(context(0)), SecureSum(neighbours=2).deal(context(0))
    assert deal["box"].shape == (4, 16)
    assert deal["sealed"].shape == (4, 50)
    assert few["box"].shape == (2, 16)


def test_one_message_alone_means_nothing():
    codec, m = make("codec", "secure-sum"), {"head": torch.zeros(500)}
    data, _ = codec.encode(m, {}, context(0, GROUP))
    with pytest.raises(CodecError, match="one message alone means nothing"):
        codec.decode(data, context(TO))
    one, other = (codec.forward(m, {}, context(0, GROUP, salt=salt))[0][MASKED] for salt in (0, 1))
    assert float((one[6:] == other[6:]).float().mean()) < 0.02
    again, _ = codec.forward(m, {}, context(0, GROUP))
    assert torch.equal(again[MASKED], one)


def test_masks_of_inboxes_differ():
    """Otherwise the difference of two messages of one sender would be bare."""
    stage, m = SecureSum(), {"head": torch.zeros(500)}
    one, other = (stage.forward(m, {}, replace(context(0, GROUP), to=to))[0][MASKED][6:] for to in (3, 4))
    assert float((one == other).float().mean()) < 0.02


@pytest.mark.parametrize("value", [torch.tensor([-1]), torch.tensor([26]), torch.tensor([1 << 40])])
def test_numbers_that_might_overflow_are_not_sent(value):
    with pytest.raises(CodecError, match="7 bits do not sum"):
        SecureSum(bits=7).forward({"head": value}, {}, context(0, GROUP))


@pytest.mark.parametrize(
    ("stage", "senders", "before", "said"),
    [
        (SecureSum(bits=6), 40, (RQM(16, 1, 1, 0.4),), "secure-sum.bits = 6: the sum of 40 senders needs 10 bits"),
        (SecureSum(bits=9), 40, (PBM(16, 1, 0.2),), "secure-sum.bits = 9: the sum of 40 senders needs 10 bits"),
        (SecureSum(bits=16), 4, (FixedPoint(20),), "secure-sum.bits = 16: the sum of 4 senders needs 20 bits"),
        (SecureSum(bits=3), 9, (), "secure-sum.bits = 3: the sum of 9 senders needs 5 bits"),
    ],
)
def test_sums_that_cannot_fit_are_refused(stage, senders, before, said):
    with pytest.raises(ConfigError, match=said):
        stage.check(senders, before)


def test_sums_that_fit_are_not():
    SecureSum(bits=10).check(40, (RQM(16, 1, 1, 0.4),))
    SecureSum(bits=10).check(60, (PBM(16, 1, 0.2),))
    SecureSum().check(10**6, ())
    SecureSum(bits=20).check(10**4, (FixedPoint(20),))


@pytest.mark.parametrize(
    ("given_", "said"),
    [
        (dict(threshold=1.5), "secure-sum.threshold = 1.5: must be in"),
        (dict(neighbours=3), "secure-sum.neighbours = 3: must be even, or 0 for all"),
        (dict(bits=60), "secure-sum.bits = 60: must be from 2 to 56"),
        (dict(range=-1.0), "secure-sum.range = -1: must be positive"),
    ],
)
def test_values_are_checked(given_, said):
    with pytest.raises(ConfigError, match=said):
        SecureSum(**given_)


def test_small_messages_of_strangers_are_checked():
    stage, said = SecureSum(), {peer: {"head": torch.ones(5)} for peer in GROUP}
    deals = {peer: stage.deal(context(peer)) for peer in GROUP}
    told = stage.relay(0, deals, context(TO, GROUP))
    for name in told:
        for wrong in (None, torch.zeros(3), told[name][:-1], told[name].double(), told[name][None]):
            lie = {**told, name: wrong} if wrong is not None else {n: v for n, v in told.items() if n != name}
            if wrong is not None and name == "arrived" and wrong.dtype == torch.int32 and wrong.dim() == 1:
                continue  # a list of peers like any other
            with pytest.raises(CodecError):
                stage.answer(lie, context(0))
    coded = {peer: stage.forward(said[peer], {}, context(peer, GROUP))[0] for peer in GROUP}
    answers = {p: stage.answer(stage.relay(p, deals, context(TO, GROUP)), context(p)) for p in GROUP}
    for wrong in ({}, {"box": deals[0]["box"][:-1], "sealed": deals[0]["sealed"][:-1]}):
        with pytest.raises(CodecError):
            stage.total(coded, {**deals, 0: wrong}, answers, context(TO, GROUP))
    for wrong in ({}, {"owners": answers[0]["owners"], "shares": answers[0]["shares"][:-1]}):
        with pytest.raises(CodecError):
            stage.total(coded, deals, {**answers, 0: wrong}, context(TO, GROUP))
    for wrong in (coded[0][MASKED][:-1], coded[0][MASKED][:3], torch.zeros(30, dtype=torch.uint8)):
        with pytest.raises(CodecError):
            stage.total({**coded, 0: {MASKED: wrong}}, deals, answers, context(TO, GROUP))


def test_a_stage_that_hides_says_how():
    with pytest.raises(NotImplementedError):
        Hiding().total({}, {}, {}, CONTEXT)
