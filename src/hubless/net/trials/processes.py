"""Several processes on this machine that use every service over TCP, and what they did right before a deadline."""

from __future__ import annotations

import asyncio
import json
import sys
from dataclasses import dataclass, field
from typing import Any

from hubless.net.trials.process import MERGE, OPERATIONS
from hubless.run.stages import Findings

SPARE = 5.0  # seconds beyond the deadline until a process that says nothing is given up


@dataclass(frozen=True)
class Processes:
    """A trial: ``count`` processes, ``deadline`` seconds from their start for all; the blob has ``megabytes``."""

    count: int = 5
    megabytes: float = 8.0
    deadline: float = 30.0

    def findings(self, seed: int) -> Findings:
        """The trial; no time is among what is found, as no two runs have the same."""
        done = together(self, seed)
        return Findings(
            metrics={"operations_right": sum(count == self.count for count in done.right.values())},
            figures=[
                {
                    "type": "table", "title": f"Operations that {self.count} processes did within {self.deadline:g} s",
                    "columns": ["operation", "right in so many processes", "of"],
                    "rows": [[name, count, self.count] for name, count in done.right.items()],
                }
            ],
            events=done.troubles,
        )  # fmt: skip


@dataclass
class Done:
    """What became of it: by operation, in how many processes it was right; and what went wrong, in words."""

    right: dict[str, int] = field(default_factory=lambda: dict.fromkeys(OPERATIONS, 0))
    troubles: list[str] = field(default_factory=list)


def together(trial: Processes, seed: int) -> Done:
    """Run it."""
    return asyncio.run(_together(trial, seed))


async def _together(trial: Processes, seed: int) -> Done:
    done, loop = Done(), asyncio.get_running_loop()
    end = loop.time() + trial.deadline
    started = await asyncio.gather(*(_start(trial, seed, i) for i in range(trial.count)))
    try:
        first = await asyncio.gather(*(_line(process, end - loop.time()) for process in started))
        if late := [i for i, line in enumerate(first) if line is None]:
            done.troubles.append(f"of {trial.count} processes {len(late)} did not start in time")
            return done
        everybody = {line["peer"]: line["addresses"] for line in first}
        for process in started:
            await _write(process, {"peers": everybody, "seconds": end - loop.time()})
        lines = await asyncio.gather(*(_line(process, end - loop.time() + SPARE) for process in started))
        told = [line for line in lines if line is not None]
        for name in OPERATIONS:
            done.right[name] = sum(line["right"][name] for line in told)
        if len(dict.fromkeys(line["digest"] for line in told if line["digest"])) > 1:
            done.right[MERGE] = 0
            done.troubles.append("CRDT merge: the replicas differ")
        for process in started:
            await _write(process, {})
        await asyncio.gather(*(_end(i, process, done) for i, process in enumerate(started)))
    finally:
        for process in started:
            if process.returncode is None:
                process.kill()
                await process.wait()
    return done


async def _start(trial: Processes, seed: int, index: int) -> asyncio.subprocess.Process:
    given = {
        "seed": seed, "index": index, "count": trial.count, "megabytes": trial.megabytes,
    }  # fmt: skip
    pipe = asyncio.subprocess.PIPE
    return await asyncio.create_subprocess_exec(
        sys.executable, "-m", "hubless.net.trials.process", json.dumps(given), stdin=pipe, stdout=pipe, stderr=pipe
    )


async def _line(process: asyncio.subprocess.Process, seconds: float) -> Any:
    """What a process says next; None when it says nothing in time, or no JSON."""
    assert process.stdout is not None
    try:
        return json.loads(await asyncio.wait_for(process.stdout.readline(), max(seconds, 0.0)))
    except (TimeoutError, ValueError):
        return None


async def _write(process: asyncio.subprocess.Process, what: dict[str, Any]) -> None:
    assert process.stdin is not None
    try:
        process.stdin.write(json.dumps(what).encode() + b"\n")
        await process.stdin.drain()
    except ConnectionError:
        return  # it has ended, and is not counted as right


async def _end(index: int, process: asyncio.subprocess.Process, done: Done) -> None:
    try:
        _, errors = await asyncio.wait_for(process.communicate(), SPARE)
    except TimeoutError:
        done.troubles.append(f"process {index} did not end")
        return
    if process.returncode:
        last = errors.decode(errors="replace").strip().splitlines()[-1:]
        done.troubles.append(f"process {index} ended with code {process.returncode}: {' '.join(last)}")
