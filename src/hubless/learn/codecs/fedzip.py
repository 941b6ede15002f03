"""FedZip's codec: an update as three values a layer, and only where the two rare ones sit (arXiv 2102.01593).

Per parameter tensor: the largest ``ceil(z n)`` entries in magnitude stay, with all that equal the last of them; the
rest is 0. Tensors of one dimension (biases) stay whole, as in the authors' code. k-means with k = 3 runs over ALL
entries, zeros included; the largest cluster is implicit. Where the others sit is written in three ways (``labels``):
Huffman codes for all labels, a table of addresses, a table of gaps; the shortest is sent.

The authors' code only sums the numbers of bits of the gaps: without a mark where one ends, nobody could read such a
stream. Here every byte that is counted is one that ``unpack`` needs. They also write 27 bits an address, and stop
Lloyd's algorithm after 4 rounds; here it is 10.
"""

from __future__ import annotations

import math
import struct
import zlib
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from hubless.errors import CodecError, ConfigError
from hubless.learn.codecs.clusters import KMeans
from hubless.learn.codecs.labels import WAYS
from hubless.learn.codecs.layers import Layers
from hubless.learn.codecs.layout import Reader, array, head, padding, room, tensor
from hubless.learn.codecs.naming import finite, parameters
from hubless.learn.codecs.pipeline import Codec
from hubless.learn.codecs.raw import Raw
from hubless.learn.codecs.sparse import kept
from hubless.learn.context import Context, Message, State
from hubless.learn.slots import Packer, Stage
from hubless.parts import part

MAGIC = b"hubf"
NAMES = tuple(WAYS)
ITEM = torch.int16  # type of the labels


@dataclass(frozen=True)
class TopZ(Stage):
    """Entries below the largest ``ceil(z n)`` in magnitude become 0; tensors of one dimension stay whole."""

    z: float = 0.2

    wants: ClassVar[str | None] = "delta"
    vectorised: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if not 0 < self.z <= 1:
            raise ConfigError(f"fedzip.z = {self.z}: must be in (0, 1]")

    def forward(self, m: Message, s: State, ctx: Context) -> tuple[Message, State]:
        """Sparse tensors. Raises CodecError for numbers that are not finite."""
        return {name: self._pruned(name, v) if parameters(name, v, ctx) else v for name, v in m.items()}, s

    def _pruned(self, name: str, value: Tensor) -> Tensor:
        count = kept(self.z, finite(name, value).numel())
        if value.dim() < 2 or count in (0, value.numel()):
            return value
        size = np.abs(value.float().numpy()).reshape(-1)
        bound = np.sort(size)[len(size) - count]  # np.partition is ten times as slow where many are equal
        return value * torch.from_numpy(size >= bound).reshape(value.shape)


@dataclass(frozen=True)
class BestOf(Packer):
    """Labels and centroids in the shortest of several ways, tensor by tensor; other tensors as they are.

    ways: those to choose from

    ``hubf``, number of coded tensors (u16), bytes of the others (u32), coded tensors, others (``Raw``), zeros where the
    receiver would not allow so much growth, CRC32 of all before. A coded tensor: name, type and shape, way (u8), number
    of clusters (u8), which is the largest (u8), centroids (float32), entries outside the largest (u32), these.
    """

    ways: tuple[str, ...] = NAMES

    def pack(self, m: Message) -> bytes:
        """The message in bytes that delimit themselves."""
        names = [name.removesuffix("/labels") for name in m if self._coded(name, m)]
        ours = {f"{name}/{what}" for name in names for what in ("labels", "centroids")}
        rest = {name: value for name, value in m.items() if name not in ours}
        body = [self._tensor(name, m[f"{name}/labels"], m[f"{name}/centroids"]) for name in names]
        plain = Raw().pack(rest) if rest else b""
        data = MAGIC + struct.pack("<HI", len(names), len(plain)) + b"".join(body) + plain
        data = data.ljust(padding(4 * sum(m[f"{name}/labels"].numel() for name in names)), b"\0")
        return data + struct.pack("<I", zlib.crc32(data))

    @staticmethod
    def _coded(name: str, m: Message) -> bool:
        stem, _, what = name.rpartition("/")
        centroids = m.get(f"{stem}/centroids")
        return (
            what == "labels" and m[name].dtype == ITEM and len(stem.encode()) < 256 and centroids is not None
            and centroids.dtype == torch.float32 and centroids.dim() == 1 and 2 <= len(centroids) <= 15
            and m[name].numel() < 1 << 32
        )  # fmt: skip

    def _tensor(self, name: str, labels: Tensor, centroids: Tensor) -> bytes:
        flat, k = array(labels).reshape(-1).astype(np.int64), len(centroids)
        largest = int(np.bincount(flat, minlength=k).argmax())
        at = np.flatnonzero(flat != largest)
        rank = flat[at] - (flat[at] > largest)
        way = min(self.ways, key=lambda one: WAYS[one].size(at, rank, len(flat), k))
        body = WAYS[way].write(at, rank, len(flat), k)
        text = name.encode()
        about = text + head(ITEM, tuple(labels.shape)) + struct.pack("<BBB", NAMES.index(way), k, largest)
        return struct.pack("<B", len(text)) + about + array(centroids).tobytes() + struct.pack("<I", len(at)) + body

    def unpack(self, data: bytes) -> Message:
        """The message. Raises CodecError for anything that ``pack`` did not write."""
        if len(data) < 14 or data[:4] != MAGIC:
            raise CodecError("fedzip: not a message")
        if zlib.crc32(data[:-4]) != struct.unpack("<I", data[-4:])[0]:
            raise CodecError("fedzip: truncated or damaged")
        reader = Reader(data[4:-4])
        names, rest = reader.fields("HI")
        left = room(len(data))
        m: Message = {}
        for _ in range(names):
            name, labels, centroids = self._untensor(reader, left)
            left -= 4 * labels.numel()
            if f"{name}/labels" in m:
                raise CodecError(f"{name} comes twice")
            m |= {f"{name}/labels": labels, f"{name}/centroids": centroids}
        if rest:
            m |= Raw().unpack(reader.take(rest).tobytes())
        if reader.take(reader.left).any():
            raise CodecError("fedzip: bytes too many")
        return m

    def _untensor(self, reader: Reader, left: int) -> tuple[str, Tensor, Tensor]:
        name, (dtype, shape), (way, k, largest) = reader.text(), reader.head(), reader.fields("BBB")
        n = math.prod(shape)
        if dtype != ITEM or way >= len(NAMES) or not 2 <= k <= 15 or largest >= k:
            raise CodecError(f"{name}: not a coded tensor")
        if 4 * n > left:
            raise CodecError(f"{name}: {n} entries are more than such a message may have")
        centroids = reader.take(4 * k).view("<f4").astype(np.float32)
        (m,) = reader.fields("I")
        if m > n:
            raise CodecError(f"{name}: {m} of {n} entries outside the largest cluster")
        at, rank = WAYS[NAMES[way]].read(reader, m, n, k)
        if m and (at[0] < 0 or bool((np.diff(at) <= 0).any()) or at[-1] >= n or rank.max() >= k - 1):
            raise CodecError(f"{name}: positions that do not rise, or a cluster that is none")
        flat = np.full(n, largest, np.int16)
        flat[at] = rank + (rank >= largest)
        return name, tensor(flat, ITEM, shape), torch.from_numpy(centroids)


@part("codec", "fedzip")
def fedzip(
    z: Annotated[float, Field(gt=0, le=1)] = 0.2,
    snap_zero: bool = False,
    way: Literal["best", "label", "address", "gap"] = "best",
) -> Codec:
    """The largest share z of an update, a layer at a time, as three values and where the two rare ones sit."""
    ways = NAMES if way == "best" else (way,)
    return Codec((Layers(), TopZ(z), KMeans(3, snap_zero=snap_zero)), BestOf(ways))
