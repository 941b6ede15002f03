"""A curious peer: it tries to see a victim's training samples in what the victim sends (``hubless.learn.recovery``)."""

from __future__ import annotations

import base64
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor

from hubless.errors import ConfigError
from hubless.learn import keys
from hubless.learn.context import Message
from hubless.learn.plan import Exchange
from hubless.learn.population import Population
from hubless.learn.recovery import Analytic, Method, Seen, labels, matched, psnr
from hubless.learn.slots import Hook, View

PICTURES = 8  # images of a figure


@dataclass(eq=False)
class Inversion(Hook):
    """Looks at one victim's message in some rounds, as its receiver decodes it, and reports what it gives away.

    The attacker is an honest but curious receiver that knows where the victim began: the model that an aggregator
    sent out, or over gossip the victim's last model. Metrics: ``inversion_psnr`` in dB, of the recovered inputs
    against the victim's own samples, each counted once, and ``inversion_labels``, the share of labels that it has.
    Where the victim trains on all its data at once (FedSGD) these are the samples behind the message; otherwise the
    nearest of its samples count, which flatters the attack. Steps after the first hide what several samples have in
    common, and nothing of a single one. To judge a defence take ``Matching``: ``Analytic`` is exact, and fragile.

    victim: id of the peer
    images: samples to recover; no more than the victim has
    rounds: in which to look. In the first round there is something to see only where a model is sent out before
    method: ``Analytic()`` or ``Matching(...)``
    kind:   what the merge sends in the exchange: models, or deltas
    """

    victim: int = 1
    images: int = 1
    rounds: tuple[int, ...] = (2,)
    method: Method = field(default_factory=Analytic)
    kind: Literal["model", "delta"] = "model"

    needs_messages: ClassVar[bool] = True

    _t: int = field(default=0, init=False)  # rounds that have ended
    _start: Tensor | None = field(default=None, init=False)  # the victim's row [D] before this round's training
    _heard: tuple[Tensor, Tensor, Tensor] | None = field(default=None, init=False)  # start, gradient, known

    def __post_init__(self) -> None:
        if self.images < 1 or self.victim < 0:
            raise ConfigError(f"inversion: images = {self.images} must be at least 1, victim = {self.victim} an id")
        if not self.rounds or min(self.rounds) < 1:
            raise ConfigError(f"inversion.rounds = {list(self.rounds)}: give one or several, counted from 1")

    def judge(
        self, exchange: Exchange, messages: Mapping[int, Message], population: Population
    ) -> Mapping[int, float] | None:
        """Keeps the victim's first message of the round that says something; weighs nobody."""
        if self._t + 1 not in self.rounds or self._heard is not None:
            return None
        if self.victim >= population.n:
            raise ConfigError(f"inversion.victim = {self.victim}: ids go from 0 to {population.n - 1}")
        cohort, row, _ = population.peer(self.victim)
        model, before = cohort.model, row if population.shared else self._start
        start = None if before is None else before.to(row)
        if (m := messages.get(self.victim)) is not None and start is not None:
            update = model.paste(start, m) - start if self.kind == "model" else model.paste(torch.zeros_like(row), m)
            sent = {name: torch.ones_like(row[part]) for name, part in model.groups.items() if name in m}
            if bool(update.any()):
                self._heard = start.clone(), -update, model.paste(torch.zeros_like(row), sent)
        elif m is None:
            to_victim = exchange.src[(exchange.dst == self.victim) & (exchange.src != self.victim)].tolist()
            if len(to_victim) == 1 and to_victim[0] in messages:
                self._start = model.paste(row, messages[to_victim[0]]).clone()
        return None

    def round(self, view: View) -> Mapping[str, float]:
        """``inversion_psnr`` and ``inversion_labels``, and a figure of what was recovered."""
        found = {} if self._heard is None else self._inverted(view, *self._heard)
        self._heard = self._start = None
        self._t = view.t if view.t < view.rounds else 0
        if self._t + 1 in self.rounds and self._t and not view.population.shared:
            self._start = view.population.peer(self.victim)[1].clone()
        return found

    def _inverted(self, view: View, start: Tensor, g: Tensor, known: Tensor) -> Mapping[str, float]:
        cohort, _, s = view.population.peer(self.victim)
        x, y = view.shards.own(self.victim)
        if self.images > len(y) or view.shards.data.task != "classification":
            raise ConfigError(
                f"inversion: peer {self.victim} has {len(y)} samples of a {view.shards.data.task} task;"
                f" {self.images} samples with labels are to be recovered"
            )
        bounds = float(view.shards.x.min()), float(view.shards.x.max())
        buffers = {name: s[name] for name in cohort.model.buffers}
        seen = Seen(cohort.model, start, g, known, buffers, self.images, tuple(x.shape[1:]), bounds)
        self.method.check(cohort.model, seen.shape)
        said = labels(cohort.model, g, self.images)
        images = self.method(seen, said, keys.fold(view.seed, "inversion", view.t))
        places, errors = matched(images, x)
        ratio = psnr(errors, bounds[1] - bounds[0])
        right = Counter(said.tolist()) & Counter(y.tolist())
        if images.dim() >= 3:
            self._draw(view, images, x[places], ratio.tolist(), bounds)
        return {"inversion_psnr": float(ratio.mean()), "inversion_labels": right.total() / self.images}

    def _draw(self, view: View, found: Tensor, truth: Tensor, ratio: list[float], bounds: tuple[float, float]) -> None:
        images, captions = [], []
        for i in range(min(PICTURES, len(found))):
            for one, caption in ((truth[i], "its sample"), (found[i], f"{ratio[i]:.0f} dB")):
                grey = one.flatten(0, -3).mean(0) if one.dim() > 2 else one
                scaled = (grey - bounds[0]) / (bounds[1] - bounds[0])
                images.append([[round(value, 3) for value in line] for line in scaled.tolist()])
                captions.append(caption)
        reading = f"What peer {self.victim} trained on, and what can be seen of it in its message of round {view.t}."
        view.draw({"type": "images", "name": f"inversion-{view.t}-{self.victim}", "title": "Recovered samples",
                   "reading": reading, "images": images, "captions": captions})  # fmt: skip

    def state(self) -> dict[str, Any]:
        """Rounds seen, and where the victim began."""
        start = None if self._start is None else base64.b64encode(self._start.cpu().numpy().tobytes()).decode()
        return {"t": self._t, "start": start}

    def restore(self, state: Mapping[str, Any]) -> None:
        """The inverse of ``state``."""
        self._t, self._heard, start = state["t"], None, state["start"]
        self._start = None if start is None else torch.from_numpy(np.frombuffer(base64.b64decode(start), "<f4").copy())
