"""The examples run, as recipes do."""

from pathlib import Path

import pytest

from hubless.catalogue import find
from hubless.claims import Result
from hubless.testing import check_merge, check_recipe

EXAMPLES = sorted((Path(__file__).parents[2] / "examples").glob("*.py"))


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_every_example(path):
    assert path.read_text().count("\n") < 70
    check_recipe(find(path).load())


def test_the_nearest_withstand_what_the_mean_does_not():
    recipe = find(EXAMPLES[[path.stem for path in EXAMPLES].index("nearest_gossip")]).load()
    check_merge(recipe.build({}, "tiny").merge)
    given = dict(attack="sign-flip:2+5:10", peers=8, rounds=12, threads=1, evaluate=12)
    reached = {}
    for share in (0.6, 1.0):  # the second is the mean
        run = recipe.build({**given, "share": share})
        reached[share] = Result(recipe.name, {}, list(run.records())).final("accuracy")
    assert reached[0.6] > reached[1.0] + 0.3, reached
