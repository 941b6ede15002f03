import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hubless.data.classes import labels, only, spoken
from hubless.data.dataset import Dataset
from hubless.errors import ConfigError
from hubless.parts import make

DATA = make("data", "synthetic:samples=120:classes=6")


@given(st.lists(st.integers(0, 5), min_size=1, unique=True))
def test_labels_are_read_as_they_are_spoken(kept):
    assert labels(spoken(kept), DATA, "classes") == tuple(kept)


@given(st.lists(st.integers(0, 5), min_size=1, unique=True).map(tuple))
def test_only_some_classes_are_kept_with_their_labels(kept):
    some = only(DATA, kept)
    assert (some.classes, some.outputs) == (DATA.classes, 6)
    for x, y, every, truth in ((some.x, some.y, DATA.x, DATA.y), (some.test_x, some.test_y, DATA.test_x, DATA.test_y)):
        assert np.array_equal(x, every[np.isin(truth, kept)])
        assert np.array_equal(y, truth[np.isin(truth, kept)])


def test_all_classes_are_the_set_itself():
    assert only(DATA, labels("all", DATA, "classes")) is DATA
    assert only(DATA, (5, 3)).name == "synthetic 5,3"


@pytest.mark.parametrize("text", ["", "4-6", "a", "1,1", "3-2", "-1", "0-2,2"])
def test_what_is_no_label_is_refused(text):
    with pytest.raises(ConfigError, match="classes = "):
        labels(text, DATA, "classes")


def test_sets_without_classes_are_refused():
    with pytest.raises(ConfigError, match="linear has none"):
        only(make("data", "linear"), (0,))


def test_values_are_those_of_the_set():
    data = Dataset.of([[1.0], [2.0], [3.0], [4.0]], [0, 1, 0, 1], test=([[5.0], [6.0]], [0, 1]))
    assert only(data, (1,)).x.tolist() == [[2.0], [4.0]]
    assert only(data, (1,)).test_x.tolist() == [[6.0]]
