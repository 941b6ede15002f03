"""Lessons in text: the teacher goes on from public prompts, the student reads that in tokens of its own.

Text crosses between models that share neither tokens nor sizes (arXiv 2601.17133). Only what was added is sent. Texts
are drawn token by token at a temperature; the released code also cuts the distribution (top-k, top-p).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor

from hubless.errors import ConfigError, MessageError
from hubless.learn.context import Context, Message, State
from hubless.learn.teaching.merge import Lesson

if TYPE_CHECKING:
    from hubless.learn.model import Model

LONGEST = 64  # bytes a token may have; texts that are longer are no teacher's


class Tongue(Protocol):
    """What turns text into a model's tokens and back: a tokenizer of transformers is one."""

    def encode(self, text: str, /, *, add_special_tokens: bool) -> list[int]:
        """Tokens of a text."""

    def decode(self, tokens: list[int], /) -> Any:
        """The text of tokens."""


@dataclass(frozen=True, eq=False)
class Text(Lesson):
    """Continuations of prompts; the student minimises its cross-entropy on them, one text a step, prompts given.

    prompts: public texts
    tongues: of each model, by its name
    asked:   prompts a lesson: the next ones in every round, all over again at the end
    length:  tokens that the teacher adds to each
    window:  tokens that a model may be shown; prompts lose their beginning
    heat:    temperature that tokens are drawn at; 0 takes the likeliest
    """

    prompts: tuple[str, ...]
    tongues: Mapping[str, Tongue]
    asked: int = 4
    length: int = 16
    window: int = 64
    heat: float = 0.8

    def __post_init__(self) -> None:
        if not 1 <= self.asked <= len(self.prompts):
            raise ConfigError(f"asked = {self.asked}: must be from 1 to the {len(self.prompts)} prompts")
        if not 1 <= self.length < self.window:
            raise ConfigError(f"length = {self.length}: must be from 1 to below window = {self.window}")

    def check(self, model: Model) -> None:
        """A model needs a tongue, and prompts that say something in it."""
        if model.task != "language":
            raise ConfigError(f"merge: {model.name} speaks no language; teach it by predictions")
        if model.name not in self.tongues:
            raise ConfigError(f"merge.tongues: none for {model.name}; there are {sorted(self.tongues)}")
        for text in self.prompts:
            if not self.tongues[model.name].encode(text, add_special_tokens=False):
                raise ConfigError(f"merge.prompts: {text!r} has no tokens")

    def _now(self, t: int) -> list[str]:
        return [self.prompts[((t - 1) * self.asked + at) % len(self.prompts)] for at in range(self.asked)]

    def say(self, w: Tensor, s: State, ctx: Context) -> Message:
        """The texts, as UTF-8 one after another, and where each ends."""
        tongue = self.tongues[ctx.model.name]
        seen = [tongue.encode(text, add_special_tokens=False) for text in self._now(ctx.t)]
        size = min(self.window - self.length, *map(len, seen))
        x = torch.tensor([tokens[-size:] for tokens in seen], device=w.device)
        with torch.no_grad():
            for step in range(self.length):
                logits = ctx.model.forward(w, x, s)[:, -1]
                if self.heat:
                    drawn = ctx.uniform(f"token.{step}", tuple(logits.shape)).to(w.device).clamp_min(1e-7)
                    logits = logits / self.heat - torch.log(-torch.log(drawn))
                x = torch.cat([x, logits.argmax(-1, keepdim=True)], 1)
        texts = [str(tongue.decode(tokens)).encode() for tokens in x[:, size:].tolist()]
        ends = torch.tensor([len(text) for text in texts], dtype=torch.int32).cumsum(0, dtype=torch.int32)
        return {"text": torch.tensor(list(b"".join(texts)), dtype=torch.uint8), "ends": ends}

    def accept(self, m: Message, ctx: Context) -> None:
        """As many texts as were asked for, none too long."""
        text, ends = m.get("text"), m.get("ends")
        if text is None or text.dtype != torch.uint8 or text.dim() != 1:
            raise MessageError("text: must be bytes")
        if ends is None or ends.dtype != torch.int32 or ends.shape != (self.asked,):
            raise MessageError(f"ends: must be {self.asked} places in the text")
        at = [0, *ends.tolist()]
        if sorted(at) != at or at[-1] != len(text):
            raise MessageError(f"ends: must rise to the length of the text, {len(text)}")
        if len(text) > LONGEST * self.length * self.asked:
            raise MessageError(f"text: {len(text)} bytes are more than {self.asked} x {self.length} tokens have")

    def texts(self, m: Message) -> list[str]:
        """What a message says; bytes that are no text become marks of replacement."""
        at, body = [0, *m["ends"].tolist()], bytes(m["text"].tolist())
        return [body[first:last].decode(errors="replace") for first, last in pairwise(at)]

    def loss(self, w: Tensor, s: State, said: Message, step: int, ctx: Context) -> Tensor:
        """Cross-entropy of the next text in the student's tokens; 0 for one without any."""
        tongue, which = self.tongues[ctx.model.name], step % self.asked
        added = tongue.encode(self.texts(said)[which], add_special_tokens=False)[: self.window - 1]
        if not added:
            return w.sum() * 0
        before = tongue.encode(self._now(ctx.t)[which], add_special_tokens=False)[len(added) - self.window :]
        tokens = torch.tensor([before + added], device=w.device)
        out = ctx.model.forward(w, tokens[:, :-1], s)[0, -len(added) :]
        return torch.nn.functional.cross_entropy(out, tokens[0, -len(added) :])
