"""Which parts go together; what cannot work is refused before any work, with what to change."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from hubless.errors import ConfigError
from hubless.learn.codecs import Codec
from hubless.learn.model import Model
from hubless.learn.plan import DOWN, HAND, Exchange, Overlay, Plan
from hubless.learn.secure import Hiding
from hubless.learn.slots import Attack, Hook, Local, Merge, Reduce
from hubless.learn.sums import edges_into, summed


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
    if overlay.in_parts and not merge.in_parts:
        raise ConfigError(f"merge: overlay {type(overlay).__name__} has a ring pass on parts of rows; use RingMean()")
    kinds = {phase: merge.kind(phase) for phase in overlay.phases}
    codec.check(kinds, names)
    crossing = [kind for phase, kind in kinds.items() if kind != "predictions" and phase not in merge.within]
    if len(models) > 1 and crossing:
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


def summable(plan: Plan, codec: Codec) -> None:
    """Raise ConfigError when the inboxes of a plan cannot be summed by a codec that hides."""
    *before, hiding = codec.stages
    assert isinstance(hiding, Hiding)
    for step in plan:
        if not isinstance(step, Exchange) or step.name == HAND or not summed(step):
            continue
        for to, edges in edges_into(step.src, step.dst, step).items():
            weights = step.weight[edges]
            if len(set(weights[weights > 0].tolist())) > 1:
                raise ConfigError(
                    f"codec: secure sums need equal weights, but {step.name!r} has several; use Star(weigh='one'),"
                    " Gossip over a regular graph or with weights='uniform', or one aggregator"
                )
            if len(set(step.src[edges].tolist()) - {to}) < 2:
                raise ConfigError(
                    f"codec: a secure sum needs at least 2 senders besides the receiver, but peer {to} plans to hear"
                    f" from fewer in {step.name!r}; use a topology of degree 2 or more, or more participants"
                )
            hiding.check(len(edges), before)


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
    elif type(merge).join is not Merge.join or type(merge).accept is not Merge.accept:
        needs = type(merge).__name__
    elif attack is not None and _looks(attack):
        needs = type(attack).__name__
    elif judges := [hook for hook in hooks if hook.needs_messages]:
        needs = type(judges[0]).__name__
    elif codec.remembers:
        needs = next(type(stage).__name__ for stage in codec.stages if stage.remembers)
    if needs:
        raise ConfigError(
            f"codec: secure sums show only the total, but {needs} needs each message; drop one of the two"
        )
    *before, last = codec.stages
    if not isinstance(last, Hiding):
        raise ConfigError(f"codec: {type(last).__name__} cannot follow a secure sum, which must be the last stage")
    for stage in before:
        if stage.hides:
            raise ConfigError(f"codec: {type(stage).__name__} comes twice; keep one of them")
        if not stage.sums:
            raise ConfigError(
                f"codec: {type(stage).__name__} does not decode sums, so {type(last).__name__} cannot follow it; use"
                " rqm, pbm or fixed-point"
            )


def _looks(attack: Attack) -> bool:
    return attack.sees == "honest" or (attack.reduce is not None and not attack.reduce.linear)
