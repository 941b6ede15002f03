import pytest
import torch
from torch import nn

from hubless.errors import ConfigError
from hubless.learn.context import Batch
from hubless.learn.kernels import choose
from hubless.learn.model import Model, language_loss
from hubless.models.moe import Mixture, MixtureTransformer, moe
from hubless.parts import make

V, L = 11, 6


def build():
    return moe(8, 2, 2, 4, 6, 2)((L,), V)


def text(*lead):
    tokens = torch.randint(V, (*lead, L + 1), generator=torch.Generator().manual_seed(3))
    return tokens[..., :-1], tokens[..., 1:]


@pytest.fixture
def network():
    torch.manual_seed(0)
    return build()


def by_token(mixture, h):
    """Each token through its best experts, one at a time."""
    out = torch.zeros_like(h)
    for at in [(b, i) for b in range(h.shape[0]) for i in range(h.shape[1])]:
        p = torch.softmax(mixture.router.weight @ h[at], 0)
        best = p.argsort(descending=True)[: mixture.top]
        for e in best:
            one = mixture.experts[e]
            hidden = nn.functional.silu(one.gate @ h[at]) * (one.up @ h[at])
            out[at] += p[e] / p[best].sum() * (hidden @ one.down)
    return out


@pytest.mark.parametrize("top", [1, 2, 4])
def test_tokens_go_through_their_best_experts_alone(top):
    torch.manual_seed(1)
    mixture = Mixture(5, 4, 3, top)
    for p in mixture.parameters():
        nn.init.normal_(p)
    h = torch.randn(2, 3, 5)
    gradients = []
    for training, sparse in ((True, False), (True, True), (False, False)):
        mixture.sparse = sparse
        out = mixture.train(training)(h)[0]
        assert torch.allclose(out, by_token(mixture, h), atol=1e-5)
        gradients.append(torch.autograd.grad(out.square().sum(), list(mixture.parameters())))
    for dense, *others in zip(*gradients, strict=True):
        assert all(torch.allclose(dense, other, atol=1e-4, rtol=1e-4) for other in others)


def test_losses_of_the_router():
    torch.manual_seed(1)
    mixture = Mixture(5, 4, 3, 2)
    h = torch.randn(2, 3, 5)
    _, balance, z = mixture(h)
    scores = mixture.router(h)
    p = torch.softmax(scores, -1)
    chosen = p.topk(2, -1).indices.flatten()
    f = torch.bincount(chosen, minlength=4) / len(chosen)
    assert torch.allclose(balance.mean(), 4 * (f * p.mean((0, 1))).sum(), atol=1e-6)
    assert torch.allclose(z, scores.exp().sum(-1).log().square(), atol=1e-6)
    nn.init.zeros_(mixture.router.weight)
    assert torch.allclose(mixture(h)[1].mean(), torch.tensor(1.0))  # perfectly even probabilities


def test_all_experts_that_a_token_passes_send_gradients_below(network):
    x, y = text(4)
    network.requires_grad_(False)
    network.token.weight.requires_grad_(True)
    network.loss(network.train()(x), y).mean().backward()
    frozen = network.token.weight.grad.clone()
    network.requires_grad_(True)
    network.zero_grad()
    network.loss(network(x), y).mean().backward()
    assert torch.allclose(frozen, network.token.weight.grad)
    assert frozen.abs().sum() > 0


def test_training_has_one_more_channel_that_the_loss_adds(network):
    x, y = text(3)
    out, clean = network.train()(x), network.eval()(x)
    assert out.shape == (3, L, V + 1)
    assert clean.shape == (3, L, V)
    assert torch.allclose(out[..., :V], clean, atol=1e-6)
    assert torch.allclose(network.loss(clean, y), language_loss(clean, y), atol=1e-6)
    extra = out[..., V]
    assert torch.allclose(network.loss(out, y), language_loss(clean, y) + extra.mean(1), atol=1e-6)
    # at the start: balance about 1, and the log-sum of 4 even scores squared, in each of two blocks
    assert extra.mean().item() == pytest.approx(0.01 + 2 * 0.001 * torch.tensor(4.0).log().item() ** 2, rel=0.05)


def test_the_future_is_not_seen(network):
    x, _ = text(1)
    other = x.clone()
    other[0, 4] = (x[0, 4] + 1) % V
    a, b = network.eval()(x), network(other)
    assert torch.allclose(a[:, :4], b[:, :4], atol=1e-6)
    assert not torch.allclose(a[:, 4:], b[:, 4:], atol=1e-6)


def test_it_maps_over_peers_and_traces():
    model = Model(build, task="language")
    assert model.loss is not language_loss  # the module's own
    x, y = text(3, 2)
    W = torch.stack([model.start(peer) for peer in range(3)])
    graph, loop = (choose(model, 3, Batch(x, y), plain=False, kind=kind) for kind in ("graph", "loop"))
    (g, _, losses), (h, _, wanted) = (kernel.grad(W, {}, Batch(x, y)) for kernel in (graph, loop))
    assert torch.allclose(g, h, atol=1e-6)
    assert torch.allclose(losses, wanted, atol=1e-6)
    assert torch.allclose(graph.forward(W, {}, x[0]), loop.forward(W, {}, x[0]), atol=1e-6)


def test_a_sparse_one_is_computed_peer_by_peer():
    sparse, dense = (Model(lambda one=one: make("model", one)((L,), V), task="language")
                     for one in ("moe:8:2:2:4:6:2:sparse=true", "moe:8:2:2:4:6:2"))  # fmt: skip
    x, y = text(2, 2)
    W = torch.stack([sparse.start(peer) for peer in range(2)])
    chosen = choose(sparse, 2, Batch(x, y), plain=False)
    assert chosen.name == "loop"
    wanted = choose(dense, 2, Batch(x, y), plain=False, kind="loop").grad(W, {}, Batch(x, y))[0]
    assert torch.allclose(chosen.grad(W, {}, Batch(x, y))[0], wanted, atol=1e-6)


def test_the_size_of_the_laptop_experiment():
    network = make("model", "moe")((48,), 256)
    assert isinstance(network, MixtureTransformer)
    assert sum(p.numel() for p in network.parameters()) == 255_216


@pytest.mark.parametrize(
    ("spec", "words"),
    [("moe:7:1:2", "a width .7. that is a multiple of 2 heads"), ("moe:8:0", "positive sizes"),
     ("moe:8:1:2:4:6:5", "top = 5: must be between 1 and the 4 experts"), ("moe:8:1:2:4:6:0", "top = 0")],
)  # fmt: skip
def test_bad_sizes(spec, words):
    with pytest.raises(ConfigError, match=words):
        make("model", spec)
