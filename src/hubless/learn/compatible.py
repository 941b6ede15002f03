"""Which parts go together; what cannot work is refused before any work, with what to change."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from hubless.errors import ConfigError
from hubless.learn.codecs import Codec
from hubless.learn.model import Model
from hubless.learn.slots import DOWN, HAND, Attack, Exchange, Hook, Local, Merge, Overlay, Plan, Reduce


def compatible(
    local: Mapping[str, Local], overlay: Overlay, merge: Merge, codec: Codec, attack: Attack | None,
    hooks: Sequence[Hook], models: Sequence[Model],
) -> None:  # fmt: skip
    """Raise ConfigError for a combination that cannot work."""
    names = type(merge.reduce if type(merge) is Merge else merge).__name__
    if HAND in overlay.phases:
        raise ConfigError(f"overlay: {HAND!r} is the engine's own exchange; rename that of {type(overlay).__name__}")
    if missing := [role for role in overlay.roles if role not in local]:
        raise ConfigError(
            f"local: overlay {type(overlay).__name__} hands out the role {missing[0]!r}, local has {sorted(local)}"
        )
    if merge.phases is not None and (foreign := [p for p in overlay.phases if p not in merge.phases]):
        raise ConfigError(
            f"merge: {names} works over the exchanges {'/'.join(merge.phases)}, but overlay {type(overlay).__name__}"
            f" makes {'/'.join(foreign)}"
        )
    kinds = {phase: merge.kind(phase) for phase in overlay.phases}
    codec.check(kinds, names)
    if len(models) > 1 and (crossing := [kind for kind in kinds.values() if kind != "predictions"]):
        raise ConfigError(
            f"merge: {names} sends a {crossing[0]}, which cannot cross {len(models)} cohorts of different models;"
            " use Distil()"
        )
    for group in merge.share or ():
        for model in models:
            if group not in model.groups:
                raise ConfigError(f"merge.share: no group {group!r}; the model has {sorted(model.groups)}")
    _hiding(merge, codec, attack, hooks)


def owned(model: Model, makers: Sequence[Any]) -> None:
    """Raise ConfigError when two kinds of part make the same entry of the state, or one reads what none makes."""
    owner: dict[str, str] = dict.fromkeys(model.buffers, "the model")
    for maker in makers:
        name = type(maker).__name__
        for entry in maker.init(model):
            if owner.setdefault(entry, name) != name:
                raise ConfigError(f"state: {entry!r} is made by both {owner[entry]} and {name}; rename one")
    for reader in [*makers, *(maker.gradient for maker in makers if hasattr(maker, "gradient"))]:
        if missing := [entry for entry in getattr(reader, "needs", ()) if entry not in owner]:
            raise ConfigError(
                f"state: {type(reader).__name__} reads {missing[0]!r}, which no part of this method makes"
            )


def equal_weights(plan: Plan) -> None:
    """Raise ConfigError when an exchange weighs its senders unequally, which a sum of hidden messages cannot."""
    for step in plan:
        if isinstance(step, Exchange) and len(set(step.weight[step.weight > 0].tolist())) > 1:
            raise ConfigError(
                f"codec: secure sums need equal weights, but {step.name!r} has several; use Star(weigh='one')"
            )


def large_enough(plan: Plan, reduce: Reduce) -> None:
    """Raise ConfigError when some peer plans to hear from too few senders for what the reduce asks."""
    for step in plan:
        if isinstance(step, Exchange) and step.name not in (HAND, DOWN):
            for size in sorted({*torch.bincount(step.dst[step.weight > 0]).tolist()} - {0}):
                reduce.check(size)


def _hiding(merge: Merge, codec: Codec, attack: Attack | None, hooks: Sequence[Hook]) -> None:
    if not codec.hides:
        return
    needs = None
    if not merge.reduce.linear:
        needs = type(merge.reduce).__name__
    elif type(merge).join is not Merge.join:
        needs = type(merge).__name__
    elif attack is not None and attack.sees == "honest":
        needs = type(attack).__name__
    elif judges := [hook for hook in hooks if hook.needs_messages]:
        needs = type(judges[0]).__name__
    if needs:
        raise ConfigError(
            f"codec: secure sums show only the total, but {needs} needs each message; drop one of the two"
        )
