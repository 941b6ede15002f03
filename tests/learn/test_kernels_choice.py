"""The choice of a kernel: rules, calibration, what is kept on disk, threads, and the size of a chunk."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from hubless.errors import ConfigError
from hubless.learn.context import Batch
from hubless.learn.kernels import choice, choose, chunk_size, matmul, probe_matmul, remembered
from hubless.learn.model import Model


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("HUBLESS_CACHE", str(tmp_path))
    return tmp_path


def images(C: int = 4, side: int = 8) -> Batch:
    source = torch.Generator().manual_seed(0)
    return Batch(torch.randn(C, 4, 1, side, side, generator=source), torch.randint(0, 3, (C, 4), generator=source))


def rows(C: int = 4) -> Batch:
    return images(C)._replace(x=torch.randn(C, 4, 6, generator=torch.Generator().manual_seed(1)))


def perceptron() -> nn.Module:
    return nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3))


def convolutions() -> nn.Module:
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(36, 3))


class Branches(nn.Module):
    """Control flow that depends on values: only the loop can follow it."""

    def __init__(self) -> None:
        super().__init__()
        self.out = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(x) if x.sum() > 0 else self.out(-x)


@pytest.mark.parametrize(
    ("build", "batch", "name"),
    [
        (perceptron, rows(), "dense"),
        (lambda: nn.Sequential(nn.Linear(6, 5), nn.LayerNorm(5), nn.Linear(5, 3)), rows(), "graph"),
        (convolutions, images(), "stacked"),
        (lambda: nn.Sequential(convolutions(), nn.Softplus()), images(), "loop"),
        (Branches, rows(), "loop"),
    ],
)
@pytest.mark.parametrize("plain", [False, True])
def test_rules(build, batch, name, plain):
    assert choose(Model(build), 4, batch, plain=plain).name == name


def test_one_peer_of_convolutions_is_looped():
    assert choose(Model(convolutions), 1, images(1), plain=True).name == "loop"


def test_a_model_has_one_kernel_of_a_kind():
    model = Model(perceptron)
    assert choose(model, 4, rows(), plain=True) is choose(model, 2, rows(2), plain=False)
    assert choose(model, 4, rows(), plain=True, kind="loop") is choose(model, 4, rows(), plain=True, kind="loop")


def test_a_kind_by_name():
    assert choose(Model(perceptron), 4, rows(), plain=True, kind="graph").name == "graph"
    with pytest.raises(ConfigError, match="kernel: unknown 'grpah'; did you mean 'graph'"):
        choose(Model(perceptron), 4, rows(), plain=True, kind="grpah")
    with pytest.raises(ConfigError, match="kernel: stacked cannot compute Sequential, because"):
        choose(Model(perceptron), 4, rows(), plain=True, kind="stacked")


@pytest.mark.parametrize(
    "build",
    [
        lambda: nn.Sequential(perceptron(), nn.Softplus()),
        lambda: nn.Sequential(nn.ReLU(), nn.Linear(6, 3)),
        convolutions,
        Branches,
    ],
)
def test_the_hand_written_kernel_refuses_what_it_does_not_know(build):
    with pytest.raises(ConfigError, match="kernel: dense cannot compute"):
        choose(Model(build), 4, rows(), plain=True, kind="dense")


def test_shared_parameters_are_left_to_kernels_that_share_them():
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(6, 6)

        def forward(self, x: Tensor) -> Tensor:
            return self.layer(torch.relu(self.layer(x)))

    model, batch = Model(Tied), rows()
    mine = choose(model, 4, batch, plain=True)
    assert mine.name == "graph"
    W = torch.stack([model.start(i) for i in range(4)])
    expected = choose(model, 4, batch, plain=True, kind="loop").grad(W, {}, batch)[0]
    torch.testing.assert_close(mine.grad(W, {}, batch)[0], expected)


class TestCalibration:
    @pytest.fixture
    def measured(self, monkeypatch):
        """Every network is worth measuring, and the measurements are counted; the slower is said to be faster."""
        monkeypatch.setattr(choice, "SMALL", 0)
        asked = []
        monkeypatch.setattr(choice, "_faster", lambda *args: asked.append(args) or "loop")
        return asked

    def test_a_decision_is_kept(self, measured, own_cache):
        assert choose(Model(convolutions), 4, images(), plain=True).name == "loop"
        assert choose(Model(convolutions), 8, images(), plain=True).name == "loop"
        assert len(measured) == 1
        (key,) = [k for k in json.loads((own_cache / "kernels.json").read_text()) if "epoch" in k]
        assert Model(convolutions).fingerprint in key
        assert torch.__version__ in key

    def test_another_shape_is_another_decision(self, measured):
        choose(Model(convolutions), 4, images(), plain=True)
        other = Model(lambda: nn.Sequential(nn.Conv2d(1, 4, 3), nn.Flatten(), nn.Linear(144, 3)))
        choose(other, 4, images(), plain=True)
        choose(other, 4, images(), plain=False)
        assert len(measured) == 3

    @pytest.mark.parametrize("text", ["", "{", "[1]", '{"a": 1}', "\x00\xff"])
    def test_a_damaged_cache_is_ignored(self, measured, own_cache, text):
        (own_cache / "kernels.json").write_text(text)
        assert choose(Model(convolutions), 4, images(), plain=True).name == "loop"
        assert choose(Model(convolutions), 4, images(), plain=True).name == "loop"
        assert len(measured) == 1

    def test_a_cache_that_cannot_be_written_is_done_without(self, measured, monkeypatch, own_cache):
        (own_cache / "file").write_text("")
        monkeypatch.setenv("HUBLESS_CACHE", str(own_cache / "file"))
        assert choose(Model(convolutions), 4, images(), plain=True).name == "loop"

    def test_measuring_gives_one_of_both_and_leaves_no_file_behind(self, monkeypatch, own_cache):
        monkeypatch.setattr(choice, "SMALL", 0)
        name = choose(Model(convolutions), 4, images(), plain=True).name
        assert name in ("loop", "stacked")
        assert [f.name for f in own_cache.iterdir()] == ["kernels.json"]
        assert choose(Model(convolutions), 4, images(), plain=True).name == name

    def test_a_kernel_that_computes_something_else_is_refused(self, monkeypatch, caplog):
        from hubless.learn.kernels.stacked import Stacked

        right = Stacked.grad
        monkeypatch.setattr(Stacked, "grad", lambda self, W, S, b: (right(self, W, S, b)[0] * 1.01, S, W[:, 0]))
        assert choose(Model(convolutions), 4, images(), plain=True).name == "loop"
        assert "stacked differs from loop" in caplog.text


def test_the_first_of_two_processes_decides(own_cache):
    assert remembered.remember("what", "first") == "first"
    assert remembered.remember("what", "second") == "first"
    assert remembered.recall("what") == "first"
    assert remembered.recall("else") is None


def test_processes_do_not_damage_the_cache(own_cache):
    code = """
import sys
from hubless.learn.kernels.remembered import remember
for i in range(40):
    remember(sys.argv[1] + str(i), "x")
"""
    here = os.environ | {"HUBLESS_CACHE": str(own_cache)}
    runs = [subprocess.Popen([sys.executable, "-c", code, name], env=here) for name in "ab"]
    assert [run.wait() for run in runs] == [0, 0]
    assert set(json.loads((own_cache / "kernels.json").read_text()).values()) == {"x"}
    assert [f.name for f in own_cache.iterdir()] == ["kernels.json"]


class TestMatmul:
    @pytest.fixture(autouse=True)
    def fresh(self, monkeypatch):
        monkeypatch.setattr(matmul, "_said", [])
        before = torch.get_float32_matmul_precision()
        torch.set_float32_matmul_precision("highest")
        yield
        torch.set_float32_matmul_precision(before)

    def test_it_measures_once_a_machine_and_says_the_error(self, monkeypatch):
        said = probe_matmul()
        assert "of the default's time, error" in said
        assert torch.get_float32_matmul_precision() == ("medium" if said.startswith("oneDNN") else "highest")
        monkeypatch.setattr(matmul, "_said", [])
        monkeypatch.setattr(matmul, "_measure", lambda: pytest.fail("measured twice"))
        torch.set_float32_matmul_precision("highest")
        assert probe_matmul() == said

    def test_a_fast_but_inaccurate_library_is_refused(self, monkeypatch):
        exact = torch.bmm

        def bmm(a: Tensor, b: Tensor) -> Tensor:
            low = torch.get_float32_matmul_precision() == "medium" and a.dtype == torch.float32
            return exact(a.bfloat16(), b.bfloat16()).float() if low else exact(a, b)

        monkeypatch.setattr(matmul, "WORTH", 1e9)
        monkeypatch.setattr(torch, "bmm", bmm)
        assert probe_matmul().startswith("default")
        assert torch.get_float32_matmul_precision() == "highest"

    def test_the_users_own_precision_stays(self):
        torch.set_float32_matmul_precision("high")
        assert "set by the user" in probe_matmul()
        assert torch.get_float32_matmul_precision() == "high"


@pytest.mark.parametrize("kind", ["dense", "graph", "loop"])
def test_threads_share_a_kernel(kind):
    model, batch = Model(perceptron), rows(2)
    kernel = choose(model, 2, batch, plain=True, kind=kind)
    start = torch.stack([model.start(i) for i in range(2)])

    def train(i: int) -> Tensor:
        W = start + i
        for size in (4, 3, 2):
            kernel.epoch(W, {}, [Batch(batch.x[:, :size], batch.y[:, :size])], 0.1)
        return W

    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(train, range(8)))
    for i, W in enumerate(together):
        torch.testing.assert_close(W, train(i), atol=1e-6, rtol=1e-5)


@given(
    n=st.integers(1, 5000), threads=st.integers(1, 8), memory=st.floats(0.1, 1e4), wide=st.sampled_from([1, 30, 300])
)
def test_chunks(n, threads, memory, wide):
    model = WIDE[wide]
    size = chunk_size(model, torch.zeros(1, 100), 32, n, threads, memory)
    assert size >= 1
    assert size & (size - 1) == 0
    assert size <= -(-n // threads)
    assert size == 1 or size * model.size * 4 <= choice.CACHED
    assert size == 1 or size * (model.size * 12 + 32 * (100 + wide) * 8) <= memory * 2**20


WIDE = {wide: Model(lambda wide=wide: nn.Linear(100, wide)) for wide in (1, 30, 300)}


def test_chunks_of_the_workloads_in_the_notes():
    mlp = Model(lambda: nn.Sequential(nn.Linear(784, 200), nn.ReLU(), nn.Linear(200, 10)))
    vector, image = torch.zeros(1, 784), torch.zeros(1, 1, 28, 28)
    assert chunk_size(mlp, vector, 32, 100, 2, 1024) == 8
    assert chunk_size(mlp, vector, 32, 10, 2, 1024) == 4
    cnn = nn.Sequential(
        nn.Conv2d(1, 16, 5), nn.MaxPool2d(2), nn.Conv2d(16, 32, 5), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(512, 128)
    )
    assert chunk_size(Model(lambda: cnn), image, 32, 100, 2, 1024) == 4
    assert chunk_size(Model(lambda: cnn), image, 32, 100, 2, 16) == 2


def test_a_graph_that_serves_training_is_not_traced_again_for_evaluation():
    class Mixed(nn.Module):
        """No perceptron, so that it is traced."""

        def __init__(self) -> None:
            super().__init__()
            self.out = nn.Linear(6, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.out(torch.tanh(x)) * torch.sigmoid(x.mean())

    model = Model(Mixed)
    kernel = choose(model, 4, rows(), plain=True)
    assert kernel.name == "graph"
    traces = dict(kernel._traced)
    assert choose(model, 1, rows(1), plain=False) is kernel
    assert kernel._traced == traces
