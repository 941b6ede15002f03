"""The lattica driver: its ids and calls here; on real nodes where the SDK and a network namespace are to be had."""

import asyncio
import importlib.util
import shutil
import subprocess
import sys

import pytest

from hubless.errors import ConfigError
from hubless.net.identity import Identity
from hubless.net.transports import lattica
from hubless.net.transports.framing import LENGTH
from hubless.net.transports.lattica import LatticaTransport
from hubless.net.transports.libp2p_names import base58_id

INSTALLED = importlib.util.find_spec("lattica_python_core") is not None
NAMESPACE = ["unshare", "-n", "sh", "-c", 'ip link set lo up && exec "$@"', "sh"]
CONVERSE = """
from hubless.testing import check_network
from hubless.net.identity import Identity
from hubless.net.transports.lattica import LatticaTransport
from lattica_python_core import LatticaSDK
meeting = LatticaSDK({"listen_addrs": ["/ip4/127.0.0.1/tcp/7331"], "with_mdns": False, "with_upnp": False})
known = [f"/ip4/127.0.0.1/tcp/7331/p2p/{meeting.peer_id()}"]
checks = ["echo", "one_way", "many_in_flight", "large_bodies", "oversize_frame", "forged_signature", "junk_frames"]
check_network(lambda identity: LatticaTransport(identity, bootstraps=known), only=checks)
print("all hold", flush=True)
import os
os._exit(0)  # the SDK's threads do not end by themselves
"""


class SDK:
    """A node that carries nothing."""

    def __init__(self, config):
        self.config = config


@pytest.fixture
def transport(monkeypatch):
    class Module:
        LatticaSDK = SDK

    monkeypatch.setattr(lattica.importlib, "import_module", lambda name: Module)
    made = LatticaTransport(Identity.derived(0, 0), port=7000)
    made._node = SDK({})
    return made


@pytest.mark.skipif(INSTALLED, reason="the extra lattica is installed")
def test_without_the_sdk_the_extra_is_named():
    with pytest.raises(ConfigError, match=r"pip install 'hubless\[lattica\]'"):
        LatticaTransport(Identity.derived(0, 0))


def test_frames_of_a_call_come_out_in_order_and_torn_ones_are_counted(transport):
    heard = []
    transport.on_frame(lambda peer, frame: heard.append((peer, frame)))
    frames = [b"", b"a", b"bc" * 1000]
    whole = b"".join(LENGTH.pack(len(frame)) + frame for frame in frames)
    transport._hear(whole)
    assert heard == [(None, frame) for frame in frames]
    for torn in (whole[:-1], whole + b"\0", LENGTH.pack(1 << 30) + b"x"):
        transport._hear(torn)
    assert transport.stats == {"reject:malformed": 3}


def test_a_box_is_emptied_in_order_a_call_at_a_time():
    box = lattica.Outbox()
    frames = [bytes([i]) * 400_000 for i in range(5)]
    box.frames.extend(frames)
    body, count = box.take()
    assert count == 3, "what goes beyond a mebibyte goes in the next"
    assert body == b"".join(LENGTH.pack(400_000) + frame for frame in frames[:3])
    assert box.take()[1] == 2


def test_what_cannot_be_taken_in_time_is_dropped_and_counted(transport):
    async def main():
        transport._loop = asyncio.get_running_loop()
        for _ in range(4):
            transport._taken(bytes(8 << 20))  # zero lengths: empty frames are as good as any
        assert transport.stats["drop:backlog"] == 1
        transport._taken(b"")
        transport._node = None
        await asyncio.sleep(0)
        assert transport._taking == 0

    asyncio.run(main())


def test_addresses_say_where_and_who(transport):
    own = base58_id(transport.peer_id)
    assert transport.addresses() == [
        f"/ip4/127.0.0.1/tcp/7000/p2p/{own}", f"/ip4/127.0.0.1/udp/7000/quic-v1/p2p/{own}",
    ]  # fmt: skip


def test_a_free_port_is_looked_for_each_time():
    assert len({lattica._free_port("127.0.0.1") for _ in range(4)}) > 1


@pytest.mark.skipif(not INSTALLED, reason="the extra lattica is not installed")
def test_peers_that_meet_at_a_third_one_keep_the_contract():
    if shutil.which("unshare") is None or subprocess.run([*NAMESPACE, "true"], check=False).returncode:
        pytest.skip("the SDK contacts public hosts, and no network namespace can be made here")
    done = subprocess.run(
        [*NAMESPACE, sys.executable, "-c", CONVERSE], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.stdout.rstrip().endswith("all hold"), done.stderr[-3000:]
