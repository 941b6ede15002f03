import math
from dataclasses import dataclass

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from small import BATCHNORM, GROUPS, build, finish, metrics, rows, workload
from torch import nn

from hubless import testing
from hubless.errors import ConfigError, MessageError
from hubless.learn import SGD, Alone, Attack, Gossip, Model, Rotating, Star, keys
from hubless.learn.bristle import CLASSES, Bristle, Trust, best, bristle, performance, weights
from hubless.learn.context import Batch, Context, Inbox
from hubless.learn.kernels.loop import Loop
from hubless.learn.kernels.slope import Session
from hubless.learn.outputs import Familiar, columns
from hubless.net.topologies import Full

MODEL = Model(lambda: nn.Linear(2, 3), name="linear")  # weight [3, 2], then bias [3]
scores = st.integers(0, 10).map(lambda n: n / 10)


def tables(count, classes):
    return st.tuples(
        st.lists(scores, min_size=classes, max_size=classes),
        st.lists(st.lists(scores, min_size=classes, max_size=classes), min_size=count, max_size=count),
        st.lists(st.integers(0, classes), min_size=count, max_size=count),
    )


# the formulas, value by value


def sigma(s):
    return max(0.0, 10 / (1 + math.exp(-s / 100)) - 4)


def by_hand(own, others, counts, penalty):
    """Weights of each model for its best classes, and for all else."""
    seen, familiar, whole, sets = [], [], [], []
    for theirs, count in zip(others, counts, strict=True):
        mine = sorted(range(len(own)), key=lambda c: -theirs[c])[:count]
        score = {}
        for c in mine:
            gap = 10 * abs(own[c] - theirs[c])
            lack = sum(max(0, 2 * (own[c] - earlier[c])) for earlier in seen) if penalty else 0
            score[c] = gap ** (3 + own[c]) if theirs[c] > own[c] else -(gap ** (4 + own[c])) * (1 + lack)
        mean = sum(theirs[c] for c in mine) / len(mine) if mine else 0
        spread = math.sqrt(sum((theirs[c] - mean) ** 2 for c in mine) / len(mine)) if mine else 0
        certain = max(0, mean - spread)
        familiar.append([certain * sigma(max(-100, score[c])) if c in score else 0 for c in range(len(own))])
        whole.append(certain * sigma(max(-1e4, min(1e4, sum(score.values())))))
        seen.append(theirs)
        sets.append(set(mine))
    return familiar, whole, sets


@given(tables(3, 4), st.booleans())
def test_weights_are_the_formulas(table, penalty):
    own, others, counts = table
    familiar, whole, sets = by_hand(own, others, counts, penalty)
    chosen = best(torch.tensor(others), torch.tensor(counts))
    assert [set(torch.nonzero(row).flatten().tolist()) for row in chosen] == sets
    got = weights(torch.tensor(own), torch.tensor(others), chosen, penalty=penalty)
    assert torch.allclose(got[0], torch.tensor(familiar, dtype=torch.float32), atol=2e-4)
    assert torch.allclose(got[1], torch.tensor(whole, dtype=torch.float32), atol=2e-4)


def test_equals_weigh_as_much_as_oneself_and_the_worst_nothing():
    own, others = torch.ones(2), torch.tensor([[1.0, 1.0], [0.0, 0.0], [1.0, 0.4]])
    familiar, whole = weights(own, others, torch.ones(3, 2, dtype=torch.bool))
    assert torch.equal(familiar[0], torch.ones(2))
    assert whole[0] == 1
    assert not familiar[1].any()
    assert whole[1] == 0
    assert familiar[2, 0] > 0
    assert familiar[2, 1] == 0


@given(
    st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=20),
    st.sampled_from(["recall", "f1"]),
)
def test_performance_is_counted(pairs, score):
    y, said = (torch.tensor(part) for part in zip(*pairs, strict=True))
    classes = y.unique()
    wanted = []
    for c in classes.tolist():
        hit = sum(a == b == c for a, b in pairs)
        true, called = sum(a == c for a, _ in pairs), sum(b == c for _, b in pairs)
        wanted.append(hit / true if score == "recall" else 2 * hit / (true + called))
    assert performance(said[None], y, classes, score)[0].tolist() == pytest.approx(wanted)


# one merge

HELD = Batch(torch.tensor([[4.0, 0.0], [0.0, 4.0]]), torch.tensor([0, 1]))
GOOD = torch.tensor([1.0, 0, 0, 1, 0, 0, 0, 0, 0])  # tells class 0 by the first input, class 1 by the second
BAD = -GOOD


def context(classes=(1, 1, 0), **more):
    return Context(t=1, N=9, model=MODEL, slope=Session(Loop(MODEL)), classes=torch.tensor(classes),
                   apart=lambda: HELD, own=lambda: HELD, **more)  # fmt: skip


def heard(own, said, merge=None, book=None, **more):
    """A row after hearing ``said``: sender -> (row, claimed classes)."""
    ctx, merge = context(**more), merge or bristle()
    messages = [{"w": row, CLASSES: torch.tensor(claim)} for row, claim in said.values()]
    for m in messages:
        merge.accept(1, m, ctx)
    book = {} if book is None else book
    got = merge.join(Inbox(tuple(said), torch.ones(len(said)), messages), own, {}, book, ctx)
    return merge.apply(own, {}, book, got, ctx)[0]


def test_each_class_and_the_foreign_ones_have_weights_of_their_own():
    own = GOOD.clone()
    own[[3, 4, 7]] = torch.tensor([-1.0, 1.0, -1.0])  # does not know class 1, calls it class 2
    other = GOOD * 3 + torch.tensor([0, 0, 0, 0, -2.0, -2.0, 0, 0, -2.0])
    new = heard(own, {5: (other, (1, 1, 1))})
    better = 1 * sigma(10.0**3)  # recall 1 against 0, certainty 1
    whole = 1 * sigma(0 + 10.0**3)
    shares = torch.tensor([1.0, 1, better, better, whole, whole, 1, better, whole])
    assert torch.allclose(new, (own + shares * other) / (1 + shares), atol=1e-5)


def test_a_model_that_knows_nothing_changes_nothing():
    assert torch.equal(heard(GOOD, {5: (BAD * 4, (1, 1, 1)), 6: (torch.randn(9) * 0 + BAD, (1, 1, 0))}), GOOD)


def test_ones_own_word_is_no_news():
    assert torch.equal(heard(GOOD, {0: (GOOD, (1, 1, 0))}), GOOD)
    assert torch.equal(heard(GOOD, {}), GOOD)
    handed = heard(GOOD, {0: (GOOD * 3, (1, 1, 0))})
    assert torch.allclose(handed, GOOD * 2), "work that one collects oneself counts like any other"


@pytest.mark.parametrize("claim", [(0, 0, 1), (0, 0, 0), (-5, -5, 1), (0.4, 0.3, 0.0)])
def test_who_shares_no_class_is_skipped(claim):
    assert torch.equal(heard(GOOD, {5: (GOOD * 3, claim)}), GOOD)


def test_claims_beyond_what_can_be_are_clamped_and_counted():
    book = {}
    honest = heard(GOOD, {5: (GOOD * 3, (1, 1, 0))})
    assert torch.equal(heard(GOOD, {5: (GOOD * 3, (200, 0, 0)), 6: (BAD, (1, 1, 1))}, book=book), honest)
    assert book["trust"]["clamped"] == 1
    assert book["trust"]["given"][6] == 0
    heard(GOOD, {5: (GOOD * 3, (200, 200, 0))}, book=book)
    assert book["trust"]["clamped"] == 2


def test_a_model_counts_for_the_classes_that_it_can_know():
    """A neighbour of whom one class is shared is not judged by the other; without that nothing of it would be used."""
    half = torch.tensor([1.0, 0, 0, -1, 0, 0, 0, -1, 0])
    shared, all_ = heard(GOOD, {5: (half, (1, 0, 1))}), heard(GOOD, {5: (half, (1, 1, 1))})
    assert torch.allclose(shared[[0, 6]], GOOD[[0, 6]])
    assert torch.equal(shared[[2, 3, 7]], GOOD[[2, 3, 7]]), "class 1 is not taken from it"
    assert torch.equal(all_, GOOD), "certainty: the mean recall 0.5 minus its deviation 0.5"


@pytest.mark.parametrize(
    ("m", "words"),
    [
        ({"w": GOOD}, "classes has shape missing"),
        ({"w": GOOD, CLASSES: torch.ones(4)}, r"classes has shape \(4,\), not \(3,\)"),
        ({CLASSES: torch.ones(3)}, "w is missing"),
        ({"w": GOOD[1:], CLASSES: torch.ones(3)}, r"w has shape \(8,\)"),
        ({"w": GOOD * torch.nan, CLASSES: torch.ones(3)}, "w is not finite"),
        ({"w": GOOD, CLASSES: torch.tensor([1, torch.inf, 0])}, "classes is not finite"),
    ],
)
def test_messages_that_must_not_be_used(m, words):
    with pytest.raises(MessageError, match=words):
        bristle().accept(3, m, context())


@pytest.mark.parametrize("spec", ["bristle:alpha=2:beta=1", "bristle:score=f1", "bristle:penalty=true"])
def test_conformance(spec):
    testing.check_merge(spec)
    testing.check_gradient(Familiar())


# whole runs

FULL = Gossip(Full())


def run(**given):
    return build(
        **{"merge": bristle(), "overlay": FULL, "workload": workload(held=3, partition="windows:2:1"), **given}
    )


@dataclass(frozen=True)
class Broken(Attack):
    """Sends numbers that are none."""

    def message(self, m, honest, book, ctx):
        return {**m, "w": m["w"] * torch.nan}


def test_messages_that_are_no_numbers_are_dropped_and_counted():
    records = list(run(attack=Broken((4,)), hooks=(Trust(frozenset({4})),)).records())
    assert records[-1].metrics["rejected"] == 3 * 4
    assert any("peer 4 refused: w is not finite" in r.data["text"] for r in records if r.kind == "event")
    assert records[-2].metrics["hostile_weight"] == 0


def test_hostile_weight_is_what_honest_peers_took():
    hook = Trust(frozenset({4}))
    calm = metrics(run(hooks=(hook,)))[0]
    assert 0 < calm["hostile_weight"] < 1
    assert calm["clamped_claims"] == 0
    assert "hostile_weight" not in metrics(run(merge="mean", hooks=(hook,)))[0]


def test_training_leaves_foreign_classes_alone():
    work = workload(held=3, partition="windows:2:1", model=MODELS["linear"])
    local = SGD(lr=0.5, steps=2, batch=8, gradient=Familiar())
    lonely = run(workload=work, local=local, overlay=Alone(), rounds=1)
    end, start = rows(lonely), lonely.models[0][0].start(keys.fold(3, "start", 0))
    column = columns(lonely.models[0][0], 3)
    for peer, counts in enumerate(lonely.shards.classes):
        moved = torch.zeros(3).index_add(0, column, (end[peer] - start).abs()) > 0
        assert torch.equal(moved, counts > 0)


LINEAR = Model(lambda: nn.Sequential(nn.Linear(5, 3)), name="linear")
MODELS = {"linear": LINEAR, "groups": GROUPS, "batchnorm": BATCHNORM}


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("overlay", [FULL, Gossip("ring"), Star(), Rotating()], ids=lambda o: type(o).__name__)
def test_any_network_and_overlay(name, overlay):
    """Layers below the last and statistics follow the whole model's weight."""
    end = finish(run(workload=workload(held=3, model=MODELS[name]), overlay=overlay, kernel="loop"))
    assert all(torch.isfinite(value).all() for value in end.values() if value.is_floating_point())


def test_only_the_output_layer_is_said():
    sent = []
    for share in (None, ("head",)):
        end = metrics(run(workload=workload(held=3, model=GROUPS), merge=Bristle(share=share)))[-1]
        sent.append(end["bytes"] / end["messages"])
    saved = 4 * (GROUPS.groups["trunk"].stop - GROUPS.groups["trunk"].start)
    assert saved <= sent[0] - sent[1] < saved + 40, "and the trunk's name and shape"


def test_codecs_that_lose_something():
    for codec in ("float16", "delta+top-k:0.5", "delta+fedzip:0.5"):
        assert math.isfinite(metrics(run(codec=codec))[-1]["loss"])


def test_columns_follow_the_groups_order():
    turned = Model(two_layers, groups={"head": ["2."], "trunk": ["0."]}, name="turned")
    column = columns(turned, 3)
    assert column[:27].tolist() == [c for c in range(3) for _ in range(8)] + [0, 1, 2]
    assert (column[27:] == -1).all()


def two_layers():
    return nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 3))


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (dict(workload=workload()), r"merge: bristle judges by samples .* peer 0 has none of class '\d'"),
        (dict(workload=workload(data="linear", model="softmax")), "merge: bristle needs classes, which linear"),
        (dict(workload=workload(held=3, model=Model(lambda: nn.Linear(5, 4)))), "has 4 rows, the data 3 classes"),
        (dict(workload=workload(held=3, model=Model(two_layers, frozen=("2.",)))), "the last layer .* is frozen"),
        (dict(codec="secure-sum"), "secure sums"),
    ],
)
def test_refusals(given, words):
    with pytest.raises(ConfigError, match=words):
        run(**given)


def test_a_held_out_set_without_a_familiar_class_is_refused():
    ready = run()
    ready.shards._apart[2] = tuple(part[:3] for part in ready.shards._apart[2])
    with pytest.raises(ConfigError, match="peer 2 has none of class"):
        bristle().check(ready.models[0][0], ready.shards)
