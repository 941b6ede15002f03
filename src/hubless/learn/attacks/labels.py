"""Label flipping: hostile peers train as told, on wrong labels."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from hubless.errors import ConfigError
from hubless.learn.attacks.base import share
from hubless.learn.context import Context
from hubless.learn.plan import Book
from hubless.learn.slots import Attack
from hubless.parts import part


@dataclass(frozen=True)
class LabelFlip(Attack):
    """Labels y become ``classes - 1 - y``, or two classes change places (arXiv 2007.08432; 2306.15044).

    pair:    the two classes that change places; None flips all
    classes: of the data; a run says how many there are
    """

    pair: tuple[int, int] | None = None
    classes: int = 0

    def __post_init__(self) -> None:
        if self.pair is not None and (self.pair[0] == self.pair[1] or min(self.pair) < 0):
            raise ConfigError(f"attack.pair = {self.pair[0]}-{self.pair[1]}: give two classes, counted from 0")

    def check(self, classes: int, shape: tuple[int, ...]) -> None:
        """Raise ConfigError for data without classes, and for a pair that it does not have."""
        if classes < 2:
            raise ConfigError("attack: label-flip needs data with two classes at least")
        if self.pair is not None and max(self.pair) >= classes:
            raise ConfigError(f"attack.pair = {self.pair[0]}-{self.pair[1]}: the classes go from 0 to {classes - 1}")

    def fitted(self, classes: int) -> LabelFlip:
        """With the number of classes."""
        return replace(self, classes=classes)

    def flip(self, y: Tensor) -> Tensor:
        """Wrong labels for right ones, ``[n]``."""
        if self.pair is None:
            return self.classes - 1 - y
        a, b = self.pair
        return torch.where(y == a, b, torch.where(y == b, a, y))

    def data(self, w: Tensor, x: Tensor, y: Tensor, book: Book, ctx: Context) -> tuple[Tensor, Tensor]:
        """Own inputs with wrong labels."""
        return x, self.flip(y)

    def goal(self, x: Tensor, y: Tensor, book: Book) -> tuple[Tensor, Tensor]:
        """Clean inputs and the labels that they would have been trained on, where these differ from the right ones."""
        wrong = self.flip(y)
        other = wrong != y
        return x[other], wrong[other]


def _pair(text: str) -> tuple[int, int] | None:
    if text == "all":
        return None
    try:
        a, b = (int(item) for item in text.split("-"))
    except ValueError:
        raise ConfigError(f"attack.pair = {text!r}: give two classes such as 0-1, or all") from None
    return a, b


@part("attack", "label-flip")
def label_flip(peers: str = "20%", pair: str = "all") -> LabelFlip:
    """Hostile peers train on flipped labels, C-1-y for y, or with two classes exchanged: pair=0-1."""
    return LabelFlip(share(peers, "attack.peers"), _pair(pair))
