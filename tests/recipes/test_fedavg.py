import pytest

from hubless import catalogue
from hubless.errors import ConfigError

RECIPE = catalogue.find("fedavg").load()


def records(name="fedavg", **options):
    return list(catalogue.find(name).load().build(options, "tiny").records())


def curve(metric, found):
    return [r.metrics[metric] for r in found if r.kind == "round"]


def test_a_tiny_run_is_the_same_twice():
    first, second = records(seed=3), records(seed=3)
    assert [r.line() for r in first] == [r.line() for r in second]
    assert 0 <= first[-1].metrics["accuracy"] <= 1


def test_one_full_batch_step_a_round_is_gradient_descent_on_all_data():
    whole = dict(batch=0, steps=1)
    together, pooled = records(**whole), records("centralised", **whole)
    assert curve("loss", together) == pytest.approx(curve("loss", pooled), abs=1e-5)


@pytest.mark.parametrize("server", ["sgd", "adam"])
def test_no_hub_is_hidden(server):
    options = dict(server=server, participants=4)
    star, rotating = records(**options), records(aggregator="rotating", **options)
    assert curve("loss", star) == pytest.approx(curve("loss", rotating), abs=1e-5)
    assert rotating[-1].metrics["bytes"] > star[-1].metrics["bytes"]


def test_participants_train_and_nobody_else():
    assert curve("trained", records(participants=2)) == [2, 2, 2]


def test_a_server_step_of_any_length_follows_the_mean_update():
    plain, half = records(rounds=1), records(rounds=1, server_lr=0.5)
    assert curve("loss", plain) != curve("loss", half)
    assert curve("loss", records(rounds=1, server_lr=1 - 1e-7)) == pytest.approx(curve("loss", plain), abs=1e-5)


@pytest.mark.parametrize("merge", ["median", "trimmed-mean:0.2"])
@pytest.mark.parametrize("server", ["sgd", "yogi"])
def test_merges_compose_with_server_optimisers(merge, server):
    other, mean = records(merge=merge, server=server), records(server=server)
    assert curve("loss", other) != curve("loss", mean)


def test_local_work_is_counted_in_steps_or_epochs():
    assert curve("train_loss", records(steps=1)) != curve("train_loss", records(epochs=2))


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"participants": 7}, "participants = 7"),
        ({"aggregator": "hub"}, "fedavg.aggregator"),
        ({"server_lr": 0.0}, "fedavg.server_lr"),
        ({"merge": "server:adam", "server": "adam"}, "fedavg.server = 'adam'"),
        ({"steps": 0}, "fedavg.steps"),
    ],
)
def test_bad_options_are_refused_before_any_work(wrong, said):
    with pytest.raises(ConfigError, match=said):
        RECIPE.build(wrong, "tiny")
