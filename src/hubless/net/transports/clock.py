"""An asyncio loop on a virtual clock: when nothing is ready, time jumps to the next timer or frame."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import contextvars
import heapq
import itertools
from collections import deque
from collections.abc import Callable, Coroutine, Generator
from typing import Any, NoReturn, TypeVar, TypeVarTuple

import msgspec

from hubless.errors import SimDeadlock

Result = TypeVar("Result")
Args = TypeVarTuple("Args")
STANDSTILL = 1_000_000  # turns without a second passing after which something waits by spinning
IDLE = 1000  # cancelled timers that may stay in the heap however short it is


class _Call(msgspec.Struct, eq=False):
    """What ``asyncio.Handle`` is to others, made in a quarter of its time; every turn of a task makes one."""

    callback: Callable[..., Any]
    args: tuple[Any, ...]
    context: contextvars.Context
    gone: bool = False

    def cancel(self) -> None:
        """Do not call."""
        self.gone = True
        self.callback, self.args = _nothing, ()

    def cancelled(self) -> bool:
        """Whether it will not be called."""
        return self.gone


class _Timer(msgspec.Struct, eq=False):
    """What ``asyncio.TimerHandle`` is to others; a cancelled one stays in the heap until it is swept."""

    due: float
    callback: Callable[..., Any]
    args: tuple[Any, ...]
    loop: SimLoop
    context: contextvars.Context
    gone: bool = False
    waits: bool = True  # in the heap

    def cancel(self) -> None:
        """Do not call."""
        if not self.gone:
            self.gone = True
            self.callback, self.args = _nothing, ()
            if self.waits:
                loop = self.loop
                loop.idle += 1
                if loop.idle > IDLE:
                    loop.sweep()

    def cancelled(self) -> bool:
        """Whether it will not be called."""
        return self.gone

    def when(self) -> float:
        """Virtual seconds at which it is due."""
        return self.due


def _nothing() -> None:
    """What a cancelled call does; what it would have done is kept alive no longer."""


class SimLoop(asyncio.BaseEventLoop):
    """Runs tasks, timers and frames in an order that follows from the program alone; a minute costs what happens in it.

    heap:  what will happen, ``(when, order, fn, one, other)``: a frame's ``fn(one, other)``, or a timer ``fn`` with
           ``other`` None. A transport pushes frames itself: one call less a frame
    clock: seconds since the start
    order: the next number; what is due at the same time happens first in, first out
    idle:  cancelled timers in the heap

    An exception that nobody awaits (of a callback, a frame's handler, or a task reported to
    ``call_exception_handler``) ends the run. Work for an executor is done at once, in no time. Sockets are refused.
    """

    _ready: deque[Any]
    _stopping: bool

    def __init__(self) -> None:
        super().__init__()
        self.heap: list[tuple[float, int, Any, Any, Any]] = []
        self.clock = 0.0
        self.order: Callable[[], int] = itertools.count().__next__
        self.failure: BaseException | None = None
        self.idle = 0

    def time(self) -> float:
        """Virtual seconds since the start."""
        return self.clock

    def call_soon(
        self, callback: Callable[[*Args], object], *args: *Args, context: contextvars.Context | None = None
    ) -> asyncio.Handle:
        """As asyncio's."""
        call = _Call(callback, args, contextvars.copy_context() if context is None else context)
        self._ready.append(call)
        return call  # type: ignore[return-value]

    def call_soon_threadsafe(
        self, callback: Callable[[*Args], object], *args: *Args, context: contextvars.Context | None = None
    ) -> asyncio.Handle:
        """As ``call_soon``: there is one thread."""
        return self.call_soon(callback, *args, context=context)

    def call_at(
        self, when: float, callback: Callable[[*Args], object], *args: *Args, context: contextvars.Context | None = None
    ) -> asyncio.TimerHandle:
        """As asyncio's; a time that has passed is now."""
        timer = _Timer(when, callback, args, self, contextvars.copy_context() if context is None else context)
        clock = self.clock
        heapq.heappush(self.heap, (when if when > clock else clock, self.order(), timer, None, None))
        return timer  # type: ignore[return-value]

    def call_later(
        self,
        delay: float,
        callback: Callable[[*Args], object],
        *args: *Args,
        context: contextvars.Context | None = None,
    ) -> asyncio.TimerHandle:
        """As asyncio's; written out, as every request makes a timer."""
        when = self.clock + delay if delay > 0 else self.clock
        timer = _Timer(when, callback, args, self, contextvars.copy_context() if context is None else context)
        heapq.heappush(self.heap, (when, self.order(), timer, None, None))
        return timer  # type: ignore[return-value]

    def create_task(
        self,
        coro: Generator[Any, None, Result] | Coroutine[Any, Any, Result],
        *,
        name: object = None,
        context: contextvars.Context | None = None,
    ) -> asyncio.Task[Result]:
        """As asyncio's, without task factories."""
        return asyncio.Task(coro, loop=self, name=None if name is None else str(name), context=context)

    def sweep(self) -> None:
        """Throw cancelled timers out of the heap, when most of it are."""
        if self.idle * 2 > len(self.heap):
            self.heap[:] = [entry for entry in self.heap if entry[4] is not None or not entry[2].gone]
            heapq.heapify(self.heap)
            self.idle = 0

    def _run_once(self) -> None:
        ready, heap, pop = self._ready, self.heap, heapq.heappop
        turns = 0
        while True:
            while ready:
                for _ in range(len(ready)):
                    call = ready.popleft()
                    if not call.gone:
                        call.context.run(call.callback, *call.args)
                call = None  # else a task that failed would live, unseen, until the next turn
                if self.failure is not None:
                    failure, self.failure = self.failure, None
                    raise failure
                if self._stopping:
                    return
                turns += 1
                if turns > STANDSTILL:
                    raise SimDeadlock(f"time stands still at {self.clock:g} s: {_waiting(self)}")
            turns = 0
            while not ready:
                if not heap:
                    if self._stopping:
                        return
                    raise SimDeadlock(f"nothing will happen after {self.clock:g} s: {_waiting(self)}")
                when, _, fn, one, other = pop(heap)
                if other is not None:
                    self.clock = when
                    fn(one, other)
                elif fn.gone:
                    self.idle -= 1
                else:
                    self.clock = when
                    fn.waits = False
                    fn.context.run(fn.callback, *fn.args)

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        """Remember the first failure that nobody awaits; it ends the run."""
        if self.failure is None:
            failure = context.get("exception") or RuntimeError(context.get("message"))
            task = context.get("task") or context.get("future")
            name = f" in task {task.get_name()!r}" if isinstance(task, asyncio.Task) else ""
            failure.add_note(f"at {self.clock:g} virtual s{name}: {context.get('message')}")
            self.failure = failure

    def run_in_executor(self, executor: Any, func: Callable[[*Args], Result], *args: *Args) -> asyncio.Future[Result]:
        """Done at once, in this thread."""
        future: asyncio.Future[Result] = self.create_future()
        try:
            future.set_result(func(*args))
        except Exception as error:
            future.set_exception(error)
        return future

    def set_default_executor(self, executor: concurrent.futures.Executor) -> NoReturn:
        """Refused."""
        raise NotImplementedError("a simulated run has one thread")

    def _refuse(self, *args: Any, **options: Any) -> NoReturn:
        raise NotImplementedError("a simulated run has no sockets: use SimTransport")

    create_connection = create_server = create_datagram_endpoint = getaddrinfo = getnameinfo = _refuse

    def _write_to_self(self) -> None:
        """Nothing waits in a selector."""


def _tasks(loop: asyncio.AbstractEventLoop) -> list[asyncio.Task[Any]]:
    """Those that are not done, by name; those that were not given one in the order in which they were made."""
    return sorted(asyncio.all_tasks(loop), key=lambda task: (len(task.get_name()), task.get_name()))


def _waiting(loop: asyncio.AbstractEventLoop) -> str:
    """The tasks that are not done, and the line that each waits at."""
    lines = []
    for task in _tasks(loop):
        stack = task.get_stack(limit=1)
        place = f"{stack[0].f_code.co_filename.rsplit('/', 1)[-1]}:{stack[0].f_lineno}" if stack else "its start"
        lines.append(f"{task.get_name()} waits at {place}")
    return "; ".join(lines[:20]) + (f"; and {len(lines) - 20} more" if len(lines) > 20 else "") or "no task is left"


def run_sim(main: Coroutine[Any, Any, Result]) -> Result:
    """Run ``main`` on a virtual clock to its end, cancel what is left, and return its result.

    Raises what ``main`` raises; what a task, timer or frame raised that nobody awaits; SimDeadlock, with the waiting
    tasks, when nothing will ever happen again. May be called where a loop is running already (a notebook): the
    simulation then has a thread of its own, and the caller waits.
    """
    if asyncio._get_running_loop() is None:
        return _run(main)
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        return pool.submit(_run, main).result()


def _run(main: Coroutine[Any, Any, Result]) -> Result:
    loop = SimLoop()
    try:
        result = loop.run_until_complete(main)
        _end(loop)
    except BaseException:
        with contextlib.suppress(Exception):  # the first failure is the one to see
            _end(loop)
        raise
    finally:
        loop.close()
    if loop.failure is not None:
        raise loop.failure
    return result


def _end(loop: SimLoop) -> None:
    """Cancel what is left, in order, and wait for it; raises the first failure of it."""
    tasks = _tasks(loop)
    for task in tasks:
        task.cancel()

    async def ended() -> None:
        for outcome in await asyncio.gather(*tasks, return_exceptions=True):
            if isinstance(outcome, Exception):
                raise outcome
        await loop.shutdown_asyncgens()

    loop.run_until_complete(ended())
