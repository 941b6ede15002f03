import json

import numpy as np
import pytest

from hubless.errors import ConfigError
from hubless.learn import Gossip
from hubless.net.matrix import Matrix
from hubless.net.mixing import mix
from hubless.net.topologies import Full, Line
from hubless.parts import make

W = [[0.5, 0.5, 0.0], [0.2, 0.7, 0.1], [0.0, 0.4, 0.6]]


@pytest.mark.parametrize("held", [W, {"graph_type": "line", "pi": W}])
def test_a_matrix_is_taken_as_it_is(tmp_path, held):
    path = tmp_path / "w.json"
    path.write_text(json.dumps(held))
    assert np.allclose(mix(Line().edges(3), f"matrix:{path}").matrix(), W)
    assert np.allclose(mix(Full().edges(3), f"matrix:{path}").matrix(), W)


def test_rounded_rows_still_sum_to_one_after_mixing():
    rule = Matrix(np.full((3, 3), 0.3333333))
    assert mix(Full().edges(3), rule).row_stochastic


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([[0.5, 0.4], [0.5, 0.5]], "is not row-stochastic: row 0 sums to 0.9, not 1"),
        ([[1.5, -0.5], [0.5, 0.5]], "must hold numbers >= 0"),
        ([[float("nan"), 1.0], [0.5, 0.5]], "must hold numbers >= 0"),
        ([[0.5, 0.5]], "must be a square matrix"),
        ([1.0], "must be a square matrix"),
    ],
)
def test_what_is_no_mixing_matrix_is_refused(rows, words):
    with pytest.raises(ConfigError, match=words):
        Matrix(np.array(rows))


def test_gossip_refuses_a_matrix_of_another_graph_before_a_run():
    Gossip(Line(), weights=Matrix(np.array(W))).check(3)
    with pytest.raises(ConfigError, match="3 rows, but there are 4 peers"):
        Gossip(Line(), weights=Matrix(np.array(W))).check(4)
    with pytest.raises(ConfigError, match="peer 0 takes from peer 2, which the topology does not link"):
        Gossip(Line(), weights=Matrix(np.full((3, 3), 1 / 3))).check(3)


@pytest.mark.parametrize("text", ["{", '{"other": 1}', '"w"', "[[1], [1, 2]]"])
def test_files_without_a_matrix_are_refused(tmp_path, text):
    path = tmp_path / "w.json"
    path.write_text(text)
    with pytest.raises(ConfigError, match="holds no matrix"):
        make("weights", f"matrix:{path}")
