"""Teaching: the student of a pair takes steps towards what its teacher says of public inputs (arXiv 2601.17133).

The student minimises ``(1 - a) L_private + a L_lesson``, the first on mini-batches of its own data. What it gained by
a lesson is its reward: how much better it then is on a labelled probe that nobody trains on, or, as in the paper, how
much lower its loss on samples of its own is that it holds out.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, ClassVar, Literal

import torch
from torch import Tensor

from hubless.errors import ConfigError, MessageError
from hubless.learn import keys
from hubless.learn.context import Batch, Context, Inbox, Message, State
from hubless.learn.local import SGD, Adam
from hubless.learn.merges import WeightedMean
from hubless.learn.plan import Book
from hubless.learn.slots import Gradient, Merge, Reduce
from hubless.learn.teaching.matchmaker import REWARD, TAUGHT, TEACH
from hubless.learn.teaching.profiles import hits

if TYPE_CHECKING:
    from hubless.learn.model import Model
    from hubless.learn.workload import Shards

LESSONS = "lessons"  # entry of a student's book: by teacher, how many lessons and the sum of their rewards
LAST = "last"  # and its last lesson


class Lesson:
    """How knowledge becomes a message, and a message a loss."""

    @property
    def inputs(self) -> Tensor | None:
        """The public inputs ``[P, ...]``, where they are samples like the private ones."""
        return None

    def check(self, model: Model) -> None:
        """Raise ConfigError when a model can neither give nor take such lessons."""

    def say(self, w: Tensor, s: State, ctx: Context) -> Message:
        """What a teacher sends."""
        raise NotImplementedError

    def accept(self, m: Message, ctx: Context) -> None:
        """Raise MessageError for what no teacher would send."""

    def loss(self, w: Tensor, s: State, said: Message, step: int, ctx: Context) -> Tensor:
        """The student's loss in one of its steps; a gradient is taken of it."""
        raise NotImplementedError


@dataclass(frozen=True)
class Logits(Lesson):
    """Predictions on public inputs: the same outputs everywhere, whatever the networks.

    transfer:    the public inputs ``[P, ...]``
    asked:       how many of them a lesson is about: the next ones in every round, all over again at the end
    temperature: of teacher and student; the loss is their cross-entropy times its square (arXiv 1503.02531)
    """

    transfer: Tensor
    asked: int = 128
    temperature: float = 2.0

    def __post_init__(self) -> None:
        if not 1 <= self.asked <= len(self.transfer):
            raise ConfigError(f"asked = {self.asked}: must be from 1 to the {len(self.transfer)} inputs of transfer")
        if self.temperature <= 0:
            raise ConfigError(f"temperature = {self.temperature}: must be above 0")

    @property
    def inputs(self) -> Tensor:
        """All that it may be asked about."""
        return self.transfer

    def _now(self, t: int) -> Tensor:
        at = (torch.arange(self.asked) + (t - 1) * self.asked) % len(self.transfer)
        return self.transfer[at.to(self.transfer.device)]

    def say(self, w: Tensor, s: State, ctx: Context) -> Message:
        """Logits ``[asked, C]``."""
        with torch.no_grad():
            return {"predictions": ctx.model.forward(w, self._now(ctx.t), s)}

    def accept(self, m: Message, ctx: Context) -> None:
        """As many predictions as were asked for."""
        said = m.get("predictions")
        if said is None or said.dim() != 2 or len(said) != self.asked or not said.is_floating_point():
            shape = "missing" if said is None else f"{said.dtype} of shape {tuple(said.shape)}"
            raise MessageError(f"predictions: {shape}, not real numbers for {self.asked} inputs")
        if said.shape[1] != (outputs := ctx.model.outputs(self.transfer)):
            raise MessageError(f"predictions: {said.shape[1]} outputs, not {outputs}")

    def loss(self, w: Tensor, s: State, said: Message, step: int, ctx: Context) -> Tensor:
        """Cross-entropy against the teacher's probabilities, both softened."""
        T = self.temperature
        out = torch.log_softmax(ctx.model.forward(w, self._now(ctx.t), s) / T, -1)
        return -(torch.softmax(said["predictions"] / T, -1) * out).sum(-1).mean() * T * T


@dataclass(frozen=True)
class Towards(Gradient):
    """Descends on ``(1 - share) L_private + share L_lesson``, on fresh mini-batches of the peer's own data."""

    lesson: Lesson
    said: Message
    share: float
    step: int
    batch: int

    vectorised: ClassVar[bool] = False

    def __call__(self, w: Tensor, s: State, batch: Batch, ctx: Context) -> tuple[Tensor, State]:
        """The gradient; statistics of the model are left alone."""
        leaf = w.detach().requires_grad_()
        total = self.share * self.lesson.loss(leaf, s, self.said, self.step, ctx)
        if self.share < 1 and len(batch.y):
            size = min(self.batch or len(batch.y), len(batch.y))
            some = keys.permutation(keys.fold(_key(ctx), "private", self.step), len(batch.y))[:size].to(w.device)
            out = ctx.model.forward(leaf, batch.x[some], s)
            total = total + (1 - self.share) * ctx.model.loss(out, batch.y[some]).mean()
        (g,) = torch.autograd.grad(total, leaf)
        return g, s


def _key(ctx: Context) -> int:
    assert isinstance(ctx.key, int)
    return ctx.key


@dataclass(frozen=True)
class Teaching(Merge):
    """A teacher says what its lesson is made of, a student takes steps; several teachers count by their mean.

    lesson: what is said, and what is learned from it
    probe:  labelled samples ``x [P, ...]``, ``y [P, ...]``, public, that nobody trains on
    local:  the student's optimiser: ``steps`` of it a lesson
    share:  weight of the lesson against one's own data, in the first and in the last round, in between along a line
    rounds: the last round
    reward: ``gamma (accuracy on the probe after - before)``, or ``gamma (loss on held-out samples before - after)``,
            minus ``price`` for each KB of the lesson
    """

    lesson: Lesson | None = None
    probe: Batch | None = None
    reduce: Reduce = field(default_factory=WeightedMean)
    local: SGD | Adam = field(default_factory=lambda: SGD(0.1, steps=15, batch=16))
    shares: tuple[float, float] = (0.5, 0.5)
    rounds: int = 1
    reward: Literal["accuracy", "loss"] = "accuracy"
    gamma: float = 1.0
    price: float = 0.0

    vectorised: ClassVar[bool] = False
    phases: ClassVar[tuple[str, ...] | None] = (TEACH,)

    def __post_init__(self) -> None:
        if self.lesson is None or self.probe is None:
            raise ConfigError("merge: teaching needs a lesson and a probe")
        if self.local.steps is None:
            raise ConfigError("merge.local: a lesson has a number of steps, not of epochs")
        if not all(0 <= share <= 1 for share in self.shares):
            raise ConfigError(f"merge.shares = {self.shares}: must be in [0, 1]")

    def check(self, model: Model, shards: Shards) -> None:
        """Public and private samples must be apart, and the reward must have something to be measured on."""
        assert self.lesson is not None
        assert self.probe is not None
        self.lesson.check(model)
        peers = range(len(shards.sizes))
        held = [shards.held(peer)[0] for peer in peers]
        if self.reward == "loss" and not all(map(len, held)):
            raise ConfigError("reward = 'loss': is measured on samples that peers hold out; give held = 2 or more")
        transfer = self.lesson.inputs
        if transfer is not None:
            _apart("transfer", transfer, "test set", [shards.test_x])
            _apart("transfer", transfer, "held-out samples", held)
            _apart("probe", self.probe.x, "transfer set", [transfer])
        _apart("probe", self.probe.x, "test set", [shards.test_x])
        _apart("probe", self.probe.x, "training set", [shards.x[shards.flat]])

    def init(self, model: Model) -> State:
        """What the last lesson was worth, and its round."""
        return {REWARD: torch.zeros(()), TAUGHT: torch.zeros((), dtype=torch.int64)}

    def join(self, inbox: Inbox, w: Tensor, s: State, book: Book, ctx: Context) -> Message:
        """One teacher's lesson as it is."""
        return inbox.messages[0] if len(inbox.ids) == 1 else super().join(inbox, w, s, book, ctx)

    def kind(self, phase: str) -> str:
        """Predictions, which may cross cohorts."""
        return "predictions"

    def message(self, w: Tensor, s: State, book: Book, ctx: Context) -> Message:
        """The lesson."""
        assert self.lesson is not None
        return self.lesson.say(w, s, ctx)

    def accept(self, sender: int, m: Message, ctx: Context) -> None:
        """A lesson that is finite and of the right form."""
        assert self.lesson is not None
        super().accept(sender, m, ctx)
        self.lesson.accept(m, ctx)

    def apply(self, w: Tensor, s: State, book: Book, got: Message, ctx: Context) -> tuple[Tensor, State]:
        """Learn, and write down what it was worth."""
        assert self.lesson is not None
        before = self._standing(w, s, ctx)
        private, share = ctx.data, self.share_at(ctx.t)
        for step in range(self.local.steps or 0):
            student = replace(self.local, gradient=Towards(self.lesson, got, share, step, self.local.batch))
            if step == 0:
                s = student.begin(w, s, ctx)
            w, s = student.step(w, s, private, ctx)
        w, s = self.local.end(w, s, ctx)
        size = sum(value.numel() * value.element_size() for value in got.values()) / 1024
        reward = self.gamma * (self._standing(w, s, ctx) - before) - self.price * size
        self._note(book, reward, ctx)
        return w, {**s, REWARD: torch.tensor(reward), TAUGHT: torch.tensor(ctx.t)}

    def share_at(self, t: int) -> float:
        """Weight of the lesson in round t."""
        first, last = self.shares
        return first + (last - first) * min(1.0, (t - 1) / max(self.rounds - 1, 1))

    def _standing(self, w: Tensor, s: State, ctx: Context) -> float:
        """Accuracy on the probe, or the loss on held-out samples with its sign turned."""
        assert self.probe is not None
        if self.reward == "accuracy":
            return float(hits(ctx.model, w, s, self.probe))
        with torch.no_grad():
            return -float(ctx.model.loss(ctx.model.forward(w, ctx.held.x, s), ctx.held.y).mean())

    def _note(self, book: Book, reward: float, ctx: Context) -> None:
        lessons = book.setdefault(LESSONS, {})
        for teacher in ctx.senders:
            count, total = lessons.get(teacher, (0, 0.0))
            lessons[teacher] = [count + 1, total + reward]
        book[LAST] = {"round": ctx.t, "teachers": list(ctx.senders), "reward": reward}


def _apart(name: str, x: Tensor, where: str, parts: list[Tensor]) -> None:
    """Raise ConfigError when a public sample is also a private one."""
    own = {row.tobytes() for row in x.cpu().numpy()}
    found = sum(row.tobytes() in own for part in parts for row in part.cpu().numpy())
    if found:
        raise ConfigError(f"merge.{name}: {found} of its inputs are in the {where} too; keep them apart")
