"""Fork choice: the branch with the most work, whatever the order in which blocks come."""

from dataclasses import dataclass, field
from itertools import pairwise

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hubless.errors import LedgerError, UnknownParent
from hubless.ledger.block_tree import BlockTree
from hubless.ledger.suites import Hasher


@dataclass
class Grower:
    """Makes blocks on any block of its own tree."""

    tree: BlockTree = field(default_factory=lambda: BlockTree("t", Hasher()))
    count: int = 0

    def on(self, parent, bits=0):
        self.count += 1
        ids = (Hasher()(b"R", str(self.count).encode()),)
        header = self.tree.draft(parent, ids, float(self.count), bits, "me")
        move = self.tree.add(header, ids)
        return self.tree.nodes[header.digest(self.tree.hasher)], move


def test_the_branch_with_more_work_wins_over_a_longer_one():
    grower = Grower()
    genesis = grower.tree.head
    long = genesis
    for _ in range(5):
        long, _ = grower.on(long, bits=1)
    assert grower.tree.head is long
    hard, move = grower.on(genesis, bits=4)
    assert grower.tree.head is hard
    assert (hard.height, long.height) == (1, 5)
    assert [node.height for node in move.left] == [1, 2, 3, 4, 5]
    assert move.joined == [hard]


def test_of_two_equal_branches_the_first_stays():
    grower = Grower()
    genesis = grower.tree.head
    first, _ = grower.on(genesis)
    _, move = grower.on(genesis)
    assert move is None
    assert grower.tree.head is first


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 30), st.integers(0, 3)), min_size=1, max_size=25), st.randoms())
def test_all_orders_of_arrival_end_with_the_same_work_and_moves_add_up(shape, random):
    grower = Grower()
    nodes = [grower.tree.head]
    for parent, bits in shape:
        nodes.append(grower.on(nodes[parent % len(nodes)], bits)[0])
    best = max(node.work for node in nodes)
    assert grower.tree.head.work == best
    other = BlockTree("t", Hasher())
    chain = [other.head]
    waiting, missing = nodes[1:], []
    random.shuffle(waiting)
    while waiting:
        node = waiting.pop(0)
        try:
            move = other.add(node.header, node.ids)
        except UnknownParent as error:
            missing.append((error.parent, node.header.prev))
            waiting.append(node)
            continue
        if move:
            assert chain[len(chain) - len(move.left) :] == move.left
            chain = [*chain[: len(chain) - len(move.left)], *move.joined]
    assert other.head.work == best
    assert chain == other.chain
    assert all(child.parent is parent for parent, child in pairwise(chain))
    assert all(said == meant for said, meant in missing)


def test_a_block_that_does_not_fit_is_refused():
    grower = Grower()
    header = grower.tree.draft(grower.tree.head, (), 1.0, 0, "me")
    for wrong in (dict(height=2), dict(history=bytes(32)), dict(records=bytes(32))):
        with pytest.raises(LedgerError):
            grower.tree.add(msgspec.structs.replace(header, **wrong), ())
    with pytest.raises(UnknownParent, match="not here"):
        grower.tree.add(msgspec.structs.replace(header, prev=bytes(32)), ())
