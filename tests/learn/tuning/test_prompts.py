"""The generator of prompts, on a network of a prompt and a head: gradients, the role, and what is refused."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small import BLOBS, build, close, finish, first_row, metrics, workload
from small import rows as rows_of
from torch import nn

import hubless.testing as testing
from hubless.data.partition import IID
from hubless.errors import ConfigError, MessageError
from hubless.learn import SGD, Alone, Inbox, Model, Rotating, Star
from hubless.learn.context import Context
from hubless.learn.merges import Median
from hubless.learn.outputs import Familiar
from hubless.learn.tuning.beside import KEPT, Common
from hubless.learn.tuning.personal import Likeness, OwnTask
from hubless.learn.tuning.prompts import BANK, PromptGenerator, written
from hubless.learn.tuning.rates import Rates
from hubless.parts import make

TOKENS, WIDTH, N = 2, 5, 5


class Prompted(nn.Module):
    """Inputs ``[B, 5]`` to logits: a frozen layer sees each input once with every prompt token."""

    def __init__(self):
        super().__init__()
        self.prompt = nn.Parameter(torch.empty(TOKENS, WIDTH).uniform_(-0.5, 0.5))
        self.body = nn.Linear(WIDTH, 8)
        self.head = nn.Linear(8, 3)

    def forward(self, x):
        return self.head(torch.tanh(self.body(x[:, None] * (1 + self.prompt))).mean(1))


def network(trainable="prompt+head", personal="head"):
    masks = {name: make("mask", text) if text else None for name, text in
             (("trainable", trainable), ("personal", personal))}  # fmt: skip
    return Model(Prompted, name="prompted", **masks)


MODEL = network()
GLOBAL = network(personal="")


def run(merge, overlay=None, model=MODEL, hooks=(), **rest):
    work, local = workload(model=model), SGD(lr=0.3, steps=2, batch=8)
    return build(workload=work, local=local, overlay=overlay or Star(weigh="one"), merge=merge, hooks=hooks, **rest)


def context(phase="up", t=1, **more):
    return Context(t=t, N=N, model=MODEL, slope=None, key=7, phase=phase, **more)


def kept_of(generator, seed=7):
    start = torch.linspace(-1, 1, TOKENS * WIDTH)
    return generator.fresh(start, replace(context("down"), key=seed))


def answers(displacements, ids):
    sent = [{"w": displacement} for displacement in displacements]
    return Inbox(tuple(ids), torch.full((len(sent),), 1 / len(sent)), sent)


def learn(generator, kept, displacements, ids, t=1):
    ctx = context(t=t)
    got = generator.join(answers(displacements, ids), torch.zeros(MODEL.size), {}, {}, ctx)
    return generator.learned(kept, got, ctx)


@pytest.mark.parametrize("merge", [PromptGenerator(tokens=5), PromptGenerator(tokens=3, until=1), Common(),
                                   Common(Median())], ids=str)  # fmt: skip
def test_contracts(merge):
    testing.check_merge(merge)
    testing.check_gradient(Rates(make("mask", "bias"), 3.0))


def test_prompts_are_those_of_the_equations():
    kept = kept_of(PromptGenerator(tokens=TOKENS))
    v = kept["values"]
    for peer in range(N):
        q, k = v[BANK][peer] @ v["query"], v["base"] @ v["key"]
        weights = torch.softmax(q @ k.T / WIDTH**0.5, dim=1)
        by_hand = v["base"] + weights @ (v["base"] @ v["value"]) @ v["out"]
        assert torch.allclose(PromptGenerator(tokens=TOKENS).says(kept, peer), by_hand.flatten(), atol=1e-6)


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 10**6), ids=st.sets(st.integers(0, N - 1), min_size=1))
def test_prompts_follow_the_peers_and_the_control_flees(seed, ids):
    """One small step changes the prompts by something that points where the displacements do: the sign is right."""
    ids = sorted(ids)
    moves = torch.randn(len(ids), TOKENS * WIDTH, generator=torch.Generator().manual_seed(seed))
    small = PromptGenerator(tokens=TOKENS, lr=1e-5, weight_decay=0.0)
    for generator, sign in ((small, 1), (replace(small, turned=True), -1)):
        kept = kept_of(generator, seed)
        new = learn(generator, kept, moves, ids)
        went = torch.stack([generator.says(new, peer) - generator.says(kept, peer) for peer in ids])
        assert sign * float((went * moves).sum()) > 0


def test_a_step_is_torchs_adamw_on_the_turned_displacements():
    generator = PromptGenerator(tokens=TOKENS, lr=0.05, weight_decay=0.1)
    kept = kept_of(generator)
    theirs = {name: value.clone().requires_grad_() for name, value in kept["values"].items()}
    optimiser = torch.optim.AdamW(theirs.values(), lr=0.05, weight_decay=0.1)
    for step in range(3):
        moves = torch.randn(N, TOKENS * WIDTH, generator=torch.Generator().manual_seed(step))
        optimiser.zero_grad()
        torch.autograd.backward(written(theirs, range(N)), grad_tensors=-moves.reshape(N, TOKENS, WIDTH))
        optimiser.step()
        kept = learn(generator, kept, moves, range(N))
    for name, value in theirs.items():
        close(kept["values"][name], value.detach(), 1e-5)


def test_a_descriptor_moves_only_when_its_peer_has_answered():
    generator = PromptGenerator(tokens=TOKENS)
    first = kept_of(generator)
    old = {name: value.clone() for name, value in first["values"].items()}
    new = learn(generator, first, torch.ones(2, TOKENS * WIDTH), [3, 1])
    moved = (new["values"][BANK] != first["values"][BANK]).flatten(1).any(1)
    assert moved.tolist() == [False, True, False, True, False]
    assert new["steps"][BANK].tolist() == [0, 1, 0, 1, 0]
    assert all(torch.equal(first["values"][name], value) for name, value in old.items()), "kept is not changed in place"


def test_after_until_only_descriptors_learn():
    generator = PromptGenerator(tokens=TOKENS, until=4)
    first = kept_of(generator)
    for t, frozen in ((4, False), (5, True)):
        new = learn(generator, first, torch.ones(1, TOKENS * WIDTH), [2], t=t)["values"]
        same = {name for name, value in new.items() if torch.equal(value, first["values"][name])}
        assert same == ({"base", "query", "key", "value", "out"} if frozen else set())


def test_no_displacement_and_no_decay_change_nothing():
    generator = PromptGenerator(tokens=TOKENS, weight_decay=0.0)
    first = kept_of(generator)
    new = learn(generator, first, torch.zeros(N, TOKENS * WIDTH), range(N))
    assert all(torch.equal(new["values"][name], value) for name, value in first["values"].items())


MERGES = [PromptGenerator(tokens=TOKENS, weight_decay=0.0), Common(), Common(Median())]


@pytest.mark.parametrize("merge", MERGES, ids=str)
@pytest.mark.parametrize("model", [MODEL, GLOBAL], ids=["personal head", "common head"])
def test_a_rotating_aggregator_gives_the_same_numbers(merge, model):
    if model is GLOBAL and isinstance(merge, PromptGenerator):
        return
    hooks = (OwnTask(IID(), merge), Likeness(merge, ("a", "b", "a", "b", "a")))
    star = run(merge, hooks=hooks, model=model)
    rotating = run(merge, Rotating(weigh="one", copies=2), hooks=hooks, model=model)
    for one, other in zip(metrics(star), metrics(rotating), strict=True):
        same = one.keys() - {"bytes", "clock", "messages"}
        assert {name: one[name] for name in same} == pytest.approx({name: other[name] for name in same}, abs=1e-6)
    close(finish(star)["cohort.0/rows"], finish(rotating)["cohort.0/rows"], 1e-6)


def test_the_role_is_where_the_generator_is():
    moving = run(PromptGenerator(tokens=TOKENS), Rotating(weigh="one", copies=2))
    finish(moving)
    books = moving.snapshot().tensors
    holders = {path.split("\x1f")[0] for path in books if KEPT in path}
    assert len(holders) == 2
    assert holders != {"book/i0", "book/i1"}


def test_rows_of_the_aggregator_and_its_heirs_stay_theirs():
    """After a round every peer has what it has tuned: the aggregator's model is not in anybody's row."""
    tuned = rows_of(run(Common(), Rotating(weigh="one"), rounds=1))[:, : MODEL.shared_size]
    assert len(torch.unique(tuned, dim=0)) == N


def test_common_is_the_average_of_what_was_tuned():
    experiment = run(Common(), rounds=1)
    state = finish(experiment)
    (mean,) = [value for path, value in state.items() if path.endswith("smean")]
    close(mean, state["cohort.0/rows"][:, : MODEL.shared_size].mean(0), 1e-6)


@pytest.mark.parametrize("merge", MERGES, ids=str)
def test_peers_start_from_what_they_are_told(merge):
    """Training that moves nothing leaves in every row what the aggregator says to its peer, and the head as it was."""
    still = SGD(lr=1e-30, steps=1)
    experiment = build(workload=workload(model=MODEL), local=still, overlay=Star(weigh="one"), merge=merge, rounds=1)
    rows = rows_of(experiment)
    told = torch.stack([merge.told(experiment._state.wiring.population, peer) for peer in range(N)])
    if isinstance(merge, PromptGenerator):
        assert len(torch.unique(rows[:, : MODEL.shared_size], dim=0)) == N
    close(rows[:, : MODEL.shared_size], told[:, : MODEL.shared_size], 1e-5)
    close(rows[:, MODEL.shared_size :], first_row(MODEL)[MODEL.shared_size :].expand(N, -1), 1e-7)


def test_heads_stay_at_home_and_prompts_differ():
    merge = PromptGenerator(tokens=TOKENS)
    experiment = run(merge, hooks=(OwnTask(IID(), merge), Likeness(merge, ("a",) * N)))
    records = list(experiment.records())
    assert records[-2].metrics["prompt_distance"] > 0.01
    assert len(records[-2].peers["accuracy_own"]) == N
    figure = next(r.data for r in records if r.kind == "figure" and r.data["type"] == "heatmap")
    assert torch.tensor(figure["values"]).diagonal().tolist() == pytest.approx([1.0] * N)
    # 5 peers, 10 numbers down and up and a packer's few bytes; a head has 27 numbers
    assert records[1].metrics["bytes"] < 2 * N * (10 + 27) * 4
    assert records[1].metrics["messages"] == 2 * (N - 1)


def test_own_task_is_made_of_own_classes():
    hook = OwnTask(make("partition", "iid"))
    seen = []

    class Look(OwnTask):
        def round(self, view):
            for peer in range(N):
                x, y = self.task(view, peer)
                seen.append((set(y.tolist()), set(torch.nonzero(view.shards.classes[peer]).flatten().tolist()), len(x)))
            return {}

    skewed = workload(model=MODEL, partition="shards:1", data=BLOBS)
    list(build(workload=skewed, hooks=(Look(hook.partition, samples=7),), overlay=Alone(), rounds=2).records())
    assert all(classes <= own for classes, own, _ in seen)
    assert all(count <= 7 for *_, count in seen[:N])
    assert max(count for *_, count in seen[N:]) > 7


def test_rates_move_masked_parameters_faster():
    fast = Rates(make("mask", "prompt"), 3.0, Familiar())
    locals_ = (SGD(lr=0.1, steps=1, gradient=Familiar()), SGD(lr=0.1, steps=1, gradient=fast))
    rows = [rows_of(build(workload=workload(model=MODEL), local=local, overlay=Alone(), rounds=1)) for local in locals_]
    moves = [row - first_row(MODEL) for row in rows]
    cut = MODEL.shared_size
    close(moves[1][:, cut:], moves[0][:, cut:], 1e-6)
    close(moves[1][:, :cut], 3 * moves[0][:, :cut], 1e-5)


def refusal(*, tokens=TOKENS, trainable="prompt+head", personal="head"):
    return run(PromptGenerator(tokens=tokens), model=network(trainable, personal))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (dict(tokens=5), "5 tokens for 10 parameters would be 2 wide, but the backbone is 5 wide; give it 2 tokens"),
        (dict(trainable="all"), "trainable: body.weight belongs to the backbone"),
        (dict(trainable="prompt+head+names:body.bias"), "trainable: body.bias belongs to the backbone"),
        (dict(personal=""), "personal: head.weight is no prompt and must stay with its peer"),
    ],
)
def test_what_does_not_fit_is_refused_before_the_run(options, words):
    with pytest.raises(ConfigError, match=words):
        refusal(**options)


@pytest.mark.parametrize("options", [dict(tokens=0), dict(lr=0), dict(weight_decay=-1), dict(until=-1)])
def test_bad_values(options):
    with pytest.raises(ConfigError, match="prompts: "):
        PromptGenerator(**options)


def test_bad_rates():
    with pytest.raises(ConfigError, match=r"gradient\.factor = 0"):
        Rates(make("mask", "prompt"), 0.0)


@pytest.mark.parametrize("peer", [-1, N])
def test_a_peer_without_a_descriptor_is_an_error(peer):
    generator = PromptGenerator(tokens=TOKENS)
    with pytest.raises(ConfigError, match=f"no descriptor of peer {peer}: ids go from 0 to 4"):
        generator.says(kept_of(generator), peer)


@pytest.mark.parametrize(
    ("sender", "change", "words"),
    [
        (0, lambda m: {**m, "personal": torch.zeros(27)}, "personal is not shared and must stay with its peer"),
        (0, lambda m: {**m, "head.weight": torch.zeros(3, 8)}, "head.weight is not shared"),
        (0, lambda m: {}, "w is missing"),
        (0, lambda m: {"w": torch.zeros(TOKENS * 7)}, r"w has shape \(14,\), not \(10,\)"),
        (0, lambda m: {"w": m["w"] * torch.nan}, "w is not finite"),
        (N, lambda m: m, "there is no peer 5: ids go from 0 to 4"),
    ],
)
def test_bad_messages_are_refused(sender, change, words):
    with pytest.raises(MessageError, match=words):
        PromptGenerator(tokens=TOKENS).accept(sender, change({"w": torch.zeros(TOKENS * WIDTH)}), context())


def test_a_lost_role_begins_anew_and_the_run_goes_on():
    experiment = run(
        PromptGenerator(tokens=TOKENS), Rotating(weigh="one", copies=1), setting=dict(faults="crash:aggregator@2")
    )
    assert torch.isfinite(finish(experiment)["cohort.0/rows"]).all()


def test_a_resumed_run_is_the_same():
    experiment = run(PromptGenerator(tokens=TOKENS), Rotating(weigh="one"), rounds=4)
    whole = finish(experiment)
    again = run(PromptGenerator(tokens=TOKENS), Rotating(weigh="one"), rounds=4)
    records = again.records()
    for record in records:
        if record.kind == "round" and record.round == 2:
            break
    snapshot = again.snapshot()
    tensors = {name: value.clone() for name, value in snapshot.tensors.items()}
    resumed = run(PromptGenerator(tokens=TOKENS), Rotating(weigh="one"), rounds=4)
    list(resumed.records(replace(snapshot, tensors=tensors)))
    assert torch.equal(resumed.snapshot().tensors["cohort.0/rows"], whole["cohort.0/rows"])
