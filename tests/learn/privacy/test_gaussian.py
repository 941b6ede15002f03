"""Noise on every peer's update, and once at the aggregator: bounds, amounts, what is sent, and what is refused."""

import math
from dataclasses import dataclass, field
from typing import ClassVar

import dp_accounting as dp
import pytest
import torch
from dp_accounting import rdp
from hypothesis import given, settings
from hypothesis import strategies as st
from small import BATCHNORM, GROUPS, PLAIN, build, close, finish, first_row, metrics, rows, workload

from hubless import testing
from hubless.errors import ConfigError
from hubless.learn import (
    SGD,
    Adam,
    Alone,
    ControlVariate,
    Distil,
    Gossip,
    Hook,
    Inbox,
    Median,
    Merge,
    Reduce,
    Rotating,
    Scaffold,
    ServerOpt,
    Star,
    WeightedMean,
    Workload,
    keys,
)
from hubless.learn.attacks import SignFlip
from hubless.learn.context import Context
from hubless.learn.privacy import ClippedSum, Noised
from hubless.learn.slots import Local
from hubless.learn.wiring import NoSlope
from hubless.net.topologies import Full, Ring

REPLACE = dp.NeighboringRelation.REPLACE_ONE


def by_hand(event, count):
    return rdp.RdpAccountant(neighboring_relation=REPLACE).compose(event, count).get_epsilon(1e-5)


def epsilons(run):
    return [found["epsilon"] for found in metrics(run)[:-1]]


class Still(Local):
    """Trains nothing."""

    batch, steps, epochs = 8, 1, None

    def rate(self, t):
        return 0.0

    def step(self, w, s, batch, ctx):
        return w, s


def context(model=PLAIN, start=None, secret=1, group=()):
    start = torch.zeros(model.size) if start is None else start
    return Context(t=1, N=5, model=model, slope=NoSlope(), secret=secret, start=start, group=group)


# every peer


@given(scale=st.sampled_from([0.0, 1e-4, 1.0, 1e5]), clip=st.floats(1e-3, 1e3), seed=st.integers(0, 99))
@settings(deadline=None)
def test_a_change_is_never_longer_than_the_clip(scale, clip, seed):
    start, change = keys.normal(keys.fold(seed, "start"), (PLAIN.size,)), keys.normal(seed, (PLAIN.size,))
    w, _ = Noised(Still(), clip, 0.0).end(scale * change, {}, context(start=torch.zeros(PLAIN.size)))
    assert float(w.norm()) <= clip * (1 + 1e-5)
    kept, _ = Noised(Still(), 1e9, 0.0).end(start + scale * change, {}, context(start=start))
    torch.testing.assert_close(kept, start + scale * change)


def test_the_noise_is_of_the_size_that_is_accounted_for():
    start = torch.ones(PLAIN.size)
    rule = Noised(Still(), 0.5, 3.0)
    draws = torch.stack([rule.end(start, {}, context(start=start, secret=secret))[0] for secret in range(400)]) - start
    assert float(draws.std()) == pytest.approx(3.0 * 0.5, rel=0.01)
    assert float(draws.mean()) == pytest.approx(0, abs=0.05)


@pytest.mark.parametrize(
    "inner", [SGD(lr=0.1, steps=2, batch=8, momentum=0.9, keep=True), Adam(lr=0.01, epochs=1), Still()]
)
def test_it_keeps_the_contract_of_a_local(inner):
    testing.check_local(Noised(inner, 0.3, 0.5))


def test_without_noise_and_with_a_wide_clip_nothing_changes():
    close(rows(build(privacy="local:1e6:0")), rows(build()))
    star = dict(overlay=Star(), merge=Scaffold(), local=SGD(lr=0.2, steps=2, batch=8, gradient=ControlVariate()))
    close(rows(build(privacy="local:1e6:0", **star)), rows(build(**star)))


class Tap(Hook):
    """Everything that is sent, round by round."""

    needs_messages: ClassVar[bool] = True

    def __init__(self):
        self.rounds = []

    def judge(self, exchange, messages, population):
        self.rounds.append({peer: m["w"].clone() for peer, m in messages.items()})


@pytest.mark.parametrize("steps", [1, 2])
def test_what_is_sent_is_made_of_what_was_sent_and_a_bounded_change(steps):
    """Whoever taps every wire of a gossip can compute each start; only a clipped change is new in each message."""
    tap = Tap()
    run = build(local=SGD(lr=5.0, steps=3, batch=8), overlay=Gossip(Ring(), steps), privacy="local:0.1:0", hooks=(tap,))
    finish(run)
    mixing = torch.from_numpy(run.learning.overlay.mixing(5, 3, run.shards.sizes).matrix()).float()
    start = first_row(PLAIN).expand(5, -1)
    for number, sent in enumerate(tap.rounds):
        said = torch.stack([sent[peer] for peer in range(5)])
        change = (said - start).norm(dim=1)
        if number % steps == 0:  # after training
            assert float(change.max()) <= 0.1 * (1 + 1e-4)
            assert float(change.min()) > 0.05, "the clip should matter"
        else:
            close(said, start)
        start = mixing @ said


def test_exchanges_after_the_first_tell_nothing_more():
    one, many = (epsilons(build(overlay=Gossip(Ring(), steps), privacy="local:1:4")) for steps in (1, 3))
    assert one == many == pytest.approx([by_hand(dp.GaussianDpEvent(2.0), t) for t in (1, 2, 3)])


def test_groups_that_are_not_shared_stay_exact():
    start = torch.zeros(GROUPS.size)
    w, _ = Noised(Still(), 0.5, 2.0, ("trunk",)).end(torch.ones(GROUPS.size), {}, context(GROUPS, start))
    trunk, head = GROUPS.groups["trunk"], GROUPS.groups["head"]
    assert torch.equal(w[head], torch.ones(GROUPS.size)[head])
    assert float((w[trunk] - 1).abs().min()) > 1e-3
    clipped, _ = Noised(Still(), 0.5, 0.0, ("trunk",)).end(torch.ones(GROUPS.size), {}, context(GROUPS, start))
    assert float(clipped[trunk].norm()) == pytest.approx(0.5, rel=1e-5)
    run = build(workload=workload(model=GROUPS), merge=Merge(WeightedMean(), ("trunk",)), privacy="local:0.1:0")
    assert run.local["train"].share == ("trunk",)
    finish(run)


@pytest.mark.parametrize("overlay", [Gossip(Ring()), Star(3, "one"), Rotating(3, "one"), Alone()])
@pytest.mark.parametrize("privacy", ["local:0.5:0.1", "central:0.5:0.1"])
@pytest.mark.parametrize("codec", ["raw", "float16"])
def test_any_overlay_and_codec_will_do_or_is_refused(overlay, privacy, codec):
    given = dict(overlay=overlay, codec=codec, attack=SignFlip(0.2), setting={"faults": "loss:0.1"})
    if privacy.startswith("central") and not isinstance(overlay, Star):
        with pytest.raises(ConfigError, match="central needs an aggregator"):
            build(privacy=privacy, **given)
        return
    assert bool(torch.isfinite(rows(build(privacy=privacy, **given))).all())


def test_distillation_sends_what_it_makes_of_a_noisy_row():
    finish(build(merge=Distil(public=torch.ones(4, 5)), privacy="local:0.5:0.1"))


# once, at the aggregator


@pytest.mark.parametrize("reduce", [ClippedSum(0.5, 0.0), ClippedSum(0.5, 1.0)])
def test_a_clipped_sum_keeps_the_contract(reduce):
    testing.check_merge(ServerOpt(reduce))


def messages(count, scale=1.0):
    return [{"w": scale * keys.normal(i, (4,)), "v": scale * keys.normal(50 + i, (2, 3))} for i in range(count)]


def summed(rule, said, group=None, secret=1):
    ids = tuple(range(len(said)))
    weights = torch.linspace(0.1, 0.9, len(said))
    return rule(Inbox(ids, weights, said), torch.zeros(4), {}, {}, context(secret=secret, group=group or ids))


def test_a_clipped_sum_is_the_plain_formula():
    said, clip = messages(5), 1.5
    total = {"w": torch.zeros(4), "v": torch.zeros(2, 3)}
    for m in said:
        norm = torch.cat([m["w"], m["v"].flatten()]).norm()
        for name in total:
            total[name] += m[name] * min(1.0, clip / float(norm))
    found = summed(ClippedSum(clip, 0.0), said)
    for name in total:
        close(found[name], total[name] / 5, 1e-6)
    late = summed(ClippedSum(clip, 0.0), said, group=tuple(range(8)))  # three did not arrive
    close(late["v"], total["v"] / 8, 1e-6)


@given(huge=st.floats(1.0, 1e6), clip=st.floats(0.01, 10.0))
@settings(max_examples=40, deadline=None)
def test_one_message_moves_the_sum_by_two_clips_at_most(huge, clip):
    said = messages(4)
    other = [*said[:3], {name: -huge * value for name, value in said[3].items()}]
    a, b = summed(ClippedSum(clip, 0.0), said), summed(ClippedSum(clip, 0.0), other)
    gap = 4 * torch.cat([(a[name] - b[name]).flatten() for name in a]).norm()
    assert float(gap) <= 2 * clip * (1 + 1e-5)


def test_the_noise_on_the_sum_is_drawn_once():
    rule, exact = ClippedSum(0.5, 3.0), summed(ClippedSum(0.5, 0.0), messages(5))
    draws = []
    for secret in range(400):
        found = summed(rule, messages(5), secret=secret)
        draws.append(torch.cat([5 * (found[name] - exact[name]).flatten() for name in found]))
    assert float(torch.stack(draws).std()) == pytest.approx(3.0 * 0.5, rel=0.03)
    correlation = torch.corrcoef(torch.stack(draws).T) - torch.eye(10)
    assert float(correlation.abs().max()) < 0.25, "names share their noise"


@pytest.mark.parametrize("merge", ["mean", "server:adam:0.1", Scaffold()])
def test_without_noise_and_with_a_wide_clip_it_is_the_equal_mean(merge):
    gradient = dict(gradient=ControlVariate()) if isinstance(merge, Scaffold) else {}
    star = dict(overlay=Star(3, "one"), merge=merge, local=SGD(lr=0.2, steps=2, batch=8, **gradient))
    close(rows(build(privacy="central:1e6:0", **star)), rows(build(**star)), 1e-4)


def test_a_hostile_update_is_clipped_where_it_arrives():
    star = dict(overlay=Star(0, "one"), privacy="central:0.01:0")
    shift = rows(build(attack=SignFlip(0.2, scale=1e6), **star)) - first_row(PLAIN)
    assert float(shift.norm()) <= 3 * 0.01 * (1 + 1e-3), "three rounds of clipped means"


def test_a_secret_sample_of_the_peers_costs_less_and_everyone_the_same():
    given = dict(local=SGD(lr=0.1, epochs=1), rounds=3, workload=workload(20))
    event = dp.SampledWithoutReplacementDpEvent(20, 2, dp.GaussianDpEvent(2.0))
    sampled = [by_hand(event, t) for t in (1, 2, 3)]
    each = [by_hand(dp.GaussianDpEvent(2.0), t) for t in (1, 2, 3)]
    assert epsilons(build(overlay=Star(2, "one"), privacy="central:1:4", **given)) == pytest.approx(sampled)
    assert sampled[0] < each[0] / 2
    assert epsilons(build(overlay=Star(0, "one"), privacy="central:1:4", **given)) == pytest.approx(each)


UNSAMPLED = {
    "anyone can compute who holds and takes part": dict(overlay=Rotating(2, "one")),
    "momentum tells when its peer was drawn": dict(local=SGD(lr=0.1, epochs=1, momentum=0.9, keep=True)),
    "hostile peers do what they like": dict(attack=SignFlip(0.2)),
    "a variate, too": dict(local=SGD(lr=0.1, epochs=1, gradient=ControlVariate()), merge=Scaffold()),
    "a judge may shrink the population": dict(hooks=(Tap(),)),
}


@pytest.mark.parametrize("why", UNSAMPLED)
def test_a_sample_counts_for_nothing_where(why):
    given = dict(local=SGD(lr=0.1, epochs=1), overlay=Star(2, "one"), workload=workload(20), rounds=1) | UNSAMPLED[why]
    assert epsilons(build(privacy="central:1:4", **given)) == pytest.approx([by_hand(dp.GaussianDpEvent(2.0), 1)])


def test_privacy_is_a_matter_of_noise():
    """More noise, less accuracy and less epsilon, for both."""
    work = Workload("digits", "iid", 8, "softmax", 800)
    for name in ("local", "central"):
        found = []
        for noise in (0, 1, 20):
            run = build(
                workload=work, local=SGD(lr=0.5, epochs=1, batch=20), overlay=Star(0, "one"), rounds=6,
                privacy=f"{name}:1:{noise}",
            )  # fmt: skip
            *_, last, end = run.records()
            found.append((end.metrics["accuracy"], last.metrics.get("epsilon", math.inf)))
        accuracy, epsilon = zip(*found, strict=True)
        assert accuracy[0] > 0.7
        assert list(accuracy) == sorted(set(accuracy), reverse=True), name
        assert list(epsilon) == sorted(set(epsilon), reverse=True), name


# refused


@dataclass(frozen=True)
class Gradients(Merge):
    """Sends something else that training makes."""

    reduce: Reduce = field(default_factory=WeightedMean)

    def message(self, w, s, book, ctx):
        return {**super().message(w, s, book, ctx), "m": s["momentum"]}


KEEPS = SGD(lr=0.1, steps=1, momentum=0.9, keep=True)
REFUSED = {
    "local:1:1": {
        "Gradients may send 'momentum', which SGD makes in training": dict(merge=Gradients(), local=KEEPS),
        "batchnorm sends 'buffer/1.running_mean', which the noise of local": dict(workload=workload(model=BATCHNORM)),
    },
    "central:1:1": {
        "central needs an aggregator .* Gossip has none; use local:CLIP:NOISE": dict(overlay=Gossip(Full())),
        r"central needs equal weights, but the overlay weighs by size.*use weigh=one": dict(overlay=Star()),
        "central adds noise to a sum, and merge Median is no sum": dict(merge=Median(), overlay=Star(0, "one")),
        "merge Gradients is no sum": dict(merge=Gradients(), local=KEEPS, overlay=Star(0, "one")),
        "model: batchnorm sends": dict(workload=workload(model=BATCHNORM), overlay=Star(0, "one")),
    },
}  # fmt: skip


@pytest.mark.parametrize(("privacy", "why"), [(name, why) for name, cases in REFUSED.items() for why in cases])
def test_what_cannot_be_private_is_refused(privacy, why):
    with pytest.raises(ConfigError, match=why):
        build(privacy=privacy, **REFUSED[privacy][why])


def test_batchnorm_may_stay_at_home():
    finish(build(workload=workload(model=BATCHNORM), merge=Merge(WeightedMean(), ("w",)), privacy="local:0.5:0.1"))
