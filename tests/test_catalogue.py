import json
import subprocess
import sys
from pathlib import Path

import pytest

from hubless import catalogue
from hubless.errors import ConfigError
from hubless.recipe import Recipe

TOY = Path(__file__).parent / "cli" / "toy.py"
OWN = [entry for entry in catalogue.entries() if entry.family != "plugin"]


def described(schema):
    return [(o.name, o.allowed, o.default, o.help, o.house) for o in schema.options.values()]


def write(path, text):
    path.write_text("from hubless.recipe import recipe\n" + text)
    return path


@pytest.mark.parametrize("entry", [*OWN, catalogue.find(TOY)], ids=lambda entry: entry.name)
def test_what_is_read_equals_what_is_loaded(entry):
    loaded = entry.load()
    assert isinstance(loaded, Recipe)
    assert described(entry.schema()) == described(loaded)
    assert entry.schema().doc == loaded.doc
    assert (entry.name, entry.system, entry.presets) == (loaded.name, loaded.system, loaded.presets)
    assert [s.text for s in entry.statements] == [claim.statement for claim in loaded.claims]
    assert [s.paper for s in entry.statements] == [claim.paper for claim in loaded.claims]
    assert entry.schema().validate({}) == loaded.validate({})


@pytest.mark.parametrize("entry", OWN, ids=lambda entry: entry.name)
def test_a_recipe_of_the_house_has_what_the_command_line_and_the_docs_need(entry):
    assert entry.summary
    assert entry.path.stem.replace("_", "-") == entry.name
    assert all(option.help for option in entry.schema().options.values()), "every option has a help text"
    for preset in entry.presets:
        entry.resolve({}, preset)
    verbs = {"preset", "out", "resume", "track", "quiet", "help", "seeds", "metric", "jobs"}
    assert not verbs & set(entry.schema().options), "options of the command line itself"


def test_names_are_unique():
    names = [entry.name for entry in catalogue.entries()]
    assert len(names) == len(set(names))


def test_a_file_is_read_without_being_run(tmp_path):
    path = tmp_path / "loud.py"
    path.write_text('"""Loud."""\nraise SystemExit\n@recipe()\ndef loud(n: Count = 2): ...\n')
    entry = catalogue.find(str(path))
    assert (entry.name, entry.family, entry.summary, entry.system) == ("loud", "file", "Loud.", None)
    assert entry.schema().options["n"].allowed == "integer >= 1"
    assert entry.presets == {}
    assert entry.statements == []


def test_a_file_keeps_its_module_name(tmp_path):
    first = catalogue.find(TOY).load()
    assert catalogue.find(str(TOY)).load() is first
    script = "import sys; from hubless import catalogue; print(catalogue.find(sys.argv[1]).load().__module__)"
    other = subprocess.run([sys.executable, "-c", script, TOY], capture_output=True, text=True, check=True)
    assert other.stdout.strip() == first.__module__


def test_a_file_that_fails_to_load_is_forgotten(tmp_path):
    path = write(tmp_path / "once.py", "import nothing_like_this\n@recipe()\ndef once(n: int = 2): ...\n")
    with pytest.raises(ModuleNotFoundError):
        catalogue.find(path).load()
    assert not [name for name in sys.modules if "once" in name and name.startswith("hubless_file")]


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("def f(: ...", r"bad\.py:2: this is not Python"),
        ("def f(): ...", "this one has 0"),
        ("@recipe()\ndef a(): ...\n@recipe()\ndef b(): ...", "this one has 2"),
    ],
)
def test_a_file_that_is_no_recipe(tmp_path, text, complaint):
    with pytest.raises(ConfigError, match=complaint):
        catalogue.find(write(tmp_path / "bad.py", text))


def test_a_signature_with_a_foreign_name(tmp_path):
    path = write(tmp_path / "foreign.py", "import torch\n@recipe()\ndef foreign(x: torch.Tensor = None): ...")
    with pytest.raises(ConfigError, match=r"'torch' is not defined; a recipe's signature"):
        catalogue.find(path).schema()


def test_presets_that_need_the_module(tmp_path):
    path = write(tmp_path / "made.py", "@recipe()\ndef made(n: int = 2): ...\npresets = make()")
    with pytest.raises(ConfigError, match="plain dicts"):
        _ = catalogue.find(path).presets


def test_a_broken_neighbour_does_no_harm(tmp_path, monkeypatch):
    family = tmp_path / "learning"
    family.mkdir()
    write(family / "good_one.py", "@recipe()\ndef good_one(n: int = 2): ...\n")
    write(family / "broken.py", "def half(")
    monkeypatch.setattr(catalogue, "FAMILIES", tmp_path)
    assert catalogue.find("good-one").family == "learning"
    with pytest.raises(ConfigError, match=r"broken\.py:2"):
        catalogue.find("broken")


def test_unknown_names():
    with pytest.raises(ConfigError, match=r"unknown recipe 'nothing.such'; .*allowed"):
        catalogue.find("nothing_such")
    with pytest.raises(ConfigError, match=r"unknown recipe '\*'"):
        catalogue.find("*")
    with pytest.raises(ConfigError, match="no recipe file"):
        catalogue.find("./nothing.py")
    with pytest.raises(ConfigError, match=r"toy: unknown preset 'tny'; did you mean 'tiny'"):
        catalogue.find(TOY).resolve({}, "tny")


def test_another_package_adds_a_recipe(tmp_path, monkeypatch):
    meta = tmp_path / "plug-1.0.dist-info"
    meta.mkdir()
    (meta / "METADATA").write_text("Metadata-Version: 2.1\nName: plug\nVersion: 1.0\n")
    (meta / "entry_points.txt").write_text(
        "[hubless.recipes]\nplugged = plugged_module:toy\nwrong = plugged_module:Climb\n"
    )
    (tmp_path / "plugged_module.py").write_text(TOY.read_text())
    monkeypatch.syspath_prepend(tmp_path)
    entry = catalogue.find("plugged")
    assert entry.family == "plugin"
    assert entry.summary == "from plugged_module:toy"
    assert "plugged_module" not in sys.modules
    assert entry.schema().options["skill"].default == 0.5
    assert entry.presets["tiny"] == {"rounds": 1, "skill": 0.25}
    assert entry.summary == "Toy: a recipe without tensors, whose accuracy climbs to its skill."
    with pytest.raises(ConfigError, match="not a function under @recipe"):
        catalogue.find("wrong").load()


def test_the_results_table_that_ships_is_readable():
    from hubless.cli import results

    table = results.read()
    if results.FILE.exists():
        assert json.loads(results.FILE.read_text())
    assert set(table) <= {entry.name for entry in OWN}
