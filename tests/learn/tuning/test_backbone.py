import numpy as np
import pytest
import torch

from hubless.errors import ConfigError
from hubless.learn import Model
from hubless.learn.tuning import backbone as home
from hubless.learn.tuning.backbone import Backbone, sources
from hubless.models.tuning import adapted, prompted
from hubless.models.vit import mini_vit
from hubless.models.zoo import mlp
from hubless.parts import make

VIT = mini_vit(patch=2, width=8, layers=1, heads=2)
DIGITS = make("data", "digits")
LOW = ((DIGITS, range(5)),)


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("HUBLESS_CACHE", str(tmp_path))
    monkeypatch.setattr(home, "_made", {})


def test_it_is_trained_once_and_then_read(monkeypatch):
    made = []
    trained = Backbone._trained
    monkeypatch.setattr(Backbone, "_trained", lambda self, model: made.append(1) or trained(self, model))
    spec = Backbone(VIT, LOW, steps=3, batch=8)
    first = spec.values()
    home._made.clear()
    second = Backbone(VIT, LOW, steps=3, batch=8).values()
    assert made == [1]
    assert all(torch.equal(first[name], second[name]) for name in first)
    Backbone(VIT, LOW, steps=4, batch=8).values()
    Backbone(VIT, ((DIGITS, range(4)),), steps=3, batch=8).values()
    Backbone(VIT, ((DIGITS.subset(500, 0), range(5)),), steps=3, batch=8).values()
    assert made == [1] * 4


def test_training_is_the_same_twice():
    spec = Backbone(VIT, LOW, steps=3, batch=8)
    one, two = (spec._trained(spec._model()) for _ in range(2))
    assert all(np.array_equal(one[name], two[name]) for name in one)
    assert not any(name.startswith("head") for name in one)


def test_it_learns_its_own_classes():
    spec = Backbone(mini_vit(2, 16, 1, 2), LOW, steps=150, batch=64)
    model = Model(lambda: spec.into(spec.architecture)((1, 8, 8), 5))
    x = torch.from_numpy(DIGITS.x[DIGITS.y < 5])
    y = torch.from_numpy(DIGITS.y[DIGITS.y < 5])
    module = model.module
    fresh = mini_vit(2, 16, 1, 2)((1, 8, 8), 5)

    def probe(network):
        """Accuracy of the nearest class mean in what reaches the head."""
        seen = []
        network.head.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
        with torch.no_grad():
            network(x)
        means = torch.stack([seen[0][y == label].mean(0) for label in range(5)])
        return float((torch.cdist(seen[0], means).argmin(1) == y).float().mean())

    assert probe(module) > 0.85
    assert probe(module) > probe(fresh) + 0.2


def test_the_schedule_is_torchs():
    spec = Backbone(VIT, LOW, steps=50, lr=0.01)
    optimiser = torch.optim.SGD([torch.zeros(1, requires_grad=True)])
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 0.01, total_steps=50)
    for t in range(50):
        assert spec.rate(t) == pytest.approx(schedule.get_last_lr()[0], rel=1e-6)
        optimiser.step()
        if t < 49:
            schedule.step()
    assert Backbone(VIT, LOW, steps=1).rate(0) > 0


def test_steps_are_adamws():
    spec = Backbone(VIT, LOW, steps=4, batch=8)
    model = spec._model()
    rows, draws = [np.flatnonzero(DIGITS.y < 5)], np.random.default_rng([0, 0xBAC7])
    leaf = model.start(0).requires_grad_()
    optimiser = torch.optim.AdamW([leaf], lr=1.0)
    for t in range(4):
        batch = spec._batch(rows, draws)
        optimiser.param_groups[0]["lr"] = spec.rate(t)
        optimiser.zero_grad()
        model.loss(model.forward(leaf, batch.x[0], train=True), batch.y[0]).mean().backward()
        optimiser.step()
    expected, found = model.unflatten(leaf.detach()), spec.values()
    for name in found.keys() - {"blocks.0.mixer.bias"}:  # keys' biases have no gradient, and Adam enlarges its rounding
        torch.testing.assert_close(found[name], expected[name], atol=2e-5, rtol=1e-3)


def test_batches_mix_the_sets_and_number_their_labels():
    other = make("data", "digits").test_subset(0, 0)
    spec = Backbone(VIT, ((DIGITS, (7, 2)), (other, range(10))), batch=4000)
    rows = [np.flatnonzero(np.isin(DIGITS.y, (7, 2))), np.arange(len(other.y))]
    batch = spec._batch(rows, np.random.default_rng(0))
    assert batch.x.shape == (1, 4000, 1, 8, 8)
    assert batch.y.unique().tolist() == list(range(12))
    of_first = batch.y[0] < 2
    assert float(of_first.float().mean()) == pytest.approx(len(rows[0]) / (len(rows[0]) + len(rows[1])), abs=0.03)
    sevens = {x.tobytes() for x in DIGITS.x[DIGITS.y == 7]}
    assert all(x.numpy().tobytes() in sevens for x in batch.x[0][batch.y[0] == 0])


def test_values_go_into_networks_with_more_than_the_backbone():
    spec = Backbone(VIT, LOW, steps=3, batch=8)
    values = spec.values()
    tuned = adapted(prompted(VIT, 2), 3)
    one, two = (Model(lambda: spec.into(tuned)((1, 8, 8), 3)) for _ in range(2))
    assert torch.equal(one.start(4), two.start(4)), "a new head is the same for all who start from the same key"
    parameters = one.unflatten(one.start(4))
    assert all(torch.equal(parameters[name], value) for name, value in values.items())
    assert parameters["head.weight"].shape == (3, 8)
    assert {name for name in parameters if name not in values} > {"prompt", "head.bias", "head.weight"}
    assert not torch.equal(one.unflatten(one.start(5))["head.weight"], parameters["head.weight"])


def test_sources_are_read():
    (one, low), (two, every) = sources("digits/0-4+synthetic:classes=3")
    assert (one.name, low) == ("digits", (0, 1, 2, 3, 4))
    assert (two.name, every) == ("synthetic", (0, 1, 2))


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (lambda: Backbone(VIT, ((DIGITS, (5, 10)),)), "digits has no labels 5,10"),
        (lambda: Backbone(VIT, ((DIGITS, ()),)), "has no labels"),
        (lambda: Backbone(VIT, ((DIGITS, (0,)), (make("data", "synthetic"), (0,)))), "all must be alike"),
        (lambda: Backbone(mlp(4), ((make("data", "linear"), (0,)),)), "for regression"),
        (lambda: Backbone(VIT, LOW, steps=0), "steps = 0"),
        (lambda: sources("digits/4-10"), "pretrain = '4-10': must be different labels of digits, 0 to 9"),
        (lambda: sources("digit"), "pretrain: unknown data 'digit'"),
        (lambda: Backbone(VIT, LOW, steps=1, batch=2).into(mlp(4))((1, 8, 8), 5), "cls is .* missing in Sequential"),
        (lambda: Backbone(VIT, LOW, steps=1, batch=2).into(mini_vit(2, 4, 1, 2))((1, 8, 8), 5), r"cls is \(1, 8\)"),
    ],
)
def test_what_does_not_fit_is_refused(build, words):
    with pytest.raises(ConfigError, match=words):
        build()
