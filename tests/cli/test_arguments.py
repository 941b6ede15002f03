from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hubless import catalogue
from hubless.cli import arguments
from hubless.errors import ConfigError

ENTRY = catalogue.find(Path(__file__).parent / "toy.py")
KNOWN = ENTRY.schema().options


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("--skill 0.1", {"skill": "0.1"}),
        ("--skill=0.1 --mode down", {"skill": "0.1", "mode": "down"}),
        ("--weight-decay 1 --seed 3", {"weight_decay": "1", "seed": "3"}),
        ("--weight_decay=-1", {"weight_decay": "-1"}),
        ("--weight-decay -1", {"weight_decay": "-1"}),
        ("--fails --rounds 2", {"fails": True, "rounds": "2"}),
        ("--rounds 2 --fails", {"fails": True, "rounds": "2"}),
        ("--no-fails", {"fails": False}),
        ("--fails false", {"fails": "false"}),
        ("--fails=true", {"fails": "true"}),
        ("--faults= ", {"faults": ""}),
        ("--links a=b", {"links": "a=b"}),
        ("", {}),
    ],
)
def test_options(line, found):
    assert arguments.options("toy", KNOWN, line.split()) == found


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("--skil 1", "toy: unknown option 'skil'; did you mean 'skill'"),
        ("--no-skill", "unknown option 'no-skill'"),
        ("--skill", r"toy.skill: --skill needs a value \(number >= 0, <= 1\)"),
        ("--skill --rounds 2", r"toy.skill: --skill needs a value"),
        ("--skill 1 --skill 1", "toy.skill: given twice"),
        ("-s 1", "'-s' is no option"),
        ("--rounds 2 more", "'more' is no option"),
    ],
)
def test_wrong_options(line, complaint):
    with pytest.raises(ConfigError, match=complaint):
        arguments.options("toy", KNOWN, line.split())


@given(st.dictionaries(st.sampled_from(sorted(set(KNOWN) - {"fails"})), st.text("ab=:,.0-", min_size=1), max_size=5))
def test_both_ways_to_write_an_option_mean_the_same(wanted):
    joined = [f"--{name.replace('_', '-')}={value}" for name, value in wanted.items()]
    assert arguments.options("toy", KNOWN, joined) == wanted
    spaced = [word for name, value in wanted.items() if value[:2] != "--" for word in (f"--{name}", value)]
    assert arguments.options("toy", KNOWN, spaced) == {n: v for n, v in wanted.items() if v[:2] != "--"}
    assert arguments.settings("toy", KNOWN, [f"{name}={value}" for name, value in wanted.items()]) == wanted


def test_settings_need_a_value():
    with pytest.raises(ConfigError, match="'skill' must be written as name=value"):
        arguments.settings("toy", KNOWN, ["skill"])


def test_an_arm_keeps_the_colons_of_its_parts():
    text = f"{ENTRY.path}:links=50:20:k=3:skill=0.1:weight-decay=2"
    label, entry, own = arguments.arm(text)
    assert entry.path == ENTRY.path
    assert own == {"links": "50:20:k=3", "skill": "0.1", "weight_decay": "2"}
    assert label == "toy:links=50:20:k=3:skill=0.1:weight-decay=2"
    with pytest.raises(ConfigError, match="did you mean 'skill'"):
        arguments.arm(f"{ENTRY.path}:skil=0.1")


def test_values_of_a_sweep():
    words = ["--skill", "0.1,0.2", "--mode", "up", "--faults", "a,b", "--faults", "c", "--fails", "--no-fails"]
    found = arguments.values("toy", KNOWN, words)
    expected = {"skill": ["0.1", "0.2"], "mode": ["up"], "faults": ["a,b", "c"], "fails": [True, False]}
    assert found == expected
    with pytest.raises(ConfigError, match="names a value twice"):
        arguments.values("toy", KNOWN, ["--skill", "1,1"])


def test_seeds_start_where_asked():
    assert arguments.seeds(3, {"seed": "5", "skill": "1"}) == (range(5, 8), {"skill": "1"})
    assert arguments.seeds(1, {}) == (range(1), {})
    with pytest.raises(ConfigError, match="seed = '-1'"):
        arguments.seeds(1, {"seed": "-1"})
