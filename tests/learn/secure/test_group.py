import pytest
from hypothesis import given
from hypothesis import strategies as st

from hubless.learn.secure.group import Group

PEERS = st.sets(st.integers(0, 60), min_size=2, max_size=20).map(lambda ids: tuple(sorted(ids)))


@given(PEERS, st.sampled_from([0, 2, 4, 6]), st.integers(0, 60), st.integers(1, 9))
def test_sharing_masks_is_mutual_and_of_equal_degree(peers, degree, inbox, t):
    group = Group(peers, inbox, degree=degree, step=(t, 0))
    near = {peer: group.neighbours(peer) for peer in peers}
    wanted = len(peers) - 1 if not degree else min(degree, len(peers) - 1)
    for peer in peers:
        assert peer not in near[peer]
        assert len(near[peer]) == wanted
        assert list(near[peer]) == sorted(set(near[peer]))
        assert all(peer in near[other] for other in near[peer])
        assert group.helpers(peer) == tuple(sorted((*near[peer], peer)))
    assert "connect" not in group.refuses(peers)


def test_few_neighbours_change_with_the_round_and_the_inbox():
    peers = tuple(range(20))
    rings = [Group(peers, inbox, degree=4, step=(t, 0)).neighbours(0) for inbox in (0, 1) for t in range(5)]
    assert len(set(rings)) > 5


@pytest.mark.parametrize(
    ("threshold", "count", "needed"),
    [(0.5, 2, 2), (0.5, 3, 2), (0.5, 4, 3), (0.5, 10, 6), (0.0, 10, 2), (1.0, 10, 10), (0.7, 10, 8), (0.5, 1, 1)],
)
def test_how_many_must_be_left(threshold, count, needed):
    """More than the share: so half of all can never be told something else than the other half."""
    assert Group(tuple(range(count)), 0, threshold).needed(count) == needed


def test_sums_of_too_few_or_in_pieces_are_not_revealed():
    group = Group(tuple(range(10)), 4, 0.3, degree=2)
    assert group.refuses(range(10)) == ""
    assert group.refuses((1, 2, 3)) == "3 of 10 senders arrived, 4 are needed"
    assert group.refuses((1, 2, 3, 3)) == "3 of 10 senders arrived, 4 are needed"
    assert group.refuses((1, 2, 3, 40, 50)) == "peer 40 is no sender of this inbox"
    assert Group((3, 4), 4, 0.0).refuses((3, 4)) == "fewer than 2 senders besides the receiver arrived"
    ring = [0]
    while len(ring) < 10:
        ring.append(next(peer for peer in group.neighbours(ring[-1]) if peer not in ring))
    assert group.refuses(ring[:5]) == ""
    assert group.refuses(ring[:2] + ring[5:8]) == "masks no longer connect all who arrived"
