"""Small experiments for the engine's tests: Gaussian blobs, a network of 71 parameters, a few peers and rounds."""

import torch
from torch import nn

from hubless.learn import SGD, Gossip, Learning, Model, Workload, keys
from hubless.net.topologies import Ring
from hubless.parts import make
from hubless.run.setting import Setting

SEED = 3
BLOBS = make("data", "synthetic:samples=250:features=5:classes=3")


def network(shape, outputs):
    """Any module will do; this one is no perceptron of the zoo."""
    return nn.Sequential(nn.Linear(shape[0], 8), nn.Tanh(), nn.Linear(8, outputs))


def _batchnorm():
    return nn.Sequential(nn.Linear(5, 6), nn.BatchNorm1d(6), nn.Linear(6, 3))


def _dropout():
    return nn.Sequential(nn.Linear(5, 8), nn.Dropout(0.5), nn.ReLU(), nn.Linear(8, 3))


def _plain():
    return network((5,), 3)


# one object each, so that a kernel traces it once for all tests
PLAIN = Model(_plain, name="plain")
GROUPS = Model(_plain, groups={"trunk": ["0."], "head": ["2."]}, name="groups")
BATCHNORM = Model(_batchnorm, name="batchnorm")
DROPOUT = Model(_dropout, name="dropout")


def workload(peers=5, partition="iid", model=PLAIN, data=BLOBS, **rest):
    return Workload(data, partition, peers, model, **rest)


def learning(**given):
    """D-PSGD on a ring unless told otherwise."""
    parts = {
        "workload": workload(),
        "local": SGD(lr=0.2, steps=2, batch=8),
        "overlay": Gossip(Ring()),
        "rounds": 3,
    }
    return Learning(**{**parts, **given})


def build(*, setting=None, **given):
    """The run of such an experiment."""
    return learning(**given).under(Setting(**{"seed": SEED, "threads": 1, **(setting or {})}))


def finish(run):
    """Run it to the end; its last state (own copies of the tensors)."""
    records = list(run.records())
    assert records[-1].kind == "end"
    return {name: value.clone() for name, value in run.snapshot().tensors.items()}


def rows(run):
    """Run to the end; all peers' parameters ``[N, D]`` (``[1, D]`` where they share one model)."""
    return finish(run)["cohort.0/rows"]


def metrics(run):
    """The metrics of every round, and of the end."""
    return [record.metrics for record in run.records() if record.kind in ("round", "end")]


def first_row(model, seed=SEED, peer=0):
    """The parameters that a peer starts from."""
    return model.start(keys.fold(seed, "start", peer))


def apart(one, other):
    """The largest difference."""
    return float((one - other).abs().max())


def close(one, other, within=1e-5):
    """Equal up to rounding; the message gives the difference."""
    assert torch.isfinite(one).all()
    assert apart(one, other) <= within, f"differ by {apart(one, other):.1e}"
