"""SCAFFOLD: control variates correct the drift of peers whose data differ (arXiv 1910.06378).

Every peer keeps ``c_i``, an estimate of its own gradient, and all share ``c``, the mean of them; a local step descends
on ``g - c_i + c`` (algorithm 1, option II for the update of ``c_i``). The gradient term is ``ControlVariate``, the
role's side ``Scaffold``: updates of model and variates travel together, so a message is twice as long as FedAvg's.

Local steps have no momentum: option II reads the mean gradient off the distance travelled.
The mean is over participants alike, as in the source, not by data size.
"""

from collections.abc import Iterable
from typing import Literal

from hubless.claims import Claim, Lab, Row, at_least
from hubless.learn import SGD, ControlVariate, Learning, Scaffold, Workload, aggregation
from hubless.options import Attack, Codec, Count, Data, Model, Partition, Positive, Whole
from hubless.recipe import recipe


@recipe()
def scaffold(
    peers: Count = 16,
    participants: Whole = 0,
    aggregator: Literal["star", "rotating"] = "star",
    data: Data = "mnist",
    samples: Whole = 6000,
    partition: Partition = "dirichlet:0.3",
    model: Model = "mlp:64",
    rounds: Count = 40,
    lr: Positive = 0.1,
    decay: Positive = 1.0,
    steps: Count = 5,
    epochs: Whole = 0,
    batch: Whole = 32,
    server_lr: Positive = 1.0,
    attack: Attack = "none",
    codec: Codec = "raw",
) -> Learning:
    """Federated averaging with the drift of every peer corrected.

    Args:
        epochs: passes over a peer's own data a round, in place of steps; 0 counts in steps
        batch: samples in a local mini-batch; 0 takes all of a peer's data
        server_lr: step of the aggregator along the mean update
    """
    return Learning(
        workload=Workload(data, partition, peers, model, samples),
        local=SGD(lr=lr, decay=decay, steps=None if epochs else steps, epochs=epochs or None, batch=batch,
                  gradient=ControlVariate()),
        overlay=aggregation(aggregator, participants, weigh="one"),
        merge=Scaffold(lr=server_lr),
        attack=attack,
        codec=codec,
        rounds=rounds,
    )  # fmt: skip


presets = {
    "tiny": dict(peers=6, data="digits", samples=300, rounds=3, model="mlp:16", steps=2, batch=10),
    "paper": dict(peers=100, participants=20, samples=0, partition="shards:2", model="softmax", rounds=100, epochs=5,
                  batch=120),
}  # fmt: skip


def _drift(lab: Lab) -> Iterable[Row]:
    hard = dict(partition="shards:1", steps=20)
    runs = lab.runs(fedavg=dict(recipe="fedavg", **hard), scaffold=dict(hard))
    pairs = list(zip(*runs.values(), strict=True))
    gain = [100 * (s.final("accuracy") - f.final("accuracy")) for f, s in pairs]
    yield at_least("accuracy of SCAFFOLD minus FedAvg, one class or so a peer, 20 local steps", gain, 1, unit="points")


claims = [
    Claim(
        "At equal rounds, SCAFFOLD is above FedAvg under label skew.", _drift,
        paper="fewer rounds than FedAvg on EMNIST unless data are alike (table 3)",
    )
]  # fmt: skip
