import pytest
import torch
from boxes import D, close, joined, normal
from hypothesis import given, settings
from hypothesis import strategies as st

from hubless.errors import ConfigError
from hubless.learn.merges import CentredClip, ClippedGossip, NormClip
from hubless.parts import make

seeds = st.integers(0, 9999)
few = settings(max_examples=25, deadline=None)


def clip(x, radius):
    return x * min(1.0, radius / max(float(x.norm()), 1e-30))


@few
@given(st.integers(1, 8), st.floats(0.1, 10), seeds)
def test_norm_clipping_is_the_mean_of_clipped_updates(count, norm, seed):
    rows, start, weights = normal(seed, count, D), normal(seed + 1, D), normal(seed + 2, count).abs() + 0.1
    share = weights / weights.sum()
    wanted = sum(w * clip(row - start, norm) for w, row in zip(share, rows, strict=True))
    close(joined(NormClip(norm), rows, weights, start=start), start + wanted)
    deltas = sum(w * clip(row, norm) for w, row in zip(share, rows, strict=True))
    close(joined(NormClip(norm), rows, weights, start=start, kind="delta"), deltas)


def test_the_median_norm_is_that_of_a_message():
    rows = torch.diag(torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0]))
    rows = torch.cat([rows, torch.zeros(5, D - 5)], dim=1)
    close(joined(NormClip(), rows)[:5], torch.tensor([1.0, 2.0, 3.0, 3.0, 3.0]) / 5)
    close(joined(NormClip(), rows[:4])[:4], torch.tensor([1.0, 2.0, 2.0, 2.0]) / 4)


@few
@given(st.integers(1, 6), st.integers(1, 4), st.floats(0.3, 10), seeds)
def test_centred_clipping_goes_on_from_the_previous_answer(count, steps, radius, seed):
    book, v = {}, torch.zeros(D)
    for t in range(3):
        rows = normal(seed + t, count, D)
        for _ in range(steps):
            v = v + sum(clip(row - v, radius) for row in rows) / count
        close(joined(CentredClip(radius, steps), rows, book=book, kind="delta"), v)
    start = normal(seed + 9, D)
    v = start
    for _ in range(steps):
        v = v + sum(clip(row - v, radius) for row in rows) / count
    close(joined(CentredClip(radius, steps), rows, book=book, start=start), v)


def test_models_leave_no_memory():
    book = {}
    joined(CentredClip(), normal(0, 4, D), book=book)
    assert book == {}


@few
@given(st.integers(2, 8), st.floats(0.1, 10), seeds)
def test_clipped_gossip_goes_from_ones_own_towards_each(count, radius, seed):
    rows, weights = normal(seed, count, D), normal(seed + 1, count).abs() + 0.1
    share = weights / weights.sum()
    wanted = rows[0] + sum(w * clip(row - rows[0], radius) for w, row in zip(share[1:], rows[1:], strict=True))
    close(joined(ClippedGossip(radius), rows, weights, start=normal(seed + 2, D)), wanted)
    close(joined(ClippedGossip(radius), rows, weights, kind="delta"), wanted)


@pytest.mark.parametrize(
    ("reduce", "neighbours", "rank"),
    [
        (ClippedGossip(), 1, 1), (ClippedGossip(), 2, 1), (ClippedGossip(), 3, 2), (ClippedGossip(), 4, 2),
        (ClippedGossip(), 7, 4), (ClippedGossip(f=1), 7, 6), (ClippedGossip(f=0), 4, 4), (ClippedGossip(f=9), 4, 1),
    ],
)  # fmt: skip
def test_the_radius_that_hostile_neighbours_cannot_set(reduce, neighbours, rank):
    """For two and three neighbours it is that of the official code: the second largest distance."""
    distances = torch.arange(neighbours + 1.0)
    assert float(reduce.within(distances[torch.randperm(len(distances))])) == rank


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("norm-clip:0", "merge.radius = 0: must be above 0"), ("centred-clip:-1", "merge.radius = -1"),
        ("centred-clip:1:0", "merge.steps = 0"), ("clipped-gossip:f=-1", "merge.f = -1"),
    ],
)  # fmt: skip
def test_numbers_without_sense(text, message):
    with pytest.raises(ConfigError, match=message):
        make("merge", text)


def test_somebody_honest_must_set_the_radius():
    with pytest.raises(ConfigError, match=r"merge\.f = 3: a peer that hears from 3 others can take fewer"):
        make("merge", "clipped-gossip:f=3").reduce.check(4)
    make("merge", "clipped-gossip:f=3").reduce.check(5)
    make("merge", "clipped-gossip:1:3").reduce.check(4)
