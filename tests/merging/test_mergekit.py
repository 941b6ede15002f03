"""Equal to mergekit where both have the method; skipped where mergekit is not installed."""

import pytest
import torch

from hubless.merging import Dare, DareTies, Mean, Slerp, TaskArithmetic, Ties, seeded
from hubless.merging.checkpoint import open_checkpoint
from hubless.merging.files import prepare

registry = pytest.importorskip("mergekit.merge_methods.registry", reason="mergekit is not installed: no oracle")
tensor_groups = pytest.importorskip("mergekit.merge_methods.base")

SHAPES = [(64, 33), (129,), (3, 4, 5), ()]
WEIGHTS = [[1.0, 1.0, 1.0], [0.6, 0.4, 0.1], [2.0, 0.5, 1.5]]


def models(shape, count=3, kind=torch.float32):
    generator = torch.Generator().manual_seed(0)
    start = torch.randn(shape, generator=generator)
    tensors = [start + 0.1 * torch.randn(shape, generator=generator) for _ in range(count)]
    return start.to(kind), [tensor.to(kind) for tensor in tensors]


def theirs(method, tensors, start=None, each=None, **parameters):
    """mergekit's merge of tensors of one name; ``each`` are its parameters with a value a model."""
    given = tensors if start is None else [start, *tensors]
    group = tensor_groups.TensorGroup.from_tensors(given, base_index=None if start is None else 0, name="t")
    ids = [entry.id for entry in group.non_base]
    parameters |= {
        name: tensor_groups.PerInputValues(list(zip(ids, values, strict=True))) for name, values in (each or {}).items()
    }
    return registry.get(method)([group], parameters=parameters)[0]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("weights", WEIGHTS)
def test_mean(shape, weights):
    _, tensors = models(shape)
    torch.testing.assert_close(
        Mean()(tensors, weights=weights), theirs("linear", tensors, each={"weight": weights}, normalize=True)
    )


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("weights", [*WEIGHTS, [1.0, -0.5, 0.2]])
@pytest.mark.parametrize("scale", [1.0, 0.3])
def test_task_arithmetic(shape, weights, scale):
    start, tensors = models(shape)
    expected = theirs("task_arithmetic", tensors, start, {"weight": weights}, **{"lambda": scale})
    torch.testing.assert_close(TaskArithmetic(scale)(tensors, weights=weights, base=start), expected)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("weights", WEIGHTS)
@pytest.mark.parametrize("density", [0.05, 0.5, 1.0])
@pytest.mark.parametrize("normalize", [True, False])
def test_ties(shape, weights, density, normalize):
    start, tensors = models(shape)
    each = {"weight": weights, "density": [density] * 3}
    expected = theirs("ties", tensors, start, each, normalize=normalize, **{"lambda": 0.7})
    torch.testing.assert_close(Ties(density, 0.7, normalize)(tensors, weights=weights, base=start), expected)


@pytest.mark.parametrize("method", ["dare_linear", "dare_ties"])
@pytest.mark.parametrize("weights", WEIGHTS)
@pytest.mark.parametrize("density", [0.2, 0.8, 1.0])
def test_dare_with_the_same_draws(method, weights, density, monkeypatch):
    start, tensors = models((64, 33))
    masks = iter([(seeded(0, "t")(place, start.numel()) < density).float() for place in range(3)])
    monkeypatch.setattr(torch, "bernoulli", lambda chances: next(masks).reshape(chances.shape))
    expected = theirs(method, tensors, start, {"weight": weights, "density": [density] * 3})
    rule = DareTies(density, rescale="l1", normalize=False) if method == "dare_ties" else Dare(density, rescale="l1")
    torch.testing.assert_close(rule(tensors, weights=weights, base=start, draw=seeded(0, "t")), expected)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("t", [0.0, 0.3, 0.5, 1.0])
@pytest.mark.parametrize("near", [0.1, 1e-4, 10.0, -30.0])
def test_slerp(shape, t, near):
    start, (other,) = models(shape, count=1)
    other = start + near * (other - start)
    expected = theirs("slerp", [other], start, t=t)
    torch.testing.assert_close(Slerp()([start, other], weights=[1 - t, t]), expected, atol=2e-6, rtol=1e-5)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A tiny Llama and two models of it, in folders as transformers writes them."""
    transformers = pytest.importorskip("transformers")
    config = transformers.LlamaConfig(
        vocab_size=64, hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, max_position_embeddings=32, tie_word_embeddings=True,
    )  # fmt: skip
    network = transformers.LlamaForCausalLM(config)
    start = {name: value.clone() for name, value in network.state_dict().items()}
    home = tmp_path_factory.mktemp("llamas")
    for place, name in enumerate(("base", "A", "B")):
        generator = torch.Generator().manual_seed(place)
        with torch.no_grad():
            for key, value in network.named_parameters():
                value.copy_(start[key] + 0.05 * bool(place) * torch.randn(value.shape, generator=generator))
        network.save_pretrained(home / name)
    return home


WHOLE = {
    "mean": {"merge_method": "linear"},
    "ties": {"merge_method": "ties", "base_model": "base"},
    "task-arithmetic": {"merge_method": "task_arithmetic", "base_model": "base"},
    "slerp": {"merge_method": "slerp", "base_model": "A", "parameters": {"t": 0.4}},
}


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("method", WHOLE)
def test_whole_folders(folders, tmp_path, method):
    """From float32 to bfloat16: equal to the last bit or, where sums were ordered otherwise, one beside it.

    Of values that TIES ranks alike, which bfloat16 would make many, mergekit's sort keeps any and ours the first.
    """
    merging = pytest.importorskip("mergekit.merge")
    config = pytest.importorskip("mergekit.config").MergeConfiguration
    options = pytest.importorskip("mergekit.options").MergeOptions
    weights = [0.6, 0.4]
    given = {**WHOLE[method], "dtype": "float32", "out_dtype": "bfloat16", "models": [
        {"model": str(folders / name), "parameters": {"weight": weight, "density": 0.5}}
        for name, weight in zip("AB", weights, strict=True)
    ]}  # fmt: skip
    if "base_model" in given:
        given["base_model"] = str(folders / given["base_model"])
    quiet = options(copy_tokenizer=False, write_model_card=False, quiet=True)
    merging.run_merge(config.model_validate(given), str(tmp_path / "theirs"), options=quiet)
    rule = {"mean": Mean(), "ties": Ties(0.5), "task-arithmetic": TaskArithmetic(), "slerp": Slerp()}[method]
    base = folders / "base" if rule.needs_base else None
    prepare(rule, [folders / "A", folders / "B"], base=base, weights=weights, dtype=torch.bfloat16).write(
        tmp_path / "ours"
    )
    ours, expected = open_checkpoint(tmp_path / "ours"), open_checkpoint(tmp_path / "theirs")
    assert set(ours) == set(expected)
    for name in expected:
        assert ours[name].dtype == expected[name].dtype == torch.bfloat16
        torch.testing.assert_close(ours[name], expected[name], atol=0, rtol=2**-7)
        assert float((ours[name] != expected[name]).float().mean()) < 0.01
