"""Apple's pfl: FederatedAveraging on SimulatedBackend, in one process, or in several under torchrun.

Every user is sampled exactly once a round (``minimize_reuse`` walks through them in order); nothing is evaluated.
"""

from __future__ import annotations

import os

import numpy as np
import torch
from pfl.aggregate.simulate import SimulatedBackend
from pfl.algorithm.base import NNAlgorithmParams
from pfl.algorithm.federated_averaging import FederatedAveraging
from pfl.callback.base import TrainingProcessCallback
from pfl.data.federated_dataset import FederatedDataset
from pfl.data.pytorch import PyTorchTensorDataset
from pfl.data.sampling import get_user_sampler
from pfl.hyperparam import NNEvalHyperParams, NNTrainHyperParams
from pfl.metrics import Metrics
from pfl.model.pytorch import PyTorchModel
from torch import Tensor, nn

from anchors import work as common
from anchors.meter import Meter, arguments


class Network(nn.Module):
    """The common model with the two methods that pfl asks for."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def loss(self, x: Tensor, y: Tensor) -> Tensor:
        return nn.functional.cross_entropy(self.inner(x), y)

    def metrics(self, x: Tensor, y: Tensor) -> dict[str, float]:
        return {}


class Clock(TrainingProcessCallback):
    """Ticks after every central iteration."""

    def __init__(self, meter: Meter) -> None:
        self.meter = meter

    def after_central_iteration(
        self, aggregate_metrics: Metrics, model: PyTorchModel, *, central_iteration: int
    ) -> tuple[bool, Metrics]:
        self.meter.tick()
        return False, Metrics()


def main() -> None:
    work, rounds = arguments()
    np.random.seed(0)
    users = [PyTorchTensorDataset(shard) for shard in common.shards(work)]
    processes = int(os.environ.get("WORLD_SIZE", "1"))
    meter = Meter("pfl" if processes == 1 else f"pfl, {processes} processes", work, rounds)
    network = Network(common.model(work))
    model = PyTorchModel(
        model=network,
        local_optimizer_create=torch.optim.SGD,
        central_optimizer=torch.optim.SGD(network.parameters(), lr=1.0),
    )
    population = FederatedDataset(users.__getitem__, get_user_sampler("minimize_reuse", list(range(work.peers))))
    meter.tick()
    FederatedAveraging().run(
        algorithm_params=NNAlgorithmParams(
            central_num_iterations=meter.total,
            evaluation_frequency=meter.total + 1,
            train_cohort_size=work.peers,
            val_cohort_size=0,
        ),
        backend=SimulatedBackend(training_data=population, val_data=population),
        model=model,
        model_train_params=NNTrainHyperParams(
            local_num_epochs=1, local_learning_rate=work.lr, local_batch_size=work.batch
        ),
        model_eval_params=NNEvalHyperParams(local_batch_size=None),
        callbacks=[Clock(meter)],
        send_metrics_to_platform=False,
    )
    if os.environ.get("RANK", "0") == "0":
        meter.report(common.accuracy(network.inner, work))
    if torch.distributed.is_initialized():
        torch.distributed.barrier()
        torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main()
