"""Two nodes agree on the secret of a pair of their peers; nobody else has it, and no two steps have the same."""

import pytest

from hubless.errors import CodecError
from hubless.learn.node.agreed import Agreed
from hubless.net.identity import Identity

IDENTITIES = [Identity.derived(4, i) for i in range(3)]
KEYS = {i: one.peer_id for i, one in enumerate(IDENTITIES)} | {3: IDENTITIES[2].peer_id}


def agreed(i, start=b"start", session=b"session", keys=None):
    return Agreed(IDENTITIES[i], KEYS if keys is None else keys, start, session)


def test_both_ends_have_the_same_secret():
    assert agreed(0).pair(0, 1, 5, 2) == agreed(1).pair(1, 0, 5, 2) > 1 << 128
    assert agreed(0).pair(0, 2, 1, 1) == agreed(2).pair(2, 0, 1, 1) != agreed(0).pair(0, 3, 1, 1)
    assert agreed(2).pair(2, 3, 1, 1) == agreed(2).pair(3, 2, 1, 1), "one process may hold both"


def test_no_two_secrets_are_alike():
    found = [agreed(0).pair(0, other, t, k) for other in (1, 2, 3) for t in (1, 2) for k in (0, 1)]
    found += [agreed(0, session=b"another").pair(0, 1, 1, 0), agreed(1).pair(1, 2, 1, 0)]
    found += [agreed(i).own(peer, t, k) for i, peer in ((0, 0), (1, 1), (2, 2), (2, 3)) for t in (1, 2) for k in (0, 1)]
    found += [agreed(0, start=b"again").own(0, 1, 0)]
    assert len(set(found)) == len(found)


@pytest.mark.parametrize("pair", [(1, 2), (0, 7)])
def test_there_is_none_with_who_is_not_known_or_not_held(pair):
    with pytest.raises(CodecError, match="agreed on no key"):
        agreed(0).pair(*pair, 1, 1)


def test_a_key_that_is_none_is_refused():
    with pytest.raises(CodecError):
        agreed(0, keys={**KEYS, 1: "00" * 32}).pair(0, 1, 1, 1)
