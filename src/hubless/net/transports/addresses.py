"""Where peers may be found: a bounded book of their addresses, and ``host:port`` as text."""

from __future__ import annotations

import ipaddress
import socket
from collections import OrderedDict
from collections.abc import Iterable

from hubless.net.transports.transport import PeerId

EACH = 8  # addresses of one peer that are remembered


class Hints:
    """Addresses of at most ``most`` peers, those heard of last; of each the best first."""

    def __init__(self, most: int) -> None:
        self.most = most
        self._known: OrderedDict[PeerId, list[str]] = OrderedDict()

    def add(self, peer: PeerId, addresses: Iterable[str]) -> None:
        """Put addresses in front of those that are known."""
        known = self._known.pop(peer, [])
        self._known[peer] = list(dict.fromkeys([*addresses, *known]))[:EACH]
        if len(self._known) > self.most:
            self._known.popitem(last=False)

    def of(self, peer: PeerId) -> list[str]:
        """What is known of a peer."""
        return list(self._known.get(peer, ()))

    def __contains__(self, peer: PeerId) -> bool:
        return bool(self._known.get(peer))


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach a host."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def spelled(host: str, port: int) -> str:
    """``host:port``, or ``[host]:port`` where the host has colons of its own."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def split(address: str) -> tuple[str, int] | None:
    """Host and port of an address; None if it is none."""
    host, colon, port = address.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not (colon and host and len(host) < 256 and port.isascii() and port.isdecimal() and 0 < int(port) < 65_536):
        return None
    return host, int(port)


def own_address(host: str) -> str:
    """The host itself, or, where it stands for all addresses of this machine, the one on the way to others."""
    try:
        wildcard = ipaddress.ip_address(host).is_unspecified
    except ValueError:
        wildcard = False
    return _outward(host) if wildcard else host


def _outward(wildcard: str) -> str:
    """Connecting a UDP socket sends nothing; it only chooses a route."""
    family, elsewhere = (socket.AF_INET6, "2001:db8::1") if ":" in wildcard else (socket.AF_INET, "192.0.2.1")
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect((elsewhere, 9))
            return str(probe.getsockname()[0])
        except OSError:
            return "::1" if ":" in wildcard else "127.0.0.1"
