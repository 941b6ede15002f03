import importlib
import subprocess
import sys
from pathlib import Path
from typing import get_args

import pytest

from hubless import catalogue
from hubless.cli import new
from hubless.run.folder import RunFolder


def python(*words):
    return subprocess.run([sys.executable, "-W", "error", "-m", *words], capture_output=True, text=True, check=False)


def run_its_test(path):
    tested = python("pytest", "-q", "-p", "no:cacheprovider", str(path))
    assert tested.returncode == 0, tested.stdout + tested.stderr


@pytest.mark.parametrize("kind", get_args(new.Kind))
def test_a_part_works_at_once(hubless, kind):
    code, out, _ = hubless("new", "part", f"slow-{kind}", "--kind", kind)
    assert code == 0
    assert f"'import slow_{kind}' takes --{kind} slow-{kind}" in out
    run_its_test(f"test_slow_{kind}.py")


@pytest.mark.skipif(not (new.TEMPLATES / "recipe.py.txt").exists(), reason="written last")
def test_a_recipe_works_at_once(hubless):
    code, out, _ = hubless("new", "recipe", "slow-gossip", "--into", "mine")
    assert code == 0
    assert "now: hubless run ./mine/slow_gossip.py --preset tiny" in out
    entry = catalogue.find("./mine/slow_gossip.py")
    assert entry.name == "slow-gossip"
    assert entry.statements
    code, _, err = hubless("run", "./mine/slow_gossip.py", "--preset", "tiny", "--out", "here", "--quiet")
    assert (code, err) == (0, "")
    assert RunFolder.open("here").finished
    run_its_test("mine/test_slow_gossip.py")


def test_the_skeletons_are_clean(hubless):
    for kind in get_args(new.Kind):
        new.write(kind, f"slow-{kind}", Path())
    if (new.TEMPLATES / "recipe.py.txt").exists():
        new.write("recipe", "slow-gossip", Path())
    for words in (("check",), ("format", "--check", "--diff")):
        done = python(
            "ruff", *words, "--config", str(Path(__file__).parents[2] / "pyproject.toml"), "--ignore", "D1", "."
        )
        assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        ("part slow", "--kind is needed for a part"),
        ("recipe slow --kind merge", "--kind is needed for a part"),
        ("recipe Slow_Gossip", "lower-case words"),
        ("recipe class", "lower-case words"),
        ("recipe ../up", "lower-case words"),
        ("part slow --kind colour", "--kind"),
        ("thing slow", "'thing'"),
    ],
)
def test_bad_input(hubless, tmp_path, words, complaint):
    code, _, err = hubless("new", *words.split())
    assert code == 2
    assert complaint in err
    assert not list(tmp_path.iterdir())


def test_nothing_is_overwritten(hubless):
    Path("test_slow.py").write_text("mine")
    code, _, err = hubless("new", "part", "slow", "--kind", "merge")
    assert (code, err) == (2, "error: test_slow.py exists already\n")
    assert not Path("slow.py").exists()


def test_every_template_is_reached():
    found = {path.name for path in new.TEMPLATES.iterdir() if path.suffix == ".txt"}
    kinds = {*get_args(new.Kind), "recipe"}
    assert found <= {f"{prefix}{kind}.py.txt" for kind in kinds for prefix in ("", "test_")}
    assert importlib.util.find_spec("hubless.cli.new")
