"""SPES: pretrain a mixture-of-experts language model where each node trains its own experts (arXiv 2602.11543).

Every node holds the whole network and trains T, the shared weights and its E / N experts of each block; the others are
frozen for it, without optimiser state, and gradients pass through them to the layers below. A round is ``steps`` local
steps of AdamW, whose state covers T alone, stays with the node and lasts. Then nodes say T: shared weights become their
mean, an expert its owner's copy. Early on similar experts are pulled together (expert-merging warm-up): of each block
and expert e with the ``donors`` experts D most like it by the cosine of the gate matrices, ``theta_e <- theta_e + alpha
mean_D (theta_d - theta_e)``, all from the values before, where alpha falls to 0 over the first ``blend`` of the run.

The released code (zjr2000/SPES) has a server that merges. Here nodes tell all others and work out the same merge, or
one of them has the role for good or for a round (``exchange``). There a missing node halts the run; here it leaves its
experts at the values last heard and has no part in the mean.

Losses are the released code's: 0.01 times the load balance ``E / k sum_e f_e p_e``, averaged over blocks, and 0.001
times the squared log-sum of the router's scores, summed over blocks. Its 9B configuration scales the weights of the
chosen experts to sum to 1, its smaller ones do not; here they are. Its AdamW (betas 0.9 and 0.95, decay 0.1 on all
weights, clipping at 1) is kept. Decided here: the network is small enough for learned positions, tied embeddings and
the bytes of Python's own library as text, and the rate falls linearly (``paper``: cosine).

Beside it: ``local-sparse`` never exchanges, ``fedavg`` trains and averages everything, and ``central`` is one node with
all text and batches as large as all nodes' together.
"""

from collections.abc import Iterable
from typing import Any, Literal

from hubless.claims import Claim, Lab, Result, Row, at_most, reported
from hubless.errors import ConfigError
from hubless.learn import Alone, Gossip, Learning, Overlay, Workload, aggregation
from hubless.learn import Model as Network
from hubless.learn.experts.blending import ExpertExchange
from hubless.learn.experts.footprint import Footprint
from hubless.learn.experts.owned import ExpertAdam, Experts, expert_groups
from hubless.options import (
    Attack,
    Codec,
    Count,
    Data,
    Merge,
    Model,
    NonNegative,
    Partition,
    Positive,
    Probability,
    Whole,
)
from hubless.recipe import recipe

TEXT = "text:window=48:modules=argparse,asyncio,csv,email,json"


@recipe(system=4)
def spes(
    peers: Count = 4,
    method: Literal["spes", "local-sparse", "fedavg", "central"] = "spes",
    exchange: Literal["full", "star", "rotating"] = "full",
    alpha: Probability = 0.1,
    blend: Probability = 0.5,
    blend_every: Count = 1,
    donors: Count = 4,
    data: Data = TEXT,
    partition: Partition = "contiguous",
    model: Model = "moe:sparse=true",
    rounds: Count = 16,
    steps: Count = 20,
    batch: Count = 8,
    lr: Positive = 3e-3,
    warmup: Whole = 30,
    schedule: Literal["linear", "cosine"] = "linear",
    floor: Probability = 0.1,
    weight_decay: NonNegative = 0.1,
    clip: NonNegative = 1.0,
    merge: Merge = "mean",
    attack: Attack = "none",
    codec: Codec = "raw",
    test: Count = 200,
) -> Learning:
    """Each node trains the shared weights and its own experts, and says no more.

    Args:
        peers: nodes, which share the experts of every block evenly
        method: spes, local-sparse (never exchanges), fedavg (everything is trained and averaged), or central (one node)
        exchange: every node tells all others, or one has the role of the server: star for good, rotating for a round
        alpha: how far similar experts are pulled together after the first exchange; 0 never pulls
        blend: share of the run over which that falls to 0
        blend_every: rounds between two such pulls
        donors: experts that an expert is pulled towards
        data: text in windows of bytes
        model: a network with experts, moe:WIDTH:LAYERS:HEADS:EXPERTS:HIDDEN:TOP; sparse=true for large ones
        batch: windows in a local mini-batch
        lr: peak learning rate of AdamW
        warmup: steps of the run in which the rate climbs
        schedule: how the rate falls after that
        floor: share of the peak rate at the end of the run
        weight_decay: AdamW's factor on what a node trains
        clip: largest norm of a step's gradient, over what a node trains; 0 means no limit
        merge: how shared weights are joined: mean, median, trimmed-mean, krum, ...
        test: windows that every node is evaluated on during the run; the end uses all of them
    """
    plain = Workload(data, partition, peers, model).network()
    network = Network(plain.build, groups=expert_groups(plain.names), task=plain.task, name=plain.name)
    if method == "central":
        peers, batch = 1, batch * peers
    else:
        Experts.of(network).check(peers)
    if not merge.plain or merge.share is not None:
        raise ConfigError("spes.merge: shared weights need a rule such as mean, median or krum")
    nodes = 1 if method == "fedavg" else peers
    overlay: Overlay = Alone()
    if method in ("spes", "fedavg"):
        overlay = Gossip("full", weights="uniform") if exchange == "full" else aggregation(exchange, weigh="one")
    return Learning(
        workload=Workload(data, partition, peers, network, test=test),
        local=ExpertAdam(lr=lr, steps=steps, batch=batch, beta2=0.95, weight_decay=weight_decay, clip=clip, nodes=nodes,
                         warmup=warmup, total=rounds * steps, floor=floor, shape=schedule),
        overlay=overlay,
        merge=merge if method != "spes" else ExpertExchange(
            merge.reduce, nodes=nodes, alpha=alpha, donors=donors, every=blend_every, until=round(blend * rounds)
        ),
        attack=attack,
        codec=codec,
        hooks=(Footprint(nodes),),
        kernel="loop",  # a traced graph of so large products is no faster, and takes seconds to trace
        rounds=rounds,
    )  # fmt: skip


presets = {
    "tiny": dict(data="text:window=12:modules=json", model="moe:8:2:2:4:6:2", rounds=3, steps=2, batch=2, warmup=1,
                 donors=2, peers=2, test=20),
    "paper": dict(data="text:window=2048", model="moe:768:12:12:16:2048:2:sparse=true", rounds=500, steps=100,
                  batch=256, lr=5e-4, warmup=2000, schedule="cosine", alpha=0.01, blend=0.2, blend_every=5),
}  # fmt: skip

ARMS: dict[str, dict[str, Any]] = {
    "SPES": dict(method="spes"),
    "SPES without warm-up": dict(method="spes", alpha=0.0),
    "local-sparse": dict(method="local-sparse"),
    "fedavg": dict(method="fedavg"),
    "central": dict(method="central"),
}
COMPETITIVE = "competitive with centralised training at similar compute (abstract)"


def _arms(lab: Lab) -> dict[str, list[Result]]:
    return lab.runs(**{name: {**arm, "evaluate": 4} for name, arm in ARMS.items()})


def _learning(lab: Lab) -> Iterable[Row]:
    loss = {name: [run.final("loss") for run in runs] for name, runs in _arms(lab).items()}
    unit = "nats per byte"
    for other, bound in (("local-sparse", -0.03), ("fedavg", 0.15), ("SPES without warm-up", 0.02)):
        more = [own - theirs for own, theirs in zip(loss["SPES"], loss[other], strict=True)]
        yield at_most(f"validation loss of SPES minus {other}'s", more, bound, unit=unit)
    more = [own - theirs for own, theirs in zip(loss["SPES"], loss["central"], strict=True)]
    yield reported("validation loss of SPES minus central's", more, paper=COMPETITIVE, unit=unit)
    for name, values in loss.items():
        yield reported(f"validation loss, {name}", values, unit=unit)


def _footprint(lab: Lab) -> Iterable[Row]:
    runs = _arms(lab)
    what = {"trainable": "parameters that a node trains", "optimiser_bytes": "memory of its AdamW state",
            "uploaded_bytes": "bytes that it uploads"}  # fmt: skip
    last = {name: {arm: [run.series(name)[-1] for run in runs[arm]] for arm in ("SPES", "fedavg")} for name in what}
    for name, text in what.items():
        shares = [own / whole for own, whole in zip(last[name]["SPES"], last[name]["fedavg"], strict=True)]
        yield at_most(f"{text}, as a share of fedavg's", shares, 0.4)
    for arm in ("SPES", "fedavg"):
        yield reported(f"parameters that a node trains, {arm}", last["trainable"][arm])
        yield reported(
            f"memory of a node's AdamW state, {arm}", [b / 1e6 for b in last["optimiser_bytes"][arm]], unit="MB"
        )
        each = [run.series("uploaded_bytes")[-1] / (run.options["peers"] - 1) / 1e6 for run in runs[arm]]
        yield reported(f"upload of a node to each of the others in the whole run, {arm}", each, unit="MB")


claims = [
    Claim("Training its own experts alone, a node does far better than without exchange and little worse than training "
          "everything; the warm-up does no harm.", _learning),
    Claim("A node trains, keeps optimiser state for and sends less than 40 % of the network.", _footprint,
          paper="no full-parameter transmission (abstract)"),
]  # fmt: skip
