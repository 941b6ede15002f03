import pytest
import torch
from boxes import MEAN, STATE, D, close, context, inbox, message, normal
from hypothesis import given, settings
from hypothesis import strategies as st

from hubless.learn.context import Inbox
from hubless.learn.merges import Points, points


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 7), st.integers(1, 50), st.integers(0, 99))
def test_distances_and_combinations_are_those_of_whole_rows(count, chunk, seed):
    rows, centre, shares = normal(seed, count, D), normal(seed + 1, D), normal(seed + 2, count).double()
    before = points.CHUNK
    points.CHUNK = chunk
    try:
        these = Points(inbox(rows), message(centre))
        seen = (rows - centre).double()
        close(these.squares, seen.square().sum(1))
        close(these.gram, seen @ seen.T)
        close(these.apart, torch.cdist(seen, seen).square())
        close(these.away(shares), (seen - shares @ seen).norm(dim=1))
        got = these.combined(shares)
    finally:
        points.CHUNK = before
    close(torch.cat([got["trunk"], got["head"]]), (centre + shares @ seen).float())


def test_small_differences_far_from_zero_survive():
    rows = 100 + 0.001 * normal(0, 6, D)
    exact = torch.cdist(rows.double(), rows.double()).square()
    near = Points(inbox(rows), message(rows[0])).apart
    assert float((near - exact).abs().max() / exact.max()) < 1e-9


def test_the_largest_numbers_do_not_overflow():
    rows = torch.stack([torch.full((D,), value) for value in (3e38, -3e38, 1.0)])
    these = Points(inbox(rows), message(-rows[0]))
    assert torch.isfinite(these.apart).all()
    picked = these.combined(torch.tensor([0.0, 0.0, 1.0], dtype=torch.float64))
    assert picked["head"].tolist() == rows[2][: len(picked["head"])].tolist()


def test_statistics_are_no_coordinates_and_follow_as_a_median():
    rows, wild = normal(0, 5, D), torch.tensor([[1.0, 1.0], [2.0, 9.0], [3.0, 3.0], [1e30, -1e30], [5.0, 5.0]])
    these = Points(inbox(rows, statistics=wild), {}, frozenset([MEAN]))
    close(these.squares, rows.double().square().sum(1))
    one = torch.eye(5, dtype=torch.float64)
    assert these.combined(one[3])[MEAN].tolist() == wild[3].tolist()
    assert these.combined((one[0] + one[1]) / 2)[MEAN].tolist() == [1.5, 5.0]
    assert these.combined(torch.full((5,), 0.1, dtype=torch.float64))[MEAN].tolist() == [3.0, 3.0]
    assert these.combined(0 * one[0])[MEAN].tolist() == [3.0, 3.0], "nobody has a share"


def test_names_that_some_sent_are_combined_over_those():
    rows = normal(0, 3, D)
    said = [message(row) for row in rows]
    del said[1]["head"]
    these = Points(Inbox((0, 1, 2), torch.ones(3), said), {})
    assert these.names == ["trunk"]
    third = torch.full((3,), 1 / 3, dtype=torch.float64)
    close(these.combined(third)["head"], (said[0]["head"] + said[2]["head"]) / 2)
    assert "head" not in these.combined(torch.tensor([0.0, 1.0, 0.0], dtype=torch.float64))


def test_messages_with_no_name_in_common_are_all_alike():
    said = [{"trunk": torch.ones(3)}, {"head": torch.ones(2)}]
    these = Points(Inbox((0, 1), torch.ones(2), said), {})
    assert these.squares.tolist() == [0, 0]
    assert these.apart.tolist() == [[0, 0], [0, 0]]
    assert set(these.combined(these.weights)) == {"trunk", "head"}


@pytest.mark.parametrize("ids", [(0, 1), (3, 4)])
def test_the_centre_is_the_receivers_own_message_or_its_row(ids):
    rows, w = normal(0, 2, D), normal(1, D)
    own = points.own(inbox(rows, ids=ids), w, STATE, context())
    assert own["head"].tolist() == message(rows[0] if 0 in ids else w)["head"].tolist()
    other = points.own(inbox(rows, ids=ids), w, STATE, context(kind="delta"))
    assert bool(other) == (0 in ids)


def test_a_round_begins_where_models_began_and_deltas_at_zero():
    start = normal(0, D)
    assert points.began(STATE, context(start=start))["trunk"].tolist() == message(start)["trunk"].tolist()
    assert points.began(STATE, context(start=start, kind="delta")) == {}
