"""What every robust merge keeps, whatever it is."""

import math

import pytest
import torch
from boxes import MEAN, STATE, D, close, context, inbox, joined, normal
from hypothesis import given, settings
from hypothesis import strategies as st

from hubless.learn.merges import (
    CentredClip,
    ClippedGossip,
    Flame,
    FoolsGold,
    GeometricMedian,
    Krum,
    Median,
    MultiKrum,
    NormClip,
    TrimmedMean,
)

ROBUST = [
    Krum(), Krum(1), MultiKrum(), MultiKrum(1, 3), GeometricMedian(), NormClip(), NormClip(0.7), CentredClip(),
    CentredClip(0.7, 2), ClippedGossip(), ClippedGossip(0.7), ClippedGossip(f=1), Flame(0.0), Median(),
    TrimmedMean(0.4),
]  # fmt: skip
EVERY = [*ROBUST, FoolsGold(), Flame(0.01)]
many = pytest.mark.parametrize("reduce", EVERY, ids=str)
few = settings(max_examples=15, deadline=None)
seeds = st.integers(0, 10_000)


@many
@few
@given(st.integers(1, 9), seeds)
def test_the_order_of_the_inbox_does_not_matter(reduce, count, seed):
    rows, weights = normal(seed, count, D), normal(seed + 1, count).abs() + 0.1
    order = torch.randperm(count, generator=torch.Generator().manual_seed(seed))
    one = joined(reduce, rows, weights)
    other = joined(reduce, rows[order], weights[order], ids=tuple(order.tolist()))
    close(one, other)


@many
@few
@given(st.integers(1, 9), seeds)
def test_moving_everything_moves_the_answer(reduce, count, seed):
    rows, start, by = normal(seed, count, D), normal(seed + 1, D), 3 * normal(seed + 2, D)
    close(joined(reduce, rows + by, start=start + by), joined(reduce, rows, start=start) + by, within=1e-4)


@many
@few
@given(seeds, st.floats(0.01, 100))
def test_only_ratios_of_weights_matter(reduce, seed, factor):
    rows, weights = normal(seed, 6, D), normal(seed + 1, 6).abs() + 0.1
    close(joined(reduce, rows, weights), joined(reduce, rows, factor * weights))


@many
@pytest.mark.parametrize("kind", ["model", "delta", "predictions"])
@pytest.mark.parametrize("count", [1, 2, 3, 8])
def test_those_who_agree_are_believed(reduce, kind, count):
    """Wherever the round began, up to FLAME's noise; a fixed radius holds them back, and FoolsGold knows clones."""
    if getattr(reduce, "radius", None):
        return
    rows = normal(0, D).expand(count, D)
    within = 0.2 if getattr(reduce, "noise", 0) else 1e-4
    wanted = rows[0]
    if type(reduce) is CentredClip and kind != "model":
        within = 1e-4
    close(joined(reduce, rows, kind=kind, start=normal(1, D)), wanted, within)


@st.composite
def attacks(draw):
    """Honest messages around a point, and hostile ones, fewer than half, wherever they want to be."""
    honest = draw(st.integers(5, 9))
    hostile = draw(st.integers(1, (honest - 3 + 1) // 2))
    seed = draw(seeds)
    centre = normal(seed, D)
    good = centre + torch.nn.functional.normalize(normal(seed + 1, honest, D), dim=1)
    scale = draw(st.sampled_from([0.5, 3.0, 1e3, 1e8, 1e30]))
    kind = draw(st.sampled_from(["spread", "together", "mirrored", "copies"]))
    bad = {
        "spread": centre + scale * normal(seed + 2, hostile, D),
        "together": centre + scale * normal(seed + 2, 1, D).expand(hostile, D),
        "mirrored": (centre - scale * (good.mean(0) - centre)).expand(hostile, D),
        "copies": good[1] + 1e-3 * normal(seed + 2, hostile, D),
    }[kind]
    return centre, good, bad


@pytest.mark.parametrize("reduce", ROBUST, ids=str)
@settings(few, max_examples=30)
@given(attacks())
def test_a_minority_cannot_carry_the_answer_away(reduce, attack):
    """Honest messages are within 1 of the centre, where the round began; the bounds hold for any others."""
    centre, good, bad = attack
    n, f = len(good) + len(bad), len(bad)
    if isinstance(reduce, Krum) and reduce.f is not None and reduce.f < f:
        return
    if isinstance(reduce, ClippedGossip) and reduce.radius is None and reduce.f is not None and reduce.f < f:
        return
    answer = joined(reduce, torch.cat([good, bad]), start=centre)
    away = float((answer - centre).norm())
    taken = reduce.hostile(n) if isinstance(reduce, Krum) else f
    bound = {
        Krum: 1 + 2 * math.sqrt(n - taken - 2),
        MultiKrum: 1 + 2 * math.sqrt(n - taken - 2),
        GeometricMedian: 2 + 4 * len(good) / (len(good) - f),
        NormClip: 1,
        Flame: 1,
        CentredClip: 7,
        ClippedGossip: 3,
        Median: math.sqrt(D),
        TrimmedMean: math.sqrt(D),
    }[type(reduce)]
    assert away <= bound * (1 + 1e-5), f"{away:.3g} from the honest centre"


@pytest.mark.parametrize("reduce", EVERY, ids=str)
def test_mapped_inboxes_with_statistics_give_what_single_ones_give(reduce):
    if not reduce.vectorised:
        return
    rows, start, weights = normal(0, 4, 5, D), normal(1, 4, D), normal(2, 4, 5).abs() + 0.1
    statistics = normal(3, 4, 5, 2)
    boxes = [inbox(rows[i], weights[i], statistics=statistics[i]) for i in range(4)]
    looped = [reduce(box, rows[i, 0], STATE, {}, context(start=start[i])) for i, box in enumerate(boxes)]
    stacked = {name: torch.stack([box.stack(name) for box in boxes]) for name in boxes[0].names}
    box_of = type(boxes[0])
    mapped = torch.vmap(lambda m, v, w, at: reduce(box_of((), v, m), w, STATE, {}, context(start=at)))(
        stacked, weights, rows[:, 0], start
    )
    for i, one in enumerate(looped):
        assert list(one) == [*mapped]
        assert MEAN in one
        for name, value in one.items():
            close(mapped[name][i], value)


@many
def test_what_comes_down_is_taken_as_it_is(reduce):
    if isinstance(reduce, (Median, TrimmedMean)):
        return
    rows, book = normal(0, 1, D), {}
    assert joined(reduce, rows, phase="down", ids=(7,), book=book).tolist() == rows[0].tolist()
    assert book == {}
