"""Finality by two thirds: what is final stays so while fewer than a third cheat, and cheats leave proof."""

from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hubless.errors import NotAuthority
from hubless.ledger.attestations import Attestations, Vote, conflicts

NAMES = [f"peer-{i}" for i in range(7)]  # a quorum is 5


def block(height, branch=""):
    return f"{branch}{height}".encode().rjust(32, b"-")


def votes(who, low, high, branch=""):
    return [Vote(name, block(low, branch if low else ""), low, block(high, branch), high) for name in NAMES[who]]


def test_two_thirds_justify_and_the_next_block_makes_final():
    state = Attestations(NAMES, block(0))
    heard = [state.add(vote) for vote in votes(slice(5), 0, 1)]
    assert heard == [False] * 4 + [True]
    assert block(1) in state.justified
    assert block(1) not in state.final
    for vote in votes(slice(5), 1, 2):
        state.add(vote)
    assert state.finalised == (1, block(1))


def test_a_skipped_height_justifies_but_makes_nothing_final():
    state = Attestations(NAMES, block(0))
    for vote in votes(slice(5), 0, 2):
        state.add(vote)
    assert state.latest == (2, block(2))
    assert state.finalised == (0, block(0))


def test_votes_may_come_in_any_order():
    state = Attestations(NAMES, block(0))
    for vote in votes(slice(5), 1, 2):
        assert not state.add(vote)
    for vote in votes(slice(5), 0, 1):
        state.add(vote)
    assert state.latest == (2, block(2))
    assert state.finalised == (1, block(1))


def test_a_stranger_is_refused():
    with pytest.raises(NotAuthority, match="not one of the 7"):
        Attestations(NAMES, block(0)).add(Vote("stranger", block(0), 0, block(1), 1))


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (Vote("peer-0", block(0), 0, block(3), 3), Vote("peer-0", block(0), 0, block(3, "x"), 3)),
        (Vote("peer-0", block(2), 2, block(3), 3), Vote("peer-0", block(1), 1, block(4), 4)),
        (Vote("peer-0", block(1), 1, block(4), 4), Vote("peer-0", block(2), 2, block(3), 3)),
    ],
)
def test_two_votes_that_no_honest_voter_casts_are_kept_as_proof(first, second):
    state = Attestations(NAMES, block(0))
    state.add(first)
    state.add(second)
    assert state.guilty == {"peer-0": (first, second)}
    assert conflicts(second, first)


@settings(deadline=None)
@given(st.integers(0, 10**6), st.integers(0, 2), st.floats(0.5, 1.0))
def test_honest_voters_never_make_two_branches_final(seed, hostile, drift):
    """Voters hear a random part of each other's votes about two branches; up to two of seven vote for both."""
    random = Random(seed)
    views = {name: Attestations(NAMES, block(0)) for name in NAMES}
    last = dict.fromkeys(NAMES, (0, 0))
    for _ in range(150):
        name = random.choice(NAMES)
        view, (source_height, target_height) = views[name], last[name]
        favourite = "ab" if random.random() < drift else "ba"
        for branch in favourite[: 2 if NAMES.index(name) < hostile else 1]:
            own = [(h, key) for key, h in view.justified.items() if h == 0 or key.strip(b"-")[:1] == branch.encode()]
            height, source = max(own)
            target = target_height + 1
            if (height < source_height and NAMES.index(name) >= hostile) or target <= height:
                continue
            vote = Vote(name, source, height, block(target, branch), target)
            last[name] = (max(height, source_height), target)
            for other in NAMES:
                if random.random() < 0.97:
                    views[other].add(vote)
    final = {key.strip(b"-")[:1] for view in views.values() for key, height in view.final.items() if height}
    assert len(final) <= 1
