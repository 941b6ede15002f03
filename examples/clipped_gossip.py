"""Your own method on one page: gossip that takes only short steps towards each neighbour (ClippedGossip, 2202.01545).

Run it with ``hubless run examples/clipped_gossip.py --attack sign-flip:20%:5``, compare it with
``hubless compare dsgd examples/clipped_gossip.py --attack sign-flip:20%:5``.
"""

from dataclasses import dataclass

import torch

from hubless.learn import SGD, Gossip, Learning, Reduce, Workload
from hubless.options import Attack, Count, Data, Model, Partition, Positive, Topology
from hubless.recipe import recipe


@dataclass(frozen=True)
class Clipped(Reduce):
    """``w + sum_j weight_j clip(w_j - w, radius)``: no neighbour moves a peer by more than ``radius``."""

    radius: float

    def __call__(self, inbox, w, s, book, ctx):
        found = {}
        for name in inbox.names:
            own = w[ctx.model.groups[name]] if name in ctx.model.groups else s[name]
            step = inbox.stack(name) - own  # [M, ...]; 0 for the peer's own message
            length = step.flatten(1).norm(dim=1).clamp_min(1e-12)
            share = inbox.weight(name) / inbox.weight(name).sum() * (self.radius / length).clamp(max=1.0)
            found[name] = own + torch.einsum("m,m...->...", share, step)
        return found


@recipe()
def clipped_gossip(
    peers: Count = 16, topology: Topology = "random-regular:4", data: Data = "digits", partition: Partition = "iid",
    model: Model = "mlp:16", rounds: Count = 30, lr: Positive = 0.2, steps: Count = 5, batch: Count = 16,
    attack: Attack = "none", radius: Positive = 1.0,
) -> Learning:  # fmt: skip
    """D-PSGD with clipped mixing.

    Args:
        radius: how far one neighbour may pull, as the norm of the difference of all parameters
    """
    return Learning(Workload(data, partition, peers, model), SGD(lr=lr, steps=steps, batch=batch), Gossip(topology),
                    Clipped(radius), attack=attack, rounds=rounds)  # fmt: skip


presets = {"tiny": dict(peers=6, rounds=3, topology="ring", steps=2)}
