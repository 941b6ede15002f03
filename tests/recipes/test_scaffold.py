import pytest

from hubless import catalogue
from hubless.errors import ConfigError


def records(name="scaffold", **options):
    return list(catalogue.find(name).load().build(options, "tiny").records())


def losses(found):
    return [r.metrics["loss"] for r in found if r.kind == "round"]


def test_a_tiny_run_is_the_same_twice():
    assert [r.line() for r in records(seed=3)] == [r.line() for r in records(seed=3)]


def test_a_peer_alone_has_no_drift_to_correct():
    options = dict(peers=1, partition="iid", rounds=4)
    assert losses(records(**options)) == pytest.approx(losses(records("fedavg", **options)), abs=1e-5)


def test_the_first_round_is_fedavg_and_later_ones_are_not():
    same = dict(partition="iid", samples=300, peers=6)
    ours, theirs = losses(records(**same)), losses(records("fedavg", **same))
    assert ours[0] == pytest.approx(theirs[0], abs=1e-5)
    assert ours[2] != pytest.approx(theirs[2], abs=1e-6)


def test_messages_carry_the_variates_too():
    ours, theirs = records()[-1], records("fedavg")[-1]
    assert 1.9 < ours.metrics["bytes"] / theirs.metrics["bytes"] < 2.1


def test_the_role_takes_the_common_variate_with_it():
    options = dict(participants=3, rounds=5)
    moved, stayed = records(aggregator="rotating", **options), records(**options)
    assert losses(moved) == pytest.approx(losses(stayed), abs=1e-5)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [({"participants": 9}, "participants"), ({"server_lr": -1.0}, "server_lr"), ({"momentum": 0.9}, "momentum")],
)
def test_bad_options_are_refused(wrong, said):
    with pytest.raises(ConfigError, match=said):
        catalogue.find("scaffold").load().build(wrong, "tiny")
