from dataclasses import replace

import pytest
import torch

from hubless.errors import ConfigError, MessageError
from hubless.learn import SGD, Adam, Model
from hubless.learn.context import Batch, Context, Inbox
from hubless.learn.fusion.predictions import Fusion, Toward, teacher_forced
from hubless.learn.fusion.readers import reader
from hubless.learn.kernels.loop import Loop
from hubless.learn.kernels.slope import Session
from hubless.models.vocabulary import PAD, Vocabulary

LENGTH = 8
SAYINGS = ["abab abc", "cab bab ", "ab ab ab", "bacab ca"]
TEXTS = torch.tensor([[ord(letter) for letter in text] for text in SAYINGS])
PAIRED = Vocabulary(("ab", " a"))
PIVOT = reader(Vocabulary(), LENGTH, 8)
SOURCE = reader(PAIRED, LENGTH, 8)
FUSION = Fusion(texts=TEXTS, sources={1: PAIRED}, k=3, local=SGD(lr=0.5, steps=5, batch=0))


def context(model=PIVOT, peer=0):
    return Context(t=1, N=2, model=model, slope=Session(Loop(model)), peer=peer, key=9)


def trained(model, steps=60, texts=TEXTS):
    w = model.start(1)
    local = Adam(lr=0.02, steps=steps)
    ctx = context(model)
    s = local.begin(w, model.state(), ctx)
    for _ in range(steps):
        w, s = local.step(w, s, Batch(texts, texts), ctx)
    return w


@pytest.fixture(scope="module")
def learned():
    return trained(SOURCE)


def said(w):
    return FUSION.message(w, SOURCE.state(), {}, context(SOURCE, 1))


def test_a_source_says_its_likeliest_tokens_and_how_well_it_knew(learned):
    m = said(learned)
    tokens = PAIRED.encode(TEXTS)
    most = int((tokens > 0).sum(1).max())
    assert m["top"].shape == m["share"].shape == (len(TEXTS), most - 1, 3)
    assert m["top"].dtype == torch.int16
    assert bool((m["share"][..., :-1] >= m["share"][..., 1:]).all())
    out, cost = teacher_forced(SOURCE, learned, {}, TEXTS)
    assert torch.equal(m["nats"], cost)
    likeliest = torch.softmax(out[0, 0], -1).argmax()
    assert int(m["top"][0, 0, 0]) == int(likeliest)
    FUSION.accept(1, m, context())


def test_the_pivot_takes_what_the_source_says_where_tokens_begin_together(learned):
    m = said(learned)
    got = FUSION.join(Inbox((1,), torch.ones(1), [m]), PIVOT.start(1), {}, {}, context())
    assert got["best"].tolist() == [1] * len(TEXTS)
    fused = got["fused"]
    torch.testing.assert_close(fused.sum(-1), torch.ones(fused.shape[:2]))
    pieces = PAIRED.split(TEXTS[0])
    assert pieces == ["ab", "ab", " a", "b", "c"]
    own = Vocabulary()
    # place 1 is inside the first token, place 2 begins the second one, which the source predicts from the first
    assert fused[0, 0].argmax() == own.pieces.index("b")
    assert fused[0, 0].max() == 1
    share = (m["share"][0, 0] / m["share"][0, 0].sum()).tolist()
    wanted = torch.zeros(len(own))
    for token, mass in zip(m["top"][0, 0].tolist(), share, strict=True):
        wanted[own.pieces.index(PAIRED.pieces[token][0])] += mass
    torch.testing.assert_close(fused[0, 1], wanted)


def test_each_text_is_learned_from_whoever_knew_it_best(learned):
    m = said(learned)
    own = trained(PIVOT)
    _, cost = teacher_forced(PIVOT, own, {}, TEXTS)
    m["nats"] = cost + torch.tensor([-0.1, 0.1, -0.1, 0.1])
    other = {**m, "nats": cost + torch.tensor([0.0, 0.2, -0.2, 0.2])}
    fusion = replace(FUSION, sources={1: PAIRED, 2: PAIRED})
    got = fusion.join(Inbox((1, 2), torch.ones(2), [m, other]), own, {}, {}, context())
    assert got["best"].tolist() == [1, 0, 2, 0]
    out, _ = teacher_forced(PIVOT, own, {}, TEXTS)
    torch.testing.assert_close(got["fused"][1], torch.softmax(out[1, :-1], -1))


def gap(w, fused):
    out, cost = teacher_forced(PIVOT, w, {}, TEXTS)
    each = torch.nn.functional.kl_div(out[:, :-1].log_softmax(-1), fused, reduction="none").sum(-1)
    return float(each.mean()), float(cost.mean())


def test_learning_moves_towards_texts_and_predictions(learned):
    w, book = PIVOT.start(1), {}
    got = FUSION.join(Inbox((1,), torch.ones(1), [said(learned)]), w, {}, {}, context())
    before = gap(w, got["fused"])
    after, s = FUSION.apply(w, {}, book, got, context())
    assert gap(after, got["fused"]) < before
    assert gap(after, got["fused"])[1] < before[1]
    assert s == {}
    assert torch.equal(book["before"], w)
    assert book["taken"] == 1


@pytest.mark.parametrize("lam", [0.0, 0.3, 1.0])
def test_the_gradient_is_that_of_the_weighted_loss(learned, lam):
    w = PIVOT.start(2)
    fused = FUSION.join(Inbox((1,), torch.ones(1), [said(learned)]), w, {}, {}, context())["fused"]
    g, _ = Toward(fused, lam, Vocabulary())(w, {}, Batch(TEXTS, torch.arange(4)), context())
    direction = g / g.norm()
    ahead, behind = (gap(w + step * direction, fused) for step in (1e-2, -1e-2))
    slope = sum(part * (a - b) for part, a, b in zip((1 - lam, lam), ahead, behind, strict=True)) / 2e-2
    assert slope == pytest.approx(float(g.norm()), rel=2e-2)


def test_with_the_texts_alone_predictions_do_not_matter(learned):
    fusion = replace(FUSION, lam=1.0)
    w = PIVOT.start(1)
    got = fusion.join(Inbox((1,), torch.ones(1), [said(learned)]), w, {}, {}, context())
    other = {**got, "fused": torch.zeros_like(got["fused"])}
    assert torch.equal(fusion.apply(w, {}, {}, got, context())[0], fusion.apply(w, {}, {}, other, context())[0])


def test_tokens_may_be_mapped_as_they_were_aligned(learned):
    got = replace(FUSION, mapped="aligned").join(
        Inbox((1,), torch.ones(1), [said(learned)]), PIVOT.start(1), {}, {}, context()
    )
    torch.testing.assert_close(got["fused"].sum(-1), torch.ones(got["fused"].shape[:2]))


BROKEN = [
    (lambda m: m | {"top": m["top"][:2]}, "must be tokens at 6 places of 4 texts"),
    (lambda m: m | {"top": m["top"].float()}, "must be tokens"),
    (lambda m: m | {"top": m["top"] * 0 + 9999}, "no tokens of the sender's vocabulary"),
    (lambda m: m | {"top": -m["top"] - 1}, "no tokens of the sender's vocabulary"),
    (lambda m: m | {"share": m["share"] * 3}, "no probabilities"),
    (lambda m: m | {"share": -m["share"]}, "no probabilities"),
    (lambda m: m | {"share": m["share"][:, :2]}, "share needs the shape of top"),
    (lambda m: m | {"nats": m["nats"][:1]}, "nats one cost a text"),
    (lambda m: m | {"nats": m["nats"] * torch.nan}, "nats is not finite"),
    (lambda m: {"top": m["top"]}, "share or nats is missing"),
]


@pytest.mark.parametrize(("broken", "words"), BROKEN)
def test_bad_messages_are_refused(learned, broken, words):
    with pytest.raises(MessageError, match=words):
        FUSION.accept(1, broken(said(learned)), context())


def test_only_sources_are_heard(learned):
    with pytest.raises(MessageError, match="peer 0 is no source"):
        FUSION.accept(0, said(learned), context())


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (dict(lam=1.1), "lam = 1.1"),
        (dict(k=0), "k = 0"),
        (dict(sources={1: Vocabulary(special=(PAD, "<end>"))}), "'<end>' has no counterpart in the pivot"),
    ],
)
def test_settings_that_cannot_work(options, words):
    with pytest.raises(ConfigError, match=words):
        replace(FUSION, **options)


def test_networks_without_a_vocabulary_and_fusion_without_texts():
    plain = Model(lambda: torch.nn.Linear(4, 3), name="linear")
    with pytest.raises(ConfigError, match="linear has none"):
        FUSION.check(plain, None)
    with pytest.raises(ConfigError, match="fusion needs public texts"):
        Fusion(sources={1: PAIRED}).check(PIVOT, None)
