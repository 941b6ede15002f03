"""Merkle trees: proofs lead to the root from every leaf, and from no other."""

import hashlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hubless.errors import ProofError
from hubless.ledger import merkle
from hubless.ledger.merkle import Frontier, Log
from hubless.ledger.proofs import Step, climb
from hubless.ledger.suites import HASHES, Hasher


def leaves(count):
    return [hashlib.sha256(str(i).encode()).digest() for i in range(count)]


@settings(deadline=None)
@given(st.integers(1, 70), st.data(), st.sampled_from(sorted(HASHES)))
def test_every_leaf_leads_to_the_root_of_every_size(count, data, suite):
    hasher = Hasher(suite)
    log = Log(hasher, leaves(count))
    size = data.draw(st.integers(1, count))
    i = data.draw(st.integers(0, size - 1))
    steps = log.path(i, size)
    assert climb(hasher, log.leaves[i], steps) == log.root(size)
    assert len(steps) <= size.bit_length()
    other = data.draw(st.integers(0, count - 1))
    if other != i:
        assert climb(hasher, log.leaves[other], steps) != log.root(size)
    if steps:
        k = data.draw(st.integers(0, len(steps) - 1))
        wrong = [*steps]
        wrong[k] = Step("N", steps[k].after, steps[k].before)
        assert climb(hasher, log.leaves[i], wrong) != log.root(size)


@given(st.integers(0, 100))
def test_a_frontier_has_the_root_of_the_whole_log(count):
    hasher = Hasher()
    frontier = Frontier()
    for leaf in leaves(count):
        frontier = frontier.append(hasher, leaf)
    assert frontier.size == count
    assert len(frontier.peaks) == count.bit_count()
    assert frontier.root(hasher) == merkle.root(hasher, leaves(count))


def test_the_shape_is_that_of_rfc_6962():
    hasher = Hasher()
    a, b, c = leaves(3)
    assert merkle.root(hasher, [a, b, c]) == hasher(b"N", hasher(b"N", a, b), c)
    assert merkle.root(hasher, [a]) == a
    with pytest.raises(IndexError):
        Log(hasher, [a, b]).path(2)


@pytest.mark.parametrize("step", [Step("N", b"", b""), Step("N", b"x" * 31, b""), Step("?", b"x" * 32, b"")])
def test_a_step_without_the_parts_of_its_kind_is_refused(step):
    with pytest.raises(ProofError):
        climb(Hasher(), bytes(32), [step])
