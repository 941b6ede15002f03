"""Every kernel computes what the loop computes, and the loop what ``nn.Module`` with ``optim.SGD`` computes."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import pytest
import torch
from torch import Tensor, nn

from hubless.learn.context import Batch, State
from hubless.learn.kernels import Kernel
from hubless.learn.kernels.choice import KINDS
from hubless.learn.model import BUFFER, Model, Task

C, B, CLASSES = 3, 8, 5
pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(2, 4, 3, padding=1, groups=2)
        self.norm = nn.GroupNorm(2, 4)
        self.second = nn.Conv2d(4, 4, 3, padding=1)
        self.pool = nn.AdaptiveAvgPool2d(2)
        self.hidden = nn.Linear(16, 7)
        self.row_norm = nn.GroupNorm(1, 7)
        self.out = nn.Linear(7, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.relu(self.norm(self.first(x)))
        h = h + self.second(h)
        h = self.pool(nn.functional.max_pool2d(nn.functional.relu(h), 2))
        return self.out(self.row_norm(torch.tanh(self.hidden(h.reshape(h.size(0), -1)))))


class Views(nn.Module):
    """``view`` refuses channels-last images; the kernels must cope."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 4, 3)
        self.out = nn.Linear(4 * 36, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        h = nn.functional.relu(self.conv(x))
        return self.out(h.view(h.size(0), -1))


class Attention(nn.Module):
    def __init__(self, outputs: int) -> None:
        super().__init__()
        self.token = nn.Embedding(11, 8)
        self.norm = nn.LayerNorm(8)
        self.qkv = nn.Linear(8, 24)
        self.head = nn.Linear(8, outputs)
        self.every = outputs == 11

    def forward(self, x: Tensor) -> Tensor:
        h = self.token(x)
        q, k, v = self.qkv(self.norm(h)).chunk(3, -1)
        h = self.head(h + nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True))
        return h if self.every else h.mean(1)


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.token = nn.Embedding(11, 8)
        self.lstm = nn.LSTM(8, 6, batch_first=True)
        self.head = nn.Linear(6, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.lstm(self.token(x))[0][:, -1])


def mlp() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(16, 20), nn.ReLU(), nn.Linear(20, 7, bias=False), nn.Tanh(), *last(7))


def last(width: int) -> list[nn.Module]:
    return [nn.Linear(width, CLASSES)]


def norms() -> nn.Module:
    return nn.Sequential(
        nn.Linear(16, 20), nn.BatchNorm1d(20), nn.Tanh(), nn.Dropout(0.3), nn.GroupNorm(4, 20), *last(20)
    )


def cnn() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Dropout(0.2),
        nn.Conv2d(4, 6, 3),
        nn.GroupNorm(2, 6),
        nn.GELU(),
        nn.AvgPool2d(1),
        nn.Flatten(),
        *last(24),
    )


@dataclass
class Case:
    model: Model
    batches: list[Batch]
    W: Tensor
    S: State


@cache  # with its traces, which take longest
def the_model(name: str) -> Model:
    build, _, task = MODELS[name]
    return Model(build, task=task, name=name, frozen=("0.",) if name == "frozen" else ())


def case(name: str, weighted: bool = False) -> Case:
    _, shape, task = MODELS[name]
    model = the_model(name)
    source = torch.Generator().manual_seed(3)
    W = torch.stack([model.start(i) for i in range(C)])
    S = {n: b.expand(C, *b.shape).clone() for n, b in model.buffers.items()}
    for n in S:
        if n.endswith(".key"):
            S[n] = torch.arange(C) * 1000
    S["other"] = torch.arange(float(C))
    batches = []
    for size in (B, B, B // 2):
        tokens = name in ("attention", "language", "recurrent")
        x = torch.randint(0, 11, (C, size, 6), generator=source) if tokens else None
        x = torch.randn(C, size, *shape, generator=source) if x is None else x
        y: Tensor = torch.randint(0, CLASSES, (C, size), generator=source)
        if task == "regression":
            y = torch.randn(C, size, CLASSES, generator=source)
        elif task == "language":
            y = x
        weight = torch.rand(C, size, generator=source) if weighted else None
        if weight is not None:
            weight[1] = 0
            weight[2, -2:] = 0
        batches.append(Batch(x, y, weight))
    return Case(model, batches, W, S)


MODELS: dict[str, tuple[type[nn.Module] | object, tuple[int, ...], Task]] = {
    "mlp": (mlp, (1, 4, 4), "classification"),
    "regression": (mlp, (16,), "regression"),
    "norms": (norms, (16,), "classification"),
    "frozen": (lambda: nn.Sequential(nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, CLASSES)), (16,), "classification"),
    "cnn": (cnn, (2, 8, 8), "classification"),
    "residual": (Residual, (2, 8, 8), "classification"),
    "views": (Views, (2, 8, 8), "classification"),
    "attention": (lambda: Attention(CLASSES), (), "classification"),
    "language": (lambda: Attention(11), (), "language"),
    "recurrent": (Recurrent, (), "classification"),
}
PAIRS = [
    *(("dense", name) for name in ("mlp", "regression")),
    *(("stacked", name) for name in ("cnn", "residual", "views")),
    *(("graph", name) for name in MODELS if name != "recurrent"),
]


@cache
def kernel(kind: str, model: Model) -> Kernel:
    return KINDS[kind](model)


def close(a: Tensor, b: Tensor, tolerance: float = 1e-5) -> None:
    torch.testing.assert_close(a, b, atol=tolerance, rtol=1e-4)


def same_state(a: State, b: State) -> None:
    assert a.keys() == b.keys()
    for name in a:
        close(a[name], b[name])


def sgd(at: Case, i: int, lr: float) -> tuple[Tensor, dict[str, Tensor], Tensor]:
    """Peer i by ``nn.Module`` and ``optim.SGD``: parameters, buffers, mean loss."""
    module = at.model._fresh(0).train()
    found = dict(module.named_parameters())
    with torch.no_grad():
        for name, value in (at.model.unflatten(at.W[i]) | at.model.frozen).items():
            found[name].copy_(value)
        for name, buffer in module.named_buffers():
            buffer.copy_(at.S[BUFFER + name][i])
    optimiser = torch.optim.SGD([found[n] for n in at.model.names], lr=lr)
    losses = []
    for x, y, weight in at.batches:
        each = at.model.loss(module(x[i]), y[i])
        loss = each.mean() if weight is None else (each * weight[i]).sum() / weight[i].sum()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.detach())
    row = torch.cat([found[n].detach().flatten() for n in at.model.names])
    return row, {BUFFER + n: b for n, b in module.named_buffers()}, torch.stack(losses).mean()


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("weighted", [False, True])
def test_loop_is_module_and_optimiser(name, weighted):
    at = case(name, weighted)
    W = at.W.clone()
    S, losses = kernel("loop", at.model).epoch(W, at.S, at.batches, 0.1)
    for i in (0, 2) if weighted else range(C):
        row, buffers, loss = sgd(at, i, 0.1)
        close(W[i], row)
        close(losses[i], loss)
        same_state({n: S[n][i] for n in buffers}, buffers)


@pytest.mark.parametrize(("kind", "name"), PAIRS)
@pytest.mark.parametrize("weighted", [False, True])
def test_gradients_are_the_loops(kind, name, weighted):
    at = case(name, weighted)
    G, S, losses = kernel(kind, at.model).grad(at.W, at.S, at.batches[0])
    expected, moved, expected_losses = kernel("loop", at.model).grad(at.W, at.S, at.batches[0])
    close(G, expected)
    close(losses, expected_losses)
    same_state(S, moved)
    assert not losses.requires_grad
    assert not G.requires_grad
    assert G.abs().max() > 1e-4


@pytest.mark.parametrize(("kind", "name"), PAIRS)
@pytest.mark.parametrize("weighted", [False, True])
def test_epochs_are_the_loops_with_a_decaying_rate(kind, name, weighted):
    at = case(name, weighted)
    W, V, S, Z = at.W.clone(), at.W.clone(), at.S, at.S
    mine, reference = kernel(kind, at.model), kernel("loop", at.model)
    for lr in (0.1, 0.05):
        S, losses = mine.epoch(W, S, iter(at.batches), lr)
        Z, expected = reference.epoch(V, Z, at.batches, lr)
        close(W, V)
        close(losses, expected)
        same_state(S, Z)
    assert (W - at.W)[0].abs().max() > 1e-3


@pytest.mark.parametrize(("kind", "name"), PAIRS)
def test_fused_epoch_is_step_by_step(kind, name):
    at = case(name)
    mine, W, V, S = kernel(kind, at.model), at.W.clone(), at.W.clone(), at.S
    fused, _ = mine.epoch(W, at.S, at.batches, 0.1)
    for batch in at.batches:
        G, S, _ = mine.grad(V, S, batch)
        V = V - 0.1 * G
    close(W, V)
    same_state(fused, S)


@pytest.mark.parametrize(("kind", "name"), [*PAIRS, *(("loop", name) for name in MODELS)])
def test_a_peer_without_samples_stays_as_it_is(kind, name):
    at = case(name, weighted=True)
    W = at.W.clone()
    mine = kernel(kind, at.model)
    G, S, _ = mine.grad(at.W, at.S, at.batches[0])
    assert (G[1] == 0).all()
    trained, losses = mine.epoch(W, at.S, at.batches, 0.1)
    assert torch.equal(W[1], at.W[1])
    assert losses[1] == 0
    for n in at.S:
        assert torch.equal(S[n][1], at.S[n][1])
        assert torch.equal(trained[n][1], at.S[n][1])


@pytest.mark.parametrize(("kind", "name"), [*PAIRS, *(("loop", name) for name in MODELS)])
def test_forward_is_the_modules_in_evaluation(kind, name):
    at = case(name)
    mine, x = kernel(kind, at.model), at.batches[0].x
    shared, own = mine.forward(at.W, at.S, x[0]), mine.forward(at.W, at.S, x, shared=False)
    for i in range(C):
        s = {n: v[i] for n, v in at.S.items()}
        close(shared[i], at.model.forward(at.W[i], x[0], s))
        close(own[i], at.model.forward(at.W[i], x[i], s))


@pytest.mark.parametrize(("kind", "name"), [*PAIRS, ("loop", "cnn")])
@pytest.mark.parametrize("weighted", [False, True])
def test_input_gradients(kind, name, weighted):
    at = case(name, weighted)
    batch = at.batches[0]
    if not batch.x.is_floating_point():
        return
    found = kernel(kind, at.model).input_grad(at.W, at.S, batch)
    for i in (0, 2):
        x = batch.x[i].clone().requires_grad_()
        each = at.model.loss(at.model.forward(at.W[i], x, {n: v[i] for n, v in at.S.items()}), batch.y[i])
        loss = each.mean() if batch.weight is None else (each * batch.weight[i]).sum() / batch.weight[i].sum()
        close(found[i], torch.autograd.grad(loss, x)[0])


@pytest.mark.parametrize("kind", ["dense", "graph"])
def test_evaluation_in_blocks_is_evaluation_at_once(kind, monkeypatch):
    at = case("mlp")
    x = torch.randn(50, 1, 4, 4, generator=torch.Generator().manual_seed(1))
    whole = kernel(kind, at.model).forward(at.W, at.S, x)
    monkeypatch.setattr("hubless.learn.kernels.base.BLOCK", 1)
    close(kernel(kind, at.model).forward(at.W, at.S, x), whole)


@pytest.mark.parametrize("kind", ["dense", "graph", "loop"])
def test_rows_of_a_larger_matrix_and_strided_batches(kind):
    at = case("mlp")
    whole = torch.zeros(C, at.model.size + 3)
    whole[:, 1:-2] = at.W
    mixed = [Batch(b.x.transpose(2, 4), b.y) for b in at.batches]
    straight = [Batch(b.x.transpose(2, 4).contiguous(), b.y) for b in at.batches]
    kernel(kind, at.model).epoch(whole[:, 1:-2], at.S, mixed, 0.1)
    W = at.W.clone()
    kernel("loop", at.model).epoch(W, at.S, straight, 0.1)
    close(whole[:, 1:-2], W)
    assert (whole[:, 0] == 0).all()


def test_a_graph_keeps_updates_after_the_reads_of_other_parameters():
    class Product(nn.Module):  # the gradient of each factor is the other one
        def __init__(self) -> None:
            super().__init__()
            self.a = nn.Parameter(torch.tensor([[0.5, 2.0], [1.0, -1.0]]))
            self.b = nn.Parameter(torch.tensor([[0.3, 1.0], [-0.4, 0.8]]))

        def forward(self, x: Tensor) -> Tensor:
            return (self.a @ self.b).sum() + x[:, :1] * 0

    model = Model(Product, task="regression", loss=lambda out, y: out.flatten())
    W, x, y = model.start(0).repeat(2, 1), torch.zeros(2, 4, 1), torch.zeros(2, 4, 1)
    V = W.clone()
    kernel("graph", model).epoch(W, {}, [Batch(x, y)], 0.1)
    kernel("loop", model).epoch(V, {}, [Batch(x, y)], 0.1)
    close(W, V)


def test_frozen_values_given_later_count():
    at = case("frozen")
    mine = {kind: kernel(kind, at.model) for kind in ("graph", "loop")}
    before = mine["graph"].grad(at.W, at.S, at.batches[0])[0]
    at.model.freeze({n: v + 0.5 for n, v in at.model.frozen.items()})
    after = {kind: k.grad(at.W, at.S, at.batches[0])[0] for kind, k in mine.items()}
    close(after["graph"], after["loop"])
    assert (after["graph"] - before).abs().max() > 1e-3
