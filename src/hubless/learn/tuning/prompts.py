"""A generator that writes each peer its own prompts: the server's side of pFedPG (arXiv 2308.15367, section 3.2.2).

Peers get their prompts, tune them and a head of their own, and say how far the prompts have come, ``dP = P~ - P``. The
aggregator learns from these displacements what to write.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from hubless.errors import ConfigError
from hubless.learn.context import Context, Inbox, Message, State
from hubless.learn.masks import chosen, head, prompt
from hubless.learn.plan import Book
from hubless.learn.tuning.beside import Beside

if TYPE_CHECKING:
    from hubless.learn.model import Model
    from hubless.learn.workload import Shards

BANK = "bank"  # the descriptors [N, K, d]
BETAS, EPSILON = (0.9, 0.999), 1e-8  # of AdamW


@dataclass(frozen=True)
class PromptGenerator(Beside):
    """Cross-attention that writes each peer its prompts from a common basis, asked by the peer's own descriptor.

    ``P_n = P_base + softmax((d_n W_q) (P_base W_k)' / sqrt(d)) (P_base W_v) W_o``, with basis and descriptors of
    ``[tokens, d]`` and weights ``[d, d]`` (equations 3 and 4). All of them take one AdamW step a round on
    ``sum_n (dP_n / dpsi)' (-dP_n)``: a displacement is what a gradient at the prompt would have asked for, turned round
    (equation 5). A descriptor moves only when its peer has answered.

    tokens:       prompt tokens K; what is shared of the row is taken as ``[tokens, d]``
    lr:           learning rate of AdamW
    weight_decay: of AdamW
    until:        the round after which only descriptors learn, so that newcomers find a finished generator; 0: never
    turned:       takes the displacement itself for the gradient, which drives prompts away from where peers want them:
                  a control
    """

    tokens: int = 8
    lr: float = 2e-2
    weight_decay: float = 0.01
    until: int = 0
    turned: bool = False

    def __post_init__(self) -> None:
        if self.tokens < 1 or self.until < 0:
            raise ConfigError(f"prompts: tokens = {self.tokens} must be at least 1, until = {self.until} not negative")
        if self.lr <= 0 or self.weight_decay < 0:
            raise ConfigError(
                f"prompts: lr = {self.lr:g} must be positive, weight_decay = {self.weight_decay:g} not negative"
            )

    def check(self, model: Model, shards: Shards) -> None:
        """Peers must share prompts as wide as the backbone, and train nothing of it."""
        shapes = dict(zip(model.names, model.shapes, strict=True))
        ends = _ends(model)
        prompts = chosen(prompt(), model.module, "trainable")
        allowed = prompts | chosen(head(), model.module, "trainable")
        if thawed := [name for name in shapes if name not in allowed]:
            raise ConfigError(
                f"trainable: {thawed[0]} belongs to the backbone, which the prompts are written for and which must be"
                " frozen; use trainable = prompt+head"
            )
        shared = [name for name in shapes if ends[name] <= model.shared_size]
        if strange := [name for name in shared if name not in prompts]:
            raise ConfigError(f"personal: {strange[0]} is no prompt and must stay with its peer; use personal = head")
        width = shapes[shared[0]][-1]
        if self.tokens * width != model.shared_size:
            raise ConfigError(
                f"prompts: {self.tokens} tokens for {model.shared_size} parameters would be"
                f" {model.shared_size / self.tokens:g} wide, but the backbone is {width} wide; give it"
                f" {model.shared_size // width} tokens"
            )

    def fresh(self, start: Tensor, ctx: Context) -> dict[str, Any]:
        """The basis is the prompt that peers start from; descriptors are as far apart as its tokens."""
        base = start.reshape(self.tokens, -1)
        width = base.shape[1]
        spread = base.std(correction=0)
        values = {"base": base, BANK: spread * ctx.normal("descriptors", (ctx.N, self.tokens, width)).to(base)}
        for name in ("query", "key", "value", "out"):
            values[name] = ctx.normal(f"generator {name}", (width, width)).to(base) / math.sqrt(width)
        zeros = {name: torch.zeros_like(value) for name, value in values.items()}
        counts = {name: torch.zeros(len(value) if name == BANK else 1) for name, value in values.items()}
        return {"values": values, "m": zeros, "v": dict(zeros), "steps": counts}

    def says(self, kept: dict[str, Any], peer: int) -> Tensor:
        """The peer's prompts. Raises ConfigError for a peer without a descriptor."""
        known = len(kept["values"][BANK])
        if not 0 <= peer < known:
            raise ConfigError(f"prompts: there is no descriptor of peer {peer}: ids go from 0 to {known - 1}")
        with torch.no_grad():
            return written(kept["values"], [peer])[0].flatten()

    def join(self, inbox: Inbox, w: Tensor, s: State, book: Book, ctx: Context) -> Message:
        """Up: who answered ``[M]``, how far each has come ``[M, S]``, and with what weight ``[M]``, 1 on average."""
        if ctx.phase != "up":
            return super().join(inbox, w, s, book, ctx)
        order = sorted(range(len(inbox.ids)), key=inbox.ids.__getitem__)
        said = torch.cat([inbox.stack(name).flatten(1) for name in self._groups(ctx)], dim=1)[order]
        weights = inbox.weights[order]
        return {
            "senders": torch.tensor([inbox.ids[at] for at in order]),
            "displacement": said,
            "weight": weights / weights.mean().clamp_min(1e-12),
        }

    def learned(self, kept: dict[str, Any], got: Message, ctx: Context) -> dict[str, Any]:
        """One step; prompts are written again for it, as those that were sent carry no graph."""
        senders = got["senders"].tolist()
        leaves = {name: value.detach().clone().requires_grad_() for name, value in kept["values"].items()}
        with torch.enable_grad():
            prompts = written(leaves, senders)
        asked = (got["weight"][:, None] * got["displacement"]).reshape(prompts.shape)
        torch.autograd.backward(prompts, grad_tensors=asked if self.turned else -asked)
        new: dict[str, Any] = {part: dict(entries) for part, entries in kept.items()}
        for name, leaf in leaves.items():
            if name != BANK and self.until and ctx.t > self.until:
                continue
            assert leaf.grad is not None
            self._step(new, name, leaf.grad, senders if name == BANK else slice(None))
        return new

    def _step(self, new: dict[str, Any], name: str, g: Tensor, rows: list[int] | slice) -> None:
        """AdamW (arXiv 1711.05101, algorithm 2) on some rows of a parameter; entries are replaced, not changed."""
        value, m, v, steps = (new[part][name].clone() for part in ("values", "m", "v", "steps"))
        count = steps[rows] + 1 if name == BANK else steps + 1
        g, t = g[rows], count.reshape(-1, *[1] * (value.dim() - 1))
        first = BETAS[0] * m[rows] + (1 - BETAS[0]) * g
        second = BETAS[1] * v[rows] + (1 - BETAS[1]) * g * g
        step = first / (1 - BETAS[0] ** t) / ((second / (1 - BETAS[1] ** t)).sqrt() + EPSILON)
        value[rows] = value[rows] - self.lr * (step + self.weight_decay * value[rows])
        m[rows], v[rows] = first, second
        steps[rows] = count
        for part, entry in zip(("values", "m", "v", "steps"), (value, m, v, steps), strict=True):
            new[part][name] = entry


def written(values: dict[str, Tensor], peers: Iterable[int]) -> Tensor:
    """Prompts ``[M, K, d]`` of some peers (equations 3 and 4)."""
    base = values["base"]
    query = values[BANK][list(peers)] @ values["query"]
    key, value = base @ values["key"], base @ values["value"]
    attention = torch.softmax(query @ key.T / math.sqrt(base.shape[1]), dim=-1)
    return base + attention @ value @ values["out"]


def _ends(model: Model) -> dict[str, int]:
    """Where each parameter ends in the row."""
    ends, at = {}, 0
    for name, size in zip(model.names, model.sizes, strict=True):
        ends[name] = at = at + size
    return ends
