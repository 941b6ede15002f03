import pytest
import torch
from torch import nn

from hubless.errors import ConfigError, MessageError
from hubless.learn import SGD, Batch
from hubless.learn.context import Context, Inbox
from hubless.learn.kernels.loop import Loop
from hubless.learn.kernels.slope import Session
from hubless.learn.model import Model
from hubless.learn.teaching.merge import Teaching
from hubless.learn.teaching.texts import Text
from hubless.models.zoo import ByteTransformer

PROMPTS = ("def first(", "import csv", "class Reader:", "return x")
WINDOW = 24


class Bytes:
    """Tokens are bytes, ``first`` numbers further on."""

    def __init__(self, first=0):
        self.first = first

    def encode(self, text, *, add_special_tokens=False):
        assert not add_special_tokens
        return [self.first + byte for byte in text.encode()]

    def decode(self, tokens):
        return bytes(max(token - self.first, 0) for token in tokens).decode(errors="replace")


def model(name="bytes", first=0):
    return Model(
        lambda: ByteTransformer(WINDOW, first + 256, 16, 1, 2), task="language", name=name
    )  # fmt: skip


def lesson(**more):
    options = dict(asked=2, length=5, window=WINDOW, heat=0.0)
    return Text(PROMPTS, {"bytes": Bytes(), "moved": Bytes(7)}, **{**options, **more})


def context(net, peer=0, t=1):
    x = torch.arange(24).reshape(3, 8) + 40
    return Context(
        t=t, N=2, model=net, slope=Session(Loop(net)), peer=peer, n=3, key=5 + peer, phase="teach",
        kind="predictions", own=lambda: Batch(x, x + 1), senders=(1,), counts={"text": 1, "ends": 1},
    )  # fmt: skip


def test_the_teacher_goes_on_with_its_likeliest_tokens():
    net, one = model(), lesson()
    w = net.start(1)
    said = one.say(w, {}, context(net, t=2))
    first, second = one.texts(said)
    size = len(PROMPTS[3])  # the shorter one; the other loses its beginning
    for prompt, text in ((PROMPTS[2], first), (PROMPTS[3], second)):
        tokens = list(prompt.encode())[-size:]
        for _ in range(5):
            tokens.append(int(net.forward(w, torch.tensor([tokens]))[0, -1].argmax()))
        assert text == bytes(tokens[size:]).decode(errors="replace")


def test_warm_texts_are_drawn_by_the_key():
    net, warm = model(), lesson(heat=5.0)
    said = [warm.say(net.start(1), {}, context(net, peer))["text"] for peer in (0, 0, 1)]
    assert torch.equal(said[0], said[1])
    assert not torch.equal(said[0], said[2])


def test_a_student_reads_in_its_own_tokens():
    """A model whose tokens are moved by 7 learns from bytes; what it is taught is what it would say of its own."""
    teacher, student = model(), model("moved", 7)
    probe = Batch(torch.zeros(1, 4, dtype=torch.int64), torch.zeros(1, 4, dtype=torch.int64))
    merge = Teaching(lesson=lesson(), probe=probe, local=SGD(0.3, steps=20, batch=2), shares=(1.0, 1.0))
    m = merge.message(teacher.start(1), {}, {}, context(teacher, 1))
    ctx = context(student)
    merge.accept(1, m, ctx)
    w, s = student.start(2), merge.init(student)
    got = merge.join(Inbox((1,), torch.ones(1), [m]), w, s, {}, ctx)
    assert got["text"].dtype == torch.uint8
    after, _ = merge.apply(w, s, {}, got, ctx)
    loss = [sum(float(lesson().loss(row, s, m, step, ctx)) for step in range(2)) for row in (w, after)]
    assert loss[1] < 0.5 * loss[0]


def test_only_the_added_text_counts():
    net, one = model(), lesson()
    ctx, w = context(net), net.start(3)
    said = {"text": torch.tensor(list(b"abcde"), dtype=torch.uint8), "ends": torch.tensor([3, 5], dtype=torch.int32)}
    tokens = torch.tensor([list(PROMPTS[1].encode() + b"de")])
    out = net.forward(w, tokens[:, :-1])[0, -2:]
    expected = nn.functional.cross_entropy(out, tokens[0, -2:])
    assert float(one.loss(w, {}, said, 1, ctx)) == pytest.approx(float(expected), rel=1e-5)
    assert one.texts(said) == ["abc", "de"]
    empty = {"text": torch.zeros(0, dtype=torch.uint8), "ends": torch.zeros(2, dtype=torch.int32)}
    assert float(one.loss(w, {}, empty, 0, ctx)) == 0


def test_long_texts_lose_their_end_and_prompts_their_beginning():
    net, one = model(), lesson(length=20)
    body = b"x" * 60
    said = {"text": torch.tensor(list(body), dtype=torch.uint8), "ends": torch.tensor([60, 60], dtype=torch.int32)}
    one.accept(said, context(net))
    assert torch.isfinite(one.loss(net.start(1), {}, said, 0, context(net)))


def test_bytes_that_are_no_text_are_read_with_marks():
    said = {"text": torch.tensor([0xFF, 0x61], dtype=torch.uint8), "ends": torch.tensor([1, 2], dtype=torch.int32)}
    assert lesson().texts(said) == ["�", "a"]


BODY = torch.zeros(6, dtype=torch.uint8)


@pytest.mark.parametrize(
    ("m", "words"),
    [
        ({}, "text: must be bytes"),
        ({"text": torch.zeros(6), "ends": torch.tensor([1, 6], dtype=torch.int32)}, "text: must be bytes"),
        ({"text": BODY}, "ends: must be 2 places"),
        ({"text": BODY, "ends": torch.tensor([6], dtype=torch.int32)}, "ends: must be 2 places"),
        ({"text": BODY, "ends": torch.tensor([1, 6])}, "ends: must be 2 places"),
        ({"text": BODY, "ends": torch.tensor([1, 5], dtype=torch.int32)}, "ends: must rise to the length"),
        ({"text": BODY, "ends": torch.tensor([-1, 6], dtype=torch.int32)}, "ends: must rise"),
        ({"text": BODY, "ends": torch.tensor([7, 6], dtype=torch.int32)}, "ends: must rise"),
        (
            {"text": torch.zeros(9999, dtype=torch.uint8), "ends": torch.tensor([1, 9999], dtype=torch.int32)},
            "more than",
        ),
    ],
)
def test_bad_lessons_are_refused(m, words):
    with pytest.raises(MessageError, match=words):
        lesson().accept(m, context(model()))


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: lesson(asked=5), "asked = 5: must be from 1 to the 4 prompts"),
        (lambda: lesson(length=WINDOW), "length = 24: must be from 1 to below window = 24"),
        (lambda: lesson().check(model("other")), r"merge.tongues: none for other; there are \['bytes', 'moved'\]"),
        (lambda: lesson().check(Model(lambda: nn.Linear(4, 3), name="bytes")), "bytes speaks no language"),
        (lambda: Text(("", "a"), {"bytes": Bytes()}, 1).check(model()), "merge.prompts: '' has no tokens"),
    ],
)
def test_bad_options(make, words):
    with pytest.raises(ConfigError, match=words):
        make()
