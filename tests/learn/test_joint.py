"""Several identities of one attacker: one trains, hears all and speaks through all."""

from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch

from hubless.learn import SGD, Alone, Gossip, Learning, Median, Star, WeightedMean, Workload
from hubless.learn.slots import Attack, Reduce
from hubless.run.setting import Setting


@dataclass(frozen=True)
class Clones(Attack):
    joint: ClassVar[bool] = True
    reduce: ClassVar[Reduce | None] = WeightedMean()

    def message(self, m, honest, book, ctx):
        book["asked"] = book.get("asked", 0) + 1
        book["peer"] = ctx.peer
        return {name: value + 1 for name, value in m.items()}


def state(overlay, merge, attack=None, rounds=1):
    work = Workload("digits", "iid", 6, "mlp:8", samples=120)
    run = Learning(work, SGD(lr=0.1, steps=2, batch=5), overlay, merge, attack=attack, rounds=rounds).under(Setting())
    list(run.records())
    return run._state.wiring.population


def rows(*args, **more):
    return state(*args, **more).cohorts[0].rows


def alone():
    """Everybody's model after training, before any exchange."""
    return rows(Alone(), WeightedMean())


@pytest.mark.parametrize(("overlay", "heard"), [(Gossip("ring"), [2, 3, 5]), (Gossip("full"), [0, 1, 2, 3, 5])])
def test_the_first_identity_hears_every_honest_neighbour_of_all_of_them_once(overlay, heard):
    population = state(overlay, Median(), Clones((3, 4)))
    assert torch.allclose(population.cohorts[0].rows[3], alone()[heard].mean(0), atol=1e-6)
    assert population.attack_books.keys() == {3}
    assert population.attack_books[3]["peer"] == 3


def test_what_it_hears_is_averaged_whatever_the_others_do():
    trained = state(Gossip("full"), WeightedMean(), Clones((4, 5)))
    by_hand = state(Gossip("full"), Median(), Clones((4, 5)))
    assert torch.allclose(trained.cohorts[0].rows[4], by_hand.cohorts[0].rows[4], atol=1e-6)
    assert not torch.allclose(trained.cohorts[0].rows[0], by_hand.cohorts[0].rows[0], atol=1e-3)


def test_all_identities_send_one_message_and_only_the_first_trains():
    got, trained = rows(Gossip("ring"), WeightedMean(), Clones((3, 4))), alone()
    assert torch.allclose(got[1], trained[[0, 1, 2]].mean(0), atol=1e-6)  # its neighbours are honest
    assert torch.allclose(got[2], (trained[[1, 2, 3]].sum(0) + 1) / 3, atol=1e-6)
    assert torch.allclose(got[5], (trained[[0, 3, 5]].sum(0) + 1) / 3, atol=1e-6)


def test_a_star_with_identities_keeps_rows():
    population = state(Star(), WeightedMean(), Clones((3, 4)))
    assert population.cohorts[0].rows.shape[0] == 6
    assert torch.isfinite(population.cohorts[0].rows).all()
