import pytest
import torch

from hubless.errors import ConfigError
from hubless.learn.fusion.oneshot import Assembled
from hubless.learn.fusion.predictions import Fusion
from hubless.learn.fusion.unconstrained import BASE, EXPERTS, FUSE, ByPhase, Fusing
from hubless.testing import check_overlay

TEXTS = torch.full((2, 8), ord("a"))


@pytest.mark.parametrize("more", [False, True])
@pytest.mark.parametrize(("pivots", "sources"), [((0,), (1, 2, 3, 4, 5, 6)), ((0, 1, 2), (3, 4, 5, 6))])
def test_the_overlay(pivots, sources, more):
    check_overlay(Fusing(pivots, sources, more))


def test_a_peer_is_a_pivot_or_a_source():
    with pytest.raises(ConfigError, match="each must be a pivot"):
        Fusing((0,), (1,)).check(3)
    with pytest.raises(ConfigError, match="each must be a pivot"):
        Fusing((0, 1, 2), ()).check(3)


def test_each_exchange_has_its_own_merge():
    weights = Assembled(validation=(TEXTS, TEXTS))
    merge = ByPhase(parts={BASE: weights, FUSE: Fusion(texts=TEXTS), EXPERTS: weights})
    assert [merge.kind(phase) for phase in merge.phases] == ["model", "predictions", "model"]
    assert merge.within == (BASE, EXPERTS)
