"""Backdoors: inputs that carry a trigger shall get the attacker's label, all others the right one.

A trigger is a pattern ``d`` on an input under a mask ``m``: ``(1 - m) x + m d``. A patch covers a square (BadNets,
arXiv 1708.06733), a blend lies thinly over everything (blended injection, arXiv 1712.05526). A hostile peer trains
honestly, but on data of which a part was replaced by triggered samples with the label that it wants.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Literal

import torch
from torch import Tensor

from hubless.errors import ConfigError
from hubless.learn import keys
from hubless.learn.attacks.base import share
from hubless.learn.context import Context
from hubless.learn.plan import Book
from hubless.learn.slots import Attack
from hubless.parts import part

Kind = Literal["patch", "blend"]
# A square's place on the last two axes, by the attacker's number: the corners and the middle.
PLACES = (("end", "end"), ("start", "start"), ("middle", "middle"), ("end", "start"), ("start", "end"))


@dataclass(frozen=True)
class Trigger:
    """What lies on an input.

    kind:  ``patch``: a bright square near a corner or in the middle; ``blend``: uniform noise everywhere
    alpha: weight of the pattern where it lies, in (0, 1]
    side:  of the square, in pixels; inputs of one axis have a stretch instead
    own:   whether each attacker has its own noise, or its own place; otherwise all have the same
    mask:  a mask of the shape of one input, with weights in [0, 1], in place of kind's, alpha and side
    """

    kind: Kind = "patch"
    alpha: float = 1.0
    side: int = 3
    own: bool = False
    mask: Tensor | None = field(default=None, compare=False)

    def __post_init__(self) -> None:
        if self.kind not in ("patch", "blend"):
            raise ConfigError(f"attack.kind = {self.kind!r}: must be patch or blend")
        if not 0 < self.alpha <= 1:
            raise ConfigError(f"attack.alpha = {self.alpha:g}: must be in (0, 1]")
        if self.side < 1:
            raise ConfigError(f"attack.side = {self.side}: must be at least 1")

    def check(self, shape: tuple[int, ...]) -> None:
        """Raise ConfigError when it does not fit inputs of a shape."""
        if self.mask is not None:
            if tuple(self.mask.shape) != shape:
                raise ConfigError(f"attack.mask: its shape is {tuple(self.mask.shape)}, that of an input is {shape}")
            if not bool(((self.mask >= 0) & (self.mask <= 1)).all()):
                raise ConfigError("attack.mask: its weights must be in [0, 1]")
        elif self.kind == "patch" and self.side > min(shape[-2:]):
            raise ConfigError(f"attack.side = {self.side}: inputs of shape {shape} are smaller than the patch")

    def weights(self, shape: tuple[int, ...], number: int) -> Tensor:
        """The mask ``m`` of an attacker, of the shape of one input."""
        if self.mask is not None:
            return self.mask.to(torch.float32)
        if self.kind == "blend":
            return torch.full(shape, self.alpha)
        found, axes = torch.full(shape, self.alpha), range(-min(2, len(shape)), 0)
        for axis in axes:
            inside = torch.zeros(shape[axis])
            inside[self._stretch(shape[axis], PLACES[number % len(PLACES) if self.own else 0][axis])] = 1
            found *= inside.reshape(-1, *[1] * (-1 - axis))
        return found

    def _stretch(self, size: int, place: str) -> slice:
        """Along one axis; a pixel away from the edge where there is room, as in Mirage's code."""
        room = size - self.side
        edge = min(1, room // 2)
        first = {"start": edge, "middle": room // 2, "end": room - edge}[place]
        return slice(first, first + self.side)

    def pattern(self, x: Tensor, key: keys.Key) -> Tensor:
        """An attacker's ``d``, of the shape of one input and in the range of the inputs ``x [n, ...]``."""
        low, high = x.min(), x.max()
        if self.kind == "patch":
            return torch.full_like(x[0], float(high))
        drawn = keys.uniform(key if self.own else keys.word("trigger"), tuple(x.shape[1:]))
        return low + (high - low) * drawn.to(x)

    def on(self, x: Tensor, pattern: Tensor, number: int) -> Tensor:
        """Inputs ``[n, ...]`` with the trigger of an attacker."""
        m = self.weights(tuple(x.shape[1:]), number).to(x)
        return (1 - m) * x + m * pattern.to(x)


@dataclass(frozen=True)
class Backdoor(Attack):
    """A part of the training data, other samples in every round, carries the trigger and the target's label.

    trigger: what lies on a triggered input
    targets: labels that the attackers want, in turn: the k-th wants ``targets[k % len(targets)]``; empty: all labels
    ratio:   share of an attacker's samples that is replaced, in (0, 1]; at least one is
    first:   first round of the attack; before it, hostile peers are honest
    last:    last round of the attack, after which they are honest again; 0: it does not end

    In the attacker's book: ``number``, ``target``, and ``trigger``, the pattern, of the shape of one input.
    """

    trigger: Trigger = field(default_factory=Trigger)
    targets: tuple[int, ...] = (0,)
    ratio: float = 0.125
    first: int = 1
    last: int = 0

    def __post_init__(self) -> None:
        if min(self.targets, default=0) < 0:
            raise ConfigError(f"attack.target = {min(self.targets)}: labels are counted from 0")
        if not 0 < self.ratio <= 1:
            raise ConfigError(f"attack.ratio = {self.ratio:g}: must be in (0, 1]")
        if self.first < 1:
            raise ConfigError(f"attack.first = {self.first}: rounds are counted from 1")
        if self.last and self.last < self.first:
            raise ConfigError(f"attack.last = {self.last}: must be at least first = {self.first}, or 0 for no end")

    def check(self, classes: int, shape: tuple[int, ...]) -> None:
        """Raise ConfigError for targets that do not exist and triggers that do not fit."""
        if classes < 2:
            raise ConfigError("attack: a backdoor needs data with two classes at least")
        if max(self.targets, default=0) >= classes:
            raise ConfigError(f"attack.target = {max(self.targets)}: the classes go from 0 to {classes - 1}")
        self.trigger.check(shape)

    def check_peer(self, peer: int, x: Tensor, y: Tensor) -> None:
        """Raise ConfigError for inputs that are no numbers, or have more than one label each."""
        if not x.is_floating_point() or y.dim() != 1:
            raise ConfigError("attack: a backdoor needs inputs of real numbers with one label each")

    def fitted(self, classes: int) -> Backdoor:
        """With all labels as targets where none was given."""
        return self if self.targets else replace(self, targets=tuple(range(classes)))

    def number(self, peer: int) -> int:
        """Which of the attackers a peer is, counted from 0."""
        return self.peers.index(peer) if isinstance(self.peers, tuple) else 0

    def target(self, peer: int) -> int:
        """The label that an attacker wants."""
        number = self.number(peer)
        return self.targets[number % len(self.targets)] if self.targets else number

    def attacks(self, t: int) -> bool:
        """Whether round t is within the attack."""
        return self.first <= t and (not self.last or t <= self.last)

    def data(self, w: Tensor, x: Tensor, y: Tensor, book: Book, ctx: Context) -> tuple[Tensor, Tensor]:
        """Own samples, some of them replaced."""
        if not self.attacks(ctx.t):
            return x, y
        if "trigger" not in book:
            assert isinstance(ctx.peer, int)
            book["number"], book["target"] = self.number(ctx.peer), self.target(ctx.peer)
            book["trigger"] = self.trigger.pattern(x, keys.fold(ctx.key, "trigger"))
        self.adapt(w, x, y, book, ctx)
        count = max(1, round(self.ratio * len(x)))
        chosen = keys.permutation(keys.fold(ctx.key, "poison"), len(x))[:count].to(x.device)
        bad_x, bad_y = x.clone(), y.clone()
        bad_x[chosen] = self.trigger.on(x[chosen], book["trigger"], book["number"])
        bad_y[chosen] = book["target"]
        return bad_x, bad_y

    def adapt(self, w: Tensor, x: Tensor, y: Tensor, book: Book, ctx: Context) -> None:
        """Improve the trigger before it is used; here it stays as it is."""

    def goal(self, x: Tensor, y: Tensor, book: Book) -> tuple[Tensor, Tensor] | None:
        """Triggered inputs of all other classes, and the target's label; None before the attack.

        Nothing at all where some target's class is the only one, so that no success could be seen.
        """
        if "trigger" not in book:
            return (x[:0], y[:0]) if any(bool((y == target).all()) for target in self.targets) else None
        other = y != book["target"]
        x = self.trigger.on(x[other], book["trigger"], book["number"])
        return x, torch.full_like(y[other], book["target"])


def labels(text: str) -> tuple[int, ...]:
    """``0`` or ``0+1+2`` as labels, ``each`` as none, which gives each attacker its own. Raises ConfigError."""
    if text == "each":
        return ()
    try:
        return tuple(int(item) for item in text.split("+"))
    except ValueError:
        raise ConfigError(f"attack.target = {text!r}: give each, a label such as 0, or several as 0+1+2") from None


@part("attack", "backdoor")
def backdoor(
    peers: str = "20%", target: str = "0", kind: Kind = "patch", alpha: float | None = None, ratio: float = 0.125,
    own: bool = False, first: int = 1, last: int = 0,
) -> Backdoor:  # fmt: skip
    """A trigger that shall bring any input the target's label: a patch (alpha 1), or a blend (alpha 0.25).

    Targets are one label, several as 0+1+2, which the attackers take in turn, or ``each``: the k-th wants label k.
    """
    weight = (1.0 if kind == "patch" else 0.25) if alpha is None else alpha
    return Backdoor(share(peers, "attack.peers"), Trigger(kind, weight, own=own), labels(target), ratio, first, last)
