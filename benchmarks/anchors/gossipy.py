"""gossipy: synchronous PUSH gossip on the common graph; a received model is merged, then trained (MERGE_UPDATE).

A round is one time step, so that every node sends once and then all that was sent is received. gossipy sends
to ONE random neighbour, so a node merges one model on average where the others' gossip merges four; training is the
same: one local epoch a message. ``init_nodes`` adds one epoch before the first round.
"""

from __future__ import annotations

import statistics

import numpy as np
import torch
from gossipy import set_seed
from gossipy.core import AntiEntropyProtocol, CreateModelMode, Message, StaticP2PNetwork
from gossipy.model import TorchModel
from gossipy.model.handler import TorchModelHandler
from gossipy.node import GossipNode
from gossipy.simul import GossipSimulator, SimulationEventReceiver
from torch import Tensor, nn

from anchors import work as common
from anchors.meter import Meter, arguments


class Network(TorchModel):
    """The common model; all nodes keep the common first weights."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def init_weights(self) -> None:
        pass

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x)

    def __str__(self) -> str:
        return "Network"


class Shards:
    """The nodes' data, without test sets: nothing is evaluated during the run."""

    def __init__(self, shards: list[common.Batch]) -> None:
        self.shards = shards

    def __getitem__(self, peer: int) -> tuple[common.Batch, None]:
        return self.shards[peer], None

    def has_test(self) -> bool:
        return False


class Clock(SimulationEventReceiver):
    """Ticks after every time step."""

    def __init__(self, meter: Meter) -> None:
        self.meter = meter

    def update_message(self, failed: bool, msg: Message | None = None) -> None:
        pass

    def update_timestep(self, t: int) -> None:
        self.meter.tick()

    def update_end(self) -> None:
        pass


def main() -> None:
    work, rounds = arguments()
    shards = Shards(common.shards(work))
    links = np.zeros((work.peers, work.peers))
    for peer, others in enumerate(common.neighbours(work)):
        links[peer, others] = 1
    meter = Meter("gossipy", work, rounds)
    set_seed(0)
    handler = TorchModelHandler(
        net=Network(common.model(work)),
        optimizer=torch.optim.SGD,
        optimizer_params={"lr": work.lr},
        criterion=nn.functional.cross_entropy,
        local_epochs=1,
        batch_size=work.batch,
        create_model_mode=CreateModelMode.MERGE_UPDATE,
    )
    nodes = GossipNode.generate(shards, StaticP2PNetwork(work.peers, links), handler, round_len=1, sync=True)
    simulator = GossipSimulator(nodes, shards, delta=1, protocol=AntiEntropyProtocol.PUSH)
    simulator.add_receiver(Clock(meter))
    simulator.init_nodes()
    meter.tick()
    simulator.start(n_rounds=meter.total)
    networks = [nodes[peer].model_handler.model for peer in common.judged(work.peers)]
    meter.report(statistics.fmean(common.accuracy(network, work) for network in networks))


if __name__ == "__main__":
    main()
