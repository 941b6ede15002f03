"""Sampled: who trains, who averages, what it costs, and what happens when most of them are gone."""

import pytest
import torch
from small import build, close, rows, workload

from hubless.errors import ConfigError
from hubless.learn import Attack, Gossip
from hubless.learn.membership import ENTRY, sample_order
from hubless.learn.plan import Exchange, Train, World
from hubless.learn.sampled import PING, Sampled
from hubless.net.topologies import Full


class Town:
    """A population of peers without models: plans round after round."""

    def __init__(self, overlay, n=20, seed=0, dead=()):
        self.overlay, self.n, self.seed, self.dead = overlay, n, seed, set(dead)
        self.book = overlay.init(self.world())

    def world(self, joined=(), left=()):
        sizes = torch.ones(self.n, dtype=torch.int64)
        return World(self.n, self.seed, sizes, list(range(self.n)), lambda p: p not in self.dead, joined, left)

    def plan(self, t, **news):
        plan = self.overlay.plan(t, self.world(**news), self.book)
        return plan, self.overlay.chatter(t, self.book)


def exchange(plan, name):
    return next(step for step in plan if isinstance(step, Exchange) and step.name == name)


def test_the_first_of_the_hash_order_train_and_the_first_of_the_next_average():
    town = Town(Sampled(sample=5, aggregators=2))
    for t in (1, 2, 3):
        plan, chatter = town.plan(t)
        now, following = sample_order(range(20), t, 0), sample_order(range(20), t + 1, 0)
        assert next(s for s in plan if isinstance(s, Train)).roles["train"].tolist() == sorted(now[:5])
        up, down = exchange(plan, "up"), exchange(plan, "down")
        assert set(up.src.tolist()) == set(now[:5])
        assert set(up.dst.tolist()) == set(following[:2]) == set(town.overlay.outcome(t, town.book))
        assert set(down.dst.tolist()) == set(following[:5])
        assert chatter.metrics["disagreements"] == 0
        assert chatter.seconds == 0


def test_bytes_are_pings_acknowledgements_and_the_views_on_models():
    town = Town(Sampled(sample=4))
    plan, chatter = town.plan(1)
    models = sum(int((step.src != step.dst).sum()) for step in plan if isinstance(step, Exchange))
    acknowledgements = int((exchange(plan, "up").src != exchange(plan, "up").dst).sum())
    pings = chatter.metrics["pings"]
    assert chatter.messages == 2 * pings + acknowledgements
    assert float(chatter.sent.sum()) == PING * chatter.messages + 20 * ENTRY * models
    assert pings == models, "each model goes to a peer that was asked before"


def test_the_dead_are_passed_over_at_the_price_of_their_pings():
    town = Town(Sampled(sample=5, window=6))
    for t in range(1, 4):
        town.plan(t)
    town.dead = set(range(20)) - set(sample_order(range(20), 4, 0)[:2]) - {1, 3, 5, 7}
    for t in range(4, 20):
        plan, chatter = town.plan(t)
        live = [peer for peer in sample_order(range(20), t + 1, 0) if peer not in town.dead]
        assert town.book["sample"] == sorted(live[:5])
        assert set(exchange(plan, "down").dst.tolist()) == set(live[:5])
        assert (chatter.metrics["wasted_pings"] > 0) == (chatter.seconds % 300 > 0)
        if t == 4:
            assert chatter.metrics["wasted_pings"] > 5
            assert chatter.seconds >= 300, "the aggregator waited for those that died with their models"
    assert chatter.metrics["wasted_pings"] == 0, "after the window nobody asks the dead any more"


def test_without_pings_a_sample_may_be_dead_and_work_goes_down_the_list():
    town = Town(Sampled(sample=5, pings=False))
    town.plan(1)
    order = sample_order(range(20), 3, 0)
    town.dead = set(order[:2]) - set(town.book["sample"]) or {order[0]}
    plan, chatter = town.plan(2)
    taker = next(peer for peer in order if peer not in town.dead)
    assert town.book["holders"] == [taker]
    assert set(exchange(plan, "up").dst.tolist()) == set(order[: order.index(taker) + 1])
    assert set(exchange(plan, "down").dst.tolist()) == set(order[:5])
    assert chatter.metrics["pings"] == chatter.metrics["wasted_pings"] == 0
    assert chatter.metrics["sampled"] == 5 - len(town.dead & set(order[:5]))


def test_a_round_whose_whole_sample_died_begins_anew():
    town = Town(Sampled(sample=3))
    town.plan(1)
    holder = town.book["holders"][0]
    town.dead = set(town.book["sample"])
    plan, chatter = town.plan(2)
    assert [step.name for step in plan if isinstance(step, Exchange)] == ["down"]
    assert len(town.book["sample"]) == 3
    assert "goes out again" in chatter.events[0]
    assert holder in town.dead or town.book["holders"] == [holder]


def test_a_quorum_that_is_not_met_keeps_the_last_average():
    town = Town(Sampled(sample=5, quorum=3))
    town.plan(1)
    town.dead = set(town.book["sample"][:3])
    plan, _ = town.plan(2)
    assert exchange(plan, "up").weight.sum() == 0
    assert "goes out again" in town.overlay.chatter(2, town.book).events[0]


def test_more_models_than_success_asks_for_are_ignored():
    town = Town(Sampled(sample=5, success=0.61))
    plan, _ = town.plan(1)
    assert exchange(plan, "up").weight.tolist().count(1.0) == 3
    assert len(exchange(plan, "up").src) == 5


def test_joiners_are_asked_and_leavers_are_not():
    town = Town(Sampled(sample=4), dead={17, 18, 19})
    seen = set()
    for t in range(1, 8):
        town.plan(t)
        seen |= set(town.book["sample"])
    assert not seen & {17, 18, 19}
    town.dead = {2}
    town.plan(8, joined=(17, 18, 19), left=(2,))
    seen, wasted = set(), 0
    for t in range(9, 40):
        _, chatter = town.plan(t)
        seen |= set(town.book["sample"])
        wasted += chatter.metrics["wasted_pings"]
    assert {17, 18, 19} <= seen
    assert wasted == 0, "nobody pings a peer that said good-bye"


def test_fewer_live_peers_than_a_sample_go_on_and_say_so_once():
    town = Town(Sampled(sample=6, window=30))
    town.plan(1)
    town.dead = set(range(20)) - set(town.book["sample"][:3])
    told = [event for t in (2, 3, 4) for event in town.plan(t)[1].events]
    assert told == ["the next sample has 3 live peers, not 6; they go on alone"]


@pytest.mark.parametrize(
    ("overlay", "said"),
    [
        (Sampled(sample=6), "participants = 6"),
        (Sampled(sample=0), "participants = 0"),
        (Sampled(sample=3, aggregators=4), "aggregators = 4"),
        (Sampled(sample=3, success=0.2), "success = 0.2"),
        (Sampled(sample=3, success=1.5), "success = 1.5"),
        (Sampled(sample=3, quorum=4), "quorum = 4"),
        (Sampled(sample=3, window=0), "inactivity"),
    ],
)
def test_bad_samples_are_refused(overlay, said):
    with pytest.raises(ConfigError, match=said):
        build(overlay=overlay)


def test_a_sample_of_everyone_is_gossip_with_everyone():
    given = dict(workload=workload(peers=4), rounds=3)
    close(
        rows(build(overlay=Sampled(sample=4), **given)), rows(build(overlay=Gossip(Full(), weights="uniform"), **given))
    )


class Broken(Attack):
    """Sends something that is no model."""

    def message(self, m, honest, book, ctx):
        return {name: value * float("nan") for name, value in m.items()}


def test_a_malformed_model_is_dropped_and_counted():
    run = build(workload=workload(peers=6), overlay=Sampled(sample=4), attack=Broken((0, 1)), rounds=4)
    records = list(run.records())
    assert records[-1].metrics["rejected"] > 0
    assert any("refused" in record.data.get("text", "") for record in records if record.kind == "event")
    assert torch.isfinite(run.snapshot().tensors["cohort.0/rows"]).all()


def test_a_run_goes_on_from_a_checkpoint_as_if_nothing_happened():
    given = dict(workload=workload(peers=8), overlay=Sampled(sample=3), rounds=6)
    setting = dict(faults="crash:40%@3,join:1@5")
    whole = [record.line() for record in build(setting=setting, **given).records()]
    first = build(setting=setting, **given)
    records = first.records()
    for record in records:
        if record.kind == "round" and record.round == 3:
            break
    snapshot = first.snapshot()
    rest = [record.line() for record in build(setting=setting, **given).records(snapshot)]
    assert whole[-len(rest) :] == rest
    assert len(rest) >= 4


def test_messages_that_all_go_to_the_dead_change_nothing():
    """Without pings a model may go to dead peers only: an exchange in which nothing arrives."""
    run = build(
        workload=workload(peers=10), overlay=Sampled(sample=2, pings=False), rounds=8, setting=dict(faults="crash:7@2")
    )
    assert torch.isfinite(rows(run)).all()
