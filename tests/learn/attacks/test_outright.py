import pytest
import torch
from small import GROUPS, apart, build, first_row, rows

from hubless import testing
from hubless.errors import ConfigError
from hubless.learn import Gossip
from hubless.learn.attacks import NegativeModel, RandomModel
from hubless.learn.context import Context
from hubless.net.topologies import Full


def context(**more):
    return Context(t=1, N=5, model=GROUPS, slope=None, **more)


def message():
    return {**{name: torch.ones(part.stop - part.start) for name, part in GROUPS.groups.items()}, "seen": torch.ones(2)}


def test_the_model_is_turned_round_wherever_it_began():
    sent = NegativeModel(scale=4.0).message(message(), None, {}, context(start=torch.full((GROUPS.size,), 7.0)))
    assert torch.equal(sent["trunk"], torch.full_like(sent["trunk"], -4))
    assert torch.equal(sent["seen"], torch.ones(2)), "what is no parameter stays"


def test_noise_has_the_deviation_asked_for_and_differs_by_group_and_round():
    attack = RandomModel(std=2.0)
    sent = [attack.message(message(), None, {}, context(key=key)) for key in range(40)]
    both = torch.cat([torch.cat([m["trunk"], m["head"]]) for m in sent])
    assert both.std() == pytest.approx(2, rel=0.05)
    assert abs(both.mean()) < 0.2
    assert not torch.equal(sent[0]["trunk"], sent[1]["trunk"])
    assert not torch.equal(sent[0]["trunk"][:5], sent[0]["head"][:5])
    assert torch.equal(sent[0]["seen"], torch.ones(2))


@pytest.mark.parametrize("spec", ["negative-model:20%:scale=2", "random-model:3+4:std=5"])
def test_by_name(spec):
    testing.check_attack(spec)
    run = build(attack=spec, overlay=Gossip(Full()))
    assert apart(rows(run)[0], first_row(run.models[0][0])) > 0.1


def test_noise_needs_a_deviation():
    with pytest.raises(ConfigError, match=r"attack.std = 0: must be positive"):
        RandomModel(std=0.0)
