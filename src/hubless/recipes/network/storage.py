"""Decentralised storage: chain, tangle, DHT and hashgraph behind one interface, and MPISA over them.

Six trials on a virtual clock compare five ways of keeping records, one of them twice (a chain by proof of work and by
authorities in turn), under one workload:

    A  each engine at each latency and rate: confirmed records a second, time to finality, costs, stale blocks, storage
    B  a share of the peers crashes; two halves do not hear each other for a while
    C  one peer changes one record that it keeps, and all others read it from there
    D  a hashgraph with as many faulty members as it may have, silent or telling two stories, and with one more
    E  lookups in a DHT of growing size
    F  a mixed workload routed by MPISA: what a peer keeps, and one anchor root that proves every record

Source: "Data Storage in the Decentralized World: Blockchain and Derivatives", 2020, a survey, of which the abstract was
read. It has no experiment: the engines, the comparison and all thresholds are ours. It names the trade-offs (speed,
scalability, energy, interoperability, privacy, quantum risk), which the table of stage A shows.

One record fills a block, so that the block rate is the load. Mining is simulated as a Poisson process whose tries are
counted and not made; with every block that is found a record comes to its finder, so that no block is empty. Blocks of
authorities come as often as records, but not sooner than one takes to reach everybody. A block is final at depth 6, or
by votes of more than two thirds of the authorities for two blocks in a row: votes for one alone would let two halves of
a partition hold different blocks for final, or none ever again.
Computing takes no virtual time; signatures are made and checked for real, each once a process.

What is seen beyond the claims: the database is fastest and cheapest while its one server is up and honest. A depth of
6 is not enough where most blocks are stale: with 5 records a second and 1 s latency finality by work is undone. A
hashgraph's finality is later than six blocks take by themselves, and sooner than a record's, which also waits for its
block; its gossip costs many times the bytes of any other engine.
"""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Literal

from pydantic import Field

from hubless.claims import Claim, Lab, Result, Row, at_least, at_most, reported
from hubless.errors import ConfigError, did_you_mean
from hubless.ledger.suites import HASHES
from hubless.ledger.trials.comparison import Loads, Upsets
from hubless.ledger.trials.lookups import Sizes
from hubless.ledger.trials.mixed import Routed
from hubless.ledger.trials.safety import Faults, Lies
from hubless.ledger.trials.town import ENGINES, Tuning
from hubless.options import Annotated, Count, Fraction, NonNegative, Positive, Whole
from hubless.recipe import recipe
from hubless.run.stages import Stage, Stages


@recipe(system=48)
def storage(
    stages: str = "ABCDEF",
    engines: str = "central,work,authority,tangle,dht,hashgraph",
    peers: Annotated[int, Field(ge=4)] = 20,
    seconds: Positive = 300.0,
    latencies: str = "0.1,1,3",
    rates: str = "1,5",
    crashed: Fraction = 0.3,
    apart: NonNegative = 30.0,
    records: Annotated[int, Field(ge=2)] = 20,
    faulty: Annotated[int, Field(ge=-1)] = -1,
    sizes: str = "50,100,200,400,800,1600",
    keys: Count = 60,
    copies: Count = 4,
    tips: Literal["uniform", "walk"] = "uniform",
    alpha: NonNegative = 0.01,
    depth: Count = 6,
    bits: Whole = 20,
    suite: str = "sha256",
    seed: Whole = 0,
) -> Stages:
    """Engines that keep records, compared in stages.

    Args:
        stages: which trials to run, in this order: letters from A to F
        engines: A, B, C: which of central, work, authority, tangle, dht, hashgraph
        peers: A to D, F: peers
        seconds: A, B: virtual seconds of a run; D takes a fifth of them and F two fifths
        latencies: A: mean latencies, one way, in s; pairs lie within half of it on either side. B takes the lowest
        rates: A: records a second. B takes the lowest
        crashed: B: share of the peers that crash
        apart: B: seconds for which two halves do not hear each other
        records: C: records that are written
        faulty: D: faulty members; -1 is the most that are fewer than a third
        sizes: E: numbers of peers
        keys: E: records that are put and read
        copies: F: peers that keep a bulk record
        tips: how a tangle chooses what to approve
        alpha: of the walk that chooses tips: more prefers heavy ones
        depth: blocks on top that make one final by work
        bits: difficulty of the work, as leading zero bits of a hash
        suite: hash suite of all ids and proofs: sha256, sha3-256, blake2b-256
    """
    chosen = _engines(engines)
    times = _numbers("latencies", latencies, 0.001)
    loads = _numbers("rates", rates, 0.001)
    if suite not in HASHES:
        raise ConfigError(f"storage.suite = {suite!r}: {did_you_mean(suite, HASHES)}")
    if copies > peers:
        raise ConfigError(f"storage.copies = {copies}: must be at most peers = {peers}")
    most = (peers - 1) // 3 if faulty < 0 else faulty
    if not most < peers - 2:
        raise ConfigError(f"storage.faulty = {faulty}: must leave two of {peers} peers after one more")
    tuning = Tuning(suite, bits, depth, alpha if tips == "walk" else None)
    compared = Loads(chosen, peers, seconds, times, 0.0, tuning)
    trials = {
        "A": [Stage(f"A: {rate:g} a second", replace(compared, rate=rate).findings) for rate in loads],
        "B": [Stage("B: upsets", Upsets(chosen, peers, seconds, min(times), min(loads), crashed, apart,
                                        tuning).findings)],
        "C": [Stage("C: tampering", Lies(chosen, peers, records, tuning).findings)],
        "D": [Stage("D: faulty members", Faults(peers, most, 0.1, 1.0, seconds / 5).findings)],
        "E": [Stage("E: lookups", Sizes([round(n) for n in _numbers("sizes", sizes, 2)], keys, 0.1).findings)],
        "F": [Stage("F: mixed workload", Routed(peers, copies, 2 * seconds / 5).findings)],
    }  # fmt: skip
    if not stages or [letter for letter in trials if letter in stages] != list(stages):
        raise ConfigError(
            f"storage.stages = {stages!r}: must be some of {''.join(trials)}, each once and in that order"
        )
    picked = [stage for letter in stages for stage in trials[letter]]
    return Stages(picked, world={"peers": peers, "names": {"engines": ", ".join(chosen)}})


def _engines(text: str) -> list[str]:
    chosen = [name.strip() for name in text.split(",")]
    for name in chosen:
        if name not in ENGINES:
            raise ConfigError(f"storage.engines = {text!r}: {name!r} is none; {did_you_mean(name, ENGINES)}")
    if len(set(chosen)) < len(chosen):
        raise ConfigError(f"storage.engines = {text!r}: each at most once")
    return chosen


def _numbers(option: str, text: str, least: float) -> list[float]:
    try:
        numbers = [float(part) for part in text.split(",")]
    except ValueError:
        numbers = []
    if not numbers or not all(least <= number < 1e6 for number in numbers) or sorted(set(numbers)) != numbers:
        raise ConfigError(f"storage.{option} = {text!r}: must be numbers from {least:g} up, rising, such as 1,5")
    return numbers


presets = {
    "tiny": dict(peers=7, seconds=40.0, latencies="0.1,1", rates="1", apart=10.0, records=6, sizes="10,30", keys=6,
                 copies=2),
    "paper": dict(seconds=600.0, latencies="0.1,0.3,1,3", rates="1,5", keys=200),
}  # fmt: skip


def _asynchronous(lab: Lab) -> Iterable[Row]:
    runs = lab.runs(default={})["default"]
    for latency, rate, probe in ((1, 1, "0.98 vs 0.53"), (3, 1, "0.92 vs 0.32"), (1, 5, "4.8 vs 1.2"), (3, 5, "")):
        yield at_least(
            f"confirmed records/s, tangle / chain by work, {latency} s, {rate} a second",
            _ratio(runs, f"rate_tangle_{latency}s_{rate}", f"rate_work_{latency}s_{rate}"), 1.5,
            paper=f"probe {probe}" if probe else "",
        )  # fmt: skip
    close = _ratio(runs, "rate_tangle_0.1s_1", "rate_work_0.1s_1")
    yield at_most("the same at 0.1 s, 1 a second", close, 1.15, paper="probe 0.99 vs 0.92")
    yield at_least("the same at 0.1 s, 1 a second", close, 0.85, paper="probe 0.99 vs 0.92")
    for delay in ("0.1", "1", "3"):
        for engine in ("tangle", "work"):
            said = f"confirmed records/s, {engine}, {delay} s, 1 a second"
            yield reported(said, _each(runs, f"rate_{engine}_{delay}s_1"))


def _stale(lab: Lab) -> Iterable[Row]:
    runs = lab.runs(default={})["default"]
    low, middle, high = (_each(runs, f"stale_work_{latency}s_1") for latency in ("0.1", "1", "3"))
    more = "stale share of blocks by work, 1 a second:"
    yield at_least(f"{more} 1 s minus 0.1 s", _minus(middle, low), 0.1, paper="probe 0.07, 0.46, 0.68")
    yield at_least(f"{more} 3 s minus 1 s", _minus(high, middle), 0.1, paper="probe 0.07, 0.46, 0.68")
    for said, values in (("0.1 s", low), ("1 s", middle), ("3 s", high)):
        yield reported(f"{more} {said}", values)
    yield reported("records that a peer held for final by work and then not, 1 s, 5 a second",
                   _each(runs, "undone_work_1s_5"))  # fmt: skip


def _finality(lab: Lab) -> Iterable[Row]:
    runs = lab.runs(default={})["default"]
    at = "0.1 s, 1 block a second"
    yield at_most(f"p95 of authorities / p50 of work at depth 6, {at}",
                  _ratio(runs, "p95_authority_0.1s_1", "p50_work_0.1s_1"), 0.5)  # fmt: skip
    yield at_most(f"p95 of the hashgraph / p50 of work at depth 6, {at}",
                  _ratio(runs, "p95_hashgraph_0.1s_1", "p50_work_0.1s_1"), 1.0)  # fmt: skip
    for engine in ("authority", "hashgraph"):
        yield reported(f"p95 of {engine} / median time that six blocks take, without the wait for a block, {at}",
                       _ratio(runs, f"p95_{engine}_0.1s_1", "settling_work_0.1s_1"))  # fmt: skip
    for engine in ("central", "work", "authority", "tangle", "dht", "hashgraph"):
        yield reported(f"median time to finality, {engine}, {at}", _each(runs, f"p50_{engine}_0.1s_1"), unit="s")


def _central(lab: Lab) -> Iterable[Row]:
    runs = lab.runs(default={})["default"]
    others = ("work", "authority", "tangle", "dht", "hashgraph")
    for where in ("0.1s_5", "3s_5"):
        best = [max(run.final(f"rate_{name}_{where}") for name in others) for run in runs]
        rate = _each(runs, f"rate_central_{where}")
        yield at_least(f"confirmed records/s, database minus the best other, {where.replace('_', ', ')} a second",
                       _minus(rate, best), 0.0)  # fmt: skip
        best = [min(run.final(f"p50_{name}_{where}") for name in others) for run in runs]
        yield at_most(f"median time, database / the best other, {where.replace('_', ', ')} a second",
                      [a / b for a, b in zip(_each(runs, f"p50_central_{where}"), best, strict=True)], 1.0)  # fmt: skip


def _found(lab: Lab) -> Iterable[Row]:
    runs = lab.runs(default={})["default"]
    yield at_least("live keys found", [100 * value for value in _each(runs, "keys_found_least")], 100.0, unit="%")
    yield at_most("most rounds of a lookup / log2 of the peers, at any size", _each(runs, "rounds_over_log"), 1.0)
    yield at_most("mean rounds at 1600 peers minus at 50", _each(runs, "rounds_growth"), 2.0, paper="probe 3.0 to 4.2")
    for n in (50, 1600):
        yield reported(f"mean rounds of a lookup, {n} peers", _each(runs, f"rounds_{n}"))


def _agrees(lab: Lab) -> Iterable[Row]:
    runs = lab.runs(default={})["default"]
    for arm, said in (("mixed", "3 silent and 3 with two stories"), ("silent", "6 silent")):
        yield at_least(f"all honest peers have one order, {said} of 20", _each(runs, f"same_order_{arm}"), 1.0)
        yield at_least(f"share of the records in order, {said} of 20", _each(runs, f"ordered_{arm}"), 0.5)
    yield at_most("records in order, 7 silent of 20", _each(runs, "ordered_beyond"), 0.0)
    yield at_least("no two orders contradict each other, 7 silent of 20", _each(runs, "same_order_beyond"), 1.0)


def _tampered(lab: Lab) -> Iterable[Row]:
    runs = lab.runs(default={})["default"]
    for engine in ("work", "authority", "tangle", "dht", "hashgraph"):
        yield at_least(f"readers that notice a tampered record, {engine}",
                       [100 * value for value in _each(runs, f"noticed_{engine}")], 100.0, unit="%")  # fmt: skip
        yield at_least(f"readers that accept it before, {engine}",
                       [100 * value for value in _each(runs, f"accepted_{engine}")], 100.0, unit="%")  # fmt: skip
    yield at_most("readers that notice a tampered row of the database", _each(runs, "noticed_central"), 0.0, unit="%")


def _upset(lab: Lab) -> Iterable[Row]:
    runs = lab.runs(default={})["default"]
    for upset, said in (("crash", "30 % of the peers crashed"), ("partition", "two halves apart for 30 s")):
        for engine in ("central", "work", "authority", "tangle", "dht", "hashgraph"):
            yield reported(f"records handed in later that became final, {engine}, {said}",
                           [100 * value for value in _each(runs, f"final_{upset}_{engine}")], unit="%")  # fmt: skip
        for engine in ("authority", "hashgraph"):
            yield at_most(f"records undone, or told in two orders, {engine}, {said}",
                          [run.final(f"undone_{upset}_{engine}") + run.final(f"forked_{upset}_{engine}")
                           for run in runs], 0.0)  # fmt: skip
        yield reported(f"records undone, work, {said}", _each(runs, f"undone_{upset}_work"))


def _routes(lab: Lab) -> Iterable[Row]:
    runs = lab.runs(default={})["default"]
    yield at_least("bytes a peer keeps, everything on the chain / MPISA", _each(runs, "storage_saving"), 3.0,
                   paper="arithmetic: about 4")  # fmt: skip
    proven = [100 * value for value in _each(runs, "proven_from_one_root")]
    yield at_least("records that one anchor root proves", proven, 100.0, unit="%")
    yield at_least("private records that their key opens", [100 * value for value in _each(runs, "private_opened")],
                   100.0, unit="%")  # fmt: skip
    yield reported("a cross proof", _each(runs, "cross_proof_bytes"), unit="bytes")


def _each(runs: Sequence[Result], metric: str) -> list[float]:
    return [run.final(metric) for run in runs]


def _ratio(runs: Sequence[Result], over: str, under: str) -> list[float]:
    return [run.final(over) / run.final(under) for run in runs]


def _minus(one: Sequence[float], other: Sequence[float]) -> list[float]:
    return [a - b for a, b in zip(one, other, strict=True)]


claims = [
    Claim("Where blocks come faster than they travel, a tangle confirms more than a chain by work; else as much.",
          _asynchronous, paper="trade-off of speed and scalability"),
    Claim("A chain's stale share grows with latency.", _stale, paper="trade-off of speed and scalability"),
    Claim("Authorities in turn and a hashgraph are final sooner than work at depth 6.", _finality,
          paper="trade-off of speed and energy"),
    Claim("A healthy database wins throughput and latency.", _central, paper="what decentralisation costs"),
    Claim("A DHT finds what is there in logarithmically many rounds.", _found, paper="scalability"),
    Claim("A hashgraph has one order while fewer than a third are faulty, and none beyond.", _agrees),
    Claim("Tampering is noticed by every reader of a ledger, and by none of a database.", _tampered,
          paper="integrity without a trusted party"),
    Claim("What is final by agreement stays so through crashes and a partition.", _upset),
    Claim("MPISA keeps less at each peer than a chain alone and proves every record from one root.", _routes,
          paper="interoperable multi-platform architecture"),
]  # fmt: skip
