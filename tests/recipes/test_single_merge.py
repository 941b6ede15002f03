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
