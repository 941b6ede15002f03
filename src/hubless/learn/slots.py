"""The slots of a learning method: what a part of each kind must offer.

Every part is a frozen object with explicit state and randomness passed in; see ``docs/architecture.md`` for how
one round runs. ``w [D]`` is one peer's row, ``s`` its other tensors, ``book`` its irregular memory.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

from torch import Tensor

from hubless.learn.context import Batch, Context, Inbox, Message, State
from hubless.learn.plan import Book, Exchange, Plan, World

if TYPE_CHECKING:
    from hubless.learn.model import Model
    from hubless.learn.population import Population
    from hubless.learn.workload import Shards

Mechanism = Callable[[float], float]


class Gradient:
    """What a local step descends on. ``ctx.grad`` gives the plain gradient; everything else is built from it.

    needs: entries of the state that it reads and another part makes
    """

    fusable: ClassVar[bool] = False
    vectorised: ClassVar[bool] = True
    needs: ClassVar[tuple[str, ...]] = ()

    def init(self, model: Model) -> State:
        """Entries of one peer's state that last from round to round."""
        return {}

    def begin(self, w: Tensor, s: State, ctx: Context) -> State:
        """Once before the first local step; may add entries that ``end`` takes away."""
        return s

    def __call__(self, w: Tensor, s: State, batch: Batch, ctx: Context) -> tuple[Tensor, State]:
        """The direction ``g [D]`` to descend, and the state."""
        return ctx.grad(w, s, batch)

    def end(self, w: Tensor, s: State, ctx: Context) -> State:
        """Once after the last local step."""
        return s

    def mechanism(self) -> Mechanism | None:
        """Renyi divergence per use as a function of alpha, where the step is private."""
        return None


class Local:
    """Improves one peer's parameters on its own data, a batch at a time."""

    batch: int
    steps: int | None
    epochs: int | None

    @property
    def fusable(self) -> bool:
        """Whether a step is exactly ``w -= lr * gradient``, so that a kernel may fuse it."""
        return False

    @property
    def vectorised(self) -> bool:
        """Whether a step may be mapped over peers."""
        return True

    def rate(self, t: int) -> float:
        """Learning rate in round t."""
        raise NotImplementedError

    def init(self, model: Model) -> State:
        """Entries of one peer's state that last from round to round."""
        return {}

    def begin(self, w: Tensor, s: State, ctx: Context) -> State:
        """Once before the first step."""
        return s

    def step(self, w: Tensor, s: State, batch: Batch, ctx: Context) -> tuple[Tensor, State]:
        """One step on one batch."""
        raise NotImplementedError

    def end(self, w: Tensor, s: State, ctx: Context) -> tuple[Tensor, State]:
        """Once after the last step."""
        return w, s


class Stage:
    """One step from message to bytes and back, for one message.

    wants:     only applied to messages of that kind
    gives:     what kind of message it makes of one; None: the same
    sums:      ``inverse`` also works on a sum of integers, and gives the mean
    hides:     one message alone means nothing; ``inverse`` gets the sum of all that arrived in one inbox
    remembers: ``inverse`` reads and writes ``ctx.memory``, what this receiver keeps of this sender
    """

    wants: ClassVar[str | None] = None
    gives: ClassVar[str | None] = None
    sums: ClassVar[bool] = False
    hides: ClassVar[bool] = False
    remembers: ClassVar[bool] = False
    vectorised: ClassVar[bool] = True

    def follows(self, before: tuple[Stage, ...]) -> None:
        """Raise ConfigError when it cannot come behind these stages."""

    def init(self, model: Model) -> State:
        """Entries of the sender's state."""
        return {}

    def forward(self, m: Message, s: State, ctx: Context) -> tuple[Message, State]:
        """Tensors to tensors, at the sender."""
        return m, s

    def inverse(self, m: Message, count: int, ctx: Context) -> Message:
        """Back again at the receiver: one message, or the mean of ``count`` from their sum where ``sums``."""
        return m

    def mechanism(self) -> Mechanism | None:
        """Renyi divergence per use as a function of alpha, where the stage is private."""
        return None


class Packer(Stage):
    """The last stage: bytes that describe themselves and carry a checksum."""

    def pack(self, m: Message) -> bytes:
        """The message as bytes."""
        raise NotImplementedError

    def unpack(self, data: bytes) -> Message:
        """The message again. Raises CodecError, and never gives a wrong tensor silently."""
        raise NotImplementedError

    def length(self, m: Message) -> int:
        """``len(pack(m))``, possibly without packing."""
        return len(self.pack(m))


class Reduce:
    """What an inbox amounts to. ``linear`` is true of the weighted mean alone.

    A reduce that reads ``book``, ``ctx.data`` or the senders' ids sets ``vectorised`` to False; one that reads
    ``ctx.start`` sets ``starts``. ``role`` names entries of the book that belong to the aggregator role.
    """

    linear: ClassVar[bool] = False
    vectorised: ClassVar[bool] = True
    starts: ClassVar[bool] = False
    role: ClassVar[tuple[str, ...]] = ()

    def __call__(self, inbox: Inbox, w: Tensor, s: State, book: Book, ctx: Context) -> Message:
        """One message from all that arrived, name by name."""
        raise NotImplementedError

    def check(self, inbox_size: int) -> None:
        """Raise ConfigError when an inbox of that size can never be reduced."""

    def mechanism(self) -> Mechanism | None:
        """Renyi divergence per use as a function of alpha, where what the aggregator publishes is private."""
        return None


@dataclass(frozen=True)
class Merge:
    """Both ends of an exchange: what a peer says, and what it does with what it heard.

    reduce: how an inbox becomes one message
    share:  groups of parameters that are said; None means all that is not personal, and BatchNorm's statistics
    within: exchanges that stay among peers of one architecture, where others are predictions
    beside: the aggregator's model lies in its book beside its own row, which stays when the role moves on

    A merge that overrides ``message`` may set ``vectorised`` when it also works on stacked rows ``[C, D]``.
    """

    reduce: Reduce
    share: tuple[str, ...] | None = None

    phases: ClassVar[tuple[str, ...] | None] = None
    role: ClassVar[tuple[str, ...]] = ()
    common: ClassVar[tuple[str, ...]] = ()
    needs: ClassVar[tuple[str, ...]] = ()
    in_parts: ClassVar[bool] = False
    within: ClassVar[tuple[str, ...]] = ()
    beside: ClassVar[bool] = False
    per_target: ClassVar[bool] = False
    vectorised: ClassVar[bool] = True

    def check(self, model: Model, shards: Shards) -> None:
        """Raise ConfigError when the merge cannot work with such a network, or with what the peers hold."""

    def init(self, model: Model) -> State:
        """Entries of one peer's state."""
        return {}

    def kind(self, phase: str) -> str:
        """What a message of that exchange is: ``model``, ``delta`` or ``predictions``."""
        return "model"

    def message(self, w: Tensor, s: State, book: Book, ctx: Context) -> Message:
        """What a peer says: by default its row, group by group, and floating-point buffers."""
        names = self.share or ctx.model.shared
        said = {name: w[..., ctx.model.groups[name]] for name in names}
        if self.share is None:
            said |= {name: s[name] for name in ctx.model.shared_buffers if s[name].is_floating_point()}
        return said

    def accept(self, sender: int, m: Message, ctx: Context) -> None:
        """Raise MessageError for a message that must not be used; it is dropped and counted."""
        from hubless.learn.accept import accept

        accept(m, ctx)

    def join(self, inbox: Inbox, w: Tensor, s: State, book: Book, ctx: Context) -> Message:
        """The inbox as one message."""
        return self.reduce(inbox, w, s, book, ctx)

    def apply(self, w: Tensor, s: State, book: Book, got: Message, ctx: Context) -> tuple[Tensor, State]:
        """The peer after hearing: groups replace slices of the row, buffers replace buffers."""
        heard = {name: value for name, value in got.items() if name in s}
        return ctx.model.paste(w, got), {**s, **heard}

    @property
    def plain(self) -> bool:
        """Whether messages are rows and an answer replaces them, so that a linear merge is a sum of rows."""
        kept = ("message", "accept", "join", "apply", "kind")
        return all(getattr(type(self), name) is getattr(Merge, name) for name in kept) and not self.per_target


@dataclass(frozen=True)
class Attack:
    """What hostile peers do instead; ``peers`` is a share of the population or explicit ids, in a run always their ids.

    sees:  ``own``, or ``honest`` to be shown the honest messages of the exchange
    joint: hostile peers are the identities of one attacker, with one book: the first of them trains, hears what all
           of them hear, and speaks through all
    local: another objective, for these peers only
    reduce: how they join what they hear, where they need no defence
    """

    peers: float | tuple[int, ...] = 0.0

    sees: ClassVar[str] = "own"
    joint: ClassVar[bool] = False
    local: ClassVar[Local | None] = None
    reduce: ClassVar[Reduce | None] = None

    def check(self, classes: int, shape: tuple[int, ...]) -> None:
        """Raise ConfigError when the attack cannot work on such data; ``shape`` is that of one input."""

    def check_peer(self, peer: int, x: Tensor, y: Tensor) -> None:
        """Raise ConfigError when that hostile peer cannot attack with its own training data."""

    def fitted(self, classes: int) -> Attack:
        """This attack for data of so many classes, 0 where there are none; a run asks once, after ``check``."""
        return self

    def data(self, w: Tensor, x: Tensor, y: Tensor, book: Book, ctx: Context) -> tuple[Tensor, Tensor]:
        """Their training data, before training, with the model just received."""
        return x, y

    def message(self, m: Message, honest: list[Message] | None, book: Book, ctx: Context) -> Message:
        """What they send instead of ``m``."""
        return m

    def goal(self, x: Tensor, y: Tensor, book: Book) -> tuple[Tensor, Tensor] | None:
        """Test samples as the attacker would have them, and the labels that it wants for them; None: no such goal.

        ``x [M, ...]`` and ``y [M]`` are clean; samples that have the wanted label anyway are left out. The share of
        what comes back that honest peers label as wanted is the attack's success. The book is empty before the first
        round, when it is asked only to see whether the test set can show any success.
        """
        return None


@dataclass(frozen=True)
class View:
    """What a hook sees after a round: the population, its data and the metrics so far.

    trained: who trained in the round ``[N]``
    peers: metrics of each peer, where the round was evaluated and the population is not too large for them; a hook may
           add its own
    draw:  puts a figure into the records; its data say of what type it is (see ``report.recorded``)
    say:   puts a line of text into the records and on the terminal
    """

    t: int
    rounds: int
    population: Population
    metrics: Mapping[str, float]
    exclude: Callable[[int], None]
    shards: Shards
    trained: Tensor
    peers: dict[str, list[float | None]] = field(default_factory=dict)
    seed: int = 0
    draw: Callable[[dict[str, Any]], None] = lambda _: None
    say: Callable[[str], None] = lambda _: None


class Hook:
    """Something that watches: a judge, a ledger, an accountant, an extra metric."""

    needs_messages: ClassVar[bool] = False

    def judge(
        self, exchange: Exchange, messages: Mapping[int, Message], population: Population
    ) -> Mapping[int, float] | None:
        """Factors on the senders' weights; 0 drops a message."""
        return None

    def before(self, t: int, plan: Plan, world: World) -> str | None:
        """Why the run must end before round t, in words; None lets it go on. Round 1 may be asked for twice."""
        return None

    def round(self, view: View) -> Mapping[str, float]:
        """Metrics that join the round's record."""
        return {}

    def state(self) -> dict[str, Any]:
        """What a checkpoint must keep of the hook, as JSON."""
        return {}

    def restore(self, state: Mapping[str, Any]) -> None:
        """The inverse of ``state``."""
