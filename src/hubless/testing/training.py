"""Conformance of local objectives, gradients and network architectures, ours and third parties'."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor

from hubless.errors import PeerError
from hubless.learn import keys
from hubless.learn.context import Batch, State
from hubless.learn.kernels import choose
from hubless.learn.kernels.loop import Loop
from hubless.learn.learning import Learning
from hubless.learn.local import SGD
from hubless.learn.merges import WeightedMean
from hubless.learn.model import Model
from hubless.learn.overlays import Alone
from hubless.learn.slots import Gradient, Local, Merge, Reduce
from hubless.learn.workload import Workload
from hubless.models.zoo import Architecture
from hubless.parts import make
from hubless.run.setting import Setting


@dataclass(frozen=True)
class _OneByOne(Local):
    """A local objective, one peer after another."""

    inner: Local

    def __getattribute__(self, name: str) -> Any:
        if name in ("fusable", "vectorised", "inner", "__class__", "__dict__"):
            return object.__getattribute__(self, name)
        return getattr(object.__getattribute__(self, "inner"), name)

    @property
    def fusable(self) -> bool:
        """Never: every step is asked for."""
        return False

    @property
    def vectorised(self) -> bool:
        """Never."""
        return False


@dataclass(frozen=True)
class _Lender(Merge):
    """Makes the entries of the state that a gradient reads and its usual merge would make."""

    reduce: Reduce = field(default_factory=WeightedMean)
    lent: tuple[str, ...] = ()

    vectorised: ClassVar[bool] = False

    def init(self, model: Model) -> State:
        """Numbers of the size of a row."""
        return {name: 0.1 * keys.normal(keys.word(name), (model.size,)) for name in self.lent}


def _end(local: Local, lent: tuple[str, ...], model: Model) -> Mapping[str, Tensor]:
    work = Workload("synthetic:samples=60:features=4:classes=3", "dirichlet:0.5", 4, model)
    learning = Learning(work, local, Alone(), merge=_Lender(lent=lent), rounds=2, kernel="loop")
    run = learning.under(Setting(seed=1, threads=1))
    try:
        list(run.records())
    except PeerError as error:
        raise AssertionError(
            f"{type(local).__name__}: {error}; draw from ctx.uniform, do not branch on values, or be not vectorised"
        ) from error
    return {name: value.clone() for name, value in run.snapshot().tensors.items()}


def check_local(local: Local) -> None:
    """Two rounds of four peers with unequal data: finite, the same twice, and mapped as one by one."""
    name = type(local).__name__
    lent = tuple(getattr(getattr(local, "gradient", None), "needs", ()))
    model = Model(lambda: torch.nn.Linear(4, 3), name="linear")
    first, again, looped = (_end(one, lent, model) for one in (local, local, _OneByOne(local)))
    wanted = {f"cohort.0/state/{entry}" for entry in (*local.init(model), *lent)}
    found = {entry for entry in first if entry.startswith("cohort.0/state/")}
    assert found == wanted, f"{name}: the state ends with {sorted(found)}, init made {sorted(wanted)}"
    for entry, value in first.items():
        assert bool(torch.isfinite(value).all()), f"{name}: {entry} is not finite on a small linear model"
        assert torch.equal(value, again[entry]), f"{name}: two runs differ in {entry}; draw from ctx and nothing else"
        gap = float((value - looped[entry]).abs().max())
        assert gap < 1e-5, f"{name}: mapped and looped differ by {gap:.1e} in {entry}; never branch on a value"
    apart = first["cohort.0/rows"][0] - first["cohort.0/rows"][1]
    assert float(apart.abs().max()) > 0, f"{name}: peers with different data end alike; does step use its batch?"


def check_gradient(gradient: Gradient | str) -> None:
    """As ``check_local``, with plain and with momentum SGD."""
    subject: Gradient = make("gradient", gradient)
    check_local(SGD(lr=0.05, steps=2, batch=8, gradient=subject))
    check_local(SGD(lr=0.05, epochs=1, batch=8, momentum=0.9, keep=True, gradient=subject))


def check_model(architecture: Architecture | str, *, shape: tuple[int, ...] = (1, 12, 12), outputs: int = 5) -> None:
    """Outputs, starts and gradients of a network for samples of ``shape``; one number stands for a text's length."""
    build = make("model", architecture)
    text = len(shape) == 1
    model = Model(lambda: build(shape, outputs), task="language" if text else "classification")
    generator = torch.Generator().manual_seed(0)
    x = torch.randint(outputs, (6, *shape), generator=generator) if text else torch.rand(6, *shape, generator=generator)
    y = torch.randint(outputs, (6, *shape) if text else (6,), generator=generator)
    model.check(x, y, outputs)
    state = torch.random.get_rng_state()
    assert torch.equal(model.start(1), model.start(1)), "the same key gives another start"
    assert not torch.equal(model.start(1), model.start(2)), "every key gives the same start; initialise at random"
    assert torch.equal(state, torch.random.get_rng_state()), "building moves the global generator"
    w = model.start(1)
    together, apart = model.forward(w, x), torch.cat([model.forward(w, one[None]) for one in x])
    assert float((together - apart).abs().max()) < 1e-4, "in evaluation, a sample's output depends on its batch"
    _check_kernels(model, x, y)


def _check_kernels(model: Model, x: Tensor, y: Tensor) -> None:
    W = torch.stack([model.start(key) for key in (1, 2)])
    S = {name: value.expand(2, *value.shape).clone() for name, value in model.buffers.items()}
    batch = Batch(torch.stack([x, x.flip(0)]), torch.stack([y, y.flip(0)]))
    loop = Loop(model)
    G, _, losses = loop.grad(W, S, batch)
    assert bool(torch.isfinite(G).all()), "gradients are not finite"
    assert float(G.abs().max()) > 0, "gradients are all 0; is every parameter frozen?"
    fast = choose(model, 2, batch, plain=False)
    gap = float((fast.grad(W, S, batch)[0] - G).norm() / G.norm())
    assert gap < 1e-3, f"kernel {fast.name} differs by {gap:.1e} from autograd, peer by peer; does forward keep state?"
    moved = W.clone()
    loop.epoch(moved, S, [batch] * 5, 0.01)
    assert bool((loop.grad(moved, S, batch)[2] < losses).all()), "the loss does not fall in five small steps"
