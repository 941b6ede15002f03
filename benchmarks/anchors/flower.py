"""Flower's simulation engine: the Message API, ``run_simulation`` on Ray, two actors of one core each.

Each actor cuts the shards once and keeps one network; what is left is Flower's own way of moving a model to a
client and back.
"""

from __future__ import annotations

import os
from functools import cache

os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")

from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg
from flwr.simulation import run_simulation
from torch import nn

from anchors import work as common
from anchors.meter import Meter, arguments


def client(name: str) -> ClientApp:
    """A client that trains the shard whose number Flower gave it."""
    app = ClientApp()

    @app.train()
    def train(message: Message, context: Context) -> Message:
        work = common.WORKS[name]
        own = common.batches(work)[int(context.node_config["partition-id"])]
        network = resident(name)
        network.load_state_dict(message.content["arrays"].to_torch_state_dict())
        common.epoch(network, own, work.lr)
        reply = RecordDict(
            {
                "arrays": ArrayRecord(network.state_dict()),
                "metrics": MetricRecord({"num-examples": work.samples}),
            }
        )
        return Message(content=reply, reply_to=message)

    return app


@cache
def resident(name: str) -> nn.Module:
    """The one network of an actor."""
    import torch

    torch.set_num_threads(1)
    return common.model(common.WORKS[name])


def main() -> None:
    work, rounds = arguments()
    common.load(work.data)
    meter = Meter("flower", work, rounds)
    network = common.model(work)
    app = ServerApp()

    def clock(round: int, arrays: ArrayRecord) -> None:
        meter.tick()
        if round == meter.total:
            network.load_state_dict(arrays.to_torch_state_dict())
            meter.report(common.accuracy(network, work))

    @app.main()
    def serve(grid: Grid, context: Context) -> None:
        FedAvg(fraction_train=1.0, fraction_evaluate=0.0, min_available_nodes=work.peers).start(
            grid=grid,
            initial_arrays=ArrayRecord(network.state_dict()),
            num_rounds=meter.total,
            evaluate_fn=clock,
        )

    run_simulation(
        server_app=app,
        client_app=client(work.name),
        num_supernodes=work.peers,
        backend_config={
            "init_args": {"num_cpus": 2, "include_dashboard": False, "log_to_driver": False},
            "client_resources": {"num_cpus": 1, "num_gpus": 0.0},
        },
    )


if __name__ == "__main__":
    # Ray pickles what lives in __main__ by value; importing the module by its name keeps the actors' caches alive.
    from anchors.flower import main as start

    start()
