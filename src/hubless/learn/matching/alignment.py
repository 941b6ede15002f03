"""Which unit of another network plays the part of which of one's own: by what they do, or by their weights.

Networks that began or trained apart compute alike with units in different places. An assignment says for each place of
one's own network which unit of the other comes there (a linear assignment for each permutation of a ``Spec``).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn

from hubless.errors import ConfigError
from hubless.learn import keys
from hubless.learn.context import State
from hubless.learn.matching.permutations import Assignment, Block, Spec, row_of, tensors_of
from hubless.learn.model import BUFFER, Model

CLAMP = 1e-7  # least product of two deviations: a unit that never changes is like no other, and not NaN
CHUNK = 64  # samples that go through a network at a time
BATCH = 256  # samples over which BatchNorm's statistics are taken together
SWEEPS = 100  # of weight matching at most; it ends when nothing gets better

Peer = tuple[Tensor, Mapping[str, Tensor]]  # a row ``[D]`` and the state with its buffers


def moved(model: Model, spec: Spec, peer: Peer, by: Assignment) -> tuple[Tensor, State]:
    """A network with its units in other places: another row and state, the same function."""
    w, s = peer
    return row_of(model, spec.permuted(tensors_of(model, w, s), by), s)


def assigned(likeness: Tensor) -> Tensor:
    """Which of the other's units goes with each of one's own ``[d]``, for the greatest total of ``likeness [d, d]``."""
    table = torch.nan_to_num(likeness, nan=0.0, posinf=0.0, neginf=0.0).cpu().numpy()
    return torch.from_numpy(linear_sum_assignment(table, maximize=True)[1])


def by_activation(model: Model, spec: Spec, own: Peer, others: Sequence[Peer], x: Tensor) -> list[Assignment]:
    """Assignments for each of the others, by the correlation of units on samples ``x [B, ...]``.

    A unit is looked at where the next layers read it, at every place of an image; correlations of several readers are
    averaged. Raises ConfigError without at least two samples, and where ``readers`` does.
    """
    tables = correlations(model, spec, own, others, x)
    return [{name: assigned(table) for name, table in each.items()} for each in tables]


def correlations(model: Model, spec: Spec, own: Peer, others: Sequence[Peer], x: Tensor) -> list[dict[str, Tensor]]:
    """For each of the others, and each permutation, how alike units are ``[d, d]``: own ones in rows, in [-1, 1]."""
    if len(x) < 2:
        raise ConfigError(f"calibration: activations are correlated over at least 2 samples, not {len(x)}")
    listened = readers(model, spec)
    names = [reader.block.piece.name for reader in listened]
    sums = [[_Moments() for _ in listened] for _ in others]
    for part in torch.split(x, CHUNK):
        mine = _activations(model, own, listened, part)
        for each, other in zip(sums, others, strict=True):
            for moments, a, b in zip(each, mine, _activations(model, other, listened, part), strict=True):
                moments.add(a, b)
    return [
        {
            name: torch.stack([m.correlation() for m, read in zip(each, names, strict=True) if read == name]).mean(0)
            for name in spec.sizes
        }
        for each in sums
    ]


def by_weight(model: Model, spec: Spec, own: Tensor, other: Tensor, key: int) -> Assignment:
    """The assignment that brings the parameters of a row ``[D]`` closest to one's own, permutation by permutation.

    Git Re-Basin's weight matching (arXiv 2209.04836, algorithm 1): each is solved with the others as they are, in a
    random order, until none gets better. Buffers do not count.
    """
    mine, theirs = model.unflatten(own), model.unflatten(other)
    blocks = {name: [block for block in spec.blocks(name) if block.tensor in mine] for name in spec.sizes}
    found: Assignment = {name: torch.arange(units) for name, units in spec.sizes.items()}
    names = [name for name in found if blocks[name]]
    for sweep in range(SWEEPS):
        better = False
        for at in keys.permutation(keys.fold(key, "sweep", sweep), len(names)).tolist():
            name = names[at]
            likeness = torch.zeros(spec.sizes[name], spec.sizes[name], dtype=torch.float64)
            for block in blocks[name]:
                value = spec.moved(block.tensor, theirs[block.tensor], found, but=name)
                likeness += (block.units(mine[block.tensor]).double() @ block.units(value).double().T).cpu()
            chosen, place = assigned(likeness), torch.arange(len(likeness))
            gain = float((likeness[place, chosen] - likeness[place, found[name]]).sum())
            if gain > 1e-9 * float(likeness.abs().sum()):
                found[name], better = chosen, True
        if not better:
            break
    return found


def refreshed(model: Model, w: Tensor, s: Mapping[str, Tensor], x: Tensor) -> State:
    """The state with BatchNorm's statistics as they are for these parameters on ``x [B, ...]``: means over batches.

    Average parameters do not have the average of the statistics (REPAIR, arXiv 2211.08403, section 3).
    """
    layers = {
        name: module for name, module in model.module.named_modules()
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and f"{BUFFER}{name}.running_mean" in s
    }  # fmt: skip
    if not layers or len(x) < 2:
        return dict(s)
    means: dict[str, Tensor] = {}
    for part in torch.tensor_split(x, -(-len(x) // BATCH)):  # none of them is a single sample
        with _listening(layers) as heard, torch.no_grad():
            model.forward(w, part, {name: value.clone() for name, value in s.items()}, train=True)
        for name, values in heard.items():
            value = torch.cat([one.movedim(1, 0).flatten(1) for one in values], dim=1)
            for kind, found in (("running_mean", value.mean(1)), ("running_var", value.var(1))):
                place = f"{BUFFER}{name}.{kind}"
                means[place] = means.get(place, torch.zeros_like(found)) + found * (len(part) / len(x))
    return {**s, **means}


@contextmanager
def _listening(layers: Mapping[str, nn.Module]) -> Iterator[dict[str, list[Tensor]]]:
    """What comes into some layers while the network runs; by name, a value a call."""
    heard: dict[str, list[Tensor]] = {name: [] for name in layers}

    def listen(name: str) -> Callable[[nn.Module, tuple[Any, ...]], None]:
        return lambda _, inputs: heard[name].append(inputs[0].detach())

    handles = [module.register_forward_pre_hook(listen(name)) for name, module in layers.items()]
    try:
        yield heard
    finally:
        for handle in handles:
            handle.remove()


@dataclass(frozen=True)
class Reader:
    """A layer that reads units: which, and along which axis of its input."""

    layer: str
    block: Block
    axis: int

    def units(self, values: Sequence[Tensor]) -> Tensor:
        """The units of its inputs ``[units, samples x places]``."""
        placed = self.block._replace(axis=self.axis)
        return torch.cat([placed.units(value) for value in values], dim=1).double()


def readers(model: Model, spec: Spec) -> list[Reader]:
    """Linear layers and convolutions that read units, whose inputs are the activations that are correlated.

    Raises ConfigError for a permutation that none of them reads.
    """
    found = []
    for block in spec.blocks():
        layer, _, kind = block.tensor.rpartition(".")
        module = model.module.get_submodule(layer) if kind == "weight" else None
        if isinstance(module, nn.Linear) and block.axis == 1:
            found.append(Reader(layer, block, -1))
        elif isinstance(module, nn.modules.conv._ConvNd) and (module.groups, block.axis) == (1, 1 - module.transposed):
            found.append(Reader(layer, block, 1))
    if missing := sorted(set(spec.sizes) - {reader.block.piece.name for reader in found}):
        raise ConfigError(
            f"spec: no linear layer or convolution of {model.name} reads the units of {missing[0]!r}, so that their"
            " activations cannot be correlated; use matched:weight"
        )
    return found


def _activations(model: Model, peer: Peer, listened: Sequence[Reader], x: Tensor) -> list[Tensor]:
    """The units that each reader hears on samples ``x``."""
    w, s = peer
    layers = {reader.layer: model.module.get_submodule(reader.layer) for reader in listened}
    with _listening(layers) as heard, torch.no_grad():
        model.forward(w, x, s)
    return [reader.units(heard[reader.layer]) for reader in listened]


class _Moments:
    """Sums over samples from which the correlation of each unit with each unit of another network follows."""

    def __init__(self) -> None:
        self._count = 0
        self._sums: list[Tensor] = []

    def add(self, a: Tensor, b: Tensor) -> None:
        """Units ``[d, n]`` of both."""
        new = [a @ b.T, a.sum(1), b.sum(1), a.square().sum(1), b.square().sum(1)]
        self._sums = [old + more for old, more in zip(self._sums, new, strict=True)] if self._sums else new
        self._count += a.shape[1]

    def correlation(self) -> Tensor:
        """``[d, d]``, rows of the first; 0 where a unit never changes."""
        both, a, b, squares_a, squares_b = (value / self._count for value in self._sums)
        spread_a, spread_b = ((s - m.square()).clamp_min(0).sqrt() for s, m in ((squares_a, a), (squares_b, b)))
        return (both - torch.outer(a, b)) / torch.outer(spread_a, spread_b).clamp_min(CLAMP)
