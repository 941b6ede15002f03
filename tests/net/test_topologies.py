import re

import networkx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hubless.errors import ConfigError
from hubless.net.edges import Edges
from hubless.net.topologies import (
    BarabasiAlbert,
    ErdosRenyi,
    Exponential,
    Full,
    Grid,
    Line,
    OnePeerExponential,
    RandomMatching,
    RandomRate,
    RandomRegular,
    Ring,
    Sequence,
    SmallWorld,
    Star,
    Topology,
    Tree,
)
from hubless.parts import make, parts
from hubless.testing.net import check_topology

# Only those that need values; any other registered topology is made from its name alone.
VALUES = {"erdos-renyi": "erdos-renyi:0.4", "random-rate": "random-rate:0.2"}


@pytest.fixture
def edge_file(tmp_path):
    path = tmp_path / "ring.txt"
    path.write_text("# a ring\n" + "".join(f"{i} {(i + 1) % 16}  # link\n" for i in range(16)) + "\n")
    return path


@pytest.mark.parametrize("name", parts("topology"))
def test_contract(name, edge_file):
    if name == "sequence":
        subject = Sequence((Ring(), "one-peer-exponential", "full"))
    elif name == "edges":
        subject = make("topology", f"edges:{edge_file}")
        with pytest.raises(ConfigError, match="no peer"):
            subject.edges(8)
    else:
        subject = make("topology", VALUES.get(name, name))
    check_topology(subject)


@pytest.mark.parametrize("text", ["grid:torus=true", "tree:3", "small-world:k=6:rewire=0.5", "random-rate:3.5"])
def test_contract_with_values(text):
    check_topology(text)


@pytest.mark.parametrize(
    ("topology", "reference"),
    [
        (Ring(), networkx.cycle_graph(12)),
        (Line(), networkx.path_graph(12)),
        (Grid(), networkx.grid_2d_graph(3, 4)),
        (Grid(torus=True), networkx.grid_2d_graph(3, 4, periodic=True)),
        (Full(), networkx.complete_graph(12)),
        (Star(), networkx.star_graph(11)),
        (Tree(3), networkx.full_rary_tree(3, 12)),
    ],
)
def test_same_as_networkx(topology, reference):
    assert networkx.is_isomorphic(topology.edges(12).graph(), reference)


@given(st.integers(2, 40), st.integers(1, 39), st.integers(0, 5))
def test_random_regular(n, degree, seed):
    topology = RandomRegular(degree)
    if degree >= n or n * degree % 2 or (degree == 1 and n > 2):
        with pytest.raises(ConfigError):
            topology.check(n)
        return
    edges = topology.edges(n, seed=seed)
    assert np.all(edges.degree == degree)
    assert edges.symmetric
    assert edges.connected


@given(st.integers(1, 60))
def test_grid_takes_any_number(n):
    Grid().check(n)
    edges = Grid().edges(n)
    assert edges.degree.max() <= 4


@given(st.integers(2, 70))
def test_one_peer_takes_the_hops_of_exponential_in_turn(n):
    topology = OnePeerExponential()
    period = topology.period(n)
    assert period == int(np.ceil(np.log2(n)))
    rounds = [topology.edges(n, t) for t in range(period)]
    assert all(np.all(e.degree == 1) and np.all(e.out_degree == 1) for e in rounds)
    union = Edges.of(n, np.concatenate([e.src for e in rounds]), np.concatenate([e.dst for e in rounds]), both=False)
    assert union == Exponential().edges(n)


def test_random_rate_pulls_as_often_as_it_says():
    for r in (0.2, 1.0, 3.5, 40.25):
        counts = np.array([RandomRate(r).edges(60, t).degree for t in range(200)])
        assert counts.min() >= int(r)
        assert counts.max() <= int(r) + 1
        assert abs(counts.mean() - r) < 0.02


def test_random_rate_is_uniform_over_the_others():
    heard = np.zeros((8, 8))
    for t in range(3000):
        edges = RandomRate(2.5).edges(8, t)
        heard[edges.dst, edges.src] += 1
    others = heard[~np.eye(8, dtype=bool)] / 3000
    assert np.all(np.diag(heard) == 0)
    assert np.allclose(others, 2.5 / 7, atol=0.05)


def test_random_rate_of_everyone_is_full():
    assert RandomRate(6).period(7) == 1
    assert RandomRate(6).edges(7) == Full().edges(7)


@pytest.mark.parametrize("n", [7, 8])
def test_matching_leaves_at_most_one_alone(n):
    edges = RandomMatching().edges(n, 3)
    assert edges.symmetric
    assert sorted(edges.degree)[n % 2 :] == [1] * (n - n % 2)
    assert edges != RandomMatching().edges(n, 4)
    assert edges != RandomMatching().edges(n, 3, seed=1)


def test_erdos_renyi_density():
    edges = ErdosRenyi(0.3).edges(300)
    assert abs(len(edges) / (300 * 299) - 0.3) < 0.01
    assert abs(edges.degree[:30].mean() - edges.degree[-30:].mean()) < 12
    assert ErdosRenyi(1.0).edges(9) == Full().edges(9)


def test_barabasi_albert_has_hubs():
    edges = BarabasiAlbert(2).edges(400)
    assert len(edges) == 2 * (400 - 2) * 2
    assert edges.degree.max() > 5 * np.median(edges.degree)


def test_seed_changes_a_random_graph_only():
    for topology in (RandomRegular(4), ErdosRenyi(0.4), SmallWorld(), BarabasiAlbert()):
        assert topology.edges(30, seed=1) != topology.edges(30, seed=2)
        assert topology.edges(30, 0, 1) == topology.edges(30, 9, 1)
    assert Ring().edges(30, seed=1) == Ring().edges(30, seed=2)


def test_sequence_takes_turns():
    sequence = Sequence((Ring(), OnePeerExponential()))
    assert sequence.period(8) == 6
    assert sequence.edges(8, 4) == Ring().edges(8)
    assert [sequence.edges(8, t) for t in (1, 3, 5, 7)] == [OnePeerExponential().edges(8, t) for t in (0, 1, 2, 0)]
    assert Sequence((Ring(), RandomMatching())).period(8) is None
    assert str(sequence) == "sequence of ring, one-peer-exponential"


def test_components():
    edges = Edges.of(6, [0, 1, 3], [1, 2, 4])
    labels = edges.components()
    assert len(set(labels)) == 3
    assert labels[0] == labels[1] == labels[2]
    assert not edges.connected
    one_way = Edges.of(3, [0, 1], [1, 2], both=False)
    assert not one_way.connected
    assert not one_way.symmetric
    assert one_way.degree.tolist() == [0, 1, 1]
    assert one_way.starts.tolist() == [0, 0, 1, 2]


def test_edges_drop_loops_and_repetitions():
    edges = Edges.of(3, [0, 1, 1, 2], [1, 0, 1, 0])
    assert edges.src.tolist() == [1, 2, 0, 0]
    assert edges.dst.tolist() == [0, 0, 1, 2]


@pytest.mark.parametrize(
    ("text", "n", "message"),
    [
        ("random-regular:8", 8, r"dsgd\.topology: random-regular:degree=8 with 8 peers: degree must be below .* 8"),
        ("random-regular:3", 9, "peers times degree must be even"),
        ("random-regular:1", 8, "at least 2"),
        ("small-world:3", 9, "k must be even"),
        ("barabasi-albert:9", 9, "m must be below"),
        ("random-rate:9", 9, "at most the number of others, 8"),
        ("grid:torus=true", 13, "no rectangle; try 12 or 14"),
        ("erdos-renyi:0.01", 20, r"none of 100 draws was connected; p must be above about ln\(n\) / n = 0.15"),
        ("ring", 0, "at least 1 peer, not 0"),
    ],
)
def test_refusals(text, n, message):
    with pytest.raises(ConfigError, match=message):
        make("topology", text).check(n, "dsgd.topology")


@pytest.mark.parametrize("text", ["rign", "erdos-renyi", "erdos-renyi:1.5", "random-rate:0", "tree:0", "sequence:ring"])
def test_bad_specs(text):
    with pytest.raises(ConfigError):
        make("topology", text)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("0 1\n1 2\n2\n", "line 3: '2' is not two peer ids"),
        ("0 1 0.5\n", "line 1: '0 1 0.5' is not two peer ids"),
        ("# head\n0 x\n", "line 2: '0 x'"),
        ("0 1\n1 4\n", "line 2: no peer 4; the 4 peers are 0 to 3"),
        ("0 -1\n", "no peer -1"),
        ("0 1\n2 2\n", "line 2: an edge from peer 2 to itself"),
        ("# nothing\n", "the file has no edges"),
        ("0 1\n2 3\n", "topology: edges:.* is not connected: it falls into 2 components"),
    ],
)
def test_bad_edge_files(tmp_path, content, message):
    path = tmp_path / "edges.txt"
    path.write_text(content)
    with pytest.raises(ConfigError, match=message) as caught:
        make("topology", f"edges:{path}").check(4)
    assert re.search(r"edges\.txt", str(caught.value))
    assert "\n" not in str(caught.value)


def test_edge_file_may_be_directed_and_must_exist(tmp_path):
    path = tmp_path / "edges.txt"
    path.write_text("0 1\n1 2\n2 0\n")
    edges = make("topology", f"edges:{path}:directed=true").edges(3)
    assert edges.src.tolist() == [2, 0, 1]
    assert edges.connected
    with pytest.raises(ConfigError, match="cannot read the edge list"):
        make("topology", f"edges:{tmp_path}/none.txt").check(3)


def test_check_topology_tells_what_is_wrong():
    class Shared(Topology):
        def __init__(self):
            self.calls = 0

        def _edges(self, n, t, seed):
            self.calls += 1
            return Edges.of(n, np.arange(n - 1), np.arange(1, n)) if self.calls % 2 else Full().edges(n)

        def __str__(self):
            return "shared"

    with pytest.raises(AssertionError, match=r"keyed\.generator"):
        check_topology(Shared())
