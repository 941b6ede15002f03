"""Every recipe of the catalogue keeps the contract of recipes, at its preset ``tiny``."""

import pytest

from hubless.catalogue import entries
from hubless.testing import check_recipe


@pytest.mark.parametrize(
    "entry", [entry for entry in entries() if entry.family != "plugin"], ids=lambda entry: entry.name
)
def test_every_recipe(entry):
    check_recipe(entry.load())
