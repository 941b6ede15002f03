"""lattica: each stage finds what its card says at a small scale, and refuses what it cannot do."""

import re

import pytest

from hubless.catalogue import find
from hubless.errors import ConfigError
from hubless.net.trials import namespaces
from hubless.testing import check_recipe

SMALL = {
    "A": dict(peers=20),
    "B": dict(replicas=9, apart=12.0, writes=40),
    "C": dict(followers=6, artefact=0.5, chunk=32, uplink=0.1),
    "D": dict(nodes=30, keys=30),
}


def ran(stages, **options):
    records = list(find("lattica").load().build({"stages": stages, "threads": 1, **options}).records())
    return records[-1].metrics, records


def test_conformance():
    check_recipe(find("lattica").load())


def test_a_relays_reach_whom_punching_does_not():
    found, _ = ran("A", **SMALL["A"])
    assert 0.6 < found["direct_share"] < 0.76
    assert found["answered_share"] == 1.0
    assert found["answered_share_without_relays"] == found["direct_share"]
    assert found["direct_share"] + found["relayed_share"] == pytest.approx(1)
    assert found["seconds_relayed"] > found["seconds_direct"]
    open_, _ = ran("A", **SMALL["A"], mix="open=1,full=1")
    assert open_["direct_share"] == 1.0
    blocked, _ = ran("A", **SMALL["A"], mix="blocked=1", relays=1)
    assert (blocked["direct_share"], blocked["answered_share"]) == (0.0, 1.0)


def test_b_replicas_become_equal_and_overwriting_loses():
    found, _ = ran("B", **SMALL["B"])
    assert found["heal_rounds"] <= 8
    assert found["replicas_equal"] == found["counter_exact"] == 1
    assert found["operations_lost"] == 0
    assert found["operations"] == 120
    assert found["adds_lost_share_overwriting"] > 0.1


def test_c_many_sources_are_sooner_and_a_liar_changes_nothing():
    found, _ = ran("C", **SMALL["C"], liars=2)
    assert found["sync_speedup"] > 1.5
    assert found["synced_share"] == 1.0
    assert found["pieces_refused"] >= 1
    honest, _ = ran("C", **SMALL["C"], liars=0)
    assert honest["pieces_refused"] == 0
    assert honest["sync_seconds"] == found["sync_seconds"] == honest["sync_seconds_some_lie"]


def test_d_records_outlive_their_keepers_when_there_are_several():
    found, _ = ran("D", **SMALL["D"], killed=0.3)
    assert found["found_share"] == 1.0
    assert found["found_share_one_replica"] < 0.9
    assert found["replicas_kept"] == 8
    assert found["lookup_rounds_most"] <= 5


def test_e_processes_do_every_operation():
    found, records = ran("E", processes=3, artefact=1.0)
    assert found["operations_right"] == 5, records
    (table,) = (record.data for record in records if record.kind == "figure")
    assert [row[1:] for row in table["rows"]] == [[3, 3]] * 5


def test_e_a_deadline_that_nobody_can_keep_is_told_and_not_hung():
    found, records = ran("E", processes=2, artefact=1.0, deadline=0.01)
    assert found["operations_right"] < 5
    assert records[-1].data["finished"]


@pytest.mark.parametrize(("root", "said"), [(1000, "need root"), (0, "no nft on this machine")])
def test_f_names_what_is_missing(monkeypatch, root, said):
    monkeypatch.setattr(namespaces.os, "geteuid", lambda: root)
    monkeypatch.setattr(namespaces.shutil, "which", lambda tool: None if tool == "nft" else tool)
    assert said in namespaces.missing() or not namespaces.sys.platform.startswith("linux")


@pytest.mark.skipif(not namespaces.sys.platform.startswith("linux"), reason="namespaces are Linux's")
@pytest.mark.parametrize(("driver", "said"), [(None, r"hubless\[lattica\]"), (True, "no libp2p relay.*npm install")])
def test_f_names_the_driver_and_its_relay(monkeypatch, driver, said):
    monkeypatch.setattr(namespaces.os, "geteuid", lambda: 0)
    monkeypatch.setattr(namespaces.shutil, "which", lambda tool: tool)
    monkeypatch.setattr(namespaces.importlib.util, "find_spec", lambda name: driver)
    monkeypatch.delenv(namespaces.FOLDER, raising=False)
    assert re.search(said, namespaces.missing())


def test_f_says_why_it_was_skipped(monkeypatch):
    monkeypatch.setattr(namespaces, "missing", lambda: "no such thing here")
    _, records = ran("AF", peers=2)
    assert "skipped: no such thing here" in [record.data.get("text") for record in records]


def test_f_counts_ways_and_calls(monkeypatch):
    def between(kind, seed):
        one = {"reach": "direct", "right": namespaces.CALLS, "refused": []}
        return [one, one if kind == "cone" else {"reach": "none", "right": 3, "refused": ["RequestTimeout: slow"] * 17}]

    monkeypatch.setattr(namespaces, "missing", lambda: None)
    monkeypatch.setattr(namespaces, "between", between)
    found, records = ran("F")
    assert (found["direct_cone"], found["relayed_cone"], found["none_cone"], found["calls_right_cone"]) == (2, 0, 0, 1)
    assert (found["direct_symmetric"], found["none_symmetric"], found["calls_right_symmetric"]) == (1, 1, 23 / 40)
    assert "symmetric routers: RequestTimeout: slow" in [record.data.get("text") for record in records]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"stages": ""}, r"lattica\.stages = ''"),
        ({"stages": "AX"}, r"lattica\.stages = 'AX': must be some of ABCDEF"),
        ({"stages": "AA"}, r"lattica\.stages = 'AA'"),
        ({"stages": "BA"}, r"lattica\.stages = 'BA'"),
        ({"mix": "opne=1"}, r"lattica\.mix = 'opne=1': did you mean 'open'"),
        ({"mix": "open"}, r"lattica\.mix = 'open': must be like"),
        ({"mix": "open=0"}, r"lattica\.mix = 'open=0'"),
        ({"mix": "open=-1,sym=2"}, r"lattica\.mix"),
        ({"mix": "open=nan"}, r"lattica\.mix"),
        ({"peers": 1}, "peers = 1: must be at least 2"),
        ({"replicas": 2, "sides": 3}, "sides = 3: must be from 1"),
        ({"latency_least": 200.0}, r"link\.latency"),
        ({"loss": 1.0}, r"lattica\.loss = 1\.0"),
        ({"killed": 1.0}, r"lattica\.killed"),
        ({"uplink": 0.0}, r"lattica\.uplink"),
        ({"faults": "crash:1@2"}, "means nothing to this recipe"),
    ],
)
def test_options_that_cannot_be_are_refused_before_any_work(given, said):
    with pytest.raises(ConfigError, match=said):
        find("lattica").load().build(given)
