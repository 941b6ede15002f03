import asyncio

from hubless.net.crdt.store import CrdtStore
from hubless.net.identity import Identity
from hubless.net.network import Network
from hubless.net.transports.tcp import TcpTransport


def test_stores_with_folders_converge_over_sockets(tmp_path):
    async def main():
        people = [Identity.derived(11, i) for i in range(3)]
        members = [who.peer_id for who in people]
        nets = [await Network(TcpTransport(who), who).start() for who in people]
        try:
            for net in nets:
                for other in nets:
                    net.transport.add_hint(other.peer_id, other.transport.addresses())
            stores = [CrdtStore(net, "doc", lambda: members, every=0, folder=tmp_path / net.peer_id) for net in nets]
            for n in range(60):
                stores[n % 3].add("s", n), stores[n % 3].incr("n"), stores[n % 3].set("m", str(n), bytes(3000))
            for store in stores:
                await asyncio.gather(*(store.exchange(peer) for peer in members if peer != store.net.peer_id))
            for store in stores[:2]:
                await store.exchange(members[2])
            assert len({store.digest() for store in stores}) == 1
            assert stores[0].value("n") == 60
            digest = stores[0].digest()
            for store in stores:
                store.close()
            again = CrdtStore(nets[0], "doc", lambda: members, every=0, folder=tmp_path / members[0])
            assert again.digest() == digest
            again.close()
        finally:
            for net in nets:
                await net.close()

    asyncio.run(main())
