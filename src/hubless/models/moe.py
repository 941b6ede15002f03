"""A byte-level transformer whose blocks hold a mixture of experts: every token goes through a few of them.

In training all experts run on all tokens, and those that a token did not choose count for nothing: three products a
block, which map over peers and trace. In evaluation, and with ``sparse`` in training, too, an expert runs on the tokens
that chose it, which is less work but goes one peer at a time. Gradients pass through every expert that was chosen to
the layers below, whether it is trained or not.
"""

from __future__ import annotations

import math
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional

from hubless.errors import ConfigError
from hubless.models.zoo import Architecture
from hubless.parts import part

STD = 0.02


class Expert(nn.Module):
    """One SwiGLU network, ``down^T (silu(gate x) * up x)``; each matrix is ``[hidden, width]``."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.gate = nn.Parameter(STD * torch.randn(hidden, width))
        self.up = nn.Parameter(STD * torch.randn(hidden, width))
        self.down = nn.Parameter(STD * torch.randn(hidden, width))

    def forward(self, h: Tensor) -> Tensor:
        """``[T, width]`` to the same shape."""
        return (functional.silu(functional.linear(h, self.gate)) * functional.linear(h, self.up)) @ self.down


class Mixture(nn.Module):
    """Routed experts: each token is the sum of its ``top`` experts, weighted by the router's softmax over all of them.

    The weights of the chosen are scaled to sum to 1. With ``sparse`` experts never run on tokens that did not choose
    them.
    """

    def __init__(self, width: int, experts: int, hidden: int, top: int, sparse: bool = False) -> None:
        super().__init__()
        self.top, self.sparse = top, sparse
        self.router = nn.Linear(width, experts, bias=False)
        self.experts = nn.ModuleList(Expert(width, hidden) for _ in range(experts))

    def forward(self, h: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """``h [B, L, width]`` to the same shape; the balance loss and the router's z loss of each token ``[B, L]``."""
        scores = self.router(h)
        probability = torch.softmax(scores, dim=-1)
        taken = self.choices(scores)
        weight = probability * taken
        weight = weight / weight.sum(-1, keepdim=True)
        mixed = self._everywhere(h, weight) if self.training and not self.sparse else self._chosen(h, weight)
        load = taken.detach().mean((0, 1)) / self.top
        balance = len(self.experts) * (load * probability).sum(-1)
        return mixed, balance, torch.logsumexp(scores, dim=-1).square()

    def choices(self, scores: Tensor) -> Tensor:
        """Which experts each token takes, 1 or 0, from the router's scores ``[..., E]``."""
        return torch.zeros_like(scores).scatter(-1, scores.topk(self.top, dim=-1).indices, 1.0)

    def _everywhere(self, h: Tensor, weight: Tensor) -> Tensor:
        gate, up, down = (torch.cat([getattr(one, name) for one in self.experts]) for name in ("gate", "up", "down"))
        wide = functional.silu(functional.linear(h, gate)) * functional.linear(h, up)
        wide = wide.view(*weight.shape, -1) * weight.unsqueeze(-1)
        return wide.flatten(-2) @ down

    def _chosen(self, h: Tensor, weight: Tensor) -> Tensor:
        flat, weight = h.flatten(0, 1), weight.flatten(0, 1)
        expert, token = torch.nonzero(weight.T, as_tuple=True)
        sizes = torch.bincount(expert, minlength=len(self.experts)).tolist()
        parts = torch.split(flat[token], sizes)
        out = torch.cat([one(part) for one, part in zip(self.experts, parts, strict=True)])
        return torch.zeros_like(flat).index_add(0, token, out * weight[token, expert, None]).view_as(h)


class Block(nn.Module):
    """Pre-norm causal self-attention and a mixture, written in operations that map over peers."""

    def __init__(self, width: int, heads: int, mixture: Mixture) -> None:
        super().__init__()
        self.heads = heads
        self.before = nn.RMSNorm(width)
        self.mixer = nn.Linear(width, 3 * width, bias=False)
        self.out = nn.Linear(width, width, bias=False)
        self.after = nn.RMSNorm(width)
        self.mixture = mixture

    def forward(self, h: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """``[B, L, width]`` to the same shape, with the two losses of each token ``[B, L]``."""
        batch, length, width = h.shape
        q, k, v = (
            part.reshape(batch, length, self.heads, width // self.heads).transpose(1, 2)
            for part in self.mixer(self.before(h)).chunk(3, dim=-1)
        )
        future = torch.ones(length, length, device=h.device).triu(1) * -1e9
        score = q @ k.transpose(-2, -1) / math.sqrt(width // self.heads) + future
        mixed = (torch.softmax(score, dim=-1) @ v).transpose(1, 2).reshape(batch, length, width)
        h = h + self.out(mixed)
        mixed, balance, size = self.mixture(self.after(h))
        return h + mixed, balance, size


class MixtureTransformer(nn.Module):
    """Tokens ``[B, L]`` to next-byte logits ``[B, L, V]``; in training one more channel, each token's auxiliary loss.

    ``loss`` splits the channel off, so that training descends on cross-entropy plus auxiliary loss while evaluation
    measures cross-entropy alone. The embedding is the output layer, too.

    balance: factor on the load-balance loss ``E / top sum_e f_e p_e``, averaged over blocks (arXiv 2101.03961,
             section 2.2): f_e is the share of the batch's choices that fell on expert e, p_e its mean probability
    z:       factor on the squared log-sum of the router's scores (arXiv 2202.08906, section 3.2), added over blocks
    """

    def __init__(
        self,
        length: int,
        vocabulary: int,
        width: int,
        layers: int,
        heads: int,
        experts: int,
        hidden: int,
        top: int,
        balance: float,
        z: float,
        sparse: bool,
    ) -> None:
        super().__init__()
        self.balance, self.z = balance, z
        self.token = nn.Embedding(vocabulary, width)
        self.place = nn.Embedding(length, width)
        self.blocks = nn.ModuleList(
            Block(width, heads, Mixture(width, experts, hidden, top, sparse)) for _ in range(layers)
        )
        self.norm = nn.RMSNorm(width)
        self.loss = partial(auxiliary_loss, vocabulary)
        for module in self.modules():
            if isinstance(module, (nn.Linear, nn.Embedding)):
                nn.init.normal_(module.weight, std=STD)

    def forward(self, x: Tensor) -> Tensor:
        """Logits of the next byte at every position ``[B, L, V]``, in training ``[B, L, V + 1]``."""
        h = self.token(x) + self.place(torch.arange(x.shape[1], device=x.device))
        extra = torch.zeros(x.shape, device=x.device)
        for block in self.blocks:
            h, balance, size = block(h)
            extra = extra + self.balance / len(self.blocks) * balance + self.z * size
        logits = functional.linear(self.norm(h), self.token.weight)
        return torch.cat([logits, extra.unsqueeze(-1)], dim=-1) if self.training else logits


def auxiliary_loss(vocabulary: int, out: Tensor, y: Tensor) -> Tensor:
    """Cross-entropy of ``out [B, L, V]`` against ``y [B, L]``, plus what one more channel holds: one value a sample."""
    logits = out[..., :vocabulary]
    tokens = torch.logsumexp(logits, dim=-1) - logits.gather(-1, y.unsqueeze(-1)).squeeze(-1)
    return (tokens + out[..., vocabulary:].sum(-1)).mean(1)


@part("model", "moe")
def moe(
    width: int = 48,
    layers: int = 2,
    heads: int = 4,
    experts: int = 8,
    hidden: int = 96,
    top: int = 2,
    balance: float = 0.01,
    z: float = 0.001,
    sparse: bool = False,
) -> Architecture:
    """A causal transformer over bytes with ``experts`` SwiGLU networks a block, ``top`` of them for each byte."""
    if min(width, layers, heads, experts, hidden) < 1 or width % heads:
        raise ConfigError(f"model: moe needs positive sizes and a width ({width}) that is a multiple of {heads} heads")
    if not 1 <= top <= experts:
        raise ConfigError(f"model: moe: top = {top}: must be between 1 and the {experts} experts")
    return lambda shape, outputs: MixtureTransformer(
        shape[0], outputs, width, layers, heads, experts, hidden, top, balance, z, sparse
    )
