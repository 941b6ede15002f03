"""What cannot work together is refused before any work, with what to change."""

import re
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pytest
import torch
from small import GROUPS, PLAIN, build, network, workload
from torch import nn

from hubless.data.dataset import Dataset
from hubless.errors import ConfigError
from hubless.learn import (
    PGD,
    SAM,
    SGD,
    Adam,
    Attack,
    Codec,
    ControlVariate,
    Distil,
    Gossip,
    Hook,
    Median,
    Merge,
    Model,
    Overlay,
    Proximal,
    Scaffold,
    Scheduled,
    ServerOpt,
    Stage,
    Star,
    TrimmedMean,
    WeightedMean,
    aggregation,
)
from hubless.learn.attacks import SignFlip, sign_flip
from hubless.learn.secure import Hiding
from hubless.net.topologies import Ring


class Delta(Stage):
    wants = "delta"


class Secret(Hiding):
    pass


class Omniscient(Attack):
    sees = "honest"


class Judge(Hook):
    needs_messages = True


@dataclass(frozen=True)
class Shares:
    names: tuple[str, ...] = ("anchor", "miner")


@dataclass(frozen=True)
class Handing(Overlay):
    phases: ClassVar[tuple[str, ...]] = ("hand",)


class Moment(Stage):
    def init(self, model):
        return {"momentum": torch.zeros(model.size)}


OTHER = Model(lambda: nn.Linear(5, 3), name="linear")
BOTH = [(PLAIN, (0, 1, 2)), (OTHER, (3, 4))]

COMBINATIONS = {
    "codec: Delta takes a delta, but merge WeightedMean sends {'gossip': 'model'}; put the stage delta before it":
        dict(codec=Codec((Delta(),))),
    "codec: secure sums show only the total, but Median needs each message; drop one of the two":
        dict(codec=Codec((Secret(),)), merge=Median()),
    "codec: secure sums show only the total, but Omniscient needs each message; drop one of the two":
        dict(codec=Codec((Secret(),)), attack=Omniscient((1,))),
    "codec: secure sums show only the total, but Judge needs each message; drop one of the two":
        dict(codec=Codec((Secret(),)), hooks=(Judge(),)),
    "codec: secure sums need equal weights, but 'up' has several; use Star(weigh='one')":
        dict(codec=Codec((Secret(),)), overlay=Star(), workload=workload(partition="dirichlet:0.3")),
    "merge: WeightedMean sends a model, which cannot cross 2 cohorts of different models; use Distil()":
        dict(models=BOTH),
    "merge: Scaffold works over the exchanges down/up, but overlay Gossip makes gossip":
        dict(merge=Scaffold(), local=SGD(steps=1, gradient=ControlVariate())),
    "merge: ServerOpt works over the exchanges down/up, but overlay Gossip makes gossip":
        dict(merge=ServerOpt()),
    "local: overlay Star hands out the role 'anchor', local has ['train']":
        dict(overlay=Star(roles_of=Shares())),
    "overlay: 'hand' is the engine's own exchange; rename that of Handing":
        dict(overlay=Handing()),
    "merge.share: no group 'trunk'; the model has ['w']":
        dict(merge=Merge(WeightedMean(), ("trunk",))),
    "cohorts: every one of the 5 peers must be in one cohort, but they hold [0, 1, 2, 3]":
        dict(merge=Distil(public=torch.zeros(2, 5)), models=[(PLAIN, (0, 1, 2)), (OTHER, (3,))]),
    "cohorts: every one of the 5 peers must be in one cohort, but they hold [0, 1, 2, 2, 3, 4]":
        dict(merge=Distil(public=torch.zeros(2, 5)), models=[(PLAIN, (0, 1, 2)), (OTHER, (2, 3, 4))]),
    "state: 'momentum' is made by both SGD and Moment; rename one":
        dict(local=SGD(steps=1, momentum=0.5, keep=True), codec=Codec((Moment(),))),
    "state: Scaffold reads 'control.change', which no part of this method makes":
        dict(merge=Scaffold(), overlay=Star()),
    "state: ControlVariate reads 'control.common', which no part of this method makes":
        dict(local=SGD(steps=1, gradient=ControlVariate())),
    "attack: peer 9 does not exist; ids go from 0 to 4":
        dict(attack=SignFlip((9,))),
    "rounds = 0: must be at least 1":
        dict(rounds=0),
    "samples: 3 training samples cannot be split among 5 peers":
        dict(workload=workload(samples=3)),
    "kernel: unknown 'grahp'; did you mean 'graph'? allowed: auto, dense, graph, loop, stacked":
        dict(kernel="grahp"),
}  # fmt: skip


@pytest.mark.parametrize("said", COMBINATIONS)
def test_combinations_that_cannot_work(said):
    with pytest.raises(ConfigError, match=f"^{re.escape(said)}"):
        build(**COMBINATIONS[said])


def wrong_width(shape, outputs):
    return nn.Linear(shape[0] + 1, outputs)


def too_few(shape, outputs):
    return nn.Linear(shape[0], outputs - 1)


def one_loss(out, y):
    return nn.functional.cross_entropy(out, y)


MODELS = {
    "model: wrong_width cannot take samples of shape (5,)": dict(model=wrong_width),
    "model: too_few has 2 outputs, but the data has 3 classes": dict(model=too_few),
    "model.loss: must give one value a sample, not shape (); use reduction='none'": dict(model=network, loss=one_loss),
    "model: lenet takes images [channels, height, width], not samples of shape (5,)": dict(model="lenet"),
    "model: <lambda> has no trainable parameter": dict(model=lambda *_: nn.Sequential(nn.Flatten())),
    "model: parameter weight is torch.float64": dict(model=lambda s, o: nn.Linear(s[0], o).double()),
    "model: AlphaDropout draws from the global generator; use nn.Dropout":
        dict(model=lambda s, o: nn.Sequential(nn.Linear(s[0], o), nn.AlphaDropout())),
    "partition: unknown partition 'dirichle'; did you mean 'dirichlet'?": dict(partition="dirichle"),
}  # fmt: skip


@pytest.mark.parametrize("said", MODELS)
def test_models_that_do_not_fit(said):
    with pytest.raises(ConfigError) as refusal:
        build(workload=workload(**MODELS[said]))
    assert str(refusal.value).startswith(said)


OBJECTS = {
    "local: give either steps or epochs, not steps=None, epochs=None": lambda: SGD(),
    "local: give either steps or epochs, not steps=1, epochs=1": lambda: Adam(steps=1, epochs=1),
    "local.steps = 0: must be at least 1": lambda: SGD(steps=0),
    "local.momentum = 1: must be in [0, 1)": lambda: SGD(steps=1, momentum=1),
    "local: batch, clip and weight_decay must not be negative": lambda: SGD(steps=1, clip=-1),
    "gradient.rho = -1: must not be negative": lambda: SAM(-1),
    "gradient.mu = -0.5: must not be negative": lambda: Proximal(-0.5),
    "attack.size = 0: must be positive when steps = 5": lambda: PGD(0.1, 0),
    "attack.eps = -1: must not be negative": lambda: PGD(-1, 1),
    "attack.norm = 'one': must be 'inf' or '2'": lambda: PGD(1, 1, norm="one"),
    "attack.clip = (0.0, 1.0): but the inputs lie in [-1, 1]": lambda: PGD(1, 1).check(torch.tensor([-1.0, 1.0])),
    "merge.trim = 0.5: must be in [0, 0.5)": lambda: TrimmedMean(0.5),
    "merge.public: Distil needs the public inputs that every peer predicts on": lambda: Distil(),
    "server: lr = 0 and tau = 0.001 must be positive": lambda: ServerOpt(lr=0),
    "server: beta1 = 1 and beta2 = 0.99 must be in [0, 1)": lambda: ServerOpt(beta1=1),
    "gossip_steps = 0: must be at least 1": lambda: Gossip(Ring(), steps=0),
    "overlay.stages: first rounds must rise from 1, not [2]": lambda: Scheduled(((2, Gossip(Ring())),)),
    "overlay.stages: a star cannot be one of several stages; use Gossip('full')": lambda: Scheduled(((1, Star()),)),
    "aggregator = 'hub': must be 'star' or 'rotating'": lambda: aggregation("hub"),
    "attack.peers = 'many': give a share such as 20% or ids such as 3+7": lambda: sign_flip("many"),
    "attack.peers = '100%': a share of hostile peers must be in [0 %, 100 %)": lambda: sign_flip("100%"),
    "model.groups: no trainable parameter starts with any of ['9.'] (head)":
        lambda: Model(lambda: nn.Linear(2, 2), groups={"head": ["9."]}),
    "model.groups: bias and 0 more parameters are in no group":
        lambda: Model(lambda: nn.Linear(2, 2), groups={"head": ["weight"]}),
    "model: 0.weight (2,) is no frozen parameter of groups": lambda: GROUPS.freeze({"0.weight": torch.zeros(2)}),
}  # fmt: skip


@pytest.mark.parametrize("said", OBJECTS)
def test_parts_check_their_values(said):
    with pytest.raises(ConfigError, match=f"^{re.escape(said)}"):
        OBJECTS[said]()


def test_a_classifier_for_numbers_is_refused():
    data = Dataset.of(np.zeros((20, 4)), np.zeros(20), task="regression", name="numbers")
    with pytest.raises(ConfigError, match="label"):
        build(workload=workload(data=data, model="softmax", partition="dirichlet:0.3"))


def test_cuda_is_asked_for_only_where_there_is_one(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ConfigError, match="device = 'cuda': this machine or this build of torch has no CUDA; use cpu"):
        build(setting={"device": "cuda"})
