"""The engine against plain loops over ``nn.Module``s, ``torch.optim`` and formulas, which share no code with it."""

import copy

import pytest
import torch
from small import BLOBS, SEED, build, close, first_row, network, rows, workload
from torch import nn

from hubless.learn import (
    PGD,
    SAM,
    SGD,
    Adam,
    Adversarial,
    Alone,
    Gossip,
    Median,
    Proximal,
    ServerOpt,
    Star,
    TrimmedMean,
    keys,
)
from hubless.learn.batches import batches
from hubless.net.topologies import Full, Ring

PEERS = 5
RING = torch.zeros(PEERS, PEERS, dtype=torch.float64)
for i in range(PEERS):
    RING[i, [i, (i + 1) % PEERS, (i - 1) % PEERS]] = 1 / 3


class Loop:
    """Peers as modules, trained one after another on the batches that the engine draws."""

    def __init__(self, work, local, optimiser, *, step=None, kind=network):
        self.model, self.shards = work.network(), work.shards(SEED)
        first = self.model.unflatten(first_row(self.model))
        self.peers = []
        for _ in range(work.peers):
            module = kind(BLOBS.shape, BLOBS.outputs)
            module.load_state_dict({name: value.clone() for name, value in first.items()})
            self.peers.append(module)
        self.local, self.optimiser, self.step = local, optimiser, step or plain
        self.optimisers = [optimiser(module.parameters()) for module in self.peers]

    def train(self, t, k):
        key = keys.fold(keys.fold(SEED, "train", t, k), torch.arange(len(self.peers)))
        steps = list(batches(key, self.shards.sizes, self.local))
        for peer, module in enumerate(self.peers):
            x, y = self.shards.own(peer)
            start = [p.detach().clone() for p in module.parameters()]
            for place, count in steps:
                chosen = place[peer] if count is None else place[peer][count[peer]]
                if len(chosen):
                    self.step(module, self.optimisers[peer], x[chosen], y[chosen], start)

    def rows(self):
        return torch.stack([torch.cat([p.detach().flatten() for p in module.parameters()]) for module in self.peers])

    def load(self, values):
        for module, row in zip(self.peers, values, strict=True):
            nn.utils.vector_to_parameters(row.float(), module.parameters())


def plain(module, optimiser, x, y, start, before=None):
    optimiser.zero_grad()
    nn.functional.cross_entropy(module(x), y).backward()
    if before:
        before()
    optimiser.step()


def sgd(lr=0.2, **rest):
    return lambda parameters: torch.optim.SGD(parameters, lr=lr, **rest)


def alone(local, loop, rounds=3, **given):
    """Peers that only train, in the engine and in the loop."""
    for t in range(1, rounds + 1):
        loop.train(t, 0)
    close(rows(build(local=local, overlay=Alone(), rounds=rounds, **given)), loop.rows())


@pytest.mark.parametrize("partition", ["iid", "dirichlet:0.3"])
def test_dpsgd_on_a_ring_is_the_plain_loop_after_twenty_rounds(partition):
    local = SGD(lr=0.2, steps=2, batch=8)
    loop = Loop(workload(partition=partition), local, sgd())
    for t in range(1, 21):
        loop.train(t, 0)
        loop.load(RING @ loop.rows().double())
    run = build(workload=workload(partition=partition), local=local, rounds=20)
    close(rows(run), loop.rows())


@pytest.mark.parametrize("batch", [7, 0])
def test_fedavg_with_epochs_over_unequal_data_is_the_plain_loop_with_partial_batches(batch):
    work = workload(partition="dirichlet:0.3")
    local = SGD(lr=0.2, epochs=2, batch=batch)
    loop = Loop(work, local, sgd())
    sizes = loop.shards.sizes.double()
    assert len(set(sizes.tolist())) > 2
    assert any(size % 7 for size in sizes.tolist())
    for t in range(1, 6):
        loop.train(t, 1)
        loop.load(((sizes / sizes.sum()) @ loop.rows().double()).expand(PEERS, -1))
    close(rows(build(workload=work, local=local, overlay=Star(), rounds=5)), loop.rows()[:1])


def test_steps_on_all_data_count_each_sample_once_whoever_shares_the_chunk():
    work = workload(partition="dirichlet:0.3")
    local = SGD(lr=0.2, steps=3, batch=0)
    alone(local, Loop(work, local, sgd()), workload=work)


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (SGD(lr=0.1, steps=3, batch=8, momentum=0.9, keep=True), sgd(0.1, momentum=0.9)),
        (SGD(lr=0.1, steps=3, batch=8, weight_decay=0.05), sgd(0.1, weight_decay=0.05)),
        (
            SGD(lr=0.1, steps=2, batch=8, momentum=0.5, weight_decay=0.1, keep=True),
            sgd(0.1, momentum=0.5, weight_decay=0.1),
        ),
        (Adam(lr=0.02, steps=3, batch=8, keep=True), lambda p: torch.optim.Adam(p, lr=0.02)),
        (
            Adam(lr=0.02, steps=3, batch=8, beta1=0.8, beta2=0.9, weight_decay=0.1, keep=True),
            lambda p: torch.optim.AdamW(p, lr=0.02, betas=(0.8, 0.9), weight_decay=0.1),
        ),
    ],
    ids=["momentum", "decay", "both", "adam", "adamw"],
)  # fmt: skip
def test_optimisers_are_those_of_torch(ours, theirs):
    alone(ours, Loop(workload(), ours, theirs))


@pytest.mark.parametrize("local", [SGD(lr=0.1, steps=3, batch=8, momentum=0.9), Adam(lr=0.02, steps=3, batch=8)])
def test_moments_that_are_not_kept_start_again_in_every_round(local):
    kind = sgd(0.1, momentum=0.9) if isinstance(local, SGD) else lambda p: torch.optim.Adam(p, lr=0.02)
    loop = Loop(workload(), local, kind)
    for t in range(1, 4):
        loop.optimisers = [kind(module.parameters()) for module in loop.peers]
        loop.train(t, 0)
    close(rows(build(local=local, overlay=Alone())), loop.rows())


def test_clipping_bounds_the_norm_of_the_whole_gradient():
    def step(module, optimiser, x, y, start):
        plain(module, optimiser, x, y, start, lambda: nn.utils.clip_grad_norm_(module.parameters(), 0.05))

    local = SGD(lr=0.5, steps=3, batch=8, clip=0.05)
    alone(local, Loop(workload(), local, sgd(0.5), step=step))


def test_sharpness_aware_steps_climb_over_all_parameters():
    def step(module, optimiser, x, y, start):
        parameters = list(module.parameters())
        found = torch.autograd.grad(nn.functional.cross_entropy(module(x), y), parameters)
        norm = torch.sqrt(sum((g**2).sum() for g in found))
        before = [p.detach().clone() for p in parameters]
        with torch.no_grad():
            for p, g in zip(parameters, found, strict=True):
                p.add_(0.3 * g / norm)
        optimiser.zero_grad()
        nn.functional.cross_entropy(module(x), y).backward()
        with torch.no_grad():
            for p, value in zip(parameters, before, strict=True):
                p.copy_(value)
        optimiser.step()

    local = SGD(lr=0.2, steps=3, batch=8, gradient=SAM(0.3))
    alone(local, Loop(workload(), local, sgd(), step=step))


def test_proximal_steps_pull_to_where_the_round_began():
    def step(module, optimiser, x, y, start):
        def pull():
            for p, value in zip(module.parameters(), start, strict=True):
                p.grad += 0.7 * (p.detach() - value)

        plain(module, optimiser, x, y, start, pull)

    local = SGD(lr=0.2, steps=4, batch=8, gradient=Proximal(0.7))
    alone(local, Loop(workload(), local, sgd(), step=step))


@pytest.mark.parametrize("norm", ["inf", "2"])
def test_adversarial_steps_descend_on_projected_ascent_in_the_inputs(norm):
    def step(module, optimiser, x, y, start):
        seen = x.clone()
        for _ in range(3):
            seen = seen.detach().requires_grad_()
            (slope,) = torch.autograd.grad(nn.functional.cross_entropy(module(seen), y), seen)
            way = slope.sign() if norm == "inf" else slope / slope.norm(dim=1, keepdim=True)
            shift = seen.detach() + 0.2 * way - x
            if norm == "inf":
                shift = shift.clamp(-0.4, 0.4)
            else:
                shift = shift * (0.4 / shift.norm(dim=1, keepdim=True)).clamp(max=1)
            seen = x + shift
        plain(module, optimiser, seen, y, start)

    attack = PGD(0.4, 0.2, steps=3, norm=norm, start=False, clip=None)
    local = SGD(lr=0.2, steps=2, batch=8, gradient=Adversarial(attack))
    alone(local, Loop(workload(), local, sgd(), step=step))


@pytest.mark.parametrize("rule", ["sgd", "momentum", "adam", "yogi", "adagrad"])
def test_server_optimisers_follow_their_formulas(rule):
    local = SGD(lr=0.2, steps=2, batch=8)
    loop = Loop(workload(), local, sgd())
    w = loop.rows()[0].double()
    m, v = torch.zeros_like(w), torch.full_like(w, 0.01**2)
    for t in range(1, 5):
        loop.train(t, 1)
        delta = loop.rows().double().mean(0) - w
        m = 0.9 * m + (delta if rule == "momentum" else 0.1 * delta)
        if rule == "adam":
            v = 0.95 * v + 0.05 * delta**2
        elif rule == "yogi":
            v = v - 0.05 * delta**2 * torch.sign(v - delta**2)
        else:
            v = v + delta**2
        step = {"sgd": delta, "momentum": m}.get(rule, m / (v.sqrt() + 0.01))
        w = w + 0.1 * step
        loop.load(w.expand(PEERS, -1))
    merge = ServerOpt(rule=rule, lr=0.1, beta1=0.9, beta2=0.95, tau=0.01)
    close(rows(build(local=local, overlay=Star(weigh="one"), merge=merge, rounds=4)), loop.rows()[:1])


@pytest.mark.parametrize("trim", [0.0, 0.2, 0.4])
@pytest.mark.parametrize("peers", [4, 5])
def test_trimmed_mean_drops_the_extremes_of_each_coordinate(trim, peers):
    local = SGD(lr=0.2, steps=2, batch=8)
    loop = Loop(workload(peers), local, sgd())
    loop.train(1, 0)
    values = loop.rows().sort(dim=0).values
    cut = min(max(int(trim * peers), 1 if trim else 0), (peers - 1) // 2)
    wanted = values[cut : peers - cut].mean(0)
    run = build(workload=workload(peers), overlay=Gossip(Full()), merge=TrimmedMean(trim), rounds=1)
    close(rows(run), wanted.expand(peers, -1))


@pytest.mark.parametrize("peers", [4, 5, 20])
def test_the_median_is_that_of_torch(peers):
    local = SGD(lr=0.2, steps=2, batch=8)
    loop = Loop(workload(peers), local, sgd())
    loop.train(1, 0)
    wanted = torch.quantile(loop.rows(), 0.5, dim=0)
    run = build(workload=workload(peers), overlay=Gossip(Full()), merge=Median(), rounds=1)
    close(rows(run), wanted.expand(peers, -1))


def test_the_learning_rate_decays_by_the_round():
    local = SGD(lr=0.4, decay=0.5, steps=2, batch=8)
    loop = Loop(workload(), local, sgd(0.4))
    for t in range(1, 4):
        for optimiser in loop.optimisers:
            optimiser.param_groups[0]["lr"] = 0.4 * 0.5 ** (t - 1)
        loop.train(t, 0)
        loop.load(RING @ loop.rows().double())
    close(rows(build(local=local)), loop.rows())


def test_several_exchanges_a_round_are_powers_of_the_mixing_matrix():
    local = SGD(lr=0.2, steps=2, batch=8)
    loop = Loop(workload(), local, sgd())
    loop.train(1, 0)
    loop.load(torch.linalg.matrix_power(RING, 3) @ loop.rows().double())
    close(rows(build(local=local, overlay=Gossip(Ring(), steps=3), rounds=1)), loop.rows())


def test_batch_statistics_are_those_of_a_module_in_training_mode():
    def kind(shape, outputs):
        return nn.Sequential(nn.Linear(shape[0], 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, outputs))

    work, local = workload(model=kind), SGD(lr=0.2, steps=3, batch=8)
    model = work.network()
    module = kind(BLOBS.shape, BLOBS.outputs)
    nn.utils.vector_to_parameters(first_row(model), module.parameters())
    shards, modules = work.shards(SEED), [copy.deepcopy(module) for _ in range(PEERS)]
    loop = Loop.__new__(Loop)
    loop.peers, loop.shards, loop.local, loop.step = modules, shards, local, plain
    loop.optimisers = [sgd()(m.parameters()) for m in modules]
    for t in (1, 2):
        loop.train(t, 0)
    run = build(workload=work, local=local, overlay=Alone(), rounds=2)
    close(rows(run), loop.rows())
    state = run.snapshot().tensors
    for name in ("running_mean", "running_var"):
        close(state[f"cohort.0/state/buffer/1.{name}"], torch.stack([getattr(m[1], name) for m in modules]))
