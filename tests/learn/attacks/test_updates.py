"""What attacks on a message make of models, deltas and predictions."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from small import BATCHNORM, GROUPS, PLAIN

from hubless.errors import ConfigError
from hubless.learn import Context, keys
from hubless.learn.attacks import ALIE, IPM, ModelReplacement, Noise, Scaling, SignFlip
from hubless.learn.attacks.colluding import largest_z, moments
from hubless.learn.kernels.loop import Loop
from hubless.learn.kernels.slope import Session
from hubless.parts import make


def context(model=PLAIN, kind="model", **more):
    start = keys.normal(keys.fold(0, "start"), (model.size,))
    given = dict(t=1, N=5, model=model, slope=Session(Loop(model)), kind=kind, start=start, key=keys.fold(0, "ctx"))
    return Context(**{**given, **more})


def said(model=PLAIN, peer=0):
    w = keys.normal(keys.fold(0, "w", peer), (model.size,))
    return {name: w[part] for name, part in model.groups.items()}


def moved(ctx, m):
    """The update in a message."""
    return {
        name: m[name] - ctx.start[part] if ctx.kind == "model" else m[name] for name, part in ctx.model.groups.items()
    }


FACTORS = {SignFlip((0,), 2.0): -2.0, Scaling((0,), 10.0): 10.0, ModelReplacement((0, 1), scale=4.0): 4.0,
           ModelReplacement((0, 1)): 5 / 2}  # fmt: skip


@pytest.mark.parametrize("attack", FACTORS, ids=repr)
@pytest.mark.parametrize("kind", ["model", "delta"])
def test_an_update_is_multiplied(attack, kind):
    for model in (PLAIN, GROUPS):
        ctx, m = context(model, kind), said(model)
        lie = attack.message(m, None, {}, ctx)
        for name, update in moved(ctx, m).items():
            assert torch.allclose(moved(ctx, lie)[name], FACTORS[attack] * update, atol=1e-5)


@pytest.mark.parametrize("attack", FACTORS, ids=repr)
def test_predictions_are_multiplied_as_they_are(attack):
    m = {"predictions": torch.randn(4, 3, generator=torch.Generator().manual_seed(0))}
    lie = attack.message(m, None, {}, context(kind="predictions"))
    assert torch.allclose(lie["predictions"], FACTORS[attack] * m["predictions"])


@pytest.mark.parametrize("kind", ["model", "delta"])
def test_noise_replaces_the_update_or_comes_on_top(kind):
    ctx = context(kind=kind, start=torch.zeros(PLAIN.size))
    lie = Noise((0,), 0.5).message(said(), None, {}, ctx)["w"]
    added = Noise((0,), 0.5, added=True).message(said(), None, {}, ctx)["w"]
    assert torch.allclose(added - said()["w"], lie, atol=1e-6)
    many = torch.cat([Noise((0,), 0.5).message(said(), None, {}, replace(ctx, key=key))["w"] for key in range(200)])
    assert float(many.mean()) == pytest.approx(0, abs=0.02)
    assert float(many.std()) == pytest.approx(0.5, rel=0.02)
    assert abs(float((many * said()["w"].repeat(200)).mean())) < 0.05  # nothing of the honest update is left


def test_groups_have_noise_of_their_own():
    lie = Noise((0,)).message({n: torch.zeros(6) for n in ("trunk", "head")}, None, {}, context(GROUPS, "delta"))
    assert not torch.equal(lie["trunk"], lie["head"])


@pytest.mark.parametrize("attack", [SignFlip((0,)), Scaling((0,)), Noise((0,)), ALIE((0,), 1.0), IPM((0,))], ids=repr)
def test_statistics_and_what_a_merge_sends_beside_are_left_alone(attack):
    beside = {"buffer/1.running_var": torch.ones(6), "control.change": torch.ones(BATCHNORM.size)}
    honest = [said(BATCHNORM, peer) | {n: 5 * v for n, v in beside.items()} for peer in (1, 2)]
    lie = attack.message(said(BATCHNORM) | beside, honest, {}, context(BATCHNORM))
    assert not torch.equal(lie["w"], said(BATCHNORM)["w"])
    for name, value in beside.items():
        assert torch.equal(lie[name], value)


@given(st.integers(1, 6), st.integers(0, 2**31))
def test_moments_are_those_of_the_stack(count, seed):
    values = torch.randn(count, 7, generator=torch.Generator().manual_seed(seed))
    mean, std = moments([{"w": value} for value in values], "w", values[0])
    assert torch.allclose(mean, values.mean(0), atol=1e-5)
    assert torch.allclose(std, values.std(0, correction=0), atol=1e-4)


@pytest.mark.parametrize(
    ("n", "m", "z"),
    [(50, 24, 1.426), (50, 12, 0.336), (20, 4, 0.157), (10, 2, 0), (4, 1, 0), (3, 1, 0), (10, 6, 0.674), (5, 5, 0)],
)
def test_the_largest_z_of_the_source(n, m, z):
    """24 of 50: s = 2, inverse Phi(24 / 26); a hostile majority needs no supporter but one: inverse Phi(3 / 4)."""
    assert largest_z(n, m) == pytest.approx(z, abs=1e-3)


@pytest.mark.parametrize("kind", ["model", "delta"])
def test_alie_lies_z_deviations_off_the_honest_mean(kind):
    honest = [said(peer=peer) for peer in (1, 2, 3)]
    stack = torch.stack([m["w"] for m in honest])
    lie = ALIE((0,), 1.5).message(said(), honest, {}, context(kind=kind))["w"]
    assert torch.allclose(lie, stack.mean(0) - 1.5 * stack.std(0, correction=0), atol=1e-5)
    own = ALIE((0, 1)).message(said(), honest, {}, context(kind=kind))["w"]
    assert torch.allclose(own, stack.mean(0) - largest_z(5, 2) * stack.std(0, correction=0), atol=1e-5)


@pytest.mark.parametrize("kind", ["model", "delta"])
def test_ipm_turns_the_honest_mean_update(kind):
    honest, ctx = [said(peer=peer) for peer in (1, 2, 3)], context(kind=kind)
    lie = IPM((0,), 0.5).message(said(), honest, {}, ctx)
    updates = torch.stack([moved(ctx, m)["w"] for m in honest])
    assert torch.allclose(moved(ctx, lie)["w"], -0.5 * updates.mean(0), atol=1e-5)
    assert float(moved(ctx, lie)["w"] @ updates.mean(0)) < 0


@pytest.mark.parametrize("attack", [ALIE((0,), 1.0), IPM((0,))], ids=repr)
def test_names_that_no_honest_peer_sends_stay_the_attackers_own(attack):
    m, ctx = said(GROUPS), context(GROUPS)
    honest = [{"head": said(GROUPS, peer)["head"]} for peer in (1, 2)]
    lie = attack.message(m, honest, {}, ctx)
    assert torch.equal(lie["trunk"], m["trunk"])
    assert not torch.equal(lie["head"], m["head"])
    assert list(lie) == list(m)
    assert attack.message(m, [], {}, ctx).keys() == m.keys()


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("noise:20%:0", "attack.std = 0: must be positive"),
        ("noise:20%:nan", "attack.std = nan"),
        ("ipm:20%:0", "attack.eps = 0: must be positive"),
        ("free-rider:20%:-1", "attack.noise = -1: must not be negative"),
        ("replay:20%:0", "attack.rounds = 0: must be at least 1"),
        ("model-replacement:20%:-1", "attack.scale = -1: must be positive"),
        ("scaling:150%", "a share of hostile peers must be in"),
        ("sybil:20%:nothing", "attack.inner: unknown attack 'nothing'; did you mean 'none'"),
        ("sybil:20%:label-flip:pear=1", "unexpected keyword argument 'pear'; it takes peers=20%:pair=all"),
        ("alie:20%:x", "z = 'x'"),
    ],
)
def test_values_that_make_no_attack(spec, words):
    with pytest.raises(ConfigError, match=words):
        make("attack", spec)
