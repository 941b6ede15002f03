"""What a receiver checks of every message before it is used."""

from __future__ import annotations

import torch

from hubless.errors import MessageError
from hubless.learn.context import Context, Message


def accept(m: Message, ctx: Context) -> None:
    """Raise MessageError for parameters or buffers of the wrong shape, and for values that are not finite."""
    for name, value in m.items():
        wanted: tuple[int, ...] | None = None
        if (part := ctx.model.groups.get(name)) is not None:
            wanted = (part.stop - part.start,)
        elif name in ctx.model.buffers:
            wanted = tuple(ctx.model.buffers[name].shape)
        if wanted is not None and tuple(value.shape) != wanted:
            raise MessageError(f"{name} has shape {tuple(value.shape)}, not {wanted}")
        if value.is_floating_point() and not bool(torch.isfinite(value).all()):
            raise MessageError(f"{name} is not finite")
