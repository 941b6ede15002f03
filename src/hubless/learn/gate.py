"""Tracing changes ``nn.Module`` for the whole process: while one thread traces, no other may run a module."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager


class Gate:
    """Many threads may run modules at a time, or one may trace; a thread that traces may run what it traces."""

    def __init__(self) -> None:
        self._change = threading.Condition()
        self._running = 0
        self._traces = False
        self._here = threading.local()

    @contextmanager
    def running(self) -> Iterator[None]:
        """Run a module."""
        if getattr(self._here, "inside", False):
            yield
            return
        with self._change:
            self._change.wait_for(lambda: not self._traces)
            self._running += 1
        self._here.inside = True
        try:
            yield
        finally:
            self._here.inside = False
            with self._change:
                self._running -= 1
                self._change.notify_all()

    @contextmanager
    def tracing(self) -> Iterator[None]:
        """Trace; not from inside ``running``."""
        with self._change:
            self._change.wait_for(lambda: not self._traces)
            self._traces = True
            self._change.wait_for(lambda: not self._running)
        self._here.inside = True
        try:
            yield
        finally:
            self._here.inside = False
            with self._change:
                self._traces = False
                self._change.notify_all()


GATE = Gate()
