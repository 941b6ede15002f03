"""Real address translators: two peers in network namespaces, each behind a router that masquerades, and a relay.

A bridge joins the relay and both routers; a router lets nobody in whom its peer did not call first. Needs root, ``ip``
and ``nft``. No packet leaves the machine: no namespace has a route to anything but the others.
"""

import json
import os
import shutil
import subprocess
import sys
from contextlib import ExitStack

import pytest

NFT = shutil.which("nft")
RELAY = "11.0.0.1"  # addresses that look public: some libraries do not dial others


def _missing():
    if sys.platform != "linux" or os.geteuid() != 0:
        return "needs root on Linux"
    if not (shutil.which("ip") and NFT):
        return "needs ip and nft"
    name = f"hlprobe{os.getpid()}"
    made = subprocess.run(["ip", "netns", "add", name], capture_output=True, check=False)
    subprocess.run(["ip", "netns", "del", name], capture_output=True, check=False)
    return "network namespaces cannot be made here" if made.returncode else None


REASON = _missing()
pytestmark = pytest.mark.skipif(REASON is not None, reason=REASON or "")

NODE = """
import asyncio, json, sys
from hubless.errors import NetworkError
from hubless.net.identity import Identity
from hubless.net.network import Network
from hubless.net.policy import Timeouts
from hubless.net.transports.relayed import RelayedTransport
from hubless.net.transports.tcp import TcpTransport

number, host, relay, carry = int(sys.argv[1]), sys.argv[2], sys.argv[3], sys.argv[4] == "carry"

async def main():
    identity, waits = Identity.derived(9, number), Timeouts(dial=1.5)
    relays = {Identity.derived(9, 0).peer_id: [relay]} if relay else {}
    inner = TcpTransport(identity, host, 4001, timeouts=waits)
    async with Network(RelayedTransport(inner, relays, carry=carry, timeouts=waits), identity, timeouts=waits) as net:
        net.serve("echo", lambda ctx, body: body[::-1])
        for _ in range(100):
            if not relay or net.transport.slots:
                break
            await asyncio.sleep(0.05)
        loop, lines = asyncio.get_running_loop(), asyncio.StreamReader()
        await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)
        print(json.dumps([net.peer_id, net.transport.addresses()]), flush=True)
        while line := await lines.readline():
            peer, addresses = json.loads(line)
            net.introduce(peer, addresses)
            try:
                answer = (await net.request(peer, "echo", b"hello", 8.0)).decode()
            except NetworkError as error:
                answer = f"{type(error).__name__}: {error}"
            stats = net.transport.stats
            print(json.dumps([answer, net.transport.reach(peer), stats["carried"]]), flush=True)

asyncio.run(main())
"""


class Bench:
    """Namespaces, named after this process and removed with it."""

    def __init__(self, stack):
        self.stack = stack
        self.prefix = f"hl{os.getpid() % 100_000}"
        self.add("net")
        self.at("net", "ip", "link", "add", "br0", "type", "bridge")
        self.at("net", "ip", "link", "set", "br0", "up")

    def add(self, name):
        full = f"{self.prefix}{name}"
        subprocess.run(["ip", "netns", "add", full], check=True, capture_output=True)
        self.stack.callback(subprocess.run, ["ip", "netns", "del", full], check=False, capture_output=True)
        self.at(name, "ip", "link", "set", "lo", "up")

    def at(self, name, *command, text=None):
        command = ["ip", "netns", "exec", f"{self.prefix}{name}", *command]
        return subprocess.run(command, check=True, capture_output=True, input=text, text=True)

    def wire(self, one, other, address, router=None):
        """A cable from ``one``, where it gets ``address``, to ``other``: a bridge's, or a router's with an address."""
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

    def router(self, name, outside, subnet, *, masquerade="masquerade"):
        """A peer behind a router that lives at ``outside``; the peer's own address is ``subnet.2``."""
        self.add(f"{name}r")
        wide = self.wire(f"{name}r", "net", outside)
        self.add(name)
        self.wire(name, f"{name}r", f"{subnet}.2", f"{subnet}.1")
        self.at(name, "ip", "route", "add", "default", "via", f"{subnet}.1")
        self.at(f"{name}r", "sh", "-c", "echo 1 > /proc/sys/net/ipv4/ip_forward")
        rules = f"""
            table ip translate {{
                chain outward {{
                    type nat hook postrouting priority 100
                    oifname "{wide}" {masquerade}
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
        self.at(f"{name}r", NFT, "-f", "-", text=rules)

    def node(self, name, number, host, relay="", carry=False):
        """A peer's process; what it says first: its id and addresses."""
        command = [sys.executable, "-c", NODE, str(number), host, relay, "carry" if carry else ""]
        command = ["ip", "netns", "exec", f"{self.prefix}{name}", *command]
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.stack.callback(_end, process)
        return process, json.loads(process.stdout.readline())


def _end(process):
    process.kill()
    process.wait(10)
    process.stdin.close()
    process.stdout.close()


def ask(process, whom):
    process.stdin.write(json.dumps(whom) + "\n")
    process.stdin.flush()
    return json.loads(process.stdout.readline())


@pytest.fixture
def bench():
    with ExitStack() as stack:
        made = Bench(stack)
        made.add("relay")
        made.wire("relay", "net", RELAY)
        yield made
    left = subprocess.run(["ip", "netns", "list"], capture_output=True, text=True, check=True).stdout
    assert made.prefix not in left


@pytest.mark.parametrize("kind", ["masquerade", "masquerade random,fully-random"], ids=["cone", "symmetric"])
def test_two_peers_behind_translators_talk_through_a_relay_and_not_without(bench, kind):
    bench.router("a", "11.0.0.10", "10.1.0", masquerade=kind)
    bench.router("b", "11.0.0.20", "10.2.0", masquerade=kind)
    bench.node("relay", 0, RELAY, carry=True)
    one, first = bench.node("a", 1, "10.1.0.2", f"{RELAY}:4001")
    other, second = bench.node("b", 2, "10.2.0.2", f"{RELAY}:4001")
    assert any(address.startswith("relay:") for address in second[1])
    direct = [address for address in second[1] if not address.startswith("relay:")]
    answer, reach, _ = ask(one, [second[0], direct])
    assert answer.startswith(("PeerUnreachable", "RequestTimeout"))
    assert reach != "relayed"
    answer, reach, _ = ask(one, second)
    assert (answer, reach) == ("olleh", "relayed")
    answer, reach, _ = ask(other, first)
    assert (answer, reach) == ("olleh", "relayed")


def test_who_is_behind_a_translator_talks_to_an_open_peer_directly_and_is_answered(bench):
    bench.router("a", "11.0.0.10", "10.1.0")
    bench.add("open")
    bench.wire("open", "net", "11.0.0.30")
    bench.node("relay", 0, RELAY, carry=True)
    one, first = bench.node("a", 1, "10.1.0.2", f"{RELAY}:4001")
    other, second = bench.node("open", 2, "11.0.0.30")
    assert ask(one, second)[:2] == ["olleh", "direct"]
    assert ask(other, first)[:2] == ["olleh", "direct"]  # over the link that the hidden one opened
