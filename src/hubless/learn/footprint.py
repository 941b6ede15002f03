"""What a peer that owns experts needs: weights that it trains, memory of its optimiser, bytes that it sends."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from hubless.learn.blending import likeness
from hubless.learn.experts import Experts
from hubless.learn.model import Model
from hubless.learn.slots import Hook, View
from hubless.models.moe import Mixture

FLOAT = 4  # bytes


@dataclass(frozen=True)
class Footprint(Hook):
    """Metrics of one peer: ``trainable`` weights, ``optimiser_bytes`` of its moments, ``uploaded_bytes`` so far.

    The last round draws them beside a peer that trains everything, with the likeness of the experts and how many bytes
    of text each is given.

    nodes: peers that share the experts; 1 where every peer trains all of them
    """

    nodes: int

    def round(self, view: View) -> Mapping[str, float]:
        """The three metrics; uploads are the mean over the peers."""
        (cohort,) = view.population.cohorts
        model = cohort.model
        moments = [value for name, value in cohort.state.items() if name in ("adam.m", "adam.v")]
        found = {
            "trainable": float(Experts.of(model).trained(model.size, self.nodes)),
            "optimiser_bytes": float(sum(value[0].numel() * value.element_size() for value in moments)),
            "uploaded_bytes": view.metrics["bytes"] / view.population.n,
        }
        if view.t == view.rounds:
            self._draw(view, model, found)
        return found

    def _draw(self, view: View, model: Model, found: Mapping[str, float]) -> None:
        _, w, _ = view.population.peer(view.population.members()[0])
        experts = Experts.of(model)
        names = [f"expert {number}" for number in range(experts.count)]
        own, whole = found["trainable"] * FLOAT / 1e6, model.size * FLOAT / 1e6
        view.draw(dict(
            type="bars", title="Memory of a node", ylabel="MB", labels=["weights", "gradient", "AdamW state"],
            groups={"this node": [whole, own, found["optimiser_bytes"] / 1e6],
                    "a node that trains everything": [whole, whole, 2 * whole]},
        ))  # fmt: skip
        for number, (_, gate) in enumerate(experts.blocks):
            alike = likeness(experts.all(w)[:, gate])
            view.draw(dict(
                type="heatmap", title=f"Likeness of the experts in block {number}", x=names, y=names, unit="cosine",
                values=alike.tolist(),
            ))  # fmt: skip
        shares = loads(model, w, view.shards.test_x[: view.shards.few])
        view.draw(dict(
            type="bars", title="Load of the experts on test text", ylabel="share of the choices", labels=names,
            groups={f"block {number}": share for number, share in enumerate(shares.tolist())},
        ))  # fmt: skip


def loads(model: Model, w: Tensor, x: Tensor) -> Tensor:
    """Share of the choices of all tokens ``x [M, L]`` that fell on each expert ``[blocks, E]``, under the row ``w``."""
    mixtures = [module for module in model.module.modules() if isinstance(module, Mixture)]
    shares: list[Tensor] = []

    def count(mixture: Mixture, scores: Tensor) -> None:
        shares.append(mixture.choices(scores).mean((0, 1)) / mixture.top)

    hooks = [m.router.register_forward_hook(lambda _, __, scores, m=m: count(m, scores)) for m in mixtures]
    try:
        with torch.no_grad():
            model.forward(w, x)
    finally:
        for hook in hooks:
            hook.remove()
    return torch.stack(shares)
