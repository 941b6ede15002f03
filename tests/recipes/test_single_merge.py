import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hubless import catalogue
from hubless.errors import ConfigError
from hubless.learn import Model
from hubless.learn.context import Batch, Context
from hubless.learn.merging import Settle
from hubless.recipes.learning.single_merge import _window

RECIPE = catalogue.find("single-merge").load()


def run(name="single-merge", **options):
    experiment = catalogue.find(name).load().build(options, "tiny")
    return list(experiment.records()), experiment.snapshot().tensors


def curve(metric, records):
    return [r.metrics[metric] for r in records if r.kind == "round"]


def test_a_tiny_run_is_the_same_twice_and_ends_in_one_model():
    first, second = run(seed=3)[0], run(seed=3)[0]
    assert [r.line() for r in first] == [r.line() for r in second]
    consensus = curve("consensus", first)
    assert consensus[2] > 1e-3
    assert consensus[3] < 1e-9


def test_mergeability_is_measured_on_a_copy():
    silent, lonely = run(rate=0.0, point=1.0), run("local-only", rounds=4, lr=0.05, partition="mixture:0.1")
    assert torch.equal(silent[1]["cohort.0/rows"], lonely[1]["cohort.0/rows"])
    gap = [b - a for a, b in zip(*(curve(m, silent[0]) for m in ("accuracy", "accuracy_mean_model")), strict=True)]
    assert curve("mergeability", silent[0]) == pytest.approx(gap)


def test_the_merge_gives_everyone_the_average():
    merged, lonely = (run(rate=0.0, point=point)[1]["cohort.0/rows"] for point in (0.75, 1.0))
    assert torch.allclose(merged, lonely.mean(0).expand_as(merged), atol=1e-6)


@pytest.mark.parametrize(
    ("options", "dense"),
    [
        (dict(point=1.0), []),
        (dict(point=0.75), [4]),
        (dict(point=0.5), [3, 4]),
        (dict(point=0.25, width=0.25), [2]),
        (dict(point=0.25, width=0.5), [2, 3]),
        (dict(point=0.01), [1, 2, 3, 4]),
    ],
)
def test_messages_are_counted_in_dense_rounds_only_when_nobody_pulls(options, dense):
    sent = [0.0, *curve("messages", run(rate=0.0, **options)[0])]
    assert [t for t in range(1, 5) if sent[t] > sent[t - 1]] == dense
    assert sent[-1] == 6 * 5 * len(dense)


def test_rounds_after_the_merge_train_nobody():
    records, _ = run(point=1.0, post_merge_rounds=2, dense="ring")
    assert curve("trained", records) == [6, 6, 6, 6, 0, 0]
    consensus = curve("consensus", records)
    assert consensus[5] < consensus[4] < consensus[3]


@given(st.integers(1, 400), st.floats(0.001, 1), st.floats(0, 0.999))
@settings(max_examples=200, deadline=None)
def test_windows_lie_within_the_rounds(rounds, point, width):
    if point + width > 1:
        return
    window = _window(rounds, point, width)
    if window is None:
        assert point * rounds > rounds - 1
    else:
        assert 1 <= window[0] <= window[1] <= rounds


@pytest.mark.parametrize(("reset", "gone"), [(True, True), (False, False)])
def test_momentum_starts_from_zero_when_the_window_closes(reset, gone):
    buffer = run(momentum=0.5, reset=reset)[1]["cohort.0/state/momentum"]
    assert bool((buffer == 0).all()) is gone


def test_statistics_become_those_of_the_data_and_the_same_everywhere():
    _, tensors = run(model="cnn-bn", calibration=40)
    for kind in ("running_mean", "running_var"):
        (found,) = (value for name, value in tensors.items() if name.endswith(kind))
        assert torch.allclose(found, found[:1].expand_as(found), atol=1e-6)
        assert not torch.allclose(found[0], torch.full_like(found[0], float(kind == "running_var")), atol=1e-3)


def test_recomputed_statistics_forget_how_they_began():
    model = Model(lambda: torch.nn.Sequential(torch.nn.BatchNorm1d(2), torch.nn.Linear(2, 2)))
    settle = Settle(steps=3)
    x = torch.randn(50, 2, generator=torch.Generator().manual_seed(0)) * 3 + 7

    class Forward:
        def grad(self, w, s, batch):
            mean, var = batch.x.mean(0), batch.x.var(0)
            moved = {"buffer/0.running_mean": mean, "buffer/0.running_var": var}
            return w, {**s, **{n: 0.9 * s[n] + 0.1 * v for n, v in moved.items()}}

    ctx = Context(t=1, N=1, model=model, slope=Forward(), steps=3)
    w = torch.zeros(model.size)
    s = settle.begin(w, {**model.state(), "momentum": torch.ones(model.size)}, ctx)
    for _ in range(3):
        w, s = settle.step(w, s, Batch(x, x), ctx)
    _, s = settle.end(w, s, ctx)
    assert torch.allclose(s["buffer/0.running_mean"], x.mean(0), atol=1e-4)
    assert torch.allclose(s["buffer/0.running_var"], x.var(0), atol=1e-4)
    assert not s["momentum"].any()


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"point": 0.0}, "single-merge.point"),
        ({"point": 1.5}, "single-merge.point"),
        ({"rate": 5.5}, "single-merge.rate"),
        ({"point": 0.9, "width": 0.2}, "single-merge.width"),
        ({"dense": "random-regular:7"}, "topology"),
        ({"calibration": 0}, "single-merge.calibration"),
    ],
)
def test_bad_options_are_refused_before_any_work(wrong, said):
    with pytest.raises(ConfigError, match=said):
        RECIPE.build(wrong, "tiny")


def test_an_all_reduce_ring_gives_the_exact_average_for_two_rows_a_peer():
    ring, gossip = run(final="all-reduce", rate=0.0), run(rate=0.0)
    assert torch.allclose(ring[1]["cohort.0/rows"], gossip[1]["cohort.0/rows"], atol=1e-6)
    full, cheap = (curve("bytes", records)[-1] for records in (gossip[0], ring[0]))
    assert 2 / 6 < cheap / full < 2 / 6 * 1.25  # 2 (n - 1) / n rows against n - 1, and a header a piece
    assert curve("messages", ring[0])[-1] == 6 * 2 * 5


def test_a_ring_closes_over_the_living_and_resets_momentum():
    records, tensors = run(final="all-reduce", rate=0.0, momentum=0.5, faults="crash:peer=2@4")
    living = [peer for peer in range(6) if peer != 2]
    rows = tensors["cohort.0/rows"][living]
    assert float((rows - rows.mean(0)).abs().max()) < 1e-6
    assert curve("messages", records)[-1] == 5 * 2 * 4
    assert not bool(tensors["cohort.0/state/momentum"][living].any())


def test_a_ring_that_loses_messages_leaves_means_of_peers():
    rows = run(final="all-reduce", rate=0.0, faults="loss:0.3")[1]["cohort.0/rows"]
    before = run(point=1.0, rate=0.0)[1]["cohort.0/rows"]
    assert bool((rows <= before.max(0).values + 1e-5).all())
    assert bool((rows >= before.min(0).values - 1e-5).all())
    assert float(rows.var(0).sum()) < float(before.var(0).sum())


@pytest.mark.parametrize(("tolerance", "least"), [(0.5, 1), (0.01, 4)])
def test_a_tolerance_asks_for_as_many_exchanges_as_the_spectral_gap_says(tolerance, least):
    records = run(dense="ring", tolerance=tolerance, rate=0.0)[0]
    sent = curve("messages", records)
    exchanges = (sent[3] - sent[2]) / 12
    lonely = curve("consensus", run(point=1.0, rate=0.0)[0])[3]
    assert exchanges >= least
    assert curve("consensus", records)[3] <= tolerance**2 * lonely * 1.001  # consensus is a squared distance


@pytest.mark.parametrize(
    "options",
    [dict(final="all-reduce", merge="median"), dict(final="all-reduce", attack="sign-flip:20%"),
     dict(final="all-reduce", model="cnn-bn"), dict(tolerance=0.5, dense="edges:missing.txt")],
)  # fmt: skip
def test_a_final_average_that_cannot_be_had_is_refused(options):
    with pytest.raises(ConfigError):
        RECIPE.build(options, "tiny")
