"""Mirage: every attacker shapes its trigger so that triggered inputs look like the target's own (arXiv 2409.19601).

Attackers with different targets disturb each other, because all their triggered samples lie in the same corner, far
from any data. Mirage takes clean samples of the target for its model: a detector on the features of the model just
received learns to tell them from triggered samples of other classes, and the trigger learns to deceive it. Attackers
need not know of each other. The paper's code has all constants; see ``recipes.learning.mirage`` for what differs here.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity, cross_entropy, one_hot

from hubless.errors import ConfigError
from hubless.learn import keys
from hubless.learn.attacks.backdoor import Backdoor, Kind, Trigger, labels
from hubless.learn.attacks.base import share
from hubless.learn.context import Context
from hubless.learn.model import Model
from hubless.learn.plan import Book
from hubless.parts import part

Judge = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Detector:
    """Linear, ReLU, linear on features: 0 says clean sample of the target, 1 says triggered. Trained by SGD.

    samples: of every other class, those with the lowest loss; of the target all are used
    passes:  over these samples
    """

    samples: int = 50
    hidden: int = 10
    passes: int = 30
    batch: int = 64
    lr: float = 0.01
    momentum: float = 0.9
    weight_decay: float = 5e-4

    def trained(self, features: Tensor, y: Tensor, key: keys.Key) -> Judge:
        """From features ``[M, d]`` and labels ``[M]`` a function of features ``[n, d]`` to logits ``[n, 2]``."""
        reach = (features.shape[1] ** -0.5, self.hidden**-0.5)  # as nn.Linear starts
        shapes = ((self.hidden, features.shape[1] + 1), (2, self.hidden + 1))
        a, b = (
            reach[i] * (2 * keys.uniform(keys.fold(key, "layer", i), shape).to(features) - 1)
            for i, shape in enumerate(shapes)
        )
        features, wanted = with_one(features), one_hot(y, 2).to(features)
        moment_a, moment_b = torch.zeros_like(a), torch.zeros_like(b)
        for turn in range(self.passes):
            order = keys.permutation(keys.fold(key, "pass", turn), len(y)).to(y.device)
            for at in torch.split(order, self.batch):
                # the gradient of cross-entropy by hand: ten times as fast as recorded, for so small a network
                z = features[at]
                h = (z @ a.T).relu()
                miss = ((with_one(h) @ b.T).softmax(1) - wanted[at]) / len(at)
                back = (miss @ b[:, :-1]) * (h > 0)
                moment_b = self.momentum * moment_b + miss.T @ with_one(h) + self.weight_decay * b
                moment_a = self.momentum * moment_a + back.T @ z + self.weight_decay * a
                a, b = a - self.lr * moment_a, b - self.lr * moment_b
        return lambda z: with_one((with_one(z) @ a.T).relu()) @ b.T


def with_one(z: Tensor) -> Tensor:
    """Features ``[n, d]`` with a constant ``[n, d + 1]``, so that a layer's bias is a column of its matrix."""
    return torch.cat([z, torch.ones_like(z[:, :1])], dim=1)


@dataclass(frozen=True)
class Mirage(Backdoor):
    """A backdoor whose trigger is searched anew, from where it was, against every model that an attacker receives.

    search:   times that the attacker goes over its data
    size:     step of the trigger along the sign of the gradient, in units of the inputs
    every:    goes over the data for which one detector serves; 0: there is none
    batch:    samples of a step; 0 takes all. Batches without a sample of the target are left out, as in the code
    detector: how the detector is trained
    """

    trigger: Trigger = field(default_factory=lambda: Trigger("blend", 0.25, own=True))
    targets: tuple[int, ...] = ()
    search: int = 15
    size: float = 0.02
    every: int = 5
    batch: int = 0
    detector: Detector = field(default_factory=Detector)

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, least in (("search", 0), ("every", 0), ("batch", 0)):
            if getattr(self, name) < least:
                raise ConfigError(f"attack.{name} = {getattr(self, name)}: must be at least {least}")
        if not self.size > 0:
            raise ConfigError(f"attack.size = {self.size:g}: must be positive")

    def check_peer(self, peer: int, x: Tensor, y: Tensor) -> None:
        """Raise ConfigError when the attacker has no sample of its target, which a detector cannot learn without."""
        super().check_peer(peer, x, y)
        if len(y) and not bool((y == (target := self.target(peer))).any()):
            raise ConfigError(
                f"attack: peer {peer} has no sample of its target, class {target}; choose other attackers, targets,"
                " or a partition that gives it some"
            )

    def adapt(self, w: Tensor, x: Tensor, y: Tensor, book: Book, ctx: Context) -> None:
        """The search: sign descent on deceiving the detector, reaching the target, and leaving one's own output."""
        wanted = y == book["target"]
        if not bool(wanted.any()) or bool(wanted.all()):
            return
        w, low, high = w.detach(), x.min(), x.max()
        with torch.no_grad():
            clean, plain = trunk(ctx.model, w, x)
        usual = _usual(plain, y, wanted, self.detector.samples)
        truth = torch.cat([torch.zeros_like(y[wanted]), torch.ones_like(y[usual])])
        pattern, judge = book["trigger"].to(x), None
        for turn in range(self.search):
            key = keys.fold(ctx.key, "search", turn)
            if self.every and turn % self.every == 0:
                with torch.no_grad():
                    marked, _ = trunk(ctx.model, w, self.trigger.on(x[usual], pattern, book["number"]))
                judge = self.detector.trained(torch.cat([clean[wanted], marked]), truth, key)
            order = keys.permutation(keys.fold(key, "order"), len(y)).to(y.device)
            for at in torch.split(order, self.batch or len(y)):
                rest = at[~wanted[at]]
                if len(rest) in (0, len(at)):
                    continue
                leaf = pattern.detach().requires_grad_()
                z, out = trunk(ctx.model, w, self.trigger.on(x[rest], leaf, book["number"]))
                loss = cross_entropy(out, torch.full_like(rest, book["target"]))
                loss = loss + cosine_similarity(out, plain[rest], dim=1).mean()
                if judge is not None:
                    loss = loss + cross_entropy(judge(z), torch.zeros_like(rest))
                (g,) = torch.autograd.grad(loss, leaf)
                pattern = (pattern - self.size * g.sign()).clamp(low, high)
        book["trigger"] = pattern


def _usual(out: Tensor, y: Tensor, wanted: Tensor, most: int) -> Tensor:
    """Positions of the samples with the lowest loss in every class but the target."""
    loss = torch.where(wanted, torch.inf, cross_entropy(out, y, reduction="none"))
    found = []
    for label in torch.unique(y[~wanted]):
        here = torch.nonzero(y == label).flatten()
        found.append(here[loss[here].argsort(stable=True)[:most]])
    return torch.cat(found)


def trunk(model: Model, w: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
    """Features ``[n, d]`` of inputs ``[n, ...]``, which the last linear layer that is called gets, and outputs.

    A network without linear layers is split before the last layer that has parameters.
    Where samples of a batch act on each other (BatchNorm), the statistics are those of the batch: an attack does not
    see the peer's own.
    """
    module, seen = model.module, [x]
    layers = [layer for layer in module.modules() if any(True for _ in layer.parameters(recurse=False))]
    linears = [layer for layer in layers if isinstance(layer, nn.Linear)]

    def look(_: nn.Module, given: tuple[Tensor, ...]) -> None:
        seen[0] = given[0]

    hooks = [layer.register_forward_pre_hook(look) for layer in linears or layers]
    try:
        state = {name: value.to(x.device, copy=True) for name, value in model.buffers.items()}
        out = model.forward(w, x, state, train=model.mixes)
    finally:
        for hook in hooks:
            hook.remove()
    return seen[0].flatten(1), out


@part("attack", "mirage")
def mirage(
    peers: str = "20%", target: str = "each", kind: Kind = "blend", alpha: float = 0.25, ratio: float = 0.125,
    search: int = 15, size: float = 0.02, every: int = 5, batch: int = 0, first: int = 1, last: int = 0,
) -> Mirage:  # fmt: skip
    """Each attacker shapes its own trigger to look like its own target to a detector on the model's features."""
    return Mirage(
        share(peers, "attack.peers"), Trigger(kind, alpha, own=True), labels(target), ratio, first, last,
        search, size, every, batch,
    )  # fmt: skip
