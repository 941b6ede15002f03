"""Your own method on one page: gossip that listens only to the neighbours whose models are nearest to its own.

Run it with ``hubless run examples/nearest_gossip.py --attack sign-flip:20%:5``, compare it with
``hubless compare dsgd examples/nearest_gossip.py --attack sign-flip:20%:5``.
"""

from dataclasses import dataclass

from hubless.learn import SGD, Gossip, Learning, Workload
from hubless.learn.merges import Sharing
from hubless.options import Attack, Count, Data, Model, Partition, Positive, Probability, Topology
from hubless.recipe import recipe


@dataclass(frozen=True)
class Nearest(Sharing):
    """The mean of the share of messages nearest to the receiver's own, which is one of them."""

    share: float

    def shares(self, points, book, ctx):
        """What each of M messages counts: ``points`` knows their distances, over all parameters."""
        count = max(1, round(self.share * points.count))
        reach = points.squares.sort().values[count - 1]  # squared distances from one's own message, [M]
        near = (points.squares <= reach) * points.weights
        return near / near.sum()


@recipe()
def nearest_gossip(
    peers: Count = 16, topology: Topology = "random-regular:4", data: Data = "digits", partition: Partition = "iid",
    model: Model = "mlp:16", rounds: Count = 30, lr: Positive = 0.2, steps: Count = 5, batch: Count = 16,
    attack: Attack = "none", share: Probability = 0.6,
) -> Learning:  # fmt: skip
    """D-PSGD that trusts who is near.

    Args:
        share: of the messages, one's own included, that are averaged; 1 is the mean
    """
    return Learning(Workload(data, partition, peers, model), SGD(lr=lr, steps=steps, batch=batch), Gossip(topology),
                    Nearest(share), attack=attack, rounds=rounds)  # fmt: skip


presets = {"tiny": dict(peers=6, rounds=3, topology="ring", steps=2)}
