"""Conformance of parts of ``net``: call these on a topology, weight rule or fault schedule of your own."""

from __future__ import annotations

import numpy as np

from hubless.errors import ConfigError
from hubless.net.faults import Faults
from hubless.net.graphs import Full, Ring, Star
from hubless.net.mixing import Weights, mix, spectral_gap
from hubless.net.topology import LONGEST_PERIOD, Topology
from hubless.parts import make


def check_topology(topology: Topology | str, n: int = 16) -> None:
    """Assert that a topology keeps its contract among ``n`` peers, which it must accept."""
    subject: Topology = make("topology", topology)
    assert subject.trouble(n) is None, (
        f"{subject} refuses {n} peers: {subject.trouble(n)}; give check_topology an n it takes"
    )
    subject.check(n)
    period = subject.period(n)
    assert period is None or period >= 1, f"period({n}) is {period}; return 1 for static edges, None for new draws"
    for t in (0, 1, 5):
        edges = subject.edges(n, t, 3)
        assert edges.n == n, f"edges.n is {edges.n}, not {n}"
        assert edges.src.shape == edges.dst.shape == (len(edges),), "src and dst must be [E] each"
        assert edges.src.dtype == edges.dst.dtype == np.int64, "src and dst must be int64; build them with Edges.of"
        if len(edges):
            ids = np.concatenate([edges.src, edges.dst])
            assert ids.min() >= 0, "a peer id is negative; ids are 0 to n - 1"
            assert ids.max() < n, "a peer id is n or more; ids are 0 to n - 1"
        assert not np.any(edges.src == edges.dst), "a self-loop; mixing adds those, Edges.of drops them"
        codes = edges.dst * n + edges.src
        assert np.all(np.diff(codes) > 0), "edges must be unique and sorted by (dst, src); build them with Edges.of"
        assert edges == subject.edges(n, t, 3), (
            f"two calls for round {t} differ; draw from keyed.generator(purpose, seed, n, t), not from shared state"
        )
        if period is not None:
            again = subject.edges(n, t + period, 3)
            assert edges == again, (
                f"round {t} and {t + period} differ, but period is {period}; return None for new draws"
            )
    if period is None:
        rounds = [subject.edges(n, t, 3) for t in range(50)]
        assert any(one != rounds[0] for one in rounds), "period is None, but 50 rounds are equal; return 1, or use t"
    alone = subject.edges(1)
    assert alone.n == 1, "one peer alone must be possible"
    assert len(alone) == 0, "one peer alone has no edges"
    for none in (0, -1):
        try:
            subject.check(none)
        except ConfigError:
            continue
        raise AssertionError(f"check({none}) passed; leave `check` to the base class")
    if period is not None and period <= LONGEST_PERIOD:
        gap = spectral_gap(subject, n, "uniform")
        assert gap > 1e-6, f"connected, but peers never agree (gap {gap}); are some edges one-way?"


def check_mixing(rule: Weights | str) -> None:
    """Assert that a weight rule gives each peer a convex combination, on dense, sparse, lopsided and lonely graphs."""
    subject: Weights = make("weights", rule)
    for topology in (Ring(), Full(), Star()):
        for n in (1, 2, 7):
            edges = topology.edges(n)
            for sizes in (np.ones(n), np.arange(n, dtype=np.float64), np.zeros(n)):
                mixing = mix(edges, subject, sizes)
                place = f"{type(subject).__name__} on {topology} with {n} peers"
                assert len(mixing.weight) == len(edges) + n, f"{place}: weigh must return [E] and [n]"
                assert np.all(np.isfinite(mixing.weight)), f"{place}: a weight is not finite; does a row sum to 0?"
                assert np.all(mixing.weight >= 0), (
                    f"{place}: a weight is negative; the own weight must not fall below 0"
                )
                assert mixing.row_stochastic, f"{place}: a row does not sum to 1"
                assert np.all(mixing.weight[mixing.src == mixing.dst] > 0), f"{place}: a peer ignores itself"
                assert np.array_equal(mixing.weight, mix(edges, subject, sizes).weight), f"{place}: two calls differ"


def check_faults(text: str, n: int = 40, rounds: int = 50) -> None:
    """Assert that a schedule can be followed among ``n`` peers of a ring, and that it follows from its seed alone."""
    edges = Ring().edges(n)
    one, two = (Faults.of(text, n=n, seed=5, edges=edges) for _ in range(2))
    back = {t: two.at(t) for t in range(rounds, 0, -1)}  # another order of rounds must not matter
    before = one.at(0).alive
    for t in range(1, rounds + 1):
        weather, other = one.at(t), back[t]
        for name in ("alive", "data", "slow", "crashed", "left", "joined"):
            same = np.array_equal(getattr(weather, name), getattr(other, name))
            assert same, f"round {t}: {name} differs between two objects; key every choice by seed and event"
        assert weather.alive.any(), f"round {t}: nobody is alive"
        assert np.all(weather.slow >= 1), f"round {t}: a straggler is faster than the others"
        after = before.copy()
        after[weather.joined] = True
        after[weather.crashed] = after[weather.left] = False
        assert np.array_equal(after, weather.alive), f"round {t}: crashed, left and joined do not explain who is alive"
        before = weather.alive
        lost = weather.lost("gossip", edges.src, edges.dst)
        order = np.arange(len(edges))[::-1]
        turned = other.lost("gossip", edges.src[order], edges.dst[order])
        assert np.array_equal(lost[order], turned), (
            f"round {t}: losses depend on the order of edges; key them by (src, dst)"
        )
        assert weather.lossy or not lost.any(), f"round {t}: messages are lost, but the weather says that none can be"
        ids = np.arange(n)
        assert not weather.lost("gossip", ids, ids).any(), f"round {t}: a peer loses its own message"
        assert all(line.strip() for line in weather.describe()), f"round {t}: an empty description"
