from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hubless.errors import ConfigError, MessageError, OwnershipError
from hubless.learn.context import Batch, Context, Inbox
from hubless.learn.experts.blending import ExpertExchange, blend, likeness
from hubless.learn.experts.footprint import loads
from hubless.learn.experts.owned import ExpertAdam, Experts, expert_groups
from hubless.learn.kernels.loop import Loop
from hubless.learn.kernels.slope import Session
from hubless.learn.model import Model
from hubless.models.moe import moe
from hubless.parts import make
from hubless.testing import check_merge

E, G = 4, 2 * 3 * 6 * 8  # experts; weights of one in two blocks


def small(experts=E):
    build = moe(8, 2, 2, experts, 6, 2)
    names = [name for name, _ in build((5,), 9).named_parameters()]
    return Model(lambda: build((5,), 9), groups=expert_groups(names), task="language")


MODEL = small()
SHARED = MODEL.size - E * G


def ctx(peer, phase="gossip", t=1, **more):
    return Context(t=t, N=2, model=MODEL, slope=Session(Loop(MODEL)), peer=peer, phase=phase, **more)


def text(*lead):
    tokens = torch.randint(9, (*lead, 6), generator=torch.Generator().manual_seed(1))
    return tokens[..., :-1], tokens[..., 1:]


def test_an_expert_is_one_slice_over_all_blocks():
    experts = Experts.of(MODEL)
    assert (experts.first, experts.count, experts.size) == (SHARED, E, G)
    w = MODEL.start(0)
    parts = MODEL.unflatten(w)
    for number in range(E):
        mine = torch.cat([parts[f"blocks.{b}.mixture.experts.{number}.{name}"].flatten()
                          for b in range(2) for name in ("gate", "up", "down")])  # fmt: skip
        assert torch.equal(experts.all(w)[number], mine)
        for block, (whole, gate) in enumerate(experts.blocks):
            assert whole.stop - whole.start == G // 2
            wanted = parts[f"blocks.{block}.mixture.experts.{number}.gate"].flatten()
            assert torch.equal(experts.all(w)[number, gate], wanted)


@settings(deadline=None, max_examples=30)
@given(nodes=st.sampled_from([1, 2, 4]), seed=st.integers(0, 99), data=st.data())
def test_take_and_put_touch_what_the_peer_trains(nodes, seed, data):
    peer = data.draw(st.integers(0, nodes - 1))
    experts = Experts.of(MODEL)
    w = torch.randn(MODEL.size, generator=torch.Generator().manual_seed(seed))
    own = experts.take(w, peer, nodes)
    assert len(own) == experts.trained(MODEL.size, nodes)
    assert torch.equal(experts.put(w, own, peer, nodes), w)
    moved = experts.put(w, own + 1, peer, nodes)
    mine = [number for number in range(E) if experts.owner(f"expert.{number}", nodes) == peer]
    assert len(mine) == E // nodes
    assert torch.equal(moved[:SHARED], w[:SHARED] + 1)
    for number in range(E):
        assert torch.equal(experts.all(moved)[number], experts.all(w)[number] + (1 if number in mine else 0))


def test_what_is_personal_is_trained_too():
    personal = make("mask", "names:norm.weight")
    model = Model(MODEL.build, groups=MODEL._asked["groups"], personal=personal, task="language")
    experts = Experts.of(model)
    assert list(model.groups)[-1] == "personal"
    w = torch.arange(model.size, dtype=torch.float32)
    own = experts.take(w, 1, 2)
    assert torch.equal(own[-8:], w[-8:])
    assert torch.equal(experts.put(w, own + 1, 1, 2)[-8:], w[-8:] + 1)
    said = ExpertExchange(nodes=2).message(w, {}, {}, replace(ctx(1), model=model))
    assert list(said) == ["shared", "expert.2", "expert.3"]


def adam(**more):
    return ExpertAdam(**{**dict(lr=0.01, steps=3, batch=2, nodes=2, total=9, warmup=2, weight_decay=0.1), **more})


@pytest.mark.parametrize("clip", [0.0, 0.05])
def test_it_is_torchs_adamw_on_what_the_peer_trains(clip):
    """Three steps of peer 1 against torch with the other experts frozen: equal, and these do not move at all."""
    local = adam(clip=clip, epsilon=1e-4)
    x, y = text(2)
    w, s = MODEL.start(0), local.init(MODEL)
    start = w.clone()
    module = MODEL.copy().train()
    parts = MODEL.unflatten(w)
    for name, p in module.named_parameters():
        p.data = parts[name].clone()
        p.requires_grad_("experts.0." not in name and "experts.1." not in name)
    free = [p for p in module.parameters() if p.requires_grad]
    reference = torch.optim.AdamW(free, lr=0.01, betas=(0.9, 0.999), eps=1e-4, weight_decay=0.1)
    here = ctx(1, start=w)
    s = local.begin(w, s, here)
    for step in range(3):
        w, s = local.step(w, s, Batch(x, y), here)
        reference.zero_grad()
        module.loss(module(x), y).mean().backward()
        if clip:
            torch.nn.utils.clip_grad_norm_(free, clip)
        reference.param_groups[0]["lr"] = 0.01 * float(local.factor(torch.tensor(float(step))))
        reference.step()
    w, s = local.end(w, s, here)
    wanted = dict(module.named_parameters())
    for name, value in MODEL.unflatten(w).items():
        assert torch.allclose(value, wanted[name], atol=2e-6), name
    assert torch.equal(Experts.of(MODEL).all(w)[:2], Experts.of(MODEL).all(start)[:2])
    assert len(s["adam.m"]) == len(s["adam.v"]) == SHARED + 2 * G
    assert set(s) == {"adam.m", "adam.v", "adam.t"}


def test_moments_are_as_long_as_what_is_trained():
    assert len(adam(nodes=4).init(MODEL)["adam.m"]) == SHARED + G
    assert len(adam(nodes=1).init(MODEL)["adam.v"]) == MODEL.size


def test_mapped_over_peers_it_is_the_same():
    local = adam(clip=1.0)
    x, y = text(2, 2)
    W = torch.stack([MODEL.start(peer) for peer in range(2)])
    s = {name: value.expand(2, *value.shape) for name, value in local.init(MODEL).items()}

    def one(w, s, x, y, peer):
        here = ctx(peer)
        return local.step(w, local.begin(w, s, here), Batch(x, y), here)

    mapped, state = torch.vmap(one)(W, s, x, y, torch.arange(2))
    for peer in range(2):
        w, after = one(W[peer], {name: value[peer] for name, value in s.items()}, x[peer], y[peer], peer)
        assert torch.allclose(mapped[peer], w, atol=1e-6)
        assert torch.allclose(state["adam.m"][peer], after["adam.m"], atol=1e-6)


def test_the_rate_climbs_and_falls_over_the_whole_run():
    local = adam(total=10, warmup=2)
    rates = [float(local.factor(torch.tensor(float(step)))) for step in range(11)]
    assert rates[:3] == pytest.approx([0.5, 1.0, 1.0])
    assert rates[6] == pytest.approx(0.55)
    assert rates[10] == pytest.approx(0.1)
    cosine = adam(total=10, warmup=2, shape="cosine")
    assert float(cosine.factor(torch.tensor(6.0))) == pytest.approx(0.55)
    assert float(cosine.factor(torch.tensor(4.0))) > rates[4]
    assert float(adam(total=10, warmup=0).factor(torch.tensor(0.0))) == 1
    assert local.begin(torch.zeros(3), {}, ctx(0, t=3))["adam.step"] == 6  # also for one that missed rounds


def inbox(said, ids=(0, 1)):
    return Inbox(tuple(ids), torch.full((len(ids),), 0.5), [said[i] for i in ids])


def exchange(**more):
    return ExpertExchange(nodes=2, **more)


def rows():
    return [MODEL.start(peer) for peer in range(2)]


def test_peers_say_what_they_train():
    merge, w = exchange(), MODEL.start(0)
    said = [merge.message(w, {}, {}, ctx(peer)) for peer in range(2)]
    assert [list(m) for m in said] == [["shared", "expert.0", "expert.1"], ["shared", "expert.2", "expert.3"]]
    assert list(merge.message(w, {}, {}, ctx(0, "down"))) == list(MODEL.groups)


def test_experts_are_their_owners_and_the_rest_is_the_mean_alike_for_all():
    merge, W = exchange(), rows()
    said = [merge.message(W[peer], {}, {}, ctx(peer)) for peer in range(2)]
    after = [merge.apply(W[p], {}, {}, merge.join(inbox(said, ids), W[p], {}, {}, ctx(p)), ctx(p))[0]
             for p, ids in enumerate([(0, 1), (1, 0)])]  # fmt: skip
    assert torch.equal(after[0], after[1])
    assert torch.allclose(after[0][:SHARED], (W[0] + W[1])[:SHARED] / 2)
    experts = Experts.of(MODEL)
    assert torch.equal(experts.all(after[0])[:2], experts.all(W[0])[:2])
    assert torch.equal(experts.all(after[0])[2:], experts.all(W[1])[2:])


def test_an_absent_peer_leaves_its_experts_as_they_were():
    merge, W = exchange(alpha=0.5, donors=2, until=9), rows()
    got = merge.join(inbox([merge.message(W[0], {}, {}, ctx(0))], (0,)), W[0], {}, {}, ctx(0))
    after = merge.apply(W[0], {}, {}, got, ctx(0))[0]
    experts = Experts.of(MODEL)
    assert torch.equal(after[:SHARED], W[0][:SHARED])
    assert torch.equal(experts.all(after)[2:], experts.all(W[0])[2:])
    assert not torch.equal(experts.all(after)[:2], experts.all(W[0])[:2])


def test_a_foreign_expert_is_refused():
    merge, w = exchange(), MODEL.start(0)
    m = merge.message(w, {}, {}, ctx(0)) | {"expert.3": w[MODEL.groups["expert.3"]]}
    with pytest.raises(OwnershipError, match=r"peer 0 sent expert\.3, which peer 1 owns") as caught:
        merge.accept(0, m, ctx(1))
    assert isinstance(caught.value, MessageError)
    assert (caught.value.peer, caught.value.name) == (0, "expert.3")
    merge.accept(0, m, ctx(1, "down"))  # an aggregator says everything


def test_a_wrong_shape_is_refused_by_name():
    merge, w = exchange(), MODEL.start(0)
    m = merge.message(w, {}, {}, ctx(0))
    with pytest.raises(MessageError, match=r"expert\.1 has shape \(3,\), not"):
        merge.accept(0, m | {"expert.1": torch.zeros(3)}, ctx(1))


def test_the_contract_of_merges():
    check_merge(ExpertExchange(nodes=5, alpha=0.1, donors=2, until=9))


def slow_blend(experts, blocks, alpha, donors):
    """As the released code does: per block and expert, on vectors."""
    after = experts.clone()
    for whole, gate in blocks:
        for e in range(len(experts)):
            others = [d for d in range(len(experts)) if d != e]
            alike = {d: torch.cosine_similarity(experts[e, gate], experts[d, gate], dim=0) for d in others}
            best = sorted(others, key=lambda d: -alike[d])[:donors]
            moves = [experts[d, whole] - experts[e, whole] for d in best]
            after[e, whole] = experts[e, whole] + alpha * torch.stack(moves).mean(0)
    return after


@settings(deadline=None, max_examples=25)
@given(seed=st.integers(0, 999), count=st.integers(2, 6), alpha=st.floats(0, 1), data=st.data())
def test_blending_is_the_released_codes_whatever_the_order_of_experts(seed, count, alpha, data):
    donors = data.draw(st.integers(1, count - 1))
    draw = torch.Generator().manual_seed(seed)
    experts = torch.randn(count, 12, generator=draw)
    blocks = ((slice(0, 6), slice(0, 2)), (slice(6, 12), slice(8, 10)))
    moved = blend(experts, blocks, alpha, donors)
    assert torch.allclose(moved, slow_blend(experts, blocks, alpha, donors), atol=1e-5)
    order = torch.randperm(count, generator=draw)
    assert torch.allclose(blend(experts[order], blocks, alpha, donors), moved[order], atol=1e-5)
    assert torch.allclose(blend(experts, blocks, 0.0, donors), experts)


def test_blending_brings_experts_together():
    experts = torch.randn(6, 8, generator=torch.Generator().manual_seed(0))
    moved = blend(experts, ((slice(0, 8), slice(0, 8)),), 0.5, 5)
    assert moved.std(0).mean() < 0.6 * experts.std(0).mean()
    assert torch.allclose(moved.mean(0), experts.mean(0), atol=1e-6)
    assert torch.allclose(likeness(experts).diagonal(), torch.ones(6))


def test_the_strength_falls_to_nothing():
    merge = exchange(alpha=0.1, until=8)
    assert [round(merge.strength(t), 4) for t in (2, 4, 8, 9)] == [0.075, 0.05, 0, 0]
    rare = replace(merge, every=3)
    assert [t for t in range(1, 12) if rare.strength(t)] == [3, 6]
    assert exchange(alpha=0.1).strength(1) == 0


def test_loads_are_shares_of_the_choices():
    shares = loads(MODEL, MODEL.start(0), text(7)[0])
    assert shares.shape == (2, E)
    assert torch.allclose(shares.sum(1), torch.ones(2))


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        (lambda: adam(nodes=3).init(MODEL), "experts must divide evenly among nodes, but there are 4 for 3 peers"),
        (lambda: exchange(alpha=0.1, donors=4).check(MODEL, None), "donors = 4: must be below the 4 experts"),
        (lambda: exchange(alpha=0.1, donors=0).check(MODEL, None), "donors = 0"),
        (lambda: ExpertExchange(nodes=3).check(MODEL, None), "experts must divide evenly"),
        (lambda: exchange(alpha=2.0), "alpha = 2"),
        (lambda: adam(steps=None, epochs=1), "a number of steps a round"),
        (lambda: adam(keep=False), "their moments are kept"),
        (lambda: adam(warmup=9), "warmup = 9 must be below the 9 steps"),
        (lambda: expert_groups(["head.weight"]), "it has no experts"),
    ],
)
def test_bad_input(bad, words):
    with pytest.raises(ConfigError, match=words):
        bad()


def test_experts_that_differ_are_refused():
    groups = MODEL._asked["groups"]
    some = Model(MODEL.build, groups=groups, frozen=["blocks.0.mixture.experts.1.up"], task="language")
    with pytest.raises(ConfigError, match="experts of a row must be alike"):
        Experts.of(some)
