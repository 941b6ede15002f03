"""Views of the membership: a replicated data type, and an order that everyone who knows the same computes alike."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hubless.errors import MessageError
from hubless.learn.membership import ENTRY, UNKNOWN, Membership, sample_order

N = 6
numbers = st.lists(st.integers(UNKNOWN, 9), min_size=N, max_size=N).map(torch.tensor)
views = st.builds(Membership, numbers, numbers)


def same(one, other):
    return torch.equal(one.active, other.active) and torch.equal(one.counter, other.counter)


@given(views, views, views)
def test_views_merge_in_any_order_and_any_number_of_times(a, b, c):
    assert same(a.merge(b), b.merge(a))
    assert same(a.merge(b).merge(c), a.merge(b.merge(c)))
    assert same(a.merge(a), a)
    assert same(a.merge(b).merge(b), a.merge(b))


@given(views, st.integers(0, N - 1), st.integers(0, 9), st.integers(0, 9))
def test_a_smaller_counter_or_an_earlier_round_is_ignored(view, peer, round_, counter):
    after = view.learn(peer, round_, counter)
    assert after.counter[peer] == max(int(view.counter[peer]), counter)
    assert after.active[peer] == max(int(view.active[peer]), round_)
    assert same(after.learn(peer, round_ - 1, counter - 1), after)
    assert same(after, view.merge(Membership.of(N, [(peer, round_, counter)])))


@given(views, st.integers(0, N - 1), st.lists(st.booleans(), min_size=1, max_size=5))
def test_a_peer_is_where_its_last_announcement_says(view, peer, moves):
    for here in moves:
        counter = view.change(peer, here=here)
        assert counter > view.counter[peer]
        view = view.learn(peer, 5, counter)
        assert (peer in view.candidates(5, 1)) == here


@given(views, st.permutations(range(N)), st.integers(1, 50), st.integers(0, 3))
def test_all_peers_with_the_same_view_compute_the_same_sample(view, order, t, seed):
    peers = view.candidates(t, 50).tolist()
    shuffled = [peer for peer in order if peer in peers]
    assert sample_order(peers, t, seed) == sample_order(shuffled, t, seed)


def test_the_order_hashes_id_and_round_apart():
    assert sample_order(range(40), 1, 0) != sample_order(range(40), 2, 0)
    assert sample_order(range(40), 1, 0) != sample_order(range(40), 1, 1)
    firsts = [sample_order(range(12), t, 0)[0] for t in range(600)]
    counts = torch.bincount(torch.tensor(firsts), minlength=12)
    assert counts.min() > 25, "everyone comes first now and then"
    assert counts.max() < 80


def test_candidates_are_in_and_were_heard_of_lately():
    view = Membership.of(5, [(0, 10, 0), (1, 4, 0), (2, 10, 1), (3, 5, 2)])
    assert view.candidates(10, 5).tolist() == [0, 3]
    assert view.size == 4 * ENTRY


@pytest.mark.parametrize(
    ("entries", "said"),
    [
        ([(1, 2, 0), (1, 3, 0)], "peer 1 is there twice"),
        ([(7, 2, 0)], "no peer 7"),
        ([(-1, 2, 0)], "no peer -1"),
        ([(1, 2, -3)], "counter -3"),
    ],
)
def test_a_bad_view_is_refused(entries, said):
    with pytest.raises(MessageError, match=said):
        Membership.of(5, entries)
