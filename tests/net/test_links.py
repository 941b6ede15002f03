import numpy as np
import pytest

from hubless.errors import ConfigError
from hubless.net.links import Links


def test_spec():
    assert Links.of("50:20") == Links(50, 20)
    assert Links.of("5:100:spread=0.5:samples_per_second=10", seed=3) == Links(5, 100, 10, 0.5, 3)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("50", "must be LATENCY:BANDWIDTH"),
        ("fast:20", "latency_ms = 'fast' must be a number"),
        ("50:0", "bandwidth_mbit = 0 must be positive"),
        ("-1:5", "latency_ms = -1 must be 0 or more"),
        ("50:inf", "bandwidth_mbit = inf"),
        ("50:nan", "bandwidth_mbit = nan"),
        ("50:20:spred=1", "did you mean 'spread'"),
        ("50:20:7", "unknown value '7'"),
        ("50:20:spread=", "spread = '' must be a number"),
    ],
)
def test_bad_specs(text, message):
    with pytest.raises(ConfigError, match=message) as caught:
        Links.of(text, where="dsgd.links")
    assert str(caught.value).startswith("dsgd.links: ")


def test_training_by_hand():
    seconds = Links(samples_per_second=100).train_time([100, 0, 50], [1, 1, 4])
    assert seconds.tolist() == [1, 0, 2]


def test_exchange_by_hand():
    links = Links(latency_ms=100, bandwidth_mbit=8)  # a megabyte a second
    assert links.exchange_time([0, 1], [1, 0], 1_000_000) == pytest.approx(1.1)  # both ways at once
    assert links.exchange_time([1, 2, 3], [0, 0, 0], 1_000_000) == pytest.approx(3.1)  # a hub takes its turns
    assert links.exchange_time([1, 2], [0, 0], [500_000, 250_000]) == pytest.approx(0.85)
    assert links.exchange_time([1, 2, 2], [1, 2, 1], [9e9, 9e9, 0]) == pytest.approx(0.1)  # own messages are free
    assert links.exchange_time([1], [1], 9e9) == 0
    assert links.exchange_time([], [], 5) == 0


def test_spread_is_log_normal_and_keyed():
    links = Links(samples_per_second=1, spread=0.5, seed=1)
    seconds = links.train_time(np.ones(4000))
    assert np.log(seconds).mean() == pytest.approx(0, abs=0.03)
    assert np.log(seconds).std() == pytest.approx(0.5, abs=0.03)
    assert np.array_equal(links.train_time(np.ones(10)), seconds[:10])  # a peer keeps its speed in any company
    assert not np.array_equal(Links(samples_per_second=1, spread=0.5, seed=2).train_time(np.ones(10)), seconds[:10])
    assert links.exchange_time([0], [1], 1e6) != links.exchange_time([2], [3], 1e6)
