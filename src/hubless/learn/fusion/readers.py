"""Texts of several domains, and models that read them in vocabularies of their own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hubless.data.dataset import Dataset
from hubless.data.partition import Partition, Rows
from hubless.data.text import windows
from hubless.errors import ConfigError
from hubless.learn.model import Model
from hubless.models.vocabulary import Reader, Vocabulary, nats

HEADS = 4


@dataclass(frozen=True)
class Domain:
    """The source of some modules of the standard library, cut into texts.

    modules: csv,json,email
    length:  characters of a text
    public:  how many training texts everybody holds, evenly spread; nobody trains on them but by fusion
    """

    modules: str
    length: int
    public: int = 0

    @cached_property
    def _texts(self) -> tuple[Rows, Rows]:
        x, _, test, _ = windows(self.length, self.modules.split(","))
        if self.public >= len(x):
            raise ConfigError(f"texts = {self.public}: {self.modules} has only {len(x)} texts; take fewer")
        return x, test

    @property
    def _places(self) -> NDArray[np.int64]:
        return np.arange(self.public) * len(self._texts[0]) // max(self.public, 1)

    @property
    def shared(self) -> Tensor:
        """The public texts ``[public, length]``, in characters."""
        return torch.from_numpy(self._texts[0][self._places])

    @property
    def train(self) -> Tensor:
        """Texts that are not public ``[M, length]``."""
        return torch.from_numpy(np.delete(self._texts[0], self._places, 0))

    @property
    def test(self) -> Tensor:
        """The ends of all files ``[M, length]``."""
        return torch.from_numpy(self._texts[1])


def dataset(train: Sequence[Tensor], test: Sequence[Tensor]) -> Dataset:
    """Texts as a data set whose targets are the texts themselves: models of any vocabulary are judged by them."""
    x, test_x = torch.cat(list(train)).numpy(), torch.cat(list(test)).numpy()
    return Dataset("texts", x, x, test_x, test_x, (), "language")


def reader(vocabulary: Vocabulary, length: int, width: int) -> Model:
    """A transformer of two blocks that reads in a vocabulary and is judged in nats a character."""
    if width % HEADS:
        raise ConfigError(f"width = {width}: must be a multiple of the model's {HEADS} heads")
    return Model(
        lambda: Reader(vocabulary, length, width, heads=HEADS), task="language", loss=nats(vocabulary),
        name=f"transformer of {vocabulary}",
    )  # fmt: skip


@dataclass(frozen=True)
class Chapters(Partition):
    """Samples in their order, so many for each peer; a peer may have none."""

    sizes: tuple[int, ...]

    def split(self, y: NDArray[Any], peers: int, seed: int) -> list[Rows]:
        """Each peer's run of the samples. Raises ConfigError for other numbers of peers or samples."""
        if len(self.sizes) != peers or sum(self.sizes) != len(y):
            raise ConfigError(f"partition: {self.sizes} does not share {len(y)} texts out among {peers} peers")
        return list(np.split(np.arange(len(y)), np.cumsum(self.sizes)[:-1]))

    def deal(self, y: NDArray[Any], peers: int, rng: np.random.Generator) -> Sequence[Rows]:
        """As ``split``; there is nothing to draw."""
        return self.split(y, peers, 0)

    def __str__(self) -> str:
        return "a domain each"
