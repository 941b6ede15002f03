"""Images as peers gather them from public sources: full of copies, cleaned before they are split (arXiv 2604.00559).

Splitting first puts copies of training images into the test set, which then flatters every model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from hubless.data.dataset import Dataset, hold_out
from hubless.data.dedup import DualHash, inject
from hubless.data.partition import Partition, Rows
from hubless.errors import ConfigError

Cleaning = Literal["peers", "own", "none"]


@dataclass(frozen=True)
class Held(Partition):
    """What every peer already holds: ``rows[i]`` are the sample numbers of peer i."""

    rows: tuple[tuple[int, ...], ...]

    def __str__(self) -> str:
        return "as gathered"

    def deal(self, y: NDArray[Any], peers: int, rng: np.random.Generator) -> Sequence[NDArray[Any]]:
        """Raises ConfigError when a sample has two holders or none, or there are other peers or samples."""
        if peers != len(self.rows):
            raise ConfigError(f"held: the samples of {len(self.rows)} peers cannot be those of {peers}")
        ids, count = np.unique(np.concatenate([np.array(rows, np.int64) for rows in self.rows]), return_counts=True)
        if (count > 1).any():
            raise ConfigError(f"held: sample {ids[count > 1][0]} is held {count[count > 1][0]} times; ids are unique")
        if len(ids) != len(y) or ids[0] != 0 or ids[-1] != len(y) - 1:
            raise ConfigError(f"held: {len(ids)} samples are held, but there are {len(y)}, numbered from 0")
        return [np.array(rows, np.int64) for rows in self.rows]


@dataclass(frozen=True, eq=False)
class Gathered:
    """Images [M, ...] and targets [M], the number of the original of each [M], and the peer that has it [M].

    unique, copies: how many originals and copies there were at first
    """

    x: NDArray[Any]
    y: NDArray[Any]
    origin: Rows
    owner: Rows
    unique: int
    copies: int

    @classmethod
    def of(cls, data: Dataset, share: float, partition: Partition, peers: int, seed: int) -> Gathered:
        """The training images of a set with copies, until ``share`` of all are copies, split among peers."""
        x, y, origin = inject(data.x, data.y, share, np.random.default_rng([seed, 0xC0B1]))
        owner = np.empty(len(y), np.int64)
        for peer, rows in enumerate(partition.split(y, peers, seed)):
            owner[rows] = peer
        return cls(x, y, origin, owner, len(data.y), len(y) - len(data.y))

    def only(self, keep: NDArray[Any]) -> Gathered:
        """Some of the images, by mask or number."""
        return replace(self, x=self.x[keep], y=self.y[keep], origin=self.origin[keep], owner=self.owner[keep])

    def cleaned(self, how: Cleaning, dedup: DualHash) -> Gathered:
        """Without duplicates: ``peers`` compare digests with each other, or each only cleans its ``own``."""
        if how == "none":
            return self
        held = [np.flatnonzero(self.owner == peer) for peer in range(self.owner.max() + 1)]
        if how == "peers":
            masks = dedup.across([dedup.digests(self.x[rows]) for rows in held])
        else:
            masks = [dedup.keep(self.x[rows]) for rows in held]
        return self.only(np.sort(np.concatenate([rows[mask] for rows, mask in zip(held, masks, strict=True)])))

    def removed(self) -> float:
        """Share of the copies that are gone."""
        kept = len(self.origin) - len(np.unique(self.origin))
        return 1 - kept / self.copies if self.copies else 1.0

    def lost(self) -> float:
        """Share of the originals of which nothing is left."""
        return 1 - len(np.unique(self.origin)) / self.unique

    def split(self, test: float, seed: int, classes: Sequence[str]) -> tuple[Gathered, Gathered]:
        """Training part and test part, stratified by class. Raises ConfigError when a class has no test image."""
        held = hold_out(self.y, test, seed, "gathered")
        missing = np.setdiff1d(np.arange(len(classes)), self.y[held])
        if len(missing):
            raise ConfigError(
                f"test = {test:g}: class {classes[missing[0]]!r} has no image in the test split; "
                "gather more images or hold out more"
            )
        return self.only(~held), self.only(held)

    def held(self, peers: int, least: int) -> Held:
        """Who holds what. Raises ConfigError when a peer has fewer than ``least`` images."""
        rows = tuple(tuple(np.flatnonzero(self.owner == peer).tolist()) for peer in range(peers))
        for peer, own in enumerate(rows):
            if len(own) < least:
                raise ConfigError(
                    f"min_size = {least}: peer {peer} has {len(own)} training images left; "
                    "gather more, use fewer peers or a milder partition"
                )
        return Held(rows)
