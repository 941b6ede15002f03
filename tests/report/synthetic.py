"""Records of runs that never happened."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import networkx as nx
import numpy as np

from hubless.run.record import Record


def population(
    peers: int = 64, rounds: int = 60, *, seed: int = 0, crash: float = 0.3, bad: float = 0.1, single: bool = True
) -> list[Record]:
    """Records as a learning run with label skew, hostile peers and a crash half-way leaves them."""
    rng = np.random.default_rng(seed)
    graph = nx.random_regular_graph(4, peers, seed=seed) if peers > 5 else nx.complete_graph(peers)
    counts = np.floor(rng.dirichlet([0.3] * 10, peers) * 300).astype(int)
    hostile = sorted(int(i) for i in rng.choice(peers, int(bad * peers), replace=False))
    honest = np.array([i for i in range(peers) if i not in hostile])
    doomed = rng.choice(peers, int(crash * peers), replace=False)
    alive = np.ones(peers)
    ability = rng.normal(0, 0.02, peers)
    data = {
        "peers": peers,
        "names": {"data": "mnist", "partition": "dirichlet:0.3", "topology": "random-regular:4", "model": "mlp:64"},
        "parameters": 50890,
        "samples": counts.sum(axis=1).tolist(),
        "classes": [str(c) for c in range(10)],
        "edges": [sorted((int(i), int(j))) for i, j in graph.edges],
        "hostile": hostile,
        "aggregator": None,
        "partition": counts.tolist(),
    }
    records = [Record("start", 0, data=data)]
    if bad:
        records.append(Record("event", 0, data={"text": f"{len(hostile)} peers are hostile: sign-flip"}))
    for t in range(1, rounds + 1):
        if t == rounds // 2 and len(doomed):
            alive[doomed] = 0
            text = f"{len(doomed)} of {peers} peers crashed"
            records.append(Record("event", t, data={"text": text, "level": "warning"}))
        accuracy = np.clip(0.94 - 0.84 * np.exp(-t / 9) + ability + rng.normal(0, 0.03, peers) * np.exp(-t / 15), 0, 1)
        accuracy[hostile] *= 0.4
        here = [i for i in honest if alive[i]]
        distance = 4 * np.exp(-t / 14) * rng.lognormal(0, 0.4, peers) + 0.02
        metrics = {
            "accuracy": float(accuracy[here].mean()),
            "accuracy_worst": float(accuracy[here].min()),
            "accuracy_best": float(accuracy[here].max()),
            "accuracy_std": float(accuracy[here].std()),
            "accuracy_mean_model": float(accuracy[here].mean() + 0.012),
            "loss": float(2.3 * np.exp(-t / 12) + 0.2),
            "train_loss": float(2.3 * np.exp(-t / 9) + 0.05),
            "consensus": float(distance[here].mean()),
            "alive": float(alive.sum()),
            "trained": float(alive.sum()),
            "bytes": float(t * peers * 4 * 50890 * 4),
            "messages": float(t * peers * 4),
            "clock": t * 0.4,
            "lost": 0.0,
            "grad_norm": float(3 * np.exp(-t / 20)),
        }
        values = {
            "accuracy": accuracy.tolist(),
            "alive": alive.tolist(),
            "consensus": distance.tolist(),
            "bytes": (t * 814240 * np.where(alive > 0, 1, 0.5)).tolist(),
        }
        records.append(Record("round", t, metrics, dict(values) if single else {}))
    records.append(Record("end", rounds, records[-1].metrics, data={"finished": True, "text": "done"}))
    return records


CONFIG: dict[str, Any] = {
    "recipe": "single-merge",
    "family": "learning",
    "system": 49,
    "options": {"peers": 64, "rounds": 60, "topology": "random-regular:4", "lr": 0.1, "faults": "crash:30%@30"},
    "seed": 7,
    "versions": {"hubless": "0.1.0", "torch": "2.13.0", "python": "3.11.9"},
    "machine": {"cores": 2, "system": "Linux"},
    "command": ["hubless", "run", "single-merge", "--faults", "crash:30%@30"],
    "started": "2025-01-01T12:00:00",
}


Save = Callable[..., Path]
