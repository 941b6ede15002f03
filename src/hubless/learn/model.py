"""A model as one row of floats: any ``nn.Module``, its parameters flat, its other state beside it.

The trainable parameters of ONE peer are ``w [D]``, with named groups that are contiguous slices. Buffers
(BatchNorm's statistics) lie in the state ``s`` as ``buffer/NAME``; frozen parameters are stored once.
"""

from __future__ import annotations

import copy
import hashlib
import threading
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.func import functional_call

from hubless.errors import ConfigError
from hubless.learn import keys
from hubless.learn.gate import GATE
from hubless.learn.masks import Mask, chosen

Task = Literal["classification", "regression", "language"]
Loss = Callable[[Tensor, Tensor], Tensor]
BUFFER = "buffer/"
PERSONAL = "personal"  # the group of what stays with its peer; the last of the row


def classification_loss(out: Tensor, y: Tensor) -> Tensor:
    """Cross-entropy of logits ``[B, C]`` against labels ``[B]``, one value a sample."""
    return nn.functional.cross_entropy(out, y, reduction="none")


def regression_loss(out: Tensor, y: Tensor) -> Tensor:
    """Squared error, averaged over all but the first dimension."""
    return (out.reshape(y.shape) - y).square().flatten(1).mean(1) if y.dim() > 1 else (out.reshape(-1) - y).square()


def language_loss(out: Tensor, y: Tensor) -> Tensor:
    """Cross-entropy of next-token logits ``[B, L, V]`` against tokens ``[B, L]``, averaged over L."""
    tokens = nn.functional.cross_entropy(out.flatten(0, 1), y.flatten(), reduction="none")
    return tokens.reshape(y.shape).mean(1)


LOSSES: dict[Task, Loss] = {
    "classification": classification_loss,
    "regression": regression_loss,
    "language": language_loss,
}


class Dropout(nn.Module):
    """Dropout whose mask is drawn from a key that every peer holds as a buffer, so it can be mapped and repeated."""

    key: Tensor

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = p
        self.register_buffer("key", torch.zeros((), dtype=torch.int64))

    def forward(self, x: Tensor) -> Tensor:
        """Zero each value with probability p and scale the rest, in training only."""
        if not self.training or self.p == 0:
            return x
        self.key += 1
        keep = keys.uniform(self.key, tuple(x.shape)) >= self.p
        return x * keep / (1 - self.p)


def _keyed(module: nn.Module) -> nn.Module:
    for name, child in module.named_children():
        if isinstance(child, nn.modules.dropout._DropoutNd):
            if type(child) not in (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d):
                raise ConfigError(f"model: {type(child).__name__} draws from the global generator; use nn.Dropout")
            setattr(module, name, Dropout(child.p))
        else:
            _keyed(child)
    return module


class Model:
    """The network of a peer.

    build:     makes the module; called with the seed's own generator, so the same seed gives the same start
    groups:    name -> prefixes of parameter names; by default one group ``w`` with everything
    frozen:    prefixes of parameters that are neither trained nor sent; what ``build`` makes with
               ``requires_grad=False`` is frozen, too, and best shared by all that it makes
    trainable: which parameters are not frozen
    personal:  which of the trained ones stay with their peer: one more group, the last of the row
    loss:      (output, target) -> one value a sample ``[B]``; by default the module's ``loss``, or else the task's own
    same:      whether all peers start from the same parameters

    ``shared`` names the groups that peers tell each other, the first ``shared_size`` floats of the row, and
    ``shared_buffers`` the buffers: all but those of modules whose parameters are personal.
    """

    def __init__(
        self,
        build: Callable[[], nn.Module],
        *,
        groups: Mapping[str, Sequence[str]] | None = None,
        frozen: Sequence[str] = (),
        trainable: Mask | None = None,
        personal: Mask | None = None,
        task: Task = "classification",
        loss: Loss | None = None,
        same: bool = True,
        name: str = "",
    ) -> None:
        self._asked: dict[str, Any] = dict(
            groups=groups, frozen=frozen, trainable=trainable, personal=personal,
            task=task, loss=loss, same=same, name=name,
        )  # fmt: skip
        self.build = build
        self.task: Task = task
        self.same = same
        module = self._fresh(0)
        self.loss: Loss = loss or getattr(module, "loss", None) or LOSSES[task]
        self.name = name or type(module).__name__
        self._here = threading.local()
        self._outputs: dict[tuple[int, ...], int] = {}
        self._template = module
        every = dict(module.named_parameters())
        held = {n for n, p in every.items() if not p.requires_grad or any(n.startswith(start) for start in frozen)}
        if trainable is not None:
            held |= set(every) - chosen(trainable, module, "trainable")
        self._frozen_names = tuple(n for n in every if n in held)
        for n in self._frozen_names:
            every[n].requires_grad_(False)
        open_ = [n for n in every if n not in held]
        if not open_:
            raise ConfigError(f"model: {self.name} has no trainable parameter")
        for n in open_:
            if every[n].dtype != torch.float32:
                raise ConfigError(f"model: parameter {n} is {every[n].dtype}; trainable parameters must be float32")
        own = chosen(personal, module, "personal") & set(open_) if personal is not None else frozenset()
        self.names, self.groups = self._order(open_, every, groups, own)
        self.shared = tuple(group for group in self.groups if group != PERSONAL)
        if not self.shared:
            raise ConfigError(f"personal: no trained parameter of {self.name} is left to share")
        self.shared_size = self.groups[self.shared[-1]].stop
        self.shapes = tuple(every[n].shape for n in self.names)
        self.sizes = tuple(every[n].numel() for n in self.names)
        self.size = sum(self.sizes)
        lasting = module.state_dict().keys()  # other buffers are constants that the module makes again
        self.buffers = {BUFFER + n: b.detach().clone() for n, b in module.named_buffers() if n in lasting}
        self.shared_buffers = tuple(n for n in self.buffers if not self._private(n.removeprefix(BUFFER), own, every))

    def masked(self, trainable: Mask | None, personal: Mask | None) -> Model:
        """This network with other masks; None leaves one as it is."""
        if trainable is None and personal is None:
            return self
        new = {"trainable": trainable, "personal": personal}
        return Model(self.build, **{**self._asked, **{n: mask for n, mask in new.items() if mask is not None}})

    @staticmethod
    def _private(buffer: str, own: frozenset[str], every: Mapping[str, Tensor]) -> bool:
        """Whether a buffer belongs to a module whose parameters are personal."""
        owner = buffer.rpartition(".")[0]
        beside = [n for n in every if n.rpartition(".")[0] == owner]
        return bool(beside) and own.issuperset(beside)

    @staticmethod
    def _order(
        names: list[str], every: Mapping[str, Tensor], groups: Mapping[str, Sequence[str]] | None, own: frozenset[str]
    ) -> tuple[tuple[str, ...], dict[str, slice]]:
        """Parameters by group, personal ones last, and the groups' slices of the row."""
        members: dict[str, list[str]] = {}
        placed: set[str] = set()
        for group, prefixes in ({"w": [""]} if groups is None else groups).items():
            fits = [n for n in names if n not in placed and any(n.startswith(p) for p in prefixes)]
            if not fits:
                raise ConfigError(f"model.groups: no trainable parameter starts with any of {list(prefixes)} ({group})")
            placed |= set(fits)
            members[group] = [n for n in fits if n not in own]
        if left := [n for n in names if n not in placed]:
            raise ConfigError(f"model.groups: {left[0]} and {len(left) - 1} more parameters are in no group")
        members[PERSONAL] = [n for n in names if n in own]
        slices: dict[str, slice] = {}
        start = 0
        for group, inside in members.items():
            if inside:
                stop = start + sum(every[n].numel() for n in inside)
                slices[group], start = slice(start, stop), stop
        return tuple(n for inside in members.values() for n in inside), slices

    def _fresh(self, key: int) -> nn.Module:
        # nn.Module initialisers draw from the global generator only; it is forked here and seeded by the key.
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(keys.integer(key))
            return _keyed(self.build())

    @property
    def module(self) -> nn.Module:
        """A copy of the module for this thread: ``functional_call`` swaps tensors in place, and threads would race."""
        if not hasattr(self._here, "module"):
            self._here.module = self.copy()
        module: nn.Module = self._here.module
        return module

    def copy(self) -> nn.Module:
        """A copy of the module that shares the frozen parameters, of which there may be many."""
        return copy.deepcopy(self._template, {id(p): p for p in self._template.parameters() if not p.requires_grad})

    @cached_property
    def fingerprint(self) -> str:
        """A digest of the structure: modules with their settings, names and shapes."""
        text = f"{self._template}{self.names}{self.shapes}{self.task}{getattr(self.loss, '__qualname__', '')}"
        return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()

    @cached_property
    def mixes(self) -> bool:
        """Whether samples of a batch act on each other's outputs in training, as in BatchNorm."""
        return any(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in self._template.modules())

    def start(self, key: int) -> Tensor:
        """Initial parameters ``w [D]`` for a key."""
        return self._row(self._fresh(key))

    def _row(self, module: nn.Module) -> Tensor:
        found = dict(module.named_parameters())
        return torch.cat([found[n].detach().reshape(-1) for n in self.names])

    def state(self) -> dict[str, Tensor]:
        """Initial buffers of one peer."""
        return {name: value.clone() for name, value in self.buffers.items()}

    @cached_property
    def frozen(self) -> dict[str, Tensor]:
        """Frozen parameters, stored once for the whole population."""
        found = dict(self._template.named_parameters())
        return {n: found[n].detach() for n in self._frozen_names}

    def freeze(self, values: Mapping[str, Tensor]) -> None:
        """Give the frozen parameters their (pre-trained) values. Raises ConfigError for an unknown name or shape."""
        for name, value in values.items():
            if name not in self.frozen or self.frozen[name].shape != value.shape:
                raise ConfigError(f"model: {name} {tuple(value.shape)} is no frozen parameter of {self.name}")
            self.frozen[name] = value.detach().clone()

    def unflatten(self, w: Tensor) -> dict[str, Tensor]:
        """Views of a row ``[D]`` (or rows ``[..., D]``) by parameter name."""
        parts = torch.split(w, list(self.sizes), dim=-1)
        lead = w.shape[:-1]
        return {n: p.reshape(*lead, *shape) for n, p, shape in zip(self.names, parts, self.shapes, strict=True)}

    def paste(self, w: Tensor, message: Mapping[str, Tensor]) -> Tensor:
        """The row ``[..., D]`` with the groups that the message has replaced."""
        known = [name for name in self.groups if name in message]
        if len(known) == len(self.groups) == 1:
            return message[known[0]]
        return torch.cat([message.get(name, w[..., part]) for name, part in self.groups.items()], dim=-1)

    def statistics(self, message: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """What a message says of the buffers."""
        return {name: value for name, value in message.items() if name in self.buffers}

    def forward(self, w: Tensor, x: Tensor, s: Mapping[str, Tensor] | None = None, *, train: bool = False) -> Tensor:
        """Output of one peer's network on ``x [B, ...]``; buffers are taken from ``s`` and not changed."""
        module = self.module.train(train)
        buffers = {n.removeprefix(BUFFER): v for n, v in (s or self.buffers).items() if n.startswith(BUFFER)}
        with GATE.running():
            out: Tensor = functional_call(module, {**self.unflatten(w), **self.frozen, **buffers}, (x,))
        return out

    def outputs(self, x: Tensor) -> int:
        """Floats that the network puts out for one of the samples ``x [M, ...]``."""
        shape = tuple(x.shape[1:])
        if shape not in self._outputs:
            with torch.no_grad():
                self._outputs[shape] = self.forward(self._row(self._template).to(x.device), x[:1]).numel()
        return self._outputs[shape]

    def check(self, x: Tensor, y: Tensor, classes: int) -> None:
        """Raise ConfigError when one sample does not pass, or the output does not fit the classes or the loss."""
        try:
            out = self.forward(self._row(self._template), x[:2])
        except RuntimeError as error:
            shape = tuple(x.shape[1:])
            raise ConfigError(f"model: {self.name} cannot take samples of shape {shape}: {error}") from None
        if self.task != "regression" and out.shape[-1] < classes:
            raise ConfigError(f"model: {self.name} has {out.shape[-1]} outputs, but the data has {classes} classes")
        losses = self.loss(out, y[:2])
        if losses.shape != (min(2, len(x)),):
            raise ConfigError(
                f"model.loss: must give one value a sample, not shape {tuple(losses.shape)}; use reduction='none'"
            )
