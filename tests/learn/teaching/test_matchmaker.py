from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hubless.errors import ConfigError
from hubless.learn.plan import Exchange, World
from hubless.learn.teaching.matchmaker import REWARD, TAUGHT, Matchmaker, disjoint
from hubless.learn.teaching.profiles import PROFILE
from hubless.testing import check_overlay

N = 6
QUALITY = [0.9, 0.8, 0.7, 0.2, 0.1, 0.0]
WAYS = ["linucb", "random", "hetero", "central", "none"]


def maker(match="linucb", **more):
    return Matchmaker(match, **{"pairs": 2, "bins": 2, "metrics": 1, **more})


def world(dead=(), members=range(N)):
    return World(N, 3, torch.ones(N, dtype=torch.int64), list(members), lambda peer: peer not in dead)


def reports(overlay, book, t, reward=lambda i, j: QUALITY[i] - QUALITY[j], **more):
    """What peers report after round t, where every lesson took place."""
    rewards, taught = {j: torch.zeros(()) for j in range(N)}, {j: torch.tensor(0) for j in range(N)}
    for i, j in book["pairs"]:
        rewards[j], taught[j] = torch.tensor(reward(i, j)), torch.tensor(t)
    shares = [[1.0, 0.0], [0.5, 0.5], [0.0, 1.0]]
    profiles = {i: torch.tensor([QUALITY[i], *shares[i % 3]]) for i in range(N)}
    return {PROFILE: profiles, REWARD: rewards, TAUGHT: taught, **more}


def rounds(overlay, count, **more):
    """The book after so many rounds, and the pairs of each."""
    here = world()
    book, pairs = overlay.init(here), []
    for t in range(1, count + 1):
        plan = overlay.plan(t, here, book)
        pairs.append(list(book["pairs"]))
        overlay.observe(t, plan, reports(overlay, book, t, **more), book)
    return book, pairs


@pytest.mark.parametrize("role", ["star", "rotating"])
@pytest.mark.parametrize("match", WAYS)
def test_it_keeps_the_contract(match, role):
    check_overlay(Matchmaker(match, 2, 3, role=role))


@given(st.integers(2, 7), st.integers(0, 4), st.integers(0, 2**31), st.booleans())
def test_pairs_are_disjoint_over_both_roles_and_the_best(n, count, seed, flat):
    scores = np.zeros((n, n)) if flat else np.random.default_rng(seed).normal(size=(n, n))
    pairs = disjoint(scores, count, seed)
    peers = [peer for pair in pairs for peer in pair]
    assert len(pairs) == min(count, n // 2)
    assert len(set(peers)) == len(peers)
    if pairs and not flat:
        assert scores[pairs[0]] == scores[~np.eye(n, dtype=bool)].max()


def test_what_is_ruled_out_is_never_taken():
    scores = np.full((4, 4), -np.inf)
    scores[2, 3] = 0
    np.fill_diagonal(scores, 9)
    assert disjoint(scores, 2) == [(2, 3)]


def test_equal_scores_are_taken_by_the_key():
    found = {tuple(disjoint(np.zeros((4, 4)), 2, key)) for key in range(8)}
    assert len(found) > 3


def test_the_bandit_learns_who_is_worth_hearing():
    _, pairs = rounds(maker(), 40)
    worth = [sum(QUALITY[i] - QUALITY[j] for i, j in one) for one in pairs]
    best = sum(QUALITY[:2]) - sum(QUALITY[-2:])
    assert np.mean(worth[:3]) < 0.9 * best
    assert worth[-10:] == pytest.approx([best] * 10)


def test_the_first_pairs_are_random_and_later_ones_have_contexts():
    overlay, here = maker(), world()
    book = overlay.init(here)
    plan = overlay.plan(1, here, book)
    assert len(book["pairs"]) == 2
    assert not book["contexts"]
    overlay.observe(1, plan, reports(overlay, book, 1), book)
    assert int(book["bandit"]["count"]) == 0
    assert book["gain"][:, 0].sum() == 2
    plan = overlay.plan(2, here, book)
    assert {len(x) for x in book["contexts"].values()} == {overlay.bandit.width}
    overlay.observe(2, plan, reports(overlay, book, 2), book)
    assert int(book["bandit"]["count"]) == 2


def test_hetero_pairs_the_most_different_and_the_better_one_teaches():
    _, pairs = rounds(maker("hetero"), 2)
    for i, j in pairs[-1]:
        assert QUALITY[i] >= QUALITY[j]
        assert {i % 3, j % 3} == {0, 2}


def test_central_is_everyone_from_everyone():
    overlay = maker("central")
    book = overlay.init(world())
    _, exchange = overlay.plan(1, world(), book)
    assert len(exchange.src) == N * (N - 1)
    assert not bool((exchange.src == exchange.dst).any())


def test_the_oracle_knows():
    utility = tuple(tuple(QUALITY[i] - QUALITY[j] for j in range(N)) for i in range(N))
    overlay = maker("oracle", utility=utility)
    overlay.plan(1, world(), book := overlay.init(world()))
    assert sorted(book["pairs"]) == [(0, 5), (1, 4)]
    with pytest.raises(ConfigError, match="match = 'oracle': nobody knows"):
        maker("oracle").check(N)


def test_who_does_not_answer_is_not_paired():
    overlay = maker("random")
    book = overlay.init(world())
    for t in range(1, 20):
        overlay.plan(t, world(dead=(0, 1)), book)
        assert not {0, 1} & {peer for pair in book["pairs"] for peer in pair}
        assert len(book["pairs"]) == 2
    assert len(overlay.plan(20, world(dead=range(1, N)), book)) == 1


def test_lessons_that_did_not_take_place_teach_nothing():
    overlay, here = maker(), world()
    book, _ = rounds(overlay, 3)
    before = {name: value.clone() for name, value in book["bandit"].items()}
    plan = overlay.plan(4, here, book)
    overlay.observe(4, plan, {**reports(overlay, book, 4), TAUGHT: {j: torch.tensor(3) for j in range(N)}}, book)
    assert all(torch.equal(value, before[name]) for name, value in book["bandit"].items())


def test_reports_that_cannot_be_used_are_counted():
    overlay, here = maker(), world()
    book, _ = rounds(overlay, 2)
    count = int(book["bandit"]["count"])
    plan = overlay.plan(3, here, book)
    told = reports(overlay, book, 3)
    told[REWARD][book["pairs"][0][1]] = torch.tensor(float("nan"))
    told[PROFILE][1] = torch.ones(4)
    told[PROFILE][2] = torch.full((3,), float("inf"))
    overlay.observe(3, plan, told, book)
    assert book["refused"] == 3
    assert int(book["bandit"]["count"]) == count + 1
    assert torch.allclose(book["profiles"][1], torch.tensor([0.8, 0.5, 0.5]))
    assert overlay.chatter(3, book).metrics == {"pairs": 2.0, "refused_reports": 3.0}


def test_the_role_moves_with_what_it_knows_and_costs_bytes():
    star, moving = (rounds(maker(role=role), 5) for role in ("star", "rotating"))
    assert star[1] == moving[1]
    assert torch.equal(star[0]["bandit"]["A"], moving[0]["bandit"]["A"])
    bytes_of = [float(maker().chatter(5, book).sent.sum()) for book, _ in (star, moving)]
    width = maker().bandit.width
    assert bytes_of[1] > bytes_of[0] + 8 * width * width


def test_one_dead_heir_loses_nothing_two_lose_all():
    overlay = maker()
    book, _ = rounds(overlay, 5)
    learned, heirs = book["bandit"], book["heirs"]
    spare = {**book, "bandit": dict(learned)}
    overlay.plan(6, world(dead=heirs[:1]), spare)
    assert spare["holder"] == heirs[1]
    assert torch.equal(spare["bandit"]["b"], learned["b"])
    assert not overlay.chatter(6, spare).events
    overlay.plan(6, world(dead=heirs), book)
    assert int(book["bandit"]["count"]) == 0
    assert book["holder"] not in heirs
    assert "is lost with peers" in overlay.chatter(6, book).events[0]


def test_without_peer_0_a_star_has_no_pairs():
    overlay = maker(role="star")
    book, _ = rounds(overlay, 2)
    assert not [step for step in overlay.plan(3, world(dead=(0,)), book) if isinstance(step, Exchange)]
    assert len(overlay.plan(3, world(), book)) == 2


@pytest.mark.parametrize("match", ["linucb", "random", "central"])
def test_too_many_pairs(match):
    with pytest.raises(ConfigError, match="pairs = 4: must be from 1 to 3, half of the 6 peers"):
        replace(maker(match), pairs=4).check(N)
    maker("none", pairs=4).check(N)


def test_contexts_reach_the_bandit_with_the_teachers_past():
    overlay = maker(context="pooled")
    book, _ = rounds(overlay, 4)
    plain = replace(overlay, gains=False)
    assert overlay.bandit.width == plain.bandit.width + 1 == 7
    overlay.plan(5, world(), book)
    i, j = book["pairs"][0]
    count, total = book["gain"][i].tolist()
    assert float(book["contexts"][j][-1]) == pytest.approx(total / max(count, 1))
