import pytest
import torch
from boxes import D, close, joined, normal
from hypothesis import given, settings
from hypothesis import strategies as st

from hubless.errors import ConfigError
from hubless.learn.merges import Krum, MultiKrum
from hubless.parts import make


def reference(rows, f, m):
    """The source, word for word: a score a message, pair by pair."""
    scores = []
    for i in range(len(rows)):
        others = sorted(float((rows[i] - rows[j]).double().square().sum()) for j in range(len(rows)) if j != i)
        scores.append(sum(others[: len(rows) - f - 2]))
    best = sorted(range(len(rows)), key=lambda i: scores[i])[:m]
    return torch.stack([rows[i] for i in best]).mean(0)


@st.composite
def inboxes(draw):
    f = draw(st.integers(0, 3))
    count = draw(st.integers(2 * f + 4, 13))  # of 2 f + 3 = 3 messages two have the same score
    return normal(draw(st.integers(0, 9999)), count, D), f


@settings(max_examples=40, deadline=None)
@given(inboxes())
def test_the_message_of_the_source(box):
    rows, f = box
    assert joined(Krum(f), rows).tolist() == reference(rows, f, 1).tolist()


@settings(max_examples=40, deadline=None)
@given(inboxes(), st.integers(1, 4))
def test_the_mean_of_the_source(box, m):
    rows, f = box
    close(joined(MultiKrum(f, m), rows), reference(rows, f, m))
    close(joined(MultiKrum(f), rows), reference(rows, f, len(rows) - f))


def test_by_default_as_many_are_hostile_as_can_be_borne():
    for count in range(4, 12):
        rows = normal(count, count, D)
        assert joined(Krum(), rows).tolist() == reference(rows, (count - 3) // 2, 1).tolist()


def test_among_equals_ones_own_is_taken():
    """Of three messages the closest pair has the same score; of two, both."""
    near, far = torch.zeros(D), torch.full((D,), 9.0)
    other = near + 0.1
    assert joined(Krum(), torch.stack([near, other, far])).tolist() == near.tolist()
    assert joined(Krum(), torch.stack([other, near, far])).tolist() == other.tolist()
    assert joined(Krum(), torch.stack([far, near])).tolist() == far.tolist()
    assert joined(Krum(), torch.stack([near, far]), ids=(1, 0)).tolist() == far.tolist()


@pytest.mark.parametrize("count", [1, 2, 3, 4, 6])
@pytest.mark.parametrize(
    ("reduce", "fitting"), [(Krum(4), Krum()), (MultiKrum(4), MultiKrum()), (MultiKrum(4, 9), MultiKrum())]
)
def test_an_inbox_that_losses_left_too_small_is_taken_with_the_most_it_allows(reduce, fitting, count):
    rows = normal(0, count, D)
    assert joined(reduce, rows).tolist() == joined(fitting, rows).tolist()


@pytest.mark.parametrize(
    ("text", "size", "message"),
    [
        ("krum:2", 6, r"merge.f = 2: Krum needs inboxes of 2 f \+ 3 = 7 messages or more.* one has 6"),
        ("multi-krum:1:4", 4, "merge.f = 1: Krum needs"),
        ("multi-krum:2:7", 8, "merge.m = 7: of an inbox of 8 messages, 2 of them taken to be hostile, at most 6"),
        ("multi-krum:m=5", 5, "merge.m = 5: of an inbox of 5 messages, 1 of them"),
    ],
)
def test_what_can_never_work_is_refused(text, size, message):
    with pytest.raises(ConfigError, match=message):
        make("merge", text).reduce.check(size)
    make("merge", text).reduce.check(20)


@pytest.mark.parametrize(("text", "message"), [("krum:-1", "merge.f = -1"), ("multi-krum:1:0", "merge.m = 0")])
def test_numbers_without_sense(text, message):
    with pytest.raises(ConfigError, match=message):
        make("merge", text)
