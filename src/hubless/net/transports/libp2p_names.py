"""What libp2p calls peers and the ways to them."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from hubless.errors import ConfigError
from hubless.net.transports.transport import PeerId

INLINE_KEY = bytes.fromhex("002408011220")  # a libp2p id that holds an Ed25519 key: identity hash, 36 bytes, protobuf
BASE58 = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"
CIRCUIT = "/p2p-circuit"  # in an address that leads through a relay


def library() -> None:
    """Raise ConfigError where the library is missing."""
    try:
        import libp2p  # noqa: F401
        import trio  # noqa: F401
    except ImportError as error:
        raise ConfigError(f"transport = libp2p: pip install 'hubless[libp2p]' ({error})") from None


def relay_address(address: str) -> str:
    """The address of a relay, with its id. Raises ConfigError."""
    from libp2p.peer.peerinfo import info_from_p2p_addr
    from multiaddr import Multiaddr

    try:
        info_from_p2p_addr(Multiaddr(address))
    except Exception as error:
        raise ConfigError(f"libp2p.relays = {address!r}: must be like /ip4/1.2.3.4/tcp/4001/p2p/ID ({error})") from None
    return str(Multiaddr(address))


def is_relayed(connection: Any) -> bool:
    """Whether a connection of the library's goes through a relay."""
    return any(CIRCUIT in str(address) for address in connection.get_transport_addresses())


def libp2p_id(peer: PeerId) -> Any:
    """The libp2p id that holds a peer's key. Raises ValueError."""
    from libp2p.peer.id import ID

    return ID(INLINE_KEY + bytes.fromhex(peer))


def peer_of(name: Any) -> PeerId | None:
    """The peer whose Ed25519 key a libp2p id holds; None for ids of other keys."""
    raw = name.to_bytes()
    return raw[len(INLINE_KEY) :].hex() if raw[: len(INLINE_KEY)] == INLINE_KEY and len(raw) == 38 else None


@lru_cache(maxsize=4096)
def base58_id(peer: PeerId) -> str:
    """The libp2p id that holds a peer's key, as text."""
    number, digits = int.from_bytes(INLINE_KEY + bytes.fromhex(peer), "big"), ""
    while number:
        number, digit = divmod(number, 58)
        digits = BASE58[digit] + digits
    return "1" + digits  # for the leading zero byte
