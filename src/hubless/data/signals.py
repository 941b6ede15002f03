"""MNIST-1D: ten one-dimensional templates, shifted, scaled, sheared and buried in noise (arXiv 2011.14439).

The same numbers as the published generator (package ``mnist1d``, Apache-2.0) with its default arguments and
seed 42: the draws come in the same order from the same legacy stream, here from a private one.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from hubless.data.fetch import Arrays

VERSION = "2020-seed42"
SAMPLES, TRAIN, POINTS = 5000, 4000, 40
PADDING, SHIFT = (36, 60), 48
SCALE, SHEAR, SLOW_NOISE, NOISE = 0.4, 0.75, 0.25, 2e-2

TEMPLATES = (
    (5, 6, 6.5, 6.75, 7, 7, 7, 7, 6.75, 6.5, 6, 5),
    (5, 3, 3, 3.4, 3.8, 4.2, 4.6, 5, 5.4, 5.8, 5, 5),
    (5, 6, 6.5, 6.5, 6, 5.25, 4.75, 4, 3.5, 3.5, 4, 5),
    (5, 6, 6.5, 6.5, 6, 5, 5, 6, 6.5, 6.5, 6, 5),
    (5, 4.4, 3.8, 3.2, 2.6, 2.6, 5, 5, 5, 5, 5, 5),
    (5, 3, 3, 3, 3, 5, 6, 6.5, 6.5, 6, 4.5, 5),
    (5, 4, 3.5, 3.25, 3, 3, 3, 3, 3.25, 3.5, 4, 5),
    (5, 7, 7, 6.6, 6.2, 5.8, 5.4, 5, 4.6, 4.2, 5, 5),
    (5, 4, 3.5, 3.5, 4, 5, 5, 4, 3.5, 3.5, 4, 5),
    (5, 4, 3.5, 3.5, 4, 5, 5, 5, 5, 4.7, 4.3, 5),
)


def mnist1d() -> Arrays:
    """x [4000, 40] and y, test_x [1000, 40] and test_y; standardised over the whole set."""
    rng = np.random.RandomState(42)
    x = np.array(TEMPLATES)
    x -= x.mean(1, keepdims=True)
    x /= x.std(1, keepdims=True)
    x = (x - x[:, :1]) / 6
    y = np.repeat(np.arange(len(x)), SAMPLES // len(x))
    signals = np.stack([_signal(x[label], rng) for label in y])
    order = rng.permutation(len(y))
    signals, y = signals[order], y[order]
    signals = ((signals - signals.mean()) / signals.std()).astype(np.float32)
    return {"x": signals[:TRAIN], "y": y[:TRAIN], "test_x": signals[TRAIN:], "test_y": y[TRAIN:]}


def _signal(template: NDArray[np.float64], rng: np.random.RandomState) -> NDArray[np.float64]:
    from scipy.ndimage import gaussian_filter

    low, high = PADDING
    padded = np.concatenate([template + 1e-8, np.zeros(low + int(rng.rand() * (high - low + 1)))])
    signal = _stretch(padded, len(template) + high)
    signal *= 1 + SCALE * (rng.rand() - 0.5)
    shift = rng.choice(SHIFT)
    signal = np.concatenate([signal[-shift:], signal[:-shift]])
    slow = gaussian_filter(SLOW_NOISE * rng.randn(len(signal)), 2)
    signal = np.where(signal != 0, signal, slow) + NOISE * rng.randn(len(signal))
    signal -= SHEAR * (rng.rand() - 0.5) * np.linspace(-0.5, 0.5, len(signal))
    return _stretch(signal, POINTS)


def _stretch(signal: NDArray[np.float64], points: int) -> NDArray[np.float64]:
    return np.interp(np.linspace(0, 1, points), np.linspace(0, 1, len(signal)), signal)
