"""Routed flows: experts of parts of the data as one velocity field, weighed by a router (arXiv 2501.05450).

The field of a mixture is the mixture of the fields: ``u_t(x) = sum_k p(k | x_t = x) u_t^k(x)`` with the posterior
``p(k | x_t = x)`` in proportion to ``|S_k| p_t(x | S_k)``. Experts therefore need not know of each other; what combines
them is a classifier of noisy samples, trained on parts of the sizes that they have.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from hubless.errors import ConfigError, did_you_mean
from hubless.learn import keys
from hubless.learn.flows.flow import Velocity

Weigh = Callable[[Tensor, Tensor], Tensor]  # logits [M, K] and uniform draws [M] to weights [M, K]


def _full(logits: Tensor, u: Tensor) -> Tensor:
    return torch.softmax(logits, 1)


def _top(count: int) -> Weigh:
    def weigh(logits: Tensor, u: Tensor) -> Tensor:
        best, at = logits.topk(min(count, logits.shape[1]), 1)
        return torch.zeros_like(logits).scatter(1, at, torch.softmax(best, 1))

    return weigh


def _one(logits: Tensor, u: Tensor) -> Tensor:
    passed = torch.softmax(logits, 1).cumsum(1) <= u[:, None]
    return torch.nn.functional.one_hot(passed[:, :-1].sum(1), logits.shape[1]).to(logits.dtype)


def _uniform(logits: Tensor, u: Tensor) -> Tensor:
    return torch.full_like(logits, 1 / logits.shape[1])


ORACLE = "oracle"
WEIGH: dict[str, Weigh] = {
    "full": _full,
    "top-1": _top(1),
    "top-2": _top(2),
    "sample-1": _one,
    "uniform": _uniform,
    ORACLE: _one,
}


def strategies(text: str) -> tuple[str, ...]:
    """Names of strategies, separated by commas, each once. Raises ConfigError for one that there is not."""
    names = tuple(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))
    for name in names:
        if name not in WEIGH:
            raise ConfigError(f"strategy: unknown {name!r}; {did_you_mean(name, WEIGH)}")
    if not names:
        raise ConfigError(f"strategy = {text!r}: name at least one; allowed: {', '.join(sorted(WEIGH))}")
    return names


@dataclass(frozen=True, eq=False)
class Router:
    """Which part of the data a noisy sample may be of: ``logits(x [M, d], t) -> [M, clusters]``."""

    logits: Velocity
    clusters: int


@dataclass(frozen=True, eq=False)
class RoutedFlow:
    """Experts' velocity fields and the router that joins them.

    shares: of the data that each expert has ``[K]``

    Raises ConfigError when the router or the shares are for another number of experts.
    """

    experts: Sequence[Velocity]
    router: Router
    shares: Tensor

    def __post_init__(self) -> None:
        for what, count in (("the router tells", self.router.clusters), ("the shares are of", len(self.shares))):
            if count != len(self.experts):
                raise ConfigError(f"router: {what} {count} clusters, but there are {len(self.experts)} experts")

    def field(self, strategy: str = "full", key: int = 0) -> Velocity:
        """The joint velocity field. Raises ConfigError for an unknown strategy.

        full:     every expert, by the router's posterior: the one that the theory asks for
        top-1, top-2: the likeliest ones only, by their posterior among themselves
        sample-1: one, drawn from the posterior anew at each time
        uniform:  all alike, whatever the router says
        oracle:   one for the whole way, drawn by the experts' shares: what a caller does who knows the cluster
        """
        (name,) = strategies(strategy)
        known = self.shares.log()

        def velocity(x: Tensor, t: float) -> Tensor:
            oracle = name == ORACLE
            logits = known.to(x).expand(len(x), -1) if oracle else self.router.logits(x, t)
            u = keys.uniform(keys.fold(key, name, "" if oracle else f"{t:.9f}"), (len(x),))
            return self.velocity(x, t, WEIGH[name](logits, u))

        return velocity

    def velocity(self, x: Tensor, t: float, weights: Tensor) -> Tensor:
        """``sum_k weights[:, k] v_k(x, t)``; an expert works on the samples that count it, and no others."""
        found = torch.zeros_like(x)
        for k, expert in enumerate(self.experts):
            rows = torch.nonzero(weights[:, k]).flatten()
            if len(rows):
                found.index_add_(0, rows, weights[rows, k, None].to(x) * expert(x[rows], t).to(x))
        return found
