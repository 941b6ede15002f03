"""What peers hold out: their own samples of their own classes, which nobody trains on."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from small import build, workload

from hubless.data.dataset import Dataset
from hubless.errors import ConfigError
from hubless.learn import Merge, WeightedMean, Workload
from hubless.learn.held import set_apart
from hubless.parts import make

# one input a sample, which is its number
NUMBERED = Dataset.of(np.arange(300.0)[:, None], np.arange(300) % 6, name="numbered")


def numbers(x):
    return set(x.flatten().int().tolist())


@given(each=st.integers(1, 4), peers=st.integers(1, 6), seed=st.integers(0, 5), samples=st.sampled_from([0, 60]))
def test_nobody_trains_on_what_is_held_out(each, peers, seed, samples):
    shards = Workload(NUMBERED, "dirichlet:0.3", peers, "softmax", samples, held=each).shards(seed)
    trained = numbers(shards.x[shards.flat])
    seen = set()
    for peer in range(peers):
        (x, y), own = shards.held(peer), shards.own(peer)[1]
        assert torch.equal(y.unique(return_counts=True)[1], torch.full((len(own.unique()),), each))
        assert torch.equal(y.unique(), own.unique())
        assert torch.equal(y, torch.from_numpy(NUMBERED.y)[[NUMBERED.x.flatten().tolist().index(v) for v in x]])
        assert numbers(x).isdisjoint(trained | seen)
        seen |= numbers(x)
    assert not seen & numbers(shards.test_x)


def test_it_is_the_same_twice_and_another_for_another_seed():
    first, again, other = (Workload(NUMBERED, "iid", 3, "softmax", held=2).shards(s).held(1)[0] for s in (4, 4, 5))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_without_it_nothing_changes():
    shards = Workload(NUMBERED, "iid", 3, "softmax").shards(0)
    assert len(shards.held(0)[1]) == 0
    assert len(shards.flat) == len(NUMBERED.y)


def test_a_partition_that_shifts_features_shifts_what_is_held_out():
    data = Dataset.of(np.random.default_rng(0).random((200, 1, 4, 4)), np.arange(200) % 2)
    shards, plain = (Workload(data, name, 2, "softmax", held=3).shards(1) for name in ("rotation:180", "iid"))
    turned = make("partition", "rotation:180").shift(plain.held(1)[0].numpy(), 1, 2)
    assert torch.equal(shards.held(0)[0], plain.held(0)[0])
    assert torch.equal(shards.held(1)[0], torch.from_numpy(turned))
    assert not torch.equal(shards.held(1)[0], plain.held(1)[0])


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (NUMBERED, r"held = 10: class '\d' has \d+ training samples, but 5 peers would hold out 50"),
        ("linear", "held = 10: counts samples of a class, but linear has no classes"),
    ],
)
def test_too_little_data_is_refused(data, words):
    with pytest.raises(ConfigError, match=words):
        Workload(data, "iid", 5, "softmax", held=10).shards(0)


def test_parts_of_one_peer_see_it():
    seen = {}

    class Curious(Merge):
        def join(self, inbox, w, s, book, ctx):
            seen[ctx.peer] = (ctx.held, ctx.data, ctx.classes)
            return super().join(inbox, w, s, book, ctx)

        def check(self, model, shards):
            if not len(shards.held(0)[1]):
                raise ConfigError("held = 0: no")

    run = build(merge=Curious(WeightedMean()), workload=workload(held=2), rounds=1)
    list(run.records())
    for peer, (held, own, classes) in seen.items():
        assert torch.equal(held.x, run.shards.held(peer)[0])
        assert torch.equal(torch.bincount(own.y, minlength=3), classes)
    with pytest.raises(ConfigError, match="held = 0"):
        build(merge=Curious(WeightedMean()))


def test_the_draw_leaves_a_sample_of_every_class():
    rest, apart = set_apart(NUMBERED, 39, 1, 0)
    assert apart.shape == (6, 1, 39, 1)
    assert len(rest.y) == len(NUMBERED.y) - 6 * 39
    assert set(rest.y) == set(range(6))
