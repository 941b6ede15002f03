"""DP-SGD: every local step clips each sample's gradient and adds Gaussian noise (arXiv 1607.00133, algorithm 1).

What a peer sends is then private for each of its samples, whoever listens and whatever the method makes of it: the
noise is in the step, and all that follows is computed from steps.

We leave the source where batches come from: a Poisson sample there, and here (``learn/batches.py``) with ``steps`` a
fresh sample of fixed size without replacement, with ``epochs`` a partition of the peer's data, and it is these that are
accounted for.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from hubless.errors import ConfigError
from hubless.learn import keys
from hubless.learn.context import Batch, Context, State
from hubless.learn.gradients import SAM, Adversarial, ControlVariate, Plain, Proximal
from hubless.learn.kernels.clipped import alone
from hubless.learn.local import SGD, Adam
from hubless.learn.privacy.accountant import Spending
from hubless.learn.privacy.covered import covered, networks
from hubless.learn.privacy.mechanisms import gaussian, sampled
from hubless.learn.privacy.privacy import Noise, positive
from hubless.learn.slots import Gradient, Local, Mechanism
from hubless.parts import part

if TYPE_CHECKING:
    from hubless.learn.learning import Learning
    from hubless.learn.model import Model

# How often each gradient asks for one of the same batch. What else they do needs no sample: a proximal term, a variate
# made of past rows. Adversarial inputs come from one sample each, so that what is clipped is still one sample's.
USES: dict[type[Gradient], int] = {Plain: 1, Proximal: 1, ControlVariate: 1, Adversarial: 1, SAM: 2}


@dataclass(frozen=True)
class DPSGD(Gradient):
    """``(sum of clipped gradients + noise * clip * N(0, 1)) / batch size``, wherever ``inner`` asks for a gradient.

    clip:  norm ``C`` to which each sample's gradient is clipped
    noise: standard deviation of the noise, as a multiple of clip; 0 only clips
    size:  samples that a mini-batch is to have, by which a smaller last one is divided too; 0: those that it has
    inner: what to make of the gradient

    A batch asked twice (SAM) is answered twice, each time with noise of its own, and pays twice.
    """

    clip: float
    noise: float
    size: int = 0
    inner: Gradient = field(default_factory=Plain)

    def __post_init__(self) -> None:
        positive("gradient", self.clip, self.noise)
        if type(self.inner) not in USES:
            raise ConfigError(
                f"gradient: DP-SGD cannot stand under {type(self.inner).__name__}, of which it is not known how often"
                f" it asks for a gradient of a batch; it can under {', '.join(one.__name__ for one in USES)}"
            )

    @property
    def vectorised(self) -> bool:  # type: ignore[override]
        """As the inner one."""
        return self.inner.vectorised

    @property
    def needs(self) -> tuple[str, ...]:  # type: ignore[override]
        """As the inner one."""
        return self.inner.needs

    @property
    def uses(self) -> int:
        """How often a batch is used in a step."""
        return USES[type(self.inner)]

    def init(self, model: Model) -> State:
        """The inner one's. Raises ConfigError for a model with BatchNorm."""
        alone(model)
        return self.inner.init(model)

    def begin(self, w: Tensor, s: State, ctx: Context) -> State:
        """The inner one's."""
        return self.inner.begin(w, s, ctx)

    def __call__(self, w: Tensor, s: State, batch: Batch, ctx: Context) -> tuple[Tensor, State]:
        """What the inner one makes of gradients that are private."""
        return self.inner(w, s, batch, replace(ctx, slope=_Private(self, ctx)))

    def end(self, w: Tensor, s: State, ctx: Context) -> State:
        """The inner one's."""
        return self.inner.end(w, s, ctx)

    def mechanism(self) -> Mechanism | None:
        """Of one step for one sample of the batch, replaced by another; sampling the batch is not counted."""
        return gaussian(self.noise, self.uses)


class _Private:
    """Where a gradient under DP-SGD gets its gradients."""

    def __init__(self, rule: DPSGD, ctx: Context) -> None:
        self.rule, self.ctx = rule, ctx
        self.used = 0

    def grad(self, w: Tensor, s: State, batch: Batch) -> tuple[Tensor, State]:
        """Clipped, summed, with noise, divided by the size."""
        self.used += 1
        assert self.used <= self.rule.uses, "more uses of a batch than are accounted for"
        total, s = self.ctx.clipped(w, s, batch, self.rule.clip)
        if self.rule.noise:
            key = keys.fold(self.ctx.secret, "dp-sgd", self.used)
            total.add_(keys.normal(key, tuple(w.shape), w.device), alpha=self.rule.noise * self.rule.clip)
        return total.div_(self._size(batch)), s

    def _size(self, batch: Batch) -> Tensor:
        """A number that does not depend on what the samples are."""
        here = torch.tensor(float(len(batch.y))) if batch.weight is None else batch.weight.sum()
        if self.rule.size:
            wanted = torch.as_tensor(self.ctx.n).clamp(max=self.rule.size)
            here = torch.maximum(here, wanted.to(here))
        return here.clamp_min(1.0)

    def input_grad(self, w: Tensor, s: State, batch: Batch) -> Tensor:
        """Each sample's from that sample alone; what becomes of it is clipped."""
        return self.ctx.input_grad(w, s, batch)

    def clipped(self, *_: object) -> tuple[Tensor, State]:
        """Always an error: what comes from here is clipped."""
        raise RuntimeError("ctx.clipped does not work under DP-SGD, which clips what ctx.grad gives")


@part("gradient", "dp-sgd")
def gradient(clip: float, noise: float) -> DPSGD:
    """Each sample's gradient clipped, Gaussian noise on their sum; nothing is accounted for."""
    return DPSGD(clip, noise)


@dataclass(frozen=True)
class PrivateSteps(Noise):
    """DP-SGD in place of the gradient of SGD or Adam, whatever the method makes of that gradient.

    A record is one training sample; epsilon is that of the peer worst off, the one with the fewest samples or the most
    rounds, against everyone who sees every message. How many samples a peer has, and who trains when, is public.
    """

    def protect(self, learning: Learning) -> Learning:
        """See ``Privacy.protect``."""
        covered(learning, "dp-sgd")
        for model in networks(learning):
            alone(model)
        given = learning.local
        private = {
            role: self._private(one) for role, one in ({"train": given} if isinstance(given, Local) else given).items()
        }
        spending = Spending("sample", lambda role, size: _cost(private[role], size))
        drawn = any(local.steps is not None and local.batch for local in private.values())
        said = "epsilon is of one training sample, replaced by another, of the peer worst off, against all who see"
        said += " every message" + (" but not which samples are drawn" if drawn else "")
        return self.accounted(replace(learning, local=private), spending, said)

    def _private(self, local: Local) -> SGD | Adam:
        if not isinstance(local, SGD | Adam) or type(local) not in (SGD, Adam):
            raise ConfigError(
                f"privacy: dp-sgd knows the local objectives SGD and Adam, not {type(local).__name__}, which might use"
                " samples without noise; use local:CLIP:NOISE"
            )
        if isinstance(local.gradient, DPSGD):
            raise ConfigError("privacy: the gradient is DP-SGD already; leave it to the privacy dp-sgd")
        return replace(local, gradient=DPSGD(self.clip, self.noise, local.batch, local.gradient))


def _cost(local: SGD | Adam, size: int) -> Mechanism:
    """Of one training of a peer with so many samples, by how ``batches`` draws them."""
    rule = local.gradient
    assert isinstance(rule, DPSGD)
    if local.epochs is not None:  # a sample is in one batch of each pass
        return gaussian(rule.noise, local.epochs * rule.uses)
    assert local.steps is not None
    if local.batch > size:  # the batch is filled up with samples that it has already
        return gaussian(rule.noise / -(-local.batch // size), local.steps * rule.uses)
    return sampled(size, local.batch or size, rule.noise, local.steps, rule.uses)


@part("privacy", "dp-sgd")
def dp_sgd(clip: float, noise: float, delta: float = 1e-5, budget: float = 0.0) -> PrivateSteps:
    """Every local step clips each sample's gradient and adds noise; epsilon is of a sample, whoever listens."""
    return PrivateSteps(clip, noise, delta=delta, budget=budget)
