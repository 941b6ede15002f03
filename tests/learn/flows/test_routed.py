import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import hubless.testing as testing
from hubless.data.dataset import Dataset
from hubless.errors import ConfigError
from hubless.learn.context import Inbox
from hubless.learn.flows.collected import COLLECT, IDS, AloneThenCollected, Collection
from hubless.learn.flows.flow import FlowMatching, Network, flow_data, follow, placed_at
from hubless.learn.flows.gaussians import frechet, ring
from hubless.learn.flows.pooled import Descent, monolith, student, train_router
from hubless.learn.flows.routed import WEIGH, RoutedFlow, Router, strategies
from hubless.learn.model import Model
from hubless.learn.plan import Exchange, Train, World
from hubless.models.zoo import mlp

MIXTURE = ring(4, 0)


def routed(mixture=MIXTURE):
    experts = [mixture.velocity(k) for k in range(len(mixture.shares))]
    return RoutedFlow(experts, Router(mixture.logits, len(experts)), mixture.shares)


def test_the_field_of_the_mixture_is_the_mixture_of_the_fields():
    generator = torch.Generator().manual_seed(0)
    samples, _ = MIXTURE.sample(100_000, generator)
    for t in (0.3, 0.6, 1.0):
        x = (1 - t) * samples[:2] + t * torch.randn(2, 2, generator=generator, dtype=torch.float64)
        assert (routed().field("full")(x, t) - MIXTURE.marginal(x, t, samples)).abs().max() < 0.05


def test_a_posterior_without_the_shares_is_not_enough():
    even = Router(lambda x, t: MIXTURE.logits(x, t) - MIXTURE.shares.log(), 4)
    samples, _ = MIXTURE.sample(100_000, torch.Generator().manual_seed(0))
    x, t = samples[:20] * 0.4 + 0.3, 0.6
    right = MIXTURE.marginal(x, t, samples)
    without = RoutedFlow(routed().experts, even, MIXTURE.shares).field("full")(x, t)
    assert (routed().field("full")(x, t) - right).abs().mean() < (without - right).abs().mean() / 3


@pytest.mark.parametrize(("strategy", "far"), [("full", 0.05), ("oracle", 0.05), ("uniform", None)])
def test_samples_are_of_the_mixture_by_strategies_that_the_theory_allows(strategy, far):
    noise = torch.randn(3000, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    real, _ = MIXTURE.sample(3000, torch.Generator().manual_seed(2))
    distance = frechet(follow(routed().field(strategy, 3), noise, 100), real)
    assert distance < far if far else distance > 0.5


@settings(deadline=None, max_examples=50)
@given(st.lists(st.lists(st.floats(-30, 30), min_size=4, max_size=4), min_size=1, max_size=6), st.floats(0, 0.999))
def test_weights_are_shares_of_as_many_experts_as_the_strategy_asks(logits, u):
    scores = torch.tensor(logits)
    for name, weigh in WEIGH.items():
        weights = weigh(scores, torch.full((len(scores),), u))
        assert torch.allclose(weights.sum(1), torch.ones(len(scores)), atol=1e-5)
        assert (weights >= 0).all()
        asked = {"top-1": 1, "top-2": 2, "sample-1": 1, "oracle": 1}.get(name, 4)
        assert int((weights > 0).sum(1).max()) <= asked
    best = WEIGH["top-1"](scores, torch.zeros(len(scores)))
    assert (scores.gather(1, best.argmax(1)[:, None])[:, 0] == scores.max(1).values).all()


def test_one_is_drawn_by_the_posterior():
    scores = torch.tensor([0.5, 0.2, 0.3]).log().expand(1000, 3)
    drawn = WEIGH["sample-1"](scores, (torch.arange(1000) + 0.5) / 1000)
    assert drawn.sum(0).tolist() == pytest.approx([500, 200, 300], abs=1)


def test_experts_work_only_on_samples_that_count_them():
    seen = {0: 0, 1: 0}

    def expert(k):
        def velocity(x, t):
            seen[k] += len(x)
            return torch.full_like(x, k + 1.0)

        return velocity

    side = Router(lambda x, t: torch.cat([x, -x], 1), 2)
    flow = RoutedFlow([expert(0), expert(1)], side, torch.tensor([0.5, 0.5]))
    x = torch.tensor([[3.0], [-1.0], [2.0]])
    assert flow.field("top-1")(x, 0.5).tolist() == [[1], [2], [1]]
    assert seen == {0: 2, 1: 1}
    assert flow.field("uniform")(x, 0.5).tolist() == [[1.5]] * 3


def test_draws_depend_on_the_key_and_the_time_and_the_oracle_stays():
    x = torch.zeros(500, 2, dtype=torch.float64)

    def chosen(strategy, key, t):
        flow = RoutedFlow(
            [lambda x, t, k=k: torch.full_like(x, k) for k in range(4)],
            Router(lambda x, t: x.new_zeros(len(x), 4), 4),
            torch.tensor([0.1, 0.2, 0.3, 0.4]),
        )
        return flow.field(strategy, key)(x, t)[:, 0]

    assert torch.equal(chosen("sample-1", 1, 0.5), chosen("sample-1", 1, 0.5))
    assert not torch.equal(chosen("sample-1", 1, 0.5), chosen("sample-1", 2, 0.5))
    assert not torch.equal(chosen("sample-1", 1, 0.5), chosen("sample-1", 1, 0.4))
    assert torch.equal(chosen("oracle", 1, 0.5), chosen("oracle", 1, 0.4))
    counts = torch.bincount(chosen("oracle", 1, 0.5).long(), minlength=4) / 500
    assert torch.allclose(counts, torch.tensor([0.1, 0.2, 0.3, 0.4]), atol=0.06)


def test_unknown_strategies_list_the_valid_ones():
    every = "allowed: full, oracle, sample-1, top-1, top-2, uniform"
    with pytest.raises(ConfigError, match=f"strategy: unknown 'top-3'; did you mean 'top-2'. {every}"):
        strategies("full,top-3")
    with pytest.raises(ConfigError, match="strategy: unknown 'best'"):
        routed().field("best")
    with pytest.raises(ConfigError, match="name at least one; allowed: full, oracle"):
        strategies(" , ")
    assert strategies("top-1, full,top-1") == ("top-1", "full")


def test_a_router_of_another_number_of_clusters_is_refused():
    experts = routed().experts
    with pytest.raises(ConfigError, match="the router tells 5 clusters, but there are 4 experts"):
        RoutedFlow(experts, Router(MIXTURE.logits, 5), MIXTURE.shares)
    with pytest.raises(ConfigError, match="the shares are of 3 clusters, but there are 4 experts"):
        RoutedFlow(experts, Router(MIXTURE.logits, 4), MIXTURE.shares[:3])


def test_the_frechet_distance_of_gaussians():
    z = torch.randn(50_000, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert frechet(z, z) == pytest.approx(0, abs=1e-9)
    assert frechet(z, z + torch.tensor([3.0, 0, 4])) == pytest.approx(25, rel=1e-6)
    scaled = z * torch.tensor([2.0, 1, 1])
    exact = (scaled.mean(0) - z.mean(0)).square().sum() + (scaled.std(0) - z.std(0)).square().sum()
    assert frechet(z, scaled) == pytest.approx(float(exact), rel=0.01)
    assert frechet(z, scaled) == pytest.approx(frechet(scaled, z), rel=1e-6)
    assert frechet(z[:, :1], 3 * z[:, :1]) > 3.9
    assert frechet(torch.full((5, 2), torch.nan), torch.zeros(5, 2)) == float("inf")
    with pytest.raises(ConfigError, match=r"needs two sets of vectors, 2 at least, not \(1, 3\)"):
        frechet(z[:1], z)


def test_the_frechet_distance_is_scipys():
    from scipy.linalg import sqrtm

    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(200, 4)) @ rng.normal(size=(4, 4)), rng.normal(size=(300, 4)) @ rng.normal(size=(4, 4))
    A, B = np.cov(a.T), np.cov(b.T)
    theirs = ((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(A + B - 2 * sqrtm(A @ B).real)
    assert frechet(torch.from_numpy(a), torch.from_numpy(b)) == pytest.approx(theirs, rel=1e-8)


HOW = Descent(lr=0.02, rounds=4, steps=40)


def corners(samples=600):
    """Three heaps far apart, of shares 6:3:1, and whose each point is."""
    owner = torch.tensor([0] * 6 + [1] * 3 + [2]).repeat(samples // 10)
    means = torch.tensor([[3.0, 0], [-2, 2], [-2, -2]])
    return means[owner] + 0.3 * torch.randn(samples, 2, generator=torch.Generator().manual_seed(0)), owner


def test_a_router_knows_clean_samples_and_of_noise_only_the_shares():
    x, owner = corners()
    found = train_router(placed_at(x, 0.0), owner, 3, mlp(16), HOW, 64, 0)
    assert found.times[0] == 0
    assert found.accuracy[0] > 0.95
    assert found.accuracy[0] > found.accuracy[6] >= found.accuracy[10] - 0.05
    noise = torch.randn(2000, 2, generator=torch.Generator().manual_seed(1))
    posterior = torch.softmax(found.router.logits(noise, 1.0), 1).mean(0)
    assert torch.allclose(posterior, torch.tensor([0.6, 0.3, 0.1]), atol=0.1)


def test_a_student_learns_the_experts_fields():
    x, _ = corners()
    flows = flow_data(Dataset.of(x, x, task="regression"))
    rows = torch.from_numpy(flows.x)
    owner = (rows[:, 0] < 0.5).long()
    model = Model(lambda: mlp(24)((flows.shape[0],), 2), task="regression", name="velocity")
    one = Network(model, HOW.alone(flows, model, FlowMatching(), 64, 0))
    other = Network(model, one.w * 0)
    taught = student(flows, owner, [one, other], model, HOW, 64, 1)
    asked = torch.where(owner[:, None] == 0, one.at(rows), other.at(rows))
    assert (taught.at(rows) - asked).square().mean() < 0.2 * asked.square().mean()


def test_the_one_model_depends_on_the_seed_only():
    x, _ = corners(100)
    flows = flow_data(Dataset.of(x, x, task="regression"))
    model = Model(lambda: mlp(4)((flows.shape[0],), 2), task="regression", name="velocity")
    how = Descent(rounds=2, steps=2)
    a, b, c = (monolith(flows, model, how, 16, seed).w for seed in (0, 0, 1))
    assert torch.equal(a, b)
    assert not torch.equal(a, c)


def test_collecting_conforms():
    testing.check_merge(Collection())
    testing.check_overlay(AloneThenCollected(3))
    with pytest.raises(ConfigError, match="rounds = 0"):
        AloneThenCollected(0)


def test_nothing_is_sent_before_the_last_round_and_then_to_the_first_that_answers():
    world = World(4, 0, torch.ones(4), [0, 1, 3], lambda peer: peer > 0)
    overlay = AloneThenCollected(2)
    assert [type(step) for step in overlay.plan(1, world, {})] == [Train]
    _, exchange = overlay.plan(2, world, {})
    assert isinstance(exchange, Exchange)
    assert exchange.src.tolist() == [0, 1, 3]
    assert set(exchange.dst.tolist()) == {1}
    nobody = World(4, 0, torch.ones(4), [0, 1], lambda peer: False)
    assert [type(step) for step in overlay.plan(2, nobody, {})] == [Train]


def test_models_are_kept_by_sender_and_nothing_is_merged():
    model = Model(lambda: torch.nn.Linear(1, 1), task="regression")
    merge, book = Collection(), {}
    own = torch.tensor([9.0, 9.0])

    class Ctx:
        pass

    ctx = Ctx()
    ctx.model = model
    inbox = Inbox((4, 1), torch.ones(2), [{"w": torch.tensor([4.0, 4])}, {"w": torch.tensor([1.0, 1])}])
    w, _ = merge.apply(own, {}, book, merge.join(inbox, own, {}, {}, ctx), ctx)
    assert torch.equal(w, own)
    assert book[COLLECT][IDS].tolist() == [1, 4]
    assert book[COLLECT][COLLECT].tolist() == [[1, 1], [4, 4]]
