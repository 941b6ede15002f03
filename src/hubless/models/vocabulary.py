"""Vocabularies of characters and pairs of characters, and a transformer that reads text in one of them."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor, nn
from torch.nn import functional

from hubless.errors import ConfigError
from hubless.models.zoo import ByteTransformer

PAD = "<pad>"
CHARACTERS = 256


@dataclass(frozen=True)
class Vocabulary:
    """The tokens of a model of text; characters are the 256 of Latin-1, so every byte is one.

    pairs:   two characters each, which are read as one token where they follow each other, from left to right
    special: tokens that stand for no text; the first is the padding

    Token ids: special ones, then characters, then pairs.
    """

    pairs: tuple[str, ...] = ()
    special: tuple[str, ...] = (PAD,)

    def __post_init__(self) -> None:
        if not self.special or len(set(self.pairs)) < len(self.pairs):
            raise ConfigError("vocabulary: needs a padding token, and each pair once")
        if wrong := [pair for pair in self.pairs if len(pair) != 2 or max(map(ord, pair)) >= CHARACTERS]:
            raise ConfigError(f"vocabulary: {wrong[0]!r} is not a pair of Latin-1 characters")

    @staticmethod
    def of(texts: Tensor, pairs: int) -> Vocabulary:
        """The characters and the most frequent ``pairs`` pairs of them in ``texts [M, L]``."""
        both = (texts[:, :-1] * CHARACTERS + texts[:, 1:]).flatten()
        count = torch.bincount(both, minlength=CHARACTERS**2)
        seen = min(pairs, int((count > 0).sum()))
        top = torch.argsort(count, descending=True, stable=True)[:seen].tolist()
        return Vocabulary(tuple(chr(at // CHARACTERS) + chr(at % CHARACTERS) for at in top))

    @cached_property
    def pieces(self) -> tuple[str, ...]:
        """Every token as text; special tokens by their names."""
        return (*self.special, *map(chr, range(CHARACTERS)), *self.pairs)

    def __len__(self) -> int:
        """Number of tokens."""
        return len(self.special) + CHARACTERS + len(self.pairs)

    @cached_property
    def lengths(self) -> Tensor:
        """Characters of each token ``[V]``; 0 for special ones."""
        return torch.tensor([0] * len(self.special) + [1] * CHARACTERS + [2] * len(self.pairs))

    @cached_property
    def _paired(self) -> Tensor:
        """The token of each pair of characters ``[256, 256]``; 0 where there is none."""
        table = torch.zeros(CHARACTERS, CHARACTERS, dtype=torch.int64)
        first = len(self.special) + CHARACTERS
        for at, pair in enumerate(self.pairs):
            table[ord(pair[0]), ord(pair[1])] = first + at
        return table

    def encode(self, text: Tensor) -> Tensor:
        """Tokens ``[..., L]`` of characters ``[..., L]``, padded behind where there are fewer."""
        single = text + len(self.special)
        if not self.pairs or text.shape[-1] < 2:
            return single
        paired = self._paired.to(text.device)[text[..., :-1], text[..., 1:]]
        paired = functional.pad(paired, (0, 1))
        free = torch.ones_like(text[..., 0], dtype=torch.bool)
        begins = []
        for at in range(text.shape[-1]):
            begins.append(free)
            free = ~(free & (paired[..., at] > 0))
        begin = torch.stack(begins, -1)
        order = torch.argsort((~begin).to(torch.uint8), dim=-1, stable=True)
        tokens = torch.where(begin, torch.where(paired > 0, paired, single), 0)
        return torch.gather(tokens, -1, order)

    def split(self, text: Tensor) -> list[str]:
        """The tokens of one text ``[L]``, as text."""
        return [self.pieces[token] for token in self.encode(text).tolist() if token >= len(self.special)]

    def decode(self, tokens: Sequence[int]) -> str:
        """Tokens as text again, without special ones."""
        return "".join(self.pieces[token] for token in tokens if token >= len(self.special))

    def __str__(self) -> str:
        return f"characters and {len(self.pairs)} pairs" if self.pairs else "characters"


class Reader(nn.Module):
    """A causal transformer over the tokens of a vocabulary: characters ``[B, L]`` to next-token logits ``[B, L, V]``.

    Logits at a place are for the token after it; those behind a text's last token mean nothing.
    """

    def __init__(self, vocabulary: Vocabulary, length: int, width: int = 64, layers: int = 2, heads: int = 4) -> None:
        super().__init__()
        self.vocabulary = vocabulary
        self.network = ByteTransformer(length, len(vocabulary), width, layers, heads)

    def forward(self, x: Tensor) -> Tensor:
        """Logits of the next token at every place."""
        logits: Tensor = self.network(self.vocabulary.encode(x))
        return logits

    def extra_repr(self) -> str:
        """What tells two vocabularies apart."""
        digest = hashlib.blake2b("".join(self.vocabulary.pieces).encode(), digest_size=4).hexdigest()
        return f"{self.vocabulary}, {digest}"


def nats(vocabulary: Vocabulary) -> Callable[[Tensor, Tensor], Tensor]:
    """A loss ``(logits [B, L, V], text [B, L]) -> [B]``: cross-entropy in nats a character, whatever the tokens are.

    A text's first token is given, so its characters do not count.
    """

    def loss(out: Tensor, text: Tensor) -> Tensor:
        tokens = vocabulary.encode(text)
        each = functional.cross_entropy(out[:, :-1].flatten(0, 1), tokens[:, 1:].flatten(), reduction="none")
        real = tokens[:, 1:] >= len(vocabulary.special)
        said = text.shape[1] - vocabulary.lengths.to(text.device)[tokens[:, 0]]
        return (each.reshape(real.shape) * real).sum(1) / said

    return loss


def bits(nats_each: float) -> float:
    """Nats as bits."""
    return nats_each / math.log(2)
