from dataclasses import replace

import pytest
import torch

from hubless import catalogue
from hubless.data.sets import digits
from hubless.errors import ConfigError
from hubless.learn import Learning, Model
from hubless.learn.anchors import AnchorMiner, Coin, Primed, Turns
from hubless.models.zoo import softmax
from hubless.recipes.learning.fedamd import _centred

RECIPE = catalogue.find("fedamd").load()


def run(**options):
    experiment = RECIPE.build(options, "tiny")
    return list(experiment.records()), experiment.snapshot().tensors


def gradients(w, seed=0):
    """Every peer's full gradient at ``w``, by autograd."""
    experiment = RECIPE.build({"seed": seed}, "tiny")
    model, shards = experiment.models[0][0], experiment.shards
    found = []
    for peer in range(6):
        x, y = shards.own(peer)
        leaf = w.clone().requires_grad_()
        found.append(torch.autograd.grad(model.loss(model.forward(leaf, x), y).mean(), leaf)[0])
    return torch.stack(found)


def test_a_tiny_run_is_the_same_twice():
    first, second = run(seed=3)[0], run(seed=3)[0]
    assert [r.line() for r in first] == [r.line() for r in second]
    assert first[-1].metrics["accuracy"] > 0.1


def test_every_peer_gives_a_bullseye_at_the_initial_model():
    _, tensors = run(rounds=1, period=5)  # round 1 is of anchors only: nothing moves
    exact = gradients(tensors["cohort.0/rows"][0])
    assert torch.allclose(tensors["cohort.0/state/bullseye.own"], exact, atol=1e-6)
    assert torch.allclose(tensors["cohort.0/state/bullseye.mean"][0], exact.mean(0), atol=1e-6)


def test_the_mean_is_over_all_peers_the_stale_ones_included():
    records, tensors = run(rounds=8, participants=2)
    own, mean = tensors["cohort.0/state/bullseye.own"], tensors["cohort.0/state/bullseye.mean"][0]
    assert torch.allclose(mean, own.mean(0), atol=1e-6)
    fresh = gradients(tensors["cohort.0/rows"][0])
    assert (own - fresh).norm(dim=1).max() > 1e-3  # somebody's is stale
    assert records[-2].metrics["grad_norm"] == pytest.approx(float(fresh.mean(0).norm()), rel=1e-4)


def test_a_miners_first_step_is_the_mean_bullseye():
    _, before = run(rounds=1, p=0, steps=1, lr=0.1)
    start = run(rounds=1, period=2)[1]["cohort.0/rows"][0]
    moved = before["cohort.0/rows"][0]
    assert torch.allclose(moved, start - 0.1 * gradients(start).mean(0), atol=1e-6)


def test_a_role_that_moves_gives_the_same_model():
    star, rotating = (run(aggregator=kind)[1] for kind in ("star", "rotating"))
    for name in ("rows", "state/bullseye.own", "state/bullseye.mean"):
        assert torch.allclose(star[f"cohort.0/{name}"], rotating[f"cohort.0/{name}"], atol=1e-6)


def test_rows_kept_give_the_same_model():
    learning = RECIPE.build({}, "tiny").learning

    def rows(one: Learning):
        experiment = one.under(RECIPE.build({}, "tiny").setting)
        list(experiment.records())
        return experiment.snapshot().tensors["cohort.0/rows"]

    kept = replace(learning, merge=AnchorMiner(share=("w",)))
    assert torch.allclose(rows(kept)[0], rows(learning)[0], atol=1e-6)


def test_roles_are_shared_out_as_asked():
    peers = torch.arange(2000)
    drawn = Coin(0.3).draw(4, peers, 1)
    assert torch.equal(torch.cat(list(drawn.values())).sort().values, peers)
    assert abs(len(drawn["anchor"]) / 2000 - 0.3) < 0.05
    assert not torch.equal(drawn["anchor"], Coin(0.3).draw(5, peers, 1)["anchor"])
    assert [list(Turns(3).draw(t, peers, 1)) for t in range(1, 5)] == [["anchor"], ["miner"], ["miner"], ["anchor"]]


def test_only_the_first_round_is_primed():
    overlay = RECIPE.build({}, "tiny").learning.overlay
    assert isinstance(overlay, Primed)
    records, _ = run()
    steps = [r.metrics["messages"] for r in records if r.kind == "round"]
    assert steps[0] > steps[1] - steps[0]


def test_centred_inputs():
    data = _centred(digits(), 3.0)
    assert abs(data.x.mean(0)).max() < 1e-5
    assert (data.x**2).sum() / len(data.x) == pytest.approx(9, rel=1e-3)


@pytest.mark.parametrize("method", ["fedavg", "scaffold"])
def test_baselines_measure_the_same(method):
    records, _ = run(method=method)
    assert records[-2].metrics["grad_norm"] > 0
    assert records[-2].metrics["objective"] > 0


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"p": 1.5}, "p = 1.5"),
        ({"p": -0.1}, "p = -0.1"),
        ({"participants": 7}, "participants = 7: there are only 6 peers"),
        ({"steps": 0}, "steps = 0"),
        ({"period": 1}, "period = 1"),
        ({"centre": -1}, "centre = -1"),
    ],
)
def test_bad_options(options, words):
    with pytest.raises(ConfigError, match=words):
        RECIPE.build(options, "tiny")


def test_an_unstable_model_is_refused():
    with pytest.raises(ConfigError, match="BatchNorm or dropout"):
        run(model="cnn-bn")


def test_a_peer_missing_from_the_first_mean_is_an_error():
    with pytest.raises(ConfigError, match="gave no bullseye"):
        run(faults="crash:2@1")


def test_a_small_anchor_batch_is_warned_about():
    records, _ = run(anchor_batch=5)
    assert any("anchor_batch = 5" in r.data.get("text", "") for r in records if r.kind == "event")
    assert not [r for r in run()[0] if r.kind == "event"]


def test_a_model_without_buffers_has_both_states():
    model = Model(lambda: softmax()((1, 8, 8), 10))
    assert AnchorMiner().init(model)["bullseye.mean"].shape == (650,)


def test_resuming_goes_on_where_it_stopped():
    whole, _ = run(rounds=4)
    experiment = RECIPE.build({"rounds": 4}, "tiny")
    for record in experiment.records():
        if record.round == 2:
            break
    rest = list(RECIPE.build({"rounds": 4}, "tiny").records(experiment.snapshot()))
    assert [r.line() for r in rest] == [r.line() for r in whole][-len(rest) :]
    assert len(rest) == 3


def test_peers_may_crash_later_and_messages_be_lost():
    records, _ = run(rounds=5, faults="crash:2@2,loss:0.2@3-4")
    assert records[-1].metrics["lost"] > 0
    assert records[-1].metrics["loss"] < records[1].metrics["loss"]
