import pytest
import torch
from torch import nn

from hubless import testing
from hubless.errors import MessageError
from hubless.learn import Model
from hubless.learn.context import Context, Inbox
from hubless.learn.kernels.loop import Loop
from hubless.learn.kernels.slope import Session
from hubless.learn.merges.foolsgold import cosines, foolsgold_weights
from hubless.learn.sybilwall import SybilWall

MODEL = Model(lambda: nn.Linear(3, 2), name="linear")
D = MODEL.size


def context(peer=0, t=1, to=None, key=0):
    return Context(t=t, N=9, model=MODEL, slope=Session(Loop(MODEL)), peer=peer, to=to, key=key, start=torch.zeros(D))


def vector(*places):
    w = torch.zeros(D)
    w[list(places)] = 1
    return w


def heard(said, book=None, own=None, t=1):
    """The row of peer 0 after hearing ``said``, messages by sender."""
    merge, own = SybilWall(), torch.zeros(D) if own is None else own
    inbox = Inbox(tuple(said), torch.ones(len(said)), list(said.values()))
    book = {} if book is None else book
    got = merge.join(inbox, own, {}, book, context(t=t))
    return merge.apply(own, {}, book, got, context(t=t))[0], book


def record(peer, history, round_=1, distance=1):
    return {"about": torch.tensor([peer, round_, distance]), "history": history}


def test_conformance():
    testing.check_merge(SybilWall())


def test_unlike_neighbours_count_as_much_as_oneself():
    w, book = heard({1: {"w": vector(0)}, 2: {"w": vector(1)}})
    assert torch.allclose(w, (vector(0) + vector(1)) / 3)
    assert {peer: one["distance"] for peer, one in book["sybilwall"]["records"].items()} == {1: 1, 2: 1}


def test_clones_among_neighbours_lose_their_weight():
    w, _ = heard({1: {"w": vector(0)}, 2: {"w": vector(1)}, 3: {"w": vector(1)}})
    assert torch.allclose(w, vector(0) / 2, atol=1e-6)


def test_a_clone_is_known_from_a_record_about_a_distant_peer():
    message = {"w": vector(0), **record(7, vector(1))}
    w, book = heard({1: message, 2: {"w": vector(1)}})
    assert torch.allclose(w, vector(0) / 2, atol=1e-6)
    assert book["sybilwall"]["records"][7]["distance"] == 2
    alone, _ = heard({1: {"w": vector(0)}, 2: {"w": vector(1)}})
    assert torch.allclose(alone, (vector(0) + vector(1)) / 3)


def test_weights_equal_those_of_foolsgold_over_all_histories():
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(5, D, generator=generator)
    said = {1: {"w": rows[0], **record(5, rows[3])}, 2: {"w": rows[1], **record(6, rows[4])}, 3: {"w": rows[2]}}
    w, _ = heard(said, own=rows[0] * 0.5)
    weights = foolsgold_weights(cosines((rows @ rows.T).double()))[:3].float()
    by_hand = (rows[0] * 0.5 + weights @ rows[:3]) / (1 + weights.sum())
    assert torch.allclose(w, by_hand, atol=1e-6)


def test_histories_are_counted_from_the_common_start():
    book = {"sybilwall": {"origin": torch.full((D,), 10.0)}}
    shifted, _ = heard({1: {"w": vector(0) + 10}, 2: {"w": vector(1) + 10}}, book, own=torch.full((D,), 10.0))
    assert torch.allclose(shifted, (vector(0) + vector(1)) / 3 + 10, atol=1e-5)


@pytest.mark.parametrize(
    ("peer", "round_", "distance"), [(0, 1, 1), (1, 1, 1), (9, 1, 1), (-1, 1, 1), (5, 1, 0), (5, 9, 1), (5, 0, 1)]
)
def test_records_that_nobody_may_send_are_ignored_and_counted(peer, round_, distance):
    _, book = heard({1: {"w": vector(0), **record(peer, vector(1), round_, distance)}})
    assert book["sybilwall"]["ignored"] == 1
    assert set(book["sybilwall"]["records"]) == {1}


def test_a_neighbours_own_word_and_newer_records_stay():
    book = heard({1: {"w": vector(0), **record(5, vector(2), 4)}}, t=5)[1]
    heard({1: {"w": vector(0), **record(5, vector(3), 3)}}, book, t=6)
    assert torch.equal(book["sybilwall"]["records"][5]["history"], vector(2))
    heard({1: {"w": vector(0), **record(5, vector(3), 6)}}, book, t=7)
    assert torch.equal(book["sybilwall"]["records"][5]["history"], vector(3))
    heard({1: {"w": vector(0), **record(2, vector(3), 7)}, 2: {"w": vector(1)}}, book, t=8)
    assert torch.equal(book["sybilwall"]["records"][2]["history"], vector(1))


def test_the_record_passed_on_is_not_of_the_receiver_nor_from_it_and_near_ones_are_likelier():
    known = {peer: {"round": 1, "distance": d, "from": f, "history": vector(0)} for peer, d, f in [
        (1, 1, -1), (2, 1, -1), (3, 2, 1), (4, 2, 2), (5, 4, 2)]}  # fmt: skip
    book = {"sybilwall": {"records": known}}
    drawn = []
    for key in range(600):
        m = SybilWall().message(torch.zeros(D), {}, book, context(to=1, key=key))
        drawn.append(int(m["about"][0]))
    count = [drawn.count(peer) for peer in range(6)]
    assert count[1] == count[3] == 0
    chances = torch.exp(-0.8 * torch.tensor([0.0, 1.0, 3.0]))
    expected = (chances / chances.sum() * 600).tolist()
    assert count[2] == pytest.approx(expected[0], abs=45)
    assert count[4] == pytest.approx(expected[1], abs=45)
    assert 0 < count[5] < count[4]
    assert "about" not in SybilWall(gossip=False).message(torch.zeros(D), {}, book, context(to=1))


def test_a_peer_without_neighbours_keeps_its_model():
    own = vector(2)
    assert torch.equal(heard({}, own=own)[0], own)
    assert torch.equal(heard({0: {"w": own}}, own=own)[0], own)


@pytest.mark.parametrize(
    "extra",
    [{"about": torch.tensor([1, 2, 3])}, {"about": torch.tensor([1]), "history": torch.zeros(D)},
     {"about": torch.tensor([1.0, 2.0, 3.0]), "history": torch.zeros(D)}, record(5, torch.zeros(3)),
     record(5, torch.full((D,), torch.nan))],
)  # fmt: skip
def test_malformed_records_are_refused(extra):
    with pytest.raises(MessageError):
        SybilWall().accept(1, {"w": vector(0), **extra}, context())
