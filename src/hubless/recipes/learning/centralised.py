"""Centralised: one machine holds all the data and trains one model; the ceiling of most comparisons.

It is a population of one. A round is ``steps`` mini-batches, so that with ``batch`` equal to another recipe's peers
times its batch, both have seen as many samples after as many rounds.
"""

from collections.abc import Iterable

from hubless.claims import Claim, Lab, Row, at_least
from hubless.learn import SGD, Alone, Learning, Workload
from hubless.options import Count, Data, Fraction, Model, Positive, Whole
from hubless.recipe import recipe


@recipe()
def centralised(
    data: Data = "mnist",
    samples: Whole = 6000,
    model: Model = "mlp:64",
    rounds: Count = 40,
    lr: Positive = 0.1,
    decay: Positive = 1.0,
    steps: Count = 5,
    epochs: Whole = 0,
    batch: Whole = 512,
    momentum: Fraction = 0.0,
) -> Learning:
    """Stochastic gradient descent on the union of everybody's data.

    Args:
        samples: training samples; 0 takes all there are
        steps: mini-batches a round
        epochs: passes over the data a round, in place of steps; 0 counts in steps
        batch: samples in a mini-batch; 0 takes all data. The default is 16 peers' worth of 32
    """
    return Learning(
        workload=Workload(data, "iid", 1, model, samples),
        local=SGD(lr=lr, decay=decay, steps=None if epochs else steps, epochs=epochs or None, batch=batch,
                  momentum=momentum, keep=True),
        overlay=Alone(),
        rounds=rounds,
    )  # fmt: skip


presets = {
    "tiny": dict(data="digits", samples=300, rounds=3, model="mlp:16", steps=2, batch=60),
    "paper": dict(samples=0, model="2nn", rounds=100, epochs=1, batch=10),
}


def _ceiling(lab: Lab) -> Iterable[Row]:
    runs = lab.runs(pooled={}, lonely=dict(recipe="local-only"))
    gain = [100 * (p.final("accuracy") - q.final("accuracy")) for p, q in zip(*runs.values(), strict=True)]
    yield at_least("accuracy on pooled data minus the mean accuracy of lonely peers", gain, 20, unit="points")


claims = [Claim("Under label skew, data is worth most when pooled.", _ceiling)]
