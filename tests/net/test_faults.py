import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hubless.errors import ConfigError
from hubless.net.faults import Event, Faults, parse
from hubless.net.topologies import BarabasiAlbert, Full, Ring, Star
from hubless.testing.net import check_faults

BUSY = (
    "crash:30%@20,partition:2@30-40,loss:0.1,straggler:10%x5@5-,leave:3@10,join:5@20,link-loss:20%@10-15,"
    "data:30%:top-degree@5,crash:aggregator@12, crash: peer=3@4,leave:peer=7+8@2-6,crash:1:betweenness@3"
)


@pytest.mark.parametrize("text", ["", "loss:5%", "crash:50%@3-9", "join:39@50", "straggler:aggregator x2", BUSY])
def test_contract(text):
    check_faults(text)


def test_grammar():
    assert parse("straggler:10%:top-degree x5@5-, crash:peer=3+4@2-6,loss:0.1,link-loss:4,leave:aggregator@7") == (
        Event("straggler", "share", 0.1, (), "top-degree", 5.0, 5, None, "straggler:10%:top-degree x5@5-"),
        Event("crash", "peers", 2.0, (3, 4), "random", 1.0, 2, 6, "crash:peer=3+4@2-6"),
        Event("loss", "share", 0.1, (), "random", 1.0, 1, None, "loss:0.1"),
        Event("link-loss", "count", 4.0, (), "random", 1.0, 1, None, "link-loss:4"),
        Event("leave", "aggregator", 1.0, (), "random", 1.0, 7, None, "leave:aggregator@7"),
    )
    assert parse(" ") == ()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("loss:0.1,crsh:3@4", r"dsgd\.faults: 'crsh:3@4' \(character 10\): unknown fault 'crsh'; did you mean 'crash'"),
        ("crash", "KIND:HOWMANY"),
        ("crash:3", "needs a round, as in 'crash:3@20'"),
        ("crash:3@x", "'x' must be a round"),
        ("crash:3@0", "rounds count from 1"),
        ("partition:2@5-3", "TO = 3 comes before FROM = 5"),
        ("crash:101%@2", "between 0 and 100%"),
        ("crash:-5%@2", "between 0 and 100%"),
        ("crash:0@2", "must be a number of peers"),
        ("crash:1.5@2", "must be a number of peers"),
        ("loss:1.5", "between 0 and 1"),
        ("loss:nan", "between 0 and 1"),
        ("loss:often", "must be a probability"),
        ("partition:1@3", "number of groups, at least 2"),
        ("partition:50%@3", "number of groups"),
        ("link-loss:aggregator@3", "number of links"),
        ("crash:3:topdegree@3", "did you mean 'top-degree'"),
        ("loss:0.1:random", "no choice"),
        ("crash:peer=1:random@3", "no choice"),
        ("crash:peer=a@3", "named as 'peer=3'"),
        ("crash:peer=1+1@3", "named twice"),
        ("crash:3x5@3", "only 'straggler' takes a factor"),
        ("straggler:3@3", "how many times slower"),
        ("straggler:3x0.5@3", "at least 1"),
        ("join:3@1", "FROM must be at least 2"),
        ("join:3@4-5", "not an interval"),
        ("data:3@4-5", "not an interval"),
        ("partition:2@3-9,partition:3@9", "one partition at a time"),
        ("crash:peer=3@2,leave:peer=3@5", "peer 3 is already gone"),
        ("crash:3@2,", "unknown fault ''"),
    ],
)
def test_bad_grammar(text, message):
    with pytest.raises(ConfigError, match=message) as caught:
        parse(text, "dsgd.faults")
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith("dsgd.faults: ")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("crash:100%@3", "no peer is left in round 3"),
        ("crash:8@3,crash:2@9", "no peer is left in round 9"),
        ("crash:9@3,crash:aggregator@9", "no peer is left in round 9"),
        ("crash:8@3,crash:3@9", "only 2 of 10 are left to take"),
        ("join:10@4", "no peer is left in round 1"),
        ("data:100%@3", "no peer has data left in round 3"),
        ("data:peer=0+1+2+3+4@2,crash:peer=5+6+7+8+9@7", "nobody who is left in round 7 has data"),
        ("crash:peer=10@3", "no peer 10; the 10 peers are 0 to 9"),
        ("partition:11@3", "10 peers make no 11 groups"),
        ("crash:3:top-degree@3", "needs a topology"),
        ("link-loss:3@3", "needs a topology"),
    ],
)
def test_impossible_for_ten_peers(text, message):
    with pytest.raises(ConfigError, match=message):
        Faults.of(text, n=10)


def test_unknown_aggregators_count_as_one_more_gone():
    with pytest.raises(ConfigError, match="no peer is left"):
        Faults.of("crash:9@3,crash:aggregator@9", n=10, aggregator=lambda t: t)
    with pytest.raises(ConfigError, match="only 4 links"):
        Faults.of("link-loss:5", n=5, edges=Star().edges(5))


def test_who_is_alive_when():
    faults = Faults.of("crash:peer=1@3,leave:peer=2@3-4,join:peer=0@5", n=4)
    alive = [faults.at(t).alive.tolist() for t in range(1, 7)]
    here = [False, True, True, True]
    assert alive == [here, here, [0, 0, 0, 1], [0, 0, 0, 1], [1, 0, 1, 1], [1, 0, 1, 1]]
    third, fifth = faults.at(3), faults.at(5)
    assert (third.crashed.tolist(), third.left.tolist(), third.joined.tolist()) == ([1], [2], [])
    assert fifth.joined.tolist() == [0, 2]
    assert third.describe() == ["peer 1 crashes", "peer 2 leaves"]
    assert fifth.describe() == ["peer 2 is back", "peer 0 joins"]
    assert faults.at(4).describe() == []


def test_describe_counts():
    faults = Faults.of("crash:30%@20,partition:2@30-40,loss:0.1,straggler:10%x5@5-6", n=40)
    assert faults.at(1).describe() == ["messages are lost with probability 0.1"]
    assert faults.at(20).describe() == ["12 of 40 peers crash"]
    assert len(faults.at(20).crashed) == 12
    assert faults.at(30).describe() == ["the network falls into 2 groups"]
    assert faults.at(41).describe() == ["the 2 groups meet again"]
    assert faults.at(7).describe() == ["4 of 40 peers are as fast as before"]
    assert sorted(faults.at(5).slow)[-5:] == [1, 5, 5, 5, 5]


def test_events_take_different_peers():
    faults = Faults.of("crash:40%@3,leave:40%@5,crash:peer=0@9", n=20)
    assert faults.at(9).alive.sum() == 20 - 8 - 8 - 1
    again = Faults.of("crash:90%@3-4,crash:90%@5-6", n=20)
    assert again.at(4).alive.sum() == again.at(5).alive.sum() == 2


def test_data_goes_and_peers_stay():
    edges = BarabasiAlbert(2).edges(50)
    weather = Faults.of("data:30%:top-degree@5", n=50, edges=edges).at(5)
    assert weather.alive.all()
    assert (~weather.data).sum() == 15
    assert edges.degree[~weather.data].min() >= edges.degree[weather.data].max()


def test_betweenness_takes_the_bridge():
    faults = Faults.of("crash:1:betweenness@2", n=9, edges=Star().edges(9))
    assert faults.at(2).crashed.tolist() == [0]


def test_aggregator_is_asked_once_and_late():
    asked = []

    def aggregator(t):
        asked.append(t)
        return int(np.flatnonzero(faults.at(t - 1).alive)[-1])

    faults = Faults.of("crash:peer=5@2,crash:aggregator@4", n=6, aggregator=aggregator)
    assert faults.at(3).alive.tolist() == [1, 1, 1, 1, 1, 0]
    assert asked == []
    assert faults.at(6).alive.tolist() == [1, 1, 1, 1, 0, 0]
    assert faults.at(4).describe() == ["the aggregator, peer 4, crashes"]
    assert asked == [4]
    assert Faults.of("crash:aggregator@4", n=6).at(4).crashed.tolist() == [0]


@given(st.integers(2, 30), st.integers(2, 5), st.integers(0, 99))
def test_partition_cuts_exactly_the_cross_links(n, groups, seed):
    if groups > n:
        return
    edges = Full().edges(n)
    faults = Faults.of(f"partition:{groups}@2-3", n=n, seed=seed)
    lost = faults.at(2).lost("gossip", edges.src, edges.dst)
    kept = np.eye(n, dtype=bool)
    kept[edges.dst[~lost], edges.src[~lost]] = True
    assert len({tuple(row) for row in kept}) == groups  # kept links make cliques, one a group
    assert all(np.array_equal(kept[i], kept[j]) for i in range(n) for j in np.flatnonzero(kept[i]))
    sizes = kept.sum(axis=1)
    assert sizes.max() - sizes.min() <= 1
    assert np.array_equal(lost, faults.at(3).lost("gossip", edges.src, edges.dst))
    assert not faults.at(4).lost("gossip", edges.src, edges.dst).any()
    assert not faults.at(4).lossy


@pytest.mark.parametrize(
    ("text", "rate"), [("loss:0.1", 0.1), ("loss:0.1,loss:50%@1-1", 0.55), ("loss:1", 1), ("loss:0", 0)]
)
def test_loss_rate(text, rate):
    edges = Full().edges(150)
    lost = Faults.of(text, n=150, seed=3).at(1).lost("gossip", edges.src, edges.dst)
    assert lost.mean() == pytest.approx(rate, abs=0.01)


def test_losses_are_independent_over_rounds_steps_phases_seeds_and_directions():
    edges = Full().edges(100)
    half = Faults.of("loss:0.5", n=100)
    draws = [
        half.at(1).lost("gossip", edges.src, edges.dst),
        half.at(2).lost("gossip", edges.src, edges.dst),
        half.at(1).lost("gossip", edges.src, edges.dst, k=1),
        half.at(1).lost("down", edges.src, edges.dst),
        half.at(1).lost("gossip", edges.dst, edges.src),
        Faults.of("loss:0.5", n=100, seed=1).at(1).lost("gossip", edges.src, edges.dst),
    ]
    for i, one in enumerate(draws):
        for other in draws[:i]:
            assert abs(np.corrcoef(one, other)[0, 1]) < 0.05


@given(st.integers(0, 100), st.integers(0, 9), st.randoms(use_true_random=False))
def test_losses_do_not_depend_on_order_or_company(seed, t, random):
    edges = Ring().edges(20)
    weather = Faults.of("loss:0.4,link-loss:20%,partition:2@3", n=20, seed=seed, edges=edges).at(t + 1)
    lost = weather.lost("gossip", edges.src, edges.dst)
    some = np.array(random.sample(range(len(edges)), 7))
    assert np.array_equal(weather.lost("gossip", edges.src[some], edges.dst[some]), lost[some])


def test_link_loss_is_exact_on_known_links_and_takes_both_directions():
    edges = Ring().edges(40)
    lost = Faults.of("link-loss:20%", n=40, edges=edges).at(1).lost("gossip", edges.src, edges.dst)
    assert lost.sum() == 2 * 8
    matrix = np.zeros((40, 40), dtype=bool)
    matrix[edges.dst, edges.src] = lost
    assert np.array_equal(matrix, matrix.T)
    three = Faults.of("link-loss:3@2-4", n=40, edges=edges)
    assert [three.at(t).lost("x", edges.src, edges.dst).sum() for t in range(1, 6)] == [0, 6, 6, 6, 0]
    unknown = Full().edges(80)
    assert Faults.of("link-loss:20%", n=80).at(1).lost("x", unknown.src, unknown.dst).mean() == pytest.approx(
        0.2, abs=0.02
    )


def test_seed_and_place_decide():
    def crashed(text, seed=0):
        return Faults.of(text, n=40, seed=seed).at(9).alive.tolist()

    assert crashed("crash:30%@9") == crashed("crash:12@9")
    assert crashed("crash:30%@9") != crashed("crash:30%@9", seed=1)
    assert crashed("crash:30%@9") != crashed("loss:0.1,crash:30%@9")
