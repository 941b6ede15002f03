"""The types of a recipe's arguments: they are its validation, its help and its error texts.

A name that many recipes share (``peers``, ``rounds``, ``lr``) means the same everywhere, so its help
is written once, in ``STANDARD``; a recipe's own docstring may say more.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import Field

__all__ = [
    "STANDARD",
    "Annotated",
    "Any",
    "Attack",
    "Codec",
    "Count",
    "Data",
    "Fraction",
    "Literal",
    "Mask",
    "Merge",
    "Model",
    "NonNegative",
    "Part",
    "Partition",
    "Positive",
    "Privacy",
    "Probability",
    "Topology",
    "Weights",
    "Whole",
]


@dataclass(frozen=True)
class Part:
    """Marks an option that names a part: given as text, it reaches the recipe as the object."""

    kind: str


Count = Annotated[int, Field(ge=1)]
Whole = Annotated[int, Field(ge=0)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Probability = Annotated[float, Field(ge=0, le=1)]
Fraction = Annotated[float, Field(ge=0, lt=1)]

Topology = Annotated[Any, Part("topology")]
Weights = Annotated[Any, Part("weights")]
Data = Annotated[Any, Part("data")]
Partition = Annotated[Any, Part("partition")]
Model = Annotated[Any, Part("model")]
Merge = Annotated[Any, Part("merge")]
Attack = Annotated[Any, Part("attack")]
Codec = Annotated[Any, Part("codec")]
Privacy = Annotated[Any, Part("privacy")]
Mask = Annotated[Any, Part("mask")]

STANDARD: dict[str, str] = {
    "peers": "number of peers",
    "rounds": "communication rounds",
    "topology": "who may talk to whom: ring, grid, full, random-regular:4, edges:FILE, ...",
    "weights": "mixing weights: metropolis, uniform, data-size",
    "data": "data set: digits, mnist, fashion-mnist, mnist1d, hf:NAME",
    "samples": "training samples of the whole population; 0 takes all there are",
    "partition": "how the data is split: iid, dirichlet:0.3, shards:2, ...",
    "model": "network of every peer: mlp:64, softmax, cnn, lenet, 2nn, ...",
    "lr": "learning rate of a local step",
    "decay": "factor on the learning rate after every round",
    "momentum": "momentum of the local optimiser",
    "batch": "samples in a local mini-batch",
    "steps": "local steps a round",
    "epochs": "passes over a peer's own data a round",
    "merge": "how a peer joins what it received: mean, median, trimmed-mean:0.2, krum, foolsgold, ...",
    "attack": "what hostile peers do: none, sign-flip:20%, label-flip:20%, alie:20%, backdoor:20%, ...",
    "codec": "how a message becomes bytes: raw, float16, top-k:0.05+zstd, fedzip:0.05, ...",
    "privacy": "what protects a peer's data: none, dp-sgd:CLIP:NOISE, local:CLIP:NOISE, central:CLIP:NOISE",
    "participants": "peers that train in a round; 0 means all",
    "aggregator": "who holds the aggregator role: star pins it to one peer, rotating hands it on",
    "server": "optimiser on the mean update: sgd, momentum, adam, yogi, adagrad",
    "seed": "seed of everything random",
    "faults": "what goes wrong and when: crash:30%@20,partition:2@30-40,loss:0.1",
    "links": "simulated links: latency in ms and bandwidth in Mbit/s, as LATENCY:BANDWIDTH",
    "trainable": "parameters that are trained and sent, the rest is frozen: head, bias, norm, lora, names:blocks.0.*, "
    "joined with +; empty leaves it to the recipe",
    "personal": "parameters that are trained and stay with their peer: head, norm, ...; empty leaves it to the recipe",
    "device": "where tensors live: cpu or cuda",
    "memory": "most memory for one chunk of peers in training, in MB",
    "threads": "worker threads; 0 means one a core",
    "evaluate": "rounds between two evaluations of every peer; the last round always has one",
    "nonfinite": "when a peer's numbers blow up: stop the run, or drop the peer",
    "backend": "where peers live: in-process, processes of this machine, or actors of ray; results are the same",
    "workers": "processes or actors; 0 means one a core",
}
