"""The conformance suite of the message side, over the transports that are always there."""

import pytest

from hubless.net.transports.sim import SimTransport, SimWorld
from hubless.net.transports.tcp import TcpTransport
from hubless.testing import check_network
from hubless.testing.network import NETWORK_CHECKS, SIMULATED_ONLY

WORLD = {}


def simulated(identity):
    """A peer of a world that is made anew for every run."""
    return SimTransport(WORLD.setdefault("world", SimWorld(1)), identity.peer_id)


@pytest.mark.parametrize("name", NETWORK_CHECKS)
def test_simulated_peers(name):
    check_network(simulated, simulated=True, only=[name])


@pytest.mark.parametrize("name", [name for name in NETWORK_CHECKS if name not in SIMULATED_ONLY])
def test_tcp_peers(name):
    check_network(TcpTransport, only=[name])
