"""storage: bad options, and what the tiny run shows."""

import math

import pytest

from hubless.catalogue import find
from hubless.errors import ConfigError

TINY = dict(stages="A", engines="work,tangle", seconds=20.0, threads=1)


def storage():
    return find("storage").load()


@pytest.mark.parametrize(
    ("option", "value", "said"),
    [
        ("stages", "BA", "each once and in that order"),
        ("stages", "", "each once and in that order"),
        ("engines", "tangel", "did you mean 'tangle'"),
        ("engines", "work,work", "each at most once"),
        ("latencies", "0.1,x", "must be numbers"),
        ("latencies", "1,0.1", "rising"),
        ("rates", "0", "must be numbers"),
        ("sizes", "1", "must be numbers"),
        ("suite", "sha-256", "allowed: blake2b-256, sha256"),
        ("copies", 99, "at most peers"),
        ("faulty", 6, "must leave two"),
        ("peers", 3, "greater than or equal to 4"),
        ("tips", "random", "'uniform' or 'walk'"),
    ],
)
def test_options_that_cannot_work_are_refused(option, value, said):
    with pytest.raises(ConfigError, match=f"storage.{option}.*{said}"):
        storage().build({option: value}, "tiny")


def test_loads_show_the_engines_beside_each_other():
    records = list(storage().build(TINY, "tiny").records())
    end = records[-1].metrics
    assert end["rate_tangle_1s_1"] > end["rate_work_1s_1"]
    assert end["stale_work_1s_1"] > end["stale_work_0.1s_1"]
    assert all(math.isfinite(value) for value in end.values())
    titles = [record.data["title"] for record in records if record.kind == "figure"]
    assert any("finality" in title for title in titles)
    assert any("Trade-offs" in title for title in titles)


@pytest.mark.parametrize("options", [dict(tips="walk"), dict(suite="sha3-256"), dict(depth=2, bits=10)])
def test_engines_follow_their_options(options):
    plain = list(storage().build(TINY, "tiny").records())[-1].metrics
    other = list(storage().build({**TINY, **options}, "tiny").records())[-1].metrics
    assert plain != other
