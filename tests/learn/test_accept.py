"""Messages that no honest peer sends are dropped and counted, and never end a run."""

from dataclasses import dataclass

import pytest
import torch
from small import build, metrics

from hubless.errors import MessageError
from hubless.learn import Gossip, Median, ServerOpt, Star
from hubless.learn.accept import Forms
from hubless.learn.slots import Attack
from hubless.net.topologies import Full


@dataclass(frozen=True)
class Malformed(Attack):
    """Two peers send a name of their own in two shapes; one parameters as integers, one as not finite."""

    def message(self, m, honest, book, ctx):
        name = next(iter(m))
        return {
            1: {**m, "extra": torch.zeros(3)},
            2: {**m, "extra": torch.zeros(4)},
            3: {**m, name: torch.ones(m[name].shape, dtype=torch.int64)},
            4: {**m, name: torch.full_like(m[name], torch.nan)},
        }[ctx.peer]


@pytest.mark.parametrize("reduce", ["mean", "median"])
@pytest.mark.parametrize("overlay", [Star(weigh="one"), Gossip(Full())], ids=["star", "gossip"])
def test_malformed_messages_are_counted_and_the_rest_goes_on(overlay, reduce):
    merge = (ServerOpt(Median()) if reduce == "median" else ServerOpt()) if isinstance(overlay, Star) else reduce
    run = build(overlay=overlay, merge=merge, attack=Malformed((1, 2, 3, 4)), codec="zstd", rounds=2)
    end = metrics(run)[-1]
    # in gossip peer 0 drops three messages; 1 and 2 have the extra name once, 3 and 4 do not hear themselves
    assert end["rejected"] == 2 * (3 if isinstance(overlay, Star) else 3 + 4 * 2)
    assert torch.isfinite(torch.tensor(end["loss"]))


def test_forms_are_those_that_came_first():
    forms = Forms()
    forms.agree({"a": torch.zeros(2)})
    with pytest.raises(MessageError, match=r"a is torch.float32 of shape \(3,\)"):
        forms.agree({"a": torch.zeros(3), "b": torch.zeros(1)})
    with pytest.raises(MessageError, match="int64"):
        forms.agree({"a": torch.zeros(2, dtype=torch.int64)})
    forms.agree({"b": torch.zeros(7)})
