"""A curious receiver recovers a victim's samples from what is sent, and defences can be measured by it."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pytest
from small import learning

from hubless.errors import ConfigError
from hubless.learn import SGD, Codec, Gossip, Merge, Model, ServerOpt, Stage, Star, WeightedMean, Workload
from hubless.learn.inversion import Inversion
from hubless.learn.recovery import Matching
from hubless.net.topologies import Ring
from hubless.report.recorded import draw
from hubless.run import checkpoint
from hubless.run.checkpoint import Identity
from hubless.run.setting import Setting


@dataclass(frozen=True)
class KeptStar(Star):
    """A star whose peers each keep a row."""

    shared: ClassVar[bool] = False


class Few(Stage):
    """Keeps four levels of every value: two bits."""

    def forward(self, m, s, ctx):
        span = {name: value.abs().max().clamp_min(1e-30) / 2 for name, value in m.items()}
        return {name: (value / span[name]).round() * span[name] for name, value in m.items()}, s


class Secret(Stage):
    hides = True
    sums = True


def build(images=1, hook=None, peers=4, model="mlp:64", **given):
    """FedSGD on digits: each peer takes one step on all of its few samples."""
    hook = hook or Inversion(victim=1, images=images, rounds=(1, 2))
    work = Workload("digits", "iid", peers, model, samples=peers * images)
    parts = dict(workload=work, local=SGD(0.1, steps=1, batch=0), overlay=Star(), rounds=3, hooks=(hook,))
    return learning(**parts | given).under(Setting(seed=1, threads=1))


def looked(run):
    """``{round: (psnr, labels)}`` where there was something to see."""
    found = {r.round: r.metrics for r in run.records() if r.kind == "round"}
    return {t: (m["inversion_psnr"], m["inversion_labels"]) for t, m in found.items() if "inversion_psnr" in m}


PLACES = {
    "models to a star": dict(),
    "models to a star that keeps rows": dict(overlay=KeptStar()),
    "gossip": dict(overlay=Gossip(Ring())),
    "several exchanges a round": dict(overlay=Gossip(Ring(), 2)),
}


@pytest.mark.parametrize("images", [1, 2])
@pytest.mark.parametrize("place", PLACES)
def test_plain_steps_on_one_or_two_digits_are_recovered(place, images):
    found = looked(build(images, **PLACES[place]))
    assert list(found) == ([2] if "overlay" in PLACES[place] and "star" not in place else [1, 2])
    for ratio, right in found.values():
        assert ratio > 60
        assert right == 1


@pytest.mark.parametrize("overlay", [Star(), KeptStar()], ids=["streamed", "kept"])
@pytest.mark.parametrize("images", [1, 2])
def test_deltas_are_recovered_too(overlay, images):
    hook = Inversion(victim=1, images=images, rounds=(1, 2), kind="delta")
    for ratio, right in looked(build(images, hook, overlay=overlay, merge=ServerOpt())).values():
        assert ratio > 60
        assert right == 1


def test_a_network_of_convolutions_is_inverted_by_search():
    hook = Inversion(victim=1, rounds=(2,), method=Matching(steps=150, restarts=1))
    ((ratio, right),) = looked(build(hook=hook, model=convolutional(), rounds=2)).values()
    assert ratio > 30
    assert right == 1


def convolutional():
    from torch import nn

    return Model(
        lambda: nn.Sequential(nn.Conv2d(1, 6, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(384, 10)), name="small"
    )


@pytest.mark.parametrize("method", [None, Matching(steps=150, restarts=1)], ids=["analytic", "search"])
@pytest.mark.parametrize("images", [1, 2])
def test_noise_of_differential_privacy_stops_it(method, images):
    """Noise as large as the clipped gradient; a grey image has about 10 dB."""
    hook = Inversion(victim=1, images=images, rounds=(1, 2), **({} if method is None else {"method": method}))
    for ratio, _ in looked(build(images, hook, privacy="dp-sgd:1:1", rounds=2)).values():
        assert ratio < 12


@pytest.mark.parametrize("images", [1, 2])
def test_two_bits_a_value_stop_the_exact_recovery(images):
    hook = Inversion(victim=1, images=images, rounds=(1, 2), kind="delta")
    for ratio, _ in looked(build(images, hook, merge=ServerOpt(), codec=Codec((Few(),)))).values():
        assert ratio < 16


def test_a_sum_of_hidden_messages_leaves_nothing_to_look_at():
    with pytest.raises(ConfigError, match="secure sums show only the total, but Inversion needs each message"):
        build(codec=Codec((Secret(),)), overlay=Star(weigh="one"))


def test_groups_that_are_not_sent_give_nothing_away():
    from torch import nn

    module = Model(
        lambda: nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10)),
        groups={"trunk": ["1."], "head": ["3."]}, name="two groups",
    )  # fmt: skip
    ((ratio, right),) = looked(
        build(merge=Merge(WeightedMean(), ("head",)), overlay=Gossip(Ring()), model=module)
    ).values()
    assert ratio < 15
    assert right == 1  # labels lie in the head


def test_a_look_changes_nothing_and_is_the_same_twice():
    one, other = build(), build()
    assert [r.line() for r in one.records()] == [r.line() for r in other.records()]
    assert [r.line() for r in one.records()] == [r.line() for r in other.records()]
    plain = build(hooks=())
    list(plain.records())
    gap = one.snapshot().tensors["cohort.0/rows"] - plain.snapshot().tensors["cohort.0/rows"]
    assert float(gap.abs().max()) < 1e-6


def test_pictures_stand_beside_their_samples():
    figures = [r for r in build(2).records() if r.kind == "figure"]
    assert [(r.round, r.data["name"]) for r in figures] == [(1, "inversion-1-1"), (2, "inversion-2-1")]
    data = figures[0].data
    assert len(data["images"]) == len(data["captions"]) == 4
    assert data["captions"][1].endswith("dB")
    for truth, found in ((0, 1), (2, 3)):
        assert abs(np.array(data["images"][truth]) - np.array(data["images"][found])).max() < 0.01
    assert len(draw(data).axes) == 4


@pytest.mark.parametrize("overlay", [Gossip(Ring()), Star()], ids=["gossip", "star"])
@pytest.mark.parametrize("stop", [1, 2])
def test_a_run_that_goes_on_sees_the_same(overlay, stop, tmp_path):
    given = dict(overlay=overlay, hook=Inversion(victim=1, rounds=(2, 3)))
    whole, run = (
        [r.line() for r in build(**given).records()],
        build(**given | {"hook": Inversion(victim=1, rounds=(2, 3))}),
    )
    seen = []
    for record in run.records():
        seen.append(record.line())
        if record.kind == "round" and record.round == stop:
            checkpoint.save(tmp_path, run.snapshot(), Identity("toy", "1", "x"))
            break
    again = build(**given | {"hook": Inversion(victim=1, rounds=(2, 3))})
    rest = again.records(checkpoint.load(tmp_path, Identity("toy", "1", "x")))
    assert [*seen, *(r.line() for r in rest)] == whole


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (dict(images=0), "images = 0 must be at least 1"),
        (dict(victim=-1), "victim = -1"),
        (dict(rounds=()), r"inversion.rounds = \[\]"),
        (dict(rounds=(0,)), r"inversion.rounds = \[0\]"),
    ],
)
def test_values_that_make_no_look(given, words):
    with pytest.raises(ConfigError, match=words):
        Inversion(**given)


def test_victims_must_exist_and_have_the_samples():
    with pytest.raises(ConfigError, match=r"inversion.victim = 9: ids go from 0 to 3"):
        list(build(hook=Inversion(victim=9)).records())
    with pytest.raises(ConfigError, match="peer 1 has 1 samples of a classification task; 2 samples"):
        list(build(hook=Inversion(victim=1, images=2)).records())
