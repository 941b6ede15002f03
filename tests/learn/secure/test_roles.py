"""The protocol by roles: the sum is the plain sum whoever drops out, and nothing else can be learned."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hubless.errors import CodecError
from hubless.learn import keys
from hubless.learn.secure import roles, shamir
from hubless.learn.secure.group import Group
from hubless.learn.secure.roles import Field, Keys

FIELDS = {"w": Field(10), "facts": Field(56)}


def own(peer, salt=0):
    """Keys as peers have them: a secret, and one key with each other."""
    return Keys(keys.fold(salt, "secret", peer), lambda a, b: keys.fold(salt, "pair", min(a, b), max(a, b)))


def values(peer, size=5):
    draw = np.random.default_rng(peer)
    return {
        "w": draw.integers(0, 1 << 10, size, dtype=np.uint64),
        "facts": draw.integers(0, 1 << 56, 2, dtype=np.uint64),
    }


def dealt(group, peers, salt=0):
    return {peer: roles.deal(peer, group, own(peer, salt)) for peer in peers}


def messages(group, deals, salt=0):
    return {peer: roles.masked(values(peer), FIELDS, peer, group, set(deals), own(peer, salt)) for peer in deals}


def answers(group, deals, arrived, helping):
    found = {}
    for peer in helping:
        sealed = {other: deals[other].sealed[peer] for other in group.neighbours(peer) if other in deals}
        found[peer] = roles.answer(peer, group, sealed, arrived, own(peer))
    return found


def total(said, arrived):
    return {
        name: np.bitwise_and(
            sum((said[peer][name] for peer in arrived), np.uint64(0)), np.uint64((1 << field.bits) - 1)
        )
        for name, field in FIELDS.items()
    }


def revealed(group, deals, said, arrived, helping):
    found = answers(group, deals, arrived, helping)
    return roles.unmask(total(said, arrived), FIELDS, group, deals, found, arrived)


def same(one, other):
    return all(np.array_equal(one[name], other[name]) for name in FIELDS)


@st.composite
def sums(draw):
    peers = tuple(sorted(draw(st.sets(st.integers(0, 40), min_size=2, max_size=9))))
    group = Group(
        peers, draw(st.integers(0, 40)), draw(st.sampled_from([0.0, 0.3, 0.5, 0.8])), draw(st.sampled_from([0, 2, 4]))
    )
    alive = draw(st.sets(st.sampled_from(peers)))
    arrived = draw(st.sets(st.sampled_from(sorted(alive)))) if alive else set()
    helping = arrived - (draw(st.sets(st.sampled_from(sorted(arrived)), max_size=2)) if arrived else set())
    return group, sorted(alive), sorted(arrived), sorted(helping)


def enough(group, alive, arrived, helping):
    """Whether every secret that is asked for has its shares."""
    asked = [*arrived, *(p for p in alive if p not in arrived and set(group.neighbours(p)) & set(arrived))]
    return all(len(set(group.helpers(peer)) & set(helping)) >= group.needed(len(group.helpers(peer))) for peer in asked)


@settings(deadline=None, max_examples=150)
@given(sums())
def test_the_sum_of_those_who_arrived_or_nothing(drawn):
    """Some never begin, some drop out before their message arrives, some before they help."""
    group, alive, arrived, helping = drawn
    deals = dealt(group, alive)
    said = messages(group, deals)
    if group.refuses(arrived) or not enough(group, alive, arrived, helping):
        with pytest.raises(CodecError, match="secure sum"):
            revealed(group, deals, said, arrived, helping)
        return
    plain = total({peer: values(peer) for peer in arrived}, arrived)
    assert same(revealed(group, deals, said, arrived, helping), plain)


@pytest.mark.parametrize("missing", [0, 1, 2, 3, 4])
def test_up_to_half_may_drop_out(missing):
    group = Group(tuple(range(10)), 3)
    deals = dealt(group, range(10))
    said, arrived = messages(group, deals), list(range(missing, 10))
    assert same(revealed(group, deals, said, arrived, arrived), total({p: values(p) for p in arrived}, arrived))


def test_below_the_threshold_nothing_is_answered():
    group = Group(tuple(range(6)), 0)
    deals = dealt(group, range(6))
    found = answers(group, deals, [1, 2, 3], [1, 2, 3])
    assert found == {1: {}, 2: {}, 3: {}}
    with pytest.raises(CodecError, match="3 of 6 senders arrived, 4 are needed"):
        roles.unmask(total(messages(group, deals), [1, 2, 3]), FIELDS, group, deals, found, [1, 2, 3])


def test_one_message_is_uniform_and_changes_entirely_with_the_keys():
    """The same zeros under many keys: chi-square on 16 cells, beyond 40 once in 2000 fair draws."""
    group, zeros = Group(tuple(range(4)), 0), {"w": np.zeros(8000, np.uint64), "facts": np.zeros(8000, np.uint64)}
    one, other = (roles.masked(zeros, FIELDS, 1, group, range(4), own(1, salt)) for salt in (0, 1))
    for name, field in FIELDS.items():
        counts = np.bincount((one[name] >> np.uint64(field.bits - 4)).astype(np.int64), minlength=16)
        assert ((counts - 500) ** 2 / 500).sum() < 40
        assert (one[name] == other[name]).mean() < 0.01
        assert abs(np.corrcoef(one[name].astype(float), other[name].astype(float))[0, 1]) < 0.06


def test_a_self_mask_is_left_when_all_pair_masks_are_known():
    """A receiver that calls a late message missing learns its pair masks, and still not the message."""
    group = Group(tuple(range(5)), 0)
    deals = dealt(group, range(5))
    said, arrived = messages(group, deals), [0, 2, 3, 4]
    with_late = dict(total({**said}, [1]))
    found = answers(group, deals, arrived, arrived)
    key = roles._recovered(1, group, found)
    masks = [(roles.seeds.covered(deals[1].box[v], key, v), -1 if v > 1 else 1) for v in group.neighbours(1)]
    bare = roles._masked(with_late, FIELDS, masks)
    assert (bare["w"] != values(1)["w"]).all()
    assert same(bare, roles._masked(values(1), FIELDS, [(roles._self(group, own(1)), 1)]))


def test_only_one_secret_of_a_peer_is_ever_given():
    group = Group(tuple(range(5)), 0)
    deals = dealt(group, range(5))
    gone = answers(group, deals, [0, 1, 2], [0, 1, 2])
    here = answers(group, deals, [0, 1, 2, 3, 4], [0, 1, 2])
    for peer in (0, 1, 2):
        assert set(gone[peer]) == set(here[peer]) == set(range(5))
        assert all(len(share) == shamir.SHARE for share in gone[peer].values())
        assert gone[peer][3] != here[peer][3]
        assert gone[peer][1] == here[peer][1]


def test_damaged_shares_are_left_out():
    group = Group(tuple(range(4)), 0)
    deals = dealt(group, range(4))
    said = messages(group, deals)
    deals[2] = roles.Deal(deals[2].box, {v: data[:-1] + bytes([data[-1] ^ 1]) for v, data in deals[2].sealed.items()})
    found = answers(group, deals, [0, 1, 2, 3], [0, 1, 2, 3])
    assert set(found[0]) == {0, 1, 3}
    with pytest.raises(CodecError, match="1 shares of a secret, 3 are needed"):
        roles.unmask(total(said, range(4)), FIELDS, group, deals, found, range(4))


def test_shares_that_lie_are_noticed_or_make_noise():
    group = Group(tuple(range(4)), 0)
    deals = dealt(group, range(4))
    said = messages(group, deals)
    found = answers(group, deals, range(4), range(4))
    found[0] = {peer: bytes(shamir.SHARE) for peer in found[0]}
    try:
        bare = roles.unmask(total(said, range(4)), FIELDS, group, deals, found, range(4))
    except CodecError:
        return
    assert not same(bare, total({p: values(p) for p in range(4)}, range(4)))
