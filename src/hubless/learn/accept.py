"""What a receiver checks of every message before it is used."""

from __future__ import annotations

import torch

from hubless.errors import MessageError
from hubless.learn.context import Context, Message


def accept(m: Message, ctx: Context) -> None:
    """Raise MessageError for groups of the wrong shape or values that are not finite."""
    for name, value in m.items():
        part = ctx.model.groups.get(name)
        if part is not None and value.shape[-1] != part.stop - part.start:
            raise MessageError(f"{name} has {value.shape[-1]} values, not {part.stop - part.start}")
        if value.is_floating_point() and not bool(torch.isfinite(value).all()):
            raise MessageError(f"{name} is not finite")
