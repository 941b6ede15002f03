"""Linear merges as weighted sums of rows: the output row stays in cache while its neighbours are added."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from hubless.learn.training import Workers

CACHED = 32 << 20  # bytes of all rows up to which they stay in cache
DENSE = 0.25  # share of all pairs beyond which a matrix product wins over row sums


def dense(n: int, edges: int) -> bool:
    """Whether sums among n peers are taken as a product of matrices."""
    return edges > DENSE * n * n and n <= 4096


class Sums:
    """Weighted sums over incoming edges, normalised over what arrived.

    src, dst: edges ``[E]``, sorted by destination; weight ``[E]``, non-negative. Destinations whose weights sum to 0
    receive nothing.

    Rows of a shard are those of the peers ``among`` (ids, rising), and sums are for the ones ``held [n]``; they are
    computed as they would be among all n.
    """

    def __init__(
        self, n: int, src: Tensor, dst: Tensor, weight: Tensor, among: Tensor | None = None, held: Tensor | None = None
    ) -> None:
        total = torch.zeros(n, dtype=torch.float64).index_add_(0, dst, weight)
        share = weight / total[dst].clamp_min(1e-300)
        keep = share > 0
        self.everyone = n
        self.dense = dense(n, int(keep.sum()))
        self.n = n
        if among is not None and held is not None:
            self.n = len(among)
            keep &= held[dst]
            src, dst = torch.searchsorted(among, src), torch.searchsorted(among, dst)
        self.src, self.dst, self.share = src[keep], dst[keep], share[keep]
        self.targets, counts = torch.unique_consecutive(self.dst, return_counts=True)
        self.ends = torch.cumsum(counts, 0)
        self._plan: list[tuple[int, list[int], list[float]]] | None = None

    def _rows(self) -> Sequence[tuple[int, list[int], list[float]]]:
        if self._plan is None:
            src, share, ends = self.src.tolist(), self.share.tolist(), self.ends.tolist()
            starts = [0, *ends][: len(ends)]
            self._plan = [
                (target, src[a:b], share[a:b]) for target, a, b in zip(self.targets.tolist(), starts, ends, strict=True)
            ]
        return self._plan

    def into(self, out: Tensor, rows: Tensor, workers: Workers, sent: Tensor | None = None) -> None:
        """Write the sums to ``out [n, D]`` for every target; other rows of ``out`` are copied from ``rows``.

        sent: ``[n, D]`` what others see of each row, where that differs from the row itself
        """
        if len(self.targets) < self.n:
            quiet = torch.ones(self.n, dtype=torch.bool)
            quiet[self.targets] = False
            out[quiet] = rows[quiet]
        if rows.is_cuda or (sent is None and self.dense):
            self._product(out, rows, sent)
            return
        if 4 * self.everyone * rows.shape[1] <= CACHED and rows.dtype == torch.float32:
            self._bags(out, rows, sent)
            return
        plan = self._rows()
        count = min(len(plan), 4 * workers.count)

        def block(number: int) -> None:
            for target, sources, shares in plan[number * len(plan) // count : (number + 1) * len(plan) // count]:
                into = out[target]
                first = rows if sent is None or sources[0] == target else sent
                torch.mul(first[sources[0]], shares[0], out=into)
                for source, share in zip(sources[1:], shares[1:], strict=True):
                    row = rows if sent is None or source == target else sent
                    into.add_(row[source], alpha=share)

        for _ in workers.map(block, count):
            pass

    def _bags(self, out: Tensor, rows: Tensor, sent: Tensor | None) -> None:
        """All sums in one call: ten times as fast while all rows are in cache, twice as slow when they are not."""
        source, places = rows.contiguous(), self.src
        if sent is not None:
            source = torch.cat([source, sent])
            places = torch.where(self.src == self.dst, self.src, self.src + self.n)
        starts = torch.cat([self.ends.new_zeros(1), self.ends[:-1]])
        weights = self.share.to(torch.float32)
        if len(self.targets):
            sums = functional.embedding_bag(places, source, starts, mode="sum", per_sample_weights=weights)
            out[self.targets] = sums

    def _product(self, out: Tensor, rows: Tensor, sent: Tensor | None) -> None:
        matrix = torch.zeros(self.n, self.n, dtype=rows.dtype)
        matrix[self.dst, self.src] = self.share.to(rows.dtype)
        matrix = matrix.to(rows.device)
        if sent is None:
            mixed = matrix @ rows
        else:
            own = matrix.diagonal()[:, None] * rows
            mixed = (matrix - torch.diag(matrix.diagonal())) @ sent + own
        targets = self.targets.to(rows.device)
        out[targets] = mixed[targets]
