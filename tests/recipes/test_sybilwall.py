import numpy as np
import pytest
import torch

from hubless import catalogue
from hubless.errors import ConfigError
from hubless.net.infiltrated import Infiltrated
from hubless.net.topologies import RandomRegular, Ring
from hubless.parts import make
from hubless.recipes.learning.sybilwall import Infiltration, corner

RECIPE = catalogue.find("sybilwall").load()


def records(**options):
    return list(RECIPE.build(options, "tiny").records())


@pytest.mark.parametrize(("phi", "identities"), [(0, 0), (1, 6), (2, 3), (6, 1)])
def test_identities_share_out_the_attack_edges(phi, identities):
    found = records(phi=phi)
    assert found[0].data["peers"] == 6 + identities
    assert found[0].data["hostile"] == list(range(6, 6 + identities))
    assert ("attack_success" in found[-1].metrics) == (phi > 0)


@pytest.mark.parametrize("merge", ["mean", "median", "krum", "foolsgold", "sybilwall:gossip=false"])
@pytest.mark.parametrize("attack", ["label-flip", "backdoor"])
def test_baselines_run_under_both_attacks(merge, attack):
    assert np.isfinite(records(merge=merge, attack=attack, phi=2)[-1].metrics["loss"])


def test_lonely_peers_send_nothing():
    end = records(alone=True, phi=0)[-1].metrics
    assert end["messages"] == 0


def test_the_attacker_has_copies_of_both_classes_and_some_others():
    y = np.arange(300) % 10
    held = Infiltration(make("partition", "iid"), 3, 20).split(y, 7, 0)
    assert sorted(np.concatenate(held[:4]).tolist()) == list(range(300))
    assert [len(rows) for rows in held[4:]] == [80, 0, 0]
    assert (y[held[4]] < 2).sum() == 60


@pytest.mark.parametrize(("identities", "each"), [(16, 1), (4, 4), (1, 16), (3, 5)])
def test_attack_edges_are_spread_evenly_and_symmetric(identities, each):
    edges = Infiltrated(RandomRegular(4), identities, each).edges(16 + identities, seed=1)
    degree = edges.degree
    assert edges.symmetric
    assert degree[16:].tolist() == [each] * identities
    assert set((degree[:16] - 4).tolist()) <= {identities * each // 16, -(-identities * each // 16)}


@pytest.mark.parametrize(("identities", "each"), [(20, 1), (1, 8), (2, 0)])
def test_an_infiltration_that_cannot_be(identities, each):
    with pytest.raises(ConfigError, match="identit"):
        Infiltrated(Ring(), identities, each).edges(8)


def test_the_backdoor_lies_in_the_corner():
    mask = corner((1, 8, 8))
    assert float(mask.sum()) == 9
    assert float(mask[0, 2, 2]) == 1
    assert torch.equal(mask, mask.mT)


def test_attack_edges_that_do_not_divide():
    with pytest.raises(ConfigError, match="phi"):
        RECIPE.build(dict(phi=4), "tiny")
