import pytest
import torch

from hubless.learn.teaching.mislabelled import Mislabelled

DATA = "synthetic:samples=400:classes=4"


def shards(poor, held=0, seed=0):
    return Mislabelled(DATA, "shards:1", 4, "softmax", held=held, poor=frozenset(poor)).shards(seed)


def test_only_labels_of_poor_peers_change():
    plain, mixed = shards(()), shards({1, 3})
    for peer in range(4):
        assert torch.equal(mixed.own(peer)[0], plain.own(peer)[0])
        assert torch.equal(mixed.own(peer)[1], plain.own(peer)[1]) == (peer in (0, 2))
    assert torch.equal(mixed.test_y, plain.test_y)


def test_their_labels_are_even_and_say_so_in_the_counts():
    mixed = shards({0, 1, 2, 3})
    share = mixed.classes.sum(0) / mixed.classes.sum()
    assert share.tolist() == pytest.approx([0.25] * 4, abs=0.08)
    assert (shards(()).classes > 0).sum() < (mixed.classes > 0).sum() == 16


def test_what_they_hold_out_is_mislabelled_too():
    plain, mixed = (shards(poor, held=5) for poor in ((), {3}))
    assert torch.equal(mixed.held(0)[1], plain.held(0)[1])
    assert not torch.equal(mixed.held(3)[1], plain.held(3)[1])


def test_labels_follow_from_the_seed():
    assert torch.equal(shards({2}, seed=1).y, shards({2}, seed=1).y)
    assert not torch.equal(shards({2}, seed=1).own(2)[1], shards({2}, seed=2).own(2)[1])
