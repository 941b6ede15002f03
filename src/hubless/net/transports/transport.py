"""One-way frames between peers: all that a way of carrying them has to give."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Generator
from typing import Any, Literal, NoReturn, Protocol

PeerId = str  # 64 hex digits: the Ed25519 public key itself; logs show the first 8
Reach = Literal["direct", "relayed", "none"]
FrameHandler = Callable[[PeerId | None, bytes], None]
LostHandler = Callable[[PeerId], None]


class Nothing(Coroutine[Any, Any, None]):
    """A wait that is over."""

    def send(self, value: Any) -> NoReturn:
        """At its end already."""
        raise StopIteration

    def throw(self, kind: Any, value: Any = None, trace: Any = None) -> NoReturn:
        """Raise it."""
        raise kind if value is None else value

    def close(self) -> None:
        """Nothing to do."""

    def __await__(self) -> Generator[Any, Any, None]:
        yield from ()


NOTHING = Nothing()  # of whoever has nothing to wait for: cheaper than a coroutine that ends at once


class Transport(Protocol):
    """Carries frames of at most ``max_frame`` bytes, each at most once.

    authenticated: whether a link proves its peer (simulated, TCP with TLS); where it does not, frames are signed
    """

    @property
    def peer_id(self) -> PeerId:
        """Who this is."""

    @property
    def max_frame(self) -> int:
        """Most bytes of a frame."""

    @property
    def authenticated(self) -> bool:
        """Whether the peer that ``on_frame`` names is proven by the link."""

    async def start(self) -> None:
        """Listen; frames may arrive from here on."""

    async def close(self) -> None:
        """Drop all links and stop listening; more than once is the same as once."""

    async def ready(self, peer: PeerId, size: int = 0) -> None:
        """Dial if needed and wait for room for ``size`` bytes; the only place that waits. Raises PeerUnreachable."""

    def send(self, peer: PeerId, frame: bytes) -> None:
        """Send now or never: no waiting, no promise. Raises FrameTooLarge, PeerUnreachable."""

    def on_frame(self, handler: FrameHandler) -> None:
        """Who hears frames, on the loop: the proven peer at the other end of the link, or None, and the frame."""

    def on_lost(self, handler: LostHandler) -> None:
        """Who hears that the last link to a peer is gone; of this peer's own id: a simulation has crashed it."""

    def add_hint(self, peer: PeerId, addresses: list[str]) -> None:
        """Where a peer may be found."""

    def addresses(self) -> list[str]:
        """Where this peer may be found."""

    def reach(self, peer: PeerId) -> Reach:
        """How a frame would get to a peer now."""

    def now(self) -> float:
        """Unix time in seconds; virtual in a simulation."""

    async def sleep(self, seconds: float) -> None:
        """Wait, in the transport's own time."""

    async def run(self, work: Callable[..., Any], *arguments: Any, cost: float = 0.0) -> Any:
        """Work for a processor: in a thread; in a simulation inline, and then ``cost`` virtual seconds pass."""
