"""DP-SGD: the step is the formula, its noise is fresh wherever it is drawn, and what it cannot cover is refused."""

import math
from dataclasses import dataclass

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small import BATCHNORM, DROPOUT, PLAIN, build, close, finish, learning, rows, workload

from hubless import testing
from hubless.errors import ConfigError
from hubless.learn import (
    PGD,
    SAM,
    SGD,
    Adam,
    Adversarial,
    Alone,
    Batch,
    Codec,
    ControlVariate,
    Gossip,
    Plain,
    Proximal,
    RecursiveVR,
    Rotating,
    Scaffold,
    ServerOpt,
    Stage,
    Star,
    WeightedMean,
    Workload,
)
from hubless.learn.batches import batches
from hubless.learn.context import Context
from hubless.learn.kernels.choice import KINDS
from hubless.learn.kernels.slope import Session
from hubless.learn.privacy import DPSGD, PrivateSteps
from hubless.net.topologies import Ring
from hubless.parts import make

INNER = [Plain(), Proximal(0.5), ControlVariate(), SAM(0.1), Adversarial(PGD(0.1, 0.05, clip=None))]
PASS = SGD(lr=0.2, epochs=1, batch=8)  # cheap to account for
KERNEL = KINDS["dense"](PLAIN)
X = torch.randn(6, 5, generator=torch.Generator().manual_seed(0))
Y = torch.tensor([0, 1, 2, 0, 1, 2])
BATCH = Batch(X, Y)
W = PLAIN.start(0)


def context(secret=1, n=6, **more):
    return Context(t=1, N=5, model=PLAIN, slope=Session(KERNEL), peer=2, n=n, secret=secret, start=W, **more)


def asked(rule, batch=BATCH, **more):
    return rule(W, {}, batch, context(**more))[0]


@pytest.mark.parametrize("inner", INNER, ids=lambda inner: type(inner).__name__)
def test_it_keeps_the_contract(inner):
    testing.check_gradient(DPSGD(0.5, 1.0, inner=inner))


def test_it_has_a_name():
    assert make("gradient", "dp-sgd:0.5:2") == DPSGD(0.5, 2.0)
    testing.check_gradient("dp-sgd:0.5:2")


@pytest.mark.parametrize("inner", INNER, ids=lambda inner: type(inner).__name__)
def test_without_noise_and_with_a_wide_clip_it_is_the_inner_gradient(inner):
    star = dict(overlay=Star(), merge=Scaffold()) if isinstance(inner, ControlVariate) else {}
    local = SGD(lr=0.2, steps=2, batch=8, gradient=inner)
    plain = rows(build(local=local, **star))
    close(rows(build(local=local, privacy="dp-sgd:1e6:0", **star)), plain)


@pytest.mark.parametrize(
    "local", [SGD(lr=0.1, steps=2, batch=8, momentum=0.9, keep=True), Adam(lr=0.01, epochs=2, batch=0)]
)
def test_other_optimisers_go_on_from_private_gradients(local):
    close(rows(build(local=local, privacy="dp-sgd:1e6:0")), rows(build(local=local)), 1e-4)


def test_the_step_is_the_clipped_sum_with_noise_over_the_size():
    total = context().clipped(W, {}, Batch(X, Y), 0.3)[0]
    close(asked(DPSGD(0.3, 0.0)), total / 6, 1e-7)
    draws = torch.stack([asked(DPSGD(0.3, 2.0), secret=secret) for secret in range(400)]) * 6 - total
    assert float(draws.std()) == pytest.approx(2.0 * 0.3, rel=0.01)
    assert float(draws.mean()) == pytest.approx(0, abs=0.02)
    correlation = torch.corrcoef(draws.T) - torch.eye(PLAIN.size)
    assert float(correlation.abs().max()) < 6 / math.sqrt(400), "coordinates share their noise"


def test_a_smaller_last_batch_is_divided_by_what_was_expected():
    small, padded = Batch(X[:2], Y[:2]), Batch(X, Y, torch.tensor([1.0, 1, 0, 0, 0, 0]))
    total = context().clipped(W, {}, small, 0.3)[0]
    for batch in (small, padded):
        close(asked(DPSGD(0.3, 0.0), batch), total / 2, 1e-6)
        close(asked(DPSGD(0.3, 0.0, 4), batch), total / 4, 1e-6)
        close(asked(DPSGD(0.3, 0.0, 40), batch, n=5), total / 5, 1e-6)  # a peer has no more than all that it has
    close(asked(DPSGD(0.3, 0.0, 4)), asked(DPSGD(0.3, 0.0)), 0)  # and a batch no less than it has


def test_two_gradients_of_a_batch_have_two_noises():
    apart = torch.stack([
        asked(DPSGD(0.3, 1.0, inner=SAM(0.0)), secret=secret) - asked(DPSGD(0.3, 1.0), secret=secret)
        for secret in range(200)
    ])  # fmt: skip
    assert float(apart.std()) == pytest.approx(math.sqrt(2) * 0.3 / 6, rel=0.03)


def test_noise_is_fresh_for_every_peer_step_and_round():
    """A clip of nearly nothing leaves noise alone."""
    run = build(
        local=SGD(lr=40.0, steps=2, batch=0), overlay=Alone(), privacy="dp-sgd:1e-6:1e6", rounds=3,
        setting={"threads": 2, "memory": 0.001},
    )  # fmt: skip
    before, changes = W.expand(5, -1), []
    for record in run.records():
        if record.kind == "round":
            after = run.snapshot().tensors["cohort.0/rows"].clone()
            changes.append(after - before)
            before = after
    noise = torch.cat(changes)
    assert float(noise.std()) == pytest.approx(math.sqrt(2), rel=0.1), "one noise a step, divided by 40 samples"
    correlation = torch.corrcoef(noise) - torch.eye(len(noise))
    assert float(correlation.abs().max()) < 0.6
    again = build(local=SGD(lr=40.0, steps=2, batch=0), overlay=Alone(), privacy="dp-sgd:1e-6:1e6", rounds=3)
    close(rows(again), before, 1e-4)  # whatever the chunks and threads


@given(
    size=st.integers(1, 30),
    batch=st.integers(0, 40),
    length=st.sampled_from([{"steps": 3}, {"epochs": 2}]),
    other=st.integers(1, 40),
)
@settings(max_examples=60, deadline=None)
def test_a_sample_is_in_batches_as_often_as_it_is_accounted_for(size, batch, length, other):
    """What ``_cost`` supposes of ``batches``, also when the chunk holds peers with other sizes."""
    local = SGD(batch=batch, **length)
    counts = []
    for place, here in batches(torch.tensor([7, 8]), torch.tensor([size, other]), local):
        mine = place[0] if here is None else place[0][here[0]]
        counts.append(torch.bincount(mine, minlength=size))
    table = torch.stack(counts)
    if local.epochs is not None:
        assert table.max() == 1
        assert torch.equal(table.sum(0), torch.full((size,), 2))
    elif batch > size:
        assert int(table.max()) == -(-batch // size)
    else:
        assert table.max() == 1
        assert torch.equal(table.sum(1), torch.full((3,), batch or size))


def test_accuracy_and_epsilon_fall_as_noise_grows():
    found = {}
    for noise in (0, 2, 8, 32):
        run = build(
            workload=Workload("digits", "iid", 4, "mlp:16", 800), local=SGD(lr=1.0, epochs=1, batch=32), rounds=8,
            privacy=f"dp-sgd:1:{noise}", overlay=Star(),
        )  # fmt: skip
        *_, last, end = run.records()
        found[noise] = end.metrics["accuracy"], last.metrics.get("epsilon", math.inf)
    accuracy, epsilon = zip(*found.values(), strict=True)
    assert accuracy[0] > 0.75
    assert list(accuracy) == sorted(accuracy, reverse=True)
    assert accuracy[0] - accuracy[-1] > 0.3
    assert list(epsilon) == sorted(set(epsilon), reverse=True)


@pytest.mark.parametrize("overlay", [Gossip(Ring(), 2), Star(3), Rotating(3)])
def test_any_overlay_will_do(overlay):
    state = finish(build(privacy="dp-sgd:1:2", local=PASS, overlay=overlay, setting={"faults": "loss:0.2"}))
    assert all(bool(torch.isfinite(value).all()) for value in state.values())


def test_it_goes_with_roles_cohorts_codecs_and_dropout():
    two = {"train": SGD(steps=1, batch=8), "other": Adam(epochs=1)}
    private = PrivateSteps(1.0, 2.0).protect(learning(local=two))
    assert {role: local.gradient for role, local in private.local.items()} == {
        "train": DPSGD(1.0, 2.0, 8), "other": DPSGD(1.0, 2.0, 32),
    }  # fmt: skip
    assert private.local["other"].epochs == 1
    finish(build(privacy="dp-sgd:1:2", local=PASS, workload=workload(model=DROPOUT), codec="float16"))
    finish(
        build(privacy="dp-sgd:1:2", local=PASS, merge=ServerOpt(rule="adam"), overlay=Star(), attack="sign-flip:20%")
    )


class Reading(WeightedMean):
    linear = False

    def __call__(self, inbox, w, s, book, ctx):
        return self.better(inbox, ctx) or super().__call__(inbox, w, s, book, ctx)

    def better(self, inbox, ctx):
        return [m for m in inbox.messages if len(ctx.data.y) > 1000]


def _sorted_by_classes(m, ctx):
    return {name: value[: int(ctx.classes.sum())] for name, value in m.items()}


class Telling(Stage):
    def forward(self, m, s, ctx):
        return _sorted_by_classes(m, ctx), s


class Reporting(Gossip):
    reports = ("momentum",)


@dataclass(frozen=True)
class Own(SGD):
    """May do anything with a batch."""


REFUSED = {
    "model: batchnorm has BatchNorm": dict(workload=workload(model=BATCHNORM)),
    "dp-sgd knows the local objectives SGD and Adam, not Own": dict(local=Own(steps=1)),
    "DP-SGD cannot stand under RecursiveVR, of which": dict(local=SGD(steps=1, gradient=RecursiveVR())),
    "the gradient is DP-SGD already": dict(local=SGD(steps=1, gradient=DPSGD(1.0, 1.0))),
    "Reading makes what a peer sends of the peer's own data": dict(merge=Reading()),
    "Telling makes what a peer sends of the peer's own data": dict(codec=Codec((Telling(),))),
    "Reporting has peers report 'momentum'": dict(overlay=Reporting(Ring())),
}


@pytest.mark.parametrize("why", REFUSED)
def test_what_cannot_be_private_is_refused(why):
    with pytest.raises(ConfigError, match=why):
        build(privacy="dp-sgd:1:2", **REFUSED[why])


def test_values_of_the_gradient_are_checked():
    with pytest.raises(ConfigError, match=r"gradient.clip = 0: must be positive"):
        DPSGD(0.0, 1.0)
    with pytest.raises(ConfigError, match=r"gradient.noise = -1: must not be negative"):
        DPSGD(1.0, -1.0)
