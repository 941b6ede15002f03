"""The verb that runs one peer: what it refuses, and that its names stay its own."""

import inspect

import pytest

from hubless import catalogue
from hubless.cli import deploy, node

SMALL = ("--recipe", "dsgd", "--preset", "tiny", "--peers", "3", "--topology", "full")
KEY = "ab" * 32


@pytest.mark.parametrize(
    ("words", "error"),
    [
        (["--peer", "0"], "node takes --recipe NAME, or --config"),
        ([*SMALL, "--peer", "x"], "peer = 'x': must be the number of a peer"),
        ([*SMALL, "--peer", "3"], "peer = 3: the peers are 0 to 2"),
        ([*SMALL, "--peer", "0,1"], "peer = 0, 1: a node is one peer"),
        ([*SMALL, "--peer", "0", "--join", "127.0.0.1:7"], "join = '127.0.0.1:7': must be KEY@HOST:PORT"),
        ([*SMALL, "--peer", "0", "--watch", "short@127.0.0.1:7"], "watch = 'short@127.0.0.1:7': must be"),
        ([*SMALL, "--peer", "0", "--listen", "here"], "listen = 'here': must be HOST:PORT"),
        ([*SMALL, "--peer", "0", "--log", "loud"], "log = 'loud': must be debug, info"),
        ([*SMALL, "--peer", "0", "--grace", "0"], "pace.grace = 0"),
        ([*SMALL, "--peer", "0", "--lr", "-1"], "dsgd.lr = '-1' must be greater"),
        ([*SMALL, "--peer", "0", "--faults", "crash:1@2"], "faults = "),
        (["--config", "nothing.json", "--peer", "0"], "nothing.json is not the config.json of a run"),
    ],
)
def test_bad_options_are_refused_by_name(hubless, words, error):
    code, out, err = hubless("node", *words)
    assert code == 2
    assert err.startswith(f"error: {error}"), err
    assert not out


def test_a_key_file_that_others_can_read_is_refused(hubless, tmp_path):
    path = tmp_path / "key"
    path.write_text(KEY)
    path.chmod(0o644)
    code, _, err = hubless("node", *SMALL, "--peer", "0", "--key", path)
    assert code == 2
    assert "key" in err


@pytest.mark.parametrize("verb", [node.node, deploy.deploy])
def test_no_recipe_has_an_option_of_that_name(verb):
    own = set(inspect.signature(verb).parameters) - {"context", "recipe"}
    for entry in catalogue.entries():
        assert not own & set(entry.schema().options), entry.name
