"""Frames over libp2p: as over any transport, and to and from a peer of js-libp2p."""

import asyncio
import importlib.util
import json
import logging
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from hubless.errors import ConfigError, FrameTooLarge, PeerUnreachable
from hubless.net.identity import Identity
from hubless.net.network import Network
from hubless.net.policy import Limits
from hubless.net.transports.libp2p import Libp2pTransport
from hubless.net.transports.relayed import RelayedTransport
from hubless.testing.network import NETWORK_CHECKS, SIMULATED_ONLY, check_network

HERE = Path(__file__).parent
LIBRARY = importlib.util.find_spec("libp2p") is not None
needs_library = pytest.mark.skipif(not LIBRARY, reason="needs the extra libp2p")
PACKAGES = (
    "libp2p@3", "@libp2p/tcp@11", "@chainsafe/libp2p-noise@17", "@chainsafe/libp2p-yamux@8", "@libp2p/identify@4",
    "@libp2p/crypto@5",
)  # fmt: skip


@pytest.fixture(autouse=True)
def _quiet():
    """The library logs what fails; here much does on purpose."""
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


@pytest.mark.skipif(LIBRARY, reason="the extra is installed")
def test_without_the_extra_the_error_names_it():
    with pytest.raises(ConfigError, match=r"pip install 'hubless\[libp2p\]'"):
        Libp2pTransport(Identity.derived(0, 0))


@needs_library
@pytest.mark.filterwarnings("ignore")  # of the library and what it needs
@pytest.mark.parametrize("name", [name for name in NETWORK_CHECKS if name not in SIMULATED_ONLY])
def test_it_is_a_transport(name):
    check_network(Libp2pTransport, only=[name])


@needs_library
@pytest.mark.filterwarnings("ignore")
def test_what_cannot_be_is_an_error():
    async def main():
        with pytest.raises(ConfigError, match=r"libp2p\.port"):
            Libp2pTransport(Identity.derived(0, 0), port=70_000)
        one, two = (
            Libp2pTransport(Identity.derived(0, 0)),
            Libp2pTransport(Identity.derived(0, 1), limits=Limits(frame=99)),
        )
        with pytest.raises(PeerUnreachable, match="not started"):
            one.send(two.peer_id, b"x")
        await one.start()
        taken = Libp2pTransport(Identity.derived(0, 2), port=one.port)
        with pytest.raises(ConfigError, match=r"libp2p\.listen"):
            await taken.start()
        with pytest.raises(PeerUnreachable, match="no address"):
            await one.ready(two.peer_id)
        await two.start()
        one.add_hint(two.peer_id, ["nonsense", "/ip4/999.0.0.1/tcp/1", *two.addresses()])
        assert one.stats["reject:address"] == 2
        heard = []
        two.on_frame(lambda peer, frame: heard.append(frame))
        one.send(two.peer_id, bytes(100))  # more than the other takes: it resets the stream
        await _until(lambda: two.stats["reject:oversize"] == 1)
        with pytest.raises(FrameTooLarge):
            two.send(one.peer_id, bytes(100))
        await _until(lambda: one.peer_id not in one._ways)
        await one.close()
        await one.close()
        await two.close()
        assert heard == []

    asyncio.run(main())


@needs_library
@pytest.mark.filterwarnings("ignore")
def test_relays_of_our_own_work_over_it():
    async def main():
        nets = []
        for i in range(2):
            identity = Identity.derived(1, i)
            relays = {nets[0].peer_id: nets[0].transport.addresses()} if nets else {}
            transport = RelayedTransport(Libp2pTransport(identity), relays, carry=not nets)
            nets.append(await Network(transport, identity).start())
        await _until(lambda: nets[1].transport.slots)
        assert any(address.startswith("relay:") for address in nets[1].transport.addresses())
        for net in nets:
            await net.close()

    asyncio.run(main())


async def _until(true):
    async with asyncio.timeout(10):
        while not true():
            await asyncio.sleep(0.02)


@pytest.fixture(scope="module")
def js_folder(tmp_path_factory):
    """Where js-libp2p is: a folder named by HUBLESS_JS_LIBP2P, or one into which npm installs it."""
    if not LIBRARY:
        pytest.skip("needs the extra libp2p")
    if not (shutil.which("node") and shutil.which("npm")):
        pytest.skip("needs node and npm")
    folder = Path(os.environ.get("HUBLESS_JS_LIBP2P") or tmp_path_factory.mktemp("js"))
    if not (folder / "node_modules" / "libp2p").exists():
        command = ["npm", "install", "--no-audit", "--no-fund", "--ignore-scripts", *PACKAGES]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=200, check=False)
        if done.returncode:
            pytest.skip(f"npm could not install js-libp2p: {done.stderr.strip()[-200:]}")
    script = folder / "peer.mjs"
    script.write_text((HERE / "libp2p_peer.mjs").read_text())
    return folder


@pytest.mark.filterwarnings("ignore")
def test_frames_go_to_a_js_peer_and_come_back(js_folder):
    """The js peer opens a stream of its own and sends every frame back, so both ends open and both accept one."""
    process = subprocess.Popen(
        ["node", "peer.mjs"], cwd=js_folder, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    frames = [b"", b"hello", bytes(range(256)) * 4, b"\x05" * 300_000]

    async def main(other):
        transport, heard = Libp2pTransport(Identity.derived(0, 0)), []
        transport.on_frame(lambda peer, frame: heard.append((peer, frame)))
        await transport.start()
        transport.add_hint(other["key"], other["addresses"])
        await transport.ready(other["key"])
        for frame in frames:
            transport.send(other["key"], frame)
        await _until(lambda: len(heard) == len(frames))
        assert heard == [(other["key"], frame) for frame in frames]
        assert transport.reach(other["key"]) == "direct"
        await transport.close()

    try:
        asyncio.run(main(json.loads(process.stdout.readline())))
    finally:
        process.stdin.close()
        process.wait(10)
        process.stdout.close()
