"""Frames over libp2p: as over any transport, and to and from a peer of js-libp2p."""

import asyncio
import gc
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
from hubless.net.transports.libp2p_names import base58_id
from hubless.net.transports.relayed import RelayedTransport
from hubless.net.trials import routers
from hubless.testing.network import NETWORK_CHECKS, SIMULATED_ONLY, check_network

HERE = Path(__file__).parent
LIBRARY = importlib.util.find_spec("libp2p") is not None
needs_library = pytest.mark.skipif(not LIBRARY, reason="needs the extra libp2p")
PACKAGES = (
    "libp2p@3", "@libp2p/tcp@11", "@chainsafe/libp2p-noise@17", "@chainsafe/libp2p-yamux@8", "@libp2p/identify@4",
    "@libp2p/crypto@5", "@libp2p/circuit-relay-v2@4",
)  # fmt: skip


@pytest.fixture(autouse=True)
def _quiet():
    """The library logs what fails; here much does on purpose."""
    logging.disable(logging.CRITICAL)
    yield
    gc.collect()  # sockets that the library leaves open, told while its warnings are ignored
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
        for relay in ("nonsense", "/ip4/127.0.0.1/tcp/1"):
            with pytest.raises(ConfigError, match=r"libp2p\.relays"):
                Libp2pTransport(Identity.derived(0, 0), relays=[relay])
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
        known = {peer.peer_id: f"/p2p/{base58_id(peer.peer_id)}" for peer in (one, two)}
        relay = f"/ip4/127.0.0.1/tcp/1{known[one.peer_id]}"
        for circuit in ("/p2p-circuit", f"{relay}/p2p-circuit{known[one.peer_id]}"):  # by no relay; to another peer
            one.add_hint(two.peer_id, [circuit])
        assert one.stats["reject:address"] == 4
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


@pytest.mark.filterwarnings("ignore")
def test_a_peer_is_reached_through_a_relay_and_streams_move_to_the_direct_connection(js_folder):
    """Both are on this machine, so that the library's hole punching finds a direct way within seconds."""
    if not (js_folder / "node_modules" / "@libp2p" / "circuit-relay-v2").exists():
        pytest.skip("needs the relay of js-libp2p")
    source = Path(routers.__file__).with_name("relay.mjs").read_text()
    process = subprocess.Popen(
        ["node", "--input-type=module", "--eval", source, "--", "127.0.0.1", "0"],
        cwd=js_folder, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip

    async def main(relay):
        identities = [Identity.derived(2, i) for i in range(2)]
        caller, hidden = Libp2pTransport(identities[0]), Libp2pTransport(identities[1], relays=[relay])
        nets = [await Network(*pair).start() for pair in zip((caller, hidden), identities, strict=True)]
        nets[1].serve("echo", lambda ctx, body: body[::-1])
        await _until(lambda: len(hidden.addresses()) == 2)
        circuit = hidden.addresses()[1]
        assert circuit.startswith(relay + "/p2p-circuit/p2p/")
        nets[0].introduce(hidden.peer_id, [circuit])
        assert caller.reach(hidden.peer_id) == "relayed"
        assert await nets[0].request(hidden.peer_id, "echo", b"hello") == b"olleh"
        assert not caller.stats["streams renewed"]
        await _until(lambda: caller.reach(hidden.peer_id) == "direct")
        assert await nets[0].request(hidden.peer_id, "echo", b"again") == b"niaga"
        assert caller.stats["streams renewed"] == 1
        process.kill()  # the relay; without it there is no slot
        await _until(lambda: hidden.addresses() == [hidden._listen()])
        assert await nets[0].request(hidden.peer_id, "echo", b"still") == b"llits"
        for net in nets:
            await net.close()

    try:
        asyncio.run(main(json.loads(process.stdout.readline())[0]))
    finally:
        process.kill()
        process.wait(10)
        process.stdin.close()
        process.stdout.close()
