import pytest
import torch

from hubless.errors import ConfigError, HublessError, MessageError
from hubless.learn import Model
from hubless.learn.context import Batch, Context, Inbox
from hubless.learn.fusion.oneshot import BASE, EXPERTS, ORIGIN, Assembled, OneShot, digest, judged
from hubless.learn.kernels.loop import Loop
from hubless.learn.kernels.slope import Session
from hubless.merging import Fisher, Mean
from hubless.merging.method import Method
from hubless.merging.search import cma_es, task_vectors
from hubless.testing import check_overlay

LINEAR = Model(lambda: torch.nn.Sequential(torch.nn.Linear(3, 2)), name="linear")
MEAN = Assembled(method=Method(Mean(), "none"))
FISHER = Assembled(method=Method(Fisher(), "none"))


def context(phase, peer=0):
    data = Batch(torch.randn(6, 3, generator=torch.Generator().manual_seed(peer)), torch.arange(6) % 2)
    return Context(t=1, N=4, model=LINEAR, slope=Session(Loop(LINEAR)), peer=peer, phase=phase, key=5,
                   own=lambda: data, apart=lambda: data)  # fmt: skip


def published(merge=MEAN):
    """The publisher's row and book after it has sent the base to itself."""
    book, w = {}, LINEAR.start(0)
    m = merge.message(w, {}, book, context(BASE))
    w, _ = merge.apply(
        w, {}, book, merge.join(Inbox((0,), torch.ones(1), [m]), w, {}, book, context(BASE)), context(BASE)
    )
    return w, book


def expert(peer, book, merge=MEAN):
    return merge.message(LINEAR.start(peer), {}, dict(book), context(EXPERTS, peer))


def test_experts_of_the_base_are_merged_and_others_left_out():
    w, book = published()
    other = expert(2, {BASE: w, ORIGIN: digest(w + 1)})
    silent = expert(3, {})
    inbox = Inbox((1, 2, 3), torch.ones(3), [expert(1, book), other, silent])
    got = MEAN.join(inbox, w, {}, book, context(EXPERTS))
    torch.testing.assert_close(got["row"], LINEAR.start(1))
    assert (book["who"], book["foreign"]) == ([1], 2)
    nobody = MEAN.join(Inbox((2,), torch.ones(1), [other]), w, {}, book, context(EXPERTS))
    assert torch.equal(MEAN.apply(w, {}, book, nobody, context(EXPERTS))[0], w)


def test_a_lossy_codec_on_the_way_does_not_make_strangers():
    w, book = published()
    m = MEAN.message(w, {}, {}, context(BASE))
    rounded = {**m, "w": m["w"].half().float()}
    at_expert: dict = {}
    got = MEAN.join(Inbox((0,), torch.ones(1), [rounded]), w, {}, at_expert, context(BASE, 1))
    MEAN.apply(w, {}, at_expert, got, context(BASE, 1))
    assert not torch.equal(at_expert[BASE], book[BASE])
    assert torch.equal(at_expert[ORIGIN], book[ORIGIN])


def test_what_the_rule_needs_goes_with_the_model():
    w, book = published(FISHER)
    m = expert(1, book, FISHER)
    assert {"w", ORIGIN, "fisher:0.weight", "fisher:0.bias"} == set(m)
    FISHER.accept(1, m, context(EXPERTS))
    got = FISHER.join(Inbox((1,), torch.ones(1), [m]), w, {}, book, context(EXPERTS))
    torch.testing.assert_close(got["row"], LINEAR.start(1))


@pytest.mark.parametrize(
    ("broken", "words"),
    [
        (lambda m: {name: value for name, value in m.items() if name != ORIGIN}, "origin is missing"),
        (lambda m: m | {ORIGIN: torch.ones(1)}, "no whole number"),
        (lambda m: m | {"w": m["w"][:3]}, "w has shape"),
        (lambda m: m | {"fisher:0.bias": torch.ones(3)}, "fisher:0.bias of shape .* is nothing that Fisher needs"),
        (lambda m: m | {"gram:0.weight": torch.ones(3, 3)}, "is nothing that Fisher needs"),
        (lambda m: m | {"fisher:2.bias": torch.ones(2)}, "is nothing that Fisher needs"),
        (lambda m: m | {"fisher:0.bias": torch.full((2,), torch.nan)}, "not finite"),
    ],
)
def test_bad_messages_are_refused(broken, words):
    _, book = published(FISHER)
    with pytest.raises(MessageError, match=words):
        FISHER.accept(1, broken(expert(1, book, FISHER)), context(EXPERTS))


def test_a_stack_of_candidates_is_judged_as_each_alone():
    model = Model(lambda: torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.ReLU(), torch.nn.Linear(4, 2)))
    base, *experts = (model.unflatten(model.start(key)) for key in range(3))
    data = Batch(torch.randn(20, 3, generator=torch.Generator().manual_seed(1)), torch.arange(20) % 2)
    vectors = task_vectors(base, experts)
    fitness = judged(model, {}, data)(base, vectors)
    table = torch.rand(5, 2, 2, generator=torch.Generator().manual_seed(2))
    together = fitness(table)
    assert together.shape == (5,)
    for at, one in enumerate(table):
        torch.testing.assert_close(together[at], fitness(one[None])[0])
    whole = torch.tensor([[[1.0, 0.0], [1.0, 0.0]]])
    loss = model.loss(model.forward(model.start(1), data.x), data.y).mean()
    torch.testing.assert_close(-fitness(whole)[0], loss)


def test_a_validation_loss_that_is_not_finite_is_an_error():
    model = LINEAR
    base, other = (model.unflatten(model.start(key)) for key in range(2))
    data = Batch(torch.full((4, 3), torch.inf), torch.arange(4) % 2)
    with pytest.raises(HublessError, match="fitness of candidate 0 in generation 0 is nan"):
        cma_es((1, 1), judged(model, {}, data)(base, task_vectors(base, [other])))


def test_rows_have_origins():
    row = torch.arange(4.0)
    assert int(digest(row)) > 0
    assert torch.equal(digest(row), digest(row.clone()))
    assert not torch.equal(digest(row), digest(row + 1e-6))


@pytest.mark.parametrize("everyone", [False, True])
def test_the_overlay(everyone):
    check_overlay(OneShot(everyone=everyone))
    with pytest.raises(ConfigError, match="at least one expert"):
        OneShot().check(1)
