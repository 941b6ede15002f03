"""The row as one tensor a parameter, for stages that treat layers apart."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from hubless.errors import CodecError
from hubless.learn.codecs.pipeline import Codec
from hubless.learn.context import Context, Message, State
from hubless.learn.model import Model
from hubless.learn.slots import Stage
from hubless.parts import part


def spot(model: Model, name: str) -> slice | None:
    """Where in the row a group, or ``GROUP/PARAMETER``, lies."""
    if name in model.groups:
        return model.groups[name]
    group, _, label = name.partition("/")
    found = places(model).get(group, {}).get(f"{group}/{label}")
    return found[0] if found else None


def places(model: Model) -> dict[str, dict[str, tuple[slice, torch.Size]]]:
    """For every group, ``GROUP/PARAMETER`` with its slice of the row and its shape."""
    found: dict[str, dict[str, tuple[slice, torch.Size]]] = {group: {} for group in model.groups}
    start = 0
    for name, size, shape in zip(model.names, model.sizes, model.shapes, strict=True):
        group = next(
            g for g, part_ in model.groups.items() if part_.start <= start < part_.stop or part_.start == start
        )
        found[group][f"{group}/{name}"] = slice(start, start + size), shape
        start += size
    return found


@dataclass(frozen=True)
class Layers(Stage):
    """Groups of the model split into parameters of their own shapes: ``w`` becomes ``w/0.weight``, ``w/0.bias``, ..."""

    vectorised: ClassVar[bool] = False

    def forward(self, m: Message, s: State, ctx: Context) -> tuple[Message, State]:
        """Views, by parameter."""
        layers, groups = places(ctx.model), ctx.model.groups
        new: Message = {}
        for name, value in m.items():
            if name in groups and value.shape == (groups[name].stop - groups[name].start,):
                first = groups[name].start
                for label, (part_, shape) in layers[name].items():
                    new[label] = value[part_.start - first : part_.stop - first].reshape(shape)
            else:
                new[name] = value
        return new, s

    def inverse(self, m: Message, count: int, ctx: Context) -> Message:
        """The groups again. Raises CodecError for a parameter that is missing or of another shape."""
        layers = places(ctx.model)
        home = {label: group for group, labels in layers.items() for label in labels}
        new: Message = {}
        for name, value in m.items():
            group = home.get(name)
            if group is None:
                new[name] = value
            elif group not in new:
                for label, (_, shape) in layers[group].items():
                    if label not in m or m[label].shape != shape or m[label].dtype != value.dtype:
                        raise CodecError(f"{label} is missing or has another shape or type")
                new[group] = torch.cat([m[label].reshape(-1) for label in layers[group]])
        return new


@part("codec", "layers")
def layers() -> Codec:
    """Stages that follow see one tensor a parameter, not one a group."""
    return Codec((Layers(),))
