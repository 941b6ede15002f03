from collections.abc import Iterator

import pytest
import walk


@pytest.fixture(autouse=True)
def no_hurdles() -> Iterator[None]:
    yield
    walk.hurdles.clear()
