"""Messages of tuned parameters: of a peer with the same frozen network, and of nothing else."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor

from hubless.errors import CodecError
from hubless.learn.context import Context, Message, State
from hubless.learn.slots import Stage

STAMP = "frozen"
PARTS, BITS = 4, 12  # numbers of so few bits stay exact as the mean of a secure sum of 4,096 senders


@dataclass(frozen=True)
class Stamped(Stage):
    """A digest ``[4]`` of the sender's frozen parameters travels in each message; receivers refuse any but their own.

    They also refuse messages that hold a frozen parameter or an unknown name, and those that lack a group of trained
    ones. So the merge must say parameters, and nothing beside them. Where nothing is frozen, messages stay as they are.

    agreed: the frozen parameters that all are to have, by name; others (a head that is frozen by a mask) may differ
    """

    agreed: Mapping[str, Tensor]
    _digests: dict[tuple[Any, ...], tuple[list[Tensor], Tensor]] = field(
        default_factory=dict, compare=False, repr=False
    )

    sums: ClassVar[bool] = True

    def _digest(self, names: list[str], values: Mapping[str, Tensor]) -> Tensor:
        """Twelve bits a number; remembered, with the tensors, for as long as these hold the same values."""
        key = tuple((name, id(values[name]), values[name]._version) for name in names)
        if key not in self._digests:
            found = hashlib.blake2b(digest_size=2 * PARTS)
            for name in names:
                value = values[name].detach().cpu().contiguous()
                found.update(f"{name} {tuple(value.shape)} ".encode())
                found.update(value.view(torch.uint8).numpy().tobytes() if value.dim() else str(value).encode())
            words = [int.from_bytes(found.digest()[2 * i : 2 * i + 2]) % (1 << BITS) for i in range(PARTS)]
            self._digests[key] = [values[name] for name in names], torch.tensor(words, dtype=torch.int16)
        return self._digests[key][1]

    def _names(self, ctx: Context) -> list[str]:
        return [name for name in ctx.model.frozen if name in self.agreed]

    def forward(self, m: Message, s: State, ctx: Context) -> tuple[Message, State]:
        """With the digest of what this peer has frozen."""
        names = self._names(ctx)
        return ({**m, STAMP: self._digest(names, ctx.model.frozen)} if names else m), s

    def inverse(self, m: Message, count: int, ctx: Context) -> Message:
        """Without it. Raises CodecError for another network's message, and for too many or too few names."""
        model, names = ctx.model, self._names(ctx)
        wanted = {*model.shared, *model.shared_buffers}
        said = {name: value for name, value in m.items() if name != STAMP or not names}
        if frozen := sorted(set(said) & set(model.frozen)):
            raise CodecError(f"{frozen[0]} is frozen, and not to be said")
        if strange := sorted(set(said) - wanted):
            raise CodecError(f"{strange[0]} is not known; trained are {', '.join(sorted(wanted))}")
        if missing := sorted(wanted - set(said)):
            raise CodecError(f"{missing[0]} is missing")
        if names:
            mine = self._digest(names, self.agreed)
            if STAMP not in m or m[STAMP].shape != mine.shape or not torch.equal(m[STAMP].double(), mine.double()):
                raise CodecError("the sender's frozen parameters are others than those agreed on")
        return said
