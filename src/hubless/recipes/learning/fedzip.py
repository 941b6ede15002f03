"""FedZip: updates as three values a layer, and only where the two rare ones sit (arXiv 2102.01593).

A round: the aggregator role sends its model to the participants; each takes local steps and sends ``encode(D)``,
``D = w_after - w_before``; the role averages what it decodes and adds it to its model. The codec ``fedzip:Z`` keeps
the largest share z of every weight tensor, replaces all entries by three centroids, and writes where the two rare ones
sit in the shortest of three ways (``hubless.learn.codecs.fedzip``). Any other codec may stand in its place:
``raw``, ``float16``, ``top-k:0.05``, ``uniform:8+huffman``, ``zstd``, ... Two of our own, off by default:
``error-feedback+fedzip:0.01`` adds to every update what the one before left out, and ``fedzip:0.05:snap_zero=true``
decodes the largest cluster to exactly 0.

Bytes are those of the peers' updates over the whole run as they lie on the wire, headers and checksums counted: what
all peers but the aggregator sent under ``star``. The aggregator sends the model as it is, in the source as here, and
its bytes are in no ratio. A ratio is bytes under ``raw`` (4 a parameter and a header of 33) over bytes under the codec.

The authors' code counts sizes instead of writing messages, and its count for gaps has no mark where one ends, so the
paper's figures are not of bytes that decode. Its networks (two convolutions and two dense layers; VGG16) are larger,
too: the larger a layer, the less its header weighs. Only the code was read, not the body of the paper.
"""

import statistics
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import ClassVar, Literal

import torch

from hubless.claims import Claim, Lab, Result, Row, at_least, at_most, reported
from hubless.learn import (
    SGD,
    Context,
    Learning,
    Message,
    Reduce,
    ServerOpt,
    Stage,
    State,
    Workload,
    aggregation,
)
from hubless.learn import Codec as CodecPart
from hubless.learn import Merge as MergePart
from hubless.options import Attack, Codec, Count, Data, Merge, Model, Partition, Positive, Privacy, Whole
from hubless.parts import make
from hubless.recipe import recipe


@recipe(system=28)
def fedzip(
    peers: Count = 10,
    participants: Whole = 0,
    aggregator: Literal["star", "rotating"] = "star",
    data: Data = "mnist",
    samples: Whole = 6000,
    partition: Partition = "iid",
    model: Model = "mlp:128",
    rounds: Count = 15,
    lr: Positive = 0.1,
    steps: Count = 20,
    batch: Count = 32,
    codec: Codec = "fedzip:0.2",
    merge: Merge = "mean",
    attack: Attack = "none",
    privacy: Privacy = "none",
) -> Learning:
    """Federated averaging of updates that are sparse, clustered and entropy-coded.

    Args:
        codec: how an update becomes bytes: fedzip:Z, error-feedback+fedzip:Z, raw, top-k:0.05, uniform:8, zstd, ...
        merge: how the aggregator joins the decoded updates: mean, median, trimmed-mean:0.2, ...
    """
    return Learning(
        workload=Workload(data, partition, peers, model, samples),
        local=SGD(lr=lr, steps=steps, batch=batch),
        overlay=aggregation(aggregator, participants),
        merge=_on_updates(merge),
        codec=codec,
        attack=attack,
        privacy=privacy,
        rounds=rounds,
    )


def _on_updates(merge: MergePart | Reduce) -> MergePart:
    """Merges that only reduce, on updates in place of models; others know what they send."""
    if isinstance(merge, Reduce):
        return ServerOpt(merge)
    return ServerOpt(merge.reduce, merge.share) if type(merge) is MergePart else merge


presets = {
    "tiny": dict(peers=4, data="digits", samples=200, model="mlp:16", rounds=3, steps=4, batch=10),
    "paper": dict(samples=0, model="cnn", rounds=101, steps=1000, batch=10),
}
SHARES = (0.2, 0.05, 0.01)
WANTED = {0.2: (30, -2), 0.05: (70, -4), 0.01: (150, -8)}  # ratio, points of accuracy


def _uploaded(runs: list[Result]) -> list[float]:
    """Bytes of all updates of a run, one a seed; peer 0 holds the aggregator role and pays nothing for its own."""
    return [sum(float(sent or 0) for sent in run.peers("bytes")[1:]) for run in runs]


def _ratio(runs: dict[str, list[Result]], arm: str) -> list[float]:
    return [whole / sent for whole, sent in zip(_uploaded(runs["raw"]), _uploaded(runs[arm]), strict=True)]


def _points(runs: dict[str, list[Result]], arm: str) -> list[float]:
    pairs = zip(runs[arm], runs["raw"], strict=True)
    return [100 * (run.final("accuracy") - whole.final("accuracy")) for run, whole in pairs]


def _arms(*codecs: str) -> dict[str, dict[str, str]]:
    return {codec: {"codec": codec} for codec in codecs}


def _compression(lab: Lab) -> Iterable[Row]:
    runs = lab.runs(**_arms("raw", *(f"fedzip:{z}" for z in SHARES)))
    for z, (ratio, points) in WANTED.items():
        arm = f"fedzip:{z}"
        yield at_least(f"z = {z}: bytes of raw updates over FedZip's", _ratio(runs, arm), ratio, unit="x")
        yield at_least(f"z = {z}: accuracy minus that without a codec", _points(runs, arm), points, unit="points")
    yield reported("accuracy without a codec", [100 * run.final("accuracy") for run in runs["raw"]], unit="%")


def _encoders(lab: Lab) -> Iterable[Row]:
    ways = ("label", "address", "gap")
    single = {z: [f"fedzip:{z}:way={way}" for way in ways] for z in SHARES}
    runs = lab.runs(**_arms(*(f"fedzip:{z}" for z in SHARES), *(arm for arms in single.values() for arm in arms)))
    for z, arms in single.items():
        best = _uploaded(runs[f"fedzip:{z}"])
        for way, arm in zip(ways, arms, strict=True):
            shares = [a / b for a, b in zip(best, _uploaded(runs[arm]), strict=True)]
            yield at_most(f"z = {z}: bytes of the shortest of three over those of {way} alone", shares, 1)


@dataclass(frozen=True)
class Kept(Stage):
    """Keeps every update, with the context that it is coded in."""

    updates: list[tuple[Message, Context]] = field(default_factory=list)

    wants: ClassVar[str | None] = "delta"

    def forward(self, m: Message, s: State, ctx: Context) -> tuple[Message, State]:
        """The message as it is."""
        self.updates.append((m, ctx))
        return m, s


def _exact(lab: Lab) -> Iterable[Row]:
    updates = {seed: Kept() for seed in lab.seeds}
    for seed, kept in updates.items():
        list(fedzip.build({"seed": seed, "rounds": 2, "codec": CodecPart((kept,)), "threads": 1}).records())
    for z in SHARES:
        codec: CodecPart = make("codec", f"fedzip:{z}")
        shares = []
        for kept in updates.values():
            quantised = [codec.inverse(codec.forward(m, {}, ctx)[0], 1, ctx)["w"] for m, ctx in kept.updates]
            heard = [codec.decode(codec.encode(m, {}, ctx)[0], ctx)["w"] for m, ctx in kept.updates]
            pairs = zip(quantised, heard, strict=True)
            shares.append(statistics.fmean(torch.equal(a.view(torch.int32), b.view(torch.int32)) for a, b in pairs))
        yield at_least(f"z = {z}: share of real updates that decode to the quantised one, bit for bit", shares, 1)


def _others(lab: Lab) -> Iterable[Row]:
    plain = ["zstd", "float16", "uniform:8", "uniform:8+huffman"]
    sparse = [f"top-k:{z}" for z in SHARES] + ["top-k:0.05+float16+zstd"]
    fed = [f"error-feedback+fedzip:{z}" for z in SHARES] + ["fedzip:0.05:snap_zero=true"]
    runs = lab.runs(**_arms("raw", "deflate", *plain, *sparse, *fed))
    yield at_most("deflate: bytes of raw updates over its own", _ratio(runs, "deflate"), 2.5, unit="x")
    for arm in (*plain, *sparse, *fed):
        yield reported(f"{arm}: bytes of raw updates over its own", _ratio(runs, arm), unit="x")
        yield reported(f"{arm}: accuracy minus that without a codec", _points(runs, arm), unit="points")


claims = [
    Claim("Updates of a few hundredths of their bytes teach a population nearly as much.", _compression,
          paper="compression rates up to 1085x, up to 99 % of bandwidth saved (abstract)"),
    Claim("The shortest of three ways to write an update is no longer than any of them alone.", _encoders),
    Claim("What is decoded is the quantised update, bit for bit.", _exact),
    Claim("Lossless compression of raw updates does little; other lossy codecs for comparison.", _others),
]  # fmt: skip
