"""Trunks: trained once, the same for everyone, kept in memory and in the cache."""

import numpy as np
import pytest
import torch

from hubless.data.dataset import Dataset
from hubless.errors import ConfigError
from hubless.learn import pretrained
from hubless.learn.pretrained import Pretraining
from hubless.models.zoo import cnn_bn, mlp
from hubless.parts import make

BLOBS = make("data", "synthetic:samples=300:features=6:classes=4")
OTHERS = make("data", "synthetic:samples=200:features=6:classes=3:seed=5")


@pytest.fixture(autouse=True)
def empty(tmp_path, monkeypatch):
    """Neither this process nor this machine has trained a trunk."""
    monkeypatch.setenv("HUBLESS_CACHE", str(tmp_path))
    forget(monkeypatch)


def forget(monkeypatch):
    monkeypatch.setattr(pretrained, "_made", {})


def pretraining(**given):
    return Pretraining(**{"architecture": mlp(12), "features": 5, "samples": 0, "steps": 60, "batch": 16, **given})


def rows(trunk):
    return torch.cat([p.flatten() for p in trunk.module.parameters()])


def test_it_is_trained_once_a_process_and_once_a_machine(monkeypatch, tmp_path):
    first = pretraining().trunk(BLOBS)
    assert pretraining().trunk(BLOBS) is first
    forget(monkeypatch)
    monkeypatch.setattr(Pretraining, "_trained", lambda *_: pytest.fail("is in the cache"))
    assert torch.equal(rows(pretraining().trunk(BLOBS)), rows(first))
    assert len(list((tmp_path / "data").iterdir())) == 1
    assert not list(tmp_path.rglob("*.pkl"))


def test_it_is_the_same_wherever_it_is_trained(monkeypatch, tmp_path):
    first = pretraining().trunk(BLOBS)
    forget(monkeypatch)
    monkeypatch.setenv("HUBLESS_CACHE", str(tmp_path / "other"))
    torch.rand(3)
    again = pretraining().trunk(BLOBS)
    assert again is not first
    assert torch.equal(rows(again), rows(first))


@pytest.mark.parametrize(
    "other", [dict(steps=61), dict(lr=0.1), dict(batch=8), dict(samples=100), dict(architecture=mlp(13))]
)
def test_other_settings_make_another_trunk(other, tmp_path):
    first, second = pretraining().trunk(BLOBS), pretraining(**other).trunk(BLOBS)
    assert rows(first).shape != rows(second).shape or not torch.equal(rows(first), rows(second))
    assert len(list((tmp_path / "data").iterdir())) == 2


def test_it_has_learned_to_tell_the_classes():
    settings = pretraining(steps=400)
    network = settings._network(BLOBS)
    network.load_state_dict({n: torch.from_numpy(v) for n, v in settings._trained(BLOBS).items()})
    x = torch.from_numpy((BLOBS.test_x - BLOBS.x.mean()) / BLOBS.x.std())
    assert (network(x).argmax(1) == torch.from_numpy(BLOBS.test_y)).float().mean() > 0.7


def test_features_are_standardised_and_the_rest_stays():
    seen = pretraining().trunk(BLOBS).through(OTHERS)
    assert seen.shape == (5,)
    assert seen.x.dtype == np.float32
    assert np.allclose(seen.x.mean(0), 0, atol=1e-5)
    assert np.allclose(seen.x.std(0), 1, atol=1e-4)
    assert seen.classes == OTHERS.classes
    assert np.array_equal(seen.y, OTHERS.y)
    assert len(seen.test_x) == len(OTHERS.test_x)
    assert seen.name == "synthetic through a trunk of synthetic"


def test_features_are_those_of_the_network(monkeypatch):
    trunk = pretraining().trunk(BLOBS)
    whole = trunk.through(OTHERS)
    with torch.no_grad():
        raw = trunk.module(torch.from_numpy((OTHERS.x - OTHERS.x.mean()) / OTHERS.x.std())).numpy()
    assert np.allclose(whole.x, (raw - raw.mean(0)) / raw.std(0), atol=1e-5)
    monkeypatch.setattr(pretrained, "CHUNK", 7)
    pretrained._through.cache_clear()
    assert np.allclose(trunk.through(OTHERS).x, whole.x, atol=1e-5)


def test_a_feature_that_never_changes_is_zero():
    flat = Dataset.of(np.zeros((20, 6)), np.arange(20) % 2)
    assert np.abs(pretraining().trunk(BLOBS).through(flat).x).max() < 1e-5


def test_statistics_of_batches_belong_to_the_trunk(monkeypatch):
    images = Dataset.of(np.random.default_rng(0).random((40, 1, 4, 4)) + 3, np.arange(40) % 2)
    first = pretraining(architecture=cnn_bn()).trunk(images)
    means = dict(first.module.named_buffers())
    assert any(value.any() for name, value in means.items() if name.endswith("running_mean"))
    forget(monkeypatch)
    again = dict(pretraining(architecture=cnn_bn()).trunk(images).module.named_buffers())
    assert all(torch.equal(value, means[name]) for name, value in again.items())
    assert first.through(images).shape == (5,)


@pytest.mark.parametrize(
    ("work", "words"),
    [
        (lambda: pretraining().trunk(make("data", "linear")), "pretrain: a trunk is trained on classes, which linear"),
        (lambda: pretraining(samples=10**6).trunk(BLOBS), "synthetic: samples = 1000000, but there are"),
        (lambda: pretraining(architecture=cnn_bn()).trunk(BLOBS), "takes images"),
        (
            lambda: pretraining().trunk(BLOBS).through(make("data", "synthetic:features=7")),
            r"takes samples of shape \(6,\)",
        ),
    ],
)
def test_refusals(work, words):
    with pytest.raises(ConfigError, match=words):
        work()
