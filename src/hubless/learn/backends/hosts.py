"""Where workers live: this process (for tests), processes of this machine."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from multiprocessing.connection import Connection
from typing import Protocol

from hubless.errors import ConfigError
from hubless.learn.backends.worker import Worker

PATIENCE = 5.0  # seconds that a worker has to end by itself


class HostLost(Exception):
    """A worker is gone."""


class Host(Protocol):
    """One worker; every command that is sent has one answer."""

    def send(self, command: bytes) -> None:
        """Give a command. Raises HostLost."""

    def receive(self) -> bytes:
        """Wait for the answer. Raises HostLost."""

    def close(self) -> None:
        """End it, whatever it does."""


class Process:
    """A process of its own, started afresh: nothing of this one is copied into it."""

    def __init__(self) -> None:
        if os.name != "posix":
            raise ConfigError("backend = 'processes': needs a POSIX system; use in-process or ray")
        ours, theirs = socket.socketpair()
        try:
            number = theirs.fileno()
            environment = {**os.environ, "OMP_NUM_THREADS": "1"}
            self.process = subprocess.Popen(
                [sys.executable, "-m", "hubless.learn.backends.worker", str(number)],
                pass_fds=[number], env=environment, stdin=subprocess.DEVNULL,
            )  # fmt: skip
        finally:
            theirs.close()
        self.connection = Connection(ours.detach())

    def send(self, command: bytes) -> None:
        """Give a command."""
        try:
            self.connection.send_bytes(command)
        except OSError as error:
            raise HostLost(f"process {self.process.pid}: {error}") from None

    def receive(self) -> bytes:
        """Wait for the answer."""
        try:
            return self.connection.recv_bytes()
        except (EOFError, OSError) as error:
            raise HostLost(f"process {self.process.pid}: {error or 'its pipe is closed'}") from None

    def close(self) -> None:
        """Close its pipe, at which it ends; kill it when it is busy."""
        self.connection.close()
        try:
            self.process.wait(PATIENCE if self.process.poll() is None else 0)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


class Here:
    """A worker in this process, one call at a time: the same bytes, without the processes."""

    def __init__(self) -> None:
        self.worker = Worker()
        self.answer = b""

    def send(self, command: bytes) -> None:
        """Do it at once."""
        self.answer = self.worker.handle(command)

    def receive(self) -> bytes:
        """What came of it."""
        return self.answer

    def close(self) -> None:
        """Nothing to end."""
