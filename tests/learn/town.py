"""Nodes in one process, over a simulated network."""

import asyncio

from hubless import catalogue
from hubless.learn.node.deployable import agreement, deployable, places, rules
from hubless.learn.node.node import Node, Pace
from hubless.net.identity import Identity
from hubless.net.network import Network
from hubless.net.transports.sim import Link, SimTransport, SimWorld, run_sim
from hubless.run.checkpoint import Identity as RunIdentity

LINK = Link(latency=(0.02, 0.1))


def settled(recipe, **options):
    """A recipe and its options, those of the preset tiny where none are given."""
    loaded = catalogue.find(recipe).load()
    return loaded, loaded.resolve(options, "tiny")


def simulated(recipe, **options):
    """The run of a simulation, done, and its records."""
    loaded, values = settled(recipe, **options)
    run = loaded.build(values)
    records = list(run.records())
    return run, records


class Town:
    """One node for each place of a run, in a simulated world; not all need to run."""

    def __init__(self, recipe, pace=None, link=LINK, homes=None, **options):
        self.name = recipe
        self.recipe, self.options = settled(recipe, **options)
        self.run = deployable(self.recipe.build(self.options), recipe)
        self.places = places(self.run)
        self.pace = pace or Pace(period=5.0, grace=1.0, gather=20.0)
        self.world = SimWorld(0, link=link)
        self.identities = [Identity.derived(1, i) for i in range(len(self.places))]
        self.rules = rules(self.run, agreement(recipe, self.options))
        self.homes = homes
        self.nodes = {}

    async def node(self, i, contacts=None, **more):
        """Node i to its end."""
        identity = self.identities[i]
        net = await Network(SimTransport(self.world, identity.peer_id), identity).start()
        run = deployable(self.recipe.build(self.options), self.name)
        home = None if self.homes is None else self.homes / str(i)
        which = RunIdentity(self.name, "test", "test")
        self.nodes[i] = node = Node(run, net, self.places[i], self.rules, self.pace, home=home, identity=which, **more)
        try:
            first = self.identities[0 if i else 1].peer_id
            await node.go([first] if contacts is None else contacts)
        finally:
            await net.close()

    def row(self, peer):
        """A peer's row at the end."""
        node = next(node for node in self.nodes.values() if peer in node.held)
        return node.shard.wiring.population.peer(peer)[1]

    def apart(self, run, peers=None):
        """The largest difference to the rows of a simulation."""
        theirs = run._state.wiring.population
        rows = {p: theirs.cohorts[0].rows[0] if theirs.shared else theirs.peer(p)[1] for p in range(run.n)}
        return max(float((self.row(p) - rows[p]).abs().max()) for p in (peers or range(run.n)))


def play(town, *more):
    """Run all nodes of a town, or other coroutines."""

    async def main():
        await asyncio.gather(*(more or [town.node(i) for i in range(len(town.places))]))

    run_sim(main())
    return town
