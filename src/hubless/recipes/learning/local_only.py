"""Local-only: every peer trains on its own data and nobody sends anything; the floor of every comparison.

What a method of collaboration is worth is what it adds to this. Under label skew a lonely peer never sees some classes
at all, and since accuracy is measured on the whole test set, it cannot know them.
"""

from collections.abc import Iterable

from hubless.claims import Claim, Lab, Row, at_least
from hubless.learn import SGD, Alone, Learning, Workload
from hubless.options import Count, Data, Fraction, Model, Partition, Positive, Whole
from hubless.recipe import recipe


@recipe()
def local_only(
    peers: Count = 16,
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
    momentum: Fraction = 0.0,
) -> Learning:
    """Nobody communicates: as many models as peers, each of its own data alone.

    Args:
        epochs: passes over a peer's own data a round, in place of steps; 0 counts in steps
        batch: samples in a local mini-batch; 0 takes all of a peer's data
    """
    return Learning(
        workload=Workload(data, partition, peers, model, samples),
        local=SGD(lr=lr, decay=decay, steps=None if epochs else steps, epochs=epochs or None, batch=batch,
                  momentum=momentum, keep=True),
        overlay=Alone(),
        rounds=rounds,
    )  # fmt: skip


presets = {
    "tiny": dict(peers=6, data="digits", samples=300, rounds=3, model="mlp:16", steps=2, batch=10),
    "paper": dict(peers=100, samples=0, partition="shards:2", model="2nn", rounds=100, epochs=1, batch=10),
}


def _skew(lab: Lab) -> Iterable[Row]:
    runs = lab.runs(alike=dict(partition="iid"), skewed={})
    loss = [100 * (a.final("accuracy") - s.final("accuracy")) for a, s in zip(*runs.values(), strict=True)]
    yield at_least("mean accuracy with alike data minus that with skewed labels", loss, 20, unit="points")


claims = [Claim("Alone, a peer knows only what its own data shows.", _skew)]
