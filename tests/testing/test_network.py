"""The conformance suite of the message side: what keeps the contract passes, what does not is told how to."""

import os

import pytest

from hubless.errors import ConfigError
from hubless.net.network import Network
from hubless.net.transports.sim import Link, SimTransport, SimWorld
from hubless.net.transports.tcp import TcpTransport
from hubless.testing import check_network
from hubless.testing.network import NETWORK_CHECKS, SIMULATED_ONLY

WORLD = SimWorld(1)
LOSSY = SimWorld(1, Link(jitter=0.02, loss=0.01, duplicate=0.02, reorder=0.05, bandwidth=5e6))


def simulated(identity):
    """A peer whose links delay frames and do nothing else to them."""
    return SimTransport(WORLD, identity.peer_id)


def lossy(identity):
    """A peer whose links do what links can do."""
    return SimTransport(LOSSY, identity.peer_id)


class Unproven(SimTransport):
    """Links that do not say who is at the other end."""

    authenticated = False

    def on_frame(self, handler):
        super().on_frame(lambda source, frame: handler(None, frame))


class Relayed(SimTransport):
    """A peer that is reached by a relay only."""

    def __init__(self, identity):
        super().__init__(RELAYED, identity.peer_id, "sym")

    async def start(self):
        if "relay" not in self.world.peers:
            await SimTransport(self.world, "relay").start()
        await super().start()

    async def close(self):
        await super().close()
        if list(self.world.peers) == ["relay"]:
            await self.world.peers["relay"].close()


RELAYED = SimWorld(1)
RELAYED.relays = ["relay"]


@pytest.mark.parametrize("name", NETWORK_CHECKS)
def test_simulated_peers(name):
    check_network(simulated, simulated=True, only=[name])


@pytest.mark.parametrize("name", [name for name in NETWORK_CHECKS if name not in SIMULATED_ONLY])
def test_tcp_peers(name):
    check_network(TcpTransport, only=[name])


@pytest.mark.parametrize("name", NETWORK_CHECKS)
def test_peers_whose_links_prove_nobody(name):
    check_network(lambda identity: Unproven(WORLD, identity.peer_id), simulated=True, only=[name])


@pytest.mark.parametrize("name", [name for name in NETWORK_CHECKS if name != "claimed_source"])
def test_relayed_peers(name):
    check_network(Relayed, simulated=True, only=[name])


@pytest.mark.parametrize("name", ["publish_to_five", "blob_of_ten_megabytes", "records_outlive_a_peer",
                                  "records_have_owners", "junk_frames", "same_twice"])  # fmt: skip
def test_services_on_links_that_lose_repeat_and_reorder(name):
    check_network(lossy, simulated=True, only=[name])


class Unlimited(SimTransport):
    """Sends frames of any size."""

    def send(self, peer, frame):
        self.max_frame = 1 << 40
        super().send(peer, frame)
        self.max_frame = self.world.max_frame


class Stuttering(SimTransport):
    """Hears everything twice."""

    def on_frame(self, handler):
        super().on_frame(lambda source, frame: (handler(source, frame), handler(source, frame)))


class Forgetful(SimTransport):
    """Loses every fifth frame."""

    count = 0

    def send(self, peer, frame):
        self.count += 1
        if self.count % 5:
            super().send(peer, frame)


class Abrupt(SimTransport):
    """Leaves without a word."""

    async def close(self):
        self._links.clear()
        await super().close()


class Repeating(SimTransport):
    """Says of a lost peer twice that it is lost."""

    def on_lost(self, handler):
        super().on_lost(lambda peer: (handler(peer), handler(peer)))


class Gullible(SimTransport):
    """Believes what a frame says about who sent it."""

    def on_frame(self, handler):
        super().on_frame(lambda source, frame: handler(frame[14:46].hex() if frame[0] == 2 else source, frame))


class Unseeded(SimTransport):
    """Places itself anew in every run."""

    def __init__(self, world, peer_id):
        super().__init__(world, peer_id)
        self.position = int.from_bytes(os.urandom(3))


class Trusting(Network):
    """Forgets what it has heard."""

    def _hear(self, link, frame):
        self._frames.guard.windows.clear()
        super()._hear(link, frame)


class Careless(Network):
    """Takes an answer from anybody."""

    def _settle(self, kind, ident, src, body):
        peer, _ = self._pending.get(ident, (src, None))
        super()._settle(kind, ident, peer, body)


class Serial(Network):
    """Runs one handler after another."""

    def inbox(self, name, handler, *, limit=None, queue=None):
        return super().inbox(name, handler, limit=1, queue=queue)


class Timeless(Network):
    """Does not let deadlines travel."""

    def _post(self, kind, ident, peer, proto, ttl, body):
        super()._post(kind, ident, peer, proto, 0, body)


@pytest.mark.parametrize(
    ("broken", "name", "fix"),
    [
        (Unlimited, "oversize_frame", "a request over max_frame must raise"),
        (Stuttering, "one_way", "overtake each other, or arrive twice"),
        (Forgetful, "one_way", "are lost on a link that loses nothing"),
        (Abrupt, "closed_during_request", "let on_lost fail those"),
        (Abrupt, "lost_links", "watch for the end of the connection"),
        (Repeating, "lost_links", "once a peer"),
        (Gullible, "claimed_source", "drop it, count it"),
        (Unseeded, "same_twice", "iterate over no set of ids"),
        (Trusting, "replayed_frame", "drop it, count it"),
        (Careless, "reply_from_another", "compare src with whom was asked|not counted"),
        (Serial, "slow_handlers_in_parallel", "only 1 of 16"),
        (Timeless, "deadlines_travel", "drop what waited past ttl_ms"),
    ],
)
def test_what_breaks_the_contract_is_told_how_to_mend_it(broken, name, fix):
    is_network = issubclass(broken, Network)
    transport = SimTransport if is_network else broken
    with pytest.raises(AssertionError, match=f"{name}: .*({fix})"):
        check_network(
            lambda identity: transport(WORLD, identity.peer_id),
            simulated=True,
            only=[name],
            network=broken if is_network else Network,
        )


def test_an_unknown_check_is_an_error():
    with pytest.raises(ConfigError, match="did you mean 'echo'"):
        check_network(simulated, simulated=True, only=["ecko"])


def test_what_needs_a_virtual_clock_is_left_out_on_a_real_one():
    check_network(TcpTransport, only=SIMULATED_ONLY)
