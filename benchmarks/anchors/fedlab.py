"""FedLab: StandalonePipeline with its FedAvg handler and serial trainer; all clients in every round."""

from __future__ import annotations

import random

from fedlab.contrib.algorithm.fedavg import FedAvgSerialClientTrainer, FedAvgServerHandler
from fedlab.core.standalone import StandalonePipeline

from anchors import work as common
from anchors.meter import Meter, arguments


class Shards:
    """The batches where FedLab expects a data loader."""

    def __init__(self, batches: list[list[common.Batch]]) -> None:
        self.batches = batches

    def get_dataloader(self, peer: int, batch: int) -> list[common.Batch]:
        return self.batches[peer]


class Pipeline(StandalonePipeline):
    """FedLab's loop with the clock where its evaluation would be."""

    def __init__(self, handler: FedAvgServerHandler, trainer: FedAvgSerialClientTrainer, meter: Meter) -> None:
        super().__init__(handler, trainer)
        self.meter = meter

    def evaluate(self) -> None:
        self.meter.tick()


def main() -> None:
    work, rounds = arguments()
    batches = common.batches(work)
    random.seed(0)
    meter = Meter("fedlab", work, rounds)
    handler = FedAvgServerHandler(common.model(work), global_round=meter.total, sample_ratio=1.0)
    trainer = FedAvgSerialClientTrainer(common.model(work), work.peers)
    trainer.setup_dataset(Shards(batches))
    trainer.setup_optim(epochs=1, batch_size=work.batch, lr=work.lr)
    pipeline = Pipeline(handler, trainer, meter)
    meter.tick()
    pipeline.main()
    meter.report(common.accuracy(handler.model, work))


if __name__ == "__main__":
    main()
