"""Mirage: attackers with a target each plant backdoors that do not get in each other's way (arXiv 2409.19601).

Federated averaging, in which some peers are hostile from round ``before + 1`` on for ``attacked`` rounds, and honest
before and after. Each of them, on its own, wants inputs that carry its trigger to be taken for its own target:

  1. on the model it received, it searches its trigger anew from where it was (``hubless.learn.attacks.mirage``): a
     detector on the frozen features learns to tell triggered samples from clean ones of the target; the trigger
     descends, by the sign of the gradient, on the detector's error, on the loss towards the target, and on the
     similarity of a sample's outputs with and without it;
  2. it trains as everyone does, on data of which a part carries the trigger and the target's label;
  3. it sends its model as it is.

``vanilla`` leaves out step 1: every attacker keeps the noise that it drew. With a target each they fight over the same
corner, far from all data; with one target for all (``vanilla-shared``) they do not.

``attack_success`` is the share of the test samples of all other classes that the common model takes for the target
once they carry the trigger, the mean over attackers, and ``attack_success_worst`` the least of them.

At laptop scale it is the search that makes the difference, not the detector: without it (``every`` 0) attackers get as
far, under Multi-Krum too.

Attackers are drawn at random; one whose data have no sample of its target is refused. Figures of the paper are those of
the card: its body was not read, its attack was, in public derivatives of the authors' code. Where we differ: hostile
peers take as many steps at the same rate as honest ones (the code has a rate and epochs of its own for them); the
poisoned eighth is drawn from an attacker's data once a round, not from every batch; a trigger starts from noise of the
attacker's own, not from grey; each step of the search takes all of an attacker's samples, and a detector serves five,
as in the card (``search_batch`` and ``every`` have the code's way: batches of 64, a detector for each pass).
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor

from hubless.claims import Claim, Lab, Result, Row, at_least, at_most, reported
from hubless.errors import ConfigError
from hubless.learn import SGD, Gossip, Hook, Learning, Workload, aggregation
from hubless.learn.attacks import Backdoor, Mirage, Trigger
from hubless.learn.slots import View
from hubless.options import Codec, Count, Data, Merge, Model, Partition, Positive, Privacy, Topology, Whole
from hubless.recipe import recipe


@recipe(system=18)
def mirage(
    peers: Count = 11,
    attackers: Whole = 3,
    method: Literal["mirage", "vanilla", "vanilla-shared", "none"] = "mirage",
    overlay: Literal["star", "rotating", "gossip"] = "star",
    topology: Topology = "full",
    participants: Whole = 0,
    data: Data = "mnist",
    samples: Whole = 5500,
    partition: Partition = "dirichlet:1",
    model: Model = "mlp:128:64",
    before: Whole = 12,
    attacked: Count = 20,
    after: Whole = 15,
    lr: Positive = 0.1,
    steps: Count = 20,
    batch: Count = 64,
    kind: Literal["blend", "patch"] = "blend",
    alpha: Positive = 0.25,
    ratio: Positive = 0.125,
    search: Whole = 15,
    size: Positive = 0.02,
    every: Whole = 5,
    search_batch: Whole = 0,
    merge: Merge = "mean",
    codec: Codec = "raw",
    privacy: Privacy = "none",
) -> Learning:
    """Several attackers plant backdoors, each its own, in a model that all peers train.

    Args:
        attackers: hostile peers, drawn at random
        method: mirage; vanilla: triggers of fixed noise; vanilla-shared: such triggers and one target for all; or none
        overlay: an aggregator, pinned (star) or handed on (rotating), or gossip of models
        topology: who may talk to whom in gossip
        before: rounds before the attack
        attacked: rounds of the attack
        after: rounds after the attack
        kind: a trigger over the whole input (blend), or a square on it (patch)
        alpha: weight of the trigger where it lies, at most 1
        ratio: share of an attacker's samples that it poisons, at most 1
        search: passes over its data with which an attacker searches its trigger in a round
        size: step of the trigger in units of the inputs
        every: passes for which one detector serves; 0 leaves it out
        search_batch: samples in a step of the search; 0 takes all
    """
    if attackers >= peers:
        raise ConfigError(f"mirage.attackers = {attackers}: must be fewer than the {peers} peers")
    trigger, share, first, last = Trigger(kind, alpha, own=True), attackers / peers, before + 1, before + attacked
    searching = Mirage(share, trigger, (), ratio, first, last, search, size, every, search_batch)
    plain = Backdoor(share, trigger, (0,) if method == "vanilla-shared" else (), ratio, first, last)
    return Learning(
        workload=Workload(data, partition, peers, model, samples, test=2000),
        local=SGD(lr=lr, steps=steps, batch=batch),
        overlay=Gossip(topology) if overlay == "gossip" else aggregation(overlay, participants, weigh="one"),
        merge=merge,
        codec=codec,
        privacy=privacy,
        attack=None if method == "none" else searching if method == "mirage" else plain,
        hooks=() if method == "none" else (Triggers(plain),),
        rounds=before + attacked + after,
    )


@dataclass(frozen=True)
class Triggers(Hook):
    """Draws every attacker's trigger, and a sample that carries it, in the attack's last round."""

    attack: Backdoor

    def round(self, view: View) -> dict[str, float]:
        """Nothing to measure."""
        x, images, captions = view.shards.test_x[:1], [], []
        for peer, book in sorted(view.population.attack_books.items()):
            if view.t == self.attack.last and x.dim() >= 3 and "trigger" in book:
                images += [book["trigger"], self.attack.trigger.on(x, book["trigger"], book["number"])[0]]
                captions += [f"peer {peer}", f"to class {book['target']}"]
        if images:
            view.draw({"type": "images", "name": "triggers", "title": "Triggers", "captions": captions,
                       "images": [_grey(image, x) for image in images],
                       "reading": "Each attacker's trigger, and a test sample that carries it."})  # fmt: skip
        return {}


def _grey(image: Tensor, x: Tensor) -> list[list[float]]:
    """An image ``[..., height, width]`` in shades from 0 to 1, as dark as inputs ``x`` are."""
    low, high = float(x.min()), float(x.max())
    flat = (image.reshape(-1, *image.shape[-2:]).mean(0) - low) / ((high - low) or 1.0)
    return [[round(value, 3) for value in row] for row in flat.clamp(0, 1).tolist()]


presets = {
    "tiny": dict(
        peers=5, attackers=2, data="digits", samples=300, model="mlp:16", before=1, attacked=2, after=1, steps=4,
        batch=16, search=4, every=2,
    ),
    "paper": dict(
        peers=100, attackers=4, participants=10, data="hf:uoft-cs/cifar10", samples=0, model="cnn", before=2000,
        attacked=100, after=900, lr=0.01, steps=40, alpha=0.3, search=50, size=0.00025, every=1, search_batch=64,
    ),
}  # fmt: skip


METHODS = ("mirage", "vanilla", "vanilla-shared", "none")
WINDOW: dict[str, Any] = dict(before=12, attacked=20, evaluate=32)  # evaluated when the attack ends, and at the end


def _peak(runs: Iterable[Result], metric: str = "attack_success") -> list[float]:
    """A metric in the last round of the attack."""
    found = []
    for run in runs:
        last = run.options["before"] + run.options["attacked"]
        found += [r.metrics[metric] for r in run.records if r.kind == "round" and r.round == last]
    return found


def _more(a: list[float], b: list[float]) -> list[float]:
    return [x - y for x, y in zip(a, b, strict=True)]


def _no_defence(lab: Lab) -> Iterable[Row]:
    runs = lab.runs(**{method: dict(method=method, after=15, **WINDOW) for method in METHODS})
    success = {method: _peak(runs[method]) for method in METHODS[:3]}
    worst = {method: _peak(runs[method], "attack_success_worst") for method in METHODS[:3]}
    accuracy = {method: [100 * value for value in _peak(runs[method], "accuracy")] for method in METHODS}
    later = {method: [run.final("attack_success") for run in runs[method]] for method in METHODS[:2]}
    mirage, vanilla, shared = success.values()
    blind = lab.runs(blind=dict(every=0, after=0, **WINDOW))["blind"]
    yield at_least("success of Mirage, mean over attackers", mirage, 0.85, paper="99.5 % (A3FL 99.5 %; CIFAR-10)")
    yield reported("success of Mirage without its detector", _peak(blind))
    yield reported("success of vanilla", vanilla, paper="31.9 % (CIFAR-10)")
    yield at_least("success of Mirage minus vanilla's", _more(mirage, vanilla), 0.3)
    yield reported("success of Mirage's least successful attacker", worst["mirage"])
    yield at_least("the same minus vanilla's", _more(worst["mirage"], worst["vanilla"]), 0.3)
    yield at_least("success of vanilla with one target for all minus vanilla's", _more(shared, vanilla), 0.3)
    yield reported("clean accuracy under Mirage", accuracy["mirage"], unit="%", paper="92.2 % (CIFAR-10)")
    yield at_most("clean accuracy without attack minus that", _more(accuracy["none"], accuracy["mirage"]), 1.5,
                  unit="points")  # fmt: skip
    yield at_least("success of Mirage 15 clean rounds later", later["mirage"], 0.75, paper="> 90 % after 900 rounds")
    yield reported("success of vanilla 15 clean rounds later", later["vanilla"])


def _multi_krum(lab: Lab) -> Iterable[Row]:
    runs = lab.runs(
        **{method: dict(method=method, merge="multi-krum:f=3", after=0, **WINDOW) for method in METHODS[:3]}
    )
    yield at_least("success of Mirage", _peak(runs["mirage"]), 0.5, paper="92.3 % (A3FL 78.2 %; CIFAR-10)")
    yield reported("success of Mirage's least successful attacker", _peak(runs["mirage"], "attack_success_worst"))
    yield at_most("success of vanilla", _peak(runs["vanilla"]), 0.1, paper="1.6 % (CIFAR-10)")
    yield reported("success of vanilla with one target for all", _peak(runs["vanilla-shared"]))


claims = [
    Claim("Triggers that look like the target let several backdoors live side by side, and last.", _no_defence),
    Claim("Multi-Krum keeps fixed triggers out, and Mirage's not.", _multi_krum),
]
