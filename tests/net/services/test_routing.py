"""Routing tables: near contacts stay known, silent ones go, nobody is entered on hearsay."""

import random

import pytest

from hubless.net.identity import Identity
from hubless.net.services.routing import RoutingTable, place, position

PEERS = [Identity.derived(0, i).peer_id for i in range(400)]
ME = PEERS[0]


def table(count=400, capacity=20):
    made = RoutingTable(ME, capacity)
    for peer in PEERS[1:count]:
        made.seen(peer)
    return made


def test_the_nearest_come_first_and_oneself_is_not_among_them():
    made = table(60, capacity=60)
    target = place(b"a key")
    near = made.closest(target, 8)
    assert near == sorted(PEERS[1:60], key=lambda peer: position(peer) ^ target)[:8]
    made.seen(ME)
    assert ME not in made
    assert len(made) == 59


def test_a_bucket_is_bounded_and_the_neighbourhood_is_whole():
    made = table()
    assert max(map(len, made.buckets.values())) == 20
    nearest = sorted(PEERS[1:], key=lambda peer: position(peer) ^ position(ME))[:8]
    assert made.closest(position(ME), 8) == nearest


def test_one_failed_step_removes_nobody_and_the_second_in_a_row_does():
    made = table(10)
    peer = PEERS[3]
    made.missed(peer)
    assert peer in made
    assert made.closest(position(peer), 9)[-1] == peer  # but others are asked before it
    made.seen(peer)
    made.missed(peer)
    assert peer in made
    made.missed(peer)
    assert peer not in made
    made.missed(peer)  # whoever is not there cannot be removed


def test_a_full_bucket_takes_a_newcomer_only_for_one_that_missed():
    made = table()
    far = [peer for peer in PEERS[1:] if (position(peer) ^ position(ME)).bit_length() == 256]
    outside = next(peer for peer in far if peer not in made)
    inside = next(peer for peer in far if peer in made)
    made.seen(outside)
    assert outside not in made
    made.missed(inside)
    made.seen(outside)
    assert outside in made
    assert inside not in made


def test_addresses_last_until_others_are_given():
    made = table(2)
    for given, known in ((["tcp:1"], ("tcp:1",)), ([], ("tcp:1",)), (["tcp:2"], ("tcp:2",))):
        made.seen(PEERS[1], given)
        assert [contact.addresses for contact in made.contacts(0, 8)] == [known]


@pytest.mark.parametrize("count", [50, 200, 400])
def test_the_size_of_the_network_is_estimated_within_a_factor(count):
    rng = random.Random(1)
    estimates = []
    for me in rng.sample(PEERS[:count], 20):
        made = RoutingTable(me)
        for peer in PEERS[:count]:
            made.seen(peer)
        estimates.append(made.estimate())
    assert 0.6 < sum(estimates) / 20 / count < 1.6
    assert table(4).estimate() == 4
