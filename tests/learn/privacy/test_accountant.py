"""Epsilon is what dp_accounting says of what really happened, for the peer worst off; a budget ends the run in time."""

import io
import math
import sys

import dp_accounting as dp
import numpy as np
import pytest
import torch
from dp_accounting import rdp
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console
from small import build, learning, metrics, workload

from hubless.errors import ConfigError
from hubless.learn import SAM, SGD, Adam, Hook, Rotating, Star
from hubless.learn.privacy import Accountant, PrivateSteps, Spending
from hubless.learn.privacy.dpsgd import _cost
from hubless.learn.privacy.mechanisms import gaussian, sampled
from hubless.learn.sampled import Sampled
from hubless.run.folder import RunFolder
from hubless.run.progress import Progress

REPLACE = dp.NeighboringRelation.REPLACE_ONE
PEERS, SIZE = 5, 39  # samples of the peer with the fewest; the others have one more


def by_hand(event, count, delta=1e-5):
    return rdp.RdpAccountant(neighboring_relation=REPLACE).compose(event, count).get_epsilon(delta)


def epsilons(run):
    return [found["epsilon"] for found in metrics(run)[:-1]]


def step(local):
    """The cost of DP-SGD with clip 1 and noise 3 for a local objective, by own samples."""
    private = learning(local=local, privacy="dp-sgd:1:3")
    return PrivateSteps(1.0, 3.0).protect(private).local["train"]


@pytest.mark.parametrize("alpha", [1.5, 2.0, 7.0, 64.0])
@pytest.mark.parametrize("noise", [0.5, 2.0, 10.0])
def test_a_gaussian_is_alpha_over_two_sigma_squared(alpha, noise):
    sigma = noise / 2  # in units of the sensitivity, which is twice the clip for a record that is replaced
    assert gaussian(noise)(alpha) == pytest.approx(alpha / (2 * sigma**2))
    assert gaussian(noise, 6)(alpha) == pytest.approx(6 * alpha / (2 * sigma**2))
    exact = rdp.RdpAccountant([alpha], REPLACE).compose(dp.GaussianDpEvent(sigma), 6).rdp[0]
    assert gaussian(noise, 6)(alpha) == pytest.approx(exact)
    assert gaussian(0.0)(alpha) == math.inf


def test_sampling_is_dp_accountings_and_never_dearer_than_none():
    event = dp.SampledWithoutReplacementDpEvent(400, 20, dp.GaussianDpEvent(1.5))
    orders = [2.0, 4.5, 16.0]
    exact = rdp.RdpAccountant(orders, REPLACE).compose(event, 7).rdp
    assert [sampled(400, 20, 3.0, 7)(alpha) for alpha in orders] == pytest.approx(list(exact))
    twice = dp.ComposedDpEvent([dp.GaussianDpEvent(1.5)] * 2)
    event = dp.SampledWithoutReplacementDpEvent(400, 20, twice)
    assert sampled(400, 20, 3.0, 7, 2)(4.0) == pytest.approx(rdp.RdpAccountant([4.0], REPLACE).compose(event, 7).rdp[0])
    assert sampled(400, 20, 3.0)(4.0) < 0.1 * gaussian(3.0)(4.0)
    for alpha in (1.5, 3.0, 20.0):
        assert sampled(5, 4, 0.3)(alpha) <= gaussian(0.3)(alpha)
    assert sampled(20, 20, 3.0)(4.0) == gaussian(3.0)(4.0)


COSTS = {
    "a sample of the data a step": (SGD(steps=4, batch=10), SIZE, sampled(SIZE, 10, 3.0, 4)),
    "a pass uses each sample once": (SGD(epochs=3, batch=10), SIZE, gaussian(3.0, 3)),
    "all data a step": (SGD(steps=4, batch=0), SIZE, gaussian(3.0, 4)),
    "all data a pass": (Adam(epochs=3, batch=0), SIZE, gaussian(3.0, 3)),
    "samples that fill the batch count again": (SGD(steps=4, batch=10), 4, gaussian(3.0 / 3, 4)),
    "a batch of all there is": (SGD(steps=4, batch=10), 10, gaussian(3.0, 4)),
    "two gradients a step": (SGD(steps=4, batch=10, gradient=SAM(0.1)), SIZE, sampled(SIZE, 10, 3.0, 4, 2)),
    "two gradients a pass": (SGD(epochs=3, batch=10, gradient=SAM(0.1)), SIZE, gaussian(3.0, 6)),
}


@pytest.mark.parametrize("how", COSTS)
def test_what_a_training_costs_follows_from_how_batches_are_drawn(how):
    local, size, expected = COSTS[how]
    assert _cost(step(local), size)(4.0) == pytest.approx(expected(4.0))


def test_epsilon_of_steps_is_dp_accountings_by_hand():
    run = build(local=SGD(lr=0.1, steps=4, batch=10), privacy="dp-sgd:1:3", rounds=3)
    event = dp.SampledWithoutReplacementDpEvent(SIZE, 10, dp.GaussianDpEvent(1.5))
    assert epsilons(run) == pytest.approx([by_hand(event, 4 * t) for t in (1, 2, 3)], rel=1e-9)


@pytest.mark.parametrize("delta", [1e-5, 1e-3])
def test_epsilon_of_passes_is_dp_accountings_by_hand(delta):
    run = build(local=SGD(lr=0.1, epochs=2, batch=16), privacy=f"dp-sgd:1:3:{delta}", rounds=3)
    assert epsilons(run) == pytest.approx([by_hand(dp.GaussianDpEvent(1.5), 2 * t, delta) for t in (1, 2, 3)], rel=1e-9)
    assert all(found["delta"] == delta for found in metrics(run)[:-1])


def test_the_peer_with_the_fewest_samples_is_worst_off():
    run = build(workload=workload(PEERS, "dirichlet:0.5"), local=SGD(lr=0.1, steps=2, batch=4), privacy="dp-sgd:1:3")
    least = int(run.shards.sizes.min())
    assert 4 < least < int(run.shards.sizes.max())
    event = dp.SampledWithoutReplacementDpEvent(least, 4, dp.GaussianDpEvent(1.5))
    assert epsilons(run)[-1] == pytest.approx(by_hand(event, 2 * 3))


class Watch(Hook):
    """Remembers who trained."""

    def __init__(self):
        self.trained = []

    def round(self, view):
        self.trained.append(view.trained.clone())
        return {}


@pytest.mark.parametrize("privacy", ["dp-sgd:1:3", "local:1:3", "central:1:3"])
@pytest.mark.parametrize("faults", ["", "crash:60%@3"])
def test_only_peers_that_train_pay(privacy, faults):
    watch = Watch()
    local = SGD(lr=0.1, epochs=1, batch=10)
    run = build(
        local=local, privacy=privacy, rounds=5, overlay=Rotating(2, "one"), hooks=(watch,), setting={"faults": faults}
    )
    found = epsilons(run)
    most = [int(torch.stack(watch.trained[:t]).sum(0).max()) for t in range(1, 6)]
    assert most[-1] < 5, "somebody trained every time; take another seed"
    assert found == pytest.approx([by_hand(dp.GaussianDpEvent(1.5), n) for n in most])


@given(
    sizes=st.lists(st.integers(0, 6), min_size=1, max_size=12),
    seed=st.integers(0, 99),
    roles=st.integers(1, 3),
)
@settings(max_examples=60, deadline=None)
def test_nobody_is_worse_off_than_the_worst(sizes, seed, roles):
    """The shortcut over peers that others dominate gives what looking at every peer gives."""

    def cost(role, size):
        return gaussian(1.0 + int(role) + size)

    accountant = Accountant(Spending("peer", cost))
    accountant._sizes = torch.tensor(sizes)
    source = torch.Generator().manual_seed(seed)
    spent = {str(role): torch.randint(0, 4, (len(sizes),), generator=source) for role in range(roles)}
    each = [0.0]
    for peer, size in enumerate(sizes):
        total = np.zeros(len(accountant.orders))
        for role, count in spent.items():
            total += int(count[peer]) * np.array([cost(role, size)(order) for order in accountant.orders])
        each.append(rdp.compute_epsilon(accountant.orders, total, 1e-5)[0])
    assert accountant.epsilon(spent) == pytest.approx(max(each))


def test_without_noise_no_epsilon_is_shown():
    records = list(build(privacy="dp-sgd:1:0").records())
    assert all("epsilon" not in record.metrics for record in records)
    assert [record.data["text"] for record in records if record.kind == "event"] == [
        "privacy: without noise, nothing is private"
    ]


@pytest.mark.parametrize(("privacy", "unit"), [("dp-sgd:1:1", "one training sample"), ("local:1:1", "a peer with all")])
def test_the_record_says_what_is_protected(privacy, unit):
    event = next(record for record in build(privacy=privacy).records() if record.kind == "event")
    assert event.round == 0
    assert event.data["level"] == "info"
    assert event.data["text"].startswith(f"privacy: epsilon is of {unit}")


GIVEN = dict(local=SGD(lr=0.1, steps=2, batch=10), rounds=6)


def test_a_budget_ends_the_run_before_it_is_exceeded():
    free = epsilons(build(privacy="dp-sgd:1:3", **GIVEN))
    budget = (free[2] + free[3]) / 2
    records = list(build(privacy=f"dp-sgd:1:3:budget={budget}", **GIVEN).records())
    assert [record.metrics["epsilon"] for record in records if record.kind == "round"] == free[:3]
    *_, event, end = records
    assert event.round == end.round == 3
    assert event.data["text"] == (
        f"the run ends: privacy: round 4 would bring epsilon to {free[3]:.3g}, above the budget of {budget:g}"
    )
    assert end.kind == "end"
    assert end.data["finished"]
    assert "accuracy" in end.metrics
    exact = list(build(privacy=f"dp-sgd:1:3:budget={free[2]!r}", **GIVEN).records())
    assert exact[-1].round == 3, "a budget may be spent in full"


def test_a_budget_that_the_first_round_exceeds_is_refused_before_any_work():
    with pytest.raises(ConfigError, match=r"privacy: round 1 would bring epsilon to .*, above the budget of 0.5"):
        build(privacy="dp-sgd:1:3:budget=0.5", **GIVEN)
    with pytest.raises(ConfigError, match="round 1 would bring epsilon to inf"):
        build(privacy="dp-sgd:1:0:budget=5", **GIVEN)


def test_the_round_that_was_not_run_leaves_no_trace():
    """MoDeST's plan names the next aggregators, whose models would be evaluated in place of the last ones'."""
    run = build(
        local=SGD(lr=0.3, epochs=1, batch=10), overlay=Sampled(3, 1), privacy="local:2:3:budget=9", rounds=9,
        setting={"seed": 1},
    )  # fmt: skip
    records = list(run.records())
    last, end = [record for record in records if record.kind == "round"][-1], records[-1]
    assert end.round == last.round < 9
    seen, final = last.peers["accuracy"], end.peers["accuracy"]
    assert sum(value is not None for value in seen) == 1, "one aggregator's model is what the round came to"
    assert final == [None if value is None else pytest.approx(value) for value in seen]


def test_a_plan_that_asks_few_peers_costs_only_them():
    """With a budget for two trainings of a peer, a star of one participant goes on until one is drawn a third time."""
    given = dict(local=SGD(lr=0.1, epochs=1, batch=10), overlay=Star(1), rounds=12)
    twice = by_hand(dp.GaussianDpEvent(1.5), 2) + 1e-6
    records = list(build(privacy=f"dp-sgd:1:3:budget={twice}", **given).records())
    assert 2 < records[-1].round < 12
    assert records[-3].metrics["epsilon"] <= twice


@pytest.mark.parametrize("privacy", ["dp-sgd:1:3:budget=4.5", "local:1:3:budget=7", "central:1:3:budget=7"])
@pytest.mark.parametrize("after", [1, 2, 3])
def test_a_resumed_run_is_the_uninterrupted_one(privacy, after):
    given = dict(GIVEN, privacy=privacy, overlay=Star(3, "one"))
    whole, stopped = build(**given), build(**given)
    lines = [record.line() for record in whole.records()]
    kept = []
    for record in stopped.records():
        kept.append(record.line())
        if record.kind == "round" and record.round == after:
            snapshot = stopped.snapshot()
            break
    assert kept + [record.line() for record in build(**given).records(snapshot)] == lines
    assert 3 <= whole.snapshot().round < 6, "the budget should end it"
    again = [record.line() for record in whole.records()]
    assert again == lines, "a second run of the same object starts afresh"


def test_the_folder_of_a_run_that_spent_its_budget_is_finished_and_says_so(tmp_path):
    from hubless.catalogue import find
    from hubless.run.runner import run_recipe

    options = dict(peers=5, data="digits", samples=300, model="softmax", partition="iid", rounds=9, evaluate=2)
    options["privacy"] = "local:1:3:budget=9"
    screen = io.StringIO()
    folder = run_recipe(find("dsgd").load(), options, out=tmp_path / "run", sinks=[Progress(Console(file=screen))])
    assert isinstance(folder, RunFolder)
    assert folder.finished
    assert folder.exit_code == 0
    assert 0 < folder.last_round < 9
    page = folder.report.read_text(encoding="utf-8")
    assert "epsilon 5" in screen.getvalue()
    assert "the run ends: privacy: round" in screen.getvalue()
    for word in ("above the budget of 9", "Epsilon", "at delta = 1e-05"):
        assert word in page


@pytest.mark.parametrize(
    "text", ["dp-sgd:1:1:delta=0", "dp-sgd:1:1:delta=1", "local:1:1:delta=2", "central:1:1:delta=-1"]
)
def test_a_delta_that_means_nothing_is_refused(text):
    with pytest.raises(ConfigError, match=r"privacy.delta = .*: must be in \(0, 1\)"):
        build(privacy=text, overlay=Star(0, "one"))


def test_values_that_mean_nothing_are_refused():
    with pytest.raises(ConfigError, match=r"privacy.budget = -1: must not be negative"):
        build(privacy="local:1:1:budget=-1")
    for text in ("local:0:1", "dp-sgd:inf:1", "central:-2:1"):
        with pytest.raises(ConfigError, match=r"privacy.clip = .*: must be positive"):
            build(privacy=text, overlay=Star(0, "one"))
    with pytest.raises(ConfigError, match=r"privacy.noise = -1: must not be negative"):
        build(privacy="local:1:-1")
    with pytest.raises(ConfigError, match=r"it takes clip:noise:delta=1e-05:budget=0.0"):
        build(privacy="local:1")


@pytest.mark.parametrize("privacy", ["dp-sgd:1:1", "local:1:1", "central:1:1"])
def test_a_missing_package_is_named(monkeypatch, privacy):
    monkeypatch.setitem(sys.modules, "dp_accounting", None)
    with pytest.raises(ConfigError, match=r"pip install 'hubless\[privacy\]'"):
        build(privacy=privacy, overlay=Star(0, "one"))
