"""What a peer that owns experts needs: weights that it trains, memory of its optimiser, bytes that it sends."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from hubless.learn.experts.blending import likeness
from hubless.learn.experts.owned import Experts
from hubless.learn.model import Model
from hubless.learn.slots import Hook, View
from hubless.models.moe import Mixture

FLOAT = 4  # bytes


@dataclass(frozen=True)
class Footprint(Hook):
    """Metrics of one peer: ``trainable`` weights, ``optimiser_bytes`` of its moments, ``uploaded_bytes`` so far.

    Where peers were absent, ``stale_experts`` counts the experts that nobody trained in the round. The last round draws
    what a peer needs beside one that trains everything, how alike the experts are, and how the text is shared out.

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
        if self.nodes > 1 and (absent := int((~view.trained).sum())):
            found["stale_experts"] = float(absent * Experts.of(model).count // self.nodes)
        if view.t == view.rounds:
            self._draw(view, model, found)
        return found

    def _draw(self, view: View, model: Model, found: Mapping[str, float]) -> None:
        _, w, _ = view.population.peer(view.population.members()[0])
        experts = Experts.of(model)
        names = list(range(experts.count))
        own, whole = found["trainable"] * FLOAT / 1e6, model.size * FLOAT / 1e6
        message = view.metrics["bytes"] / max(1.0, view.metrics["messages"]) / 1e6
        view.draw(dict(
            type="bars", name="footprint", title="What a node needs", ylabel="MB",
            reading="A message is the mean of all that were sent.",
            labels=["weights", "gradient", "AdamW state", "a message"],
            groups={"this node": [whole, own, found["optimiser_bytes"] / 1e6, message],
                    "a node that trains everything": [whole, whole, 2 * whole, whole]},
        ))  # fmt: skip
        shares = loads(model, w, view.shards.test_x[: view.shards.few])
        view.draw(dict(
            type="bars", name="load", title="How test text is shared out among experts", labels=names,
            ylabel="share of the choices", reading="Even shares are what the load-balance loss asks for.",
            groups={f"block {number}": share for number, share in enumerate(shares.tolist())},
        ))  # fmt: skip
        for number, (_, gate) in enumerate(experts.blocks):
            alike = [
                [None if i == j else round(value, 3) for j, value in enumerate(row)]
                for i, row in enumerate(likeness(experts.all(w)[:, gate]).tolist())
            ]
            view.draw(dict(
                type="heatmap", name=f"likeness-{number}", title=f"How alike the experts of block {number} are",
                reading="The warm-up pulls an expert towards those most like it.", x=names, y=names,
                unit="cosine of gate matrices", values=alike,
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
