"""A run on workers writes the records of a run in one process, byte for byte."""

import pytest
import small
from elsewhere import Here, build, lines, stopped

from hubless.errors import ConfigError, HublessError, NonFiniteError
from hubless.learn import Hook
from hubless.learn.backends import crew, hosts

RUNS = {
    "dfedsam": ("dfedsam", {}),
    "dsgd on a ring": ("dsgd", {"topology": "ring", "peers": 6}),
    "fedavg on a star": ("fedavg", {}),
    "fedavg handed on": ("fedavg", {"aggregator": "rotating", "server": "adam", "peers": 6, "rounds": 4}),
    "fedavg of unequal peers": ("fedavg", {"partition": "dirichlet:0.3", "peers": 8, "participants": 5}),
    "scaffold": ("scaffold", {"aggregator": "rotating"}),
    "modest": ("modest", {}),
    "bristle": ("bristle", {}),
    "sybilwall": ("sybilwall", {}),
    "single-merge": ("single-merge", {}),
    "knexa, cohorts and a bandit": ("knexa", {}),
    "fedzip, error feedback": ("fedzip", {}),
    "a codec that remembers": ("dsgd", {"codec": "delta+top-k:0.1", "faults": "loss:0.2", "rounds": 5}),
    "one attacker sees all": ("robust", {"attack": "alie:40%", "peers": 6}),
    "a star's attackers see all": ("fedavg", {"attack": "alie:40%", "peers": 6, "merge": "median"}),
    "one attacker of many names": ("sybilwall", {"attack": "backdoor"}),
    "lies": ("dsgd", {"attack": "sign-flip:40%", "topology": "full", "peers": 5}),
    "peers whose numbers blow up": ("dsgd", {"lr": 1e8, "nonfinite": "drop", "partition": "dirichlet:0.3", "peers": 8}),
    "faults": ("dsgd", {"faults": "crash:1@2,loss:0.3,straggler:40%x3", "peers": 6, "rounds": 4}),
    "a star's faults": ("fedavg", {"faults": "crash:1@2,loss:0.3", "peers": 6, "rounds": 4}),
    "the aggregator dies": (
        "fedavg",
        {"aggregator": "rotating", "faults": "crash:aggregator@2", "rounds": 4},
    ),
    "sums that hide": ("rqm", {}),
    "a star's secure sums": ("fedavg", {"codec": "secure-sum", "weigh": "one", "peers": 6}),
    "secure sums of few neighbours": (
        "dsgd",
        {"codec": "secure-sum:0.2:neighbours=2", "weights": "uniform", "topology": "full", "peers": 6},
    ),
    "secure sums, some of which stay closed": (
        "fedavg",
        {"codec": "secure-sum", "weigh": "one", "faults": "crash:1@2,loss:0.3", "peers": 6, "rounds": 4},
    ),
    "gossip of secure sums, some of which stay closed": (
        "dsgd",
        {"codec": "secure-sum:0.2", "weights": "uniform", "peers": 6, "faults": "crash:1@2,loss:0.3"},
    ),
    "lies in secure sums": (
        "dsgd",
        {"codec": "secure-sum", "weights": "uniform", "topology": "full", "peers": 5, "attack": "sign-flip:40%"},
    ),
}


class Watcher(Hook):
    """Looks at every message."""

    needs_messages = True


@pytest.fixture(autouse=True)
def _here(monkeypatch):
    monkeypatch.setattr(hosts, "Process", Here)
    monkeypatch.setattr(Here, "fatal", None)


@pytest.mark.parametrize("name", RUNS)
def test_records_are_those_of_one_process(name):
    recipe, options = RUNS[name]
    whole = lines(build(recipe, **options))
    for workers in (2, 3):
        assert lines(build(recipe, "processes", workers, **options)) == whole


def test_a_star_has_many_peers_in_several_chunks(monkeypatch):
    monkeypatch.setattr("hubless.learn.training.chunk_size", lambda *_: 3)
    options = {"peers": 10, "partition": "dirichlet:0.5", "rounds": 2}
    whole = lines(build("fedavg", **options))
    assert lines(build("fedavg", "processes", 3, **options)) == whole


@pytest.mark.parametrize("recipe", ["dfedsam", "fedavg"])
@pytest.mark.parametrize("fatal", [3, 7, 10])
def test_a_worker_that_dies_leaves_no_trace_in_the_records(recipe, fatal, monkeypatch, caplog):
    options = {"rounds": 3, "peers": 4, "evaluate": 2}
    whole = lines(build(recipe, **options))
    monkeypatch.setattr(Here, "fatal", fatal)
    assert lines(build(recipe, "processes", **options)) == whole
    assert Here.fatal is None, "nobody died"
    assert "a worker died" in caplog.text


def test_workers_that_keep_dying_end_the_run(monkeypatch):
    class Doomed(Here):
        def receive(self):
            raise hosts.HostLost("never lives")

    monkeypatch.setattr(hosts, "Process", Doomed)
    with pytest.raises(HublessError, match="4 times"):
        lines(build("dsgd", "processes"))


@pytest.mark.parametrize(("before", "after"), [("in-process", "processes"), ("processes", "in-process")])
@pytest.mark.parametrize("recipe", ["dfedsam", "fedavg", "sybilwall"])
def test_a_run_goes_on_elsewhere(recipe, before, after):
    whole = lines(build(recipe, rounds=3))
    first, snapshot = stopped(build(recipe, before, rounds=3), 1)
    assert first + lines(build(recipe, after, rounds=3), snapshot) == whole


def test_what_peers_learned_is_there_at_the_end():
    one, other = build("dfedsam"), build("dfedsam", "processes")
    lines(one), lines(other)
    assert one.model().keys() == other.model().keys()
    assert all(value.equal(other.model()[name]) for name, value in one.model().items())


def test_identities_of_one_attacker_are_held_together():
    run = build("sybilwall", "processes", 3)
    parts = crew.shares(run)
    assert sorted(peer for part in parts for peer in part) == list(range(run.n))
    assert any(run.hostile <= set(part) for part in parts)


def test_what_no_shard_can_do_is_refused_before_any_work():
    elsewhere = {"backend": "processes", "workers": 2}
    with pytest.raises(ConfigError, match="Watcher sees the messages of all peers"):
        small.build(hooks=(Watcher(),), setting=elsewhere)


def test_an_experiment_without_a_recipe_is_refused():
    run = small.build(setting={"backend": "processes", "workers": 2})
    with pytest.raises(ConfigError, match="backend = 'processes': workers build the experiment from its recipe"):
        next(run.records())


def test_an_error_of_a_worker_names_peer_and_round():
    whole = build("dsgd", lr=1e30)
    with pytest.raises(NonFiniteError) as one:
        lines(whole)
    with pytest.raises(NonFiniteError) as other:
        lines(build("dsgd", "processes", lr=1e30))
    assert str(one.value) == str(other.value)
