"""What a receiver checks of every message before it is used."""

from __future__ import annotations

import torch

from hubless.errors import MessageError
from hubless.learn.context import Context, Message
from hubless.learn.model import PERSONAL


def accept(m: Message, ctx: Context) -> None:
    """Raise MessageError for parameters or buffers of the wrong shape or type, or that are another peer's own, and for
    values that are not finite."""
    for name, value in m.items():
        if name == PERSONAL and name in ctx.model.groups:
            raise MessageError(f"{name} parameters stay with their peer")
        wanted: tuple[int, ...] | None = None
        if (part := ctx.model.groups.get(name)) is not None:
            wanted = (part.stop - part.start,)
        elif name in ctx.model.buffers:
            wanted = tuple(ctx.model.buffers[name].shape)
        if wanted is not None and tuple(value.shape) != wanted:
            raise MessageError(f"{name} has shape {tuple(value.shape)}, not {wanted}")
        if wanted is not None and not value.is_floating_point():
            raise MessageError(f"{name} is {value.dtype}, not a tensor of real numbers")
        if value.is_floating_point() and not bool(torch.isfinite(value).all()):
            raise MessageError(f"{name} is not finite")


class Forms:
    """Shapes and types of the names in one inbox: those that a merge made up are known from whoever sent them first."""

    def __init__(self) -> None:
        self._known: dict[str, tuple[torch.Size, torch.dtype]] = {}

    def agree(self, m: Message) -> None:
        """Raise MessageError for a name that came in another shape or type before."""
        forms = {name: (value.shape, value.dtype) for name, value in m.items()}
        for name, form in forms.items():
            if self._known.get(name, form) != form:
                shape, kind = self._known[name]
                raise MessageError(
                    f"{name} is {form[1]} of shape {tuple(form[0])}, others sent {kind} of {tuple(shape)}"
                )
        self._known |= forms
