"""Random compositions of all slots: each trains to finite numbers, or is refused before any work with a reason."""

import random
import re

import pytest
import torch
from small import BATCHNORM, BLOBS, PLAIN, SEED, learning, workload

from hubless.errors import ConfigError
from hubless.learn import (
    FGSM,
    SAM,
    SGD,
    Adam,
    Adversarial,
    Gossip,
    Merge,
    Proximal,
    Rotating,
    Scheduled,
    ServerOpt,
    Star,
)
from hubless.learn.ring import AllReduce, RingMean
from hubless.learn.sampled import Sampled
from hubless.parts import make
from hubless.run.setting import Setting

BLOCKS, EACH = 8, 20
PEERS = 7

LOCALS = {
    "sgd": lambda: SGD(0.1, steps=2, batch=6),
    "epochs": lambda: SGD(0.1, epochs=1, batch=8),
    "momentum": lambda: SGD(0.1, steps=2, batch=6, momentum=0.5, keep=True),
    "clipped": lambda: SGD(0.1, steps=2, batch=6, clip=1.0, weight_decay=0.01),
    "adam": lambda: Adam(lr=0.01, steps=2, batch=6),
    "sam": lambda: SGD(0.1, steps=2, batch=6, gradient=SAM(0.05)),
    "proximal": lambda: SGD(0.1, steps=2, batch=6, gradient=Proximal(0.1)),
    "adversarial": lambda: SGD(0.1, steps=1, batch=6, gradient=Adversarial(FGSM(0.1, clip=None))),
}
OVERLAYS = {
    "gossip": lambda topology: Gossip(topology, weights="uniform"),
    "metropolis": lambda topology: Gossip(topology, steps=2),
    "star": lambda _: Star(weigh="one"),
    "star by size": lambda _: Star(),
    "sampled star": lambda _: Star(4, weigh="one"),
    "rotating": lambda _: Rotating(weigh="one"),
    "sampled": lambda _: Sampled(4, 2),
    "scheduled": lambda topology: Scheduled(((1, Gossip(topology)), (2, Gossip("full", weights="uniform")))),
    "ring": lambda _: AllReduce(),
}
TOPOLOGIES = ("ring", "full", "random-regular:4", "small-world", "erdos-renyi:0.7", "one-peer-exponential")
CODECS = (
    "raw", "raw", "float16", "bfloat16", "zstd", "deflate", "huffman", "uniform:8", "stochastic:4+bits:4", "top-k:0.2",
    "top-k:0.2+float16+zstd", "delta+top-k:0.2", "delta+uniform:8+huffman", "error-feedback+top-k:0.1", "fedzip:0.2",
    "delta+fedzip:0.2", "k-means:8", "rqm:0.05", "pbm:0.05", "secure-sum", "rqm:0.05+secure-sum",
    "stochastic:8+secure-sum", "threshold:0.01",
)  # fmt: skip
PRIVACY = ("none", "none", "none", "dp-sgd:1:1", "local:1:0.1", "central:1:0.1")
ATTACKS = (
    "none", "none", "label-flip:30%", "sign-flip:30%", "scaling:30%", "noise:30%", "alie:30%", "ipm:30%",
    "model-replacement:30%", "free-rider:30%", "replay:30%", "sybil:3+4", "backdoor:30%",
)  # fmt: skip
MERGES = (
    "mean", "mean", "median", "trimmed-mean", "krum", "multi-krum", "geometric-median", "centred-clip",
    "clipped-gossip", "norm-clip", "foolsgold", "flame", "sybilwall",
)  # fmt: skip
FAULTS = ("", "", "crash:peer=2@2", "loss:0.3", "partition:2@2-2", "leave:peer=1@2", "join:peer=1@2", "straggler:30%x3")
UPDATES = ("top-k", "threshold", "k-means", "error-feedback", "fedzip", "rqm", "pbm")  # codecs of updates only

# Every reason for which a combination may be refused: each is a contradiction, not something left undone.
REASONS = {
    "what only makes sense for updates, and a merge of models": r"^codec: \w+ takes a delta, but merge \w+ sends",
    "a delta already brings what error feedback would": r"^codec: what is left out comes with the next delta anyway",
    "only a total is seen, and a part needs more": r"^codec: secure sums show only the total, but \w+ needs each",
    "masked sums have no weights": r"^codec: secure sums need equal weights",
    "integers of ranges that differ by message have no sum": r"^codec: \w+ does not decode sums, so SecureSum cannot",
    "a batch that acts as one has no sample's part": r"^model: \w+ has BatchNorm, which makes samples of a batch act",
    "statistics that no noise covers": r"^model: \w+ sends (BatchNorm's statistics|'buffer/[^']*'), which",
    "a ring passes on means of parts": r"^merge: overlay AllReduce has a ring pass on parts of rows",
    "noise added once needs somebody who adds it": r"^privacy: central needs an aggregator",
    "noise on a sum needs equal weights": r"^privacy: central needs equal weights",
    "noise on a sum needs a sum": r"^privacy: central adds noise to a sum, and merge \w+ is no sum",
    "a gradient made of several cannot be clipped by sample": r"^privacy: dp-sgd .*gradient",
}


def draw(number):
    """A composition as words, and the experiment that they describe."""
    pick = random.Random(number)
    words: dict[str, str] = {
        "local": pick.choice(sorted(LOCALS)),
        "overlay": pick.choice(sorted(OVERLAYS)),
        "topology": pick.choice(TOPOLOGIES),
        "codec": pick.choice(CODECS),
        "privacy": pick.choice(PRIVACY),
        "attack": pick.choice(ATTACKS),
        "merge": pick.choice(MERGES),
        "faults": pick.choice(FAULTS),
        "model": pick.choice(("plain", "plain", "batchnorm")),
        "server": pick.choice(("", "server")),
    }
    if pick.random() < 0.75:  # most draws avoid the commonest contradictions
        star = "star" in words["overlay"] or words["overlay"] == "rotating"
        if words["codec"].startswith(UPDATES) and not (star and words["server"]):
            words["codec"] = "delta+" + words["codec"]
        if "secure-sum" in words["codec"]:
            words |= {"merge": "mean", "attack": "label-flip:30%", "topology": "full"}
            words["overlay"] = {"star by size": "star", "sampled": "rotating"}.get(words["overlay"], words["overlay"])
        if words["privacy"] != "none":
            words["model"] = "plain"
        if words["privacy"].startswith("central"):
            words |= {"overlay": "star", "merge": "mean"}
    return words


def compose(words):
    merge = make("merge", words["merge"])
    star = "star" in words["overlay"] or words["overlay"] == "rotating"
    if star and words["server"] and isinstance(merge, Merge) and merge.plain:
        merge = ServerOpt(merge.reduce)
    if words["overlay"] == "ring" and words["merge"] in ("mean", "median", "krum"):
        merge = RingMean()
    return learning(
        workload=workload(PEERS, model={"plain": PLAIN, "batchnorm": BATCHNORM}[words["model"]], data=BLOBS),
        local=LOCALS[words["local"]](),
        overlay=OVERLAYS[words["overlay"]](words["topology"]),
        merge=merge, codec=words["codec"], privacy=words["privacy"], attack=words["attack"], rounds=3,
    )  # fmt: skip


def attempt(number):
    """What became of a draw: None when it ran, else why it was refused."""
    words = draw(number)
    try:
        run = compose(words).under(Setting(seed=SEED, threads=1, faults=words["faults"], nonfinite="drop"))
    except ConfigError as error:
        return str(error)
    last = list(run.records())[-1]
    assert last.kind == "end", words
    assert torch.isfinite(torch.tensor(last.metrics["loss"])), words
    assert last.metrics["messages"] > 0, words
    return None


@pytest.mark.parametrize("block", range(BLOCKS))
def test_compositions_run_or_are_refused_with_a_reason(block):
    refused = [attempt(number) for number in range(block * EACH, (block + 1) * EACH)]
    for said in refused:
        assert said is None or any(re.search(pattern, said) for pattern in REASONS.values()), said
    assert sum(said is None for said in refused) >= EACH / 2
