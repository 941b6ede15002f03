import json
from dataclasses import replace
from itertools import permutations

import pytest
import small
import torch
from torch import nn

from hubless import catalogue
from hubless.errors import ConfigError, MessageError
from hubless.learn import Median, Model, keys
from hubless.learn.context import Batch, Context, Inbox
from hubless.learn.kernels.loop import Loop
from hubless.learn.kernels.slope import Session
from hubless.learn.matching import merge as matching_module
from hubless.learn.matching.alignment import assigned, by_activation, by_weight, correlations, moved, refreshed
from hubless.learn.matching.merge import Matched
from hubless.learn.matching.symmetries import derive
from hubless.learn.model import BUFFER
from hubless.parts import make

IMAGES = (1, 8, 8)
APART = Model(small._batchnorm, same=False, name="batchnorm")  # one object, so that a kernel traces it once
NETWORKS = {
    "mlp": Model(lambda: make("model", "mlp:9:7")((5,), 3), name="mlp"),
    "cnn-bn": Model(lambda: make("model", "cnn-bn")(IMAGES, 3), name="cnn-bn"),
    "resnet": Model(lambda: make("model", "resnet:8:4")(IMAGES, 3), name="resnet"),
}


def samples(model, count=40, seed=1):
    shape = (5,) if model.name == "mlp" else IMAGES
    return keys.normal(keys.fold(seed, "samples"), (count, *shape))


def peer(model, seed):
    """Parameters, and statistics that differ from unit to unit."""
    w = model.start(seed) + 0.1 * keys.normal(keys.fold(seed, "w"), (model.size,))
    return w, refreshed(model, w, model.state(), samples(model, seed=seed))


def shuffled(model, spec, whom, seed):
    by = {name: keys.permutation(keys.fold(seed, name), units) for name, units in spec.sizes.items()}
    return moved(model, spec, whom, by)


def context(model, x, **more):
    return Context(
        t=1, N=4, model=model, slope=Session(Loop(model)), peer=0, n=len(x), key=5,
        own=lambda: Batch(x, torch.zeros(len(x), dtype=torch.int64)), **more,
    )  # fmt: skip


def message(model, whom):
    w, s = whom
    return {"w": w, **{name: s[name] for name in model.shared_buffers if s[name].is_floating_point()}}


def same_model(model, a, b, within=1e-4):
    (w, s), (v, r) = a, b
    return torch.allclose(w, v, atol=within) and all(torch.allclose(s[n], r[n], atol=within) for n in model.buffers)


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("way", ["activation", "weight"])
def test_a_network_finds_itself_again_when_its_units_are_shuffled(name, way):
    model = NETWORKS[name]
    x, own = samples(model), peer(model, 3)
    spec = derive(model, x[:3])
    other = shuffled(model, spec, own, 7)
    assert not torch.allclose(own[0], other[0], atol=1e-2)
    if way == "activation":
        (by,) = by_activation(model, spec, own, [other], x)
    else:
        by = by_weight(model, spec, own[0], other[0], 0)
    assert same_model(model, moved(model, spec, other, by), own)


@pytest.mark.parametrize("by", ["activation", "weight"])
def test_merging_with_shuffled_copies_changes_nothing(by):
    model = NETWORKS["resnet"]
    x, own = samples(model), peer(model, 3)
    merge = Matched(by=by, refresh=False)
    spec = merge.permutations(model, x)
    inbox = Inbox((0, 1, 2), torch.ones(3) / 3, [message(model, one) for one in (
        own, shuffled(model, spec, own, 1), shuffled(model, spec, own, 2))])  # fmt: skip
    ctx = context(model, x)
    got = merge.apply(*own, {}, merge.join(inbox, *own, {}, ctx), ctx)
    assert same_model(model, got, own)
    plain = Matched(by="none", refresh=False)
    assert not same_model(model, plain.apply(*own, {}, plain.join(inbox, *own, {}, ctx), ctx), own, 1e-2)


@pytest.mark.parametrize("by", ["activation", "weight"])
def test_every_message_is_aligned_to_the_original_own_model(by):
    """What one neighbour says does not change how another is aligned, whatever the order and the weights."""
    model = NETWORKS["mlp"]
    x, (own, *others) = samples(model), [peer(model, seed) for seed in (3, 4, 5)]
    merge, ctx = Matched(by=by, refresh=False), context(model, x)
    spec = merge.permutations(model, x)
    alone = [moved(model, spec, other, merge.assignments(spec, own, [other], ctx)[0])[0] for other in others]
    shares = torch.tensor([0.5, 0.3, 0.2])
    inbox = Inbox((1, 0, 2), shares[[1, 0, 2]], [message(model, one) for one in (others[0], own, others[1])])
    got = merge.join(inbox, *own, {}, ctx)["w"]
    assert torch.allclose(got, 0.5 * own[0] + 0.3 * alone[0] + 0.2 * alone[1], atol=1e-6)
    running = 0.5 * own[0] + 0.3 * alone[0], own[1]
    chained = moved(model, spec, others[1], merge.assignments(spec, running, others[1:], ctx)[0])[0]
    assert not torch.equal(chained, alone[1]), "a case in which it makes no difference shows nothing"


def test_activations_are_of_own_samples_and_at_most_so_many(monkeypatch):
    model = NETWORKS["mlp"]
    x, own, other = samples(model), peer(model, 3), peer(model, 4)
    seen = []

    def spy(*args):
        seen.append(args[-1])
        return by_activation(*args)

    monkeypatch.setattr(matching_module, "by_activation", spy)
    for calibration, count in ((12, 12), (256, 40)):
        merge = Matched(calibration=calibration)
        merge.join(Inbox((1,), torch.ones(1), [message(model, other)]), *own, {}, context(model, x))
        assert len(seen[-1]) == count
        assert all(bool((x == one).all(1).any()) for one in seen[-1])
        assert len(torch.unique(seen[-1], dim=0)) == count


def test_units_are_paired_by_the_correlation_of_what_they_do():
    model = Model(lambda: nn.Sequential(nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, 2)))
    x, (own, other) = samples(NETWORKS["mlp"]), [(model.start(seed), {}) for seed in (1, 2)]
    (table,) = correlations(model, derive(model, x[:3]), own, [other], x)
    acts = [torch.relu(x @ w[:20].reshape(4, 5).T + w[20:24]) for w in (own[0], other[0])]
    wanted = torch.corrcoef(torch.cat(acts, dim=1).T)[:4, 4:]
    assert torch.allclose(table["0"].float(), wanted, atol=1e-5)
    totals = {order: sum(float(wanted[i, j]) for i, j in enumerate(order)) for order in permutations(range(4))}
    assert totals[tuple(assigned(table["0"]).tolist())] == pytest.approx(max(totals.values()))


def test_dead_units_give_numbers():
    model = NETWORKS["mlp"]
    x, (w, s), other = samples(model), peer(model, 3), peer(model, 4)
    w = w.clone()
    w[45:50] = -1e4  # biases: five of nine units never speak
    spec = derive(model, x[:3])
    (table,) = correlations(model, spec, (w, s), [other], x)
    assert table["1"][:5].abs().max() == 0
    assert table["1"][5:].abs().max() > 0.1
    (dead,) = correlations(model, spec, (w, s), [(w, s)], x)
    assert bool(torch.isfinite(dead["1"]).all())
    (by,) = by_activation(model, spec, (w, s), [other], x)
    assert by["1"].sort().values.tolist() == list(range(9))
    merge = Matched()
    got = merge.join(Inbox((0, 1), torch.ones(2) / 2, [{"w": w}, {"w": other[0]}]), w, s, {}, context(model, x))
    assert bool(torch.isfinite(got["w"]).all())


@pytest.mark.parametrize("by", ["activation", "weight"])
def test_numbers_beyond_all_bounds_are_survived(by):
    model = NETWORKS["mlp"]
    x, own = samples(model), peer(model, 3)
    merge, huge = Matched(by=by), torch.full((model.size,), 3e38)
    got = merge.join(Inbox((0, 1), torch.tensor([1.0, 0.0]), [{"w": own[0]}, {"w": huge}]), *own, {}, context(model, x))
    assert torch.allclose(got["w"], own[0])


def test_statistics_are_those_of_the_merged_parameters_on_own_data():
    model = NETWORKS["cnn-bn"]
    x = samples(model, 300)
    own, other = peer(model, 3), peer(model, 4)
    merge, ctx = Matched(), context(model, x)
    inbox = Inbox((0, 1), torch.ones(2) / 2, [message(model, own), message(model, other)])
    w, s = merge.apply(*own, {}, merge.join(inbox, *own, {}, ctx), ctx)

    reference = model.copy().train()
    for layer in reference.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.reset_running_stats()
            layer.momentum = None  # a plain mean over batches, as in the official code
    with torch.no_grad():
        for name, value in reference.named_parameters():
            value.copy_(model.unflatten(w)[name])
        for part in torch.tensor_split(x, 2):
            reference(part)
    buffers = dict(reference.named_buffers())
    for name in ("1.running_mean", "1.running_var"):
        assert torch.allclose(s[BUFFER + name], buffers[name], atol=1e-5)
    assert s.keys() == own[1].keys()
    kept = Matched(refresh=False).apply(*own, {}, {"w": w}, ctx)[1]
    assert all(torch.equal(kept[name], own[1][name]) for name in kept)


def test_weights_are_not_matched_by_statistics():
    model = NETWORKS["cnn-bn"]
    spec = derive(model, samples(model)[:3])
    a, b = peer(model, 3), peer(model, 4)
    assert torch.equal(by_weight(model, spec, a[0], b[0], 0)["0"], by_weight(model, spec, a[0], b[0], 1)["0"])
    gained = (a[0] * moved(model, spec, b, by_weight(model, spec, a[0], b[0], 0))[0]).sum()
    assert gained > (a[0] * b[0]).sum()
    for seed in range(20):
        assert gained >= (a[0] * shuffled(model, spec, b, seed)[0]).sum()


def test_what_is_not_the_networks_passes_as_it_is():
    model = NETWORKS["mlp"]
    x, own, other = samples(model), peer(model, 3), peer(model, 4)
    more = {"classes": torch.arange(3.0)}
    got = Matched().join(Inbox((1,), torch.ones(1), [{"w": other[0], **more}]), *own, {}, context(model, x))
    assert got["classes"].tolist() == [0, 1, 2]


def test_parts_of_a_network_can_be_shared():
    """A trunk is aligned to the receiver's, whose own head goes with it."""
    model = Model(lambda: make("model", "mlp:9")((5,), 3), groups={"trunk": ["1."], "head": ["3."]})
    x, own = samples(NETWORKS["mlp"]), (model.start(3), {})
    spec = derive(model, x[:3])
    other = shuffled(model, spec, own, 5)
    trunk = model.groups["trunk"]
    got = Matched(share=("trunk",)).join(
        Inbox((1,), torch.ones(1), [{"trunk": other[0][trunk]}]), *own, {}, context(model, x)
    )
    assert list(got) == ["trunk"]
    assert torch.allclose(got["trunk"], own[0][trunk], atol=1e-6)


def run(merge, **given):
    return small.build(merge=merge, kernel="loop", **given)


@pytest.mark.parametrize("merge", ["matched", "matched:weight", Matched(Median())])
def test_any_gossip_takes_it_and_threads_change_nothing(merge):
    work = small.workload(model=APART)
    one, three = (small.rows(run(merge, workload=work, rounds=2, setting={"threads": count})) for count in (1, 3))
    assert torch.equal(one, three)
    mean = small.rows(run("mean", workload=work, rounds=2))
    assert not torch.allclose(one, mean, atol=1e-2)


def test_aggregators_and_codecs_and_attacks_take_it():
    for name, options in (("fedavg", {}), ("dsgd", {"attack": "sign-flip:30%", "codec": "float16"})):
        recipe = catalogue.find(name).load()
        experiment = recipe.build(dict(options, threads=1), "tiny")
        experiment = replace(experiment.learning, merge=Matched()).under(experiment.setting)
        records = list(experiment.records())
        assert records[-1].kind == "end"
        assert records[-1].metrics["loss"] > 0


@pytest.mark.parametrize(
    ("make_it", "words"),
    [
        (lambda: Matched(calibration=1), "merge.calibration = 1: needs at least 2 samples"),
        (lambda: make("merge", "matched:activation:0"), "merge.calibration = 0"),
        (lambda: make("merge", "matched:distance"), "must be 'activation', 'weight' or 'none'"),
        (lambda: run("matched:spec=/nowhere.json"), "cannot be read as JSON"),
        (lambda: run(Matched(spec={"0.weight": ["a", None]})), r"spec: 0.bias \(8,\) is missing"),
        (lambda: run("matched", codec="secure-sum"), "secure sums show only the total, but Matched needs each message"),
    ],
)
def test_what_cannot_work_is_refused_before_any_work(make_it, words):
    with pytest.raises(ConfigError, match=words):
        make_it()


def test_a_layer_that_a_spec_forgets_is_named(tmp_path):
    path = tmp_path / "spec.json"
    table = derive(small.PLAIN, torch.rand(3, 5)).table
    path.write_text(json.dumps(table))
    assert run(f"matched:spec={path}").merge.permutations(small.PLAIN, torch.rand(3, 5)).sizes == {"0": 8}
    path.write_text(json.dumps({name: axes for name, axes in table.items() if not name.startswith("2.")}))
    with pytest.raises(ConfigError, match=r"spec: 2.weight \(3, 8\) is missing"):
        run(f"matched:spec={path}")
    path.write_text(json.dumps({**table, "2.weight": [None, None]}))
    with pytest.raises(ConfigError, match="computes something else when the 8 units of '0' change places"):
        run(f"matched:spec={path}")


class FirstHasAll(type(make("partition", "iid"))):
    def split(self, y, peers, seed):
        parts = super().split(y, 1, seed)
        return [parts[0], *(parts[0][:0] for _ in range(peers - 1))]


def test_a_peer_without_samples_cannot_match_activations():
    empty = small.workload(partition=FirstHasAll())
    with pytest.raises(ConfigError, match="peer 1 has 0; it needs at least 2, or matched:weight"):
        run("matched", workload=empty)
    assert len(small.rows(run("matched:weight", workload=empty))) == 5
    model = NETWORKS["mlp"]
    with pytest.raises(ConfigError, match="over at least 2 samples, not 0"):
        by_activation(model, derive(model, samples(model)[:3]), peer(model, 1), [peer(model, 2)], samples(model)[:0])


def test_another_width_or_architecture_is_refused():
    wide = Model(lambda: nn.Sequential(nn.Linear(5, 9), nn.Tanh(), nn.Linear(9, 3)), name="wide")
    with pytest.raises(ConfigError, match="cannot cross 2 cohorts of different models"):
        run("matched", models=[(small.PLAIN, [0, 1, 2]), (wide, [3, 4])])
    x = samples(NETWORKS["mlp"])
    with pytest.raises(MessageError, match=r"w has shape \(84,\), not \(75,\)"):
        Matched().accept(1, {"w": wide.start(1)}, context(small.PLAIN, x))


class Own(nn.Module):
    """The last matrix is a parameter of the network itself."""

    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(5, 6), nn.Parameter(torch.rand(6, 3))

    def forward(self, x):
        return torch.relu(self.first(x)) @ self.last


def test_units_that_no_layer_reads_can_be_matched_by_weight_only():
    work = small.workload(model=Model(Own, same=False))
    with pytest.raises(ConfigError, match=r"reads the units of 'first', .* use matched:weight"):
        run("matched", workload=work)
    assert bool(torch.isfinite(small.rows(run("matched:weight", workload=work))).all())


def test_a_network_without_hidden_units_is_averaged():
    work = small.workload(model=Model(lambda: nn.Linear(5, 3), same=False))
    assert torch.allclose(small.rows(run("matched", workload=work)), small.rows(run("mean", workload=work)), atol=1e-6)
