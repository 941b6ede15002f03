"""The machine's clock and threads, for transports that carry frames between processes."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from functools import partial
from typing import Any


class RealTime:
    """The part of a Transport that tells time."""

    def now(self) -> float:
        """Unix time."""
        return time.time()

    async def sleep(self, seconds: float) -> None:
        """Real time."""
        await asyncio.sleep(seconds)

    async def run(self, work: Callable[..., Any], *arguments: Any, cost: float = 0.0) -> Any:
        """In a thread, so that frames are heard meanwhile; what it costs is what it takes."""
        return await asyncio.get_running_loop().run_in_executor(None, partial(work, *arguments))
