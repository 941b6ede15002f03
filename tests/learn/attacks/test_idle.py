"""Free riders and replays: nothing of their own, or old news, and memory that stays bounded."""

import pytest
import torch
from small import PLAIN, build, close, first_row, rows, workload

from hubless.learn import SGD, Alone, Context, Gossip, ServerOpt, Star
from hubless.learn.attacks import FreeRider, Replay
from hubless.net.topologies import Full, Ring
from hubless.parts import make

LOCAL = SGD(0.3, steps=3, batch=8)


def context(t, **more):
    return Context(t=t, N=5, model=PLAIN, slope=None, phase="gossip", k=1, **more)


def test_free_riders_keep_the_model_that_they_got():
    run = build(overlay=Alone(), attack=FreeRider((1, 3)), local=LOCAL)
    w = rows(run)
    start = first_row(PLAIN)
    assert torch.equal(w[1], start)
    assert torch.equal(w[3], start)
    assert not torch.equal(w[0], start)


def test_where_all_others_ride_the_mean_is_one_peers_share_of_the_work():
    given = dict(overlay=Star(weigh="one"), local=SGD(0.3, steps=3, batch=0), rounds=1)
    start = first_row(PLAIN)
    riding = rows(build(attack=FreeRider((1, 2, 3, 4)), **given))[0] - start
    worker = rows(build(**{**given, "overlay": Alone()}))[0] - start
    close(riding, worker / 5)


def test_an_empty_update_does_not_move_an_aggregator_and_noise_does():
    given = dict(overlay=Star(weigh="one"), merge=ServerOpt(), local=LOCAL, rounds=2)
    idle = rows(build(attack=FreeRider((0, 1, 2, 3, 4)), **given))[0]
    close(idle, first_row(PLAIN), within=0)
    noisy = rows(build(attack=FreeRider((0, 1, 2, 3, 4), 0.1), **given))[0]
    assert 0.02 < float((noisy - idle).std()) < 0.1  # 0.1 / sqrt(5), twice


def test_a_free_rider_has_a_training_loss_all_the_same():
    *_, record, _ = build(attack=FreeRider((1,)), local=LOCAL).records()
    assert record.metrics["train_loss"] > 0


def test_a_replay_sends_what_was_said_so_many_rounds_ago():
    attack, book = Replay((0,), 2), {}
    heard = [float(attack.message({"w": torch.tensor([float(t)])}, None, book, context(t))["w"]) for t in range(1, 8)]
    assert heard == [1, 1, 1, 2, 3, 4, 5]
    assert len(next(iter(book["said"].values()))) == 3


def test_a_replay_of_a_peer_that_was_away_is_at_least_so_old():
    attack, book, heard = Replay((0,), 2), {}, {}
    for t in (1, 2, 5, 6, 9):
        heard[t] = float(attack.message({"w": torch.tensor([float(t)])}, None, book, context(t))["w"])
    assert heard == {1: 1, 2: 1, 5: 2, 6: 2, 9: 6}


def test_replays_keep_receivers_and_exchanges_apart_and_send_new_names_fresh():
    attack, book = Replay((0,), 1), {}
    for to in (3, 4):
        attack.message({"w": torch.tensor([float(to)])}, None, book, context(1, to=to))
    old = attack.message({"w": torch.tensor([9.0]), "new": torch.ones(2)}, None, book, context(2, to=4))
    assert old["w"].tolist() == [4]
    assert old["new"].tolist() == [1, 1]
    wider = attack.message({"w": torch.zeros(2)}, None, book, context(3, to=4))
    assert wider["w"].shape == (2,)


@pytest.mark.parametrize("overlay", [Gossip(Ring()), Star(3)], ids=["gossip", "star"])
def test_the_memory_of_a_replay_is_bounded(overlay):
    run = build(overlay=overlay, attack=Replay((1, 2), 2), rounds=8, workload=workload(6))
    list(run.records())
    kept = [name for name in run.snapshot().tensors if name.startswith("attack/")]
    assert 0 < len(kept) <= 2 * 3


def test_a_replay_slows_learning_down():
    given = dict(overlay=Gossip(Full()), rounds=5, local=LOCAL)
    fresh, old = (list(build(attack=a, **given).records())[-1].metrics["loss"] for a in ("none", "replay:1+2+3:4"))
    assert old > fresh


def test_by_name():
    assert make("attack", "free-rider:1+2:0.5") == FreeRider((1, 2), 0.5)
    assert make("attack", "replay:10%:3") == Replay(0.1, 3)
