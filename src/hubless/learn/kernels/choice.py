"""Which kernel for which model, and how many peers a chunk holds.

Perceptrons are computed by hand, other networks without convolutions by a traced graph, unless they are so large
that a loop's overhead does not count (a small transformer gains 5 times, one of 110k parameters and 500 tokens a
batch nothing), or no plain tensor operations (``traceable = False``). Convolutions are faster stacked while they are
small and one peer after another when they are large; in between it is measured, once a machine.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn

from hubless.errors import ConfigError, did_you_mean
from hubless.learn.context import Batch, State
from hubless.learn.kernels.base import Kernel
from hubless.learn.kernels.dense import Dense
from hubless.learn.kernels.graph import Graph
from hubless.learn.kernels.layers import UnknownLayerError
from hubless.learn.kernels.loop import Loop
from hubless.learn.kernels.matmul import probe_matmul
from hubless.learn.kernels.remembered import recall, remember
from hubless.learn.kernels.stacked import Stacked
from hubless.learn.model import Model

log = logging.getLogger(__name__)
KINDS: dict[str, Callable[[Model], Kernel]] = {"dense": Dense, "graph": Graph, "loop": Loop, "stacked": Stacked}
CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
CACHED = 5 << 20  # bytes of a chunk's parameters: a core's own cache and its share of the last level
STACK = 4  # peers in a stack of convolutions: more leave the cache, because of their images,
STACKED = 320_000  # unless the networks are small: parameters in a stack, of at most 4 * STACK peers
SMALL, LARGE = 20e6, 1e9  # products of one peer's step below which stacking, above which looping, needs no measuring
GRAPHED = 100e6  # products of one peer's step above which a graph gains nothing on a loop, and costs its tracing
_lock = threading.RLock()


def choose(model: Model, C: int, batch_example: Batch, *, plain: bool, kind: str = "auto") -> Kernel:
    """The kernel for chunks of C peers whose batches look like ``batch_example [C, B, ...]``.

    plain: whether epochs are plain SGD
    kind:  a kernel by name, or ``auto``

    The same model and batch shape give the same object, whatever the thread. Raises ConfigError for an unknown
    kind, and for one that cannot compute this model.
    """
    if kind not in (*KINDS, "auto"):
        raise ConfigError(f"kernel: unknown {kind!r}; {did_you_mean(kind, [*KINDS, 'auto'])}")
    with _lock:
        probe_matmul()
        if kind != "auto":
            return _made(model, kind)
        stacks = C > 1
        key = (stacks, batch_example.x.shape[1:], batch_example.x.dtype, plain)
        chosen: dict[object, Kernel] = model.__dict__.setdefault("_chosen", {})
        if key not in chosen:
            chosen[key] = _auto(model, stacks, batch_example, plain)
            log.info("kernel %s for %s", chosen[key].name, model.name)
        return chosen[key]


def _made(model: Model, kind: str) -> Kernel:
    # kept with the model: a kernel holds its traces and one network a thread
    made: dict[str, Kernel] = model.__dict__.setdefault("_kernels", {})
    if kind not in made:
        try:
            made[kind] = KINDS[kind](model)
        except UnknownLayerError as error:
            raise ConfigError(f"kernel: {kind} cannot compute {model.name}, because {error}") from None
    return made[kind]


def _auto(model: Model, stacks: bool, batch: Batch, plain: bool) -> Kernel:
    loop = _made(model, "loop")
    if not getattr(model.module, "traceable", True):
        return loop
    if any(isinstance(m, CONVOLUTIONS) for m in model.module.modules()):
        return _convolutions(model, loop, batch, plain) if stacks else loop
    try:
        dense = _made(model, "dense")
        assert isinstance(dense, Dense)
        if dense.accepts(batch.x):
            return dense
    except ConfigError as error:
        log.debug("%s", error)
    if _products(model, batch.x[0]) > GRAPHED:
        return loop
    try:
        graph = _made(model, "graph")
        assert isinstance(graph, Graph)
        if graph.traced:  # one that traces for training serves evaluation, which needs no trace
            return graph
        W, S = torch.zeros(len(batch.x), model.size), _buffers(model, len(batch.x))
        if plain:
            graph.epoch(W, S, [batch], 0.0)
        else:
            graph.grad(W, S, batch)
    except Exception as error:  # tracing fails in as many ways as a forward can be written
        log.info("kernel: graph cannot compute %s: %s", model.name, error)
        return loop
    return graph


def _convolutions(model: Model, loop: Kernel, batch: Batch, plain: bool) -> Kernel:
    try:
        stacked = _made(model, "stacked")
    except ConfigError as error:
        log.info("%s", error)
        return loop
    products = _products(model, batch.x[0])
    if products > LARGE:
        return loop
    if products < SMALL:
        return stacked if _agree(model, loop, stacked, batch) else loop
    key = f"{model.fingerprint} {tuple(batch.x.shape[1:])} {tuple(batch.y.shape[1:])} {'epoch' if plain else 'grad'}"
    name = recall(key) or remember(key, _faster(model, loop, stacked, batch, plain))
    return stacked if name == stacked.name else loop


def _outputs(model: Model, x: Tensor) -> list[tuple[nn.Module, int]]:
    """Every layer with the numbers that it puts out for the one sample ``x [1, ...]``."""
    counted: list[tuple[nn.Module, int]] = []

    def count(module: nn.Module, inputs: object, out: object) -> None:
        for tensor in out if isinstance(out, tuple) else (out,):
            counted.append((module, tensor.numel() if isinstance(tensor, Tensor) else 0))

    module = model.module.eval()
    hooks = [m.register_forward_hook(count) for m in module.modules() if not list(m.children())]
    try:
        model.forward(model.start(0).to(x.device), x)
    finally:
        for hook in hooks:
            hook.remove()
    return counted


def _products(model: Model, x: Tensor) -> float:
    """Multiplications of one peer's step on ``x [B, ...]``, both ways, in its convolutions and linear layers."""
    weights = [
        (out, layer.weight[0].numel())
        for layer, out in _outputs(model, x[:1])
        if isinstance(layer, (*CONVOLUTIONS, nn.Linear))
    ]
    return float(sum(3 * out * each for out, each in weights) * len(x))


def activations(model: Model, x: Tensor) -> int:
    """Numbers that a forward pass of one sample leaves behind in the layers' outputs, input included."""
    kept: dict[object, int] = model.__dict__.setdefault("_activations", {})
    shape = x.shape[1:]
    if shape not in kept:
        kept[shape] = x[:1].numel() + sum(out for _, out in _outputs(model, x[:1]))
    return kept[shape]


def _buffers(model: Model, C: int) -> State:
    return {n: b.expand(C, *b.shape).clone() for n, b in model.buffers.items()}


def _example(model: Model, batch: Batch) -> tuple[Tensor, State, Batch]:
    """A chunk of a fixed size, so that the decision does not depend on the chunk that asks first."""
    take = torch.arange(STACK) % len(batch.x)
    weight = None if batch.weight is None else torch.ones_like(batch.weight[take])
    W = torch.stack([model.start(i) for i in range(STACK)])
    return W, _buffers(model, STACK), Batch(batch.x[take], batch.y[take], weight)


def _agree(model: Model, loop: Kernel, other: Kernel, batch: Batch) -> bool:
    """Whether gradients are the loop's. The median peer counts: rounding may turn one maximum of a pool."""
    W, S, batch = _example(model, batch)
    a, b = loop.grad(W, S, batch)[0], other.grad(W, S, batch)[0]
    worst = ((a - b).norm(dim=1) / a.norm(dim=1).clamp_min(1e-12)).median()
    if not worst < 1e-4:
        log.warning("kernel: %s differs from loop by %.1e on %s", other.name, float(worst), model.name)
    return bool(worst < 1e-4)


def _faster(model: Model, loop: Kernel, other: Kernel, batch: Batch, plain: bool) -> str:
    if not _agree(model, loop, other, batch):
        return loop.name
    W, S, batch = _example(model, batch)
    seconds = dict.fromkeys((loop, other), float("inf"))
    for _ in range(3):
        for kernel in seconds:
            start = time.thread_time()
            if plain:
                kernel.epoch(W.clone(), S, [batch], 0.0)
            else:
                kernel.grad(W, S, batch)
            seconds[kernel] = min(seconds[kernel], time.thread_time() - start)
    return min(seconds, key=seconds.__getitem__).name


def chunk_size(model: Model, x: Tensor, batch: int, N: int, threads: int, memory_mb: float) -> int:
    """Peers in a chunk: a power of two whose parameters stay in cache, within the memory, and enough chunks for all.

    x:         a sample ``[1, ...]``
    batch:     samples in a mini-batch
    N:         peers that train
    memory_mb: most memory for one chunk in training: rows, parameters, gradients, activations and their gradients;
               a single peer that needs more is trained all the same
    """
    floats = 3 * model.size + 2 * batch * activations(model, x)
    most = min(CACHED / (4 * model.size), memory_mb * 2**20 / (4 * floats), -(-N // threads))
    if any(isinstance(m, CONVOLUTIONS) for m in model.module.modules()):
        most = min(most, max(STACK, min(STACKED // model.size, 4 * STACK)))
    return 1 << max(0, int(most).bit_length() - 1)
