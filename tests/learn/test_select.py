import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from hubless.errors import ConfigError
from hubless.learn import Model
from hubless.learn.context import Context, Inbox
from hubless.learn.kernels.loop import Loop
from hubless.learn.kernels.slope import Session
from hubless.learn.select import RECENT, DistancePrioritiser

MODEL = Model(lambda: nn.Linear(3, 2), name="linear")
D = MODEL.size


def context(key=0):
    return Context(t=1, N=99, model=MODEL, slope=Session(Loop(MODEL)), key=key)


def inbox(distances, order=None):
    """Models at such distances from zero; the sender's id is the place in the list, plus one."""
    rows = [torch.zeros(D).index_fill(0, torch.tensor([i % D]), d) for i, d in enumerate(distances)]
    order = range(len(rows)) if order is None else order
    return Inbox(tuple(i + 1 for i in order), torch.ones(len(rows)), [{"w": rows[i]} for i in order])


def choose(part, distances, *, key=0, book=None, order=None):
    got = part(inbox(distances, order), torch.zeros(D), {} if book is None else book, context(key))
    assert [m["w"].norm().item() for m in got.messages] == pytest.approx([distances[i - 1] for i in got.ids])
    assert len(got.weights) == len(got.ids)
    return got.ids


@given(st.permutations(range(1, 13)), st.integers(0, 13), st.integers(1, 5), st.integers(0, 9))
def test_the_nearest_and_some_others(distances, alpha, beta, key):
    part = DistancePrioritiser(alpha, beta, least=0)
    ids = choose(part, [float(d) for d in distances], key=key)
    assert list(ids) == sorted(ids)
    assert len(ids) == min(len(distances), alpha + beta)
    assert {distances[i - 1] for i in ids} >= set(range(1, min(alpha, 12) + 1))
    backwards = choose(part, [float(d) for d in distances], key=key, order=list(reversed(range(12))))
    assert backwards == ids


def test_exploration_is_random_and_leaves_nobody_out():
    part = DistancePrioritiser(2, 1)
    drawn = [choose(part, [1.0, 2.0, 3.0, 4.0, 5.0], key=key)[-1] for key in range(200)]
    assert set(drawn) == {3, 4, 5}
    assert min(drawn.count(i) for i in (3, 4, 5)) > 40


def test_older_models_take_places_but_are_never_chosen():
    part, book = DistancePrioritiser(2, 0, least=4), {}
    assert choose(part, [1.0, 5.0, 6.0], book=book) == (1, 2)
    assert choose(part, [4.0, 7.0], book=book) == (1,), "with 5 and 6 the nearest two are 4 and 5"
    assert choose(part, [9.0, 8.0], book=book) == ()
    assert choose(part, [9.0, 8.0, 7.0, 6.0], book=book) == (3, 4), "enough new ones: no older one is ranked"


def test_the_latest_are_remembered():
    part, book = DistancePrioritiser(1, 0, least=3), {}
    for distances in ([1.0, 2.0], [3.0, 4.0]):
        choose(part, distances, book=book)
    assert book[RECENT].norm(dim=1).tolist() == [2, 3, 4]
    generous = {}
    assert choose(DistancePrioritiser(), [1.0, 2.0], book=generous) == (1, 2)
    assert generous == {}, "where all are near anyway nothing is kept"


def test_an_empty_inbox_stays_empty():
    assert DistancePrioritiser(1, 1)(Inbox((), torch.zeros(0), []), torch.zeros(D), {}, context()).ids == ()


@pytest.mark.parametrize(("values", "words"), [((-1, 2), "merge.alpha = -1"), ((1, -2), "merge.beta = -2"),
                                               ((0, 0), "merge.alpha = 0: with beta = 0")])  # fmt: skip
def test_bad_values(values, words):
    with pytest.raises(ConfigError, match=words):
        DistancePrioritiser(*values)
