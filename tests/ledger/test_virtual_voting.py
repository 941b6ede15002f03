"""Hashgraph: all honest peers work out one order, whatever the gossip, forks and silence of fewer than a third."""

import hashlib
from itertools import pairwise
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hubless.errors import LedgerError, NotAuthority, UnknownParent
from hubless.ledger import virtual_voting
from hubless.ledger.ancestry import bits
from hubless.ledger.suites import Hasher
from hubless.ledger.virtual_voting import NONE, Event, EventGraph, Poll


class Gossip:
    """``n`` peers with a graph of their own each, of which some fall silent and some tell two stories."""

    def __init__(self, n, random, *, silent=(), forkers=()):
        self.names = [f"p{i}" for i in range(n)]
        self.random = random
        self.hasher = Hasher()
        self.views = [Poll(EventGraph(self.names)) for _ in range(n)]
        self.last = [NONE] * n
        self.silent, self.forkers, self.time = set(silent), set(forkers), 0
        for i in range(n):
            if i not in self.silent:
                self.last[i] = self.create(i, NONE, NONE)

    @property
    def honest(self):
        return [i for i in range(len(self.names)) if i not in self.silent and i not in self.forkers]

    def create(self, i, self_parent, other):
        self.time += 1
        event = Event(self.names[i], self_parent, other, [b"%d" % self.time], float(self.time), b"s%d" % self.time)
        key = event.digest(self.hasher)
        self.take(i, key, event)
        return key

    def take(self, i, key, event):
        view = self.views[i]
        view.add(view.graph.add(key, event))

    def tell(self, a, b):
        """a tells b all that it has, and b makes an event of it; a forker sometimes makes two."""
        mine, theirs = self.views[a].graph, self.views[b].graph
        for item in bits(self.views[a].have):
            key = mine.graph.hashes[item]
            if key not in theirs.graph:
                self.take(b, key, mine.events[item])
        if b in self.forkers and self.random.random() < 0.5:
            self.create(b, self.last[b], self.last[a])
        if b not in self.silent:
            self.last[b] = self.create(b, self.last[b], self.last[a])

    def run(self, steps):
        active = [i for i in range(len(self.names)) if i not in self.silent]
        for _ in range(steps):
            self.tell(*self.random.sample(active, 2))

    def orders(self):
        return [[self.views[i].graph.graph.hashes[x] for x, _ in self.views[i].order] for i in self.honest]


def agree(orders):
    longest = max(orders, key=len)
    return all(order == longest[: len(order)] for order in orders)


@settings(deadline=None, max_examples=15)
@given(st.integers(4, 8), st.integers(0, 10**6), st.data())
def test_honest_peers_output_one_order_under_any_gossip(n, seed, data):
    faulty = data.draw(st.integers(0, (n - 1) // 3))
    forkers = data.draw(st.integers(0, faulty))
    gossip = Gossip(n, Random(seed), silent=range(forkers, faulty), forkers=range(forkers))
    gossip.run(45 * n)
    orders = gossip.orders()
    assert agree(orders)
    assert min(map(len, orders)) > 0


@settings(deadline=None, max_examples=8)
@given(st.integers(4, 5), st.randoms(use_true_random=False))
def test_a_schedule_made_to_hurt_may_stop_the_order_but_not_split_it(n, random):
    gossip = Gossip(n, random, forkers=range((n - 1) // 3))
    gossip.run(30 * n)
    assert agree(gossip.orders())


def test_most_events_are_ordered_soon_and_at_times_that_rise():
    gossip = Gossip(7, Random(1))
    gossip.run(400)
    view = gossip.views[0]
    assert len(view.order) > 250
    rounds = view.round
    assert rounds > 5
    assert all(x in view.famous for r in range(1, rounds + 1) for x in view.witnesses[r])
    times = [time for _, time in view.order]
    assert sum(a > b for a, b in pairwise(times)) <= rounds  # only a new round may step back
    assert all(view.graph.events[x].time <= time for x, time in view.order)


@pytest.mark.parametrize(("n", "silent", "moves"), [(7, 2, True), (7, 3, False), (10, 3, True), (10, 4, False)])
def test_a_third_that_is_silent_stops_the_order_and_does_not_split_it(n, silent, moves):
    gossip = Gossip(n, Random(2), silent=range(silent))
    gossip.run(60 * n)
    orders = gossip.orders()
    assert agree(orders)
    assert (min(map(len, orders)) > 0) == moves
    assert moves or max(map(len, orders)) == 0


def test_strongly_seeing_counts_distinct_creators_not_events():
    gossip = Gossip(4, Random(0))
    graph = gossip.views[0].graph
    other = gossip.views[1].graph.events[0]
    gossip.take(0, gossip.last[1], other)
    for _ in range(6):  # many events of one creator
        gossip.last[0] = gossip.create(0, gossip.last[0], gossip.last[1])
    x, y = graph.graph.index[gossip.last[0]], graph.graph.index[gossip.last[1]]
    assert graph.sees(x, y)
    assert not graph.strongly_sees(x, y)
    assert graph.round[x] == 1


def test_whoever_knows_of_a_fork_does_not_see_the_forker():
    gossip = Gossip(4, Random(0))
    fork = [gossip.create(1, gossip.last[1], NONE), gossip.create(1, gossip.last[1], NONE)]
    graph = gossip.views[1].graph
    for key in (gossip.last[1], *fork):
        gossip.take(0, key, graph.events[graph.graph.index[key]])
    one = gossip.create(0, gossip.last[0], fork[0])
    two = gossip.create(0, one, fork[1])
    mine = gossip.views[0].graph
    place = mine.graph.index
    assert mine.sees(place[one], place[fork[0]])
    assert not mine.sees(place[two], place[fork[0]])
    assert not mine.sees(place[two], place[gossip.last[1]])


def test_what_does_not_fit_is_refused():
    gossip = Gossip(3, Random(0))
    graph = gossip.views[0].graph
    for event, error in (
        (Event("p0", hashlib.sha256(b"?").digest(), NONE, [], 1.0), UnknownParent),
        (Event("stranger", NONE, NONE, [], 1.0), NotAuthority),
        (Event("p1", gossip.last[0], NONE, [], 1.0), LedgerError),
    ):
        with pytest.raises(error):
            graph.add(event.digest(Hasher()), event)
    assert len(graph.events) == 1


def test_a_coin_round_decides_nothing_by_itself():
    """With a coin in every second round of voting, orders still agree and go on."""
    before, virtual_voting.COIN = virtual_voting.COIN, 2
    try:
        gossip = Gossip(4, Random(5))
        gossip.run(200)
        assert agree(gossip.orders())
        assert min(map(len, gossip.orders())) > 50
    finally:
        virtual_voting.COIN = before


@settings(deadline=None, max_examples=10)
@given(st.integers(4, 7), st.integers(0, 10**6))
def test_rounds_follow_from_what_is_strongly_seen(n, seed):
    """The sums over tips say the same as looking at every witness and every creator."""
    gossip = Gossip(n, Random(seed), forkers=range((n - 1) // 3))
    gossip.run(20 * n)
    graph = gossip.views[-1].graph
    for item in range(len(graph.events)):
        event = graph.events[item]
        parents = [graph.graph.index[p] for p in (event.self_parent, event.other_parent) if p != NONE]
        base = max((graph.round[p] for p in parents), default=1)
        seen = sum(graph.strongly_sees(item, w) for w in graph.witnesses[base] if w < item)
        assert graph.round[item] == base + (3 * seen > 2 * n)
