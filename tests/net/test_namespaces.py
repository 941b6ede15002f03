"""Real address translators: two peers in network namespaces, each behind a router that masquerades, and a relay.

A bridge joins the relay and both routers; a router lets nobody in whom its peer did not call first. Needs root, ``ip``
and ``nft``; over the lattica driver also its SDK and js-libp2p. No packet leaves the machine: no namespace has a route
to anything but the others.
"""

import subprocess
import sys

import pytest

from hubless.net.trials import namespaces
from hubless.net.trials.namespaces import between, findings, missing
from hubless.net.trials.routers import Bench

RELAY = "11.0.0.1"  # addresses that look public: some libraries do not dial others
REASON, DRIVER = missing(driver=False), missing()
needs_routers = pytest.mark.skipif(REASON is not None, reason=REASON or "")
needs_driver = pytest.mark.skipif(DRIVER is not None, reason=DRIVER or "")

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


def node(bench, name, number, host, relay="", carry=False):
    """A peer's process, and what it says first: its id and addresses."""
    process = bench.start(name, sys.executable, "-c", NODE, str(number), host, relay, "carry" if carry else "")
    return process, process.hear()


def ask(process, whom):
    process.tell(whom)
    return process.hear(20)


@pytest.fixture
def bench():
    with Bench() as made:
        made.open("relay", RELAY)
        yield made
    left = subprocess.run(["ip", "netns", "list"], capture_output=True, text=True, check=True).stdout
    assert made.prefix not in left


@needs_routers
@pytest.mark.parametrize("kind", ["cone", "symmetric"])
def test_two_peers_behind_translators_talk_through_a_relay_and_not_without(bench, kind):
    bench.router("a", "11.0.0.10", "10.1.0", kind)
    bench.router("b", "11.0.0.20", "10.2.0", kind)
    node(bench, "relay", 0, RELAY, carry=True)
    one, first = node(bench, "a", 1, "10.1.0.2", f"{RELAY}:4001")
    other, second = node(bench, "b", 2, "10.2.0.2", f"{RELAY}:4001")
    assert any(address.startswith("relay:") for address in second[1])
    direct = [address for address in second[1] if not address.startswith("relay:")]
    answer, reach, _ = ask(one, [second[0], direct])
    assert answer.startswith(("PeerUnreachable", "RequestTimeout"))
    assert reach != "relayed"
    answer, reach, _ = ask(one, second)
    assert (answer, reach) == ("olleh", "relayed")
    answer, reach, _ = ask(other, first)
    assert (answer, reach) == ("olleh", "relayed")


@needs_routers
def test_who_is_behind_a_translator_talks_to_an_open_peer_directly_and_is_answered(bench):
    bench.router("a", "11.0.0.10", "10.1.0")
    bench.open("open", "11.0.0.30")
    node(bench, "relay", 0, RELAY, carry=True)
    one, first = node(bench, "a", 1, "10.1.0.2", f"{RELAY}:4001")
    other, second = node(bench, "open", 2, "11.0.0.30")
    assert ask(one, second)[:2] == ["olleh", "direct"]
    assert ask(other, first)[:2] == ["olleh", "direct"]  # over the link that the hidden one opened


@needs_driver
def test_lattica_punches_a_hole_through_cones():
    for told in between("cone", 0, calls=5):
        assert told == {"reach": "direct", "right": 5, "refused": []}
    assert not _left()


@needs_driver
def test_where_lattica_cannot_frames_go_sealed_through_a_relay_of_ours():
    for told in between("symmetric", 0, calls=5):
        assert told == {"reach": "relayed", "right": 5, "refused": []}
    assert not _left()


@needs_routers
def test_after_a_failure_nothing_is_left():
    held = []

    def fail():
        with Bench() as bench:
            bench.router("a", "11.0.0.10", "10.1.0")
            held.append(bench.start("a", "sleep", "60"))
            bench.at("a", "false")

    with pytest.raises(subprocess.CalledProcessError):
        fail()
    assert held[0].process.poll() is not None
    assert not _left()


@needs_routers
def test_a_process_that_says_nothing_is_not_waited_for(bench):
    with pytest.raises(TimeoutError, match="said nothing"):
        bench.start("relay", "sleep", "60").hear(0.01)


def test_a_machine_that_cannot_is_told_and_not_an_error(monkeypatch):
    def cannot(kind, seed):
        raise subprocess.CalledProcessError(1, ["nft"], stderr="no masquerade in this kernel\nmore")

    monkeypatch.setattr(namespaces, "missing", lambda: None)
    monkeypatch.setattr(namespaces, "between", cannot)
    found = findings(0)
    assert found.events == [f"{kind} routers: not finished: no masquerade in this kernel" for kind in namespaces.KINDS]
    assert found.metrics["direct_cone"] == found.metrics["calls_right_symmetric"] == 0


def _left():
    names = subprocess.run(["ip", "netns", "list"], capture_output=True, text=True, check=True).stdout.split()
    return [name for name in names if name.startswith(Bench().prefix)]
