"""Lattica: a network across address translators, with a DHT, blobs and replicated documents (arXiv 2510.00183).

One substrate for models and agents: every pair of peers is reachable, directly or through a relay; shared state lives
in documents that merge without conflict; artefacts are named by their content, found through a DHT and fetched from
many peers at once. Six trials, of which four run on a virtual clock:

    A  peers behind translators of five types ask each other, with relays and without
    B  replicas write in groups that cannot hear each other, then heal; beside whole documents that are overwritten
    C  a new version of an artefact reaches its followers: from each other, with a liar among them, from one source
    D  records are read after a share of the peers has fallen silent; with several replicas and with one
    E  processes on this machine use every service over TCP
    F  two network namespaces behind two real routers, cones and then symmetric, over the lattica driver: direct once a
       hole is punched, else through a relay of ours. Needs root, nft, the driver and js-libp2p; says what it lacks

Read were the abstract and the code (GradientHQ/lattica). Where the code asks for a direct link, relayed frames are
accepted here, sealed end to end. Its documents are a map whose newest expiry wins; here they are delta CRDTs over
signed chains of operations, which the paper describes. DHT records are signed, and live in slots of their publishers.
Bitswap's scores of sources are replaced by a window of requests that a source keeps as long as it answers quickly.
The paper's rates of calls are measured in ``benchmarks/network.py``: wall time is no matter of a run's records.
"""

from collections.abc import Iterable
from dataclasses import replace

from hubless.claims import Claim, Lab, Result, Row, at_least, at_most, reported
from hubless.errors import ConfigError
from hubless.net.transports.sim import Link
from hubless.net.trials import namespaces
from hubless.net.trials.finding import Keys
from hubless.net.trials.merging import Apart
from hubless.net.trials.processes import Processes
from hubless.net.trials.reaching import Dials, read_mix
from hubless.net.trials.sync import Artefact
from hubless.options import Count, Fraction, NonNegative, Positive, Whole
from hubless.recipe import recipe
from hubless.run.stages import Stage, Stages


@recipe(system=6)
def lattica(
    stages: str = "ABCDEF",
    peers: Count = 60,
    relays: Whole = 3,
    mix: str = "open=10,full=10,addr=10,port=42,sym=28",
    latency_least: NonNegative = 20.0,
    latency_most: NonNegative = 150.0,
    loss: Fraction = 0.01,
    replicas: Count = 30,
    sides: Count = 3,
    apart: Positive = 60.0,
    writes: Count = 300,
    every: Positive = 1.0,
    followers: Count = 20,
    artefact: Positive = 8.0,
    uplink: Positive = 1.0,
    liars: Whole = 1,
    flight: Count = 4,
    chunk: Count = 256,
    nodes: Count = 200,
    keys: Count = 300,
    killed: Fraction = 0.2,
    copies: Count = 8,
    width: Whole = 0,
    processes: Count = 5,
    deadline: Positive = 30.0,
    seed: Whole = 0,
) -> Stages:
    """A peer-to-peer network tried in stages, each beside its baseline.

    Args:
        stages: which trials to run, in this order: letters from A to F
        peers: A: peers that ask each other
        relays: A: peers with a public address that carry frames for others
        mix: A: percent of the peers behind each type of translator: open, full, addr, port, sym, blocked
        latency_least: A, C, D: least latency between two peers, in ms
        latency_most: A, C, D: most latency between two peers, in ms
        loss: A, B, D: share of the frames that are lost
        replicas: B: replicas of the document
        sides: B: groups that cannot hear each other
        apart: B: virtual seconds of the partition
        writes: B: operations of each side during the partition
        every: B: virtual seconds between two exchanges of a replica
        followers: C: peers that want the artefact
        artefact: C: its size in MB
        uplink: C: what a peer can send, in MB/s
        liars: C: further peers that offer it and change a byte of every piece
        flight: C: requests to one source at a time
        chunk: C: size of a piece in KiB
        nodes: D: peers of the DHT
        keys: D: records that are put and read
        killed: D: share of the peers that fall silent in between
        copies: D: peers that are asked to keep a record; the baseline asks one
        width: D: nearest peers that a lookup wants; 0: 8, and 20 above 200 peers
        processes: E: processes on this machine
        deadline: E: seconds each has for all operations
    """
    link = Link(latency=(latency_least / 1000, latency_most / 1000))
    lossy = replace(link, loss=loss)
    trials = {
        "A": Stage("A: reach", Dials(peers, read_mix(mix, "lattica.mix"), relays, lossy).findings),
        "B": Stage("B: merge", Apart(replicas, sides, apart, writes, every, loss).findings),
        "C": Stage("C: sync", Artefact(followers, artefact, uplink, True, liars, flight, chunk, link).findings),
        "D": Stage("D: find", Keys(nodes, keys, killed, copies, width, lossy).findings),
        "E": Stage("E: processes", Processes(processes, artefact, deadline).findings),
        "F": Stage("F: namespaces", namespaces.findings),
    }
    if not stages or [letter for letter in trials if letter in stages] != list(stages):
        raise ConfigError(
            f"lattica.stages = {stages!r}: must be some of {''.join(trials)}, each once and in that order"
        )
    return Stages([trials[letter] for letter in stages], world={"peers": peers, "names": {"stages": stages}})


presets = {
    "tiny": dict(stages="ABCD", peers=10, relays=1, replicas=6, sides=2, apart=6.0, writes=20, followers=4,
                 artefact=0.5, chunk=32, nodes=16, keys=10),
    "paper": dict(latency_most=300.0, artefact=64.0, followers=50, nodes=800, keys=1000, deadline=120.0),
}  # fmt: skip


def _reaches(lab: Lab) -> Iterable[Row]:
    runs = lab.runs(default={})["default"]
    direct = [100 * run.final("direct_share") for run in runs]
    said = "pairs with a direct link"
    yield at_least(said, direct, 63.0, unit="%", paper="about 70 % of situations")
    yield at_most(said, direct, 75.0, unit="%", paper="about 70 % of situations")
    yield at_least(
        "pairs that exchange a request", [100 * run.final("answered_share") for run in runs], 100.0, unit="%"
    )
    without = [100 * abs(run.final("answered_share_without_relays") - run.final("direct_share")) for run in runs]
    yield at_most("without relays: pairs that exchange a request, beside those with a direct link", without, 0.0,
                  unit="points")  # fmt: skip
    for how in ("direct", "relayed"):
        yield reported(f"median time of a request, {how}", [run.final(f"seconds_{how}") for run in runs], unit="s")


def _merges(lab: Lab) -> Iterable[Row]:
    runs = lab.runs(default={})["default"]
    yield at_most("exchanges of a replica from healing until all are equal", _each(runs, "heal_rounds"), 8.0)
    yield at_least("all replicas are the same bytes", _each(runs, "replicas_equal"), 1.0)
    yield at_most("operations lost", _each(runs, "operations_lost"), 0.0)
    yield at_least("every counter is exact", _each(runs, "counter_exact"), 1.0)
    lost = [100 * run.final("adds_lost_share_overwriting") for run in runs]
    yield at_least("additions lost where documents are overwritten whole", lost, 10.0, unit="%")


def _syncs(lab: Lab) -> Iterable[Row]:
    runs = lab.runs(default={})["default"]
    yield at_least("time from one source / time from many", _each(runs, "sync_speedup"), 3.0)
    yield at_least("followers with the right bytes, in every arm", _each(runs, "synced_share"), 1.0)
    yield at_least("pieces refused of the peer that changes them", _each(runs, "pieces_refused"), 1.0)
    yield reported("time from many, one of them a liar", _each(runs, "sync_seconds_some_lie"), unit="s")
    yield reported("time from many", _each(runs, "sync_seconds"), unit="s")


def _finds(lab: Lab) -> Iterable[Row]:
    runs = lab.runs(default={})["default"]
    yield at_least("records found, 8 replicas", [100 * run.final("found_share") for run in runs], 97.0, unit="%")
    one = [100 * run.final("found_share_one_replica") for run in runs]
    yield at_most("records found, 1 replica (arithmetic: 80 %)", one, 85.0, unit="%")
    yield reported("rounds of a lookup", _each(runs, "lookup_rounds"))


def _works(lab: Lab) -> Iterable[Row]:
    runs = lab.runs(default={})["default"]
    yield at_least("of five operations, right in all processes within 30 s", _each(runs, "operations_right"), 5.0)


def _each(runs: list[Result], metric: str) -> list[float]:
    return [run.final(metric) for run in runs]


claims = [
    Claim("Behind a usual mix of translators two thirds of the pairs connect directly, and all with relays.", _reaches,
          paper="direct connectivity in about 70 % of the situations"),
    Claim("Replicas that wrote apart become equal soon and lose nothing.", _merges,
          paper="conflict-free replicated data, eventually consistent"),
    Claim("An artefact spreads sooner from many sources, and a lying one changes nothing.", _syncs,
          paper="models distributed by content from many peers"),
    Claim("Records outlive a fifth of the peers.", _finds, paper="content found through a Kademlia DHT"),
    Claim("Processes on one machine use every service, over TCP.", _works),
]  # fmt: skip
