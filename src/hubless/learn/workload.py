"""What the peers work on: a data set, split among them, and the network they train."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from hubless.data.partition import Partition
from hubless.errors import ConfigError
from hubless.learn.held import set_apart
from hubless.learn.masks import Mask, masks
from hubless.learn.model import Loss, Model
from hubless.parts import make

if TYPE_CHECKING:
    from hubless.data.dataset import Dataset
    from hubless.models.zoo import Architecture


@dataclass(frozen=True)
class Workload:
    """Data, its split and the network; parts may be given by name.

    data:      a ``Dataset`` or its name
    partition: a ``Partition`` or its name
    peers:     number of peers
    model:     an ``Architecture`` (or its name), or a ``Model`` of your own
    samples:   training samples of the whole population; 0 takes all there are
    held:      samples of each of its classes that every peer has beside its training set; part of no other set
    test:      test samples that every peer is evaluated on during the run; the end uses all of them
    frozen:    prefixes of parameters that are neither trained nor sent
    trainable: mask of the parameters that are not frozen, or its text; empty means all
    personal:  mask of those that are trained and stay with their peer, or its text; empty means none
    loss:      (output, target) -> one value a sample, in place of the task's own
    """

    data: Dataset | str
    partition: Partition | str
    peers: int
    model: Architecture | Model | str
    samples: int = 0
    held: int = 0
    test: int = 1000
    frozen: tuple[str, ...] = ()
    trainable: Mask | str = ""
    personal: Mask | str = ""
    loss: Loss | None = None

    def network(self) -> Model:
        """The model that fits the data. Raises ConfigError when it does not."""
        data = self._dataset
        trainable, personal = masks(self.trainable, self.personal)
        if isinstance(self.model, Model):
            return self.model.masked(trainable, personal)
        build = make("model", self.model)
        name = self.model if isinstance(self.model, str) else getattr(build, "__qualname__", "model").split(".")[0]
        return Model(
            lambda: build(data.shape, data.outputs), task=data.task, loss=self.loss, frozen=self.frozen,
            trainable=trainable, personal=personal, name=name,
        )  # fmt: skip

    @cached_property
    def _dataset(self) -> Dataset:
        found: Dataset = make("data", self.data)
        return found

    @property
    def dataset(self) -> Dataset:
        """The data set, loaded."""
        return self._dataset

    def shards(self, seed: int) -> Shards:
        """Every peer's share, for a seed. Raises ConfigError when there is too little data."""
        data, apart = self._dataset, None
        if self.held:
            data, apart = set_apart(data, self.held, self.peers, seed)
        if self.samples:
            data = data.subset(self.samples, seed)
        partition = make("partition", self.partition)
        if len(data.y) < self.peers:
            raise ConfigError(f"samples: {len(data.y)} training samples cannot be split among {self.peers} peers")
        return Shards.of(data, partition, self.peers, seed, self.test, apart)


class Shards:
    """All data of a run: samples once, and for each peer the indices of its own.

    x, y:       training samples ``[M, ...]``
    flat:       indices into x, peer after peer ``[M]``; peer i has ``flat[start[i] : start[i] + sizes[i]]``
    classes:    training samples of each class at each peer ``[peers, classes]``; ``[peers, 0]`` without classes
    test_x, y:  the whole test set; the first ``few`` rows are used during the run
    apart:      what each peer holds out
    """

    def __init__(
        self, x: Tensor, y: Tensor, parts: list[Tensor], test_x: Tensor, test_y: Tensor, few: int, data: Dataset,
        apart: list[tuple[Tensor, Tensor]] | None = None,
    ) -> None:  # fmt: skip
        self.x, self.y = x, y
        self.sizes = torch.tensor([len(part) for part in parts], dtype=torch.int64)
        self.start = torch.cumsum(self.sizes, 0) - self.sizes
        self.flat = torch.cat(parts) if parts else torch.zeros(0, dtype=torch.int64)
        self.test_x, self.test_y, self.few = test_x, test_y, few
        self.data = data
        self.classes = self._classes()
        self._apart = apart or []

    @staticmethod
    def of(
        data: Dataset, partition: Partition, peers: int, seed: int, few: int, apart: NDArray[Any] | None = None
    ) -> Shards:
        """Split a data set; feature shift changes a peer's own inputs.

        apart: what is held out ``[classes, peers, each, ...]``
        """
        seen = data.x if partition.needs_inputs else data.y
        parts = [torch.from_numpy(part) for part in partition.split(seen, peers, seed)]
        x = torch.from_numpy(data.x)
        if type(partition).shift is not Partition.shift:
            x = x.clone()
            for peer, part in enumerate(parts):
                x[part] = torch.from_numpy(partition.shift(data.x[part.numpy()], peer, peers))
        order = torch.randperm(len(data.test_y), generator=torch.Generator().manual_seed(seed))
        test_x, test_y = torch.from_numpy(data.test_x)[order], torch.from_numpy(data.test_y)[order]
        shards = Shards(x, torch.from_numpy(data.y), parts, test_x, test_y, min(few, len(order)), data)
        if apart is not None:
            shards._apart = [_own_part(apart, shards.classes[peer], partition, peer, peers) for peer in range(peers)]
        return shards

    def to(self, device: str) -> Shards:
        """The samples on another device; who holds which stays on the processor, where plans are made."""
        if device != "cpu":
            for name in ("x", "y", "test_x", "test_y"):
                setattr(self, name, getattr(self, name).to(device))
            self._apart = [(x.to(device), y.to(device)) for x, y in self._apart]
        return self

    def pick(self, index: Tensor) -> tuple[Tensor, Tensor]:
        """Training samples at ``index [...]``; ``index_select`` is three times as fast as indexing with a matrix."""
        flat = index.flatten().to(self.x.device)
        x, y = self.x.index_select(0, flat), self.y.index_select(0, flat)
        return x.reshape(*index.shape, *x.shape[1:]), y.reshape(*index.shape, *y.shape[1:])

    def own(self, peer: int) -> tuple[Tensor, Tensor]:
        """One peer's training set."""
        first, size = int(self.start[peer]), int(self.sizes[peer])
        index = self.flat[first : first + size]
        return self.x[index], self.y[index]

    def held(self, peer: int) -> tuple[Tensor, Tensor]:
        """One peer's held-out samples of its own classes; none where nothing is held out."""
        return self._apart[peer] if self._apart else (self.x[:0], self.y[:0])

    def counts(self) -> list[list[int]] | None:
        """Samples of each class at each peer ``[peers][classes]``; None where there are no classes."""
        counts: list[list[int]] = self.classes.tolist()
        return counts if self.classes.shape[1] else None

    def _classes(self) -> Tensor:
        classes = len(self.data.classes) if self.data.task == "classification" else 0
        if not classes:
            return torch.zeros(len(self.sizes), 0, dtype=torch.int64)
        peer = torch.repeat_interleave(torch.arange(len(self.sizes)), self.sizes)
        table = torch.bincount(peer * classes + self.y[self.flat], minlength=len(self.sizes) * classes)
        return table.reshape(len(self.sizes), classes)


def _own_part(
    apart: NDArray[Any], counts: Tensor, partition: Partition, peer: int, peers: int
) -> tuple[Tensor, Tensor]:
    """Of what is held out ``[classes, peers, each, ...]``, one peer's part of the classes that it trains on."""
    classes = torch.nonzero(counts).flatten()
    x = apart[classes.numpy(), peer].reshape(-1, *apart.shape[3:])
    return torch.from_numpy(partition.shift(x, peer, peers)), classes.repeat_interleave(apart.shape[2])
