import numpy as np
import pytest
import torch

from hubless.data.dataset import Dataset
from hubless.errors import ConfigError
from hubless.learn.teaching.topics import Topics, gathered


def topic(number, windows):
    x = np.full((windows, 4), number, np.int64) * 1000 + np.arange(windows)[:, None]
    return Dataset(f"topic {number}", x, x + 1, x[:5] + 500, x[:5] + 501, (), "language")


TOPICS = {"json": topic(1, 30), "csv": topic(2, 20)}


def workload(peers=4, samples=16, apart=3):
    sizes = tuple(map(len, TOPICS.values()))
    return Topics(gathered(TOPICS, 2), "iid", peers, "byte-transformer", samples, sizes=sizes, apart=apart)


def test_every_peer_holds_one_topic_and_nothing_twice():
    shards = workload().shards(0)
    seen = []
    for peer in range(4):
        own, held = shards.own(peer)[0], shards.held(peer)[0]
        assert (len(own), len(held)) == (4, 3)
        assert set((torch.cat([own, held]) // 1000).unique().tolist()) == {1 + peer % 2}
        seen += torch.cat([own, held])[:, 0].tolist()
    assert len(set(seen)) == len(seen)
    assert shards.classes.tolist() == [[4, 0], [0, 4], [4, 0], [0, 4]]
    assert shards.counts() == shards.classes.tolist()


def test_shares_depend_on_the_seed_only():
    first, again, other = (workload().shards(seed).own(1)[0] for seed in (3, 3, 4))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_the_test_set_has_windows_of_every_topic():
    data = gathered(TOPICS, 2)
    assert data.classes == ("json", "csv")
    assert data.outputs > 2000
    assert sorted(data.test_x[:, 0] // 1000) == [1, 1, 2, 2]
    assert len(gathered(TOPICS, 99).test_x) == 10


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"samples": 3}, "samples = 3: must be at least one for each of 4 peers"),
        ({"samples": 60}, "samples = 60: json has 30 windows, too few for 15 and 3 held out"),
    ],
)
def test_too_little(options, words):
    with pytest.raises(ConfigError, match=words):
        workload(**options).shards(0)
