import numpy as np

from hubless.net.keyed import _splitmix, generator, uniform


def test_splitmix64_reference():
    """The first outputs of the published generator from state 0, and from 1234567."""
    assert _splitmix(np.array([0], dtype=np.uint64))[0] == 0xE220A8397B1DCDAF
    assert _splitmix(np.array([1234567], dtype=np.uint64))[0] == 6457827717110365317


def test_numbers_are_uniform_and_told_apart():
    ids = np.arange(20_000)
    one, other, swapped = uniform("a", 1, ids), uniform("b", 1, ids), uniform("a", ids, 1)
    for draw in (one, other, swapped):
        assert draw.min() >= 0
        assert draw.max() < 1
        assert np.abs(np.histogram(draw, bins=10, range=(0, 1))[0] / 2000 - 1).max() < 0.1
    assert abs(np.corrcoef([one, other, swapped]) - np.eye(3)).max() < 0.03


def test_generators_are_told_apart():
    draws = {float(generator(*key).random()) for key in (("a", 0), ("b", 0), ("a", 1), ("a", 0, 1))}
    assert len(draws) == 4
    assert generator("a", 3).random() == generator("a", 3).random()
