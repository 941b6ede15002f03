import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from hubless.errors import ConfigError, HublessError
from hubless.merging.search import cma_es, layer_of, layers, layerwise, scalar, task_vectors

TARGET = torch.tensor([[0.1, 0.9], [1.2, 0.3], [0.0, 0.7]], dtype=torch.float64)


def bowl(candidates):
    return -(candidates - TARGET).square().sum((1, 2))


def models(seed=0, experts=2):
    generator = torch.Generator().manual_seed(seed)
    shapes = {"token.weight": (3, 2), "blocks.0.mixer.weight": (2, 2), "blocks.0.mixer.bias": (2,), "head.bias": (4,)}
    return [
        {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()} for _ in range(experts + 1)
    ]


@pytest.mark.parametrize(
    ("parameter", "layer"),
    [
        ("1.weight", "1"),
        ("head.bias", "head"),
        ("blocks.1.mixer.weight", "blocks.1"),
        ("model.layers.3.self_attn.q_proj.weight", "model.layers.3"),
        ("model.embed_tokens.weight", "model.embed_tokens"),
        ("scale", "scale"),
    ],
)
def test_embeddings_blocks_and_heads_are_layers(parameter, layer):
    assert layer_of(parameter) == layer


def test_a_perceptron_has_a_layer_a_linear_module():
    module = nn.Sequential(nn.Flatten(), nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
    assert layers(dict(module.named_parameters())) == {"1": ["1.weight", "1.bias"], "3": ["3.weight", "3.bias"]}


@given(st.integers(0, 1000), st.integers(1, 4))
@settings(max_examples=20, deadline=None)
def test_coefficients_of_one_expert_alone_give_that_expert(seed, experts):
    base, *others = models(seed, experts)
    vectors = task_vectors(base, others)
    table = torch.zeros(experts + 2, 3, experts)
    table[1] = 1 / experts
    for at in range(experts):
        table[2 + at, :, at] = 1
    merged = layerwise(base, vectors, table)
    assert list(merged) == list(base)
    for name, value in base.items():
        torch.testing.assert_close(merged[name][0], value)
        torch.testing.assert_close(merged[name][1], torch.stack([one[name] for one in others]).mean(0))
        for at, other in enumerate(others):
            torch.testing.assert_close(merged[name][2 + at], other[name])


def test_each_layer_has_its_own_coefficients_and_a_stack_is_what_its_members_are():
    base, *others = models()
    vectors = task_vectors(base, others)
    table = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.5, 0.25]])
    merged = layerwise(base, vectors, table)
    torch.testing.assert_close(merged["token.weight"], others[0]["token.weight"])
    torch.testing.assert_close(merged["blocks.0.mixer.bias"], others[1]["blocks.0.mixer.bias"])
    head = base["head.bias"] + 0.5 * vectors["head.bias"][0] + 0.25 * vectors["head.bias"][1]
    torch.testing.assert_close(merged["head.bias"], head)
    stack = layerwise(base, vectors, torch.stack([table, 2 * table]))
    for name, value in merged.items():
        torch.testing.assert_close(stack[name][0], value)


@pytest.mark.parametrize("shape", [(2, 2), (3, 3), (3,), (5, 2, 2), (1, 1, 3, 2)])
def test_coefficients_of_the_wrong_shape(shape):
    base, *others = models()
    with pytest.raises(ConfigError, match=r"a row for each of its 3 layers and a column for each of 2 experts"):
        layerwise(base, task_vectors(base, others), torch.zeros(shape))


def test_models_of_other_names_or_shapes_are_sent_the_other_way():
    base, one, other = models()
    with pytest.raises(ConfigError, match=r"expert 1 differs.*1 missing \(head.bias\).*model-merging"):
        task_vectors(base, [one, {name: other[name] for name in list(other)[:-1]}])
    with pytest.raises(ConfigError, match=r"expert 0 differs.*head.bias \[5\], not \[4\].*model-merging"):
        task_vectors(base, [{**one, "head.bias": torch.zeros(5)}])
    with pytest.raises(ConfigError, match="there are no experts"):
        task_vectors(base, [])


def test_the_search_finds_the_best_coefficients_of_every_layer():
    found = cma_es((3, 2), bowl, seed=3)
    assert float((found.coefficients - TARGET).abs().max()) < 0.05
    assert found.coefficients.shape == (3, 2)
    assert found.best == sorted(found.best)
    assert found.best[0] == pytest.approx(float(bowl(torch.full((1, 3, 2), 0.5))[0]))
    assert found.fitness == found.best[-1]
    assert len(found.best) == len(found.mean) == 41
    assert found.fitness > scalar((3, 2), bowl).fitness


def test_one_seed_gives_one_search():
    first, again, other = (cma_es((3, 2), bowl, generations=3, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(first.coefficients, again.coefficients)
    assert not torch.equal(first.coefficients, other.coefficients)


@given(st.integers(0, 100))
@settings(max_examples=10, deadline=None)
def test_candidates_come_a_generation_at_a_time_and_inside_the_bounds(seed):
    sizes = []

    def fitness(candidates):
        sizes.append(len(candidates))
        assert float(candidates.min()) >= 0
        assert float(candidates.max()) <= 1.5
        return candidates.sum((1, 2))

    found = cma_es((4, 3), fitness, generations=4, seed=seed)
    assert sizes == [1, *[4 + 7] * 4]  # 4 + floor(3 ln 12)
    assert found.fitness >= 4.0  # the start: the experts' mean


def test_the_scalar_is_the_best_of_a_grid():
    found = scalar((3, 2), lambda candidates: -(candidates[:, 0, 0] - 0.8).abs())
    assert torch.equal(found.coefficients, torch.full((3, 2), 0.8))
    assert len(found.best) == 31


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_fitness_that_is_not_finite(bad):
    def fitness(candidates):
        values = bowl(candidates)
        return torch.where(torch.arange(len(values)) == 3, bad, values)

    with pytest.raises(HublessError, match=r"fitness of candidate 3 in generation 1 is (nan|inf)"):
        cma_es((3, 2), fitness)
    with pytest.raises(HublessError, match="fitness of candidate 3 in generation 0"):
        scalar((3, 2), fitness)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (dict(start=2.0), r"search.start = 2: must be in \[0, 1.5\]"),
        (dict(sigma=0.0), "sigma = 0 must be positive"),
        (dict(generations=0), "generations = 0 at least 1"),
    ],
)
def test_settings_that_cannot_work(options, words):
    with pytest.raises(ConfigError, match=words):
        cma_es((3, 2), bowl, **options)


def test_a_fitness_of_the_wrong_shape():
    with pytest.raises(ConfigError, match=r"a fitness of shape \(1, 3, 2\) for 1 candidates"):
        cma_es((3, 2), lambda candidates: candidates)


def test_without_the_library(monkeypatch):
    monkeypatch.setitem(sys.modules, "cmaes", None)
    with pytest.raises(ConfigError, match=r"pip install 'hubless\[search\]'"):
        cma_es((3, 2), bowl)
