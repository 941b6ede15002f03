"""Tips, weights, walks and conflicts of a tangle."""

import hashlib
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hubless.errors import ConfigError, UnknownParent
from hubless.ledger.tips import Tips


def key(name):
    return hashlib.sha256(str(name).encode()).digest()


def grow(tips, name, left, right, spends=b""):
    return tips.add(key(name), key(left), key(right), spends)


def diamond():
    tips = Tips(key("g"))
    for name, left, right in (("a", "g", "g"), ("b", "g", "g"), ("c", "a", "b"), ("d", "b", "b")):
        grow(tips, name, left, right)
    return tips


def test_tips_and_weights():
    tips = diamond()
    assert tips.tips() == [3, 4]
    assert [tips.weight(i) for i in range(5)] == [5, 2, 3, 1, 1]
    assert tips.weights[1:] == [2, 3, 1, 1]
    with pytest.raises(UnknownParent):
        grow(tips, "e", "nobody", "a")


def test_confirmed_is_what_nearly_all_tips_stand_on():
    tips = diamond()
    assert tips.confirm([3, 4]) == [2]
    assert tips.confirm([3, 4]) == []
    assert tips.confirm([3]) == [1]
    assert tips.open == 1 << 3 | 1 << 4


def test_a_walk_prefers_the_heavy_and_alpha_zero_does_not():
    tips = Tips(key("g"))
    grow(tips, "light", "g", "g")
    grow(tips, "heavy", "g", "g")
    last = "heavy"
    for i in range(20):
        grow(tips, i, last, last)
        last = i
    light = tips.graph.index[key("light")]
    greedy = [tips.choose(Random(i), 1, 10.0)[0] for i in range(50)]
    even = [tips.choose(Random(i), 1, 0.0)[0] for i in range(200)]
    assert light not in greedy
    assert 60 < even.count(light) < 140
    with pytest.raises(ConfigError, match="alpha"):
        tips.choose(Random(0), 1, -1.0)


def test_of_two_that_spend_the_same_the_heavier_wins_and_the_other_is_left():
    tips = Tips(key("g"))
    grow(tips, "x", "g", "g", b"coin")
    grow(tips, "y", "g", "g", b"coin")
    grow(tips, "on x", "x", "x")
    grow(tips, "on y", "y", "y")
    grow(tips, "on y too", "y", "y")
    x, y = tips.graph.index[key("x")], tips.graph.index[key("y")]
    assert tips.losers() == 1 << x
    chosen = tips.choose(Random(0), 30)
    assert chosen
    assert not any(tips.graph.descends(i, x) for i in chosen)
    assert not any(tips.graph.descends(i, x) for i in tips.choose(Random(0), 30, 0.01))
    assert y in tips.confirm(tips.tips())
    assert x not in tips.confirm(list(range(len(tips))))


def test_when_every_tip_stands_on_a_loser_older_transactions_are_approved():
    tips = Tips(key("g"))
    grow(tips, "a", "g", "g")
    grow(tips, "x", "a", "a", b"coin")
    grow(tips, "y", "a", "a", b"coin")
    grow(tips, "both", "x", "y")
    winner = tips.tips()
    assert len(winner) == 1
    assert tips.graph.hashes[winner[0]] == min(key("x"), key("y"))


@settings(deadline=None, max_examples=30)
@given(st.randoms(use_true_random=False), st.integers(0, 8))
def test_weights_count_descendants_and_nobody_approves_a_conflict(random, coins):
    tips, names = Tips(key("g")), ["g"]
    for i in range(40):
        spends = b"coin %d" % random.randrange(coins) if coins and random.random() < 0.3 else b""
        left, right = (tips.graph.hashes[j] for j in tips.choose(random))
        tips.add(key(i), left, right, spends)
        names.append(i)
    for i in range(len(tips)):
        assert tips.weight(i) == tips.weights[i] or i == 0
    losers = tips.losers()
    assert not any(tips.graph.past[i] & losers for i in tips.tips())
