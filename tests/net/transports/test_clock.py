"""The virtual clock: time jumps, order is that of the program, failures are seen."""

import asyncio
import time

import pytest

from hubless.errors import SimDeadlock
from hubless.net.transports.clock import SimLoop, run_sim


def test_hours_pass_in_no_time_and_end_at_the_result():
    async def main():
        await asyncio.sleep(3600)
        return asyncio.get_running_loop().time()

    before = time.process_time()
    assert run_sim(main()) == 3600
    assert time.process_time() - before < 5


def test_what_is_due_at_the_same_time_happens_in_order():
    seen = []

    def hear(source, _):
        seen.append(source)

    async def main():
        loop = asyncio.get_running_loop()
        for i in range(50):
            loop.call_at(1.0, seen.append, i)
            loop.heap.append((1.0, loop.order(), hear, -i, b"frame"))  # sorted already: a later order is larger
        loop.call_at(-5.0, seen.append, "past is now")
        await asyncio.sleep(2)

    run_sim(main())
    assert seen == ["past is now"] + [k for i in range(50) for k in (i, -i)]


def test_timeouts_work_and_cancelled_timers_leave_the_heap():
    async def main():
        loop = asyncio.get_running_loop()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(3):
                await asyncio.Event().wait()
        assert loop.time() == 3
        assert await asyncio.wait_for(asyncio.sleep(1, "done"), 5) == "done"
        timers = [loop.call_later(10, pytest.fail) for _ in range(10_000)]
        for timer in timers:
            timer.cancel()
            assert timer.cancelled()
        assert len(loop.heap) < 5000
        await asyncio.sleep(20)
        return loop.time()

    assert run_sim(main()) == 24


def test_a_deadlock_names_who_waits_and_where():
    async def main():
        keep = asyncio.create_task(asyncio.Event().wait(), name="the bidder")
        await asyncio.sleep(2)
        await keep

    with pytest.raises(SimDeadlock, match=r"after 2 s: .*the bidder waits at locks\.py:\d+"):
        run_sim(main())


def test_spinning_until_time_passes_is_a_deadlock_too(monkeypatch):
    monkeypatch.setattr("hubless.net.transports.clock.STANDSTILL", 1000)

    async def main():
        loop = asyncio.get_running_loop()
        while loop.time() < 1:
            await asyncio.sleep(0)

    with pytest.raises(SimDeadlock, match="time stands still at 0 s"):
        run_sim(main())


@pytest.mark.parametrize("keep", [False, True])
def test_a_task_that_fails_unseen_ends_the_run(keep):
    kept = []

    async def fails():
        await asyncio.sleep(1)
        raise ValueError("the ninth row is odd")

    async def main():
        task = asyncio.create_task(fails(), name="rows")
        if keep:
            kept.append(task)
        del task
        await asyncio.sleep(5)
        kept.clear()
        await asyncio.sleep(100)
        return "never"

    with pytest.raises(ValueError, match="ninth row") as caught:
        run_sim(main())
    assert "rows" in "".join(caught.value.__notes__)


def test_a_callback_that_fails_ends_the_run_and_awaited_failures_do_not():
    async def fails():
        raise ValueError("awaited")

    async def main():
        task = asyncio.create_task(fails())
        with pytest.raises(ValueError, match="awaited"):
            await task
        asyncio.get_running_loop().call_later(1, lambda: 1 / 0)
        await asyncio.sleep(5)

    with pytest.raises(ZeroDivisionError):
        run_sim(main())


def test_what_is_left_is_cancelled_in_order_and_its_failure_is_seen():
    ended, tasks = [], []

    async def worker(name):
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(1)
            ended.append(name)

    async def main(names):
        for name in names:
            tasks.append(asyncio.get_running_loop().create_task(worker(name), name=name))
        await asyncio.sleep(0)

    run_sim(main("dacb"))
    assert ended == list("abcd")

    async def stubborn():
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            raise KeyError("cannot close") from None

    async def other():
        keep = asyncio.create_task(stubborn())
        await asyncio.sleep(0)
        del keep

    with pytest.raises(KeyError, match="cannot close"):
        run_sim(other())


def test_threads_become_calls_and_sockets_are_refused():
    async def main():
        loop = asyncio.get_running_loop()
        assert isinstance(loop, SimLoop)
        assert await asyncio.to_thread(sum, [1, 2]) == 3
        with pytest.raises(ZeroDivisionError):
            await loop.run_in_executor(None, lambda: 1 / 0)
        with pytest.raises(NotImplementedError, match="SimTransport"):
            await asyncio.open_connection("127.0.0.1", 1)
        with pytest.raises(NotImplementedError, match="SimTransport"):
            await asyncio.start_server(print, "127.0.0.1", 0)

    run_sim(main())


def test_a_simulation_runs_where_a_loop_runs_already():
    async def inner():
        await asyncio.sleep(60)
        return asyncio.get_running_loop().time()

    async def notebook():
        return run_sim(inner())

    assert asyncio.run(notebook()) == 60
