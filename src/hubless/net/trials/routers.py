"""Network namespaces behind real address translators, of Linux: a bridge, routers on it, and a peer behind each.

A router lets nobody in whom its peer did not call first. No packet leaves the machine: no namespace has a route to
anything but the others. Needs root, ``ip`` and ``nft``. The kernel cannot delay or lose packets for us everywhere, so
here nobody does.
"""

from __future__ import annotations

import json
import os
import select
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import Any

STEP = 10.0  # seconds for a command, or for a process to end
KINDS = {"cone": "masquerade", "symmetric": "masquerade random,fully-random"}  # the first keeps ports where it can


class Bench(ExitStack):
    """Namespaces, named after this process; they and all processes in them are removed at the end, however it comes.

    Raises OSError, CalledProcessError or TimeoutExpired (both SubprocessError) for what the machine does not do.
    """

    def __init__(self) -> None:
        super().__init__()
        self.prefix = f"hl{os.getpid() % 100_000}"

    def __enter__(self) -> Bench:
        super().__enter__()
        try:
            self.add("net")
            self.at("net", "ip", "link", "add", "br0", "type", "bridge")
            self.at("net", "ip", "link", "set", "br0", "up")
        except BaseException:
            self.close()
            raise
        return self

    def add(self, name: str) -> None:
        """A namespace with nothing but itself to talk to."""
        full = f"{self.prefix}{name}"
        self.callback(subprocess.run, ["ip", "netns", "del", full], check=False, capture_output=True, timeout=STEP)
        _run("ip", "netns", "add", full)
        self.at(name, "ip", "link", "set", "lo", "up")

    def at(self, name: str, *command: str, text: str | None = None) -> None:
        """Run a command in a namespace."""
        _run("ip", "netns", "exec", f"{self.prefix}{name}", *command, text=text)

    def wire(self, one: str, other: str, address: str, router: str | None = None) -> str:
        """A cable from ``one``, where it gets ``address``, to ``other``: a bridge, or a router with an address."""
        near, far = f"e{one}"[:12], f"t{one}"[:12]
        ends = ["type", "veth", "peer", "name", far, "netns", f"{self.prefix}{other}"]
        self.at(one, "ip", "link", "add", near, *ends)
        self.at(one, "ip", "addr", "add", f"{address}/24", "dev", near)
        self.at(one, "ip", "link", "set", near, "up")
        if router is None:
            self.at(other, "ip", "link", "set", far, "master", "br0")
        else:
            self.at(other, "ip", "addr", "add", f"{router}/24", "dev", far)
        self.at(other, "ip", "link", "set", far, "up")
        return near

    def open(self, name: str, address: str) -> None:
        """A namespace on the bridge, that everybody can call."""
        self.add(name)
        self.wire(name, "net", address)

    def router(self, name: str, outside: str, subnet: str, kind: str = "cone") -> None:
        """A peer behind a router that lives at ``outside``; the peer's own address is ``subnet.2``."""
        self.add(f"{name}r")
        wide = self.wire(f"{name}r", "net", outside)
        self.add(name)
        self.wire(name, f"{name}r", f"{subnet}.2", f"{subnet}.1")
        self.at(name, "ip", "route", "add", "default", "via", f"{subnet}.1")
        self.at(f"{name}r", "sh", "-c", "echo 1 > /proc/sys/net/ipv4/ip_forward")
        # a router that answers who calls it would keep the port that its peer is about to need
        rules = f"""
            table ip translate {{
                chain outward {{
                    type nat hook postrouting priority 100
                    oifname "{wide}" {KINDS[kind]}
                }}
            }}
            table ip guard {{
                chain inward {{
                    type filter hook input priority 0
                    iifname "{wide}" ct state new drop
                }}
                chain through {{
                    type filter hook forward priority 0
                    iifname "{wide}" ct state new drop
                }}
            }}
        """
        self.at(f"{name}r", "nft", "-f", "-", text=rules)

    def start(
        self, name: str, *command: str, folder: str | None = None, env: Mapping[str, str] | None = None
    ) -> Spoken:
        """A process in a namespace that speaks JSON, a line a word."""
        spoken = Spoken(["ip", "netns", "exec", f"{self.prefix}{name}", *command], folder, env)
        self.callback(spoken.end)
        return spoken


class Spoken:
    """A process that is spoken with through its standard input and output; what else it says is not kept."""

    def __init__(self, command: Sequence[str], folder: str | None, env: Mapping[str, str] | None) -> None:
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(
            command, bufsize=0, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL, cwd=folder, env=env
        )

    def hear(self, seconds: float = STEP) -> Any:
        """What it says next. Raises TimeoutError; ValueError for what is no JSON, as at its end."""
        assert self.process.stdout is not None
        if not select.select([self.process.stdout], [], [], seconds)[0]:
            raise TimeoutError(f"{self.process.args[-1]!r:.60} said nothing for {seconds:g} s")  # type: ignore[index]
        return json.loads(self.process.stdout.readline())

    def tell(self, what: Any) -> None:
        """Say something. Raises OSError when it has ended."""
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(what).encode() + b"\n")

    def end(self) -> None:
        """Kill it."""
        self.process.kill()
        self.process.wait(STEP)
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                pipe.close()


def _run(*command: str, text: str | None = None) -> None:
    subprocess.run(command, check=True, capture_output=True, input=text, text=True, timeout=STEP)
