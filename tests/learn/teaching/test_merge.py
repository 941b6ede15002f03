from dataclasses import replace

import pytest
import torch
from torch import nn

from hubless.data.dataset import Dataset
from hubless.errors import ConfigError, MessageError
from hubless.learn import SGD, Adam, Alone, Batch, Learning, Plain, Workload
from hubless.learn.context import Context, Inbox
from hubless.learn.kernels.loop import Loop
from hubless.learn.kernels.slope import Session
from hubless.learn.model import Model
from hubless.learn.teaching.lessons import Lessons, figures
from hubless.learn.teaching.matchmaker import REWARD, TAUGHT, Matchmaker
from hubless.learn.teaching.merge import LAST, LESSONS, Logits, Teaching
from hubless.learn.teaching.profiles import Profiled
from hubless.run.setting import Setting
from hubless.testing import check_merge

PUBLIC = torch.randn(10, 4, generator=torch.Generator().manual_seed(0))
PROBE = Batch(torch.randn(12, 4, generator=torch.Generator().manual_seed(1)), torch.arange(12) % 3)
OWN = Batch(torch.randn(9, 4, generator=torch.Generator().manual_seed(2)), torch.arange(9) % 3)


def teaching(**more):
    options = dict(lesson=Logits(PUBLIC, 4), probe=PROBE, local=SGD(0.1, steps=15, batch=4))
    return Teaching(**{**options, **more})


def model(hidden=5):
    return Model(lambda: nn.Sequential(nn.Linear(4, hidden), nn.ReLU(), nn.Linear(hidden, 3)), name=f"net{hidden}")


def context(net, peer=0, t=1, **more):
    return Context(
        t=t, N=3, model=net, slope=Session(Loop(net)), peer=peer, n=9, key=5 + peer, phase="teach", kind="predictions",
        own=lambda: OWN, apart=lambda: OWN, **more,
    )  # fmt: skip


def lesson(merge, teacher=None, student=None, **more):
    """One lesson: the student's row, state and book afterwards."""
    teacher, student = teacher or model(8), student or model()
    m = merge.message(teacher.start(1), {}, {}, context(teacher, 1, **more))
    ctx = context(student, 0, senders=(1,), counts=dict.fromkeys(m, 1), **more)
    merge.accept(1, m, ctx)
    w, s, book = student.start(2), merge.init(student), {}
    got = merge.join(Inbox((1,), torch.ones(1), [m]), w, s, book, ctx)
    return (*merge.apply(w, s, book, got, ctx), book)


def agreement(net, w, teacher, temperature=2.0):
    with torch.no_grad():
        p = torch.softmax(teacher.forward(teacher.start(1), PUBLIC) / temperature, -1)
        return float(-(p * torch.log_softmax(net.forward(w, PUBLIC) / temperature, -1)).sum(-1).mean())


def test_it_keeps_the_contract_of_a_merge():
    check_merge(teaching())
    check_merge(teaching(local=Adam(0.01, steps=2, batch=4), reward="loss", shares=(0.0, 1.0)))


def test_a_student_comes_nearer_to_a_teacher_of_another_shape():
    student, teacher = model(), model(8)
    merge = teaching(shares=(1.0, 1.0), lesson=Logits(PUBLIC, 10), local=SGD(0.3, steps=60, batch=4))
    w, s, _ = lesson(merge, teacher, student)
    best = agreement(teacher, teacher.start(1), teacher)
    gaps = [agreement(student, row, teacher) - best for row in (student.start(2), w)]
    assert gaps[1] < 0.2 * gaps[0]
    assert int(s[TAUGHT]) == 1


def test_the_gradient_is_that_of_the_mixed_loss():
    student, teacher = model(), model(8)
    merge = teaching(shares=(0.25, 0.25), local=SGD(0.1, steps=1, batch=0))
    w, _, _ = lesson(merge, teacher, student)
    leaf = student.start(2).requires_grad_()
    said = torch.softmax(teacher.forward(teacher.start(1), PUBLIC[:4]).detach() / 2, -1)
    taught = -(said * torch.log_softmax(student.forward(leaf, PUBLIC[:4]) / 2, -1)).sum(-1).mean() * 4
    private = student.loss(student.forward(leaf, OWN.x), OWN.y).mean()
    (g,) = torch.autograd.grad(0.75 * private + 0.25 * taught, leaf)
    assert torch.allclose(w, (leaf - 0.1 * g).detach(), atol=1e-6)


def test_the_share_moves_along_a_line():
    merge = teaching(shares=(0.2, 0.5), rounds=4)
    assert [merge.share_at(t) for t in (1, 2, 4, 9)] == pytest.approx([0.2, 0.3, 0.5, 0.5])
    assert teaching(shares=(0.2, 0.5)).share_at(1) == pytest.approx(0.2)


def test_lessons_are_about_the_next_inputs():
    net, merge = model(), teaching()
    said = [merge.message(net.start(1), {}, {}, context(net, t=t))["predictions"] for t in (1, 2, 3, 6)]
    every = net.forward(net.start(1), PUBLIC).detach()
    assert torch.allclose(said[1], every[4:8])
    assert torch.allclose(said[2], every[[8, 9, 0, 1]])
    assert torch.allclose(said[0], said[3])


@pytest.mark.parametrize("reward", ["accuracy", "loss"])
def test_the_reward_is_the_gain_less_the_price(reward):
    student = model()
    w, s, book = lesson(teaching(reward=reward, gamma=3.0, price=0.5), student=student)

    def standing(row):
        if reward == "accuracy":
            return float((student.forward(row, PROBE.x).argmax(-1) == PROBE.y).float().mean())
        return -float(student.loss(student.forward(row, OWN.x), OWN.y).mean())

    size = 4 * 3 * 4 / 1024
    expected = 3 * (standing(w) - standing(student.start(2))) - 0.5 * size
    assert float(s[REWARD]) == pytest.approx(expected, abs=1e-5)
    assert book[LAST] == {"round": 1, "teachers": [1], "reward": pytest.approx(expected, abs=1e-5)}
    assert book[LESSONS] == {1: [1, pytest.approx(expected, abs=1e-5)]}


def test_several_teachers_count_by_their_mean():
    merge, student = teaching(), model()
    teachers = [model(8), model(6)]
    said = [merge.message(net.start(1), {}, {}, context(net, at + 1)) for at, net in enumerate(teachers)]
    ctx = context(student, senders=(1, 2), counts={"predictions": 2})
    got = merge.join(Inbox((1, 2), torch.full((2,), 0.5), said), student.start(2), {}, {}, ctx)
    assert torch.allclose(got["predictions"], (said[0]["predictions"] + said[1]["predictions"]) / 2)
    book = {}
    merge.apply(student.start(2), merge.init(student), book, got, ctx)
    assert book[LAST]["teachers"] == [1, 2]


@pytest.mark.parametrize(
    ("said", "words"),
    [
        (torch.zeros(5, 3), "predictions: torch.float32 of shape"),
        (torch.zeros(4), "predictions: torch.float32 of shape"),
        (torch.zeros(4, 3, dtype=torch.int64), "predictions: torch.int64"),
        (torch.full((4, 3), torch.nan), "predictions is not finite"),
        (torch.zeros(4, 2), r"predictions: 2 outputs, not 3"),
        (None, "predictions: missing"),
    ],
)
def test_bad_lessons_are_refused(said, words):
    m = {} if said is None else {"predictions": said}
    with pytest.raises(MessageError, match=words):
        teaching().accept(1, m, context(model()))


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Logits(PUBLIC, 11), "asked = 11: must be from 1 to the 10 inputs of transfer"),
        (lambda: Logits(PUBLIC, 4, 0.0), "temperature = 0.0: must be above 0"),
        (lambda: Teaching(), "merge: teaching needs a lesson and a probe"),
        (lambda: teaching(shares=(0.5, 1.5)), r"merge.shares = \(0.5, 1.5\)"),
        (lambda: teaching(local=SGD(0.1, epochs=1)), "merge.local: a lesson has a number of steps"),
    ],
)
def test_bad_options(make, words):
    with pytest.raises(ConfigError, match=words):
        make()


def build(merge, **more):
    """A population whose training set, test set and held-out samples are known."""
    x = torch.randn(60, 4, generator=torch.Generator().manual_seed(7))
    data = Dataset.of(x[:40], torch.arange(40) % 3, test=(x[40:], torch.arange(20) % 3))
    work = Workload(data, "iid", 3, Model(lambda: nn.Linear(4, 3)), **more)
    overlay = Matchmaker("random", 1, 3)
    return x, Learning(work, Profiled(SGD(steps=1), PROBE, 3), overlay, merge, rounds=2)


def test_public_and_private_samples_are_apart():
    x, _ = build(teaching())
    bad = torch.cat([PUBLIC[:4], x[41:44]])
    for merge, words in (
        (teaching(lesson=Logits(bad, 4)), "merge.transfer: 3 of its inputs are in the test set too"),
        (teaching(probe=Batch(x[50:52], torch.tensor([0, 1]))), "merge.probe: 2 of its inputs are in the test set too"),
        (teaching(probe=Batch(PUBLIC[:1], torch.tensor([0]))), "merge.probe: 1 of its inputs are in the transfer set"),
        (teaching(probe=Batch(x[:2], torch.tensor([0, 1]))), "merge.probe: 2 of its inputs are in the training set"),
    ):
        _, learning = build(merge)
        with pytest.raises(ConfigError, match=words):
            learning.under(Setting())
    assert list(build(teaching())[1].under(Setting()).records())


def test_what_peers_hold_out_is_no_public_input_either():
    _, learning = build(teaching(), held=2)
    held = learning.workload.shards(0).held(1)[0]
    _, learning = build(teaching(lesson=Logits(torch.cat([PUBLIC[:3], held[:1]]), 4)), held=2)
    with pytest.raises(ConfigError, match=r"merge\.transfer: 1 of its inputs are in the held-out samples too"):
        learning.under(Setting())


def test_a_loss_needs_samples_that_are_held_out():
    _, learning = build(teaching(reward="loss"))
    with pytest.raises(ConfigError, match="reward = 'loss': is measured on samples that peers hold out"):
        learning.under(Setting())
    _, learning = build(teaching(reward="loss"), held=1)
    assert list(learning.under(Setting()).records())


def test_figures_say_who_taught_whom():
    given = [[(0, 0.0), (2, 0.5)], [(0, 0.0), (0, 0.0)]]
    counts, worth = figures(given, frozenset({1}))
    assert counts["values"] == [[None, 2], [None, None]]
    assert worth["values"] == [[None, 0.25], [None, None]]
    assert counts["y"] == ["from 0", "from 1*"]


def test_lessons_are_told_aloud():
    _, learning = build(teaching())
    run = replace(learning, hooks=(Lessons(frozenset({0, 1, 2}), aloud=True),)).under(Setting())
    records = list(run.records())
    said = [record.data["text"] for record in records if record.kind == "event"]
    assert len(said) == 2
    assert all(" teaches peer " in text and ": reward " in text for text in said)
    table = next(r.data for r in records if r.data.get("type") == "table")
    assert [row[0] for row in table["rows"]] == [1, 2]
    rounds = [record.metrics for record in records if record.kind == "round"]
    assert [m["poor_teachers"] for m in rounds] == [1.0, 1.0]
    assert rounds[0]["reward"] == pytest.approx(table["rows"][0][3])


def test_without_lessons_there_is_nothing_to_tell():
    _, learning = build(teaching())
    quiet = replace(learning, overlay=Alone(), merge="mean", hooks=(Lessons(),), local=SGD(steps=1, gradient=Plain()))
    last = [record for record in quiet.under(Setting()).records() if record.kind == "round"][-1]
    assert last.metrics["lessons"] == 0
    assert "reward" not in last.metrics
