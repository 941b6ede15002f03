"""A part written for one peer gives the same under ``vmap`` over a kernel as peer by peer."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from hubless.learn.context import Batch, State
from hubless.learn.kernels import Kernel
from hubless.learn.kernels.choice import KINDS
from hubless.learn.kernels.slope import Session
from hubless.learn.model import Model

C, B = 3, 6


def network() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 4, 3),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Dropout(0.2),
        nn.Flatten(),
        nn.Linear(16, 3),
    )


def perceptron() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(36, 8), nn.ReLU(), nn.Linear(8, 3))


CASES = [("loop", network), ("stacked", network), ("graph", network), ("dense", perceptron), ("loop", perceptron)]


def plain(session: Session, w: Tensor, s: State, batch: Batch) -> tuple[Tensor, State]:
    g, s = session.grad(w, s, batch)
    return w - 0.1 * g, s


def sharp(session: Session, w: Tensor, s: State, batch: Batch) -> tuple[Tensor, State]:
    g, s = session.grad(w, s, batch)
    g, s = session.grad(w + 0.05 * g / (g.norm() + 1e-12), s, batch)
    return w - 0.1 * g, s


def adversarial(session: Session, w: Tensor, s: State, batch: Batch) -> tuple[Tensor, State]:
    x = batch.x + 0.1 * session.input_grad(w, s, batch).sign()
    return plain(session, w, s, batch._replace(x=x))


def setting(kind: str, build) -> tuple[Kernel, Tensor, State, Tensor, Tensor]:
    model = Model(build)
    source = torch.Generator().manual_seed(0)
    W = torch.stack([model.start(i) for i in range(C)])
    S = {n: b.expand(C, *b.shape).clone() for n, b in model.buffers.items()} | {
        "moment": torch.arange(C * 2.0).view(C, 2)
    }
    x, y = torch.randn(C, B, 1, 6, 6, generator=source), torch.randint(0, 3, (C, B), generator=source)
    return KINDS[kind](model), W, S, x, y


@pytest.mark.parametrize(("kind", "build"), CASES)
@pytest.mark.parametrize("step", [plain, sharp, adversarial])
@pytest.mark.parametrize("weighted", [False, True])
def test_mapped_is_looped(kind, build, step, weighted):
    kernel, W, S, x, y = setting(kind, build)
    weight = torch.rand(C, B, generator=torch.Generator().manual_seed(1)) if weighted else None
    mapped, looped = Session(kernel), Session(kernel)
    if weight is None:
        V, Z = torch.vmap(lambda w, s, x, y: step(mapped, w, s, Batch(x, y)))(W, S, x, y)
    else:
        V, Z = torch.vmap(lambda w, s, x, y, m: step(mapped, w, s, Batch(x, y, m)))(W, S, x, y, weight)
    for i in range(C):
        batch = Batch(x[i], y[i], None if weight is None else weight[i])
        w, s = step(looped, W[i], {n: v[i] for n, v in S.items()}, batch)
        torch.testing.assert_close(V[i], w, atol=1e-5, rtol=1e-4)
        assert s.keys() == Z.keys() == S.keys()
        for n in s:
            torch.testing.assert_close(Z[n][i], s[n], atol=1e-5, rtol=1e-4)
    assert torch.equal(Z["moment"], S["moment"])
    calls = 2 if step is sharp else 1
    assert [x.shape for x in mapped.losses] == [(C,)] * calls
    assert len(looped.losses) == C * calls
    assert not V.requires_grad


def test_plain_is_the_kernels_epoch():
    kernel, W, S, x, y = setting("loop", network)
    V, Z = torch.vmap(lambda w, s, x, y: plain(Session(kernel), w, s, Batch(x, y)))(W, S, x, y)
    S, _ = kernel.epoch(W, S, [Batch(x, y)], 0.1)
    torch.testing.assert_close(V, W)
    assert all(torch.equal(S[n], Z[n]) for n in S)


def test_what_is_not_mapped_is_the_same_for_all_peers():
    kernel, W, _, x, y = setting("dense", perceptron)
    session = Session(kernel)
    found = torch.vmap(lambda w, y: session.grad(w, {}, Batch(x[0], y))[0], in_dims=(None, 1))(W[0], y.T)
    expected, _, _ = kernel.grad(W[:1].expand(C, -1), {}, Batch(x[:1].expand(C, *x.shape[1:]), y))
    torch.testing.assert_close(found, expected)
