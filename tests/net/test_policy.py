"""Waits and limits are positive, and a peer is suspect before it is dead."""

import pytest

from hubless.errors import ConfigError
from hubless.net.policy import Limits, Timeouts


@pytest.mark.parametrize(("policy", "name"), [(Timeouts, "request"), (Timeouts, "dial"), (Limits, "frame")])
def test_a_wait_or_a_limit_of_nothing_is_refused(policy, name):
    with pytest.raises(ConfigError, match=rf"{name} = 0: must be positive"):
        policy(**{name: 0})


def test_dead_comes_after_suspect():
    with pytest.raises(ConfigError, match=r"timeouts.dead = 3: must be more than timeouts.suspect = 5"):
        Timeouts(dead=3)
