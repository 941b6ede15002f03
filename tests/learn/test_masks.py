"""Masks: what of a network is trained, what stays with its peer; every method and codec keeps to them."""

import pytest
import torch
from small import GROUPS, build, close, finish, metrics, rows, workload
from torch import nn

from hubless.errors import ConfigError, MessageError
from hubless.learn import SGD, Adam, Alone, ControlVariate, Gossip, Hook, Rotating, Scaffold, ServerOpt, Star
from hubless.learn.accept import accept
from hubless.learn.anchors import AnchorMiner, Bullseye, Coin, Primed
from hubless.learn.context import Context
from hubless.learn.gradients import RecursiveVR
from hubless.learn.masks import chosen, masks
from hubless.learn.model import PERSONAL, Model
from hubless.learn.ring import AllReduce, RingMean
from hubless.learn.sybilwall import SybilWall
from hubless.learn.wiring import NoSlope
from hubless.net.topologies import Ring
from hubless.parts import make


class Network(nn.Module):
    """A body with normalisation, an adapter, and a head that does not come last."""

    def __init__(self):
        super().__init__()
        self.head = nn.Linear(4, 3)
        self.body = nn.Linear(5, 4)
        self.adapter = nn.Linear(4, 4, bias=False)
        self.norm = nn.LayerNorm(4)

    def forward(self, x):
        return self.head(self.norm(self.body(x) + self.adapter(self.body(x))))


def mixed():
    """The head has a BatchNorm of its own."""
    return nn.Sequential(nn.Linear(5, 6), nn.BatchNorm1d(6), nn.Linear(6, 6), nn.BatchNorm1d(6), nn.Linear(6, 3))


MEANT = {
    "all": {"head.weight", "head.bias", "body.weight", "body.bias", "adapter.weight", "norm.weight", "norm.bias"},
    "none": set(),
    "head": {"head.weight", "head.bias"},
    "body": {"body.weight", "body.bias", "adapter.weight", "norm.weight", "norm.bias"},
    "bias": {"head.bias", "body.bias", "norm.bias"},
    "norm": {"norm.weight", "norm.bias"},
    "adapter": {"adapter.weight"},
    "names:b*": {"body.weight", "body.bias"},
    "adapter+norm": {"adapter.weight", "norm.weight", "norm.bias"},
}


@pytest.mark.parametrize("text", MEANT)
def test_masks_by_name(text):
    assert make("mask", text)(Network()) == MEANT[text]


def test_without_a_name_the_last_layer_is_the_head():
    assert make("mask", "head")(nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1))) == {"2.weight", "2.bias"}


def test_a_mask_that_means_nothing_is_an_error():
    with pytest.raises(ConfigError, match=r"personal: means no parameter of the model, which has head.weight"):
        chosen(make("mask", "lora"), Network(), "personal")
    with pytest.raises(ConfigError, match=r"trainable: x is no parameter"):
        chosen(lambda module: frozenset({"x"}), Network(), "trainable")
    with pytest.raises(ConfigError, match="unknown mask 'haed'"):
        masks("haed", "")


def test_what_is_not_trainable_is_frozen():
    model = Model(Network, trainable=make("mask", "bias+head"))
    assert set(model.names) == MEANT["bias"] | MEANT["head"]
    assert set(model.frozen) == MEANT["all"] - set(model.names)
    assert not any(p.requires_grad for n, p in model.module.named_parameters() if n in model.frozen)


def test_parameters_that_are_built_frozen_stay_so_and_are_stored_once():
    trunk = nn.Linear(5, 4).requires_grad_(False)

    def with_trunk():
        module = Network()
        module.body = trunk
        return module

    model = Model(with_trunk)
    assert set(model.frozen) == {"body.weight", "body.bias"}
    assert model.copy().body.weight is trunk.weight
    assert model.copy().head.weight is not model.copy().head.weight


def test_personal_parameters_are_the_last_of_the_row():
    model = Model(Network, personal=make("mask", "head"))
    assert model.shared == ("w",)
    assert model.groups == {"w": slice(0, model.shared_size), PERSONAL: slice(model.shared_size, model.size)}
    assert model.size - model.shared_size == 4 * 3 + 3
    grouped = GROUPS.masked(None, make("mask", "names:2.bias"))
    assert list(grouped.groups) == ["trunk", "head", PERSONAL]
    assert grouped.size == GROUPS.size
    with pytest.raises(ConfigError, match="no trained parameter of Network is left to share"):
        Model(Network, personal=make("mask", "all"))


def test_buffers_of_personal_modules_are_personal():
    model = Model(mixed, personal=make("mask", "names:3.*"))
    assert {name.split("/")[1].split(".")[0] for name in model.shared_buffers} == {"1"}
    assert {name.split("/")[1].split(".")[0] for name in model.buffers} == {"1", "3"}


def test_constants_that_a_module_makes_again_are_no_state():
    class Rotary(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = nn.Linear(5, 3)
            self.register_buffer("angles", torch.ones(5), persistent=False)

        def forward(self, x):
            return self.inner(x * self.angles)

    assert Model(Rotary).buffers == {}


def test_a_message_of_personal_parameters_is_refused():
    model = Model(Network, personal=make("mask", "head"))
    ctx = Context(t=1, N=2, model=model, slope=NoSlope())
    accept({"w": torch.zeros(model.shared_size)}, ctx)
    with pytest.raises(MessageError, match="personal parameters stay with their peer"):
        accept({PERSONAL: torch.zeros(15)}, ctx)


METHODS = {
    "gossip": dict(overlay=Gossip(Ring())),
    "star": dict(overlay=Star()),
    "server": dict(overlay=Star(), merge=ServerOpt(rule="adam", lr=0.05)),
    "rotating": dict(overlay=Rotating(), merge=ServerOpt()),
    "scaffold": dict(
        overlay=Star(weigh="one"), merge=Scaffold(), local=SGD(lr=0.1, steps=2, batch=8, gradient=ControlVariate())
    ),
    "fedamd": dict(
        overlay=Primed(Star(weigh="one", roles_of=Coin(0.5))), merge=AnchorMiner(),
        local={"anchor": Bullseye(), "miner": SGD(lr=0.05, steps=2, batch=8, gradient=RecursiveVR())},
    ),
    "ring": dict(overlay=AllReduce(), merge=RingMean()),
    "sybilwall": dict(merge=SybilWall()),
    "median": dict(merge="median"),
    "krum": dict(merge="krum:1", overlay=Gossip(make("topology", "full"))),
    "adam": dict(local=Adam(lr=0.01, steps=2, batch=8, keep=True)),
    "attacked": dict(merge="centred-clip:1", attack="sign-flip:20%"),
    "local privacy": dict(privacy="local:1:0.1"),
    "central privacy": dict(privacy="central:1:0.1", overlay=Star(weigh="one")),
    "dp-sgd": dict(privacy="dp-sgd:1:0.5"),
    "secure": dict(codec="fixed-point+secure-sum", overlay=Star(weigh="one"), merge=ServerOpt()),
    "coded": dict(codec="delta+top-k:0.3+float16+deflate"),
    "layers": dict(codec="layers+uniform:4"),
}  # fmt: skip


@pytest.mark.parametrize("method", METHODS)
def test_every_method_keeps_personal_parameters_at_home(method):
    given = {"rounds": 3, "workload": workload(5, "dirichlet:0.5"), **METHODS[method]}
    run = build(**given, setting={"personal": "head"})
    w = rows(run)
    model = run.models[0][0]
    assert model.shared_size == 5 * 8 + 8
    own = w[:, model.shared_size :]
    assert torch.isfinite(w).all()
    gap = torch.cdist(own, own) + torch.eye(len(own))
    assert float(gap.min()) > 1e-4, "two peers have the same head"
    whole = build(**given)
    theirs = rows(whole)
    assert theirs.shape[1] == w.shape[1]
    assert metrics(run)[-1]["bytes"] < metrics(whole)[-1]["bytes"]


class Listener(Hook):
    """The largest tensor that anybody said."""

    needs_messages = True
    largest = 0

    def judge(self, exchange, messages, population):
        for m in messages.values():
            assert PERSONAL not in m
            self.largest = max([self.largest, *(value.numel() for value in m.values())])


@pytest.mark.parametrize("method", [name for name in METHODS if name not in ("secure", "layers", "ring")])
def test_nothing_as_long_as_a_row_is_said(method):
    listener = Listener()
    run = build(**{"workload": workload(5), **METHODS[method]}, hooks=(listener,), setting={"personal": "head"})
    finish(run)
    assert listener.largest == run.models[0][0].shared_size


def test_a_frozen_body_is_what_one_would_get_by_training_the_head_alone():
    run = build(setting={"trainable": "head"}, overlay=Alone())
    w = rows(run)
    assert w.shape[1] == 8 * 3 + 3
    bytes_ = [metrics(build(setting={"trainable": text}, overlay=Star()))[-1]["bytes"] for text in ("head", "all")]
    assert bytes_[0] < bytes_[1] / 2


def test_masks_of_the_workload_and_of_the_setting_mean_the_same():
    close(rows(build(workload=workload(5, personal="bias"))), rows(build(setting={"personal": "bias"})), within=0)
    close(rows(build(workload=workload(5, model=GROUPS, trainable="bias"))),
          rows(build(workload=workload(5, model=GROUPS), setting={"trainable": "bias"})), within=0)  # fmt: skip


def test_personal_norms_are_fedbn():
    """FedBN (arXiv 2102.07623): statistics and scales of normalisation stay at home."""
    run = build(workload=workload(5, "dirichlet:0.5", Model(mixed)), overlay=Gossip(make("topology", "full")),
                setting={"personal": "norm"})  # fmt: skip
    state = finish(run)
    mean = state["cohort.0/state/buffer/1.running_mean"]
    assert float((mean - mean[0]).abs().max()) > 1e-3
    model = run.models[0][0]
    assert set(model.unflatten(torch.zeros(model.size))) == {n for n, _ in mixed().named_parameters()}
    shared = state["cohort.0/rows"][:, : model.shared_size]
    assert float((shared - shared[0]).abs().max()) < 1e-5


@pytest.mark.parametrize("option", ["trainable", "personal"])
def test_a_mask_that_fits_nothing_is_refused_before_any_work(option):
    with pytest.raises(ConfigError, match=f"{option}: means no parameter"):
        build(setting={option: "lora"})
