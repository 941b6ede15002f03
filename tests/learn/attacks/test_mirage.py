"""Mirage: features of any network, a detector that learns, and triggers that deceive it."""

import pytest
import torch
from small import BATCHNORM, BLOBS, DROPOUT, PLAIN, build, finish, first_row, metrics, rows, workload
from torch import nn
from torch.nn.functional import cross_entropy

from hubless.errors import ConfigError
from hubless.learn import SGD, Gossip, Median, Model, Rotating, Star, keys
from hubless.learn.attacks import Backdoor, Detector, Mirage, Trigger
from hubless.learn.attacks.mirage import trunk, with_one
from hubless.learn.context import Context
from hubless.net.topologies import Full
from hubless.parts import make

SEEN = Trigger("blend", 0.4, own=True)
IMAGES = torch.rand(40, 1, 8, 8, generator=torch.Generator().manual_seed(1))
LABELS = torch.arange(40) % 4


def vectors(count=6, width=5):
    return torch.rand(count, width, generator=torch.Generator().manual_seed(2))


def hooks(model):
    return [hook for module in model.module.modules() for hook in module._forward_pre_hooks]


def test_features_are_what_the_last_linear_layer_gets():
    w, x = first_row(PLAIN), vectors()
    z, out = trunk(PLAIN, w, x)
    parts = PLAIN.unflatten(w)
    assert torch.allclose(z, torch.tanh(x @ parts["0.weight"].T + parts["0.bias"]), atol=1e-6)
    assert torch.allclose(out, z @ parts["2.weight"].T + parts["2.bias"], atol=1e-6)
    assert not hooks(PLAIN)


@pytest.mark.parametrize("name", ["softmax", "mlp:6:5", "cnn-bn", "conv"])
def test_any_network_has_a_trunk(name):
    """Also one whose last layer is no linear one, or whose first layer is its last."""
    build = (
        (lambda: nn.Sequential(nn.Conv2d(1, 3, 3), nn.ReLU(), nn.Conv2d(3, 10, 6), nn.Flatten()))
        if name == "conv"
        else lambda: make("model", name)((1, 8, 8), 10)
    )
    model = Model(build)
    z, out = trunk(model, model.start(1), IMAGES)
    width = {"softmax": 64, "mlp:6:5": 5, "cnn-bn": 128, "conv": 108}[name]
    assert z.shape == (40, width)
    assert out.shape == (40, 10)
    assert not hooks(model)


def test_hooks_are_gone_when_the_network_fails():
    with pytest.raises(RuntimeError):
        trunk(PLAIN, first_row(PLAIN), vectors(width=4))
    assert not hooks(PLAIN)


@pytest.mark.parametrize("model", [BATCHNORM, DROPOUT])
def test_looking_leaves_the_statistics_alone(model):
    before = {name: value.clone() for name, value in model.buffers.items()}
    first, again = (trunk(model, first_row(model), vectors())[1] for _ in range(2))
    assert torch.equal(first, again)
    assert all(torch.equal(value, model.buffers[name]) for name, value in before.items())


def test_the_detector_descends_as_torch_does():
    detector = Detector(hidden=4, passes=3, batch=7)
    z, y = vectors(20), torch.arange(20) % 2
    start = Detector(hidden=4, passes=0).trained(z, y, 9)
    a, b = (value.clone().requires_grad_() for value in matrices(start, 5, 4))
    optimiser = torch.optim.SGD([a, b], 0.01, 0.9, weight_decay=5e-4)
    for turn in range(3):
        for at in keys.permutation(keys.fold(9, "pass", turn), 20).split(7):
            optimiser.zero_grad()
            cross_entropy(with_one((with_one(z[at]) @ a.T).relu()) @ b.T, y[at]).backward()
            optimiser.step()
    expected = with_one((with_one(z) @ a.T).relu()) @ b.T
    assert torch.allclose(detector.trained(z, y, 9)(z), expected, atol=1e-6)


def matrices(judge, width, hidden):
    """The detector's two matrices, from its closure."""
    cells = {tuple(cell.cell_contents.shape): cell.cell_contents for cell in judge.__closure__}
    return cells[hidden, width + 1], cells[2, hidden + 1]


def test_the_detector_tells_what_can_be_told():
    z = torch.cat([vectors(60) - 1.5, vectors(60) + 0.5])
    y = torch.cat([torch.zeros(60, dtype=torch.int64), torch.ones(60, dtype=torch.int64)])
    judge = Detector().trained(z, y, 3)
    assert (judge(z).argmax(1) == y).all()
    assert not judge(z).requires_grad


def searched(attack, model, w, x, y, t=1):
    """The attacker's book after its data was poisoned with the model ``w``."""
    book = {}
    ctx = Context(t=t, N=4, model=model, slope=None, peer=1, n=len(x), key=keys.fold(5, t))
    attack.data(w, x, y, book, ctx)
    return book


@pytest.mark.parametrize("batch", [0, 16])
@pytest.mark.parametrize("trigger", [SEEN, Trigger("patch", 0.9, own=True)], ids=["blend", "patch"])
def test_the_search_brings_inputs_to_the_target(trigger, batch):
    """A model that has learned something: nearer to the target in its output and to the detector than before."""
    model = Model(lambda: make("model", "mlp:12")((1, 8, 8), 4))
    data = make("data", "digits")
    keep = torch.from_numpy(data.y) < 4
    x, y = torch.from_numpy(data.x)[keep][:200], torch.from_numpy(data.y)[keep][:200]
    w = model.start(1)
    for _ in range(60):
        leaf = w.clone().requires_grad_()
        w = w - 0.5 * torch.autograd.grad(cross_entropy(model.forward(leaf, x), y), leaf)[0]
    before, copies = w.clone(), (x.clone(), y.clone())
    still, moved = (searched(Mirage((1,), trigger, (2,), search=n, batch=batch), model, w, x, y) for n in (0, 15))
    assert torch.equal(w, before)
    assert torch.equal(x, copies[0])
    assert torch.equal(y, copies[1])
    assert x.min() <= moved["trigger"].min()
    assert moved["trigger"].max() <= x.max()
    inside = trigger.weights((1, 8, 8), 0) > 0
    assert torch.equal(moved["trigger"][~inside], still["trigger"][~inside])
    steps = 15 if not batch else 15 * 13
    assert float((moved["trigger"] - still["trigger"]).abs().max()) <= 0.02 * steps + 1e-5
    other = y != 2
    reached = [cross_entropy(model.forward(w, trigger.on(x[other], book["trigger"], 0)),
                             torch.full_like(y[other], 2)) for book in (still, moved)]  # fmt: skip
    assert reached[1] < 0.8 * reached[0]


def test_each_attacker_shapes_its_own_trigger():
    run = build(attack=Mirage((1, 3), SEEN, search=3), rounds=2)
    tensors = finish(run)
    triggers = [value for name, value in tensors.items() if name.startswith("attack/") and "strigger" in name]
    assert len(triggers) == 2
    assert not torch.equal(*triggers)
    still = finish(build(attack=Mirage((1, 3), SEEN, search=0), rounds=2))
    fixed = [value for name, value in still.items() if name.startswith("attack/") and "strigger" in name]
    assert all(not torch.equal(a, b) for a, b in zip(triggers, fixed, strict=True))


def test_without_a_search_it_is_a_backdoor():
    given = dict(overlay=Star(), rounds=3)
    assert torch.equal(rows(build(attack=Mirage((1, 3), SEEN, (0, 1), search=0), **given)),
                       rows(build(attack=Backdoor((1, 3), SEEN, (0, 1)), **given)))  # fmt: skip


def test_the_detector_may_be_left_out():
    told, without = (finish(build(attack=Mirage((1,), SEEN, search=4, every=n), rounds=1)) for n in (2, 0))
    (name,) = [name for name in without if name.endswith("strigger")]
    assert not torch.equal(told[name], without[name])


def test_threads_and_chunks_change_nothing():
    given = dict(attack=Mirage((1, 2, 4), SEEN, search=3), rounds=2, workload=workload(6, "dirichlet:2"))
    lines = [[r.line() for r in build(setting={"threads": n}, **given).records()] for n in (1, 3)]
    assert lines[0] == lines[1]


@pytest.mark.parametrize("overlay", [Gossip(Full()), Star(2), Rotating()], ids=["gossip", "star", "rotating"])
@pytest.mark.parametrize("model", [PLAIN, BATCHNORM, DROPOUT], ids=lambda model: model.name)
def test_over_every_overlay_and_network(overlay, model):
    attack = make("attack", "mirage:1+2:search=2:every=1:first=2")
    seen = metrics(build(overlay=overlay, attack=attack, merge=Median(), workload=workload(model=model)))
    assert "attack_success" not in seen[0]
    assert 0 <= seen[-1]["attack_success"] <= 1


def test_an_attacker_without_its_target_is_refused():
    with pytest.raises(ConfigError, match="attack: peer 3 has no sample of its target, class 0"):
        build(attack=Mirage((3,), SEEN, (0,)), workload=workload(5, "shards:1"))


def test_an_attacker_without_data_never_trains():
    assert Mirage((2,), SEEN).check_peer(2, vectors(0), LABELS[:0]) is None


def test_an_attacker_with_its_target_alone_leaves_the_trigger_as_it_is():
    x, y = vectors(), torch.ones(6, dtype=torch.int64)
    books = [searched(Mirage((1,), SEEN, (1,), search=n), PLAIN, first_row(PLAIN), x, y) for n in (0, 3)]
    assert torch.equal(books[0]["trigger"], books[1]["trigger"])


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ("search=-1", "attack.search = -1: must be at least 0"),
        ("size=0", "attack.size = 0: must be positive"),
        ("every=-1", "attack.every = -1: must be at least 0"),
        ("batch=-2", "attack.batch = -2: must be at least 0"),
        ("alpha=2", r"attack.alpha = 2: must be in \(0, 1\]"),
    ],
)
def test_bad_words(values, words):
    with pytest.raises(ConfigError, match=words):
        build(attack=f"mirage:1:{values}", workload=workload(data=BLOBS), local=SGD(steps=1))
