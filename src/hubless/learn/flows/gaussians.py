"""Gaussians: how far two sets of points are apart by their first two moments, and mixtures whose flow is known."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from hubless.errors import ConfigError
from hubless.learn.flows.flow import Velocity


def frechet(a: Tensor, b: Tensor) -> float:
    """Squared Frechet distance of the Gaussians with the moments of ``a [M, d]`` and ``b [n, d]``.

    ``|m_a - m_b|^2 + tr(A + B - 2 (A B)^(1/2))`` (Dowson and Landau 1982; with features of a network, the FID of
    arXiv 1706.08500). It is biased upwards by the error of the moments: compare only sets of equal sizes. It is
    infinite where something is not finite.
    """
    if min(len(a), len(b)) < 2 or a.shape[1:] != b.shape[1:]:
        raise ConfigError(f"frechet: needs two sets of vectors, 2 at least, not {tuple(a.shape)} and {tuple(b.shape)}")
    if not bool(torch.isfinite(a).all() & torch.isfinite(b).all()):
        return math.inf
    a, b = a.double(), b.double()
    A, B = (torch.cov(x.T).reshape(x.shape[1], x.shape[1]) for x in (a, b))
    values, vectors = torch.linalg.eigh(A)
    root = vectors * values.clamp_min(0).sqrt() @ vectors.T
    cross = torch.linalg.eigvalsh(root @ B @ root).clamp_min(0).sqrt().sum()
    gap = (a.mean(0) - b.mean(0)).square().sum()
    return float((gap + A.trace() + B.trace() - 2 * cross).clamp_min(0))


@dataclass(frozen=True, eq=False)
class Mixture:
    """Round Gaussians, of which everything about the flow to noise is known.

    shares: of each ``[K]``, in sum 1;  means ``[K, d]``;  deviations ``[K]``
    """

    shares: Tensor
    means: Tensor
    deviations: Tensor

    def sample(self, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Points ``[count, d]``, and which Gaussian each is of ``[count]``."""
        owner = torch.multinomial(self.shares, count, replacement=True, generator=generator)
        noise = torch.randn(count, self.means.shape[1], generator=generator, dtype=self.means.dtype)
        return self.means[owner] + self.deviations[owner, None] * noise, owner

    def velocity(self, k: int) -> Velocity:
        """``E[eps - x0 | x_t]`` where all data are of the k-th Gaussian: it is linear in ``x_t``."""
        mean, variance = self.means[k], float(self.deviations[k]) ** 2

        def field(x: Tensor, t: float) -> Tensor:
            slope = (t - (1 - t) * variance) / ((1 - t) ** 2 * variance + t**2)
            return slope * (x - (1 - t) * mean) - mean

        return field

    def logits(self, x: Tensor, t: float) -> Tensor:
        """``log p(k | x_t = x)`` up to a constant ``[M, K]``: the share and the density of each Gaussian at time t."""
        variance = (1 - t) ** 2 * self.deviations**2 + t**2
        gap = (x[:, None] - (1 - t) * self.means).square().sum(-1)
        return self.shares.log() - gap / (2 * variance) - self.means.shape[1] / 2 * variance.log()

    def marginal(self, x: Tensor, t: float, samples: Tensor) -> Tensor:
        """The velocity of the whole mixture at ``x [M, d]``, from its ``samples [S, d]`` alone.

        ``E[eps - x0 | x_t = x]``: given ``x_t`` and ``x0`` it is ``(x - x0) / t``, and samples count by the density
        of the noise that would have brought them to x.
        """
        if not 0 < t <= 1:
            raise ConfigError(f"t = {t:g}: must be in (0, 1]; without noise only samples at x itself would count")
        density = -(x[:, None] - (1 - t) * samples).square().sum(-1) / (2 * t**2)
        weight = torch.softmax(density, 1)
        return (x - weight @ samples) / t


def ring(components: int, seed: int) -> Mixture:
    """A mixture in the plane: Gaussians around a circle of radius 2, with shares and deviations drawn by the seed."""
    draw = torch.Generator().manual_seed(seed)
    shares = 0.5 + torch.rand(components, generator=draw, dtype=torch.float64)
    turns = 2 * math.pi * torch.arange(components, dtype=torch.float64) / components
    deviations = 0.3 + 0.5 * torch.rand(components, generator=draw, dtype=torch.float64)
    return Mixture(shares / shares.sum(), 2 * torch.stack([turns.cos(), turns.sin()], 1), deviations)
