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


def test_skeletons_work_at_once(hubless):
    for kind in get_args(new.Kind):
        code, out, _ = hubless("new", "part", f"slow-{kind}", "--kind", kind)
        assert code == 0
        assert f"'import slow_{kind}' takes --{kind} slow-{kind}" in out
    code, out, _ = hubless("new", "recipe", "slow-gossip", "--into", "mine")
    assert code == 0
    assert "now: hubless run ./mine/slow_gossip.py --preset tiny" in out
    tested = python("pytest", "-q", "-p", "no:cacheprovider", ".")
    assert tested.returncode == 0, tested.stdout + tested.stderr
    tests = sum(path.read_text().count("def test_") for path in Path().rglob("test_*.py"))
    assert f"{tests} passed" in tested.stdout


def test_a_new_recipe_runs_and_takes_a_new_part(hubless):
    new.write("recipe", "slow-gossip", Path())
    new.write("topology", "skipping", Path())
    entry = catalogue.find("./slow_gossip.py")
    assert entry.name == "slow-gossip"
    assert entry.statements
    file = Path("slow_gossip.py")
    file.write_text(
        file.read_text().replace("from hubless.recipe", "import skipping  # noqa: F401\nfrom hubless.recipe")
    )
    words = ("run", "./slow_gossip.py", "--preset", "tiny", "--peers", "5", "--topology", "skipping:2")
    code, _, err = hubless(*words, "--out", "here", "--quiet")
    assert (code, err) == (0, "")
    assert RunFolder.open("here").finished
    assert len(RunFolder.open("here").records()[0].data["edges"]) == 10


def test_the_skeletons_are_clean(hubless):
    for kind in ("recipe", *get_args(new.Kind)):
        new.write(kind, f"slow-{kind}", Path())
    settings = Path(__file__).parents[2] / "pyproject.toml"
    for words in (("check", "--ignore", "D1,I001"), ("format", "--check")):  # the order of imports is each project's
        done = python("ruff", *words, "--config", str(settings), ".")
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
    assert found == {f"{prefix}{kind}.py.txt" for kind in kinds for prefix in ("", "test_")}
