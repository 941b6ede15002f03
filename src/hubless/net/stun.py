"""What address a router shows to others (RFC 8489, binding request), and from two answers what kind of NAT it is."""

from __future__ import annotations

import secrets
import socket
import struct

from hubless.errors import PeerUnreachable

COOKIE = 0x2112A442
BINDING, ANSWER = 0x0001, 0x0101
MAPPED, XOR_MAPPED = 0x0001, 0x0020
TRIES = 3

Address = tuple[str, int]


def mapped(sock: socket.socket, server: Address, timeout: float) -> Address:
    """The address that a server sees a datagram of this socket come from.

    Raises PeerUnreachable when no answer comes in ``timeout`` seconds, three times asked.
    """
    ticket = secrets.token_bytes(12)
    sock.settimeout(timeout / TRIES)
    for _ in range(TRIES):
        try:
            sock.sendto(struct.pack("!HHI", BINDING, 0, COOKIE) + ticket, server)
            while True:
                data, _ = sock.recvfrom(2048)
                if (found := _read(data, ticket)) is not None:
                    return found
        except OSError:
            continue
    raise PeerUnreachable(f"stun: no answer from {server[0]}:{server[1]}")


def kind(first: Address, second: Address, local: Address) -> str:
    """What two servers' answers to one socket say of the NAT in front of it."""
    if first == local:
        return "none: others see this machine's own address"
    if first == second:
        return "cone: one port for all, so that holes can be punched"
    return "symmetric: a port for each receiver; only relays and peers that are open can be reached"


def _read(data: bytes, ticket: bytes) -> Address | None:
    """The IPv4 address in an answer to the request with that ticket; None for anything else."""
    if len(data) < 20 or struct.unpack("!HHI", data[:8])[::2] != (ANSWER, COOKIE) or data[8:20] != ticket:
        return None
    at = 20
    while at + 4 <= len(data):
        name, size = struct.unpack("!HH", data[at : at + 4])
        value = data[at + 4 : at + 4 + size]
        if name in (MAPPED, XOR_MAPPED) and len(value) == 8 and value[1] == 1:
            port, host = struct.unpack("!HI", value[2:])
            if name == XOR_MAPPED:
                port, host = port ^ COOKIE >> 16, host ^ COOKIE
            return socket.inet_ntoa(struct.pack("!I", host)), port
        at += 4 + (size + 3) // 4 * 4
    return None
