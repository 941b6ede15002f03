import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from messages import CONTEXT, FEW, MODEL, at, same, update

import hubless.testing as testing
from hubless.errors import ConfigError
from hubless.learn.codecs import Codec, ErrorFeedback, Half, KMeans, Layers, TopK
from hubless.learn.codecs.feedback import RESIDUAL
from hubless.learn.slots import Stage
from hubless.parts import make

LOSSY = ["top-k:0.05", "layers+top-k:0.1+float16", "threshold:0.01+zstd", "k-means:3", "uniform:2+huffman",
         "fedzip:0.05", "stochastic:3"]  # fmt: skip


def start(codec):
    found = {}
    for stage in codec.stages:
        found |= stage.init(MODEL)
    return found


def row(m):
    return torch.cat([m[name] for name in MODEL.groups])


@pytest.mark.parametrize("rest", LOSSY)
def test_nothing_is_lost_in_the_long_run(rest):
    """What was said plus the residual is the sum of all updates, after every round."""
    codec = make("codec", f"error-feedback+{rest}")
    s = start(codec)
    meant = said = torch.zeros(MODEL.size)
    for t in range(1, 13):
        m = update(t)
        data, s = codec.encode(m, s, at(t))
        heard = codec.decode(data, at(t))
        meant, said = meant + row(m), said + row(heard)
        assert torch.allclose(said + s[RESIDUAL], meant, atol=1e-4)
        assert torch.equal(heard["seen"], m["seen"])
    assert float(s[RESIDUAL].abs().max()) > 0
    plain = make("codec", rest)
    without = sum(row(plain.decode(plain.encode(update(t), {}, at(t))[0], at(t))) for t in range(1, 13))
    assert rest == "stochastic:3" or float((said - meant).norm()) < float((without - meant).norm())


@FEW
@given(st.sampled_from(LOSSY), st.integers(0, 99))
def test_the_first_update_is_coded_as_without(rest, seed):
    codec, plain = make("codec", f"error-feedback+{rest}"), make("codec", rest)
    m, ctx = update(seed), at(seed)
    if rest != "stochastic:3":  # whose draws depend on its place in the pipeline
        assert codec.encode(m, start(codec), ctx)[0] == plain.encode(m, {}, ctx)[0]


def test_it_works_on_layers_too():
    codec = make("codec", "layers+error-feedback+top-k:0.1")
    assert [type(stage) for stage in codec.stages] == [Layers, ErrorFeedback]
    m, s = update(), start(codec)
    data, s = codec.encode(m, s, at(1))
    assert torch.allclose(row(codec.decode(data, at(1))) + s[RESIDUAL], row(m))


def test_models_pass():
    codec, m = make("codec", "error-feedback+top-k:0.1"), update()
    data, s = codec.encode(m, start(codec), CONTEXT)
    assert same(codec.decode(data, CONTEXT), m)
    assert not s[RESIDUAL].any()


class Hiding(Stage):
    hides = True


class Remembering(Stage):
    remembers = True


def test_it_takes_in_what_stands_behind_it_up_to_hidden_sums():
    alone = make("codec", "error-feedback").stages[0]
    taken = alone.around((TopK(0.1), Half())).around((KMeans(3),))
    assert [type(stage) for stage in taken.inner.stages] == [TopK, Half, KMeans]
    assert not taken.sums
    joined = make("codec", "error-feedback+top-k:0.1+float16+zstd")
    assert len(joined.stages) == 1
    assert type(joined.packer).__name__ == "Zstd"

    from hubless.learn.codecs import join

    codec = join(make("codec", "error-feedback"), Codec((Half(), Hiding(), Half())))
    assert [type(stage) for stage in codec.stages] == [ErrorFeedback, Hiding, Half]


def test_what_it_cannot_take_in():
    with pytest.raises(ConfigError, match="error-feedback comes twice"):
        make("codec", "error-feedback+float16+error-feedback+top-k:0.1")
    with pytest.raises(ConfigError, match="before Remembering; put it behind"):
        ErrorFeedback().around((Remembering(),))
    with pytest.raises(ConfigError, match="takes a delta"):
        make("codec", "error-feedback+top-k:0.1").check({"gossip": "model"}, "Mean")


@pytest.mark.parametrize("rest", LOSSY)
def test_conformance(rest):
    testing.check_codec(f"error-feedback+{rest}", kind="delta")
