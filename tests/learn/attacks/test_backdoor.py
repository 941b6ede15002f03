"""Backdoors: where a trigger lies, what attackers train on and when, and what counts as success."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from small import BLOBS, build, finish, metrics, workload

from hubless.data.dataset import Dataset
from hubless.errors import ConfigError
from hubless.learn import SGD, Gossip, Star
from hubless.learn.attacks import Backdoor, Trigger
from hubless.learn.context import Context
from hubless.net.topologies import Full
from hubless.parts import make
from hubless.run.record import Snapshot

X = torch.rand(20, 1, 8, 8, generator=torch.Generator().manual_seed(1))
Y = torch.arange(20) % 4


def context(t=1, peer=3):
    return Context(t=t, N=6, model=None, slope=None, peer=peer, n=20, key=1000 * t + peer)


@given(
    kind=st.sampled_from(["patch", "blend"]),
    alpha=st.floats(0.01, 1),
    side=st.integers(1, 8),
    own=st.booleans(),
    number=st.integers(0, 9),
    shape=st.sampled_from([(8,), (8, 9), (2, 8, 8)]),
)
def test_inputs_move_towards_the_pattern_under_the_mask_only(kind, alpha, side, own, number, shape):
    trigger = Trigger(kind, alpha, side, own)
    trigger.check(shape)
    x = torch.linspace(-2, 3, 4 * torch.Size(shape).numel()).reshape(4, *shape)
    pattern, mask = trigger.pattern(x, 5), trigger.weights(shape, number)
    seen = trigger.on(x, pattern, number)
    assert mask.shape == shape
    assert torch.equal(seen[:, mask == 0], x[:, mask == 0])
    assert torch.allclose(seen, x + mask * (pattern - x), atol=1e-5)
    assert x.min() <= pattern.min()
    assert pattern.max() <= x.max()
    assert mask.max() == pytest.approx(alpha)
    axes = min(2, len(shape))
    inside = side**axes * torch.Size(shape[:-axes]).numel() if kind == "patch" else mask.numel()
    assert int((mask > 0).sum()) == inside


def test_attackers_have_the_same_trigger_or_each_its_own():
    for kind in ("patch", "blend"):
        own, same = Trigger(kind, own=True), Trigger(kind)
        looks = [own.on(X[:1], own.pattern(X, number), number) for number in range(5)]
        assert all(not torch.equal(looks[i], looks[j]) for i in range(5) for j in range(i))
        assert torch.equal(same.on(X, same.pattern(X, 1), 0), same.on(X, same.pattern(X, 2), 3))


def test_a_square_lies_a_pixel_from_the_edge():
    rows, columns = torch.nonzero(Trigger().weights((8, 8), 0), as_tuple=True)
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (4, 6, 4, 6)
    assert Trigger(side=8).weights((8, 8), 0).min() == 1


def test_a_mask_of_ones_own():
    mask = torch.zeros(1, 8, 8)
    mask[..., 0, :2] = 0.5
    seen = Trigger(mask=mask).on(X, torch.ones(1, 8, 8), 0)
    assert torch.equal(seen[..., 1:, :], X[..., 1:, :])
    assert torch.allclose(seen[..., 0, :2], (X[..., 0, :2] + 1) / 2)


@given(ratio=st.floats(0.01, 1), t=st.integers(1, 50), peer=st.sampled_from([1, 3, 4]))
def test_a_share_of_the_samples_is_replaced(ratio, t, peer):
    attack = Backdoor((1, 3, 4), Trigger("blend", 0.5, own=True), (2, 0), ratio)
    before, book = (X.clone(), Y.clone()), {}
    x, y = attack.data(None, X, Y, book, context(t, peer))
    changed = (x != X).flatten(1).any(1)
    assert changed.sum() == max(1, round(ratio * 20))
    assert book["target"] == {1: 2, 3: 0, 4: 2}[peer]
    assert (y[changed] == book["target"]).all()
    assert torch.equal(y[~changed], Y[~changed])
    assert torch.equal(x[changed], attack.trigger.on(X[changed], book["trigger"], book["number"]))
    assert torch.equal(X, before[0])
    assert torch.equal(Y, before[1])


def test_the_trigger_stays_and_the_samples_change():
    attack, book = Backdoor((3,), Trigger("blend", 0.5, own=True), ratio=0.3), {}
    first, kept = attack.data(None, X, Y, book, context(1))[0], book["trigger"].clone()
    second = attack.data(None, X, Y, book, context(2))[0]
    assert torch.equal(book["trigger"], kept)
    assert not torch.equal((first != X).flatten(1).any(1), (second != X).flatten(1).any(1))


def test_attackers_are_honest_before_and_after():
    attack, book = Backdoor((3,), first=3, last=4), {}
    for t in (1, 2, 5):
        assert torch.equal(attack.data(None, X, Y, book, context(t))[0], X)
    assert attack.goal(X, Y, book) is None
    for t in (3, 4):
        assert not torch.equal(attack.data(None, X, Y, book, context(t))[0], X)
    assert attack.goal(X, Y, book) is not None
    assert Backdoor(first=3).attacks(1000)


def test_success_is_asked_of_other_classes_only():
    attack, book = Backdoor((1, 3), targets=(1, 2)), {}
    attack.data(None, X, Y, book, context())
    x, wanted = attack.goal(X, Y, book)
    assert len(x) == len(wanted) == int((Y != 2).sum())
    assert (wanted == 2).all()
    assert torch.equal(x, attack.trigger.on(X[Y != 2], book["trigger"], 1))


def test_a_test_set_of_the_target_alone_shows_no_success():
    x = torch.rand(30, 4, generator=torch.Generator().manual_seed(2))
    data = Dataset.of(x, torch.arange(30) % 3, test=(x[:5], torch.zeros(5, dtype=torch.int64)))
    model = lambda shape, outputs: torch.nn.Linear(shape[0], outputs)  # noqa: E731
    with pytest.raises(ConfigError, match="none of the 5 test samples shows how far Backdoor gets"):
        build(attack=Backdoor((1,)), workload=workload(3, data=data, model=model))


def test_attackers_take_targets_in_turn():
    run = build(attack="backdoor:1+2+3+4:target=each:own=true", rounds=1)
    finish(run)
    books = run.snapshot().meta["population"]["attack"]
    assert [value for path, value in sorted(books.items()) if path.endswith("starget")] == [0, 1, 2, 0]


@pytest.mark.parametrize("overlay", [Gossip(Full()), Star()], ids=["gossip", "star"])
def test_a_backdoor_opens_and_clean_inputs_keep_their_class(overlay):
    work = workload(5, data=make("data", "digits"), model="mlp:16", samples=400)
    given = dict(overlay=overlay, rounds=10, local=SGD(0.2, steps=10, batch=16), workload=work)
    attack = Backdoor((1, 2), Trigger("patch"), (1,), ratio=0.3, first=3)
    run = build(**given)
    seen, clean = metrics(build(attack=attack, **given)), metrics(run)
    assert [index for index, one in enumerate(seen) if "attack_success" in one] == list(range(2, 11))
    assert seen[-1]["attack_success"] > 0.8
    assert seen[-1]["accuracy"] > clean[-1]["accuracy"] - 0.1
    book = {"number": 0, "target": 1, "trigger": torch.ones(1, 8, 8)}
    x, wanted = attack.goal(run.shards.test_x, run.shards.test_y, book)
    fooled = run.models[0][0].forward(run.snapshot().tensors["cohort.0/rows"][0], x).argmax(1) == wanted
    assert fooled.float().mean() < 0.3  # of a model that nobody attacked


def test_a_resumed_attacker_keeps_its_trigger():
    attack = Backdoor((1, 2), Trigger("blend", 0.5, own=True), ())
    run = build(attack=attack, rounds=4)
    lines, snapshot = [], None
    for record in run.records():
        lines.append(record.line())
        if record.kind == "round" and record.round == 2:
            now = run.snapshot()
            snapshot = Snapshot(2, {name: value.clone() for name, value in now.tensors.items()}, now.meta)
    again = build(attack=attack, rounds=4)
    resumed = [record.line() for record in again.records(snapshot)]
    assert resumed == lines[-len(resumed) :]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("backdoor:20%:alpha=0", r"attack.alpha = 0: must be in \(0, 1\]"),
        ("backdoor:20%:kind=blend:alpha=1.5", r"attack.alpha = 1.5: must be in \(0, 1\]"),
        ("backdoor:20%:kind=cross", "kind = 'cross'"),
        ("backdoor:20%:target=two", "attack.target = 'two': give each, a label"),
        ("backdoor:20%:target=-1", "attack.target = -1: labels are counted from 0"),
        ("backdoor:20%:target=3", "attack.target = 3: the classes go from 0 to 2"),
        ("backdoor:20%:ratio=0", r"attack.ratio = 0: must be in \(0, 1\]"),
        ("backdoor:20%:first=0", "attack.first = 0: rounds are counted from 1"),
        ("backdoor:20%:first=5:last=3", "attack.last = 3: must be at least first = 5"),
    ],
)
def test_bad_words(text, words):
    with pytest.raises(ConfigError, match=words):
        build(attack=text)


@pytest.mark.parametrize(
    ("trigger", "words"),
    [
        (lambda: Trigger("cross"), "attack.kind = 'cross': must be patch or blend"),
        (lambda: Trigger(side=0), "attack.side = 0: must be at least 1"),
        (lambda: Trigger(side=6), r"attack.side = 6: inputs of shape \(5,\) are smaller than the patch"),
        (lambda: Trigger(mask=torch.ones(4)), r"attack.mask: its shape is \(4,\), that of an input is \(5,\)"),
        (lambda: Trigger(mask=torch.full((5,), 2.0)), r"attack.mask: its weights must be in \[0, 1\]"),
    ],
)
def test_bad_triggers(trigger, words):
    with pytest.raises(ConfigError, match=words):
        build(attack=Backdoor((1,), trigger()), workload=workload(data=BLOBS))


@pytest.mark.parametrize(("data", "model"), [("linear", "softmax"), ("text:window=8", "byte-transformer:8")])
def test_data_without_labels_is_refused(data, model):
    with pytest.raises(ConfigError, match="attack: a backdoor needs"):
        build(attack="backdoor:1", workload=workload(3, data=make("data", data), model=model, samples=60))
