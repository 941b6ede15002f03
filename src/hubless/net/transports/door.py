"""Where strangers knock: a listening socket, with a bound on how many are let in before they have said who they are."""

from __future__ import annotations

import asyncio
import logging
import socket

from hubless.errors import ConfigError
from hubless.net.transports.addresses import spelled

log = logging.getLogger(__name__)


class Door:
    """Listens on ``host`` and ``port``; port 0 is any free one. Raises ConfigError when the address cannot be had.

    outside: how many have not introduced themselves, at most ``most``
    """

    def __init__(self, host: str, port: int, most: int) -> None:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        try:
            self._socket = socket.create_server((host, port), family=family, backlog=most)
        except OSError as error:
            raise ConfigError(f"tcp.listen = {spelled(host, port)}: {error.strerror or error}") from None
        self._socket.setblocking(False)
        self.port: int = self._socket.getsockname()[1]
        self.most = most
        self.outside = 0

    async def next(self, pause: float) -> socket.socket | None:
        """The next who knocks; None: one too many, who was sent away. After a failure ``pause`` seconds pass."""
        while True:
            try:
                connection, _ = await asyncio.get_running_loop().sock_accept(self._socket)
            except OSError as error:  # no more file descriptors: some will be closed
                log.warning("cannot accept connections: %s", error)
                await asyncio.sleep(pause)
                continue
            if self.outside < self.most:
                self.outside += 1
                return connection
            connection.close()
            return None

    def inside(self) -> None:
        """One has introduced itself, or is gone."""
        self.outside -= 1

    def close(self) -> None:
        """Nobody is let in any more."""
        self._socket.close()
